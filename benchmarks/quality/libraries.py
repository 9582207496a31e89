"""Detectors of libraries on the rows of a data set, ranked as the product's models are.

Each is fitted on the first `FITTED` of the training rows, scaled by their mean and deviation, as the product trains on
these and calibrates on the rest, and scores the test rows; arguments are the library's defaults. kNN and PCA see the
last `WINDOW` rows of a stream, flattened, the oldest row repeated where there are fewer. A random scorer is the floor.

`fit_s`, `fit_peak_mb` and `rows_per_s` are of the detector alone, `Cost` says of what; the product's are of its whole
way, which decodes and decides as well.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, roc_auc_score  # type: ignore[import-untyped]  # ships no types

from benchmarks.measures import Flags, Scores, vus_pr
from benchmarks.quality.costs import measured

FITTED = 0.8
WINDOW = 16
MOST_FITTED = 5000
"""Rows that kNN keeps: each score looks through all of them."""
MOST_LEARNED = 20_000
"""Rows that half-space trees learn, the last ones, before they score all test rows: about 0.05 ms each, in Python."""
CLIP = 60.0
"""Deviations at which scaled values end, as the product's do."""
_LEAST_DEVIATION = 1e-6  # of a column that varies
_SEED = 0

Rows = NDArray[np.float64]
Score = Callable[[Rows], Scores]
"""Scores (n,) of scaled rows, the higher the more anomalous."""
Figures = dict[str, Any]


class Library(NamedTuple):
    """A detector: how to fit it to scaled rows, what has to be installed, and whether it sees windows of streams."""

    fit: Callable[[Rows], Score]
    needs: str
    windowed: bool

    @property
    def missing(self) -> str | None:
        """How to get what is not there."""
        return None if find_spec(self.needs) else f"pip install {self.needs}"


def knn(rows: Rows) -> Score:
    """Distance to the fifth nearest of at most `MOST_FITTED` rows."""
    from pyod.models.knn import KNN

    kept = np.random.default_rng(_SEED).permutation(len(rows))[:MOST_FITTED]
    return _of_pyod(KNN().fit(rows[np.sort(kept)]))


def pca(rows: Rows) -> Score:
    """Distance along the principal axes, each divided by its share of the variance. Axes that have none are left out:
    by default they would make every row infinitely far, which is the one argument that is not the default."""
    from pyod.models.pca import PCA

    axes = int(np.linalg.matrix_rank(np.atleast_2d(np.cov(rows.T)), hermitian=True))
    return _of_pyod(PCA(n_components=axes, random_state=_SEED).fit(rows))


def isolation_forest(rows: Rows) -> Score:
    """How soon random splits isolate a row."""
    from pyod.models.iforest import IForest

    return _of_pyod(IForest(random_state=_SEED).fit(rows))


def half_space_trees(rows: Rows) -> Score:
    """Trees of random halves of the unit cube, which learn from every row that they have scored."""
    from river.anomaly import HalfSpaceTrees
    from river.preprocessing import MinMaxScaler

    model = MinMaxScaler() | HalfSpaceTrees(seed=_SEED)

    def learn(rows: Rows) -> Scores:
        scores = np.empty(len(rows))
        for number, row in enumerate(rows.tolist()):
            seen = dict(enumerate(row))
            scores[number] = model.score_one(seen)
            model.learn_one(seen)
        return scores

    learn(rows[-MOST_LEARNED:])
    return learn


def chance(rows: Rows) -> Score:
    """The floor: knows nothing."""
    return lambda rows: np.random.default_rng(_SEED).random(len(rows))


LIBRARIES: dict[str, Library] = {
    "pyod/knn": Library(knn, "pyod", windowed=True),
    "pyod/pca": Library(pca, "pyod", windowed=True),
    "pyod/isolation-forest": Library(isolation_forest, "pyod", windowed=False),
    "river/half-space-trees": Library(half_space_trees, "river", windowed=False),
    "random": Library(chance, "numpy", windowed=False),
}


def missing() -> dict[str, str]:
    """What is left out, and how to get it."""
    return {name: library.missing for name, library in LIBRARIES.items() if library.missing is not None}


def judged_by_libraries(path: Path) -> dict[str, Figures]:
    """Figures of one data set by each library that is installed."""
    with np.load(path) as arrays:
        training, test = arrays["X_train"][arrays["y_train"] == 0], arrays["X_test"]
        labels: Flags = arrays["y_test"] == 1
        stream = json.loads(str(arrays["meta"]))["kind"] == "ts"
    plain = scaled(training[: int(FITTED * len(training))], test)
    flat = (windows(plain[0]), windows(plain[1])) if stream else plain
    return {
        name: {
            "name": path.stem,
            "family": path.parent.name,
            **figures(library.fit, *(flat if library.windowed else plain), labels, stream=stream),
        }
        for name, library in LIBRARIES.items()
        if library.missing is None
    }


def figures(fit: Callable[[Rows], Score], fitted: Rows, test: Rows, labels: Flags, *, stream: bool) -> Figures:
    """How well a detector ranks the test rows, and what that takes. Rankings are None where labels are all the same,
    and that of events in tables, which have none."""
    with measured() as fitting:
        score = fit(fitted)
    with measured() as scoring:
        scores = score(test)
    both = bool(labels.any() and not labels.all())
    return {
        "vus_pr": vus_pr(labels, scores) if both and stream else None,
        "auroc": float(roc_auc_score(labels, scores)) if both else None,
        "average_precision": float(average_precision_score(labels, scores)) if both else None,
        "fit_s": fitting.seconds,
        "fit_peak_mb": fitting.peak_mb,
        "rows_per_s": len(test) / scoring.seconds,
    }


def scaled(fitted: Rows, test: Rows) -> tuple[Rows, Rows]:
    """Both by mean and deviation of the rows to fit on; what is not finite as their mean."""
    known = np.ma.masked_invalid(fitted).astype(np.float64)
    mean, deviation = known.mean(0).filled(0.0), known.std(0).filled(0.0)
    deviation[deviation <= _LEAST_DEVIATION] = 1.0
    by = [np.where(np.isfinite(rows), (rows - mean) / deviation, 0.0).clip(-CLIP, CLIP) for rows in (fitted, test)]
    return by[0], by[1]


def windows(rows: Rows) -> Rows:
    """(n, d) -> (n, WINDOW · d): each with the rows before it, oldest first."""
    padded = np.concatenate([np.repeat(rows[:1], WINDOW - 1, 0), rows])
    return np.lib.stride_tricks.sliding_window_view(padded, WINDOW, 0).swapaxes(1, 2).reshape(len(rows), -1)


def _of_pyod(detector: Any) -> Score:
    return lambda rows: np.asarray(detector.decision_function(rows), np.float64)
