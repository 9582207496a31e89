from __future__ import annotations

import pytest

from detector import lease as module
from detector.errors import StoreError, TrainingError
from detector.lease import LEASE_S, Lease
from tests.detector.trainings_at_work import Clock, MemoryRoom, until


@pytest.fixture
def room() -> MemoryRoom:
    return MemoryRoom()


@pytest.fixture
def clock() -> Clock:
    return Clock()


def held(room: MemoryRoom, clock: Clock) -> Lease:
    lease = Lease(room, clock)
    assert not lease.take(), "a claim is looked at again before it is believed"
    assert lease.take()
    return lease


def test_a_lease_that_nobody_has_is_taken_at_the_second_look(room: MemoryRoom, clock: Clock) -> None:
    held(room, clock).require()


def test_of_two_that_claim_it_in_the_same_moment_one_has_it(room: MemoryRoom, clock: Clock) -> None:
    first, second = Lease(room, clock), Lease(room, clock)
    read, room.files = dict(room.files), {}
    assert not first.take()
    room.files = read  # the second looked before the first had written
    assert not second.take()
    assert [first.take(), second.take()] == [False, True]


def test_a_lease_that_is_renewed_is_never_taken(room: MemoryRoom, clock: Clock) -> None:
    lease, other = held(room, clock), Lease(room, clock)
    for _ in range(100):
        clock.now += LEASE_S - 1
        lease.renew()
        assert not other.take()
    lease.require()


def test_a_lease_that_has_not_changed_for_long_is_taken_whatever_its_holder_thinks_of_the_time(
    room: MemoryRoom, clock: Clock
) -> None:
    lease, other = held(room, Clock()), Lease(room, clock)
    assert not other.take()
    clock.now += LEASE_S - 0.1
    assert not other.take()
    lease.require()
    clock.now += 0.1
    assert not other.take()
    assert other.take()
    with pytest.raises(TrainingError, match="taken by another"):
        lease.require()
    with pytest.raises(TrainingError):
        lease.renew()
    other.require()


def test_a_lease_that_cannot_be_read_is_free_when_it_does_not_change(room: MemoryRoom, clock: Clock) -> None:
    room.files["lease.json"] = b"half of it"
    lease = Lease(room, clock)
    assert not lease.take()
    clock.now += LEASE_S
    assert not lease.take()
    assert lease.take()


def test_it_is_given_back_at_the_end(room: MemoryRoom, clock: Clock) -> None:
    lease = held(room, clock)
    with lease.kept():
        assert "lease.json" in room.files
    assert "lease.json" not in room.files


def test_another_s_lease_is_not_given_back(room: MemoryRoom, clock: Clock) -> None:
    lease, other = held(room, Clock()), Lease(room, clock)
    other.take()
    clock.now += LEASE_S
    with lease.kept():
        other.take()
    assert other.take()


def test_it_is_renewed_meanwhile_through_troubles_of_the_store(
    room: MemoryRoom, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RENEW_S", 0.0)
    lease = held(room, clock)
    with lease.kept():
        before = room.files["lease.json"]
        until(lambda: room.files["lease.json"] != before)
        room.trouble = "not reached"
        with pytest.raises(StoreError):
            lease.require()
        room.trouble = ""
        before = room.files["lease.json"]
        until(lambda: room.files["lease.json"] != before)
        lease.require()
