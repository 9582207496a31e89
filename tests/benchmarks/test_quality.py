from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.quality.comparison import compared, tell
from benchmarks.quality.costs import measured
from benchmarks.quality.libraries import CLIP, LIBRARIES, WINDOW, judged_by_libraries, missing, scaled, windows

REAL = [name for name in LIBRARIES if name != "random"]


def data_set(folder: Path, kind: str) -> Path:
    """Two columns that go together, but for the rows in the middle of the test, and one that never changes."""
    chance = np.random.default_rng(1)
    cause = chance.normal(size=(900, 1))
    rows = (cause + 0.2 * chance.normal(size=(900, 2))).astype(np.float32) * [1, 1000]
    labels = np.zeros(300)
    labels[100:120] = 1
    rows[600:][labels == 1] += [0, 8000]
    known = np.zeros(600)
    known[5] = 1
    rows = np.concatenate([rows, np.full((900, 1), 7.0)], axis=1)
    rows[5] = 1e9  # labelled, so that it must not move the scale
    path = folder / "family" / "example.npz"
    path.parent.mkdir()
    meta = json.dumps({"kind": kind})
    np.savez(path, X_train=rows[:600], y_train=known, X_test=rows[600:], y_test=labels, meta=meta)
    return path


@pytest.mark.parametrize("kind", ["ts", "tabular"])
def test_every_library_ranks_planted_rows_above_what_chance_does(kind: str, tmp_path: Path) -> None:
    judged = judged_by_libraries(data_set(tmp_path, kind))
    assert judged.keys() | missing().keys() == LIBRARIES.keys()
    for name in judged.keys() & {*REAL}:
        assert judged[name]["auroc"] > 0.7 > 0.65 > judged["random"]["auroc"]
        assert (judged[name]["vus_pr"] is None) is (kind == "tabular")
        assert judged[name]["rows_per_s"] > 0


def test_what_is_not_installed_is_left_out_and_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LIBRARIES, "pyod/knn", LIBRARIES["pyod/knn"]._replace(needs="no_such_module"))
    assert missing()["pyod/knn"] == "pip install no_such_module"
    assert "pyod/knn" not in judged_by_libraries(data_set(tmp_path, "tabular"))


def test_rows_are_scaled_by_those_to_fit_on_and_what_is_not_finite_is_their_mean() -> None:
    fitted = np.array([[1.0, 5.0, np.nan], [3.0, 5.0, np.nan]])
    known, test = scaled(fitted, np.array([[4.0, 6.0, 1.0], [1e9, np.nan, np.inf]]))
    assert known.tolist() == [[-1, 0, 0], [1, 0, 0]]
    assert test.tolist() == [[2, 1, 1], [CLIP, 0, 0]]


def test_a_window_ends_with_its_row_and_the_oldest_is_repeated() -> None:
    rows = np.arange(40.0).reshape(20, 2)
    found = windows(rows)
    assert found.shape == (20, 2 * WINDOW)
    assert found[19].tolist() == rows[20 - WINDOW :].ravel().tolist()
    assert found[1].tolist() == [0, 1] * (WINDOW - 1) + [2, 3]


def test_a_cost_is_the_peak_and_not_what_is_left() -> None:
    with measured() as large:
        np.ones(8_000_000).sum()  # beyond what malloc takes of memory that was freed
    with measured() as small:
        pass
    assert 55 < large.peak_mb < 110
    assert small.peak_mb < 5
    assert large.seconds > 0


def judged(family: str, **auroc: float | None) -> dict[str, dict[str, Any]]:
    rest = {"average_precision": 0.5, "fit_s": 1.0, "fit_peak_mb": 2.0, "rows_per_s": 3000.0}
    return {name: {"family": family, "auroc": value, "vus_pr": None, **rest} for name, value in auroc.items()}


def test_the_best_library_of_a_family_is_neither_the_product_nor_chance(capsys: pytest.CaptureFixture[str]) -> None:
    names = ("gmm", "pyod/knn", "pyod/pca", "random")
    sets = [
        judged("a", **dict(zip(names, (0.9, 0.7, 0.6, 0.5), strict=True))),
        judged("a", **dict(zip(names, (0.9, 0.6, 0.8, 0.99), strict=True))),
        judged("b", **dict.fromkeys(names)),
    ]
    told = compared(sets)
    assert told["a"]["best_library"] == {"vus_pr": None, "auroc": "pyod/pca", "average_precision": "pyod/knn"}
    assert told["a"]["detectors"]["pyod/pca"]["auroc"] == pytest.approx(0.7)
    assert told["b"]["best_library"]["auroc"] is None
    tell(told)
    assert capsys.readouterr().err.count("*") == 3
