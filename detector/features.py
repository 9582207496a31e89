"""Columns -> the float32 matrix that models see, and back to words for an alert's reasons.

`FeatureEncoder` puts the parts of all features (`detector.parts`) side by side and adds what belongs to all of them:
marks of missing fields.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from consumers.batch import Columns, Schema
from detector.config import FeatureSettings
from detector.entities import EntityTable
from detector.parts import PARTS, Part, Previous, Value, remembered
from models.base import Block, Layout

MISSING_FIELDS = "missing fields"
"""Feature of the column that is 1 where a field is missing that never was in training."""


class FeatureReason(NamedTuple):
    """A feature's part in a record's score, in the user's units; None stands for a missing field."""

    feature: str
    observed: Value
    expected: Value
    share: float


def fields(
    features: Sequence[FeatureSettings], entity: str | None, timestamp: str | None, segment: str | None = None
) -> Schema:
    """What a decoder must take out of a record for these features, and for levels by the field `segment`."""
    numbers = tuple(feature.name for feature in features if feature.kind in ("numeric", "counter", "flag"))
    texts = dict.fromkeys(feature.name for feature in features if feature.kind == "categorical")
    return Schema(numbers, (*(texts | ({segment: None} if segment else {})),), entity, timestamp)


@dataclass(frozen=True)
class FeatureEncoder:
    """The features of one trained version, fitted and unchanging. All arithmetic is element by element: a record's
    columns do not depend on the batch it came in.

    The columns are each part's own, followed by a mark (binary, of the same feature) where the field was missing in
    some training record, and at the end one shared column, `MISSING_FIELDS`, for fields that never were.
    """

    parts: tuple[Part, ...]
    window: int
    time_zone: str

    @classmethod
    def fit(
        cls, columns: Columns, features: Sequence[FeatureSettings], *, window: int, time_zone: str = "UTC"
    ) -> FeatureEncoder:
        """Learns from records in offset order within each partition; `TrainingError` names a feature without values."""
        previous = _previous_within(columns, remembered(features))
        parts = [PARTS[feature.kind](feature, time_zone) for feature in features]
        return cls(
            tuple(
                replace(part.fitted(part.derive(columns, previous)), marked=bool(part.missing(columns).any()))
                for part in parts
            ),
            window,
            time_zone,
        )

    @cached_property
    def layout(self) -> Layout:
        blocks: list[Block] = []
        for part in self.parts:
            blocks.append(Block(part.name, part.block_kind, part.width))
            if part.has_mark:
                blocks.append(Block(part.name, "binary"))
        return Layout((*blocks, *([Block(MISSING_FIELDS, "binary")] if self._unmarked.any() else [])), self.window)

    @property
    def features(self) -> tuple[FeatureSettings, ...]:
        return tuple(part.settings for part in self.parts)

    def encode(self, columns: Columns, previous: Previous) -> NDArray[np.float32]:
        """(n, columns of the layout), finite. `previous` holds the `remembered` fields, row by row."""
        x = np.zeros((len(columns), self.layout.columns), dtype=np.float32)
        for part, (start, stop, mark) in zip(self.parts, self._places, strict=True):
            x[:, start:stop] = part.encode(part.derive(columns, previous))
            if mark is not None:
                x[:, mark] = np.maximum(x[:, mark], part.missing(columns))
        return x

    def decode(self, x: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
        """Columns (n, d) -> by feature the values (n,) of the nearest records: what `encode` was given as far as it can
        be told. NaN and None stand for a missing field.

        Of a counter these are rates per second and of a difference changes, both unknown in an entity's first record
        and then the usual one; of a calendar minutes of the day or days of the week. Which field is missing of those
        that share a mark cannot be told: none is.
        """
        decoded: dict[str, NDArray[Any]] = {}
        for part, (start, stop, mark) in zip(self.parts, self._places, strict=True):
            values = part.decode(x[:, start:stop])
            if mark is not None and part.has_mark:
                values[x[:, mark] > 0.5] = np.nan
            decoded[part.name] = values
        return decoded

    def carried(self, old: FeatureEncoder, x: NDArray[np.float32]) -> NDArray[np.float32] | None:
        """Rows (n, d) that `old` encoded, as this encoder would have done as far as they tell; None where features,
        windows or time zones of the two differ."""
        if (old.features, old.window, old.time_zone) != (self.features, self.window, self.time_zone):
            return None
        carried = np.zeros((len(x), self.layout.columns), dtype=np.float32)
        for part, (start, stop, mark), before, (old_start, old_stop, old_mark) in zip(
            self.parts, self._places, old.parts, old._places, strict=True
        ):
            carried[:, start:stop] = part.carried(before, x[:, old_start:old_stop])
            told = before.has_mark or not part.has_mark  # of a shared mark nobody knows whose it was
            if mark is not None and old_mark is not None and told:
                carried[:, mark] = np.maximum(carried[:, mark], x[:, old_mark])
        return carried

    def excused(self, x: NDArray[np.float32], feature: str) -> NDArray[np.float32]:
        """Rows (n, window, d) with one feature, and what tells that it is missing, as they usually are."""
        index = next(index for index, part in enumerate(self.parts) if part.name == feature)
        part, (start, stop, mark), excused = self.parts[index], self._places[index], x.copy()
        excused[:, :, start:stop] = part.encode(np.array([part.usual], object if part.categories else np.float64))
        if mark is not None:
            excused[:, :, mark] = 0.0
        return excused

    @cached_property
    def restricted(self) -> NDArray[np.intp]:
        """The columns of features of which only some deviations count."""
        places = [start for part, (start, _, _) in zip(self.parts, self._places, strict=True) if part.restricted]
        return np.array(places, np.intp)

    def counts(self, x: NDArray[np.float32], expected: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Whether the deviation of each column of records x (n, d) from what was expected (n, d) counts, (n, d)."""
        counts = np.ones(x.shape, np.bool_)
        for part, (start, stop, _) in zip(self.parts, self._places, strict=True):
            counts[:, start:stop] = part.counts(x[:, start:stop], expected[:, start:stop])
        return counts

    def missing(self, columns: Columns) -> NDArray[np.bool_]:
        """(n, features): whether the record lacks the field."""
        return np.stack([part.missing(columns) for part in self.parts], axis=1)

    def shares(self, columns: Columns, share: NDArray[np.float32]) -> NDArray[np.float64]:
        """Shares of columns (n, d) -> shares of features (n, features), both summing to the same over a row. The share
        of a mark counts for its feature, that of `MISSING_FIELDS` for the features that are missing, or for all alike
        that could be.
        """
        shares = np.add.reduceat(share[:, : self._own].astype(np.float64), self._starts, axis=1)
        if self._own < self.layout.columns:
            blamed = self.missing(columns) & self._unmarked
            blamed[~blamed.any(axis=1)] = self._unmarked
            shares += share[:, -1:] * blamed / blamed.sum(axis=1, keepdims=True)
        return shares

    def likeliest(self, expected: NDArray[np.float32]) -> NDArray[np.float32]:
        """What a model expects in each column (n, d) -> the columns (n, d) of the records closest to it: of one
        category, with a flag that is set or not, with a field that is missing or not."""
        likeliest = np.zeros_like(expected)
        for part, (start, stop, mark) in zip(self.parts, self._places, strict=True):
            likeliest[:, start:stop] = part.likeliest(expected[:, start:stop])
            if mark is not None and part.has_mark:
                missing = expected[:, mark] > 0.5
                likeliest[missing, start:stop] = part.encode(np.array([np.nan]))
                likeliest[missing, mark] = 1.0
        return likeliest

    def replaced(
        self, columns: Columns, x: NDArray[np.float32], likeliest: NDArray[np.float32], chosen: NDArray[np.bool_]
    ) -> NDArray[np.float32]:
        """Records x (n, d) with the chosen features (n, features) and their marks as in `likeliest` (n, d)."""
        replaced = x.copy()
        own = np.repeat(chosen, np.diff(self._starts, append=self._own), axis=1)
        np.copyto(replaced[:, : self._own], likeliest[:, : self._own], where=own)
        if self._own < self.layout.columns:
            replaced[:, -1] *= (self.missing(columns) & self._unmarked & ~chosen).any(axis=1)
        return replaced

    def reasons(
        self,
        columns: Columns,
        x: NDArray[np.float32],
        likeliest: NDArray[np.float32],
        shares: NDArray[np.float64],
        chosen: NDArray[np.bool_],
    ) -> list[list[FeatureReason]]:
        """For each of n records x (n, d) its chosen features (n, features), weightiest first."""
        missing = self.missing(columns)
        order = np.argsort(-shares, axis=1, kind="stable")
        return [
            [
                FeatureReason(
                    self.parts[index].name,
                    None if missing[row, index] else self._observed(columns, row, x[row], index),
                    self._expected(likeliest[row], index),
                    float(shares[row, index]),
                )
                for index in indices[chosen[row, indices]].tolist()
            ]
            for row, indices in enumerate(order)
        ]

    def to_state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """Settings and categories as JSON values, fitted numbers as arrays of one entry a feature."""
        data = {
            "window": self.window,
            "time_zone": self.time_zone,
            "features": [
                part.settings.model_dump(mode="json")
                | {"categories": [*part.categories], "rare": None if part.rare is None else [*part.rare]}
                for part in self.parts
            ],
        }
        arrays = {
            "centre": np.array([part.centre for part in self.parts]),
            "scale": np.array([part.scale for part in self.parts]),
            "marked": np.array([part.marked for part in self.parts]),
        }
        return data, arrays

    @classmethod
    def from_state(cls, data: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> FeatureEncoder:
        """What `to_state` gave, whole again."""
        parts = []
        for index, entry in enumerate(data["features"]):
            settings = FeatureSettings.model_validate({k: entry[k] for k in FeatureSettings.model_fields})
            parts.append(
                PARTS[settings.kind](
                    settings,
                    data["time_zone"],
                    centre=float(arrays["centre"][index]),
                    scale=float(arrays["scale"][index]),
                    marked=bool(arrays["marked"][index]),
                    categories=tuple(entry["categories"]),
                    rare=None if entry["rare"] is None else tuple(entry["rare"]),
                )
            )
        return cls(tuple(parts), data["window"], data["time_zone"])

    @cached_property
    def _unmarked(self) -> NDArray[np.bool_]:
        """Features whose field never was missing in training and is told of in the shared column if it is."""
        return np.array([part.markable and not part.marked for part in self.parts])

    @cached_property
    def _starts(self) -> NDArray[np.intp]:
        """Where the columns of each feature begin, its mark the last of them."""
        return np.array([start for start, _, _ in self._places])

    @property
    def _own(self) -> int:
        """How many columns belong to a single feature: all but the shared one."""
        return self.layout.columns - bool(self._unmarked.any())

    @cached_property
    def _places(self) -> tuple[tuple[int, int, int | None], ...]:
        """Of each feature: start and stop of its own columns, and the column that tells whether it is missing."""
        places: list[tuple[int, int, int | None]] = []
        start = 0
        for part in self.parts:
            stop = start + part.width
            shared = self.layout.columns - 1 if part.markable else None
            places.append((start, stop, stop if part.has_mark else shared))
            start = stop + part.has_mark
        return tuple(places)

    def _observed(self, columns: Columns, row: int, x: NDArray[np.float32], index: int) -> Value:
        start, stop, _ = self._places[index]
        return self.parts[index].observed(columns, row, x[start:stop])

    def _expected(self, likeliest: NDArray[np.float32], index: int) -> Value:
        """None where the model expected the field to be missing."""
        start, stop, mark = self._places[index]
        return None if mark is not None and likeliest[mark] else self.parts[index].read(likeliest[start:stop])


def _previous_within(columns: Columns, names: Sequence[str]) -> Previous:
    """The previous records as far as they are among these records themselves."""
    before = np.full(len(columns), -1, dtype=np.int64)
    for number in np.unique(columns.partition):
        rows = np.flatnonzero(columns.partition == number)
        found = EntityTable(len(rows)).locate(columns.entity[rows]).before()
        before[rows] = np.where(found < 0, -1, rows[found])
    return Previous(
        {name: np.where(before < 0, np.nan, columns.numbers[name][before]) for name in names}, columns.time[before]
    )
