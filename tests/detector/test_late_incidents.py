from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis
from hypothesis import strategies as st

from detector.config import AlertSettings
from detector.incidents import Decided, Incidents, Record, Transition
from detector.recursion import NEW_REGIME, SLOW_CREEP
from detector.snapshot import pack, unpack
from tests.detector.lateness import MINUTE, Feed, OneByOne, Row, columns, encoder, streams


def alerts(**changes: Any) -> AlertSettings:
    return AlertSettings.model_validate({"topic": "alerts", "quiet_for": "5m", **changes})


def decided(rows: Sequence[Row], start: int) -> Decided:
    marks, number = np.array([row.mark for row in rows]), np.arange(start, start + len(rows))
    elevated = np.isin(marks, ["+", "!", "D"])
    nats = np.where(elevated, 10.0 + number, 1.0)
    return Decided(
        static_nats=nats,
        nats=nats,
        level=np.full(len(rows), 5.0),
        static_level=np.full(len(rows), 5.0),
        scale=np.ones(len(rows)),
        alarm=marks == "!",
        elevated=elevated,
        drift=np.select([marks == "D", marks == "C"], [NEW_REGIME, SLOW_CREEP]).astype(np.uint8),
        model=np.array([f"model {row % 2}" for row in number], object),
        rank=np.array([row.rank for row in rows], np.int64),
    )


class Watch:
    """Incidents on top of the windows of three records that a partition remembers."""

    def __init__(self, settings: AlertSettings, max_entities: int = 10) -> None:
        self.feed, self.incidents, self._settings = Feed(encoder(3), max_entities), Incidents(settings), settings

    def take(self, rows: Sequence[Row]) -> list[Transition]:
        """Transitions, rows counted from the first batch on."""
        start, data = self.feed.seen, columns(rows, self.feed.seen)
        visits = self.feed.table.locate(data.entity)
        _, late = self.feed.history.windows(data, visits)
        self.feed.seen += len(rows)
        found = self.incidents.update(data, decided(rows, start), visits, late)
        return [transition._replace(row=transition.row + start) for transition in found]

    def restart(self) -> None:
        """Goes on from what was remembered."""
        self.feed.restart()
        state = unpack(pack(self.incidents.to_state(np.arange(len(self.feed.table)))))
        self.incidents = Incidents(self._settings)
        self.incidents.restore(state)


def rows(text: str) -> list[Row]:
    """Rows written like `a0! a1+2`: entity, minute, mark and rank."""
    found = (re.fullmatch(r"(\D)(\d+)([.+!DC])(\d?)", word) for word in text.split())
    return [Row(it[1], int(it[2]), 0.0, it[3], int(it[4] or 0)) for it in found if it]


def told(text: str, **changes: Any) -> list[str]:
    """What is told, each like `3 opened a`; with the offset of the record where that is another one."""
    return [
        f"{it.row} {it.kind} {it.incident.entity}" + (f" of {it.again.record.offset}" if it.again else "")
        for it in Watch(alerts(**changes)).take(rows(text))
    ]


def test_a_late_elevated_record_amends_the_open_incident() -> None:
    found = Watch(alerts()).take(rows("a0. a10! a12+ a14. a11+ a13+"))
    assert [(it.row, it.kind) for it in found][:2] == [(1, "opened"), (4, "amended")]
    last = found[-1].incident
    assert (last.records, last.opened, last.last_elevated) == (4, 10 * MINUTE, 13 * MINUTE)


def test_a_late_record_moves_the_opening_back_and_leaves_the_incident_its_identity() -> None:
    opened, amended = (it.incident for it in Watch(alerts()).take(rows("a1. a10! a8+")) if not it.again)
    assert (amended.opened, amended.first, amended.opened_offset) == (8 * MINUTE, 10 * MINUTE, 1)
    assert (amended.first, amended.opened_offset) == (opened.first, opened.opened_offset)


def test_a_late_record_of_higher_severity_escalates_the_open_incident() -> None:
    found = Watch(alerts()).take(rows("a10! a14. a11+2"))
    assert [(it.row, it.kind, it.incident.rank, it.incident.peak) for it in found] == [
        (0, "opened", 0, 10.0),
        (2, "escalated", 2, 12.0),
    ]


def test_a_late_record_in_the_span_of_the_last_incident_amends_that_and_opens_none() -> None:
    watch = Watch(alerts())
    watch.take(rows("a10! a11+ a17."))
    (amended,) = watch.take(rows("a13!2"))
    assert (amended.kind, amended.incident.records, amended.incident.rank) == ("amended", 3, 2)
    assert (amended.incident.opened_offset, amended.incident.last_elevated) == (0, 13 * MINUTE)
    assert not watch.incidents.open
    (again,) = watch.take(rows("a12+"))
    assert again.incident.records == 4


