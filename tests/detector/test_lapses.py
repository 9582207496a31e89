from __future__ import annotations

import math

import numpy as np
import pytest

from consumers.batch import Columns, Partition
from consumers.faults import Fault
from detector.lapses import BURST, Account, Lapses, Log, Moment, PageTest, Trouble

TEST = PageTest(gain=2.0, loss=1.0, limit=5.0)
CPU, HEAT = Trouble("cpu"), Trouble("heat")


def log(n: int, start: int = 0) -> Log:
    """Scored records with offsets from `start` on."""
    return Log(np.arange(start, start + n), np.arange(start, start + n) * 1000, np.arange(n), {})


def columns(offsets: list[int]) -> Columns:
    n = len(offsets)
    return Columns(
        row=np.arange(n),
        partitions=(Partition("t", 0),),
        partition=np.zeros(n, np.int32),
        offsets=np.array(offsets),
        time=np.array(offsets) * 1000,
        entity=np.full(n, "", object),
        numbers={},
        texts={},
    )


def bounds(shown: str, test: PageTest = TEST) -> list[tuple[int, int, bool]]:
    """Start, end, and whether it is over, of the lapses of records of which those at an `x` show the trouble."""
    places = np.array([place for place, letter in enumerate(shown) if letter == "x"], np.int64)
    found = Lapses().update(log(len(shown)), 0, {CPU: places}, lambda _: test, 1.0)
    return [(lapse.start, lapse.end, lapse.over) for lapse in found]


def test_a_lapse_sets_in_where_the_evidence_exceeds_the_limit() -> None:
    assert bounds("xx") == []
    assert bounds("xxx") == [(2, 3, False)]
    assert bounds("x.x.x.x.x") == [(8, 9, False)]


def test_a_lapse_ends_where_no_evidence_is_left() -> None:
    assert bounds("xxxxxxxx....") == [(2, 12, False)]
    assert bounds("xxxxxxxx.....") == [(2, 12, True)]
    assert bounds("xxx..x......") == [(2, 10, True)]


def test_a_lapse_may_follow_another() -> None:
    assert bounds("xxx.....xxx") == [(2, 7, True), (10, 11, False)]


@pytest.mark.parametrize(("usual", "limit"), [(0.05, 3.0), (0.05, 5.0), (0.3, 4.0)])
def test_by_chance_a_likelihood_ratio_exceeds_its_limit_at_most_once_in_exp_limit_records(
    usual: float, limit: float
) -> None:
    n, gone = 300_000, (1 + usual) / 2
    test = PageTest(math.log(gone / usual), math.log((1 - usual) / (1 - gone)), limit)
    shown = np.flatnonzero(np.random.default_rng(0).random(n) < usual)
    found = Lapses().update(log(n), 0, {CPU: shown}, lambda _: test, 1.0)
    assert 0 < len(found) <= n * math.exp(-limit)


def test_the_most_evidence_is_found_without_a_limit() -> None:
    assert TEST.most(np.array([letter == "x" for letter in ".xxxx..x."])) == 8.0


def test_records_that_are_not_scored_tell_nothing_unless_they_show_it() -> None:
    assert TEST.steps(4, np.array([0, 2]), np.array([2, 3])).tolist() == [-1.0, 0.0, 2.0, 2.0]


def test_an_account_gives_a_burst_and_then_its_rate() -> None:
    account, found = Account(), list[int]()
    for number in range(1_000):
        if number >= account.earliest(100.0):
            account.charge(number, 100.0)
            found.append(number)
    assert found == [0, 1, 2, 3, 4, *range(100, 1_000, 100)]


def test_an_account_saves_up_no_more_than_a_burst() -> None:
    account = Account()
    for number in range(10_000, 10_000 + int(BURST)):
        assert account.earliest(100.0) <= number
        account.charge(number, 100.0)
    assert account.earliest(100.0) == 10_100


def test_lapses_wait_for_the_account_first_come_first_told() -> None:
    lapses = Lapses()
    for number in range(int(BURST)):
        lapses._account.charge(number, 100.0)
    showing = {CPU: np.arange(10, 200), HEAT: np.arange(5, 300)}
    told = lapses.update(log(300), 0, showing, lambda _: TEST, 100.0)
    assert {lapse.trouble: lapse.told for lapse in told} == {HEAT: 100, CPU: 200}


def test_a_lapse_that_ends_before_its_turn_is_not_told() -> None:
    lapses = Lapses()
    for number in range(int(BURST)):
        lapses._account.charge(number, 100.0)
    (lapse,) = lapses.update(log(300), 0, {CPU: np.arange(10, 96)}, lambda _: TEST, 100.0)
    assert (lapse.end, lapse.over, lapse.told, lapse.opened) == (100, True, None, None)


def test_a_lapse_goes_on_in_the_next_batch_and_knows_where_it_was_told() -> None:
    lapses = Lapses()
    lapses.update(log(10), 0, {CPU: np.arange(10)}, lambda _: TEST, 100.0)
    (lapse,) = lapses.update(log(10, start=50), 10, {}, lambda _: TEST, 100.0)
    assert (lapse.start, lapse.end, lapse.over, lapse.since, lapse.told) == (0, 4, True, 2, None)
    assert lapse.opened == Moment(2, 2_000)


def test_what_is_not_wanted_is_forgotten() -> None:
    lapses = Lapses()
    lapses.update(log(10), 0, {CPU: np.arange(10), HEAT: np.arange(10)}, lambda _: TEST, 100.0)
    lapses.keep(lambda trouble: trouble == HEAT)
    assert [lapse.trouble for lapse in lapses.update(log(9, start=10), 10, {}, lambda _: TEST, 100.0)] == [HEAT]


def test_a_log_puts_scored_and_faulty_records_in_order() -> None:
    wrong = [Fault(3, 33, ("cpu",), "string", "number"), Fault(8, 88, ("cpu", "heat"), None, None)]
    merged = Log.of(columns([2, 5, 9]), wrong)
    assert merged.offsets.tolist() == [2, 3, 5, 8, 9]
    assert merged.times.tolist() == [2_000, 33, 5_000, 88, 9_000]
    assert merged.scored.tolist() == [0, 2, 4]
    assert {trouble: places.tolist() for trouble, places in merged.faulty.items()} == {
        Trouble("cpu", "string", "number"): [1],
        CPU: [3],
        HEAT: [3],
    }
