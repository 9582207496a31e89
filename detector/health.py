"""Whether the daemon is alive and whether it is of use, told truthfully."""

from __future__ import annotations

import threading
import time
from typing import Literal, NamedTuple

Phase = Literal["starting", "waiting", "training", "joining", "serving", "retrying", "stopping"]

STALL_S = 120.0
"""A loop that has not turned for so long is hung (seconds)."""


class Report(NamedTuple):
    ok: bool
    phase: Phase
    detail: str


class Health:
    """Set by the daemon's loop, read by the web server. Times are monotonic seconds."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._phase: Phase = "starting"
        self._detail = ""
        self._turned = time.monotonic()

    def enter(self, phase: Phase, detail: str = "") -> None:
        """The daemon does something else now; `detail` says what for, or what hinders it."""
        with self._lock:
            self._phase, self._detail, self._turned = phase, detail, time.monotonic()

    def turn(self) -> None:
        """The loop has turned once more."""
        with self._lock:
            self._turned = time.monotonic()

    def alive(self) -> Report:
        """Not ok when the loop hangs. Training, which has a time limit of its own, does not count as that."""
        with self._lock:
            idle = time.monotonic() - self._turned
            hung = idle > STALL_S and self._phase != "training"
            return Report(not hung, self._phase, f"no turn of the loop for {idle:.0f} s" if hung else self._detail)

    def ready(self) -> Report:
        """Ok while records are being scored."""
        alive = self.alive()
        return alive._replace(ok=alive.ok and alive.phase == "serving")
