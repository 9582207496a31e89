"""Daemons as they are deployed, on a broker: processes that serve a stream which somebody keeps sending."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import yaml
from numpy.typing import NDArray

from benchmarks.brokers import free_port
from benchmarks.processes import ROOT, environment
from consumers import clients
from consumers.batch import Message
from consumers.embedded import embedded_broker
from consumers.producer import Producer
from consumers.stream import Broker
from detector.config import DetectorSettings
from detector.demo.recording import START_MS, STEP_MS
from detector.loading import parse
from detector.store import Store

TOPIC, ALERTS = "telemetry", "telemetry-alerts"
READY_S, STOP_S = 120.0, 60.0
POLL_S = 1.0


class Live:
    """A topic with as many partitions as entities, a store, and replicas of one detector."""

    def __init__(
        self, folder: Path, bootstrap: str, values: NDArray[np.float64], entities: int, **changes: Any
    ) -> None:
        self.folder, self.values, self.entities, self.rows = folder, values, entities, 0
        self._written: dict[str, Any] = {
            "name": "live",
            "kafka": {"bootstrap": bootstrap, "start": "earliest", "session_timeout_s": 10},
            "stream": {"topics": [TOPIC], "entity": "machine", "timestamp": "time"},
            "features": [f"f{number}" for number in range(values.shape[1])],
            "alerts": {"topic": ALERTS, "rate": 0.01, "quiet_for": "10m"},
            "store": {"url": str(folder / "store"), "poll": f"{POLL_S:g}s"},
            **changes,
        }
        self.settings: DetectorSettings = parse(self._written, origin="benchmark")
        self.store = Store(self.settings.store.url, self.settings.name)
        self._ports: dict[str, int] = {}
        self._replicas: dict[str, subprocess.Popen[bytes]] = {}
        self._producer = Producer(self.settings.kafka, client_id="lifecycle")
        self.broker: Broker = clients.broker(
            self.settings.kafka, group="lifecycle", client_id="lifecycle", max_bytes=64_000_000
        )
        self.broker.create_topics({TOPIC: entities, ALERTS: 1})

    def send(self, rows: int) -> None:
        """The next rows, as a record of each entity a minute."""
        for row in range(self.rows, min(self.rows + rows, len(self.values))):
            numbers = self.values[row].tolist()
            fields = {f"f{at}": number for at, number in enumerate(numbers)}
            for entity in range(self.entities):
                record = {"machine": f"m{entity}", "time": START_MS + row * STEP_MS, **fields}
                self._producer.send(Message(TOPIC, f"m{entity}".encode(), msgspec.json.encode(record), ()))
        self.rows = min(self.rows + rows, len(self.values))
        self._producer.flush()

    def command(self, *words: str) -> None:
        """A command of `offnominal` on these settings."""
        subprocess.run(self._line(self._file("command"), *words), cwd=ROOT, env=environment(), check=True)

    def start(self, name: str) -> None:
        """A replica, which is given time to compile and join."""
        log = (self.folder / f"{name}.log").open("wb")
        self._replicas[name] = subprocess.Popen(
            self._line(self._file(name), "run"), cwd=ROOT, env=environment(), stderr=log, stdout=log
        )

    def await_ready(self) -> None:
        """Until all replicas serve. Raises `TimeoutError` where they do not."""
        self.until(lambda: all(self._phase(name) == "serving" for name in self._replicas), READY_S)

    def until(self, there: Callable[[], bool], seconds: float) -> bool:
        """Waits until it is there; whether it is."""
        deadline = time.monotonic() + seconds
        while not there():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)
        return True

    @property
    def pids(self) -> list[int]:
        return [process.pid for process in self._replicas.values()]

    def counters(self) -> Mapping[str, float]:
        """Sums over all replicas, by the name of the metric."""
        total: dict[str, float] = {}
        for name in self._replicas:
            for metric, value in re.findall(
                r"^offnominal_(\w+?)(?:_total)?\{[^}]*\} (\S+)$", self._metrics(name), re.M
            ):
                total[metric] = total.get(metric, 0.0) + float(value)
        return total

    def versions(self) -> dict[str, str]:
        """The version that each replica serves."""
        found = {
            name: re.search(r'version_info\{[^}]*version="([^"]+)"', self._metrics(name)) for name in self._replicas
        }
        return {name: match[1] for name, match in found.items() if match}

    def close(self) -> None:
        for process in self._replicas.values():
            process.send_signal(signal.SIGTERM)
        for process in self._replicas.values():
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._producer.__exit__(None, None, None)

    def _phase(self, name: str) -> str:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._ports[name]}/healthz", timeout=2) as answer:
                return str(json.load(answer)["phase"])
        except OSError:
            return ""

    def _metrics(self, name: str) -> str:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._ports[name]}/metrics", timeout=5) as answer:
                return str(answer.read().decode())
        except OSError:
            return ""

    def _file(self, name: str) -> Path:
        self._ports[name] = free_port()
        kafka = {**self._written["kafka"], "instance": name}
        path = self.folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump({**self._written, "kafka": kafka, "web": {"port": self._ports[name]}}))
        return path

    def _line(self, path: Path, *words: str) -> list[str]:
        return [sys.executable, "-m", "detector", *words, "--config", str(path)]


@contextmanager
def live(folder: Path, values: NDArray[np.float64], *, entities: int = 1, **changes: Any) -> Iterator[Live]:
    """On an embedded broker of its own."""
    with ExitStack() as stack:
        bootstrap = stack.enter_context(embedded_broker())
        folder.mkdir(parents=True, exist_ok=True)
        stage = Live(folder, bootstrap, values, entities, **changes)
        stack.callback(stage.close)
        yield stage


@contextmanager
def sending(stage: Live, rows_per_s: float) -> Iterator[None]:
    """Rows at a steady rate while the context lasts, or until there are none left."""
    stopped = threading.Event()

    def send() -> None:
        while not stopped.wait(0.1):
            stage.send(max(1, round(rows_per_s / 10)))

    thread = threading.Thread(target=send, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join()
