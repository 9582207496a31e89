"""What was sent, what was read, and what one says about the other."""

from __future__ import annotations

import math
from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from detector.alerts import Alert

TOLERANCE = 1e-4
"""Floats of an alert may differ by so much of themselves, or absolutely below 1: batches of another size round
otherwise."""

Place = tuple[int, int]
"""Partition and offset of a record."""


class Letter(NamedTuple):
    """Where the record of a dead letter came from, and the reason given."""

    place: Place
    reason: str


class Ledger:
    """The records that the broker has acknowledged, and those that it may delete before they are read.

    Written by the producer's thread, read by others.
    """

    def __init__(self) -> None:
        self._sequences: dict[int, array[int]] = {}
        self._offsets: dict[int, array[int]] = {}
        self._poison: dict[Place, str] = {}
        self._excused: list[tuple[int, range]] = []

    def acknowledged(self, partition: int, offset: int, sequence: int, poison: str | None) -> None:
        self._sequences.setdefault(partition, array("q")).append(sequence)
        self._offsets.setdefault(partition, array("q")).append(offset)
        if poison is not None:
            self._poison[partition, offset] = poison

    def excuse(self, partition: int, offsets: range) -> None:
        """Records that no outcome is expected of."""
        self._excused.append((partition, offsets))

    def ends(self) -> dict[int, int]:
        """The offset after the last record of each partition."""
        return {partition: offsets[-1] + 1 for partition, offsets in list(self._offsets.items())}

    def __len__(self) -> int:
        return sum(map(len, self._offsets.values()))

    def sequences(self) -> dict[Place, int]:
        """Where the record of each number is."""
        return {
            (partition, offset): sequence
            for partition, offsets in self._offsets.items()
            for offset, sequence in zip(offsets, self._sequences[partition], strict=True)
        }

    def unread(self, committed: Mapping[int, int]) -> int:
        """Records that the group's positions have not passed."""
        return sum(
            sum(offset >= committed.get(partition, 0) for offset in offsets)
            for partition, offsets in self._offsets.items()
        )

    def due_letters(self, committed: Mapping[int, int]) -> dict[Place, str]:
        """Dead letters that there must be, with their reasons."""
        return {
            (partition, offset): reason
            for (partition, offset), reason in self._poison.items()
            if offset < committed.get(partition, 0)
            and not any(partition == number and offset in offsets for number, offsets in self._excused)
        }


@dataclass
class Verdict:
    """Of so many records, how many have no outcome or the wrong one, how many outcomes came more than once, and how
    many alerts are not those of a run that nothing disturbed."""

    records: int = 0
    lost: int = 0
    doubled: int = 0
    different: int = 0
    alerts: int = 0
    evidence: list[str] = field(default_factory=list)


def judge(
    ledger: Ledger,
    committed: Mapping[int, int],
    letters: Sequence[Letter],
    alerts: Sequence[Alert],
    undisturbed: Sequence[Alert] | None,
) -> Verdict:
    """`committed` are the group's last positions by partition; without `undisturbed` alerts are only counted."""
    verdict = Verdict(records=len(ledger), alerts=len(alerts))
    if unread := ledger.unread(committed):
        verdict.lost += unread
        verdict.evidence.append(f"{unread} records are beyond the committed positions {dict(committed)}")
    _judge_letters(verdict, ledger.due_letters(committed), letters)
    for identifier, times in Counter(alert.id for alert in alerts).items():
        if times > 1:
            verdict.doubled += times - 1
            verdict.evidence.append(f"alert {identifier} is there {times} times")
    if undisturbed is not None:
        _compare(verdict, alerts, undisturbed)
    return verdict


def _judge_letters(verdict: Verdict, due: Mapping[Place, str], letters: Sequence[Letter]) -> None:
    counts, reasons = Counter(letter.place for letter in letters), dict(letters)
    for place in due.keys() | reasons.keys():
        if place not in reasons:
            verdict.lost += 1
            verdict.evidence.append(f"no dead letter of {place}, expected {due[place]}")
        elif due.get(place) != reasons[place]:
            verdict.lost += 1
            verdict.evidence.append(f"dead letter of {place} says {reasons[place]}, expected {due.get(place)}")
        if counts[place] > 1:
            verdict.doubled += counts[place] - 1
            verdict.evidence.append(f"dead letter of {place} is there {counts[place]} times")


def _compare(verdict: Verdict, alerts: Sequence[Alert], undisturbed: Sequence[Alert]) -> None:
    """Evidence comes in the order of offsets: what went wrong first is the cause of much that follows."""
    found, expected = ({alert.id: alert for alert in some} for some in (alerts, undisturbed))
    for identifier, alert in sorted((expected | found).items(), key=lambda item: item[1].source.offset):
        if identifier not in found:
            said = "is missing"
        elif identifier not in expected:
            said = "is one too many"
        elif names := differing(alert.model_dump(), expected[identifier].model_dump()):
            other = expected[identifier]
            said = "has " + ", ".join(f"{name} {getattr(alert, name)} not {getattr(other, name)}" for name in names)
        else:
            continue
        verdict.different += 1
        place = f"{alert.entity} at {alert.source.partition}@{alert.source.offset}"
        verdict.evidence.append(f"{alert.kind} alert of {place}, {identifier}, {said}")


def differing(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Names of the fields that differ by more than `TOLERANCE`."""
    return [name for name in one if not _same(one[name], other[name])]


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=TOLERANCE, abs_tol=TOLERANCE)
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_same, one, other))
    return bool(one == other)
