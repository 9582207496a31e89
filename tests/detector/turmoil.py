"""A stream in which everything happens that a partition remembers, and pipelines that live through it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from consumers.batch import Partition, RawBatch
from detector.bundle import Bundle
from detector.config import DetectorSettings
from detector.partition import PartitionMemory
from detector.pipeline import Outcome, Pipeline
from detector.training import train
from detector.training_data import gather
from tests.detector.machines import ALERTS, CREATED, START_MS, TOPIC, broker_with, settings

PLACE = Partition(TOPIC, 0)
MINUTES = 240
RACKS = 3
Record = dict[str, Any]

ALERTING: dict[str, Any] = {
    "topic": ALERTS,
    "quiet_for": "5m",
    "remind_after": "8m",
    "together": {"entities": 3, "within": "2m"},
    "silence": True,
}
POISON = {"max_consecutive": 2}
MUTED = [{"days": ["thu"], "from": "02:20", "to": "02:50"}]
KINDS: dict[str, dict[str, Any]] = {
    "entity": {"alerts": {**ALERTING, "rate": 0.002, "cooldown": "6m"}},
    "confirmed": {"alerts": {**ALERTING, "false_alarms": "20/day", "confirm": {"records": 3, "of": 5}}},
    "rack": {
        "alerts": {**ALERTING, "rate": 0.002, "mute": MUTED},
        "window": {"length": 3, "max_entities": 9},
        "calibration": {"by": "rack"},
    },
    "all": {
        "alerts": {**ALERTING, "false_alarms": "20/day", "mute": MUTED},
        "window": {"length": 1, "max_entities": 9},
        "calibration": {"by": "all"},
    },
    "crowd": {"alerts": {**ALERTING, "rate": 0.002}, "window": {"length": 2, "max_entities": 1_000}},
}
"""Settings under which what is remembered differs."""


def chosen(folder: Path, kind: str, **changes: Any) -> DetectorSettings:
    values: dict[str, Any] = {
        "features": [
            *("cpu", "load", {"name": "sent", "kind": "counter"}),
            *({"name": "state", "kind": "categorical"}, {"name": "rack", "kind": "categorical"}),
        ],
        "window": {"length": 2, "max_entities": 9},
        "dead_letters": POISON,
    }
    return settings(folder, **{**values, **KINDS[kind], **changes})


@cache
def trained_for(folder: Path, kind: str, seed: int = 1_000) -> Bundle:
    """A version fitted on a calm stream."""
    made = chosen(folder, kind)
    data = gather(made, broker_with([json.dumps(record).encode() for record in calm(seed, 500, 6)]), now_ms=START_MS)
    return train(data, made, created=CREATED)


def calm(seed: int, minutes: int, machines: int) -> list[Record]:
    """So many machines that report every minute."""
    chance = np.random.default_rng(seed)
    return [
        _record(chance, f"r{number % RACKS}-m{number}", minute)
        for minute in range(minutes)
        for number in range(machines)
    ]


def _record(chance: np.random.Generator, machine: str, minute: int) -> Record:
    cpu = chance.normal(0.5, 0.1)
    return {
        "machine": machine,
        "ts": START_MS + minute * 60_000 + int(chance.integers(0, 1_000)),
        "cpu": cpu,
        "load": 2 * cpu + chance.normal(0, 0.05),
        "sent": 600.0 * minute + chance.normal(0, 5),
        "state": str(chance.choice(["up", "idle"])),
        "rack": machine[:2],
    }


def turmoil(seed: int) -> list[bytes]:
    """Six machines, and others that come and go, in attacks, alone and a rack at once; with records that are late, or
    from a wrong clock; with categories and types never seen, a field that is gone, poison, and machines that stop."""
    chance, records, waiting = np.random.default_rng(seed), list[bytes](), list[tuple[int, Record]]()
    attacks = [(f"m{chance.integers(0, 6)}", *_span(chance, 3, 12)) for _ in range(10)]
    attacks += [(f"m{chance.integers(0, 6)}", 160, 185)]
    attacks += [("r", first, first + 20) for first in (30, int(chance.integers(150, 200)))]
    gone, mistyped, stopped = (
        _span(chance, 40, 60),
        _span(chance, 2, 4),
        (int(chance.integers(0, 6)), *_span(chance, 40, 60)),
    )
    for minute in range(MINUTES):
        guests = [f"r{number % RACKS}-guest{number}" for number in range(minute // 12, minute // 12 + 2)]
        for machine in [*(f"r{number % RACKS}-m{number}" for number in range(6)), *guests]:
            if machine.endswith(f"m{stopped[0]}") and stopped[1] <= minute < stopped[2]:
                continue
            record = _record(chance, machine, minute)
            for whom, first, last in attacks:
                if whom in machine and first <= minute < last:
                    record |= {"cpu": (minute - first) * chance.random(), "load": 6.0 + 3.0 ** (first / 20)}
            if gone[0] <= minute < gone[1]:
                del record["load"]
            if mistyped[0] <= minute < mistyped[1]:
                record["cpu"] = "much"
            if chance.random() < 0.01:
                record["state"] = f"odd-{chance.integers(0, 4)}"
            if chance.random() < 0.005:
                record["ts"] += int(chance.choice([-1, 1])) * 10**9
            waiting.append((minute + int(chance.choice([0, 0, 0, 0, 0, 1, 3, 7])), record))
        records += [json.dumps(record).encode() for due, record in waiting if due <= minute]
        waiting = [(due, record) for due, record in waiting if due > minute]
        records += [b"broken"] * int(chance.integers(0, 5) if chance.random() < 0.05 else 0)
    return records


def _span(chance: np.random.Generator, shortest: int, longest: int) -> tuple[int, int]:
    first = int(chance.integers(60, MINUTES - 60))
    return first, first + int(chance.integers(shortest, longest))


def batches(values: Sequence[bytes], seed: int) -> Iterator[RawBatch]:
    """The records, cut anywhere, with an empty batch now and then."""
    chance = np.random.default_rng(seed)
    cuts = np.sort(chance.integers(0, len(values) + 1, 25)).tolist()
    for start, stop in pairwise([0, *cuts, len(values)]):
        yield batch(values[start:stop], start)


def batch(values: Sequence[bytes], start: int) -> RawBatch:
    n = len(values)
    return RawBatch(
        partitions=(PLACE,),
        partition=np.zeros(n, np.int32),
        offsets=np.arange(start, start + n),
        timestamps=np.full(n, START_MS),
        keys=[None] * n,
        values=values,
        headers=[()] * n,
    )


class Lived(NamedTuple):
    """What came of a stream, batch by batch, and the pipeline behind it."""

    outcomes: list[Outcome]
    pipeline: Pipeline

    @property
    def told(self) -> list[dict[str, Any]]:
        return [alert.model_dump() for outcome in self.outcomes for alert in outcome.alerts]

    @property
    def memory(self) -> PartitionMemory:
        return self.pipeline._memories[PLACE]


def live(
    pipeline: Pipeline, parts: Iterator[RawBatch], between: Callable[[PartitionMemory], PartitionMemory] = lambda it: it
) -> Lived:
    """The outcomes of batches, an hour after the last record too; `between` may replace what is remembered."""
    outcomes = list[Outcome]()
    for part in [*parts, batch([], 0)]:
        if PLACE in pipeline._memories:
            pipeline._memories[PLACE] = between(pipeline._memories[PLACE])
        outcomes.append(pipeline.process(part, idle_ms=0.0 if len(part) else 3_600_000.0))
    return Lived(outcomes, pipeline)
