"""What the fields of the training records looked like, feature by feature, and what cannot be the same fields any more.

A retraining on records whose fields were exchanged, scaled, frozen or lost would take the fault for normal. The check
compares two profiles and names what happened. It looks for faults alone: a stream that has merely moved passes, and is
judged by the records.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from consumers.batch import Columns
from detector.config import FeatureSettings

LEVELS = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
MISSING = 0.5
"""Share of records without a field, which few were without before, from which on it counts as lost."""
FEW_MISSING = 0.05
FACTOR = 20.0
"""Values so many times larger, or smaller, than they were are in another unit: in bulk, telemetry hardly ever grows so
much."""
UNLIKE, LIKER = 0.5, 4.0
"""Fields so far from themselves, in spreads, and so many times closer to each other, were exchanged."""


class FieldProfile(BaseModel):
    """Of one numeric field: quantiles of its values at `LEVELS`, and the share of records that lack it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    quantiles: list[float]
    missing: float

    @property
    def middle(self) -> float:
        return self.quantiles[3]

    @property
    def spread(self) -> float:
        """Between the 5 % and the 95 % quantile."""
        return self.quantiles[5] - self.quantiles[1]

    @property
    def bulk(self) -> float:
        """Between the quartiles."""
        return self.quantiles[4] - self.quantiles[2]

    def far_from(self, other: FieldProfile) -> float:
        """Greatest distance of the quantiles from 5 % to 95 %, in spreads of the other."""
        difference = np.abs(np.array(self.quantiles[1:-1]) - np.array(other.quantiles[1:-1])).max()
        return float(difference / other.spread) if other.spread else math.inf if difference else 0.0


Profile = Mapping[str, FieldProfile]
"""By the path of the field."""


def profile(columns: Columns, features: Sequence[FeatureSettings]) -> dict[str, FieldProfile]:
    """Of the numbers, as the records hold them: of counters the counter itself, which says little, is left out."""
    named = [it.name for it in features if it.kind in ("numeric", "flag")]
    return {name: _field(columns.numbers[name]) for name in named}


def faults(before: Profile, after: Profile) -> list[str]:
    """In words, what happened to fields between two trainings that no stream does by itself."""
    shared = [name for name in before if name in after]
    lost = [name for name in shared if _is_lost(before[name], after[name])]
    frozen = [name for name in shared if name not in lost and _is_frozen(before[name], after[name])]
    rest = [name for name in shared if name not in (*lost, *frozen)]
    exchanged = list(_exchanged(before, after, rest))
    moved = {name for pair in exchanged for name in pair}
    scaled = {name: _factor(before[name], after[name]) for name in rest if name not in moved}
    return [
        *(
            f"field '{it}' is missing in {after[it].missing:.0%} of the records, was in {before[it].missing:.1%}"
            for it in lost
        ),
        *(f"field '{it}' is {after[it].middle:g} in all records, and varied" for it in frozen),
        *(f"fields '{one}' and '{other}' look exchanged" for one, other in exchanged),
        *(f"field '{it}' is about {_told(factor)} times what it was" for it, factor in scaled.items() if factor),
    ]


def _told(factor: float) -> str:
    return f"{factor:,.0f}" if factor > 1 else f"{factor:.2g}"


def _field(values: NDArray[np.float64]) -> FieldProfile:
    there = values[np.isfinite(values)]
    quantiles = np.quantile(there, LEVELS).tolist() if len(there) else [0.0] * len(LEVELS)
    return FieldProfile(quantiles=quantiles, missing=1.0 - len(there) / max(1, len(values)))


def _is_lost(before: FieldProfile, after: FieldProfile) -> bool:
    return before.missing <= FEW_MISSING and after.missing >= MISSING


def _is_frozen(before: FieldProfile, after: FieldProfile) -> bool:
    """One value from the 1 % to the 99 % quantile, of a field that varied in its bulk."""
    return before.bulk > 0 and after.quantiles[0] == after.quantiles[-1]


def _exchanged(before: Profile, after: Profile, names: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Pairs that look like each other used to, and not like themselves."""
    strange = [name for name in names if after[name].far_from(before[name]) >= UNLIKE]
    for one, other in combinations(strange, 2):
        if all(
            LIKER * after[here].far_from(before[there]) <= after[here].far_from(before[here])
            for here, there in ((one, other), (other, one))
        ):
            yield one, other


def _factor(before: FieldProfile, after: FieldProfile) -> float | None:
    """How many times larger the field has become, where its middle and its spread tell the same."""
    told = [new / old for old, new in ((before.spread, after.spread), (before.middle, after.middle)) if old and new]
    if not told or not before.spread or min(told) <= 0:
        return None
    beyond = min(told) >= FACTOR or max(told) <= 1 / FACTOR
    return told[0] if beyond and max(told) <= 5 * min(told) else None
