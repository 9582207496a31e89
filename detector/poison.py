"""Records that cannot be scored, counted by partition: of too many the daemon stops rather than divert a stream.

Pure and incremental: what is found depends on the records alone, not on where batches end.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from consumers.batch import DeadLetter, Partition, RawBatch
from consumers.decode import DeadLetterReason
from detector.config_service import DeadLetterSettings

SPAN = 1_000
"""Newest records of a partition, of which the share that cannot be scored is taken."""


class Arrived(NamedTuple):
    """What came of one partition, in offset order: offsets (n,), which of them cannot be scored (n,), and of each of
    these the reason and the error."""

    offsets: NDArray[np.int64]
    invalid: NDArray[np.bool_]
    reasons: Sequence[str]
    errors: Sequence[str]


def refusal(batch: RawBatch, letters: Sequence[DeadLetter], watch: Callable[[Partition], PoisonWatch]) -> str | None:
    """Tells each partition's watch, which `watch` gives, of the batch. Says why it must not be published, if so."""
    told = [(partition, watch(partition).update(arrived)) for partition, arrived in _arrived(batch, letters)]
    return "\n".join(f"{partition}: {wrong}" for partition, wrong in told if wrong) or None


class PoisonWatch:
    """What one partition has seen of records that cannot be scored: how many in a row, and which of its last 1,000."""

    def __init__(self, limits: DeadLetterSettings) -> None:
        self._limits = limits
        self._recent = np.zeros(0, np.uint8)
        self._reasons: list[str] = []
        self._run, self._began = 0, 0
        self._error = ""

    def update(self, arrived: Arrived) -> str | None:
        """Takes in at least one record. Says what is wrong at the first at which there are too many.

        A share is judged at the 1,000th record, and from there on at those that cannot be scored: once they have
        stopped coming, it is too late to stop for them.
        """
        recent = np.concatenate([self._recent, self._codes(arrived)])
        runs = _runs(arrived.invalid, self._run)
        limits = self._limits
        too_long = runs > (math.inf if limits.max_consecutive is None else limits.max_consecutive)
        too_many = _shares(recent, arrived.invalid) > (limits.max_invalid_ratio or math.inf)
        first = np.flatnonzero(too_long | too_many)[:1].tolist()
        wrong = [self._told(arrived, recent, runs, row, in_a_row=bool(too_long[row])) for row in first]
        self._run, self._began = int(runs[-1]), self._begin(arrived, runs, -1)
        self._recent = recent[-SPAN:].copy()
        self._error = [self._error, *arrived.errors][-1]
        return wrong[0] if wrong else None

    def to_state(self) -> dict[str, Any]:
        """Everything remembered: an array, and JSON values."""
        return {
            "recent": self._recent,
            "reasons": [*self._reasons],
            "run": self._run,
            "began": self._began,
            "error": self._error,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes on from what `to_state` gave, under its own limits."""
        self._recent, self._reasons = state["recent"], [*state["reasons"]]
        self._run, self._began, self._error = state["run"], state["began"], state["error"]

    def _codes(self, arrived: Arrived) -> NDArray[np.uint8]:
        """The number (n,) of each record's reason among those met so far, from 1 on; 0 where it can be scored."""
        self._reasons += [reason for reason in dict.fromkeys(arrived.reasons) if reason not in self._reasons]
        numbers = {reason: number for number, reason in enumerate(self._reasons, start=1)}
        codes = np.zeros(len(arrived.offsets), np.uint8)
        codes[arrived.invalid] = [numbers[reason] for reason in arrived.reasons]
        return codes

    def _begin(self, arrived: Arrived, runs: NDArray[np.int64], row: int) -> int:
        """The offset at which the run that lasts at a row began."""
        place = row % len(runs)
        return self._began if runs[row] > place + 1 else int(arrived.offsets[place - max(0, int(runs[row]) - 1)])

    def _told(
        self, arrived: Arrived, recent: NDArray[np.uint8], runs: NDArray[np.int64], row: int, *, in_a_row: bool
    ) -> str:
        last = int(arrived.offsets[row])
        within = recent[: len(self._recent) + row + 1][-SPAN:]
        counts = np.bincount(within[within > 0])
        error = [self._error, *arrived.errors][np.count_nonzero(arrived.invalid[: row + 1])]
        if in_a_row:
            setting, limit = "max_consecutive", f"{self._limits.max_consecutive:,}"
            what = f"{runs[row]:,} records in a row, offsets {self._begin(arrived, runs, row)} to {last},"
        else:
            setting, limit = "max_invalid_ratio", f"{self._limits.max_invalid_ratio:g}"
            what = f"{counts.sum():,} of the last {SPAN:,} records, up to offset {last},"
        return (
            f"{what} cannot be scored. Expected at most dead_letters.{setting} = {limit}.\n"
            f"The most frequent reason is {self._reasons[counts.argmax() - 1]} ({counts.max():,} of the last "
            f"{len(within):,} records), the newest error: {error}\n"
            "The batch they came in is not committed, and comes again at the next start. If the records are at fault, "
            "mend what sends them; if they are as they should be, mend features, stream.entity or stream.timestamp and "
            f"train. To divert them to the dead letters, raise dead_letters.{setting} for a while, or set it to null."
        )


def _arrived(batch: RawBatch, letters: Sequence[DeadLetter]) -> Iterator[tuple[Partition, Arrived]]:
    """Each partition's records. A batch of them that could not be decoded counts as one, where it began."""
    came = {it: batch.offsets[batch.partition == index] for index, it in enumerate(batch.partitions)}
    found: dict[Partition, dict[int, tuple[str, str]]] = {}
    for letter in letters:
        partition, offset = batch.source(letter.row)
        found.setdefault(partition, {})[offset] = letter.reason, letter.error
    for partition, moved in batch.moved.items():
        if moved.reason == "undecodable":
            error = f"The client cannot decode offsets {moved.expected} to {moved.found - 1}."
            found.setdefault(partition, {})[moved.expected] = DeadLetterReason.UNDECODABLE, error
    for partition in {**came, **found}:
        said = dict(sorted(found.get(partition, {}).items()))
        bad = np.array([*said], np.int64)
        offsets = came.get(partition, bad)
        if partition in batch.moved:
            offsets = np.union1d(offsets, bad)
        if len(offsets):
            invalid = np.zeros(len(offsets), np.bool_)
            invalid[np.searchsorted(offsets, bad)] = True
            reasons, errors = [reason for reason, _ in said.values()], [error for _, error in said.values()]
            yield partition, Arrived(offsets, invalid, reasons, errors)


def _runs(invalid: NDArray[np.bool_], before: int) -> NDArray[np.int64]:
    """How many records (n,) in a row are invalid up to and with each, where `before` of them went before."""
    place = np.arange(len(invalid))
    valid = np.maximum.accumulate(np.where(invalid, -1, place))  # the newest valid one
    runs: NDArray[np.int64] = place - valid + before * (valid < 0)
    return runs


def _shares(recent: NDArray[np.uint8], invalid: NDArray[np.bool_]) -> NDArray[np.float64]:
    """The share of the invalid (n,) among the last 1,000 records up to and with each of the newest n of `recent`; NaN
    where it is not judged."""
    upto = np.arange(len(recent) - len(invalid), len(recent)) + 1
    counts = np.concatenate([[0], np.cumsum(recent > 0)])
    judged = (upto == SPAN) | ((upto > SPAN) & invalid)
    return np.where(judged, (counts[upto] - counts[np.maximum(upto - SPAN, 0)]) / SPAN, np.nan)
