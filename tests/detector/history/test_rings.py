from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detector.history.rings import MOST_SHOWN, Bins, Rings

SECOND, MINUTE = 1_000, 60_000


def rings() -> Rings:
    """A hundred seconds by the second, and a hundred minutes by the minute."""
    return Rings(((SECOND, 100), (MINUTE, 100)), sums=1, peaks=1)


def add(into: Rings, *times_ms: int, value: float = 1.0, peak: float = 0.0) -> None:
    n = len(times_ms)
    into.add(np.array(times_ms, np.int64), np.full((1, n), value), np.full((1, n), peak))


def test_figures_of_one_bin_are_summed_and_the_highest_peak_kept() -> None:
    told = rings()
    add(told, 5_000, 5_999, peak=2.0)
    add(told, 5_500, peak=7.0)
    add(told, 6_000)
    bins = told.between(0, 10_000)
    assert bins.start.tolist() == [5_000, 6_000]
    assert bins.sums.tolist() == [[3.0, 1.0]]
    assert bins.peaks.tolist() == [[7.0, 0.0]]


def test_what_is_older_than_the_narrow_ring_is_told_by_the_wide_one() -> None:
    told = rings()
    add(told, *range(0, 600 * SECOND, SECOND))
    recent, all_of_it = told.between(550 * SECOND, 600 * SECOND), told.between(0, 600 * SECOND)
    assert (recent.width_ms, len(recent.start)) == (SECOND, 51)
    assert (all_of_it.width_ms, all_of_it.sums.tolist()) == (MINUTE, [[60.0] * 10])


def test_a_ring_that_has_gone_round_holds_the_newest_only() -> None:
    told = Rings(((SECOND, 10),), sums=1, peaks=1)
    add(told, *range(0, 25 * SECOND, SECOND))
    assert told.between(0, 25 * SECOND).start.tolist() == [second * SECOND for second in range(15, 25)]


def test_what_comes_too_late_for_a_ring_changes_nothing_in_it() -> None:
    told = Rings(((SECOND, 10),), sums=1, peaks=1)
    add(told, 100 * SECOND)
    add(told, 90 * SECOND, 91 * SECOND, value=5.0)
    bins = told.between(0, 200 * SECOND)
    assert bins.start.tolist() == [91 * SECOND, 100 * SECOND]
    assert bins.sums.tolist() == [[5.0, 1.0]]


def test_no_more_is_given_than_a_screen_has_room_for() -> None:
    told = Rings(((SECOND, 5_000),), sums=1, peaks=1)
    add(told, *range(0, 5_000 * SECOND, SECOND), peak=1.0)
    bins = told.between(0, 5_000 * SECOND)
    assert len(bins.start) <= MOST_SHOWN
    assert bins.width_ms == 5 * SECOND
    assert bins.sums.sum() == 5_000


def test_times_from_the_farthest_past_and_future_take_no_memory() -> None:
    told = rings()
    add(told, 0, 2**62)
    assert told.between(2**62 - SECOND, 2**62 + SECOND).sums.tolist() == [[1.0]]


def test_nothing_is_told_of_nothing() -> None:
    assert rings().newest is None
    assert [len(part) for part in rings().between(0, MINUTE)[1:]] == [0, 1, 1]


@given(st.lists(st.integers(0, 90 * SECOND), min_size=1, max_size=200), st.integers(1, 200))
def test_it_does_not_matter_how_figures_are_cut_into_batches(times: list[int], cut: int) -> None:
    whole, parts = rings(), rings()
    add(whole, *times)
    add(parts, *times[:cut])
    add(parts, *times[cut:])
    one, other = whole.between(0, 100 * SECOND), parts.between(0, 100 * SECOND)
    assert one.width_ms == other.width_ms
    assert all(np.array_equal(a, b) for a, b in zip(one[1:], other[1:], strict=True))


@pytest.mark.parametrize("spread", [1, 1_000_000])
def test_numbers_close_together_and_far_apart_are_told_apart_alike(spread: int) -> None:
    told = Rings(((SECOND, 10_000_000 // spread), (10_000 * SECOND, 10_000)), sums=1, peaks=1)
    add(told, *(number * spread * 10 for number in (3, 1, 3, 2)))
    bins: Bins = told.between(0, 100 * spread)
    assert bins.sums.sum() == 4
    assert (np.diff(bins.start) > 0).all()
