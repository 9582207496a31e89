"""Lapses: conditions of a field, like being gone, that set in at some record and end at a later one; each told once.

Pure and incremental: lapses depend on the records alone, not on where batches end.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from consumers.batch import Columns
from consumers.compiled import compiled
from consumers.faults import Fault
from detector.snapshot import State

BURST = 5.0
"""Findings that an account can save up."""


class Moment(NamedTuple):
    """A record of the partition: its offset, and its time in epoch milliseconds."""

    offset: int
    time: int


class Trouble(NamedTuple):
    """What is wrong with a field: the JSON type found and the one wanted, both None where it is missing."""

    field: str
    found: str | None = None
    wanted: str | None = None


class PageTest(NamedTuple):
    """Page's test for a condition, in nats (Biometrika 1954): a record that shows it adds `gain`, one that does not
    takes `loss`, never below 0. It holds from where the evidence exceeds `limit` until there is none left; meanwhile
    there is never more than `limit`.

    Where gain and loss are log likelihood ratios, it sets in by chance at most once in exp(limit) records (Lorden,
    Annals of Mathematical Statistics 1971, theorem 2).
    """

    gain: float
    loss: float
    limit: float

    def steps(self, records: int, scored: NDArray[np.int64], showing: NDArray[np.int64]) -> NDArray[np.float64]:
        """What each record adds (records,): those of `showing`, the other `scored` ones, and the rest, which tell
        nothing."""
        steps = np.zeros(records)
        steps[scored] = -self.loss
        steps[showing] = self.gain
        return steps

    def most(self, shown: NDArray[np.bool_]) -> float:
        """The most evidence that there is without a limit over these records (n,), which show the condition or not."""
        n = len(shown)
        evidence, steps = np.zeros(n), self.steps(n, np.arange(n), np.flatnonzero(shown))
        _follow(steps, 0.0, False, math.inf, evidence, np.zeros(n, np.bool_))
        return float(evidence.max(initial=0.0))


class Account:
    """Bounds findings: of n records, at most `BURST` + n / `apart` have one, and `BURST` may come at once.

    The generic cell rate algorithm (ITU-T I.371): `due` is the number of the record by which all findings so far would
    be paid for.
    """

    def __init__(self, due: float = 0.0) -> None:
        self.due = due

    def earliest(self, apart: float) -> int:
        """Number of the first record that can have a finding."""
        return math.ceil(self.due - (BURST - 1) * apart)

    def charge(self, number: int, apart: float) -> None:
        self.due = max(self.due, number) + apart


class Log(NamedTuple):
    """The m scored and faulty records of a batch as they came: offsets and times (m,), the places (n,) of the scored
    ones among them, and those (k,) that have a trouble."""

    offsets: NDArray[np.int64]
    times: NDArray[np.int64]
    scored: NDArray[np.int64]
    faulty: dict[Trouble, NDArray[np.int64]]

    @classmethod
    def of(cls, columns: Columns, faults: Sequence[Fault]) -> Log:
        """Of one partition; both are in order of offset."""
        n = len(columns)
        if not faults:
            return cls(columns.offsets, columns.time, np.arange(n), {})
        offsets = np.concatenate([columns.offsets, [fault.offset for fault in faults]])
        times = np.concatenate([columns.time, [fault.time for fault in faults]])
        order = np.argsort(offsets, kind="stable")
        place = np.empty(len(order), np.int64)
        place[order] = np.arange(len(order))
        alike: dict[tuple[tuple[str, ...], str | None, str | None], list[int]] = {}
        for where, fault in zip(place[n:].tolist(), faults, strict=True):
            alike.setdefault((fault.fields, fault.found, fault.wanted), []).append(where)
        faulty: dict[Trouble, list[int]] = {}
        for (fields, found, wanted), at in alike.items():
            for field in fields:
                faulty.setdefault(Trouble(field, found, wanted), []).extend(at)
        places = {trouble: np.array(at) for trouble, at in faulty.items()}
        return cls(offsets[order], times[order], place[:n], places)

    def moment(self, place: int) -> Moment:
        return Moment(int(self.offsets[place]), int(self.times[place]))


@dataclass(frozen=True, slots=True)
class Lapse:
    """The part of a lapse that lies in a batch: from the place `start` up to `end`, there to be over or to go on.

    `since` is the number of the record at which it set in, `opened` where it was told, None as long as the account has
    no room for it; `told` is that place where it lies in this batch.
    """

    trouble: Trouble
    since: int
    start: int
    end: int
    over: bool
    opened: Moment | None
    told: int | None = None


class Lapses:
    """The lapses of one kind in one partition. Those for which the account has no room wait for it, first come, first
    told, for as long as they hold."""

    def __init__(self) -> None:
        self._account = Account()
        self._evidence: dict[Trouble, float] = {}
        self._open: dict[Trouble, tuple[int, Moment | None]] = {}

    def update(
        self,
        log: Log,
        first: int,
        showing: Mapping[Trouble, NDArray[np.int64]],
        test: Callable[[Trouble], PageTest],
        apart: float,
    ) -> list[Lapse]:
        """Takes in a batch whose first record has the number `first`. `showing` holds the places that have a trouble.

        Returns the lapses that hold in it. Those that set in at the same record are told at the same one.
        """
        troubles = sorted({*showing, *self._evidence})
        none = np.empty(0, np.int64)
        found = [
            lapse
            for trouble in troubles
            for lapse in self._held(trouble, log, first, showing.get(trouble, none), test(trouble))
        ]
        told = [
            lapse
            for _, together in groupby(sorted(found, key=lambda lapse: lapse.since), key=lambda lapse: lapse.since)
            for lapse in self._told(list(together), log, first, apart)
        ]
        self._open = {lapse.trouble: (lapse.since, lapse.opened) for lapse in told if not lapse.over}
        return told

    def keep(self, wanted: Callable[[Trouble], bool]) -> None:
        """Forgets all other troubles without a word."""
        self._evidence = {trouble: known for trouble, known in self._evidence.items() if wanted(trouble)}
        self._open = {trouble: known for trouble, known in self._open.items() if wanted(trouble)}

    def to_state(self) -> State:
        """Everything remembered, as JSON values."""
        return {
            "due": self._account.due,
            "evidence": [[*trouble, evidence] for trouble, evidence in self._evidence.items()],
            "open": [[*trouble, *known] for trouble, known in self._open.items()],
        }

    def restore(self, state: State) -> None:
        """Goes on where `to_state` stood."""
        self._account = Account(state["due"])
        self._evidence = {Trouble(*trouble): evidence for *trouble, evidence in state["evidence"]}
        self._open = {
            Trouble(*trouble): (since, None if opened is None else Moment(*opened))
            for *trouble, since, opened in state["open"]
        }

    def _held(self, trouble: Trouble, log: Log, first: int, showing: NDArray[np.int64], test: PageTest) -> list[Lapse]:
        """The stretches of the batch over which the trouble holds."""
        m = len(log.offsets)
        evidence, holds = np.zeros(m), np.zeros(m, np.bool_)
        before = self._open.get(trouble)
        steps = test.steps(m, log.scored, showing)
        _follow(steps, self._evidence.pop(trouble, 0.0), before is not None, test.limit, evidence, holds)
        if evidence[-1] > 0:
            self._evidence[trouble] = float(evidence[-1])
        edges = np.flatnonzero(np.diff(holds, prepend=before is not None)).tolist()
        bounds = [0] * (before is not None) + edges + [m] * bool(holds[-1])
        stretches = list(zip(bounds[::2], bounds[1::2], strict=True))
        found = [Lapse(trouble, first + start, start, end, True, None) for start, end in stretches]
        if found and before is not None:
            found[0] = replace(found[0], since=before[0], opened=before[1])
        if found and holds[-1]:
            found[-1] = replace(found[-1], over=False)
        return found

    def _told(self, together: Sequence[Lapse], log: Log, first: int, apart: float) -> list[Lapse]:
        """Lapses that set in at the same record, told where the account has room for them."""
        at = max(together[0].start, self._account.earliest(apart) - first)
        told = [
            replace(lapse, opened=log.moment(at), told=at) if lapse.opened is None and at < lapse.end else lapse
            for lapse in together
        ]
        if any(lapse.told is not None for lapse in told):
            self._account.charge(first + at, apart)
        return told


@compiled
def _follow(
    steps: NDArray[np.float64],
    evidence: float,
    holding: bool,
    limit: float,
    track: NDArray[np.float64],
    holds: NDArray[np.bool_],
) -> None:
    """`track` is the evidence after each record, `holds` whether the condition then does."""
    for i in range(len(steps)):
        evidence = max(evidence + steps[i], 0.0)
        holding = evidence > limit or (holding and evidence > 0.0)
        evidence = min(evidence, limit)
        track[i], holds[i] = evidence, holding
