"""One `Part` a feature: what to derive from the record (and its entity's previous one), the columns that makes, and
what a column's value means in the user's units."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from itertools import repeat
from operator import is_
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from consumers.batch import Columns
from detector.config import FeatureSettings
from detector.errors import TrainingError
from models.base import BlockKind

CLIP = 60.0
"""Scaled numbers end here."""
MAX_CATEGORIES = 64
"""Most categories of a feature with a column of their own."""
MAX_RARE = 10_000
"""Most of the rarer categories that are kept by name."""
Value = float | str | bool | None
_WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


class Previous(NamedTuple):
    """What the entity of each of n records reported in its record before: values (n,) by field, NaN where nothing is
    known, and the time (n,) of that record in epoch milliseconds."""

    values: dict[str, NDArray[np.float64]]
    time: NDArray[np.int64]


def remembered(features: Sequence[FeatureSettings]) -> tuple[str, ...]:
    """The fields whose previous value is needed."""
    return tuple(feature.name for feature in features if feature.kind == "counter" or feature.transform == "diff")


@dataclass(frozen=True)
class Part(ABC):
    """One feature as fitted: the derived values (n,) of its records, and their columns (n, width)."""

    settings: FeatureSettings
    time_zone: str
    centre: float = 0.0
    """In derived units: what stands in for a missing value."""
    scale: float = 1.0
    marked: bool = False
    """Whether the field was missing in some training record."""
    categories: tuple[str, ...] = ()
    rare: tuple[str, ...] | None = ()
    """None where training had more than `MAX_RARE` of them."""

    block_kind: ClassVar[BlockKind] = "numeric"
    markable: ClassVar[bool] = True
    """Whether a missing field is told in a column apart from the value's own."""

    @property
    def name(self) -> str:
        return self.settings.name

    @property
    def usual(self) -> float | str:
        """In derived units: the median, or the most frequent category."""
        return self.categories[0] if self.categories else self.centre

    @property
    def width(self) -> int:
        return 1

    @property
    def has_mark(self) -> bool:
        return self.markable and self.marked

    @abstractmethod
    def derive(self, columns: Columns, previous: Previous) -> NDArray[Any]:
        """What is scored of each record, (n,)."""

    @abstractmethod
    def fitted(self, values: NDArray[Any]) -> Self:
        """This part with what the derived values of the training records teach; `TrainingError` where they are none."""

    @abstractmethod
    def encode(self, values: NDArray[Any]) -> NDArray[Any]:
        """Derived values (n,) -> columns (n, width), all finite."""

    @abstractmethod
    def decode(self, blocks: NDArray[np.float32]) -> NDArray[Any]:
        """Columns (n, width) -> values (n,) in the user's units, of the nearest that a record can have there: what
        `encode` was given, as far as it can be told."""

    @abstractmethod
    def read(self, block: NDArray[np.float32]) -> Value:
        """What the columns (width,) of one record mean in the user's units."""

    @abstractmethod
    def likeliest(self, blocks: NDArray[np.float32]) -> NDArray[Any]:
        """What a model expects in the columns (n, width) -> the nearest that a record can have there."""

    @property
    def restricted(self) -> bool:
        """Whether only some deviations of this feature count."""
        return self.settings.direction != "both" or bool(self.settings.minimum_deviation)

    def counts(self, blocks: NDArray[np.float32], expected: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Whether the deviation of columns (n, width) from what was expected of them counts, (n, width)."""
        return np.ones(blocks.shape, np.bool_)

    def missing(self, columns: Columns) -> NDArray[np.bool_]:
        return np.isnan(columns.numbers[self.name])

    def observed(self, columns: Columns, row: int, block: NDArray[np.float32]) -> Value:
        """What the record reported, None where the field is missing."""
        return self.read(block)

    def carried(self, old: Self, blocks: NDArray[np.float32]) -> NDArray[np.float32]:
        """Columns (n, width) that `old` made of the same feature, as this part would have made them."""
        return blocks

    def _nothing_learned(self, values: NDArray[Any]) -> TrainingError:
        need = "two successive records of one entity that report it" if remembered([self.settings]) else "at least one"
        return TrainingError(
            f"Feature '{self.name}' ({self.settings.kind}) has no usable value in {len(values)} training records. "
            f"Expected {need}: check the name and kind, or leave it out."
        )


class Number(Part):
    """numeric and counter: robustly scaled, (v - median) / scale, clipped to ±`CLIP`; the median where v is missing.

    A change is to the entity's previous record; where that does not tell, v is missing too.
    """

    def derive(self, columns: Columns, previous: Previous) -> NDArray[np.float64]:
        values = columns.numbers[self.name]
        with np.errstate(over="ignore", invalid="ignore"):
            if self.settings.kind == "counter":
                values = _rate(values, previous.values[self.name], columns.time - previous.time)
            elif self.settings.transform == "diff":
                values = values - previous.values[self.name]
        return self._transformed(values)

    def fitted(self, values: NDArray[np.float64]) -> Self:
        """scale = max((q95 - q5) / 3.29, 0.3 sd): the sd of a normal distribution, whose quantiles are 3.29 sd apart,
        and no less than a heavy tail needs. A column without variance gets 1e-4 of its own size, or 1.

        No scale is so small that a deviation of `minimum_deviation` from the centre is beyond half the clip: its size
        could not be told any more."""
        finite = values[np.isfinite(values)]
        if not finite.size:
            raise self._nothing_learned(values)
        size = float(np.abs(finite).max()) or 1.0
        unit = finite / size  # within ±1, so that no difference or square overflows
        low, middle, high = np.quantile(unit, [0.05, 0.5, 0.95])
        centre, spread = float(middle) * size, float(max((high - low) / 3.29, 0.3 * unit.std())) * size
        if spread <= 1e-12 * abs(centre):  # no more than rounding leaves
            spread = 1e-4 * abs(centre)
        if self.settings.minimum_deviation:
            edges = self._undone(np.array([centre])) + self.settings.minimum_deviation * np.array([-1.0, 1.0])
            spread = max(spread, 2.0 / CLIP * float(np.abs(self._transformed(edges) - centre).max()))
        return replace(self, centre=centre, scale=spread or 1.0)

    def encode(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        with np.errstate(over="ignore"):
            scaled = (values - self.centre) / self.scale
        np.clip(scaled, -CLIP, CLIP, out=scaled)
        scaled[np.isnan(scaled)] = 0.0
        return scaled[:, None]

    def decode(self, blocks: NDArray[np.float32]) -> NDArray[np.float64]:
        """Of a counter rates per second, of a difference changes."""
        return self._units(self.likeliest(blocks))[:, 0]

    def read(self, block: NDArray[np.float32]) -> float:
        return float(self._units(block)[0])

    def counts(self, blocks: NDArray[np.float32], expected: NDArray[np.float32]) -> NDArray[np.bool_]:
        deviation = self._units(blocks) - self._units(self.likeliest(expected))
        size = {"up": deviation, "down": -deviation, "both": np.abs(deviation)}[self.settings.direction]
        return size >= (self.settings.minimum_deviation or 0.0)

    def likeliest(self, blocks: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.clip(blocks, -CLIP, CLIP)

    def observed(self, columns: Columns, row: int, block: NDArray[np.float32]) -> float:
        """Counters and differences are read back from x, where they end at the clip; others are as reported."""
        return self.read(block) if remembered([self.settings]) else float(columns.numbers[self.name][row])

    def carried(self, old: Self, blocks: NDArray[np.float32]) -> NDArray[np.float32]:
        with np.errstate(over="ignore"):
            values = blocks[:, 0].astype(np.float64) * old.scale + old.centre
        return self.encode(values).astype(np.float32)

    def _units(self, blocks: NDArray[np.float32]) -> NDArray[np.float64]:
        """Columns in the user's units, finite."""
        return np.nan_to_num(self._undone(blocks.astype(np.float64) * self.scale + self.centre))

    def _transformed(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.copysign(np.log1p(np.abs(values)), values) if self.settings.transform == "log1p" else values

    def _undone(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """The inverse of `_transformed`."""
        if self.settings.transform != "log1p":
            return values
        return np.copysign(np.expm1(np.minimum(np.abs(values), 709.0)), values)


class Flag(Part):
    """true or false (any number but 0 is true): one column; missing values take the more frequent one."""

    block_kind = "binary"

    def derive(self, columns: Columns, previous: Previous) -> NDArray[np.float64]:
        return columns.numbers[self.name]

    def fitted(self, values: NDArray[np.float64]) -> Self:
        present = values[~np.isnan(values)]
        if not present.size:
            raise self._nothing_learned(values)
        return replace(self, centre=float((present != 0.0).mean() >= 0.5))

    def encode(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.where(np.isnan(values), self.centre, values != 0.0)[:, None]

    def decode(self, blocks: NDArray[np.float32]) -> NDArray[np.float64]:
        return self.likeliest(blocks)[:, 0].astype(np.float64)

    def read(self, block: NDArray[np.float32]) -> bool:
        return bool(block[0] > 0.5)

    def likeliest(self, blocks: NDArray[np.float32]) -> NDArray[np.bool_]:
        return blocks > 0.5


class Category(Part):
    """categorical: one-hot over the most frequent training categories, then a column for the rarer ones (where there
    are any), one for values never seen, one for missing (where training had that, else missing counts as unseen).

    With more than `MAX_RARE` rarer ones a new value is nothing unusual, and none of them is kept: every value that is
    not among the most frequent counts as a rarer one, and only a missing field can be unseen.
    """

    block_kind = "categorical"
    markable = False

    @cached_property
    def codes(self) -> dict[str | None, int]:
        """The column of each known value and of None, a missing one; all else goes to `unknown`."""
        codes: dict[str | None, int] = {name: column for column, name in enumerate(self.categories)}
        codes.update(dict.fromkeys(self.rare or (), len(self.categories)))
        return codes | {None: self.unseen + self.marked}

    @cached_property
    def unseen(self) -> int:
        return len(self.categories) + (self.rare != ())

    @property
    def unknown(self) -> int:
        """The column of a value that is not among those kept."""
        return len(self.categories) if self.rare is None else self.unseen

    @property
    def width(self) -> int:
        return self.unseen + 1 + self.marked

    def derive(self, columns: Columns, previous: Previous) -> NDArray[np.object_]:
        return columns.texts[self.name]

    def missing(self, columns: Columns) -> NDArray[np.bool_]:
        return np.fromiter(map(is_, columns.texts[self.name].tolist(), repeat(None)), np.bool_, len(columns))

    def fitted(self, values: NDArray[np.object_]) -> Self:
        counts = Counter(values.tolist())
        counts.pop(None, None)
        if not counts:
            raise self._nothing_learned(values)
        names = sorted(counts, key=lambda name: (-counts[name], name))
        rare = tuple(names[MAX_CATEGORIES:])
        return replace(self, categories=tuple(names[:MAX_CATEGORIES]), rare=rare if len(rare) <= MAX_RARE else None)

    def encode(self, values: NDArray[np.object_]) -> NDArray[np.float32]:
        codes = np.fromiter(map(self.codes.get, values.tolist(), repeat(self.unknown)), np.int64, len(values))
        return _one_hot(codes, self.width)

    def decode(self, blocks: NDArray[np.float32]) -> NDArray[np.object_]:
        """The most frequent of the rarer ones stands for them all, `other` where none of them was kept."""
        others = [] if self.rare == () else [(self.rare or ("other",))[0]]
        names = [*self.categories, *others, None, None]
        return np.array([names[code] for code in self.likeliest(blocks).argmax(axis=1).tolist()], object)

    def read(self, block: NDArray[np.float32]) -> str | None:
        return [*[*self.categories, "other"][: self.unseen], None, None][int(block.argmax())]

    def likeliest(self, blocks: NDArray[np.float32]) -> NDArray[np.float32]:
        """Never a value not seen, which names none."""
        seen = blocks.copy()
        seen[:, self.unseen] = -np.inf
        return _one_hot(seen.argmax(axis=1), self.width)

    def observed(self, columns: Columns, row: int, block: NDArray[np.float32]) -> str | None:
        text: str | None = columns.texts[self.name][row]
        return text

    def carried(self, old: Self, blocks: NDArray[np.float32]) -> NDArray[np.float32]:
        columns = [self.codes.get(name, self.unknown) for name in old.categories]
        columns += [len(self.categories)] if old.rare != () else []
        columns += [self.codes[None] if old.rare is None else self.unknown]
        columns += [self.codes[None]] if old.marked else []
        return _one_hot(np.array(columns)[blocks.argmax(axis=1)], self.width)


class Calendar(Part):
    """hour (to the minute) and weekday of the event in the time zone: sine and cosine of the way round day or week."""

    markable = False

    @property
    def width(self) -> int:
        return 2

    @property
    def period(self) -> int:
        return 1440 if self.name == "hour" else 7

    def derive(self, columns: Columns, previous: Previous) -> NDArray[np.int64]:
        return self.at(columns.time)

    def at(self, time: NDArray[np.int64]) -> NDArray[np.int64]:
        """Epoch milliseconds (n,) -> minutes of the day, or days of the week (n,)."""
        local = _local(time, self.time_zone)
        return local // 60_000 % 1440 if self.name == "hour" else (local // 86_400_000 + 3) % 7

    def missing(self, columns: Columns) -> NDArray[np.bool_]:
        return np.zeros(len(columns), dtype=np.bool_)

    def fitted(self, values: NDArray[np.int64]) -> Self:
        return self

    def encode(self, values: NDArray[np.int64]) -> NDArray[np.float32]:
        return _circle(self.period)[values]

    def decode(self, blocks: NDArray[np.float32]) -> NDArray[np.int64]:
        """Sines and cosines (n, 2) -> minutes of the day or days of the week."""
        turn = np.arctan2(blocks[:, 0], blocks[:, 1], dtype=np.float64) / math.tau
        return np.rint(turn * self.period).astype(np.int64) % self.period

    def read(self, block: NDArray[np.float32]) -> float | str:
        step = int(self.decode(block[None])[0])
        return round(step / 60, 2) if self.name == "hour" else _WEEKDAYS[step]

    def likeliest(self, blocks: NDArray[np.float32]) -> NDArray[np.float32]:
        return _circle(self.period)[self.decode(blocks)]


PARTS: dict[str, type[Part]] = {
    "numeric": Number,
    "counter": Number,
    "flag": Flag,
    "categorical": Category,
    "calendar": Calendar,
}
"""By the kind of the feature."""


def _rate(
    values: NDArray[np.float64], previous: NDArray[np.float64], elapsed_ms: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Increase per second; a counter below its previous value has begun again at zero. NaN where no time has passed."""
    increase = np.where(values < previous, values, values - previous)
    return increase / np.where(elapsed_ms > 0, elapsed_ms / 1000.0, np.nan)


def _one_hot(codes: NDArray[np.int64], width: int) -> NDArray[np.float32]:
    hot = np.zeros((len(codes), width), dtype=np.float32)
    hot[np.arange(len(codes)), codes] = 1.0
    return hot


@lru_cache
def _circle(steps: int) -> NDArray[np.float32]:
    """Sine and cosine of each of `steps` places on a circle, (steps, 2)."""
    angles = math.tau * np.arange(steps) / steps
    return np.stack([np.sin(angles), np.cos(angles)], axis=1).astype(np.float32)


def _local(time: NDArray[np.int64], time_zone: str) -> NDArray[np.int64]:
    """Epoch milliseconds -> milliseconds since 1970 on the clock of the time zone. Clocks are set at full quarters of
    an hour, so one look-up for each quarter will do."""
    import polars as pl  # which takes its time to be imported; only calendars need it

    quarters, inverse = np.unique(time // 900_000, return_inverse=True)
    utc = pl.Series(quarters * 900_000).cast(pl.Datetime("ms", "UTC"))
    local = utc.dt.convert_time_zone(time_zone).dt.replace_time_zone(None).cast(pl.Int64).to_numpy()
    return time + (local - quarters * 900_000)[inverse]
