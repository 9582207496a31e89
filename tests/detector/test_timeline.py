from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from detector.timeline import DAY_MS, MOST_BINS, Timeline
from tests.detector.machines import START_MS


def timeline(time: NDArray[np.int64], *, cut: int = 10**9, alarms: tuple[int, ...] = ()) -> Timeline:
    """Every alarm opens an incident; record k has k nats."""
    found, row = Timeline.empty(), np.arange(len(time))
    for rows in np.split(row, row[cut::cut]):
        alarm = np.isin(rows, alarms)
        found = found.extended(
            time[rows],
            promised=np.full(len(rows), 0.01),
            alarm=alarm,
            nats=rows.astype(np.float64),
            level=np.full(len(rows), 7.0),
            opened=time[rows][alarm].tolist(),
        )
    return found


def minutes(n: int) -> NDArray[np.int64]:
    return START_MS + np.arange(n) * 60_000


def test_bins_add_up_to_the_records_however_many_there_are() -> None:
    found = timeline(minutes(50_000), cut=777, alarms=(3, 4, 40_000))
    assert len(found.start) <= MOST_BINS
    assert (found.records.sum(), found.alarms.sum(), found.opened.sum()) == (50_000, 3, 3)
    assert found.promised.sum() == pytest.approx(500)
    assert (found.peak.max(), set(found.level)) == (49_999, {7.0})


@pytest.mark.parametrize("cut", [1, 100, 999])
def test_bins_do_not_depend_on_where_batches_end(cut: int) -> None:
    whole, parts = timeline(minutes(2_500), alarms=(7,)), timeline(minutes(2_500), cut=cut, alarms=(7,))
    assert parts.width_ms == whole.width_ms
    np.testing.assert_array_equal(parts.start, whole.start)
    np.testing.assert_array_equal(parts.alarms, whole.alarms)
    np.testing.assert_array_equal(parts.peak, whole.peak)


def test_an_alarm_stays_in_the_bin_of_its_time_when_bins_widen() -> None:
    found = timeline(minutes(50_000), cut=1_000, alarms=(40_000,))
    (at,) = np.flatnonzero(found.alarms)
    assert found.start[at] <= minutes(50_000)[40_000] < found.start[at] + found.width_ms


def test_days_are_those_that_the_records_span() -> None:
    assert timeline(minutes(3 * 1_440)).days == pytest.approx(3, rel=0.01)


def test_a_few_wrong_clocks_do_not_stretch_the_days() -> None:
    time = minutes(3 * 1_440)
    time[[5, 900]] = [0, 253_402_300_000_000]
    assert timeline(time).days == pytest.approx(3, rel=0.02)


def test_clocks_all_over_the_calendar_stay_within_bounds() -> None:
    time = np.random.default_rng(0).integers(0, 253_402_300_000_000, 20_000)
    found = timeline(time, cut=500)
    assert found.records.sum() == 20_000
    assert len(found.start) < 10 * MOST_BINS


def test_pooling_to_days_counts_each_day() -> None:
    found = timeline(minutes(2 * 1_440), alarms=(0, 1, 2_000)).pooled(DAY_MS)
    assert found.start.tolist() == [START_MS, START_MS + DAY_MS]
    assert found.alarms.tolist() == [2, 1]


@pytest.mark.parametrize("n", [900, 5_000])
def test_two_timelines_together_are_that_of_all_records(n: int) -> None:
    time, odd = minutes(n), np.arange(n) % 2 == 1
    whole = timeline(time, alarms=(3, 4))
    both = Timeline.empty().joined(timeline(time[~odd], alarms=(2,))).joined(timeline(time[odd], alarms=(1,)))
    assert both.width_ms == whole.width_ms
    for name in ("start", "records", "alarms", "opened"):
        np.testing.assert_array_equal(getattr(both, name), getattr(whole, name))
    np.testing.assert_allclose(both.promised, whole.promised)