def test_a_late_record_amends_the_incident_in_whose_span_it_lies() -> None:
    found = told("a10! a11+ a17! a19. a13! a16+ a14.")
    assert found[:4] == ["0 opened a", "2 resolved a", "2 opened a", "4 amended a"]
    watch = Watch(alerts())
    watch.take(rows("a10! a11+ a18! a19."))
    assert [it.incident.opened_offset for it in watch.take(rows("a12! a17+")) if not it.again] == [0, 2]


def test_the_span_of_an_incident_ends_where_the_quiet_time_does() -> None:
    watch = Watch(alerts(quiet_for="3m"))
    watch.take(rows("a10! a14."))
    assert [it.kind for it in watch.take(rows("a13!"))] == ["opened"]
    watch = Watch(alerts(quiet_for="3m"))
    watch.take(rows("a10! a14."))
    assert [it.kind for it in watch.take(rows("a7! a8+"))] == ["opened", "amended"]


def test_a_late_record_in_the_spans_of_two_incidents_amends_the_open_one() -> None:
    watch = Watch(alerts())
    watch.take(rows("a10! a11+ a17!"))
    assert [it.incident.opened_offset for it in watch.take(rows("a14+")) if not it.again] == [2]


def test_a_late_record_that_belongs_to_no_incident_opens_one_that_resolves_in_time() -> None:
    assert told("a0. a10. a3! a11.") == ["2 opened a", "3 resolved a"]


def test_a_late_record_farther_from_the_open_incident_than_the_quiet_time_still_belongs_to_it() -> None:
    assert told("a0. a4. a5. a10! a3! a11+") == ["3 opened a", "4 amended a"]


def test_a_late_record_below_the_level_resolves_nothing() -> None:
    assert told("a2. a5. a6. a10! a4. a11+") == ["3 opened a"]


def test_a_clock_set_back_ends_the_incident() -> None:
    assert told("a100! a80. a81!") == ["0 opened a", "1 resolved a", "2 opened a"]


@pytest.mark.parametrize("batches", [["b17.", "b12!"], ["b17. b12!"]])
def test_an_incident_is_not_amended_by_the_entity_that_took_its_place(batches: list[str]) -> None:
    watch = Watch(alerts(), max_entities=1)
    watch.take(rows("a10! a16."))
    assert [it.kind for text in batches for it in watch.take(rows(text))] == ["opened"]


def test_an_alert_is_amended_where_a_late_record_led_up_to_the_record_that_it_tells_of() -> None:
    assert told("a0. a1. a5! a3.") == ["2 opened a", "3 amended a of 2"]
    assert told("a0. a1. a5! a6+ a7+2 a4.") == ["2 opened a", "4 escalated a", "5 amended a of 2"]
    assert told("a0. a1. a5! a6+ a7+2 a6.") == ["2 opened a", "4 escalated a", "5 amended a of 4"]
    assert told("a0. a5! a11. a4.") == ["1 opened a", "2 resolved a"]


def test_a_late_record_that_was_told_as_a_rise_of_severity_is_amended_too() -> None:
    assert told("a0. a5! a3+2 a2.") == [
        "1 opened a", "2 escalated a", "2 amended a of 1", "3 amended a of 2", "3 amended a of 1",
    ]  # fmt: skip


def test_all_that_was_told_of_an_incident_can_be_amended_after_a_restart() -> None:
    watch = Watch(alerts())
    watch.take(rows("a0. a10! a12+2"))
    watch.restart()
    assert [it.again.record for it in watch.take(rows("a9.")) if it.again] == [
        Record(offset, minute * MINUTE, dict.fromkeys(("cpu", "sent", "level"), 0.0), {"route": "r0"})
        for offset, minute in ((1, 10), (2, 12))
    ]


def test_each_late_record_amends_an_alert_once() -> None:
    assert told("a0. a5! a3. a4.") == ["1 opened a", "2 amended a of 1", "3 amended a of 1"]


def test_a_late_record_may_amend_as_itself_and_an_alert_that_it_leads_up_to() -> None:
    assert told("a0. a5! a4+") == ["1 opened a", "2 amended a", "2 amended a of 1"]


@dataclass
class Trouble:
    """What the naive model remembers of an incident; times in minutes."""

    entity: str
    first: int
    offset: int
    opened: int
    last: int
    peak: float
    rank: int
    records: int = 1
    alerted: list[int] = field(default_factory=list)

    def add(self, row: Row, nats: float) -> bool:
        rises = row.rank > self.rank
        self.records, self.peak, self.rank = self.records + 1, max(self.peak, nats), max(self.rank, row.rank)
        return rises

    def spans(self, minute: int, quiet: float) -> bool:
        return self.opened - quiet < minute < self.last + quiet


