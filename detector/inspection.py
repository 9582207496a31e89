"""What a trained version knows: the figures and the points that a report of it is drawn from."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from consumers.batch import Columns
from detector.alerts import SEVERITIES, Severity, event_time
from detector.bundle import Bundle
from detector.config import DetectorSettings
from detector.fidelity import Fidelity, fidelity
from detector.inspecting.agreement import Correlations, FeatureFit, Pair, correlations, feature_fits
from detector.inspecting.latent import Latent, LatentFigures, latent
from detector.inspecting.likelihood import Likelihood, likelihood
from detector.inspecting.observed import Observed, Stretch, observe, some
from models.base import GenerativeModel, Progress, silent

SAMPLES = 10_000
"""Drawn of each model: what they say of a distribution is then off by half a per cent."""
_REAL = 5_000
"""Records that samples are compared with, at most."""
_NAMED = 5  # features that a warning names
_SEED = 0  # the same report of the same version and records


class ModelFigures(BaseModel):
    """What one model of the version knows."""

    model_config = ConfigDict(frozen=True)

    likelihood: Likelihood
    latent: LatentFigures
    features: list[FeatureFit]
    """The worst first."""
    correlations: list[Pair]
    """The pairs that differ most."""
    fidelity: Fidelity | None
    """None where the records that models were fitted on are not there to compare with."""

    def warnings(self) -> list[str]:
        """What is wrong, in words."""
        told = self.likelihood.warnings()
        drifted = [it.feature for it in self.features if it.verdict == "drifted"]
        off = [f"{it.feature} ({it.verdict})" for it in self.features if it.verdict not in ("calibrated", "drifted")]
        of = f"of {len(self.features)} features"
        if off:
            told.append(f"{len(off)} {of} are drawn otherwise than they are: {_first(off)}")
        if drifted:
            told.append(f"{len(drifted)} {of} are no longer as they were when it was fitted: {_first(drifted)}")
        return [*told, *(self.fidelity.warnings() if self.fidelity else [])]


def _first(names: list[str]) -> str:
    return ", ".join(names[:_NAMED]) + (", …" if len(names) > _NAMED else "")


class InspectionFigures(BaseModel):
    """What a version knows of these records."""

    model_config = ConfigDict(frozen=True)

    detector: str
    version: str
    records: int
    first: datetime
    last: datetime
    promised_rate: float
    level: float
    """Nats at which an alarm begins, before service moves it."""
    stretches: dict[Stretch, int]
    """Records that the models were fitted on, those that calibrated, and those that came after."""
    elevated: dict[Severity, int]
    """Records at or beyond the level."""
    models: dict[str, ModelFigures]
    warnings: list[str]


class ModelView(NamedTuple):
    """What pictures of one model are drawn from: its scores (n,) in its unit, points, samples (m, d) as records could
    be, and correlations."""

    scores: NDArray[np.float64]
    latent: Latent
    drawn: NDArray[np.float32]
    correlations: Correlations


@dataclass(frozen=True, slots=True)
class Inspection:
    """Figures, and by model what its pictures are drawn from, beside records (n, d) it was not fitted on."""

    bundle: Bundle
    figures: InspectionFigures
    observed: Observed
    real: NDArray[np.float32]
    views: dict[str, ModelView]


def inspect(bundle: Bundle, columns: Columns, settings: DetectorSettings, *, progress: Progress = silent) -> Inspection:
    """Looks at each model of the version beside records in offset order. Raises `NotEnoughRows` where too few of them
    are later than what it was fitted on."""
    progress(0.0, "scoring records")
    observed = observe(bundle, columns, settings)
    real = observed.x[some(observed.unseen, _REAL), -1]
    figures, views = dict[str, ModelFigures](), dict[str, ModelView]()
    for number, (kind, model) in enumerate(bundle.models.items()):
        progress(number / len(bundle.models), f"looking at {kind}")
        figures[kind], views[kind] = _looked_at(bundle, kind, model, observed, real)
    _, severity = observed.beyond
    told = InspectionFigures(
        detector=bundle.manifest.detector,
        version=bundle.version,
        records=len(columns),
        first=event_time(int(columns.time.min())),
        last=event_time(int(columns.time.max())),
        promised_rate=bundle.manifest.rate,
        level=observed.level,
        stretches={name: len(rows) for name, rows in observed.stretches.items()},
        elevated={name: int((severity == rank).sum()) for rank, name in enumerate(SEVERITIES)},
        models=figures,
        warnings=[f"{kind}: {warning}" for kind, it in figures.items() for warning in it.warnings()],
    )
    progress(1.0, "done")
    return Inspection(bundle, told, observed, real, views)


def _looked_at(
    bundle: Bundle, kind: str, model: GenerativeModel, observed: Observed, real: NDArray[np.float32]
) -> tuple[ModelFigures, ModelView]:
    samples = model.sample(SAMPLES, seed=_SEED).numpy()
    drawn = bundle.encoder.likeliest(samples[:, -1])
    rows = observed.stretches.get("fitted")
    fitted = None if rows is None else observed.x[rows, -1]
    points, pairs = latent(model, observed, samples), correlations(bundle.encoder, real, drawn, fitted)
    priced = likelihood(bundle, kind, observed)
    figures = ModelFigures(
        likelihood=priced,
        latent=points.figures,
        features=feature_fits(bundle.encoder, real, drawn, fitted, seed=_SEED),
        correlations=pairs.farthest(),
        fidelity=None if fitted is None else fidelity(drawn, real, fitted, seed=_SEED),
    )
    return figures, ModelView(priced.in_unit(observed.scores[list(bundle.models).index(kind)]), points, drawn, pairs)
