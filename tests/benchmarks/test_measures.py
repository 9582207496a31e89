from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score  # type: ignore[import-untyped]  # ships no types

from benchmarks.measures import (
    SAME_RUN,
    Answer,
    Events,
    Flags,
    Scores,
    decisions,
    delays,
    events,
    events_hit,
    in_band,
    normal_rows,
    oracle,
    vus_pr,
)


def flags(n: int, rows: Iterable[int]) -> Flags:
    marked = np.zeros(n, np.bool_)
    marked[list(rows)] = True
    return marked


def stream(n: int, seed: int) -> tuple[Flags, Scores]:
    """Anomalous in three stretches, with scores that are higher there and hold ties."""
    chance = np.random.default_rng(seed)
    labels = flags(n, [*range(n // 5, n // 4), *range(n // 2, n // 2 + 5), *range(n - 8, n)])
    return labels, np.round(chance.normal(size=n) + labels, 1)


def first_of_runs(crossing: Flags) -> Flags:
    rows = np.flatnonzero(crossing)
    return flags(len(crossing), rows[np.diff(rows, prepend=-SAME_RUN - 1) > SAME_RUN].tolist())


def test_events_are_the_runs_of_anomalous_rows_also_at_both_ends() -> None:
    assert events(flags(10, [0, 1, 4, 8, 9])).tolist() == [[0, 2], [4, 5], [8, 10]]
    assert events(flags(3, [])).shape == (0, 2)


def test_rows_of_an_event_and_sixteen_after_it_are_not_normal() -> None:
    labels = flags(40, [10, 11])
    assert np.flatnonzero(~normal_rows(labels, events(labels))).tolist() == list(range(10, 28))
    assert np.flatnonzero(~normal_rows(labels, events(labels), aftermath=0)).tolist() == [10, 11]


@pytest.mark.parametrize(
    ("alarms", "expected", "within"),
    [
        *((5, 10.0, True), (4, 10.0, False), (20, 10.0, True), (21, 10.0, False)),
        *((0, 1.9, True), (0, 2.0, False), (1, 0.4, False), (1, 0.5, True)),
    ],
)
def test_in_band_is_half_to_twice_the_promise_or_none_where_hardly_any_is_expected(
    alarms: int, expected: float, within: bool
) -> None:
    assert in_band(alarms, expected) is within


def test_an_event_counts_once_however_often_it_is_hit_and_its_delay_is_to_the_first_hit() -> None:
    found = np.array([[2, 6], [8, 10]])
    assert events_hit(flags(10, [4, 5, 7]), found) == 1
    assert delays(flags(10, [4, 5, 7, 9]), found) == [2, 1]
    assert events_hit(flags(10, [4]), found[:0]) == 0


def test_rows_that_are_events_of_their_own_are_counted_one_by_one() -> None:
    rows = np.array([3, 4, 9])
    assert events_hit(flags(10, [4, 9]), np.stack([rows, rows + 1], axis=1)) == 2


def test_the_oracle_spends_its_false_alarms_on_the_lowest_threshold_that_fits() -> None:
    labels = flags(100, range(60, 64))
    scores = np.zeros(100)
    scores[[10, 61, 90]] = [3.0, 2.0, 1.0]
    found, normal = events(labels), normal_rows(labels, events(labels))
    assert oracle(scores, found, normal, 0) == (math.inf, 0, 0, 0)
    assert oracle(scores, found, normal, 1) == (2.0, 1, 1, 1)
    assert oracle(scores, found, normal, 2) == (1.0, 2, 1, 1)


def test_a_run_is_one_alarm_at_its_first_row_so_an_event_within_a_run_is_not_found() -> None:
    labels = flags(100, range(60, 64))
    scores = np.zeros(100)
    scores[[45, 61]] = [1.0, 2.0]
    found, normal = events(labels), normal_rows(labels, events(labels))
    assert oracle(scores, found, normal, 0) == (2.0, 0, 1, 1)
    assert oracle(scores, found, normal, 1) == (1.0, 1, 0, 1)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("false_alarms", [0, 1, 3, 10])
@pytest.mark.parametrize("one_by_one", [False, True])
def test_the_oracle_is_the_best_of_all_thresholds(seed: int, false_alarms: int, one_by_one: bool) -> None:
    labels, scores = stream(300, seed)
    found = np.flatnonzero(labels)[:, None] + np.arange(2) if one_by_one else events(labels)
    normal = normal_rows(labels, events(labels))
    tried = [(0, 0, math.inf)]
    for threshold in np.unique(scores).tolist():
        alarm = first_of_runs(scores >= threshold)
        tried.append((int((alarm & normal).sum()), events_hit(alarm, found), threshold))
    affordable = [one for one in tried if one[0] <= false_alarms]
    false, hit, threshold = max(affordable)
    assert oracle(scores, found, normal, false_alarms) == (threshold, false, hit, max(hit for _, hit, _ in affordable))


def test_decisions_tell_false_alarms_from_found_events_and_alarms_from_elevated_rows() -> None:
    labels = flags(500, range(200, 210))
    scores = np.where(flags(500, [50, 204]), 9.0, 0.0)
    said = Answer(scores, scores, flags(500, [50, 204, 400]), flags(500, [51, 52, 202]), Counter(opened=3, drift=1), 0)
    told = decisions(said, 0.01, events(labels), normal_rows(labels, events(labels)))
    normal = 474  # 500 rows but for 10 of the event and 16 after it
    assert (told["expected"], told["alarms"], told["in_band"]) == (0.01 * normal, 2, False)
    assert told["realised_ratio"] == told["elevated_ratio"] == 2 / (0.01 * normal)
    assert (told["events_found"], told["events_touched"], told["median_delay"]) == (1, 1, 2)
    assert (told["incidents_opened"], told["incidents_per_day"], told["drift"]) == (3, 3 * 1440 / 500, 1)
    assert (told["static_events_found"], told["static_realised_ratio"]) == (1, 1 / (0.01 * normal))
    assert (told["oracle_alarms"], told["oracle_events_found"], told["oracle_most_events"]) == (1, 1, 1)


def test_the_volume_of_a_perfect_score_is_one() -> None:
    labels, _ = stream(5_000, 0)
    assert vus_pr(labels, labels.astype(np.float64)) == pytest.approx(1.0)


def test_the_volume_of_a_random_score_is_the_base_rate() -> None:
    labels = flags(20_000, range(8_000, 10_000))
    volumes = [vus_pr(labels, np.random.default_rng(seed).normal(size=20_000)) for seed in range(5)]
    assert np.mean(volumes) == pytest.approx(0.1, rel=0.1)


def test_without_a_buffer_and_with_one_event_the_area_is_the_average_precision() -> None:
    labels = flags(2_000, range(500, 600))
    scores = np.round(np.random.default_rng(1).normal(size=2_000) + labels, 1)
    hit_first = np.append(scores, 9.0)  # so that the event is hit at every threshold
    labels = np.append(labels, False)
    hit_first[550] = 9.0
    assert vus_pr(labels, hit_first, longest=0) == pytest.approx(average_precision_score(labels, hit_first))


@pytest.mark.parametrize("longest", [0, 1, 7, 30])
def test_the_volume_is_what_its_definition_gives_threshold_by_threshold(longest: int) -> None:
    labels, scores = stream(200, 3)
    areas = [area(labels, scores, length) for length in range(longest + 1)]
    assert vus_pr(labels, scores, longest) == pytest.approx(np.mean(areas))


def test_no_event_has_no_volume() -> None:
    assert math.isnan(vus_pr(flags(50, []), np.arange(50.0)))


def soft(labels: Flags, found: Events, length: int) -> Scores:
    """Degrees by their definition, row by row."""
    degrees: NDArray[np.float64] = labels.astype(np.float64)
    for start, end in found.tolist():
        for distance in range(1, length // 2 + 1):
            for row in (start - distance, end - 1 + distance):
                if 0 <= row < len(labels):
                    degrees[row] += math.sqrt(1 - distance / length)
    return np.minimum(degrees, 1.0)


def area(labels: Flags, scores: Scores, length: int) -> float:
    """Area under range-aware precision and recall by their definition, one threshold at a time."""
    degrees = soft(labels, events(labels), length)
    total, before = 0.0, 0.0
    for threshold in np.unique(scores)[::-1].tolist():
        flagged = scores >= threshold
        true = float(degrees[flagged].sum())
        in_buffers = float(degrees[flagged & ~labels].sum())
        hit = events_hit(flagged, events(degrees > 0)) / len(events(degrees > 0))
        recall = hit * min(1.0, true / (labels.sum() + in_buffers / 2))
        total += (recall - before) * true / flagged.sum()
        before = recall
    return total
