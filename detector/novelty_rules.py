"""What is a novelty to one trained version, and how often training records would have shown one by chance."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from typing import Literal, Self, get_args

import numpy as np
from pydantic import BaseModel, ConfigDict

from consumers.batch import Columns
from detector.features import FeatureEncoder
from detector.lapses import PageTest, Trouble
from detector.parts import Calendar, Category, Part, Value

NoveltyKind = Literal["unseen_category", "field_missing", "field_type"]
KINDS: tuple[NoveltyKind, ...] = get_args(NoveltyKind)

LEAST_MISSING = 0.05
"""A field counts as missing in this share of records at least: that one record lacks it is for the models to judge."""
MOSTLY_THERE = 0.5
"""A field that is missing in a greater share of the records of some partition is not watched for its loss."""
RIGHT_AGAIN = PageTest(gain=math.inf, loss=1.0, limit=100.0)
"""Of a field's type: one record of another type is enough, and 100 scored ones after it end that."""


class NoveltyBaseline(BaseModel):
    """What training records say of novelties, by feature."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    missing: dict[str, float]
    """Probability that a record lacks the field, in the partition where most do: topics may have different fields."""
    evidence: dict[str, float]
    """The most evidence (nats) that it is gone which some stretch of the training records gave."""
    new_values: dict[str, float]
    """Of categorical features: probability that a record has a category never seen before; 1 where training had more of
    them than are kept, so that none can be told to be new."""
    late: dict[str, tuple[str, ...]]
    """Categories of calibration records that no fitted record has."""

    @classmethod
    def fit(cls, encoder: FeatureEncoder, fitted: Columns, calibrating: Columns) -> Self:
        """From the records that the encoder was fitted on, and those that came after them.

        The probability of a new category is N₁/n, the share of records whose category no other record has (Good,
        Biometrika 1953), or the share of calibration records that bring one, whichever is greater: the former supposes
        that the order of records means nothing. That a field is missing is by Laplace's rule of succession.
        """
        columns = Columns.concat([fitted, calibrating])
        missing, evidence, new_values, late = {}, {}, {}, {}
        for part in _fields(encoder):
            lacking = [part.missing(columns.take(rows)) for _, rows in columns.by_partition()]
            missing[part.name] = max((int(rows.sum()) + 1) / (len(rows) + 2) for rows in lacking)
            test = _lost(missing[part.name], math.inf)
            evidence[part.name] = max(map(test.most, lacking))
        for part in _categories(encoder):
            counts = Counter(columns.texts[part.name].tolist())
            once = sum(count == 1 for value, count in counts.items() if value is not None)
            first = set(calibrating.texts[part.name].tolist()) - part.codes.keys()
            share = max(once / len(columns), len(first) / max(1, len(calibrating)))
            new_values[part.name] = 1.0 if part.rare is None else share
            late[part.name] = () if part.rare is None else tuple(sorted(first))
        return cls(missing=missing, evidence=evidence, new_values=new_values, late=late)

    def watched(self, rate: float) -> list[str]:
        """Categorical features for whose new values there is room in the budget, all taken together; `rate` is findings
        of all kinds per record."""
        names = sorted(self.new_values, key=lambda name: (self.new_values[name], name))
        together = np.cumsum([self.new_values[name] for name in names])
        return [name for name, share in zip(names, together.tolist(), strict=True) if share <= rate / len(KINDS)]

    def warnings(self, rate: float) -> list[str]:
        """A text for each categorical feature that is not watched."""
        watched = self.watched(rate)
        room = f"the budget has room for {rate / len(KINDS):.2g}, all features together"
        return [
            f"New values of feature '{name}' raise no alert: a share of {share:.2g} of the records has one, and {room}."
            for name, share in self.new_values.items()
            if name not in watched
        ]


class NoveltyRules:
    """What is new to one trained version. All partitions share it."""

    def __init__(self, encoder: FeatureEncoder, baseline: NoveltyBaseline, *, rate: float, entity: str | None) -> None:
        """`rate` is how many findings per record are bearable; `entity` the field that names the entity."""
        self.apart = len(KINDS) / rate
        """Records between two findings of a kind."""
        missing = {**dict.fromkeys(filter(None, [entity]), 0.0), **baseline.missing}
        quiet = math.log(self.apart * max(1, len(missing)))
        self._lost = {
            name: _lost(share, max(quiet, baseline.evidence.get(name, 0.0)))
            for name, share in missing.items()
            if share <= MOSTLY_THERE
        }
        self.usual = {part.name: _usual(part) for part in _fields(encoder)}
        self.fields = tuple(part for part in _fields(encoder) if part.name in self._lost)
        """Those that are watched for their loss."""
        starts, watched = _starts(encoder), baseline.watched(rate)
        self.none = {part.name: starts[part.name] + part.codes[None] for part in _categories(encoder)}
        """The column that is 0 where a categorical feature is not missing."""
        self.unseen = {
            part.name: starts[part.name] + part.unseen for part in _categories(encoder) if part.name in watched
        }
        """The column that is 0 where a watched feature has a category of the fitted records."""
        self.columns = {*self.none.values(), *self.unseen.values()}
        self.late = {name: frozenset(baseline.late[name]) for name in self.unseen}

    def concerns(self, trouble: Trouble) -> bool:
        """Whether there is a test for it: all types are tested, and the loss of fields that mostly are there."""
        return trouble.found is not None or trouble.field in self._lost

    def test(self, trouble: Trouble) -> PageTest:
        """When a trouble sets in, and when it is over."""
        return self._lost[trouble.field] if trouble.found is None else RIGHT_AGAIN


def _fields(encoder: FeatureEncoder) -> Iterator[Part]:
    """Features that are fields of a record."""
    return (part for part in encoder.parts if not isinstance(part, Calendar))


def _categories(encoder: FeatureEncoder) -> Iterator[Category]:
    return (part for part in encoder.parts if isinstance(part, Category))


def _starts(encoder: FeatureEncoder) -> dict[str, int]:
    """The first column of each feature."""
    starts = np.cumsum([0, *(part.width + part.has_mark for part in encoder.parts)]).tolist()
    return {part.name: start for part, start in zip(encoder.parts, starts, strict=False)}


def _usual(part: Part) -> Value:
    """What stands for a missing value, in the user's units."""
    return part.categories[0] if part.categories else part.read(part.encode(np.array([np.nan]))[0])


def _lost(missing: float, limit: float) -> PageTest:
    """Whether a field is gone that is missing with this probability: whether it now is with one half way to 1."""
    usual = max(LEAST_MISSING, missing)
    return PageTest(math.log((1 + usual) / (2 * usual)), math.log(2), limit)
