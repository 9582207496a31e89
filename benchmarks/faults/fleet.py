"""Processes that are started again at once when they end, as a supervisor does."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
_TICK_S = 0.01


class Death(NamedTuple):
    """`code` is the exit code, negative the signal; `at` is in monotonic seconds."""

    name: str
    code: int
    at: float


class Fleet:
    """Replicas by name; `command` gives what each runs. Their standard error goes to `<name>.log` in the folder."""

    def __init__(self, folder: Path, command: Callable[[str], Sequence[str]]) -> None:
        self.deaths: list[Death] = []
        self._folder, self._command = folder, command
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._supervise, name="fleet", daemon=True)
        self._thread.start()

    @property
    def names(self) -> list[str]:
        return sorted(self._running)

    def pid(self, name: str) -> int:
        return self._running[name].pid

    def start(self, name: str) -> None:
        with self._lock:
            self._running[name] = self._spawn(name)

    def send(self, name: str, number: signal.Signals) -> None:
        """A signal to a replica, which is started again if it ends of it."""
        with self._lock:
            self._running[name].send_signal(number)

    def dismiss(self, name: str, number: signal.Signals, seconds: float) -> int:
        """Ends a replica for good; its exit code. Raises `TimeoutError` where it does not end."""
        with self._lock:
            process = self._running.pop(name)
        process.send_signal(number)
        return _code(process, name, seconds)

    def supplant(self, name: str, seconds: float) -> Death:
        """A second process of the same name takes over; how the first ended. Raises `TimeoutError` where it stays."""
        with self._lock:
            first, self._running[name] = self._running[name], self._spawn(name)
        return Death(name, _code(first, name, seconds), time.monotonic())

    def log(self, name: str) -> Path:
        return self._folder / f"{name}.log"

    def close(self) -> None:
        """Kills what still runs."""
        self._stopping.set()
        self._thread.join()
        for process in self._running.values():
            process.kill()
            process.wait()

    def _spawn(self, name: str) -> subprocess.Popen[bytes]:
        with self.log(name).open("ab") as log:
            return subprocess.Popen(
                self._command(name),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=ROOT,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )

    def _supervise(self) -> None:
        while not self._stopping.wait(_TICK_S):
            with self._lock:
                for name, process in self._running.items():
                    if (code := process.poll()) is not None:
                        self.deaths.append(Death(name, code, time.monotonic()))
                        self._running[name] = self._spawn(name)


def _code(process: subprocess.Popen[bytes], name: str, seconds: float) -> int:
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        raise TimeoutError(f"{name} did not end within {seconds:g} s") from None
