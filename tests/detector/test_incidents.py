from __future__ import annotations

import re
from collections import OrderedDict, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from hypothesis import given
from hypothesis import settings as hypothesis
from hypothesis import strategies as st

from consumers.batch import Columns, Partition
from detector.config import AlertSettings
from detector.entities import EntityTable
from detector.incidents import Decided, Incidents, Transition
from detector.recursion import NEW_REGIME, SLOW_CREEP
from detector.snapshot import pack, unpack
from detector.windows import Late

MINUTE = 60_000


class Row(NamedTuple):
    """A record: its minute, and `.` for below the level, `+` elevated, `!` an alarm, `D` elevated and a new regime, `C`
    below the level and a slow creep."""

    entity: str
    minute: int
    mark: str
    rank: int = 0


def rows(text: str) -> list[Row]:
    """Rows written like `a0! a1+2`: entity, minute, mark and rank."""
    found = (re.fullmatch(r"(\D)(\d+)([.+!DC])(\d?)", word) for word in text.split())
    return [Row(it[1], int(it[2]), it[3], int(it[4] or 0)) for it in found if it]


def alerts(**changes: Any) -> AlertSettings:
    return AlertSettings.model_validate({"topic": "alerts", "quiet_for": "5m", **changes})


class Feed:
    """Incidents of one partition, and the table of its entities."""

    def __init__(self, settings: AlertSettings, max_entities: int = 10) -> None:
        self._settings, self.incidents = settings, Incidents(settings)
        self._table = EntityTable(max_entities)
        self._seen = 0

    def take(self, batch: Sequence[Row]) -> list[Transition]:
        """Transitions, rows counted from the first batch on."""
        if not batch:
            return []
        start, self._seen = self._seen, self._seen + len(batch)
        columns = columns_of(batch, start)
        visits = self._table.locate(columns.entity)
        found = self.incidents.update(columns, decided(batch, start), visits, Late.none(len(batch)))
        return [transition._replace(row=transition.row + start) for transition in found]

    def restart(self) -> None:
        """Goes on from what was remembered."""
        state = unpack(pack(self.incidents.to_state(np.arange(len(self._table)))))
        self.incidents = Incidents(self._settings)
        self.incidents.restore(state)


def columns_of(batch: Sequence[Row], start: int) -> Columns:
    n = len(batch)
    return Columns(
        row=np.arange(n),
        partitions=(Partition("t", 0),),
        partition=np.zeros(n, np.int32),
        offsets=np.arange(start, start + n),
        time=np.array([row.minute * MINUTE for row in batch], np.int64),
        entity=np.array([row.entity for row in batch], object),
        numbers={},
        texts={},
    )


def decided(batch: Sequence[Row], start: int) -> Decided:
    marks = np.array([row.mark for row in batch])
    elevated = np.isin(marks, ["+", "!", "D"])
    number = np.arange(start, start + len(batch))
    nats = np.where(elevated, 10.0 + number, 1.0)
    return Decided(
        static_nats=nats,
        nats=nats,
        level=np.full(len(batch), 5.0),
        static_level=np.full(len(batch), 5.0),
        scale=np.ones(len(batch)),
        alarm=marks == "!",
        elevated=elevated,
        drift=np.select([marks == "D", marks == "C"], [NEW_REGIME, SLOW_CREEP]).astype(np.uint8),
        model=np.array([f"model {row % 2}" for row in number], object),
        rank=np.array([row.rank for row in batch], np.int64),
    )


def told(text: str, **changes: Any) -> list[str]:
    """What is told of the rows, each like `3 opened a`."""
    return [f"{it.row} {it.kind} {it.incident.entity}" for it in Feed(alerts(**changes)).take(rows(text))]


def test_neighbouring_elevated_records_of_an_entity_are_one_incident() -> None:
    assert told("a0! a1+ a4! a5.") == ["0 opened a"]


