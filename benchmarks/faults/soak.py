"""Two million records through 24 partitions while replicas come and go: nothing lost, and memory stays flat."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.faults.scene import LEAVE_S, STRIKE_S, Load, Scene, raised
from benchmarks.faults.stage import Stage

RECORDS = 2_000_000
LOAD = Load(partitions=24, machines=240, rate=10_000.0)
GUESTS = ("guest-1", "guest-2")
"""Replicas that come and go, beside those that stay."""
TURN_S = (2.0, 6.0)
"""Time between two changes, drawn at random."""
SETTLED = 0.1
"""The part of the records after which memory is taken for the first time."""
_PAGE_MB = os.sysconf("SC_PAGE_SIZE") / 2**20


def soak(stage: Stage, seed: int) -> dict[str, Any]:
    """The verdict, and the resident memory of each replica that stays, in MB, early and at the end."""
    with raised(stage, "soak", seed, load=LOAD) as scene:
        lasting, started = scene.fleet.names, time.monotonic()
        first, turns = dict[str, float](), 0
        while scene.producer.sent < RECORDS:
            if not first and scene.producer.sent > SETTLED * RECORDS:
                first = {name: _resident_mb(scene.fleet.pid(name)) for name in lasting}
            _turn(scene)
            turns += 1
            time.sleep(scene.chance.uniform(*TURN_S))
        scene.producer.finish()
        scene.until(lambda: _behind(scene) < 1, 10 * STRIKE_S, "an outcome for all records")
        seconds = time.monotonic() - started
        last = {name: _resident_mb(scene.fleet.pid(name)) for name in lasting}
        verdict = scene.settle(compare=True)
    print(*scene.remarks, *verdict.evidence[:20], sep="\n", file=sys.stderr)  # noqa: T201 - for people
    return {
        "records": verdict.records,
        "alerts": verdict.alerts,
        "lost": verdict.lost,
        "doubled": verdict.doubled,
        "different": verdict.different,
        "remarks": scene.remarks,
        "turns": turns,
        "seconds": round(seconds),
        "rss_mb_first": first,
        "rss_mb_last": last,
        "seed": seed,
    }


def _turn(scene: Scene) -> None:
    """One guest comes or goes."""
    guest = scene.chance.choice(GUESTS)
    if guest not in scene.fleet.names:
        scene.fleet.start(guest)
    elif scene.chance.random() < 0.5:
        scene.fleet.dismiss(guest, signal.SIGKILL, LEAVE_S)
    elif scene.group.owned.get(guest):  # one that is still starting has no way yet to leave well
        scene.leave(guest)


def _behind(scene: Scene) -> int:
    committed = scene.group.committed
    return sum(max(0, end - committed.get(number, 0)) for number, end in scene.ledger.ends().items())


def _resident_mb(pid: int) -> float:
    return round(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE_MB, 1)
