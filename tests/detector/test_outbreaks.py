from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from consumers.batch import Columns, Partition
from detector.entities import EntityTable
from detector.incidents import Incident, Transition, TransitionKind
from detector.outbreaks import MOST_NAMES, PATIENCE, Outbreak, Outbreaks
from detector.snapshot import pack, unpack
from detector.traits import LONGEST_TEXT, MOST_COMMON, NAME, REFRESH, Common

SECOND, MINUTE, YEAR = 1_000, 60_000, 365 * 86_400_000
RARE = 1e-9
"""A promise by which no opening is expected."""
KINDS: dict[str, TransitionKind] = {
    "!": "opened", "+": "escalated", "~": "reminded", "/": "resolved", "D": "drift", "C": "creep",
}  # fmt: skip


class Row(NamedTuple):
    """A record, and what it does to the incident of its entity: `/!` ends it and opens another."""

    entity: str
    time: int
    marks: str = ""
    rank: int = 0
    texts: Mapping[str, str | None] = {}


class Feed:
    """Outbreaks of one partition behind entities whose incidents do as the marks of the rows say."""

    def __init__(
        self, *, entities: int = 5, remind: int | None = None, promised: float = RARE, max_entities: int = 10_000
    ) -> None:
        self._make = partial(Outbreaks, entities=entities, within_ms=MINUTE, quiet_ms=5 * MINUTE, remind_ms=remind)
        self.outbreaks = self._make()
        self._promised = promised
        self._table = EntityTable(max_entities)
        self._open: dict[int, Incident] = {}
        self._seen = 0

    def take(self, rows: Sequence[Row]) -> list[Transition]:
        """What is told, rows counted from the first batch on."""
        if not rows:
            return []
        start, self._seen = self._seen, self._seen + len(rows)
        columns = columns_of(rows, start)
        visits = self._table.locate(columns.entity)
        found = [it for row in range(len(rows)) for it in self._become(row, rows[row], start, visits)]
        told = self.outbreaks.update(columns, found, np.full(len(rows), self._promised), visits)
        return [transition._replace(row=transition.row + start) for transition in told]

    def restart(self, *slots: int) -> None:
        """Goes on from what was remembered, of the entities in these slots if any."""
        state = unpack(self.packed(*slots))
        self.outbreaks = self._make()
        self.outbreaks.restore(state)

    def packed(self, *slots: int) -> bytes:
        return pack(self.outbreaks.to_state(np.array(slots or range(len(self._table)), np.int64)))

    def _become(self, row: int, it: Row, start: int, visits: Any) -> list[Transition]:
        slot, found = int(visits.slot[row]), list[Transition]()
        if visits.fresh[row] and slot in self._open:
            found.append(Transition(row, "resolved", self._open.pop(slot)))
        for kind in map(KINDS.__getitem__, it.marks):
            incident = self._open.get(slot, opened(it, start + row))
            if kind not in ("opened", "drift", "creep") and slot not in self._open:
                continue
            if kind == "escalated":
                incident = replace(incident, records=incident.records + 1, peak=9.0 + it.rank, rank=it.rank)
            if kind == "opened" and slot in self._open:
                continue
            if kind in ("opened", "escalated"):
                self._open[slot] = incident
            if kind in ("resolved", "drift"):
                self._open.pop(slot, None)
            found.append(Transition(row, kind, incident))
        return found


def opened(row: Row, offset: int) -> Incident:
    return Incident(
        entity=row.entity,
        first=row.time,
        opened=row.time,
        opened_offset=offset,
        last_elevated=row.time,
        records=1,
        peak=9.0 + row.rank,
        peak_model="gmm",
        rank=row.rank,
        told=row.time,
    )


def columns_of(rows: Sequence[Row], start: int) -> Columns:
    n = len(rows)

    def texts(of: Callable[[Row], str | None]) -> NDArray[np.object_]:
        return np.array([of(row) for row in rows], object)

    return Columns(
        row=np.arange(n),
        partitions=(Partition("t", 0),),
        partition=np.zeros(n, np.int32),
        offsets=np.arange(start, start + n),
        time=np.array([row.time for row in rows], np.int64),
        entity=texts(lambda row: row.entity),
        numbers={},
        texts={
            "rack": texts(lambda row: row.texts.get("rack")),
            "zone": texts(lambda row: row.texts.get("zone")),
            "sort": texts(lambda row: row.texts.get("sort")),
        },
    )


