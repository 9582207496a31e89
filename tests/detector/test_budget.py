from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from consumers.batch import Partition
from detector.budget import DAY_MS, DEFAULT_RATE, RATES, Allowance, Budget, per_day
from detector.config import AlertSettings
from detector.snapshot import pack, unpack

START_MS = 1_767_225_600_000
USUAL = 2_000
"""Records a day that training saw."""
DAILY = 3.0
BUDGET = Budget(rate=DAILY / USUAL, per_day=DAILY, records_per_day=USUAL)


def alerts(**changes: Any) -> AlertSettings:
    return AlertSettings.model_validate({"topic": "alerts", **changes})


def traffic(*records: int, night: float = 0.5) -> NDArray[np.int64]:
    """Event times of days with so many records each; `night` is the part of them in the second half of the day."""
    chance = np.random.default_rng(0)
    days = [
        np.sort(np.where(chance.random(n) < night, 0.5, 0.0) + chance.random(n) / 2) + day
        for day, n in enumerate(records)
    ]
    return (START_MS + np.concatenate(days) * DAY_MS).astype(np.int64)


def alarms_by_day(time: NDArray[np.int64], allowance: Allowance) -> NDArray[np.float64]:
    """What is promised on each day, as a multiple of the budget."""
    day = ((time - START_MS) // DAY_MS).astype(np.int64)
    return np.bincount(np.maximum(day, 0), weights=allowance.rates(time)) / DAILY


@pytest.mark.parametrize(
    ("written", "daily"), [("3/day", 3), ("1/hour", 24), ("7 / week", 1), ("0.5/day", 0.5), (" 60/month ", 2)]
)
def test_a_budget_is_so_many_alarms_an_hour_a_day_a_week_or_a_month(written: str, daily: float) -> None:
    assert per_day(written) == pytest.approx(daily)


@pytest.mark.parametrize("written", ["", "3", "day", "3/year", "-1/day", "0/day", "0.0/week", "3/day/day", "1e3/day"])
def test_any_other_budget_is_refused_with_what_is_wanted(written: str) -> None:
    with pytest.raises(ValueError, match="Expected a number above 0 and one of hour, day, week, month, like 3/day"):
        per_day(written)


def test_the_rate_is_the_budget_over_the_traffic_of_training() -> None:
    budget = Budget.of(alerts(false_alarms="3/day"), records=12_000, span_ms=4 * DAY_MS)
    assert budget == Budget(rate=0.001, per_day=3.0, records_per_day=3_000)
    assert Budget.of(alerts(rate=0.02), records=12_000, span_ms=4 * DAY_MS) == Budget(0.02, None, 3_000)
    assert Budget.of(alerts(), records=12_000, span_ms=4 * DAY_MS).rate == DEFAULT_RATE


def test_a_budget_beyond_all_records_or_below_any_rate_stays_within_what_can_be_kept() -> None:
    assert Budget.of(alerts(false_alarms="100/hour"), records=10, span_ms=DAY_MS).rate == RATES[1]
    assert Budget.of(alerts(false_alarms="1/month"), records=10**9, span_ms=0).rate == RATES[0]


def test_a_rate_is_promised_at_every_record_whatever_the_traffic() -> None:
    rates = Allowance(Budget(0.01, None, USUAL), 0.5).rates(traffic(10, 20_000))
    assert set(rates.tolist()) == {0.01}


def test_the_rate_falls_when_traffic_grows_and_rises_when_it_falls() -> None:
    rates = Allowance(BUDGET, 1.0).rates(traffic(*[USUAL] * 3, *[10 * USUAL] * 3, *[USUAL // 10] * 3))
    usual, busy, quiet = (rates[row] for row in (3 * USUAL - 1, 33 * USUAL - 1, -1))
    assert usual == pytest.approx(BUDGET.rate, rel=0.1)
    assert busy == pytest.approx(BUDGET.rate / 10, rel=0.1)
    assert quiet == pytest.approx(BUDGET.rate * 10, rel=0.25)


@pytest.mark.parametrize(
    ("times", "night"), [(1.0, 0.5), (10.0, 0.5), (0.1, 0.5), (1.0, 0.05)], ids=["usual", "busy", "quiet", "nights"]
)
def test_after_two_days_each_day_has_the_alarms_that_were_asked_whatever_the_traffic(
    times: float, night: float
) -> None:
    found = alarms_by_day(traffic(*[round(times * USUAL)] * 7, night=night), Allowance(BUDGET, 1.0))
    assert (found[2:] >= 0.8).all()
    assert (found[2:] <= 1.25).all()


def test_a_stream_with_less_than_a_record_an_hour_keeps_its_budget() -> None:
    budget = Budget(rate=0.1, per_day=1.0, records_per_day=10)
    assert Allowance(budget, 1.0).rates(traffic(*[10] * 60))[100:].mean() == pytest.approx(0.1, rel=0.15)


@pytest.mark.parametrize("row", [0, 1, USUAL // 2])
@pytest.mark.parametrize("off_ms", [100 * 365 * DAY_MS, -20 * 365 * DAY_MS])
def test_one_wrong_clock_does_not_stop_the_promise(row: int, off_ms: float) -> None:
    time = traffic(*[USUAL] * 7)
    wrong = time.copy()
    wrong[row] += round(off_ms)
    rates = Allowance(BUDGET, 1.0).rates(wrong)
    days = np.bincount(((time - START_MS) // DAY_MS).astype(np.int64), weights=rates) / DAILY
    assert (days[3:] >= 0.8).all()
    assert (days[3:] <= 1.25).all()


def test_records_that_are_late_do_not_count_twice_the_time() -> None:
    time = traffic(*[USUAL] * 5)
    late = time - np.random.default_rng(1).integers(0, 600_000, len(time))
    np.testing.assert_allclose(alarms_by_day(late, Allowance(BUDGET, 1.0))[2:4], 1.0, rtol=0.2)


def test_after_a_gap_of_days_a_day_has_at_most_twice_its_alarms() -> None:
    time = traffic(*[USUAL] * 6)
    time[3 * USUAL :] += round(10 * DAY_MS)
    by_day = Allowance(BUDGET, 1.0).rates(time).reshape(6, USUAL).sum(axis=1) / DAILY
    assert by_day[3] <= 2.0
    np.testing.assert_allclose(by_day[4:], 1.0, rtol=0.2)


def test_a_stream_that_rests_at_night_keeps_its_budget() -> None:
    np.testing.assert_allclose(
        alarms_by_day(traffic(*[USUAL] * 7, night=0.0), Allowance(BUDGET, 1.0))[2:], 1.0, rtol=0.1
    )


@pytest.mark.parametrize(
    "seen", [{}, {0: 500}, {0: 900, 1: 100}, {0: 1, 1: 2, 2: 3, 3: 4}], ids=["files", "one", "uneven", "all"]
)
def test_the_shares_of_all_partitions_sum_to_one_and_none_is_without(seen: dict[int, int]) -> None:
    there = {Partition("t", number): records for number, records in seen.items()}
    shares = [BUDGET.share(Partition("t", number), there, 4) for number in range(4)]
    assert sum(shares) == pytest.approx(1.0)
    assert min(shares) > 0


def test_the_partition_that_had_more_of_the_traffic_has_more_of_the_budget() -> None:
    seen = {Partition("t", 0): 900, Partition("t", 1): 100}
    assert BUDGET.share(Partition("t", 0), seen, 2) == pytest.approx(0.9 * 0.9 + 0.05)
    assert BUDGET.share(Partition("t", 1), seen, 2) == pytest.approx(0.9 * 0.1 + 0.05)


def test_parts_of_the_budget_add_up_however_the_traffic_is_spread() -> None:
    shares = [
        BUDGET.share(Partition("t", number), {Partition("t", 0): 9, Partition("t", 1): 1}, 2) for number in (0, 1)
    ]
    parts = [
        alarms_by_day(traffic(*[n] * 6), Allowance(BUDGET, share))
        for n, share in zip((900, 1_100), shares, strict=True)
    ]
    np.testing.assert_allclose(np.sum(parts, axis=0)[2:], 1.0, rtol=0.2)


def test_what_is_known_of_the_traffic_survives_another_version() -> None:
    allowance = Allowance(BUDGET, 1.0)
    time = traffic(*[10 * USUAL] * 4)
    before = allowance.rates(time)[-1]
    allowance.allot(Budget(rate=2 * BUDGET.rate, per_day=2 * DAILY, records_per_day=USUAL), 1.0)
    assert allowance.rates(time[-1:] + 1_000)[0] == pytest.approx(2 * before, rel=0.01)


steps = st.lists(
    st.sampled_from([0, 1, 1_000, 60_000, 4_000_000, -5_000_000, 10**11, -(10**11)]), min_size=1, max_size=80
)


@settings(deadline=None)
@given(steps, st.lists(st.integers(0, 80), max_size=6), st.sampled_from([3, USUAL]))
def test_rates_depend_neither_on_where_batches_end_nor_on_restarts(
    jumps: Sequence[int], cuts: Sequence[int], usual: float
) -> None:
    time, budget = START_MS + np.cumsum(jumps), Budget(0.01, DAILY, usual)
    parts, edges = Allowance(budget, 0.7), sorted({0, len(time), *(cut for cut in cuts if cut < len(time))})
    found = []
    for start, stop in pairwise(edges):
        found.append(parts.rates(time[start:stop]))
        state, parts = unpack(pack(parts.to_state())), Allowance(budget, 0.7)
        parts.restore(state)
    np.testing.assert_array_equal(np.concatenate(found), Allowance(budget, 0.7).rates(time))


def test_a_topic_that_is_gone_for_now_leaves_a_partition_the_whole_budget() -> None:
    assert BUDGET.share(Partition("t", 0), {}, 0) == 1.0
