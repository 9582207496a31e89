from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

from consumers.batch import Moved, Partition, Position, RawBatch
from detector.config_service import HealthSettings
from detector.health import SPARE_S, Check, Health
from detector.lifecycle import Look

A, B = Partition("machines", 0), Partition("machines", 1)
DAY_S = 86_400.0


class Clock:
    """Monotonic seconds that a test moves on."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def health(clock: Clock) -> Health:
    return health_with(clock)


def health_with(clock: Clock, **settings: object) -> Health:
    return Health(HealthSettings.model_validate(settings), clock)


def turn(
    records: Mapping[Partition, range] | None = None,
    *,
    assigned: Mapping[Partition, int] | None = None,
    revoked: frozenset[Partition] = frozenset(),
    ends: Mapping[Partition, int] | None = None,
    moved: Mapping[Partition, Moved] | None = None,
) -> RawBatch:
    """A batch with the offsets in `records`."""
    found = dict(records or {})
    counts = [len(offsets) for offsets in found.values()]
    n = sum(counts)
    return RawBatch(
        partitions=tuple(found),
        partition=np.repeat(np.arange(len(found)), counts).astype(np.int32),
        offsets=np.array([offset for offsets in found.values() for offset in offsets], np.int64),
        timestamps=np.zeros(n, np.int64),
        keys=[None] * n,
        values=[b"{}"] * n,
        headers=[()] * n,
        assigned={partition: Position(offset) for partition, offset in (assigned or {}).items()},
        revoked=revoked,
        ends=ends or {},
        moved=moved or {},
    )


def at_work(health: Health, position: int = 0, end: int = 0) -> None:
    """Joined, with one partition, under a version that is an hour old."""
    health.enter("joining")
    health.serves("v1", age_s=3_600.0, interval_s=None)
    health.follow(turn(assigned={A: position}, ends={A: end}))


def check(health: Health, name: str) -> Check:
    (found,) = [check for check in health.ready().checks if check.name == name]
    return found


def turns_for(health: Health, clock: Clock, seconds: int, batch: RawBatch) -> None:
    """The loop goes on turning, every ten seconds."""
    for _ in range(seconds // 10):
        clock.now += 10
        health.follow(batch)


def test_a_daemon_that_scores_is_ready_and_every_check_is_ok(health: Health) -> None:
    at_work(health)
    health.follow(turn({A: range(10)}, ends={A: 10}))
    report = health.ready()
    assert (report.ok, report.degraded, report.phase) == (True, False, "serving")
    names = ["loop", "broker", "partitions", "lag", "store", "model", "dead letters"]
    assert [check.name for check in report.checks] == names
    assert all(check.ok for check in report.checks)


@pytest.mark.parametrize("phase", ["starting", "waiting", "training", "joining", "retrying", "stopping"])
def test_nothing_but_serving_is_ready(health: Health, phase: str) -> None:
    at_work(health)
    health.enter(phase, "for a reason")  # type: ignore[arg-type]  # one of the phases
    assert not health.ready().ok
    assert health.alive().ok


def test_what_is_waited_for_is_told_first(health: Health) -> None:
    health.enter("waiting", "topic machines is not there yet")
    assert health.ready().detail == "waiting: topic machines is not there yet"


def test_a_partition_stands_still_when_its_end_grows_and_its_position_does_not(health: Health, clock: Clock) -> None:
    at_work(health)
    health.follow(turn({A: range(100)}, ends={A: 100}))
    for end in range(110, 230, 10):
        clock.now += 10
        health.follow(turn(ends={A: end}))
    assert health.ready().ok
    assert check(health, "partitions").detail == "1 owned"
    clock.now += 10
    health.follow(turn(ends={A: 230}))
    report = health.ready()
    assert not report.ok
    assert report.detail == check(health, "partitions").detail
    assert report.detail == "machines[0] stands still at offset 100 for 2 min, its log ends at 230"
    health.follow(turn({A: range(100, 101)}, ends={A: 230}))
    assert health.ready().ok


def test_only_the_partition_that_stands_still_is_named(health: Health, clock: Clock) -> None:
    health.enter("joining")
    health.follow(turn(assigned={A: 0, B: 0}, ends={A: 100, B: 100}))
    for offset in range(20):
        clock.now += 10
        health.follow(turn({B: range(offset, offset + 1)}, ends={A: 100, B: 100}))
    assert "machines[0]" in check(health, "partitions").detail
    assert "machines[1]" not in check(health, "partitions").detail
    assert health.figures().stalled_s == {A: 200.0, B: 0.0}


def test_a_partition_without_records_to_read_never_stands_still(health: Health, clock: Clock) -> None:
    at_work(health, position=50, end=50)
    turns_for(health, clock, 100_000, turn(ends={A: 50}))
    assert health.ready().ok
    health.follow(turn(ends={A: 60}))
    assert health.ready().ok, "it has had records to read for no time yet"


def test_a_partition_that_is_read_again_from_its_snapshot_moves(health: Health, clock: Clock) -> None:
    at_work(health, position=1_000, end=1_000)
    for offset in range(400, 900, 10):
        clock.now += 10
        health.follow(turn({A: range(offset, offset + 10)}, ends={A: 1_000}), restoring={A})
    assert health.ready().ok
    assert check(health, "partitions").detail == "1 owned, being restored: machines[0] at offset 900"
    assert health.figures().lag == {A: 100}
    turns_for(health, clock, 120, turn(ends={A: 1_000}))
    assert not health.ready().ok, "a replay may stand still as well"


def test_a_partition_that_goes_on_after_a_gap_is_where_it_goes_on(health: Health) -> None:
    at_work(health, position=10, end=500)
    health.follow(turn(ends={A: 500}, moved={A: Moved(10, 450, "retention")}))
    assert health.figures().lag == {A: 50}


def test_a_stream_that_is_lost_over_and_over_does_not_hide_that_a_partition_stands_still(
    health: Health, clock: Clock
) -> None:
    at_work(health, position=100, end=500)
    for _ in range(5):
        clock.now += 30
        health.enter("retrying", "publishing: no answer")
        health.enter("joining")
        health.follow(turn(assigned={A: 100}, ends={A: 500}))
    assert "stands still at offset 100 for 2 min" in check(health, "partitions").detail


def test_a_partition_that_another_replica_moved_on_begins_afresh(health: Health, clock: Clock) -> None:
    at_work(health, position=100, end=500)
    clock.now += 100
    health.follow(turn(revoked=frozenset({A})))
    assert health.figures().lag == {}
    clock.now += 100
    health.follow(turn(assigned={A: 300}, ends={A: 500}))
    assert health.figures().stalled_s == {A: 0.0}


def test_a_replica_too_many_is_ready_and_says_so(health: Health, clock: Clock) -> None:
    health.enter("joining")
    health.follow(turn())
    assert check(health, "partitions").detail == "no partition is assigned yet"
    assert not health.ready().ok
    clock.now += SPARE_S + 1
    health.follow(turn())
    assert health.ready().ok
    assert "none is owned" in check(health, "partitions").detail


def test_the_lag_counts_only_where_a_limit_is_set(clock: Clock) -> None:
    unlimited, limited = health_with(clock), health_with(clock, max_lag=1_000)
    for health, end in ((unlimited, 10**9), (limited, 1_000)):
        at_work(health, end=end)
        assert health.ready().ok
    limited.follow(turn(ends={A: 1_001}))
    assert not limited.ready().ok
    assert limited.ready().detail == "1,001 records to read, at most 1,000 are wanted"


def test_a_broker_that_is_gone_is_told_until_a_turn_goes_through(health: Health, clock: Clock) -> None:
    at_work(health)
    health.enter("retrying", "no answer from 10.0.0.1:9092")
    clock.now += 30
    health.enter("retrying", "no answer from 10.0.0.1:9092")
    assert not health.ready().ok
    assert health.ready().detail == "for 30 s: no answer from 10.0.0.1:9092"
    health.enter("joining")
    assert not check(health, "broker").ok
    health.follow(turn(assigned={A: 0}))
    assert check(health, "broker").ok
    assert health.ready().ok


def test_a_broker_that_was_never_heard_does_not_count_as_there(health: Health) -> None:
    health.enter("waiting", "no answer from 10.0.0.1:9092")
    assert not check(health, "broker").ok


def test_a_store_that_is_not_reached_makes_it_degraded_but_not_unready(health: Health, clock: Clock) -> None:
    at_work(health)
    health.looked(Look(good_at=clock.now - 60, next_at=clock.now + 10, trouble="Store 's3://x' is gone", failed=6))
    report = health.ready()
    assert (report.ok, report.degraded) == (True, True)
    assert report.detail == "last good look 60 s ago: Store 's3://x' is gone"
    assert health.figures().store_errors == 6
    health.looked(Look(good_at=clock.now, next_at=clock.now + 10, failed=6))
    assert not health.ready().degraded


def test_a_look_at_the_store_that_does_not_end_is_no_good_look(health: Health, clock: Clock) -> None:
    at_work(health)
    health.looked(Look(good_at=clock.now, next_at=clock.now + 10))
    turns_for(health, clock, 130, turn())
    assert check(health, "store").ok
    turns_for(health, clock, 10, turn())
    assert not check(health, "store").ok


def test_a_version_is_too_old_after_twice_the_time_between_trainings(health: Health, clock: Clock) -> None:
    at_work(health)
    health.serves("v1", age_s=0.0, interval_s=DAY_S)
    clock.now += 2 * DAY_S
    health.follow(turn())
    assert not health.ready().degraded
    health.trained("failed")
    clock.now += 3_600
    health.follow(turn())
    report = health.ready()
    assert (report.ok, report.degraded) == (True, True)
    assert report.detail == "v1 is 2 d old, at most 2 d are wanted; the last training: failed"
    assert health.figures().model_age_s == 2 * DAY_S + 3_600
    health.serves("v2", age_s=60.0, interval_s=DAY_S)
    assert not health.ready().degraded


def test_the_age_that_is_set_goes_before_the_schedule(clock: Clock) -> None:
    health = health_with(clock, max_model_age="30m")
    at_work(health)
    assert not check(health, "model").ok
    health.serves("v2", age_s=1_800.0, interval_s=60.0)
    assert check(health, "model").ok


def test_without_a_schedule_no_version_is_too_old(health: Health, clock: Clock) -> None:
    at_work(health)
    clock.now += 10_000 * DAY_S
    assert check(health, "model").ok


def test_a_version_from_a_clock_ahead_of_ours_is_new(health: Health) -> None:
    health.serves("v1", age_s=-5_000.0, interval_s=None)
    assert health.figures().model_age_s == 0.0


def test_a_loop_that_hangs_is_not_ready_and_then_not_alive(clock: Clock) -> None:
    health = health_with(clock, stalled_after="2m", watchdog="5m")
    at_work(health)
    clock.now += 121
    assert not health.ready().ok
    assert health.ready().detail == "no turn of the loop for 2 min (serving)"
    assert health.alive().ok
    clock.now += 180
    assert not health.alive().ok
    assert health.alive().detail == "no turn of the loop for 5 min"
    health.follow(turn())
    assert health.alive().ok


def test_training_in_the_process_may_take_long(health: Health, clock: Clock) -> None:
    health.enter("training", "first version")
    clock.now += 10 * DAY_S
    assert health.alive().ok
    assert not health.ready().ok


def test_many_dead_letters_lately_are_told_and_forgotten(health: Health) -> None:
    at_work(health)
    health.follow(turn({A: range(5_000)}, ends={A: 5_000}), dead_letters=5_000)
    report = health.ready()
    assert (report.ok, report.degraded) == (True, True)
    assert report.detail == "39.3% of the records lately"
    health.follow(turn({A: range(5_000, 65_000)}, ends={A: 65_000}), dead_letters=0)
    assert not health.ready().degraded


def test_the_share_of_dead_letters_does_not_depend_on_where_batches_end(clock: Clock) -> None:
    once, often = health_with(clock), health_with(clock)
    for health, size in ((once, 8_000), (often, 10)):
        at_work(health)
        for start in range(0, 8_000, size):
            health.follow(turn({A: range(start, start + size)}, ends={A: 8_000}), dead_letters=size // 2)
    assert check(once, "dead letters") == check(often, "dead letters")


def test_a_check_names_a_few_of_many_partitions(health: Health, clock: Clock) -> None:
    many = [Partition("machines", number) for number in range(1_000)]
    health.enter("joining")
    health.follow(turn(assigned=dict.fromkeys(many, 0), ends=dict.fromkeys(many, 9)))
    turns_for(health, clock, 120, turn(ends=dict.fromkeys(many, 9)))
    detail = check(health, "partitions").detail
    assert detail.endswith("; and 995 more")
    assert len(detail) < 500
