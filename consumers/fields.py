"""How a field is named, and how its values become numbers and times, whether they come as JSON or in a file."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
from numpy.typing import NDArray

MOST_TEXT_CHARACTERS = 1_000
"""A longer text is taken by its beginning: texts are remembered by the hundred thousand, and alerts repeat them. More
than an entity's name may have, so that one that is too long still shows."""

_END_MS = 253_402_300_800_000.0  # the year 10000
_UNITS_BELOW, _MS_OF_UNIT = np.array([1e11, 1e14, 1e17]), np.array([1e3, 1.0, 1e-3, 1e-6])
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)


def split_path(path: str) -> list[str]:
    """The names along a path: `a.b` is `b` within `a`, `a\\.b` one name.

    Raises `ValueError` for a name that is empty or has a quote, backslash or control character: it cannot be matched.
    """
    names = [name.replace("\\.", ".") for name in re.split(r"(?<!\\)\.", path)]
    for name in names:
        if not name or re.search(r'["\\\x00-\x1f\ud800-\udfff]', name):
            raise ValueError(f"field path {path!r} has name {name!r}: expected one without quote, backslash or control")
    return names


def join_path(names: Sequence[str]) -> str:
    """The path along these names; `split_path` undoes it."""
    return ".".join(name.replace(".", "\\.") for name in names)


def milliseconds(values: Sequence[float | str | None]) -> NDArray[np.float64]:
    """Epoch milliseconds of times given as epoch numbers or ISO 8601 (UTC where it names no offset).

    NaN where there is none, infinite where it is no time from 1970 to 9999.
    """
    if str not in set(map(type, values)):
        return within_calendar(epoch_milliseconds(number_column(values)))
    iso = number_column([iso_milliseconds(value) if isinstance(value, str) else None for value in values])
    epoch = number_column([None if isinstance(value, str) else value for value in values])
    return within_calendar(np.where(np.isnan(iso), epoch_milliseconds(epoch), iso))


def within_calendar(ms: NDArray[np.float64]) -> NDArray[np.float64]:
    """Whole milliseconds; infinite where they are before 1970 or after 9999."""
    return np.where((ms < 0) | (ms >= _END_MS), np.inf, np.rint(ms))


def number_column(values: Sequence[Any]) -> NDArray[np.float64]:
    """Numbers, booleans and nulls as float64, a null as NaN."""
    try:
        return np.fromiter(values, dtype=np.float64, count=len(values))
    except TypeError:  # a null: np.array takes it for NaN, at some cost
        return np.array(values, dtype=np.float64)


def epoch_milliseconds(numbers: NDArray[np.float64]) -> NDArray[np.float64]:
    """Milliseconds of numbers in s (below 1e11, the year 5138), ms (below 1e14), µs (below 1e17) or ns."""
    factor: NDArray[np.float64] = _MS_OF_UNIT[np.searchsorted(_UNITS_BELOW, np.abs(numbers), side="right")]
    return numbers * factor


def iso_milliseconds(text: str) -> float:
    """Epoch milliseconds of an ISO 8601 time (UTC where it names no offset); infinity where it is none."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return math.inf
    return ((moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - _EPOCH) / _MILLISECOND
