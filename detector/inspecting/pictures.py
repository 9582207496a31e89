"""The pictures of an inspection. Names out of records are told beside them, not in them (see `html_report.picture`).

What is real is blue and filled, what is generated orange and a line or a cross, what is beyond the level red and a
shape of its own by severity: told apart by shape too, and by people who do not see all colours (after Okabe and Ito
2008).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from detector.alerts import SEVERITIES
from detector.html_report import LEVEL_COLOUR, SCORE_COLOUR, picture
from detector.inspecting.agreement import BINS, Correlations, FeatureFit
from detector.inspecting.latent import Latent
from detector.inspecting.likelihood import Likelihood
from detector.inspecting.observed import Observed, Stretch

SAMPLE_COLOUR = "#e69f00"
_STRETCHES: Mapping[Stretch, dict[str, Any]] = {
    "fitted": {"color": "#c3ccd4", "fill": True},
    "calibration": {"color": SCORE_COLOUR},
    "recent": {"color": "#009e73", "ls": "--"},
}
_MARKERS = dict(zip(SEVERITIES, ("v", "s", "*"), strict=True))
_SMALL = (2.9, 1.9)  # inches of a picture among several
_SCORE_BINS, _VALUE_BINS = 80, 40
_VIEW = 1.6
"""A plane is shown to so many times what 99 % of normal records and samples take; farther points lie on its edge."""


def scores(likelihoods: Mapping[str, Likelihood], values: Mapping[str, NDArray[np.float64]], observed: Observed) -> str:
    """How often each score occurs in each stretch of records, by model."""
    figure = Figure(figsize=(12, 2.8 * len(values)), layout="constrained")
    for axes, (kind, own) in zip(figure.subplots(len(values), 1, squeeze=False)[:, 0], values.items(), strict=True):
        level = likelihoods[kind].level
        low, high = np.quantile(own, [0.001, 0.999])
        edges = np.linspace(low, max(high, level) + 0.05 * (max(high, level) - low) + 1e-9, _SCORE_BINS + 1)
        for name, rows in observed.stretches.items():
            counts, _ = np.histogram(own[rows].clip(edges[0], edges[-1]), edges)
            axes.stairs(counts / len(rows), edges, lw=1.4, label=name, **_STRETCHES[name])
        axes.axvline(level, color=LEVEL_COLOUR, lw=1.5, label="alarm level")
        axes.set(yscale="log", xlim=edges[[0, -1]], ylabel="share of records", title=kind)
        axes.set_xlabel("bits" if likelihoods[kind].unit == "bits" else "score")
        axes.legend(frameon=False, fontsize=8, ncols=4)
    return picture(
        figure, "Scores of each stretch of records, and the level at which a model alone would raise an alarm"
    )


def plane(kind: str, points: Latent) -> str:
    """Normal records in two dimensions, with samples and with incidents."""
    figure = Figure(figsize=(12, 4.6), layout="constrained")
    drawn, beyond = figure.subplots(1, 2, sharex=True, sharey=True)
    low, high = np.quantile(np.concatenate([points.normal, points.samples]), [0.005, 0.995], axis=0)
    reach = np.maximum(high - low, 1e-9) * _VIEW / 2
    first, last = (low + high) / 2 - reach, (low + high) / 2 + reach
    samples = points.samples.clip(first, last)
    drawn.scatter(*samples.T, s=14, color=SAMPLE_COLOUR, alpha=0.7, lw=0.8, marker="x", label="samples")
    for axes in (drawn, beyond):
        axes.scatter(
            *points.normal.clip(first, last).T, s=9, color=SCORE_COLOUR, alpha=0.35, lw=0, label="normal records"
        )
        axes.set(xlabel="first axis", xlim=(first[0], last[0]), ylim=(first[1], last[1]))
    for rank, severity in enumerate(SEVERITIES):
        own = points.incidents[points.severity == rank].clip(first, last)
        how = {"s": 24 + 22 * rank, "marker": _MARKERS[severity], "label": severity}
        beyond.scatter(*own.T, color="#b3261e", edgecolor="white", lw=0.5, **how)
    drawn.set_ylabel("second axis")
    for axes in (drawn, beyond):
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), frameon=False, fontsize=9, ncols=4)
    return picture(
        figure,
        f"{kind}, the two principal axes of normal records: samples to the left, records beyond the level by severity "
        "to the right; points beyond the frame lie on its edge",
    )


def transform(fit: FeatureFit) -> str:
    """The histogram of a feature's probability integral transform, with the band of chance."""
    figure, axes = _small()
    edges = np.linspace(0, 1, BINS + 1)
    axes.axhspan(*fit.band, color="#dde4ea", lw=0)
    axes.stairs(fit.transform, edges, fill=True, color=SCORE_COLOUR, alpha=0.75)
    axes.axhline(sum(fit.transform) / BINS, color=LEVEL_COLOUR, lw=1)
    axes.set(xlim=(0, 1), xticks=(0, 0.5, 1), yticks=())
    return picture(figure, f"{fit.verdict}; distance {fit.distance:.2f}{_beside(fit)}")


def marginal(fit: FeatureFit, real: NDArray[np.float64], drawn: NDArray[np.float64]) -> str:
    """Histograms of a feature's values among records and samples, in its own units."""
    figure, axes = _small()
    real, drawn = (side[np.isfinite(side)] for side in (real, drawn))
    both = np.concatenate([real, drawn])
    low, high = np.quantile(both, [0.005, 0.995]) if len(both) else (0.0, 1.0)
    edges = np.linspace(low, high if high > low else low + 1.0, _VALUE_BINS + 1)
    filled, line = ((np.histogram(it.clip(low, edges[-1]), edges)[0] / max(1, len(it))) for it in (real, drawn))
    axes.stairs(filled, edges, fill=True, color=SCORE_COLOUR, alpha=0.6)
    axes.stairs(line, edges, lw=1.6, color=SAMPLE_COLOUR)
    axes.set(yticks=())
    axes.locator_params(axis="x", nbins=4)
    return picture(figure, f"{fit.verdict}; missing {fit.missing[0]:.0%}, generated {fit.missing[1]:.0%}")


def matrices(kind: str, pairs: Correlations) -> str:
    """Correlations of records and of samples, and the difference, the columns numbered."""
    figure = Figure(figsize=(12, 4.2), layout="constrained")
    shown = {"records": pairs.observed, "generated": pairs.generated, "difference": pairs.generated - pairs.observed}
    for axes, (title, matrix) in zip(figure.subplots(1, 3), shown.items(), strict=True):
        size = len(matrix) + 0.5
        image = axes.imshow(
            matrix, vmin=-1, vmax=1, cmap="PuOr", extent=(0.5, size, size, 0.5), interpolation="nearest"
        )
        axes.set_title(title)
    figure.colorbar(image, ax=figure.axes, shrink=0.8)
    return picture(figure, f"{kind}: correlations from −1 (brown) to 1 (violet), columns by their number below")


def _beside(fit: FeatureFit) -> str:
    return "" if fit.expected is None else f", of fitted records {fit.expected:.2f}"


def _small() -> tuple[Figure, Axes]:
    figure = Figure(figsize=_SMALL, layout="constrained")
    axes = figure.subplots()
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right", "left"]].set_visible(False)
    return figure, axes
