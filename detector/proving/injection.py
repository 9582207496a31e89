"""Anomalies put into normal records, of kinds that streams know: what a version finds of them can be compared.

Kinds are drawn in the records' own units, so that no version's view of the data decides what an anomaly is. Sizes vary,
so that of each kind some are found and some are not: only then do two versions differ.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from consumers.batch import Columns

EACH = 300
"""Most records of a kind."""
_SPIKE, _SHIFT = (0.5, 3.0), (0.2, 1.0)  # spreads by which one field, or a third of them, is moved
_PART = 1 / 3  # of the fields that a kind touches which touches several

Values = NDArray[np.float64]
_Kind = Callable[[Values, Values, np.random.Generator], Values]
"""(records (k, f), all records (n, f), chance) -> the records as anomalies (k, f)."""


def inject(
    columns: Columns, fields: list[str], kind: str, *, apart: int, seed: int
) -> tuple[Columns, NDArray[np.intp]]:
    """The records (n,) with up to `EACH` of them made anomalous in these fields, and which (k,).

    Between two of them lie at least `apart` others of the same entity, so that none is in the window of another."""
    chance = np.random.default_rng([seed, [*KINDS].index(kind)])
    rows = _spaced(columns, apart, chance)
    values = np.stack([columns.numbers[field] for field in fields], axis=1)
    changed = values.copy()
    changed[rows] = KINDS[kind](values[rows], values, chance)
    numbers = {**columns.numbers, **{field: changed[:, at] for at, field in enumerate(fields)}}
    return replace(columns, numbers=numbers), rows


def _spaced(columns: Columns, apart: int, chance: np.random.Generator) -> NDArray[np.intp]:
    _, entity = np.unique(columns.entity, return_inverse=True)
    order = np.argsort(entity, kind="stable")
    turn = np.arange(len(order)) - np.searchsorted(entity[order], entity[order])
    rows = order[turn % (apart + 1) == apart]
    return np.sort(chance.choice(rows, min(EACH, len(rows)), replace=False))


def _spread(values: Values) -> Values:
    """(f,): between the 5 % and the 95 % quantile; the standard deviation, or 1, where these are the same."""
    low, high = np.nanquantile(values, [0.05, 0.95], axis=0)
    deviation = np.nanstd(values, axis=0)
    spread: Values = np.where(high > low, high - low, np.where(deviation > 0, deviation, 1.0))
    return spread


def _some(shape: tuple[int, ...], chance: np.random.Generator) -> NDArray[np.bool_]:
    """(k, f): a part of the fields of each record, at least one."""
    some = chance.random(shape) < _PART
    some[np.arange(shape[0]), chance.integers(shape[1], size=shape[0])] = True
    return some


def _spike(records: Values, past: Values, chance: np.random.Generator) -> Values:
    """One field far from where it is."""
    k, f = records.shape
    size = chance.uniform(*_SPIKE, k) * chance.choice([-1.0, 1.0], k)
    field = chance.integers(f, size=k)
    spiked = records.copy()
    spiked[np.arange(k), field] += size * _spread(past)[field]
    return spiked


def _shift(records: Values, past: Values, chance: np.random.Generator) -> Values:
    """Several fields somewhat higher or lower."""
    size = chance.uniform(*_SHIFT, records.shape) * chance.choice([-1.0, 1.0], records.shape)
    return records + np.where(_some(records.shape, chance), size * _spread(past), 0.0)


def _mixture(records: Values, past: Values, chance: np.random.Generator) -> Values:
    """Several fields as they are in another record: each value is usual, together they are not."""
    other = past[chance.integers(len(past), size=len(records))]
    return np.where(_some(records.shape, chance), other, records)


def _outage(records: Values, past: Values, chance: np.random.Generator) -> Values:
    """Several fields at the lowest that they ever are."""
    return np.where(_some(records.shape, chance), np.nanmin(past, axis=0), records)


def _burst(records: Values, past: Values, chance: np.random.Generator) -> Values:
    """Several fields at once at the highest that they ever are."""
    return np.where(_some(records.shape, chance), np.nanmax(past, axis=0), records)


KINDS: Mapping[str, _Kind] = {
    "spike": _spike,
    "shift": _shift,
    "mixture": _mixture,
    "outage": _outage,
    "burst": _burst,
}
