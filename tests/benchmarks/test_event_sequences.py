from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pytest

from benchmarks.event_sequences import (
    Sessions,
    Suite,
    in_service,
    judged,
    largest,
    likelihood,
    markov,
    mean,
    numbered,
    occurrences,
    records,
    windows,
)
from benchmarks.measures import Scores


def sessions(*events: list[int]) -> Sessions:
    return Sessions(np.concatenate(events).astype(np.int64), np.cumsum([0, *map(len, events)]))


def test_a_window_holds_no_event_of_another_session() -> None:
    x = windows(sessions([1, 2], [0, 2, 1]), 4)
    assert x.shape == (5, 10, 4)
    assert x.argmax(2)[:, -3:].tolist() == [[1, 1, 1], [1, 1, 2], [0, 0, 0], [0, 0, 2], [0, 2, 1]]


def test_events_that_no_fitted_session_has_are_one_kind() -> None:
    assert numbered(sessions([5, 9], [7, 1, 30]), np.array([5, 7])).events.tolist() == [0, 2, 1, 2, 2]


def test_sessions_between_two_stand_alone() -> None:
    middle = sessions([1], [2, 3], [4], [5, 6]).between(1, 3)
    assert middle.events.tolist() == [2, 3, 4]
    assert middle.offsets.tolist() == [0, 2, 3]


def test_occurrences_are_counted_by_session() -> None:
    assert occurrences(sessions([0, 2, 2], [1]), 3).tolist() == [[1, 0, 2], [0, 1, 0]]


def test_costs_are_gathered_by_session() -> None:
    costs, offsets = np.array([1.0, 3.0, 2.0]), np.array([0, 2, 3])
    assert largest(costs, offsets).tolist() == [3.0, 2.0]
    assert mean(costs, offsets).tolist() == [2.0, 2.0]


def test_one_in_a_hundred_held_back_sessions_exceeds_the_threshold() -> None:
    held_back = np.arange(201.0)
    figures = judged(held_back, np.array([1.0, 198.5, 199.0, 500.0]), np.array([False, False, True, True]))
    assert figures["recall"] == 1.0
    assert figures["false_alarms"] == 0.5
    assert figures["precision"] == pytest.approx(2 / 3, abs=1e-4)
    assert figures["auroc"] == 1.0


def test_records_name_their_session_and_follow_one_another() -> None:
    told = [json.loads(value) for value in records([sessions([1, 2], [0]), sessions([3, 1])])]
    assert [(it["session"], it["event"]) for it in told] == [
        ("blk_1", "E1"),
        ("blk_1", "E2"),
        ("blk_2", "E0"),
        ("blk_3", "E3"),
        ("blk_3", "E1"),
    ]
    assert np.diff([it["ts"] for it in told]).tolist() == [1000] * 4


WAYS: dict[str, Callable[[Suite], tuple[Scores, Scores]]] = {
    "markov": markov,
    "tcn": lambda suite: likelihood(suite, "tcn"),
    "auto": lambda suite: in_service(suite, "auto"),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_step_out_of_turn_costs_more_than_any_other(way: str) -> None:
    usual = sessions(*([0, 1, 2, 0, 1, 2] for _ in range(60)))
    wrong = sessions([0, 1, 2, 0, 2, 1], [0, 1, 3, 0, 1, 2])
    suite = Suite(usual, usual, usual, wrong, np.array([True, True]), 4)
    held_back, tested = WAYS[way](suite)
    assert tested[4] > held_back.max() + 2
    assert tested[8] > held_back.max() + 2
