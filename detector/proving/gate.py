"""Challenger against champion, before the challenger sees live traffic.

Both judge the same recent normal records, which neither was fitted on, and the same anomalies put into them; each is
calibrated anew on the older half of them, so that what is compared is what they find at the same share of false alarms.
The same anomalies are put into records that the champion generates, as recent ones may be all alike. Labelled examples,
which people confirmed, must still be found.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from consumers.batch import Columns
from detector.bundle import Bundle
from detector.calibration import Calibration
from detector.config import DetectorSettings
from detector.features import FeatureEncoder
from detector.generation import generate
from detector.parts import Number
from detector.proving.injection import KINDS, inject
from detector.proving.surprise import Surprise

FOUND_LESS = 0.05
"""Share of the injected anomalies that a challenger may miss more than the champion, over all kinds;"""
FOUND_LESS_OF_A_KIND = 0.15
"""and of each kind: its share is known to some 0.05 only."""
NAMED_LESS = 0.15
"""Share of spikes of which it may name the field less often."""
LESS_LIKELY = 0.5
"""Nats a column by which recent normal records may be less likely to it: where fields nearly follow from others, two
fits to the same records differ by up to 0.4, and find the same."""
GENERATED = 1_000
"""Records that the champion generates."""
FALSE_ALARMS, BLOCKS = (0.02, 0.05), 10
"""Shares of false alarms at which versions are compared, in the median of so many blocks of the recent records: events
that nobody noticed come in bursts, and the version that notices more of them must not be taken for the worse one. At
smaller shares it is a matter of chance."""


class Judgement(NamedTuple):
    """Why not, if anything, and the figures: of the challenger plain, of the champion under `champion …`."""

    reasons: list[str]
    figures: dict[str, float]


class _Shown(NamedTuple):
    """What one version made of it: likelihood of normal records by model, shares found by base and kind, spikes whose
    field it named, labelled examples found (none where there are none)."""

    likelihood: Mapping[str, float]
    found: Mapping[str, Mapping[str, float]]
    named: float
    examples: float | None


def compare(
    challenger: Bundle,
    champion: Bundle,
    recent: Columns,
    settings: DetectorSettings,
    *,
    changed: bool = False,
    examples: Sequence[Columns] = (),
) -> Judgement:
    """The challenger's judgement on recent normal records, in offset order within each partition, that no model was
    fitted on. Each of `examples` holds records of one entity, the last of them confirmed to be abnormal. Where the
    stream has `changed`, what the champion would generate is of the past, and nobody is asked about it."""
    bases = {"recent": recent}
    if not changed:
        bases["generated"] = generate(champion, GENERATED, settings.training.seed)
    apart = max(it.encoder.window for it in (challenger, champion)) - 1  # both see the same anomalies
    ours, theirs = (_shown(Surprise(it, settings), bases, settings, examples, apart) for it in (challenger, champion))
    reasons = [
        *_less_likely(ours.likelihood, theirs.likelihood, challenger),
        *(reason for base in bases for reason in _missed(base, ours.found[base], theirs.found[base])),
    ]
    if theirs.named - ours.named > NAMED_LESS:
        reasons.append(
            f"it names the field of {ours.named:.1%} of the spikes, the champion {theirs.named:.1%}. Expected at most "
            f"{NAMED_LESS:.0%} less."
        )
    if ours.examples is not None and theirs.examples is not None and ours.examples < theirs.examples:
        reasons.append(
            f"it finds {ours.examples:.1%} of {len(examples)} confirmed examples, the champion {theirs.examples:.1%}."
        )
    return Judgement(reasons, {**_figures(ours), **{f"champion {name}": it for name, it in _figures(theirs).items()}})


def _less_likely(ours: Mapping[str, float], theirs: Mapping[str, float], challenger: Bundle) -> list[str]:
    bounds = {kind: LESS_LIKELY * model.scored_columns for kind, model in challenger.models.items()}
    return [
        f"recent normal records are {after - theirs[kind]:.3g} nats less likely to its {kind} than to the champion's. "
        f"Expected at most {bounds[kind]:.3g}."
        for kind, after in ours.items()
        if kind in theirs and after - theirs[kind] > bounds[kind]
    ]


def _missed(base: str, ours: Mapping[str, float], theirs: Mapping[str, float]) -> list[str]:
    """What speaks against the challenger of the anomalies put into these records."""
    if _mean(theirs) - _mean(ours) > FOUND_LESS:
        return [
            f"it finds {_mean(ours):.1%} of the anomalies put into {base} records, the champion {_mean(theirs):.1%}. "
            f"Expected at most {FOUND_LESS:.0%} less."
        ]
    return [
        f"it finds {share:.1%} of the anomalies of kind {kind} put into {base} records, the champion "
        f"{theirs[kind]:.1%}. Expected at most {FOUND_LESS_OF_A_KIND:.0%} less."
        for kind, share in ours.items()
        if theirs[kind] - share > FOUND_LESS_OF_A_KIND
    ]


def _shown(
    version: Surprise, bases: Mapping[str, Columns], settings: DetectorSettings, examples: Sequence[Columns], apart: int
) -> _Shown:
    recent = bases["recent"]
    x = version.encode(recent)
    judge = _Judge.at_equal_rates(version, x, recent)
    found: dict[str, dict[str, float]] = {base: {} for base in bases}
    named = 0.0
    for (base, columns), kind in product(bases.items(), KINDS):
        changed, rows = inject(columns, numbers(version.bundle), kind, apart=apart, seed=settings.training.seed)
        anomalous = version.encode(changed)[rows]
        found[base][kind] = judge.found(anomalous)
        if (base, kind) == ("recent", "spike"):
            named = _named(version, columns.take(rows), changed.take(rows), anomalous)
    encoder, models = version.bundle.encoder, version.bundle.models
    records = np.array([model.scored_columns / encoder.layout.columns for model in models.values()])
    likelihood = np.median(version.scorer.score(x), axis=1) + records * log_volume(encoder)
    shown = np.stack([version.encode(example)[-1] for example in examples]) if examples else None
    return _Shown(
        dict(zip(models, likelihood.tolist(), strict=True)),
        found,
        named,
        None if shown is None else judge.found(shown),
    )


class _Judge(NamedTuple):
    """A version calibrated on the older half of recent normal rows, and the nats that each of `FALSE_ALARMS` of most
    blocks of the newer half are beyond."""

    version: Surprise
    calibration: Calibration
    thresholds: NDArray[np.float64]

    @classmethod
    def at_equal_rates(cls, version: Surprise, x: NDArray[np.float32], recent: Columns) -> _Judge:
        older, newer = np.array_split(np.argsort(recent.time, kind="stable"), 2)
        scores = version.scores(x)
        calibration = Calibration.fit(dict(zip(version.bundle.models, scores[:, older], strict=True)))
        blocks = np.array_split(calibration.nats(scores[:, newer]), BLOCKS)
        beyond = [np.quantile(block, 1.0 - np.array(FALSE_ALARMS)) for block in blocks if len(block)]
        return cls(version, calibration, np.median(beyond, axis=0))

    def found(self, x: NDArray[np.float32]) -> float:
        """Share of the rows (n, window, d) beyond the thresholds, on average."""
        nats = self.calibration.nats(self.version.scores(x))
        return float((nats[:, None] > self.thresholds).mean())


def _named(version: Surprise, before: Columns, after: Columns, x: NDArray[np.float32]) -> float:
    """Share of spikes of which the first reason is the field that was moved."""
    features = [part.name for part in version.bundle.encoder.parts]
    moved = np.array(
        [
            next((at for at, name in enumerate(features) if _differs(before, after, name, row)), -1)
            for row in range(len(after))
        ]
    )
    scores = version.bundle.calibration.by_model(version.scorer.score(x))
    most, right = scores.argmax(axis=0), np.zeros(len(after), np.bool_)
    for number, kind in enumerate(version.bundle.models):
        rows = np.flatnonzero(most == number)
        if len(rows):
            share, _ = version.scorer.explain(kind, x[rows])
            first = version.bundle.encoder.shares(after.take(rows), share).argmax(axis=1)
            right[rows] = first == moved[rows]
    return float(right.mean())


def _differs(before: Columns, after: Columns, name: str, row: int) -> bool:
    return name in before.numbers and before.numbers[name][row] != after.numbers[name][row]


def numbers(bundle: Bundle) -> list[str]:
    """The numeric fields of a version: those that an anomaly can be put into."""
    return [part.name for part in bundle.encoder.parts if isinstance(part, Number)]


def log_volume(encoder: FeatureEncoder) -> float:
    """What to add to a negative log-likelihood of a record's columns, in nats, to have it of the record: the change of
    variables x = (v − centre) / scale takes ln scale from the density of each number."""
    return float(np.log([part.scale for part in encoder.parts if isinstance(part, Number)]).sum())


def _mean(found: Mapping[str, float]) -> float:
    return float(np.mean([*found.values()]))


def _figures(shown: _Shown) -> dict[str, float]:
    return {
        **{f"negative log-likelihood {kind}": round(value, 3) for kind, value in shown.likelihood.items()},
        **{f"found {kind} {base}": round(it, 4) for base, found in shown.found.items() for kind, it in found.items()},
        "named spike": round(shown.named, 4),
        **({} if shown.examples is None else {"found examples": round(shown.examples, 4)}),
    }