@dataclass
class TroubleByOne:
    """The rules for incidents by the letter."""

    settings: AlertSettings
    open: dict[str, Trouble] = field(default_factory=dict)
    ended: dict[str, tuple[Trouble, int]] = field(default_factory=dict)
    told: list[tuple[object, ...]] = field(default_factory=list)

    def see(self, number: int, row: Row, late: bool, again: Sequence[int]) -> None:
        if late and row.mark in "+!D":
            self._late(number, row)
        elif not late:
            self._in_order(number, row)
        trouble = self.open.get(row.entity)
        for offset in again if trouble else ():
            if trouble and offset in trouble.alerted:
                self._tell(number, "amended", trouble, offset)
        if row.mark == "D":
            self._tell(number, "drift", trouble or self._new(number, row))
            self.open.pop(row.entity, None)
        if row.mark == "C":
            self._tell(number, "creep", self._new(number, row))

    def forget(self, number: int, entity: str) -> None:
        self.ended.pop(entity, None)
        if entity in self.open:
            self._tell(number, "resolved", self.open.pop(entity))

    def _in_order(self, number: int, row: Row) -> None:
        trouble = self.open.get(row.entity)
        if trouble and abs(row.minute - trouble.last) >= self.settings.quiet_for / 60:
            self._tell(number, "resolved", trouble)
            self.ended[row.entity] = self.open.pop(row.entity), row.minute
            trouble = None
        if trouble and row.mark in "+!D":
            trouble.last = row.minute
            if trouble.add(row, 10.0 + number):
                self._tell(number, "escalated", trouble)
                trouble.alerted.append(number)
        elif not trouble:
            self._open(number, row)

    def _late(self, number: int, row: Row) -> None:
        quiet = self.settings.quiet_for / 60
        trouble, (ended, _) = self.open.get(row.entity), self.ended.get(row.entity, (None, 0))
        if ended and ended.spans(row.minute, quiet) and not (trouble and trouble.spans(row.minute, quiet)):
            self._back(ended, number, row)
            self._tell(number, "amended", ended)
        elif trouble:
            rises = self._back(trouble, number, row)
            self._tell(number, "escalated" if rises else "amended", trouble)
            trouble.alerted += [number] * rises
        else:
            self._open(number, row)

    def _back(self, trouble: Trouble, number: int, row: Row) -> bool:
        trouble.opened, trouble.last = min(trouble.opened, row.minute), max(trouble.last, row.minute)
        return trouble.add(row, 10.0 + number)

    def _open(self, number: int, row: Row) -> None:
        cooled = (
            row.entity not in self.ended
            or abs(row.minute - self.ended[row.entity][1]) >= (self.settings.cooldown or 0) / 60
        )
        if row.mark == "!" and cooled:
            self.open[row.entity] = self._new(number, row)
            self._tell(number, "opened", self.open[row.entity])

    def _new(self, number: int, row: Row) -> Trouble:
        nats = 1.0 if row.mark == "C" else 10.0 + number
        return Trouble(row.entity, row.minute, number, row.minute, row.minute, nats, row.rank, alerted=[number])

    def _tell(self, number: int, kind: str, it: Trouble, again: int | None = None) -> None:
        self.told.append(
            (number, kind, it.entity, it.first, it.offset, it.opened, it.last, it.records, it.peak, it.rank, again)
        )


def plain(transition: Transition) -> tuple[object, ...]:
    row, kind, it, again = transition
    return (
        *(row, kind, it.entity, it.first // MINUTE, it.opened_offset, it.opened // MINUTE, it.last_elevated // MINUTE),
        *(it.records, it.peak, it.rank, again.record.offset if again else None),
    )


marked = {"mark": st.sampled_from("...++!!DC"), "rank": st.integers(0, 2)}
settings_strategy = st.builds(
    lambda quiet, cooldown: alerts(quiet_for=f"{quiet}m", cooldown=cooldown and f"{cooldown}m"),
    st.sampled_from([1, 3, 5, 15]),
    st.sampled_from([None, 3, 8]),
)


@hypothesis(deadline=None)
@given(streams(**marked), st.lists(st.integers(0, 60)), settings_strategy, st.integers(1, 2))
def test_incidents_with_late_records_depend_neither_on_the_split_nor_on_restarts(
    stream: list[Row], cuts: list[int], settings: AlertSettings, max_entities: int
) -> None:
    watch, one_by_one = Watch(settings, max_entities), OneByOne(encoder(3), max_entities)
    expected = TroubleByOne(settings)
    for number, row in enumerate(stream):
        before, scored = set(one_by_one.entities), len(one_by_one.again)
        one_by_one.take(row)
        for entity in before - set(one_by_one.entities):
            expected.forget(number, entity)
        expected.see(number, row, one_by_one.late[-1], [offset for _, offset in one_by_one.again[scored:]])
    edges = sorted({0, len(stream), *(cut for cut in cuts if cut < len(stream))})
    found = []
    for start, stop in pairwise(edges):
        found += watch.take(stream[start:stop])
        watch.restart()
    assert [plain(it) for it in found] == expected.told
