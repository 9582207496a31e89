"""What tests of trainings share: a store in memory, a clock, and small scripts that stand for a training."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable

from detector.errors import StoreError

DEADLINE_S = 60

_PRELUDE = """
import json, os, signal, sys, time
request = json.loads(sys.stdin.readline())
def say(line):
    os.write(1, (line + "\\n").encode())
def report(outcome, **more):
    at = "2026-03-01T03:00:00Z"
    said = {"id": request["id"], "reason": request["reason"], "started": at, "ended": at, "outcome": outcome}
    say(json.dumps(said | more))
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
def await_signal():
    signal.sigwait([signal.SIGUSR1])
"""


def script(code: str) -> list[str]:
    """The command of a training that has read its `request`, and runs `code`."""
    return [sys.executable, "-I", "-c", _PRELUDE + code]


def until(reached: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not reached():
        assert time.monotonic() < deadline, "not reached in time"


class Clock:
    """Monotonic seconds that a test moves on."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


class HearingClock(Clock):
    """One that tells how often the reader of a process has asked it: once for each line that says something."""

    def __init__(self) -> None:
        super().__init__()
        self.heard = threading.Semaphore(0)

    def __call__(self) -> float:
        if threading.current_thread().name == "trainer":
            self.heard.release()
        return self.now


class MemoryRoom:
    """A detector's folder in memory. With `trouble` set, nothing can be read or written."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.trouble = ""

    def read_json(self, name: str) -> bytes | None:
        self._require()
        return self.files.get(name)

    def write_json(self, name: str, content: bytes) -> None:
        self._require()
        self.files[name] = content

    def remove(self, name: str) -> None:
        self._require()
        self.files.pop(name, None)

    def names(self, prefix: str) -> list[str]:
        self._require()
        return sorted(name for name in list(self.files) if name.startswith(prefix))

    def _require(self) -> None:
        if self.trouble:
            raise StoreError(self.trouble)
