"""Deliberately bad retrainings, of which none may serve, and good ones, of which nearly all should."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.lifecycle.machine import LIVE, TRAINED, Machine

SEEDS, GOOD = 15, 20
OTHERS = ("smd_machine-1-6", "smd_machine-2-1", "smd_machine-2-7")
"""Machines of the suite whose records have the same fields."""
MIXED_IN, BROKEN = 0.2, 0.3
FEW = 50

Rows = NDArray[np.float64]


class Run(NamedTuple):
    """One retraining: how it ended, and why."""

    kind: str
    seed: int
    first: int
    outcome: str
    serves: bool
    reasons: list[str]


def bad(machine: Machine, suite: Path | None) -> Iterator[Run]:
    """Each kind with each seed."""
    for kind, spoil in _KINDS.items():
        for seed in range(SEEDS):
            chance = np.random.default_rng([seed, len(kind)])
            first = _first(machine, chance)
            rows = machine.recording.values[first : first + TRAINED]
            if (spoiled := spoil(machine, rows, chance, suite, seed)) is None:
                break
            live = machine.recording.values[first + TRAINED :][:LIVE]
            least = {"records": FEW} if kind == "few" else {}
            report, serves = machine.retrained(spoiled, first, live, **least)
            yield Run(kind, seed, first, report.outcome, serves, report.reasons)


def good(machine: Machine) -> Iterator[Run]:
    """On later and later records, as they are."""
    last = len(machine.recording.values) - TRAINED - LIVE
    for seed, first in enumerate(np.linspace(1_000, last, GOOD).astype(int).tolist()):
        rows, live = (machine.recording.values[start:][:n] for start, n in ((first, TRAINED), (first + TRAINED, LIVE)))
        report, serves = machine.retrained(rows, first, live)
        yield Run("good", seed, first, report.outcome, serves, report.reasons)


def _first(machine: Machine, chance: np.random.Generator) -> int:
    return int(chance.integers(1_000, len(machine.recording.values) - TRAINED - LIVE))


def _swapped(machine: Machine, rows: Rows, chance: np.random.Generator, suite: Path | None, seed: int) -> Rows:
    """Two fields that vary, and not with each other, exchanged."""
    spread = np.diff(np.quantile(machine.recording.values[:TRAINED], [0.25, 0.75], axis=0), axis=0)[0]
    varying = np.flatnonzero(spread > 0)
    together = np.corrcoef(machine.recording.values[:TRAINED, varying].T)
    pairs = np.argwhere(np.triu(np.abs(together) < 0.5, k=1))
    one, other = varying[pairs[chance.integers(len(pairs))]]
    spoiled = rows.copy()
    spoiled[:, [one, other]] = rows[:, [other, one]]
    return spoiled


def _units(machine: Machine, rows: Rows, chance: np.random.Generator, suite: Path | None, seed: int) -> Rows:
    """One field that varies in another unit."""
    spread = np.diff(np.quantile(machine.recording.values[:TRAINED], [0.05, 0.95], axis=0), axis=0)[0]
    field = chance.choice(np.flatnonzero(spread > 0))
    spoiled = rows.copy()
    spoiled[:, field] *= 1000.0
    return spoiled


def _constant(machine: Machine, rows: Rows, chance: np.random.Generator, suite: Path | None, seed: int) -> Rows:
    """The same record again and again."""
    return np.repeat(rows[chance.integers(len(rows))][None], len(rows), axis=0)


def _few(machine: Machine, rows: Rows, chance: np.random.Generator, suite: Path | None, seed: int) -> Rows:
    return rows[:FEW]


def _attacked(machine: Machine, rows: Rows, chance: np.random.Generator, suite: Path | None, seed: int) -> Rows:
    """A fifth of the records out of labelled events."""
    labelled = machine.recording.values[machine.recording.labels > 0]
    count, spoiled = round(MIXED_IN * len(rows)), rows.copy()
    spoiled[chance.choice(len(rows), count, replace=False)] = labelled[chance.integers(len(labelled), size=count)]
    return spoiled


def _not_numbers(machine: Machine, rows: Rows, chance: np.random.Generator, suite: Path | None, seed: int) -> Rows:
    """A number missing in nearly a third of the records."""
    spoiled = rows.copy()
    broken = chance.random(len(rows)) < BROKEN
    spoiled[broken, chance.integers(rows.shape[1])] = np.nan
    return spoiled


def _elsewhere(machine: Machine, rows: Rows, chance: np.random.Generator, suite: Path | None, seed: int) -> Rows | None:
    """The records of another machine."""
    if suite is None:
        return None
    with np.load(suite / "server_multivariate" / f"{OTHERS[seed % len(OTHERS)]}.npz", allow_pickle=False) as data:
        other: Rows = data["X_train"].astype(np.float64)
    start = int(chance.integers(max(1, len(other) - len(rows) + 1)))
    return other[start : start + len(rows)]


_Spoil = Callable[[Machine, Rows, np.random.Generator, Path | None, int], Rows | None]
_KINDS: Mapping[str, _Spoil] = {
    "columns swapped": _swapped,
    "units": _units,
    "constant": _constant,
    "few": _few,
    "attack mixed in": _attacked,
    "not numbers": _not_numbers,
    "another machine": _elsewhere,
}


def figures(runs: list[Run]) -> dict[str, Any]:
    """How many of either there were, and how many serve."""
    spoiled = [run for run in runs if run.kind != "good"]
    fine = [run for run in runs if run.kind == "good"]
    return {
        "bad_runs": len(spoiled),
        "bad_promoted": sum(run.serves or run.outcome in ("promoted", "rolled back") for run in spoiled),
        "bad_refused": {
            kind: sum(run.outcome == "refused" for run in spoiled if run.kind == kind)
            for kind in dict.fromkeys(run.kind for run in spoiled)
        },
        "good_runs": len(fine),
        "good_promoted": sum(run.serves and run.outcome == "promoted" for run in fine),
    }
