"""Novelties: a category that training never saw, a field that is gone, a field that comes with another JSON type.

They are told once for a whole partition, where a model would be surprised by every record that shows them. Each kind
has a third of the promised rate, on an account of its own. Pure and incremental: what is told depends on the records
alone, not on where batches end.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice, repeat
from operator import is_
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from consumers.batch import Columns
from consumers.faults import Fault
from detector.lapses import BURST, Account, Lapse, Lapses, Log, Moment, Trouble
from detector.novelty_rules import NoveltyKind, NoveltyRules
from detector.parts import Value
from detector.snapshot import State

MOST_TOLD = 1_000
"""Categories remembered as told; beyond it the one that was told first is forgotten."""
LONGEST_KEPT = 64
"""Characters up to which a category is remembered as it is; longer ones by their digest."""


class Finding(NamedTuple):
    """Something new, or (`resolved`) that it is over."""

    kind: NoveltyKind
    resolved: bool
    field: str
    observed: Value
    """The category; None of a missing field; the JSON type."""
    expected: Value
    """The usual value, None of an entity; the type that is wanted."""
    entity: str
    """Of the record with the category; empty where fields are concerned, which is nobody's own affair."""
    at: Moment
    opened: Moment
    """Where it was told first: joins a finding and its resolution. Fields lost at the same record share it."""


class Found(NamedTuple):
    """Findings in order of offset; and by field that is told to be gone the rows (n,) that lack it: an alarm on that
    account alone would repeat what is known."""

    findings: list[Finding]
    gone: dict[str, NDArray[np.bool_]]