def machine(number: int) -> tuple[str, dict[str, str | None]]:
    """One of ten in a rack; six of ten racks are in the north, and all machines are of one sort."""
    rack = number // 10
    return f"m{number}", {"rack": f"r{rack}", "zone": "north" if rack % 2 or rack == 4 else "south", "sort": "web"}


def fleet(minutes: range, marks: Mapping[tuple[int, int], str] | None = None, machines: int = 100) -> list[Row]:
    """A record a minute of each machine; `marks` by minute and number of the machine."""
    return [
        Row(machine(number)[0], minute * MINUTE + number * MINUTE // machines, mark.rstrip("12"),
            int(mark[-1]) if mark[-1:] in ("1", "2") else 0, machine(number)[1])
        for minute in minutes
        for number in range(machines)
        for mark in [(marks or {}).get((minute, number), "")]
    ]  # fmt: skip


def outbreaks_in(told: Sequence[Transition]) -> list[tuple[str, Outbreak]]:
    return [(it.kind, it.incident) for it in told if isinstance(it.incident, Outbreak)]


def singles_in(told: Sequence[Transition]) -> list[tuple[str, str]]:
    return [(it.kind, it.incident.entity) for it in told if not isinstance(it.incident, Outbreak)]


RACK_7 = range(70, 80)
FAILS = {(5, number): "!" for number in RACK_7}
RECOVERS = {(20, number): "/" for number in RACK_7}


def test_a_rack_that_fails_is_one_incident_that_names_the_rack() -> None:
    told = Feed().take(fleet(range(30), FAILS | RECOVERS))
    (first, whole), *_, (last, over) = outbreaks_in(told)
    assert (first, last) == ("opened", "resolved")
    assert whole.common == (Common("rack", "r7", 1.0, 5 / 95),)
    assert over.common == (Common("rack", "r7", 1.0, 0.0),)
    assert over.names == tuple(f"m{number}" for number in RACK_7)
    assert (whole.entity, whole.members, over.members) == ("", 5, 10)
    assert Counter(kind for kind, _ in outbreaks_in(told)) == {"opened": 1, "escalated": 1, "resolved": 1}


def test_only_who_was_told_before_is_told_by_itself_and_then_its_end_is_told_too() -> None:
    told = Feed().take(fleet(range(30), FAILS | RECOVERS))
    first = [f"m{number}" for number in range(70, 74)]
    assert singles_in(told) == [("opened", name) for name in first] + [("resolved", name) for name in first]


def test_the_outbreak_is_the_incident_of_the_record_that_completed_it() -> None:
    told = Feed().take(fleet(range(30), FAILS | RECOVERS))
    row = 5 * 100 + 74
    assert [it.row for it in told if it.kind == "opened"][-1] == row
    assert {(it.opened_offset, it.opened) for _, it in outbreaks_in(told)} == {(row, 5 * MINUTE + 74 * 600)}


def test_it_is_over_when_no_member_has_an_open_incident_and_none_opened_for_a_window() -> None:
    lasting = RECOVERS | {(20, 79): "", (25, 79): "/"}
    assert [it.row for it in Feed().take(fleet(range(30), FAILS | lasting)) if it.kind == "resolved"][-1] == 2_579
    short = Feed().take(fleet(range(30), {(5, number): "!/" for number in RACK_7} | {(8, 75): "!"}))
    over, again = ((it.row, it.kind, it.incident.entity) for it in short[-2:])
    assert (over, again) == ((680, "resolved", ""), (875, "opened", "m75"))


def test_growth_is_not_told_of_what_is_over() -> None:
    rows = fleet(range(6), {(5, number): "!/" for number in RACK_7})
    gap = [row._replace(time=row.time + 10 * MINUTE) for row in fleet(range(6, 8))]
    assert [kind for kind, _ in outbreaks_in(Feed().take([*rows, *gap]))] == ["opened", "resolved"]


