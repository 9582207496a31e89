"""What each kind of model costs: seconds to fit, and records a second that it scores.

    python -m benchmarks.scoring [--models auto,ar,gmm] [--repeats 3] [--json FILE]

The demo's recording, a real server's 38 metrics: the first half is trained on as the product does, the second half is
scored, averaged over time and calibrated to p-values, as in service but without decoding and decisions, on one thread.
`kernel+gmm` is what `models: auto` takes where records have no order, each record alone. The baseline is scikit-learn's
isolation forest on the same columns. Medians of interleaved runs.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import IsolationForest  # type: ignore[import-untyped]  # ships no types

from benchmarks.budget import columns_of, evenly
from detector.averages import Averages
from detector.bundle import Bundle
from detector.demo.recording import MACHINE, Recording, load_recording
from detector.entities import EntityTable
from detector.loading import parse
from detector.proving.surprise import encode
from detector.training import train
from detector.training_data import TrainingData
from models.registry import KINDS
from models.scorer import Scorer

TABLE = "kernel+gmm"
BASELINE = "isolation forest"
BATCH = 10_000


def main() -> None:
    """Fits and times everything, and prints the result."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--models", default=",".join(["auto", TABLE, *sorted(KINDS)]), help="sets of models")
    arguments.add_argument("--repeats", type=int, default=3)
    arguments.add_argument("--json", type=Path, help="also write the result to this file")
    given = arguments.parse_args()
    recording, fitted, runs = load_recording(), dict[str, float](), dict[str, Callable[[], object]]()
    for name in given.models.split(","):
        fitted[name], runs[name] = prepared(recording, name)
    fitted[BASELINE], runs[BASELINE] = baseline(recording)
    took: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(given.repeats):
        for name, run in runs.items():
            started = time.perf_counter()
            run()
            took[name].append(time.perf_counter() - started)
    rows = len(recording.values) - recording.half
    result: dict[str, Any] = {
        "rows": recording.half,
        "columns": recording.values.shape[1],
        "fit_s": {name: round(seconds, 2) for name, seconds in fitted.items()},
        "records_per_s": {name: round(rows / statistics.median(runs)) for name, runs in took.items()},
    }
    if given.json:
        given.json.write_text(json.dumps(result, indent=2))
    print(json.dumps(result))  # noqa: T201 - the result


def prepared(recording: Recording, models: str) -> tuple[float, Callable[[], object]]:
    """Seconds to train a version with these models, and what scores the second half with it."""
    settings = parse(
        {
            "name": MACHINE,
            "kafka": {"bootstrap": "127.0.0.1:1"},
            "stream": {"topics": ["rows"]},
            "features": list(recording.metrics),
            "models": "auto" if models == "auto" else models.split("+"),
            **({"window": {"length": 1}} if models == TABLE else {}),
            "alerts": {"topic": "alerts"},
        }
    )
    times = evenly(1, 1)(recording.half, len(recording.values) - recording.half)
    features = () if settings.features == "auto" else settings.features
    known = columns_of(recording, times, slice(0, recording.half))
    started = time.perf_counter()
    bundle = train(TrainingData(known, features, {}, {}), settings, created=datetime(2026, 1, 1, tzinfo=UTC))
    seconds = time.perf_counter() - started
    live = columns_of(recording, times, slice(recording.half, None))
    x = encode(bundle.encoder, live, settings.window)
    scorer = Scorer(bundle.models, "cpu")
    return seconds, lambda: judged(bundle, scorer, x, live.entity)


def judged(bundle: Bundle, scorer: Scorer, x: NDArray[np.float32], entity: NDArray[np.object_]) -> NDArray[np.float64]:
    """−ln p (n,) of rows (n, window, d), a batch at a time."""
    averages, table, found = Averages(bundle.calibration.usual), EntityTable(1), []
    for start in range(0, len(x), BATCH):
        scores = scorer.score(x[start : start + BATCH])
        lately = averages.update(scores, table.locate(entity[start : start + BATCH]))
        found.append(bundle.calibration.in_time(scores, bundle.calibration.by_model(scores), lately)[0])
    return np.concatenate(found)


def baseline(recording: Recording) -> tuple[float, Callable[[], object]]:
    """The same of an isolation forest."""
    started = time.perf_counter()
    forest = IsolationForest(random_state=0).fit(recording.values[: recording.half])
    return time.perf_counter() - started, lambda: forest.score_samples(recording.values[recording.half :])


if __name__ == "__main__":
    main()