class Novelty:
    """What one partition has told of novelties, and what it has evidence of."""

    def __init__(self, rules: NoveltyRules) -> None:
        self._rules = rules
        self._records = 0
        self._account = Account()
        self._told: dict[tuple[str, str], None] = {}
        self._missing, self._type = Lapses(), Lapses()

    def adopt(self, rules: NoveltyRules) -> None:
        """Another version takes over: what was told stays told, what is open stays open as far as it has the field."""
        self._rules = rules
        self._missing.keep(rules.concerns)

    def update(self, columns: Columns, x: NDArray[np.float32], faults: Sequence[Fault] = ()) -> Found:
        """Takes in scored records of this partition, their own rows `x` (n, d) as the encoder made them, and the faulty
        records that came among them; each in order of offset."""
        if not len(columns) and not faults:
            return Found([], {})
        log, rules = Log.of(columns, faults), self._rules
        marked = {column: np.flatnonzero(x[:, column]) for column in rules.columns if x[:, column].any()}
        lacking = dict(_lacking(rules, columns, marked))
        showing = {trouble: places for trouble, places in log.faulty.items() if rules.concerns(trouble)}
        types = {trouble: places for trouble, places in showing.items() if trouble.found is not None}
        missing = {trouble: places for trouble, places in showing.items() if trouble.found is None}
        for field, rows in lacking.items():
            also = missing.get(Trouble(field), np.empty(0, np.int64))
            missing[Trouble(field)] = np.concatenate([log.scored[rows], also])
        lost = self._missing.update(log, self._records, missing, rules.test, rules.apart)
        mistyped = self._type.update(log, self._records, types, rules.test, rules.apart)
        findings = [*self._unseen(log, columns, marked), *self._findings(log, lost), *self._findings(log, mistyped)]
        self._records += len(log.offsets)
        return Found(sorted(findings, key=lambda finding: finding.at), _gone(log, lacking, lost))

    def to_state(self) -> State:
        """Everything remembered, as JSON values."""
        return {
            "records": self._records,
            "due": self._account.due,
            "told": [[*known] for known in self._told],
            "missing": self._missing.to_state(),
            "type": self._type.to_state(),
        }

    def restore(self, state: State) -> None:
        """Goes on where `to_state` stood."""
        self._records, self._account = state["records"], Account(state["due"])
        self._told = dict.fromkeys(map(tuple, state["told"]))
        self._missing.restore(state["missing"])
        self._type.restore(state["type"])

    def _unseen(self, log: Log, columns: Columns, marked: Mapping[int, NDArray[np.intp]]) -> Iterator[Finding]:
        """One for each new category. One for which the account has no room is told when it comes again."""
        rules = self._rules
        earliest = self._account.earliest(rules.apart) - self._records
        for place, row, field in sorted(self._sights(log, columns, marked)):
            value = columns.texts[field][row]
            if place >= earliest and (known := (field, _kept(value))) not in self._told:
                self._remember(known)
                self._account.charge(self._records + place, rules.apart)
                earliest = self._account.earliest(rules.apart) - self._records
                at = log.moment(place)
                yield Finding("unseen_category", False, field, value, rules.usual[field], columns.entity[row], at, at)

    def _sights(
        self, log: Log, columns: Columns, marked: Mapping[int, NDArray[np.intp]]
    ) -> Iterator[tuple[int, int, str]]:
        """Place, row and field of each category that training never saw, but for those that are told and will not be
        forgotten within this batch."""
        tellable = int(BURST + len(log.offsets) / self._rules.apart) + 1
        settled = set(islice(self._told, max(0, len(self._told) + tellable - MOST_TOLD), None))
        for field, column in self._rules.unseen.items():
            if (rows := marked.get(column)) is None:
                continue
            values = columns.texts[field][rows].tolist()
            strange = set(values) - self._rules.late[field] - {None}
            new = {value for value in strange if (field, _kept(value)) not in settled}
            rows = rows[np.fromiter(map(new.__contains__, values), np.bool_, len(values))]
            yield from zip(log.scored[rows].tolist(), rows.tolist(), repeat(field))

    def _remember(self, known: tuple[str, str]) -> None:
        if len(self._told) == MOST_TOLD:
            del self._told[next(iter(self._told))]
        self._told[known] = None

    def _findings(self, log: Log, lapses: Sequence[Lapse]) -> Iterator[Finding]:
        for lapse in lapses:
            if lapse.opened is None:
                continue
            field, found, wanted = lapse.trouble
            kind: NoveltyKind = "field_missing" if found is None else "field_type"
            expected = self._rules.usual.get(field) if found is None else wanted
            if lapse.told is not None:
                yield Finding(kind, False, field, found, expected, "", lapse.opened, lapse.opened)
            if lapse.over:
                yield Finding(kind, True, field, found, expected, "", log.moment(lapse.end), lapse.opened)


def _lacking(
    rules: NoveltyRules, columns: Columns, marked: Mapping[int, NDArray[np.intp]]
) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    """Each field that some record lacks, and which records (n,) do. Texts are looked at only where x gives cause: a
    missing category may share its column with new ones."""
    for part in rules.fields:
        if (column := rules.none.get(part.name)) is None:
            lacking = part.missing(columns)
        elif (rows := marked.get(column)) is not None:
            lacking = np.zeros(len(columns), np.bool_)
            values = columns.texts[part.name][rows].tolist()
            lacking[rows] = np.fromiter(map(is_, values, repeat(None)), np.bool_, len(rows))
        else:
            continue
        if lacking.any():
            yield part.name, lacking


def _gone(log: Log, lacking: Mapping[str, NDArray[np.bool_]], lost: Sequence[Lapse]) -> dict[str, NDArray[np.bool_]]:
    gone: dict[str, NDArray[np.bool_]] = {}
    for lapse in lost:
        if lapse.opened is not None and (rows := lacking.get(lapse.trouble.field)) is not None:
            start = lapse.start if lapse.told is None else lapse.told
            within = (start <= log.scored) & (log.scored < lapse.end)
            gone[lapse.trouble.field] = gone.get(lapse.trouble.field, False) | (rows & within)
    return gone


def _kept(value: str) -> str:
    """A category as it is remembered."""
    return value if len(value) <= LONGEST_KEPT else hashlib.sha256(value.encode()).hexdigest()