def test_an_elevated_record_alone_opens_nothing() -> None:
    assert told("a0+ a1+") == []


def test_an_incident_resolves_at_the_first_record_after_the_quiet_time() -> None:
    assert told("a0! a4. a5. a6.") == ["0 opened a", "2 resolved a"]


def test_an_alarm_after_the_quiet_time_closes_one_incident_and_opens_the_next() -> None:
    assert told("a0! a9!") == ["0 opened a", "1 resolved a", "1 opened a"]


def test_entities_do_not_touch_each_other() -> None:
    assert told("a0! b9! b90. a2.") == ["0 opened a", "1 opened b", "2 resolved b"]


def test_entities_that_differ_in_a_trailing_nul_only_are_two() -> None:
    found = Feed(alerts()).take([Row("a", 0, "!"), Row("a\0", 1, "!")])
    assert [(it.kind, it.incident.entity) for it in found] == [("opened", "a"), ("opened", "a\0")]


def test_each_rise_of_severity_escalates_once() -> None:
    found = Feed(alerts()).take(rows("a0! a2. a1+1 a3+0 a1+1 a2+2"))
    assert [(it.row, it.kind) for it in found] == [(0, "opened"), (2, "escalated"), (5, "escalated")]
    assert [it.incident.rank for it in found] == [0, 1, 2]
    assert [it.incident.records for it in found] == [1, 2, 5]


def test_an_incident_that_goes_on_is_told_again_after_so_long() -> None:
    text = "a0! a3+ a6+ a9+ a12+1 a15+ a18+"
    assert told(text, remind_after="6m") == ["0 opened a", "2 reminded a", "4 escalated a", "6 reminded a"]
    assert told(text) == ["0 opened a", "4 escalated a"]


def test_the_time_of_a_reminder_is_remembered_from_batch_to_batch() -> None:
    feed = Feed(alerts(remind_after="6m"))
    found = [it for text in ("a0! a3+ a6+", "a8+ a11+ a12+") for it in feed.take(rows(text))]
    assert [(it.row, it.kind) for it in found] == [(0, "opened"), (2, "reminded"), (5, "reminded")]


def test_after_an_incident_an_entity_cools_down_before_the_next() -> None:
    text = "a0! a5. a6! a14! a15!"
    assert told(text, cooldown="10m") == ["0 opened a", "1 resolved a", "4 opened a"]
    assert told(text, quiet_for="2m") == [
        "0 opened a", "1 resolved a", "2 opened a", "3 resolved a", "3 opened a",
    ]  # fmt: skip


def test_where_confirmation_is_asked_so_many_of_the_last_records_must_be_beyond_the_level_and_one_an_alarm() -> None:
    confirm = {"records": 2, "of": 3}
    assert told("a0! a1. a2. a3!", confirm=confirm) == []
    assert told("a0! a1. a2+", confirm=confirm) == ["2 opened a"]
    assert told("a0+ a1+ a2+ a3!", confirm=confirm) == ["3 opened a"]
    assert told("a0! b1! b2. a2!", confirm=confirm) == ["3 opened a"]


def test_a_record_below_the_level_never_opens_an_incident() -> None:
    assert told("a0! a1! a9.", confirm={"records": 2, "of": 5}) == ["1 opened a", "2 resolved a"]


def test_a_new_regime_is_told_once_and_ends_the_incident() -> None:
    incidents = Feed(alerts())
    found = incidents.take(rows("a0! a1+ a2D a3. a4. a9."))
    assert [(it.row, it.kind) for it in found] == [(0, "opened"), (2, "drift")]
    assert found[1].incident.opened_offset == 0
    assert found[1].incident.records == 3
    assert not incidents.incidents.open


def test_a_new_regime_without_an_incident_and_a_slow_creep_are_told_of_their_record() -> None:
    found = Feed(alerts()).take(rows("a0. a1D b2C b3."))
    assert [(it.row, it.kind, it.incident.opened_offset) for it in found] == [(1, "drift", 1), (2, "creep", 2)]


