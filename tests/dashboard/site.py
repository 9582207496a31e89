"""A detector at work with its dashboard, for browsers to look at: three machines, of which one went wrong."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from consumers.memory import MemoryBroker
from detector.alerts import Alert
from detector.bundle import Bundle
from detector.config import DetectorSettings
from detector.daemon import Daemon
from detector.store import Store
from detector.web.server import dashboard
from tests.detector.machines import ALERTS, START_MS, TOPIC, broker_with, records, settings
from tests.detector.trainings_at_work import DEADLINE_S, until

TOKEN = "canary-51c07e"
TRAINED, SCORED = 3_000, 1_500
"""Records of the stream: those that the version was trained on, and what came after."""
ODD = {"cpu": 1.6, "load": 0.1}
"""What a machine reports that has gone wrong: busy, and yet no load."""
TROUBLE = range(TRAINED + 601, TRAINED + 646, 3)
"""Records of machine m1 in which it had gone wrong, a quarter of an hour of them."""
BROKEN = {TRAINED + 300: {"load": "<b>heavy</b>"}, TRAINED + 301: {"cpu": "\u202e\x1b[31m<img src=x onerror=alert(1)>"}}
"""Records that cannot be scored, and say so in words of their own."""
NEWEST_MS = START_MS + (TRAINED + SCORED - 1) // 3 * 60_000
"""Time of the newest record (epoch milliseconds)."""


@dataclass(frozen=True)
class Site:
    """Where a dashboard is, and what stands behind it."""

    address: str
    settings: DetectorSettings
    broker: MemoryBroker
    daemon: Daemon

    @property
    def store(self) -> Store:
        return Store(self.settings.store.url, self.settings.name)

    def ask(self, path: str, **asked: Any) -> Any:
        """What the API answers to whoever presents the token."""
        answer = httpx.get(f"{self.address}/api/{path}", params=asked, headers={"Authorization": f"Bearer {TOKEN}"})
        return answer.raise_for_status().json()

    def view(self, route: str, *, token: str = TOKEN) -> str:
        """The address of a view, with the token as `offnominal run` prints it."""
        return f"{self.address}/#{f'token={token}&' if token else ''}{route}"


def telemetry() -> MemoryBroker:
    """A broker that holds the machines' records, and took them at the time that they tell."""
    odd: dict[int, dict[str, object]] = dict.fromkeys(TROUBLE, ODD) | BROKEN  # type: ignore[operator]
    broker = broker_with(records(TRAINED))
    for number, value in enumerate(records(SCORED, start=TRAINED, odd=odd), TRAINED):
        broker.append(TOPIC, value, timestamp_ms=START_MS + number // 3 * 60_000)
    return broker


def publish(broker: MemoryBroker, alerts: Iterable[Alert]) -> None:
    """Tells alerts as another replica would."""
    for alert in alerts:
        message = alert.message(ALERTS)
        broker.append(message.topic, message.value, key=message.key, headers=message.headers)


def keep(folder: Path, champion: Bundle, *others: Bundle) -> None:
    """Puts versions into the store of the detector; the first one is to serve."""
    store = Store(settings(folder).store.url, "machines")
    for bundle in (*others, champion):
        store.save(bundle)
    store.promote(champion.version)


@contextmanager
def at_work(folder: Path, broker: MemoryBroker, *, port: int = 0, token: str | None = TOKEN) -> Iterator[Site]:
    """A daemon and its dashboard while the context lasts; what was in the topic is scored, and told of, by then."""
    chosen = settings(folder, web={"port": port, **({} if token is None else {"token": token})})

    def connect(asked: DetectorSettings) -> MemoryBroker:
        return MemoryBroker(group=asked.group, instance=asked.kafka.instance, log=broker.log)

    daemon = Daemon(chosen, broker)
    with dashboard(chosen, daemon, connect) as address, ThreadPoolExecutor(1) as executor:
        assert address is not None
        done = executor.submit(daemon.run)
        try:
            until(lambda: done.done() or (daemon.health.ready().ok and not sum(daemon.health.figures().lag.values())))
            yield Site(address, chosen, broker, daemon)
        finally:
            daemon.stop()
            done.result(DEADLINE_S)
