"""One stream with its daemons, on which one kind of fault strikes again and again, and the verdict on all of it."""

from __future__ import annotations

import random
import shutil
import signal
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

import yaml

from benchmarks.faults.fleet import Death, Fleet
from benchmarks.faults.ledger import Ledger, Verdict, judge
from benchmarks.faults.producer import LedgeredProducer
from benchmarks.faults.reference import undisturbed
from benchmarks.faults.stage import DETECTOR, Stage
from benchmarks.faults.traffic import Traffic
from benchmarks.faults.victim import Plan, struck
from benchmarks.faults.watch import GroupWatch, Subscriber, last_log_line
from consumers.kafka_python import KafkaPythonBroker
from detector.config import DetectorSettings
from detector.loading import parse
from detector.store import Store

CALM_S = (0.5, 2.0)
"""Time between two faults, drawn at random."""
STRIKE_S = 120.0
"""What is to be brought about has to come within so long."""
RECOVERY_S = 120.0
SETTLE_S = 120.0
LEAVE_S = 30.0
"""A daemon that was asked to leave has to be gone."""


class Load(NamedTuple):
    """What is sent: partitions, machines, and records a second."""

    partitions: int = 6
    machines: int = 24
    rate: float = 400.0


STEADY = Load()


class Mark(NamedTuple):
    """When a fault struck, in monotonic seconds, and where the topic's partitions ended by then."""

    at: float
    ends: dict[int, int]