def test_a_slow_creep_leaves_an_incident_open() -> None:
    assert told("a0! a1C a6.") == ["0 opened a", "1 creep a", "2 resolved a"]


def test_an_entity_that_falls_silent_stays_open() -> None:
    feed = Feed(alerts())
    feed.take(rows("a0! b500."))
    assert [incident.entity for incident in feed.incidents.open] == ["a"]


def test_an_entity_that_is_forgotten_leaves_no_incident_behind() -> None:
    feed = Feed(alerts(), max_entities=2)
    assert [it.kind for it in feed.take(rows("a0! b1."))] == ["opened"]
    (resolved,) = feed.take(rows("c2. a3+"))
    assert (resolved.row, resolved.kind, resolved.incident.entity) == (2, "resolved", "a")
    assert not feed.incidents.open


def test_an_entity_does_not_cool_down_for_the_one_that_had_its_place() -> None:
    feed = Feed(alerts(cooldown="60m"), max_entities=1)
    kinds = [(it.kind, it.incident.entity) for text in ("a0! a5.", "b6.", "b7!") for it in feed.take(rows(text))]
    assert kinds == [("opened", "a"), ("resolved", "a"), ("opened", "b")]


def test_a_resolved_incident_knows_its_peak_and_its_records() -> None:
    resolved = Feed(alerts()).take(rows("a0! a1. a2+ a20."))[-1].incident
    assert (resolved.records, resolved.peak, resolved.peak_model) == (2, 12.0, "model 0")


def test_one_record_from_the_far_future_does_not_silence_its_entity() -> None:
    assert told(f"a{10**9}! a2. a3! a4!") == ["0 opened a", "1 resolved a", "2 opened a"]


def test_records_that_are_a_little_late_do_not_end_an_incident() -> None:
    assert told("a100! a97. a98+ a102.") == ["0 opened a"]


@dataclass
class Seen:
    """What the naive model remembers of an entity; times in minutes."""

    recent: deque[str]
    opened: int | None = None
    last: int = 0
    records: int = 0
    peak: float = 0.0
    rank: int = 0
    told: int = 0
    cooled: float = -np.inf


@dataclass
class OneByOne:
    """The same rules, one record at a time; gives (row, kind, entity, opened, records, peak, rank)."""

    settings: AlertSettings
    max_entities: int
    entities: OrderedDict[str, Seen] = field(default_factory=OrderedDict)

    def take(self, batch: Sequence[Row]) -> list[tuple[object, ...]]:
        return [(number, *it) for number, row in enumerate(batch) for it in self._see(row, 10.0 + number)]

    def _see(self, row: Row, nats: float) -> Iterator[tuple[object, ...]]:
        def minutes(seconds: float | None) -> float:
            return np.inf if seconds is None else seconds / 60

        asked, elevated = self.settings, row.mark in "+!D"
        if row.entity not in self.entities:
            if len(self.entities) == self.max_entities:
                name, forgotten = self.entities.popitem(last=False)
                if forgotten.opened is not None:
                    yield self._tell("resolved", name, forgotten)
            self.entities[row.entity] = Seen(deque(maxlen=asked.confirm.of))
        self.entities.move_to_end(row.entity)
        seen = self.entities[row.entity]
        seen.recent.append(row.mark)
        if seen.opened is not None and abs(row.minute - seen.last) >= minutes(asked.quiet_for):
            yield self._tell("resolved", row.entity, seen)
            seen.opened, seen.cooled = None, row.minute
        if seen.opened is not None and elevated:
            seen.last, seen.records, seen.peak = row.minute, seen.records + 1, max(seen.peak, nats)
            kind = (
                "escalated"
                if row.rank > seen.rank
                else "reminded" * (row.minute - seen.told >= minutes(asked.remind_after))
            )
            seen.rank = max(seen.rank, row.rank)
            if kind:
                seen.told = row.minute
                yield self._tell(kind, row.entity, seen)
        beyond = sum(mark in "+!D" for mark in seen.recent)
        confirmed = elevated and beyond >= asked.confirm.records and "!" in seen.recent
        if seen.opened is None and confirmed and abs(row.minute - seen.cooled) >= minutes(asked.cooldown or 0):
            self._open(seen, row, nats)
            yield self._tell("opened", row.entity, seen)
        if row.mark == "D":
            if seen.opened is None:
                self._open(seen, row, nats)
            yield self._tell("drift", row.entity, seen)
            seen.opened = None
        if row.mark == "C":
            yield "creep", row.entity, row.minute, 1, 1.0, row.rank

    def _open(self, seen: Seen, row: Row, nats: float) -> None:
        seen.opened = seen.last = seen.told = row.minute
        seen.records, seen.peak, seen.rank = 1, nats, row.rank

    def _tell(self, kind: str, entity: str, seen: Seen) -> tuple[object, ...]:
        return kind, entity, seen.opened, seen.records, seen.peak, seen.rank


