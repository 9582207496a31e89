"""What deciding costs, beside scoring.

    python -m benchmarks.decisions [--json FILE]

A batch of 16,384 records with eight numeric features, a Gaussian mixture of eight components, one entity and 10,000,
one thread; medians of `REPEATS` interleaved runs, in nanoseconds a record. `share` is what the budget, the level and
the incidents take of the time that scoring takes; the figures that follow it are for the rest of what is decided.
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

from consumers.batch import Columns, Partition
from detector.budget import Allowance
from detector.entities import EntityTable
from detector.incidents import Incidents
from detector.level import Levels
from detector.loading import parse
from detector.novelty import Novelty
from detector.partition import Service, decision
from detector.silence import SilenceWatch
from detector.training import train
from detector.training_data import TrainingData
from detector.windows import EntityHistory
from models.scorer import Scorer

BATCH, TRAINING, FEATURES = 16_384, 20_000, 8
ENTITIES = (1, 10_000)
REPEATS = 41


def main() -> None:
    """Measures every stage in turn and prints the result."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--json", type=Path, help="also write the result to this file")
    target = arguments.parse_args().json
    result = {f"{entities} entities": measured(entities) for entities in ENTITIES}
    if target:
        target.write_text(json.dumps(result, indent=2))
    print(json.dumps(result))  # noqa: T201 - the result


def measured(entities: int) -> dict[str, float]:
    """Nanoseconds a record of each stage, and the share of deciding."""
    stages = stages_of(entities)
    took: dict[str, list[float]] = {name: [] for name in stages}
    for _ in range(REPEATS):
        for name, run in stages.items():
            started = time.perf_counter()
            run()
            took[name].append((time.perf_counter() - started) / BATCH * 1e9)
    ns = {name: round(statistics.median(times), 1) for name, times in took.items()}
    return {**ns, "share": round((ns["budget"] + ns["level"] + ns["incidents"]) / ns["score"], 3)}


def stages_of(entities: int) -> dict[str, Callable[[], Any]]:
    """What happens to a batch, stage by stage; each can be run again and again."""
    settings = parse(
        {
            "name": "decisions",
            "kafka": {"bootstrap": "127.0.0.1:1"},
            "stream": {"topics": ["rows"], "entity": "entity"},
            "features": [f"f{number}" for number in range(FEATURES)],
            "models": [{"type": "gmm", "components": 8}],
            "alerts": {"topic": "alerts", "false_alarms": "3/day"},
        }
    )
    features = () if settings.features == "auto" else settings.features
    data = TrainingData(columns(0, TRAINING, entities), features, {}, {})
    bundle = train(data, settings, created=datetime(2026, 1, 1, tzinfo=UTC))
    service, batch = Service.of(settings, bundle), columns(TRAINING, BATCH, entities)
    table, scorer = EntityTable(settings.window.max_entities), Scorer(bundle.models, "cpu")
    visits = table.locate(batch.entity)
    x, late = EntityHistory(bundle.encoder, settings.window.late_for).windows(batch, visits)
    scores = scorer.score(x)
    nats = bundle.calibration.nats(scores)
    allowance, levels, incidents = Allowance(service.budget, 1.0), Levels(service.start), Incidents(settings.alerts)
    novelty, silence = Novelty(service.rules), SilenceWatch()
    rates = allowance.rates(batch.time)
    said = levels.decide(nats, rates, visits, visits, batch.entity)
    visits = table.locate(batch.entity)
    decided = decision(nats, said, np.full(BATCH, "gmm", object))
    beside = np.full(BATCH, service.budget.beside)
    return {
        "score": lambda: scorer.score(x),
        "p_values": lambda: bundle.calibration.nats(scores),
        "budget": lambda: allowance.rates(batch.time),
        "level": lambda: levels.decide(nats, rates, visits, visits, batch.entity),
        "incidents": lambda: incidents.update(batch, decided, visits, late),
        "novelties": lambda: novelty.update(batch, x[:, -1]),
        "silences": lambda: silence.observe(visits.slot, visits.fresh, batch.time, beside),
    }


def columns(start: int, n: int, entities: int) -> Columns:
    """n records of entities that report in turn, a record a second and entity."""
    rows = np.arange(start, start + n)
    chance = np.random.default_rng(start)
    return Columns(
        row=np.arange(n),
        partitions=(Partition("rows", 0),),
        partition=np.zeros(n, np.int32),
        offsets=rows,
        time=1_767_225_600_000 + rows // entities * 1000,
        entity=np.array([f"e{row % entities}" for row in rows.tolist()], object),
        numbers={f"f{number}": chance.normal(size=n) for number in range(FEATURES)},
        texts={},
    )


if __name__ == "__main__":
    main()