def test_who_opened_before_the_window_is_no_member() -> None:
    told = Feed().take(fleet(range(30), FAILS | RECOVERS | {(2, 3): "!", (9, 3): "/"}))
    assert [it for it in singles_in(told) if it[1] == "m3"] == [("opened", "m3"), ("resolved", "m3")]
    assert outbreaks_in(told)[-1][1].members == 10


def test_who_comes_in_the_place_of_a_forgotten_member_is_no_member() -> None:
    feed = Feed(max_entities=10)
    feed.take([Row(f"m{number}", number * SECOND, "!") for number in range(10)])
    told = feed.take([Row("new", 2 * MINUTE), Row("m9", 3 * MINUTE), Row("new", 4 * MINUTE, "!")])
    assert singles_in(told) == [("resolved", "m0"), ("opened", "new")]


def test_who_fails_in_the_place_of_a_forgotten_member_counts_beside_it() -> None:
    rows = [Row(f"m{number}", number * SECOND, "!") for number in range(15)]
    told = Feed(max_entities=10).take([*rows, Row("m14", 2 * MINUTE), Row("m13", 2 * MINUTE)])
    assert [(kind, it.members) for kind, it in outbreaks_in(told)] == [("opened", 5), ("escalated", 15)]


def test_who_comes_in_the_place_of_a_forgotten_entity_is_looked_at_at_once() -> None:
    rows = [Row(f"old{number}", 0, "", 0, {"rack": "r1"}) for number in range(20)]
    rows += [Row(f"new{number}", MINUTE, "", 0, {"rack": "r2"}) for number in range(20)]
    rows += [Row(f"new{number}", MINUTE, "!", 0, {"rack": "r2"}) for number in range(5)]
    assert outbreaks_in(Feed(max_entities=20).take(rows))[0][1].common == ()


