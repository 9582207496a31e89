"""Three replicas, a trainer that is killed at any moment, and versions that take over: nobody may go unserved."""

from __future__ import annotations

import os
import random
import signal
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.lifecycle.live import POLL_S, Live, live, sending
from benchmarks.lifecycle.machine import Machine
from detector.bundle import new_version
from detector.errors import OffnominalError
from detector.trainings import Request, Trainings

REPLICAS, ENTITIES = 3, 6
TRAINED = 12_000
ROWS_PER_S = 15.0
SWAPS = 5
LATEST_S, STARTS_S, SETTLES_S = 45.0, 60.0, 120.0
"""A trainer lives for up to so long before it is killed: it waits for the lease of the one before, trains, is in the
shadow, watches. So long it may take to start, and the fleet to come to rest."""


def killed(machine: Machine, folder: Path, kills: int) -> dict[str, Any]:
    """Trainers killed, records that were produced and not scored (or scored twice, below 0), versions that cannot be
    loaded, and how long a version took until all replicas served it, in times of `store.poll`."""
    chance = random.Random(0)
    changes: dict[str, Any] = {
        "training": {"records": TRAINED, "on_drift": False},
        "promotion": {"shadow": 500, "watch": 500, "wait": "60s"},
        "alerts": {"topic": "telemetry-alerts", "rate": 0.01, "quiet_for": "10m", "silence": False},
    }
    with live(folder, machine.recording.values, entities=ENTITIES, **changes) as stage:
        stage.send(TRAINED // ENTITIES)
        stage.command("train")
        for number in range(REPLICAS):
            stage.start(f"replica-{number}")
        stage.await_ready()
        already = ENTITIES * stage.rows
        with sending(stage, ROWS_PER_S):
            swaps = [_swap(stage, chance) for _ in range(SWAPS)]
            done = sum(_kill(stage, chance) for _ in range(kills))
            last = _trained(stage)
        sent = ENTITIES * stage.rows - already
        stage.until(lambda: stage.counters().get("records") == sent, SETTLES_S)
        return {
            "trainer_kills": done,
            "unserved": sent - int(stage.counters()["records"]),
            "served": sent,
            "broken_versions": _broken(stage),
            "training_after": last,
            "swap_polls": [round(seconds / POLL_S, 2) for seconds in swaps],
        }


def _swap(stage: Live, chance: random.Random) -> float:
    """Promotes a copy of the champion; seconds until all replicas serve it."""
    champion = stage.store.servable()
    if champion is None:
        raise RuntimeError("the store holds no version")
    name = new_version(champion.manifest.created, chance.randbytes(8))
    stage.store.save(replace(champion, manifest=champion.manifest.model_copy(update={"version": name})))
    started = time.monotonic()
    stage.store.promote(name)
    stage.until(lambda: [*stage.versions().values()] == [name] * REPLICAS, SETTLES_S)
    return time.monotonic() - started


def _kill(stage: Live, chance: random.Random) -> bool:
    """Asks for a training and kills it at some moment; whether there was one to kill."""
    Trainings(stage.store).ask(Request(reason="demand"))
    if not stage.until(lambda: bool(_trainers(stage)), STARTS_S):
        return False
    time.sleep(chance.uniform(0.0, LATEST_S))
    for pid in (found := _trainers(stage)):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    stage.until(lambda: not set(_trainers(stage)) & set(found), STARTS_S)
    return bool(found)


def _trainers(stage: Live) -> list[int]:
    """Children of the replicas."""
    children: list[int] = []
    for pid in stage.pids:
        for task in Path(f"/proc/{pid}/task").glob("*/children"):
            with suppress(OSError):
                children += map(int, task.read_text().split())
    return children


def _trained(stage: Live) -> str:
    """How a training ends that nobody kills."""
    request, trainings = Trainings(stage.store).ask(Request(reason="demand")), Trainings(stage.store)
    stage.until(lambda: trainings.report(request.id) is not None, 4 * SETTLES_S)
    report = trainings.report(request.id)
    return "none" if report is None else report.outcome


def _broken(stage: Live) -> int:
    """Versions listed that cannot be loaded, and the champion where it is not among them."""
    versions, broken = stage.store.versions(), 0
    for version in versions:
        try:
            stage.store.load(version)
        except OffnominalError:
            broken += 1
    return broken + (stage.store.champion() not in versions)
