from __future__ import annotations

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from consumers.batch import Columns, Partition
from detector.incidents import Decided, Incidents, Transition

MINUTE = 60_000
Row = tuple[str, int, bool]
"""Entity, minute, whether it is beyond the level."""


def columns(rows: list[Row], start: int = 0) -> Columns:
    n = len(rows)
    return Columns(
        row=np.arange(n),
        partitions=(Partition("t", 0),),
        partition=np.zeros(n, np.int32),
        offsets=np.arange(start, start + n),
        time=np.array([minute * MINUTE for _, minute, _ in rows], np.int64),
        entity=np.array([entity for entity, _, _ in rows], object),
        numbers={},
        texts={},
    )


def feed(incidents: Incidents, rows: list[Row], start: int = 0, *, ranked: bool = False) -> list[Transition]:
    crossing = np.array([hot for _, _, hot in rows], bool)
    nats = np.where(crossing, 10.0 + np.arange(start, start + len(rows)), 1.0)
    model = np.array([f"model {row % 2}" for row in range(start, start + len(rows))], object)
    rank = np.array([minute % 3 if ranked else 0 for _, minute, _ in rows], np.int64)
    found = incidents.update(columns(rows, start), Decided(nats, crossing, model, rank))
    return [transition._replace(row=transition.row + start) for transition in found]


def told(transitions: list[Transition]) -> list[tuple[int, str, str]]:
    return [(t.row, t.kind, t.incident.entity) for t in transitions]


def test_neighbouring_crossings_of_an_entity_are_one_incident() -> None:
    found = feed(Incidents(300), [("a", 0, True), ("a", 1, True), ("a", 4, True), ("a", 5, False)])
    assert told(found) == [(0, "opened", "a")]


def test_an_incident_resolves_at_the_first_record_after_the_quiet_time() -> None:
    found = feed(Incidents(300), [("a", 0, True), ("a", 4, False), ("a", 5, False), ("a", 6, False)])
    assert told(found) == [(0, "opened", "a"), (2, "resolved", "a")]


def test_a_crossing_after_the_quiet_time_closes_one_incident_and_opens_the_next() -> None:
    found = feed(Incidents(300), [("a", 0, True), ("a", 9, True)])
    assert told(found) == [(0, "opened", "a"), (1, "resolved", "a"), (1, "opened", "a")]


def test_entities_do_not_touch_each_other() -> None:
    found = feed(Incidents(300), [("a", 0, True), ("b", 9, True), ("b", 90, False), ("a", 2, False)])
    assert told(found) == [(0, "opened", "a"), (1, "opened", "b"), (2, "resolved", "b")]


def test_entities_that_differ_in_a_trailing_nul_only_are_two() -> None:
    found = feed(Incidents(300), [("a", 0, True), ("a\0", 1, True)])
    assert told(found) == [(0, "opened", "a"), (1, "opened", "a\0")]


def test_each_rise_of_severity_escalates_once() -> None:
    rows = [("a", 0, True), ("a", 2, False), ("a", 1, True), ("a", 3, True), ("a", 1, True), ("a", 2, True)]
    found = feed(Incidents(300), rows, ranked=True)
    assert told(found) == [(0, "opened", "a"), (2, "escalated", "a"), (5, "escalated", "a")]
    assert [transition.incident.rank for transition in found] == [0, 1, 2]
    assert [transition.incident.records for transition in found] == [1, 2, 5]


def test_an_entity_that_falls_silent_stays_open() -> None:
    incidents = Incidents(300)
    feed(incidents, [("a", 0, True), ("b", 500, False)])
    assert [incident.entity for incident in incidents.open] == ["a"]


def test_a_resolved_incident_knows_its_peak_and_its_records() -> None:
    found = feed(Incidents(300), [("a", 0, True), ("a", 1, False), ("a", 2, True), ("a", 20, False)])
    resolved = found[-1].incident
    assert (resolved.records, resolved.peak, resolved.peak_model) == (2, 12.0, "model 0")


def test_one_record_from_the_far_future_does_not_silence_its_entity() -> None:
    found = feed(Incidents(300), [("a", 10**9, True), ("a", 2, False), ("a", 3, True), ("a", 4, True)])
    assert told(found) == [(0, "opened", "a"), (1, "resolved", "a"), (2, "opened", "a")]


def test_records_that_are_a_little_late_do_not_end_an_incident() -> None:
    found = feed(Incidents(300), [("a", 100, True), ("a", 97, False), ("a", 98, True), ("a", 102, False)])
    assert told(found) == [(0, "opened", "a")]


def naive(rows: list[Row], quiet: int) -> list[tuple[int, str, str]]:
    """The same rules, one record at a time."""
    out: list[tuple[int, str, str]] = []
    opened: dict[str, int] = {}
    for number, (entity, minute, hot) in enumerate(rows):
        if entity in opened:
            if abs(minute - opened[entity]) >= quiet:
                out.append((number, "resolved", entity))
                del opened[entity]
            elif hot:
                opened[entity] = minute
        if hot and entity not in opened:
            out.append((number, "opened", entity))
            opened[entity] = minute
    return out


streams = st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 40), st.booleans()), max_size=60)


@given(streams, st.lists(st.integers(0, 60), max_size=6))
def test_any_split_into_batches_gives_what_one_record_at_a_time_gives(rows: list[Row], cuts: list[int]) -> None:
    incidents, found = Incidents(5 * 60), list[Transition]()
    edges = sorted({0, len(rows), *(cut for cut in cuts if cut < len(rows))})
    for start, stop in pairwise(edges):
        found += feed(incidents, rows[start:stop], start)
    assert told(found) == naive(rows, 5)


@given(streams, st.integers(0, 60))
def test_what_an_incident_carries_does_not_depend_on_the_split(rows: list[Row], cut: int) -> None:
    whole, halves = Incidents(300), Incidents(300)
    expected = feed(whole, rows, ranked=True)
    cut = min(cut, len(rows))
    found = feed(halves, rows[:cut], ranked=True) + feed(halves, rows[cut:], cut, ranked=True)
    assert found == expected
    assert sorted(halves.open, key=lambda i: i.entity) == sorted(whole.open, key=lambda i: i.entity)
