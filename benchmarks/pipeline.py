"""Records a second that the pipeline carries, without a broker, beside the loop that one would write instead.

    python -m benchmarks.pipeline [--json FILE]

Batches of JSON records with eight numeric features go through decode, encode, score, calibrate and incidents, for each
model alone and for both, with one entity and with 10,000. The baseline is `json.loads`, a matrix, scikit-learn's
`score_samples` on a mixture of the same size, and a fixed threshold. Medians of `REPEATS` interleaved runs, one thread.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from sklearn.mixture import GaussianMixture  # type: ignore[import-untyped]  # ships no types

from consumers.batch import RawBatch
from consumers.memory import MemoryBroker
from consumers.stream import Window
from detector.config import DetectorSettings
from detector.loading import parse
from detector.pipeline import Pipeline
from detector.training import train
from detector.training_data import gather

BATCH = 10_000
TRAINING = 20_000
REPEATS = 7
FEATURES = tuple("abcdefgh")
MODELS: dict[str, list[dict[str, Any]]] = {
    "gmm": [{"type": "gmm", "components": 8}],
    "vae": [{"type": "vae", "latent": 4, "hidden": [64, 32]}],
    "gmm+vae": [{"type": "gmm", "components": 8}, {"type": "vae", "latent": 4, "hidden": [64, 32]}],
}
ENTITIES = (1, 10_000)


def main() -> None:
    """Runs everything and prints the result."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--json", type=Path, help="also write the result to this file")
    target = arguments.parse_args().json
    runs: dict[str, Callable[[], object]] = {"json + scikit-learn": baseline(values(BATCH, 1, start=TRAINING))}
    for entities in ENTITIES:
        for name, models in MODELS.items():
            runs[f"{name}, {entities} entities"] = pipeline(models, entities)
    rates = measure(runs)
    reference = rates["json + scikit-learn"]
    result = {
        "records_per_s": {name: round(rate) for name, rate in rates.items()},
        "over_baseline": {name: round(rate / reference, 2) for name, rate in rates.items()},
    }
    line = json.dumps(result)
    if target:
        target.write_text(line + "\n", encoding="utf-8")
    print(line)  # noqa: T201 - the result


def values(n: int, entities: int, *, start: int = 0) -> list[bytes]:
    """n records of correlated noise, about 150 bytes each; entities take turns."""
    mixing, chance = np.random.default_rng(0).normal(size=(3, len(FEATURES))), np.random.default_rng(start)
    rows = chance.normal(size=(n, 3)) @ mixing + 0.1 * chance.normal(size=(n, len(FEATURES)))
    return [
        json.dumps(
            {
                "machine": f"m{number % entities}",
                "ts": 1_767_225_600_000 + 1_000 * number,
                **{name: round(value, 4) for name, value in zip(FEATURES, row, strict=True)},
            }
        ).encode()
        for number, row in enumerate(rows.tolist(), start)
    ]


def pipeline(models: list[dict[str, Any]], entities: int) -> Callable[[], object]:
    """A trained pipeline, ready to take the same batch again and again."""
    with tempfile.TemporaryDirectory() as folder:
        settings = settings_for(models, folder)
        broker = MemoryBroker()
        broker.create_topics({"bench": 1})
        for value in values(TRAINING, entities):
            broker.append("bench", value)
        data = gather(settings, broker, now_ms=0)
        trained = Pipeline(settings, train(data, settings, created=datetime.now(UTC)))
    batch = batch_of(values(BATCH, entities, start=TRAINING))
    return lambda: trained.process(batch)


def settings_for(models: list[dict[str, Any]], folder: str) -> DetectorSettings:
    """Settings of the measured detector."""
    return parse(
        {
            "name": "bench",
            "kafka": {"bootstrap": "127.0.0.1:1"},
            "stream": {"topics": ["bench"], "entity": "machine", "timestamp": "ts"},
            "features": list(FEATURES),
            "window": {"length": 1},
            "models": models,
            "training": {"records": TRAINING},
            "alerts": {"topic": "bench-alerts", "rate": 0.001},
            "store": {"url": folder},
        }
    )


def batch_of(records: list[bytes]) -> RawBatch:
    """The records as one batch."""
    broker = MemoryBroker()
    broker.create_topics({"bench": 1})
    for value in records:
        broker.append("bench", value)
    parts = list(broker.read(["bench"], Window()))
    return max(parts, key=len)


def baseline(records: list[bytes]) -> Callable[[], object]:
    """What one would write in ten lines."""
    rows = [json.loads(value) for value in values(TRAINING, 1)]
    mixture = GaussianMixture(8, random_state=0).fit([[row[name] for name in FEATURES] for row in rows])

    def run() -> object:
        decoded = [json.loads(value) for value in records]
        matrix = np.array([[record[name] for name in FEATURES] for record in decoded])
        return [record for record, score in zip(decoded, mixture.score_samples(matrix), strict=True) if score < -40]

    return run


def measure(runs: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Median records a second of each, taken in turns so that a noisy moment hits all alike."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        run()
    for _ in range(REPEATS):
        for name, run in runs.items():
            started = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - started)
    return {name: BATCH / statistics.median(taken) for name, taken in seconds.items()}


if __name__ == "__main__":
    main()