def test_all_at_once_is_a_handful_of_alerts() -> None:
    everybody = fleet(range(60), {(30, number): "!" for number in range(1_000)}, machines=1_000)
    told = Feed().take([row._replace(time=row.time // MINUTE * MINUTE) for row in everybody])
    assert singles_in(told) == [("opened", f"m{number}") for number in range(4)]
    assert [(kind, it.members) for kind, it in outbreaks_in(told)] == [("opened", 5), ("escalated", 1_000)]
    assert outbreaks_in(told)[-1][1].common == ()


@pytest.mark.parametrize("seed", range(4))
def test_openings_by_chance_are_never_an_outbreak(seed: int) -> None:
    entities, records, rate = 1_000, 1_000 * 1_440, 0.001
    names = np.array([f"m{number}" for number in range(entities)], object)
    alarms = np.flatnonzero(np.random.default_rng(seed).random(records) < rate)
    outbreaks, told = Outbreaks(entities=5, within_ms=MINUTE, quiet_ms=MINUTE, remind_ms=None), 0
    table = EntityTable(entities)
    for start in range(0, records, 96_000):
        number = np.arange(start, start + 96_000)
        columns = replace(
            columns_of([], 0),
            row=number - start,
            offsets=number,
            time=number * MINUTE // entities,
            entity=names[number % entities],
            texts={},
        )
        within = alarms[(alarms >= start) & (alarms < start + 96_000)].tolist()
        found = [
            Transition(row - start, "opened", opened(Row(names[row % entities], row * MINUTE // entities), row))
            for row in within
        ]
        told += len(outbreaks.update(columns, found, np.full(96_000, rate), table.locate(columns.entity)))
        assert not len(outbreaks)
    assert told == len(alarms)


@pytest.mark.parametrize(("openings", "outbreaks"), [(9, 0), (10, 1)])
def test_it_takes_more_than_the_promise_lets_expect(openings: int, outbreaks: int) -> None:
    """One opening is expected in the window: P(N ≥ 9) is 1.3e-6, P(N ≥ 10) is 1.4e-7."""
    marks = {(5, number): "!" for number in range(openings)}
    told = Feed(promised=0.01).take(fleet(range(7), marks))
    assert [kind for kind, _ in outbreaks_in(told)] == ["opened"] * outbreaks


def test_openings_further_apart_than_the_window_are_no_outbreak() -> None:
    marks = {(5 + number // 4 * 2, number): "!" for number in range(40)}
    assert outbreaks_in(Feed().take(fleet(range(30), marks))) == []


def test_an_entity_that_opens_twice_counts_once() -> None:
    rows = [Row(f"m{number % 4}", number * SECOND, "/!") for number in range(40)]
    told = Feed().take([Row("other", 0), *rows])
    assert outbreaks_in(told) == []
    assert len([it for it in told if it.kind == "opened"]) == 40


def test_one_entity_has_no_outbreaks_and_neither_has_a_stream_without_entities() -> None:
    for entity in ("m1", ""):
        told = Feed().take([Row(entity, number * SECOND, "/!") for number in range(60)])
        assert len(told) == 119
        assert outbreaks_in(told) == []


def test_a_failure_of_another_while_it_lasts_is_told_alone() -> None:
    told = Feed().take(fleet(range(30), FAILS | RECOVERS | {(10, 3): "!", (12, 3): "/"}))
    assert [it for it in singles_in(told) if it[1] == "m3"] == [("opened", "m3"), ("resolved", "m3")]
    assert outbreaks_in(told)[-1][1].members == 10


def test_others_that_fail_together_while_it_lasts_are_an_outbreak_of_their_own() -> None:
    others = {(10, number): "!" for number in range(20, 30)} | {(25, number): "/" for number in range(20, 30)}
    told = outbreaks_in(Feed().take(fleet(range(30), FAILS | RECOVERS | others)))
    assert [it.common[0].value for kind, it in told if kind == "opened"] == ["r7", "r2"]
    assert [(it.common[0].value, it.members) for kind, it in told if kind == "resolved"] == [("r7", 10), ("r2", 10)]


def test_a_member_that_opens_again_joins_it() -> None:
    again = {(20, 79): "", (21, 70): "!", (22, 70): "/", (23, 75): "!", (24, 75): "/", (25, 79): "/"}
    told = Feed().take(fleet(range(30), FAILS | RECOVERS | again))
    assert [it.row // 100 for it in told if it.kind == "opened"] == [5] * 5
    assert outbreaks_in(told)[-1][1].members == 10


def test_a_member_that_never_reports_again_leaves_it_open_but_silences_nobody() -> None:
    recovers = {at: mark for at, mark in RECOVERS.items() if at != (20, 79)}
    rows = fleet(range(60), FAILS | recovers | {(40, 70): "!", (41, 70): "/"})
    told = Feed().take([row for row in rows if row.entity != "m79" or row.time < 6 * MINUTE])
    assert [kind for kind, _ in outbreaks_in(told)] == ["opened", "escalated"]
    assert singles_in(told)[-2:] == [("opened", "m70"), ("resolved", "m70")]


def test_members_that_fail_together_anew_while_it_is_open_for_long_are_another_outbreak() -> None:
    recovers = {at: mark for at, mark in RECOVERS.items() if at != (20, 79)}
    told = Feed().take(fleet(range(50), FAILS | recovers | {(40, number): "!/" for number in range(70, 79)}))
    assert [(kind, it.members) for kind, it in outbreaks_in(told)[2:]] == [("opened", 5), ("resolved", 9)]


def test_a_member_that_opened_alone_in_between_and_then_joined_again_ends_with_the_others() -> None:
    rows = [Row(f"m{n}", 0, "!") for n in range(5)]
    rows += [Row("m0", MINUTE, "/"), Row("m1", 10 * MINUTE), Row("m0", 10 * MINUTE, "!"), Row("m0", 11 * MINUTE, "/")]
    rows += [Row("m1", 12 * MINUTE, "+", 2), Row("m0", 12 * MINUTE, "!"), Row("m0", 13 * MINUTE, "/")]
    rows += [Row(f"m{n}", 14 * MINUTE, "/") for n in range(1, 5)] + [Row(f"m{n}", 20 * MINUTE) for n in range(5)]
    assert outbreaks_in(Feed().take(rows))[-1][0] == "resolved"


def test_members_that_are_left_out_do_not_keep_it_open() -> None:
    feed = Feed()
    feed.take([Row(f"m{n}", n * SECOND, "!") for n in range(5)])
    feed.restart(3, 4)
    assert (len(feed.outbreaks), feed.outbreaks.slots) == (1, [0, 1])
    feed._table, feed._open = EntityTable(10), {slot - 3: it for slot, it in feed._open.items() if slot > 2}
    feed._table.locate(np.array(["m3", "m4"], object))
    told = feed.take([Row("m3", MINUTE, "/"), Row("m4", MINUTE, "/"), Row("m3", 9 * MINUTE), Row("m4", 9 * MINUTE)])
    assert [it.kind for it in told if isinstance(it.incident, Outbreak)] == ["resolved"]


def test_growth_is_told_when_members_have_doubled_at_most_once_a_window() -> None:
    grows = {(5 + number % 3, number): "!" for number in range(90)}
    told = Feed().take(fleet(range(12), grows))
    assert [kind for kind, _ in outbreaks_in(told)] == ["opened", "escalated", "escalated"]
    rows, found = zip(*((it.row, it.incident) for it in told if isinstance(it.incident, Outbreak)), strict=True)
    assert [it.members for it in found] == [5, 34, 68]
    assert all(later - earlier >= 100 for earlier, later in pairwise(rows))


def test_each_rise_of_severity_is_told_once() -> None:
    rises = {(7, 71): "+1", (7, 75): "+1", (8, 76): "+2", (9, 77): "+2"}
    told = outbreaks_in(Feed().take(fleet(range(12), FAILS | rises)))
    assert [(kind, it.rank) for kind, it in told if it.members == 10 and it.rank] == [
        ("escalated", 1),
        ("escalated", 2),
    ]
    assert singles_in(Feed().take(fleet(range(12), FAILS | rises))) == [("opened", f"m{n}") for n in range(70, 74)]
    told = outbreaks_in(Feed().take(fleet(range(6), FAILS | {(5, 77): "!2"})))
    assert [(kind, it.rank, it.members) for kind, it in told] == [("opened", 0, 5), ("escalated", 2, 8)]


def test_it_has_the_records_and_the_peak_of_all_members() -> None:
    over = outbreaks_in(Feed().take(fleet(range(30), FAILS | {(7, 71): "+1", (8, 76): "+2"} | RECOVERS)))[-1][1]
    assert (over.records, over.peak, over.rank) == (12, 11.0, 2)


def test_a_member_that_reminds_reminds_of_the_outbreak_once() -> None:
    reminds = {(minute, number): "~" for minute in (10, 12, 14, 18) for number in RACK_7}
    told = Feed(remind=5 * MINUTE).take(fleet(range(20), FAILS | reminds))
    assert [divmod(it.row, 100) for it in told if it.kind == "reminded"] == [(12, 70), (18, 70)]


def test_members_whose_trouble_is_the_new_normal_end_it_as_drift() -> None:
    drifts = {(20, number): "D" for number in RACK_7}
    told = Feed().take(fleet(range(30), FAILS | drifts))
    assert outbreaks_in(told)[-1][0] == "drift"
    assert [it for it in singles_in(told) if it[0] == "drift"] == [("drift", f"m{number}") for number in range(70, 74)]


def test_drift_of_an_entity_without_incident_and_slow_creep_are_told_by_themselves() -> None:
    told = Feed().take(fleet(range(30), FAILS | RECOVERS | {(7, 76): "/", (8, 3): "D", (8, 76): "D", (9, 75): "C"}))
    assert [it for it in singles_in(told) if it[0] in ("drift", "creep")] == [
        ("drift", "m3"), ("drift", "m76"), ("creep", "m75"),
    ]  # fmt: skip


@pytest.mark.parametrize("minutes", [range(30), range(7, 8)])
@pytest.mark.parametrize("wrong", [-20 * YEAR, -2 * MINUTE, 2 * MINUTE, 20 * YEAR])
def test_one_wrong_clock_changes_nothing(wrong: int, minutes: range) -> None:
    sparse = {(minute, number): "!" for minute in range(8, 30) for number in (minute, minute + 30)}
    rows = fleet(range(30), FAILS | RECOVERS | sparse)
    odd = [
        [row._replace(time=row.time + wrong)] * 3 if row.entity == "m65" and row.time // MINUTE in minutes else [row]
        for row in rows
    ]

    def told(rows: Sequence[Row]) -> list[tuple[str, str, int]]:
        return [(it.kind, it.incident.entity, it.incident.opened) for it in Feed().take(rows)]

    assert told([row for rows in odd for row in rows]) == told(rows)


def test_a_clock_that_two_entities_set_wrong_is_set_back() -> None:
    wrong = [Row(name, YEAR) for name in ("m50", "m51")]
    rows = fleet(range(60), FAILS | RECOVERS | {(40, number): "!/" for number in RACK_7})
    told = outbreaks_in(Feed().take([*rows[:500], *wrong, *rows[500:]]))
    assert len(rows) > 2 * PATIENCE
    assert [kind for kind, _ in told] == ["opened", "escalated", "resolved"] * 2


def test_records_that_are_late_by_less_than_the_window_do_not_make_time_run_faster() -> None:
    opens = [Row(f"m{number}", number * 10 * SECOND, "!") for number in range(5)]
    late = [[Row(f"m{n % 9}", row.time - 30 * SECOND) for n in range(int(PATIENCE) + 100)] for row in opens]
    rows = [it for row, behind in zip(opens, late, strict=True) for it in (row, Row("m9", row.time), *behind)]
    told = Feed().take(rows)
    assert [kind for kind, _ in outbreaks_in(told)] == ["opened"]


def test_beginnings_of_names_are_something_in_common() -> None:
    names = [f"eu.r{rack}-m{number}" for rack in range(10) for number in range(8)]
    names += [f"us.r{rack}-m{number}" for rack in range(10) for number in range(8)]

    def common(failing: str) -> list[tuple[str, str]]:
        rows = [Row(name, minute * MINUTE) for minute in range(3) for name in names]
        failed = [Row(name, 4 * MINUTE, "!") for name in names if name.startswith(failing)]
        last = [Row(name, 6 * MINUTE) for name in names]
        return [(it.field, it.value) for it in outbreaks_in(Feed().take([*rows, *failed, *last]))[-1][1].common]

    assert common("eu.r3-") == [(NAME, "eu.r3-*")]
    assert common("eu.") == [(NAME, "eu.*")]
    assert common("") == []
    names = [name for name in names if name.startswith(("us.", "eu.r3-"))]
    assert common("eu.r3-") == [(NAME, "eu.r3-*")]


def test_what_most_members_share_is_common_and_what_is_as_frequent_elsewhere_is_not() -> None:
    marks = {(5, number): "!" for number in (70, 71, 72, 73, 74, 75, 76, 77, 31, 51)}
    told = outbreaks_in(Feed().take(fleet(range(8), marks)))
    assert told[-1][1].common == (Common("rack", "r7", 0.8, 2 / 90),)
    marks = {(5, number): "!" for number in (70, 71, 72, 73, 74, 75, 76, 31, 32, 51)}
    assert outbreaks_in(Feed().take(fleet(range(8), marks)))[-1][1].common == ()


def test_the_most_telling_is_named_first() -> None:
    zone = {(5, number): "!" for rack in (1, 3, 5) for number in range(10 * rack, 10 * rack + 10)}
    assert [it.value for it in outbreaks_in(Feed().take(fleet(range(8), zone)))[-1][1].common] == ["north"]
    south = [row for row in fleet(range(8), FAILS) if row.texts["zone"] == "south" or row.texts["rack"] == "r7"]
    assert [it.value for it in outbreaks_in(Feed().take(south))[-1][1].common] == ["r7", "north"]


def test_what_an_entity_is_now_counts_and_of_others_what_they_were_lately() -> None:
    rows = fleet(range(3 + REFRESH))
    changed = [row._replace(texts={**row.texts, "sort": "new"}) if row.time >= 2 * MINUTE else row for row in rows]
    fails = [Row(f"m{number}", rows[-1].time, "!", 0, {"sort": "new"}) for number in range(0, 100, 11)]
    assert [it.common for _, it in outbreaks_in(Feed().take([*changed, *fails]))] == [()]
    fails = [row._replace(texts={"sort": "last"}) for row in fails]
    (common,) = outbreaks_in(Feed().take([*changed, *fails]))[0][1].common
    assert common == Common("sort", "last", 1.0, 0.0)


def test_texts_that_nobody_has_any_more_are_forgotten() -> None:
    feed = Feed()
    for day in range(30):
        rows = [
            Row(f"m{n}", day * MINUTE, "", 0, {"rack": None if day == 29 and n == 0 else f"{day}-{n}"})
            for n in range(100)
        ] * REFRESH
        feed.take(rows)
    texts = feed.outbreaks._traits._fields["rack"]
    assert len(texts.numbers) <= 2 * len(texts.of) + 100
    state = feed.outbreaks.to_state(np.arange(100))["traits"]
    (known, of), *_ = (
        it for *it, name in zip(state["texts"], state["of"], state["fields"], strict=True) if name == "rack"
    )
    assert [known[number] for number in of] == [None, *(f"29-{n}" for n in range(1, 100))]
    assert len(known) == 100


def test_long_texts_are_nobodys_common_property() -> None:
    def common(text: str) -> tuple[Common, ...]:
        rows = [Row(f"m{n}", 0) for n in range(20)]
        failed = [Row(f"m{n}", MINUTE, "!", 0, {"rack": text}) for n in range(5)]
        return outbreaks_in(Feed().take([*rows, *failed]))[0][1].common

    assert common("x" * LONGEST_TEXT) == (Common("rack", "x" * LONGEST_TEXT, 1.0, 0.0),)
    assert common("x" * (LONGEST_TEXT + 1)) == ()


def test_no_more_than_so_much_is_named() -> None:
    rows = [Row(f"m{n}", 0) for n in range(20)]
    failed = [Row(f"a-{n}", 0, "!", 0, {"rack": "x", "zone": "y", "sort": "z"}) for n in range(5)]
    assert len(outbreaks_in(Feed().take([*rows, *failed]))[0][1].common) == MOST_COMMON


def test_no_more_than_so_many_members_are_named() -> None:
    told = Feed().take(fleet(range(30), {(5, number): "!" for number in range(90)}))
    assert outbreaks_in(told)[-1][1].names == tuple(f"m{number}" for number in range(MOST_NAMES))


row_strategy = st.builds(
    lambda number, step, marks, rank, late: (number, step, marks, rank, late),
    st.integers(0, 9),
    st.sampled_from([0, 1, 5, 20, 70]),
    st.sampled_from(["", "", "!", "!", "/", "/!", "+", "~", "D", "C"]),
    st.integers(0, 2),
    st.sampled_from([0, 0, 0, -30, 200, 10**7]),
)


@settings(deadline=None, max_examples=200)
@given(
    st.lists(row_strategy, max_size=120),
    st.lists(st.integers(0, 120), max_size=8),
    st.integers(3, 12),
    st.sampled_from([RARE, 1e-3]),
)
def test_neither_where_batches_end_nor_a_restart_changes_what_is_told(
    stream: list[tuple[int, int, str, int, int]], cuts: list[int], max_entities: int, promised: float
) -> None:
    times = np.cumsum([step for _, step, *_ in stream])
    rows = [
        Row(f"r{number % 2}-m{number}", int(time + late) * SECOND, marks, rank, {"rack": f"r{number % 3}"})
        for time, (number, _, marks, rank, late) in zip(times, stream, strict=True)
    ]
    whole, parts = (Feed(entities=3, remind=2 * MINUTE, promised=promised, max_entities=max_entities) for _ in range(2))
    expected, found = whole.take(rows), list[Transition]()
    for start, stop in pairwise(sorted({0, len(rows), *(cut for cut in cuts if cut < len(rows))})):
        found += parts.take(rows[start:stop])
        parts.restart()
    assert found == expected
    assert parts.packed() == whole.packed()