def streamed(steps: list[tuple[str, int, str, int]]) -> list[Row]:
    """Rows of these entities, minutes since the one before, marks and ranks."""
    minutes = np.cumsum([100, *(step for _, step, _, _ in steps)])[1:].tolist()
    return [Row(entity, minute, mark, rank) for minute, (entity, _, mark, rank) in zip(minutes, steps, strict=True)]


step_strategy = st.sampled_from([0, 1, 1, 1, 2, 3, -2, 15])
stream_strategy = st.lists(
    st.tuples(st.sampled_from("aaabcd"), step_strategy, st.sampled_from("..++++!!!DC"), st.sampled_from([0, 0, 1, 2])),
    max_size=60,
).map(streamed)
settings_strategy = st.builds(
    lambda quiet, cooldown, remind, confirm: alerts(
        quiet_for=f"{quiet}m",
        cooldown=cooldown and f"{cooldown}m",
        remind_after=remind and f"{remind}m",
        confirm={"records": min(confirm), "of": max(confirm)},
    ),
    st.integers(1, 8),
    st.sampled_from([None, 3, 10]),
    st.sampled_from([None, 2, 6]),
    st.tuples(st.integers(1, 3), st.integers(1, 4)),
)


@hypothesis(deadline=None)
@given(stream_strategy, st.lists(st.integers(0, 60), max_size=6), settings_strategy, st.data())
def test_any_split_into_batches_and_any_restart_give_what_one_record_at_a_time_gives(
    stream: list[Row], cuts: list[int], settings: AlertSettings, data: st.DataObject
) -> None:
    max_entities = data.draw(st.integers(1, 5))
    feed = Feed(settings, max_entities)
    edges = sorted({0, len(stream), *(cut for cut in cuts if cut < len(stream))})
    found = []
    for start, stop in pairwise(edges):
        found += feed.take(stream[start:stop])
        feed.restart()
    assert [
        (t.row, t.kind, t.incident.entity, t.incident.opened // MINUTE, t.incident.records, t.incident.peak,
         t.incident.rank)
        for t in found
    ] == OneByOne(settings, max_entities).take(stream)  # fmt: skip


@hypothesis(deadline=None)
@given(stream_strategy, st.integers(0, 60), settings_strategy)
def test_what_an_incident_carries_depends_neither_on_the_split_nor_on_a_restart(
    stream: list[Row], cut: int, settings: AlertSettings
) -> None:
    whole, halves = Feed(settings), Feed(settings)
    expected, first = whole.take(stream), halves.take(stream[:cut])
    halves.restart()
    assert first + halves.take(stream[cut:]) == expected

    def by_entity(feed: Feed) -> list[Any]:
        return sorted(feed.incidents.open, key=lambda incident: incident.entity)

    assert by_entity(halves) == by_entity(whole)