class Scene:
    """A topic, its producer, subscriber and replicas. What ought to have happened and did not is kept in `remarks`."""

    def __init__(self, stage: Stage, name: str, seed: int, cleanup: ExitStack, *, command: Command, load: Load) -> None:
        self.stage = stage
        self.chance = random.Random(f"{name} {seed}")
        self.topic = f"{name.replace('_', '-')}-{uuid.uuid4().hex[:8]}"
        self.folder = stage.folder / self.topic
        self.folder.mkdir()
        shutil.copytree(stage.store, self.folder / "store")
        self.settings = self._settings("0")
        self.store = Store(self.settings.store.url, DETECTOR)
        self.broker = KafkaPythonBroker(self.settings.kafka, group=self.settings.group, client_id="faults")
        self.broker.create_topics({self.topic: load.partitions})
        self.broker.create_topics({self.settings.alerts.topic: 1, self.settings.dead_letter_topic: 1})
        self.remarks: list[str] = []
        self.ledger = Ledger()
        self.traffic = Traffic(self.chance.randrange(1 << 30), load.partitions, machines=load.machines)
        topics = {"alerts": self.settings.alerts.topic, "dead_letters": self.settings.dead_letter_topic}
        self.subscriber = Subscriber(stage.bootstrap, **topics)
        cleanup.callback(self.subscriber.stop)
        self.group = GroupWatch(stage.bootstrap, group=self.settings.group, topic=self.topic)
        cleanup.callback(self.group.stop)
        self.producer = LedgeredProducer(stage.bootstrap, self.topic, self.traffic, self.ledger, rate=load.rate)
        cleanup.callback(self.producer.abandon)
        self.fleet = Fleet(self.folder, partial(command, self))
        cleanup.callback(self.fleet.close)

    def launch(self) -> None:
        """Starts the replicas; returns when all of them have records to read."""
        for number in range(self.stage.replicas):
            self.fleet.start(str(number))
        self.await_owners(self.fleet.names)
        self.recovery(self.mark())

    def until(self, condition: Callable[[], object], seconds: float, what: str) -> None:
        """Waits. Raises `TimeoutError`."""
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                raise TimeoutError(f"{what}: not within {seconds:g} s")
            time.sleep(0.01)

    def calm(self) -> None:
        """All replicas are at work, and some time passes."""
        self.await_owners(self.fleet.names)
        time.sleep(self.chance.uniform(*CALM_S))

    def anyone(self) -> str:
        """One of the replicas that have records to read."""
        return self.chance.choice([name for name in self.fleet.names if self.group.owned.get(name)])

    def await_owners(self, names: list[str]) -> None:
        """All partitions belong to these replicas, and each has some."""

        def shared() -> bool:
            owners = {name for name, numbers in self.group.owned.items() if numbers}
            return owners == set(names) and sum(map(len, self.group.owned.values())) == self.traffic.partitions

        try:
            self.until(shared, STRIKE_S, f"partitions for {', '.join(names)}")
        except TimeoutError as error:
            raise TimeoutError(f"{error}; they are at {dict(self.group.owned)}") from None

    def arm(self, name: str, plan: Plan) -> None:
        plan.write(self.plan(name))

    def await_strike(self, name: str) -> None:
        """The plan was acted on, or is being."""
        self.until(lambda: struck(self.plan(name)).exists(), STRIKE_S, f"a strike at {name}")

    def release(self, name: str) -> None:
        """Lets go a replica that is held."""
        struck(self.plan(name)).unlink()

    def mark(self, at: float | None = None) -> Mark:
        return Mark(at or time.monotonic(), self.ledger.ends())

    def await_death(self, name: str, *codes: int) -> Mark:
        """The replica ends, with one of the exit codes."""
        self.until(lambda: any(it.name == name for it in self.fleet.deaths), STRIKE_S, f"the end of {name}")
        death = self._deaths(name)[0]
        mark = self.mark(death.at)
        struck(self.plan(name)).unlink(missing_ok=True)
        if death.code not in codes:
            self.remarks.append(f"{name} ended with {death.code}, not {codes}: {self.last_words(name)}")
        return mark

    def recovery(self, mark: Mark) -> float:
        """Seconds from the mark until every partition is committed beyond where it ended then."""
        ends = dict.fromkeys(range(self.traffic.partitions), 0) | mark.ends
        self.until(
            lambda: all(self.group.committed.get(number, 0) > end for number, end in ends.items()),
            RECOVERY_S,
            f"positions beyond {ends}",
        )
        return time.monotonic() - mark.at

    def last_words(self, name: str) -> str:
        return last_log_line(self.fleet.log(name).read_text(errors="replace"))

    def settle(self, *, compare: bool) -> Verdict:
        """Sends no more, lets the daemons finish and leave, and judges."""
        self.producer.finish()
        ends = self.ledger.ends()
        try:
            self.until(
                lambda: all(self.group.committed.get(number, 0) >= end for number, end in ends.items()),
                SETTLE_S,
                f"an outcome for all records up to {ends}",
            )
            self.await_owners(self.fleet.names)
        except TimeoutError as error:
            self.remarks.append(str(error))
        for death in self._deaths():
            self.remarks.append(f"{death.name} ended by itself with {death.code}: {self.last_words(death.name)}")
        for name in self.fleet.names:
            self.leave(name)
        self.subscriber.catch_up(SETTLE_S)
        reference = undisturbed(self.settings) if compare else None
        if reference is not None and reference.sequences != self.ledger.sequences():
            self.remarks.append("the topic does not hold what was acknowledged")
        return judge(
            self.ledger,
            self.group.committed,
            self.subscriber.letters,
            self.subscriber.alerts,
            reference.alerts if reference else None,
        )

    def leave(self, name: str) -> None:
        """SIGTERM, for good: it has to end by itself, and well."""
        try:
            code: object = self.fleet.dismiss(name, signal.SIGTERM, LEAVE_S)
        except TimeoutError as error:
            code = error
        if code != 0:
            self.remarks.append(f"{name} was asked to leave: {code}, not exit code 0: {self.last_words(name)}")

    def _deaths(self, name: str | None = None) -> list[Death]:
        """Deaths that nobody has waited for so far, of that replica or of all; they are not given again."""
        found = [death for death in self.fleet.deaths if name in (None, death.name)]
        for death in found:
            self.fleet.deaths.remove(death)
        return found

    def plan(self, name: str) -> Path:
        """The file that a replica looks for its plan in."""
        return self.folder / f"{name}.plan"

    def _settings(self, instance: str) -> DetectorSettings:
        return parse(self.stage.settings(self.topic, instance=instance, store=self.folder / "store"))


Command = Callable[[Scene, str], list[str]]
"""What a replica of a name runs."""


def daemon(scene: Scene, name: str) -> list[str]:
    """`offnominal run`, with its plan."""
    config = scene.folder / f"{name}.yaml"
    if not config.exists():
        values = scene.stage.settings(scene.topic, instance=name, store=scene.folder / "store")
        config.write_text(yaml.safe_dump(values))
    return [sys.executable, "-m", "benchmarks.faults.victim", str(scene.plan(name)), "run", "--config", str(config)]


@contextmanager
def raised(stage: Stage, name: str, seed: int, *, command: Command = daemon, load: Load = STEADY) -> Iterator[Scene]:
    """A scene with its daemons at work; whatever happens, nothing of it goes on afterwards."""
    with ExitStack() as cleanup:
        scene = Scene(stage, name, seed, cleanup, command=command, load=load)
        scene.launch()
        yield scene
