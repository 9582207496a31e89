"""The demo's machine in service: its second half is judged as it comes, with or without retrainings in between."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.lifecycle.machine import TOPIC, Machine
from consumers.batch import Partition
from consumers.memory import MemoryBroker
from detector.demo.tally import Tally
from detector.lease import Lease
from detector.pipeline import Pipeline
from detector.retraining import retrain
from detector.store import Store
from detector.trainings import Request

TIMES = 5
TRIAL = 1_000
"""Live records in the shadow, and as many in the watch."""


class Served(NamedTuple):
    """What came of the second half: labelled events found, of how many, and alarms on unlabelled records against those
    promised; and how each retraining ended."""

    events: int
    found: int
    realised: float
    promised: float
    outcomes: list[str]


class Service:
    """A version in service on a broker in memory; alerts go to their topic, as a daemon has it."""

    def __init__(self, machine: Machine, folder: Path) -> None:
        shutil.copytree(machine.folder / "first", folder)
        self.machine, self.tally = machine, Tally(machine.recording)
        self.settings = machine.settings(folder, promotion={"shadow": TRIAL, "watch": TRIAL, "wait": "10s"})
        self.store = Store(self.settings.store.url, self.settings.name)
        self.broker = MemoryBroker()
        self.broker.create_topics({TOPIC: 1, self.settings.alerts.topic: 1})
        champion = self.store.servable()
        if champion is None:
            raise ValueError(f"The store {folder} holds no version.")
        self.pipeline = Pipeline(self.settings, champion)
        self.rows = machine.recording.half
        machine.send(self.broker, machine.recording.values[: self.rows], 0)
        self._offset = self.rows

    def serve(self, rows: int) -> None:
        """Judges the next rows."""
        new = self.machine.recording.values[self.rows : self.rows + rows]
        self.machine.send(self.broker, new, self.rows)
        self.rows += len(new)
        for batch in self.broker.fetch({Partition(TOPIC, 0): (self._offset, self.rows)}):
            outcome = self.pipeline.process(batch)
            self.tally.observe(batch, outcome)
            for alert in outcome.alerts:
                message = alert.message(self.settings.alerts.topic)
                self.broker.append(message.topic, message.value, message.key)
        self._offset = self.rows

    def retrain(self) -> str:
        """A retraining beside the service, which goes on meanwhile. How it ended."""

        def phase(told: str) -> None:
            if told.split()[0] in ("shadow", "watch"):
                self._adopt()
                self.serve(TRIAL)

        lease = Lease(self.store)
        while not lease.take():
            pass  # nobody else is there to claim it
        report = retrain(
            self.settings, self.broker, self.store, request=Request(reason="schedule"), lease=lease, phase=phase
        )
        self._adopt()
        return report.outcome

    def _adopt(self) -> None:
        champion = self.store.servable()
        if champion is not None and champion.version != self.pipeline.version:
            self.pipeline.adopt(champion)


def served(machine: Machine, times: int) -> Served:
    """The second half, with so many retrainings spread over it."""
    service = Service(machine, machine.folder / f"service-{times}")
    outcomes, part = [], machine.recording.half // (times + 1)
    for number in range(times):
        service.serve(machine.recording.half + (number + 1) * part - service.rows)
        outcomes.append(service.retrain())
    service.serve(len(machine.recording.values) - service.rows)
    tally = service.tally
    return Served(
        events=len(tally.events()),
        found=len(tally.events_found(tally.intervals())),
        realised=tally.realised_rate(),
        promised=tally.promised_rate(),
        outcomes=outcomes,
    )


def figures(machine: Machine) -> dict[str, Any]:
    """Retrained and never, side by side."""
    never, retrained = served(machine, 0), served(machine, TIMES)
    return {"never_retrained": never._asdict(), "retrained": retrained._asdict()}
