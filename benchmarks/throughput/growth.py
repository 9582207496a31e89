"""What a record costs in the pipeline, and an entity in memory, as entities, features, models and partitions grow.

    python -m benchmarks.throughput.growth

No broker is involved: batches are made beforehand and go through `Pipeline.process`. Windows are of 16 records, but
of one where features grow.
"""

from __future__ import annotations

import gc
import json
import os
import statistics
import tempfile
import time
import tracemalloc
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from benchmarks.stage import MIXTURE, VAE, settings
from benchmarks.workload import FEATURES, training, values
from consumers.batch import Partition, RawBatch
from consumers.memory import MemoryBroker
from consumers.records import Run, to_batch
from detector.bundle import Bundle
from detector.config import DetectorSettings
from detector.loading import parse
from detector.pipeline import Pipeline
from detector.training import train
from detector.training_data import gather
from models.registry import KINDS

BATCH = 12_000
"""Divisible by every number of partitions, so that an entity stays in one of them."""
TIMED = 5
KNOWN = 5_000
"""Records to train on: what a record costs hardly depends on how well it is modelled."""
_TOPIC = "bench"


@dataclass(frozen=True)
class Case:
    """A detector with `models`, by type, and its traffic."""

    entities: int = 1_200
    features: int = len(FEATURES)
    models: tuple[str, ...] = ("gmm",)
    partitions: int = 1
    window: int = 16

    @property
    def names(self) -> list[str]:
        return [f"f{number}" for number in range(self.features)]

    def batches(self) -> Iterator[RawBatch]:
        """The records of the stream, a batch at a time; an entity has one partition."""
        start = 0
        while True:
            lines = values(start, BATCH, entities=self.entities, features=self.names)
            runs = {
                Partition(_TOPIC, number): _run(start, lines, number, self.partitions)
                for number in range(self.partitions)
            }
            yield to_batch(runs, ends={})
            start += BATCH


CASES: dict[str, dict[int, Case]] = {
    "entities": {n: Case(entities=n) for n in (1, 1_000, 10_000, 100_000)},
    "features": {n: Case(features=n, window=1) for n in (8, 40, 100, 200)},
    "models": {n: Case(models=(*KINDS,)[:n]) for n in (1, 2, 4) if n <= len(KINDS)},
    "partitions": {n: Case(partitions=n) for n in (1, 6, 24)},
}


def growth() -> dict[str, dict[int, dict[str, float]]]:
    """By what grows and how far: `us_per_record` and `bytes_per_entity`."""
    return {what: {n: cost(case) for n, case in cases.items()} for what, cases in CASES.items()}


def cost(case: Case) -> dict[str, float]:
    """Median microseconds a record when all entities are known, and what is remembered of one in bytes."""
    with tempfile.TemporaryDirectory() as folder:
        chosen = _settings(case, Path(folder))
        bundle = _trained(case, chosen)
    pipeline = Pipeline(chosen, bundle, partitions=case.partitions)
    pipeline.warm_up()
    known = -(-case.entities // BATCH)
    traffic = case.batches()
    for batch in islice(traffic, known):
        pipeline.process(batch)
    taken = [_seconds(pipeline, batch) for batch in islice(traffic, TIMED)]
    return {
        "us_per_record": round(1e6 * statistics.median(taken) / BATCH, 3),
        "bytes_per_entity": round(_remembered(pipeline.beside(bundle), case, known) / case.entities),
    }


def _seconds(pipeline: Pipeline, batch: RawBatch) -> float:
    started = time.perf_counter()
    pipeline.process(batch)
    return time.perf_counter() - started


def _remembered(pipeline: Pipeline, case: Case, batches: int) -> int:
    """Bytes that a fresh pipeline holds on to when it has seen every entity."""
    tracemalloc.start()
    try:
        for batch in islice(case.batches(), batches):
            pipeline.process(batch)
        del batch
        gc.collect()
        return tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()


def _settings(case: Case, folder: Path) -> DetectorSettings:
    given = settings(folder, "both-windows", bootstrap="127.0.0.1:1", topic=_TOPIC, group=_TOPIC, client="kafka-python")
    sizes = {model["type"]: model for model in (MIXTURE, VAE)}
    return parse(
        {
            **given,
            "features": case.names,
            "window": {"length": case.window},
            "models": [sizes.get(kind, {"type": kind}) for kind in case.models],
            "training": {"records": KNOWN},
        }
    )


def _trained(case: Case, chosen: DetectorSettings) -> Bundle:
    broker = MemoryBroker()
    broker.create_topics({_TOPIC: 1})
    for value in training(case.names)[-KNOWN:]:
        broker.append(_TOPIC, value)
    return train(gather(chosen, broker, now_ms=0), chosen, created=datetime.now(UTC))


def _run(start: int, lines: list[bytes], number: int, partitions: int) -> Run:
    """The records of one partition, to which they go in turn."""
    mine = lines[number::partitions]
    n = len(mine)
    offsets = start // partitions + np.arange(n)
    return Run(offsets, np.zeros(n, np.int64), [None] * n, mine, [()] * n)


if __name__ == "__main__":
    print(json.dumps(growth()))  # noqa: T201 - the result
