"""The product's models and the detectors of libraries side by side, by family of data sets."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean, median
from typing import Any

from benchmarks.quality.libraries import LIBRARIES

Row = Mapping[str, Any]
FIGURES: Mapping[str, Callable[[list[float]], float]] = {
    "vus_pr": fmean,
    "auroc": fmean,
    "average_precision": fmean,
    "fit_s": fmean,
    "fit_peak_mb": max,
    "rows_per_s": median,
}
"""What is told of a family, and how it is taken from its data sets; None where none has the figure."""
RANKINGS = ("vus_pr", "auroc", "average_precision")
FLOOR = "random"


def compared(judged: Sequence[Mapping[str, Row]]) -> dict[str, dict[str, Any]]:
    """From rows by detector of each data set, by family: the figures of each `detectors`, and by ranking the
    `best_library`, None where none has it."""
    families = sorted({row["family"] for by_detector in judged for row in by_detector.values()})
    return {family: _family([rows for rows in judged if _family_of(rows) == family]) for family in families}


def tell(families: Mapping[str, Mapping[str, Any]]) -> None:
    """A table on stderr, with a star at the best library of each ranking."""
    for family, told in families.items():
        lines = [f"{family:26}" + "".join(f"{name:>19}" for name in FIGURES)]
        for detector, figures in told["detectors"].items():
            stars = {name for name, library in told["best_library"].items() if library == detector}
            cells = (_cell(figures[name]) + "*" * (name in stars) for name in FIGURES)
            lines.append(f"  {detector:24}" + "".join(f"{cell:>19}" for cell in cells))
        sys.stderr.write("\n".join(lines) + "\n")


def _family(judged: Sequence[Mapping[str, Row]]) -> dict[str, Any]:
    detectors = {
        name: {
            figure: _over(statistic, [rows[name] for rows in judged], figure) for figure, statistic in FIGURES.items()
        }
        for name in judged[0]
    }
    libraries = [name for name in detectors if name in LIBRARIES and name != FLOOR]
    best = {}
    for ranking in RANKINGS:
        known = {name: value for name in libraries if (value := detectors[name][ranking]) is not None}
        best[ranking] = max(known, key=known.__getitem__) if known else None
    return {"data_sets": len(judged), "detectors": detectors, "best_library": best}


def _family_of(rows: Mapping[str, Row]) -> str:
    return str(next(iter(rows.values()))["family"])


def _over(statistic: Callable[[list[float]], float], rows: Sequence[Row], figure: str) -> float | None:
    values = [row[figure] for row in rows if row.get(figure) is not None]
    return round(statistic(values), 4) if values else None


def _cell(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}" if value >= 1000 else f"{value:.3f}"
