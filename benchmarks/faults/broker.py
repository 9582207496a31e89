"""Apache Kafka as a process that can be ended, killed and frozen."""

from __future__ import annotations

import os
import random
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from consumers.diagnose import diagnose
from consumers.settings import KafkaSettings

START = Path(__file__).parents[3] / "shared" / "kafka" / "start"
"""Starts Apache Kafka: `start --port P --dir DIR`, which writes the broker's process id to DIR/pid."""
START_S = 60.0
# A broker that was killed is let in again when its last session has ended, 9 s by default.
_PROPERTIES = ("broker.session.timeout.ms=1000", "broker.heartbeat.interval.ms=200")


class ApacheKafka:
    """One node that keeps its data over restarts."""

    def __init__(self, start: Path, folder: Path) -> None:
        self._start, self._folder = start, folder
        self._port = _free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self.address = f"127.0.0.1:{self._port}"

    def start(self) -> None:
        """Returns when it answers. Raises `TimeoutError` after `START_S`."""
        command = [str(self._start), "--port", str(self._port), "--dir", str(self._folder)]
        properties = [word for prop in _PROPERTIES for word in ("--prop", prop)]
        (self._folder / "pid").unlink(missing_ok=True)
        with (self._folder / "start.log").open("ab") as log:
            self._process = subprocess.Popen([*command, *properties], stdout=log, stderr=log, start_new_session=True)
        deadline = time.monotonic() + START_S
        while diagnose(KafkaSettings(bootstrap=self.address, request_timeout_s=1.0)) is not None:
            if time.monotonic() > deadline or self._process.poll() is not None:
                raise TimeoutError(f"Apache Kafka on {self.address} did not start; see {self._folder}")
            time.sleep(0.05)

    def terminate(self) -> None:
        """A clean shutdown; returns when it has ended."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """kill -9; returns when it has ended."""
        self._end(signal.SIGKILL)

    def freeze(self) -> None:
        """It takes connections, and answers nothing."""
        os.kill(self._pid(), signal.SIGSTOP)

    def thaw(self) -> None:
        os.kill(self._pid(), signal.SIGCONT)

    def close(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self.kill()

    def _end(self, number: signal.Signals) -> None:
        if self._process is not None:
            os.kill(self._pid(), number)
            self._process.wait()

    def _pid(self) -> int:
        return int((self._folder / "pid").read_text())


@contextmanager
def apache_kafka(start: Path, folder: Path) -> Iterator[ApacheKafka]:
    """A broker for as long as the context lasts; its data is in `folder`, and is thrown away."""
    folder.mkdir(parents=True)
    kafka = ApacheKafka(start, folder)
    try:
        kafka.start()
        yield kafka
    finally:
        kafka.close()
        shutil.rmtree(folder, ignore_errors=True)


def _free_port() -> int:
    """A port whose ninth successor, the controller's, is free too.

    Not one of those that the system gives to connections: one could take it while the broker is down.
    """
    while True:
        port = random.randint(20_000, 30_000)
        try:
            with socket.create_server(("127.0.0.1", port)), socket.create_server(("127.0.0.1", port + 9)):
                return port
        except OSError:
            continue
