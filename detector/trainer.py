"""The process in which the daemon has a training run, from both ends.

The request comes on its standard input, which stays open as long as the daemon lives, and ends the process when it does
not, however it died. Its standard output says how far it is, a line each, and ends with the report as JSON; other lines
are passed over.
"""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

from detector.trainings import EXIT_CODES, Course, Phase, Report, Request

NICENESS = 10
"""Scoring goes before training where both want the same core."""

_LONGEST_LINE = 1 << 20
_LAST_WORDS_S = 1.0
"""How long the lines of a process that has ended may still be on their way (seconds): others may hold its output."""


def training_command(config: Path) -> list[str]:
    """What runs a training of the detector with this settings file, which is read again each time."""
    return [sys.executable, "-m", "detector", "retrain", "--child", "--config", str(config)]


class Trainer:
    """Runs `command`, one training at a time. Not thread-safe."""

    def __init__(self, command: Sequence[str], timeout_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        """A process that says nothing for `timeout_s` is ended."""
        self._command = command
        self._timeout_s = timeout_s
        self._clock = clock
        self._child: _Child | None = None

    @property
    def phase(self) -> Phase | None:
        """What the training is at; None while there is none."""
        return None if (child := self._child) is None else child.course.phase

    @property
    def watched(self) -> bool:
        """Whether the training has been reported to be promoted, and goes on to watch that."""
        return (child := self._child) is not None and child.watched

    def start(self, request: Request) -> None:
        """Starts a training. Raises `OSError` where no process can be started."""
        self._child = _Child(self._command, request, self._clock)

    def poll(self) -> Report | None:
        """What there is to report, once: that its version was promoted, while it is watched; and how it ended."""
        if (child := self._child) is None:
            return None
        code, silent_s = child.process.poll(), self._clock() - child.heard_at
        if code is None and silent_s < self._timeout_s:
            return child.report_of_watch()
        self.stop()
        if code is None:
            return child.course.cut_short("timeout", f"no word for {silent_s:.0f} s, in the phase {child.course.phase}")
        return child.report or child.course.cut_short("failed", _cause(code))

    def stop(self) -> None:
        """Ends a training of which nothing more is to be reported."""
        if self._child is not None:
            self._child.end()
            self._child = None


class _Child:
    """A process, and what it has said so far: read by a thread, so that it never waits for a reader."""

    def __init__(self, command: Sequence[str], request: Request, clock: Callable[[], float]) -> None:
        self.course = Course(request)
        self.report: Report | None = None
        self.heard_at = clock()
        self._clock = clock
        self.watched = False
        # A session of its own: Ctrl-C on a terminal is for the daemon, which then ends its training.
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self._stdin = self.process.stdin
        self._reader = threading.Thread(target=self._read, args=(self.process.stdout,), name="trainer", daemon=True)
        self._reader.start()
        with suppress(BrokenPipeError):  # it has ended already: its exit code says how
            os.write(self._stdin.fileno(), request.model_dump_json().encode() + b"\n")

    def report_of_watch(self) -> Report | None:
        """At the beginning of the watch, once."""
        if self.watched or self.course.phase != "watch":
            return None
        self.watched = True
        return self.course.promoted("the watch over it did not come to its end yet")

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        self._stdin.close()
        self._reader.join(_LAST_WORDS_S)

    def _read(self, stdout: IO[bytes]) -> None:
        with stdout:
            while line := stdout.readline(_LONGEST_LINE):
                if self.course.hear(line.decode(errors="replace")):
                    self.heard_at = self._clock()
                elif (report := _report(line)) is not None and report.id == self.course.request.id:
                    self.report = report


def _report(line: bytes) -> Report | None:
    try:
        return Report.model_validate_json(line)
    except ValueError:
        return None


def _cause(code: int) -> str:
    """What an exit code says; negative ones are signals."""
    if code >= 0:
        return f"the process ended with exit code {code} and no report: see the log before this"
    known = {number.value: number.name for number in signal.Signals}
    return f"the process was ended by {known.get(-code, f'signal {-code}')}: too little memory?"


def attend(max_memory: int) -> Request:
    """What the process does first. Returns the request.

    Only the daemon ends it: a supervisor that sends SIGTERM to both wants the training to be taken up again. Beyond
    `max_memory` bytes of data it fails, and not the machine; of the address space torch reserves more than it uses.
    """
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    request = Request.model_validate_json(sys.stdin.buffer.readline())
    threading.Thread(target=_end_with_parent, args=(sys.stdin.fileno(),), name="parent", daemon=True).start()
    os.nice(NICENESS)
    with suppress(ValueError, OSError):  # the system allows less already, or knows no such limit
        resource.setrlimit(resource.RLIMIT_DATA, (max_memory, resource.getrlimit(resource.RLIMIT_DATA)[1]))
    return request


def _end_with_parent(stdin: int) -> None:
    while os.read(stdin, 1024):
        pass
    os._exit(EXIT_CODES["failed"])
