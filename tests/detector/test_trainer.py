from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from detector.trainer import NICENESS, Trainer
from detector.trainings import Report, Request
from tests.detector.trainings_at_work import DEADLINE_S, Clock, HearingClock, script, until

TIMEOUT_S = 10.0
REQUEST = Request(id="r1", reason="demand")


@contextmanager
def training(code: str, clock: Clock | None = None) -> Iterator[Trainer]:
    trainer = Trainer(script(code), TIMEOUT_S, clock or Clock())
    trainer.start(REQUEST)
    try:
        yield trainer
    finally:
        trainer.stop()


def report_of(trainer: Trainer) -> Report:
    found: list[Report] = []

    def look() -> bool:
        found.extend(filter(None, [trainer.poll()]))
        return bool(found)

    until(look)
    return found[0]


def is_over(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_the_report_of_the_process_is_the_report_once() -> None:
    with training('report("refused", version="v7", reasons=["worse"], figures={"realised": 0.02})') as trainer:
        report = report_of(trainer)
        assert (report.id, report.outcome, report.version) == ("r1", "refused", "v7")
        assert (report.reasons, report.figures) == (["worse"], {"realised": 0.02})
        assert trainer.phase is None
        assert trainer.poll() is None


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("", "exit code 0 and no report"),
        ("1/0", "exit code 1"),
        ("os.abort()", "SIGABRT"),
        ("os.kill(os.getpid(), 9)", "SIGKILL"),
        ("sys.stdin.close(); os._exit(7)", "exit code 7"),
    ],
    ids=["silence", "crash", "abort", "killed", "exit"],
)
def test_a_process_that_dies_without_a_report_has_failed(code: str, why: str) -> None:
    with training(code) as trainer:
        report = report_of(trainer)
    assert (report.outcome, report.id, report.reason) == ("failed", "r1", "demand")
    assert why in report.reasons[0]


def test_a_process_beyond_its_memory_has_failed() -> None:
    limit = "import resource; resource.setrlimit(resource.RLIMIT_DATA, (10**8, 10**8)); bytearray(10**9)"
    with training(limit) as trainer:
        assert report_of(trainer).outcome == "failed"


def test_a_process_that_does_not_read_its_request_is_told_of_like_any_other() -> None:
    trainer = Trainer(["/bin/false"], TIMEOUT_S)
    trainer.start(REQUEST)
    assert "exit code 1" in report_of(trainer).reasons[0]


def test_where_there_is_no_such_command_nothing_runs() -> None:
    trainer = Trainer(["/no/such/command"], TIMEOUT_S)
    with pytest.raises(FileNotFoundError):
        trainer.start(REQUEST)
    assert trainer.phase is None
    assert trainer.poll() is None


def test_garbage_among_the_lines_is_passed_over() -> None:
    code = """
sys.stdout.buffer.write(b"\\xff\\xfe\\x00 watch\\n{\\n[1]\\nnull\\n\\n" + b"x" * 3_000_000)
say("")
say('{"id": "another", "reason": "demand", "started": 0, "ended": 0, "outcome": "promoted"}')
report("rolled back")
say("done")
"""
    with training(code) as trainer:
        assert report_of(trainer).outcome == "rolled back"


def test_a_report_of_another_training_is_none() -> None:
    with training('request["id"] = "another"; report("promoted")') as trainer:
        assert report_of(trainer).outcome == "failed"


def test_a_process_that_hangs_is_ended_at_its_deadline() -> None:
    clock = HearingClock()
    with training('say(f"shadow {os.getpid()}"); say("alive"); await_signal()', clock) as trainer:
        clock.heard.acquire()
        clock.heard.acquire()
        clock.now += TIMEOUT_S - 0.1
        assert trainer.poll() is None
        clock.now += 0.1
        report = trainer.poll()
    assert report is not None
    assert report.outcome == "timeout"
    assert report.reasons == ["no word for 10 s, in the phase shadow"]
    assert is_over(int(report.version or ""))


def test_a_process_that_says_it_is_alive_has_longer() -> None:
    clock = HearingClock()
    alive = """
say("shadow v7")
say("alive")
while True:
    await_signal()
    say("alive")
    say("alive")
"""
    with training(alive, clock) as trainer:
        clock.heard.acquire()
        clock.heard.acquire()
        assert trainer._child is not None
        for _ in range(3):
            clock.now += TIMEOUT_S - 1
            assert trainer.poll() is None
            os.kill(trainer._child.process.pid, signal.SIGUSR1)
            clock.heard.acquire()
            clock.heard.acquire()
        assert trainer.phase == "shadow"


def test_a_version_that_is_watched_is_reported_to_be_promoted_and_then_how_that_ended() -> None:
    with training('say("watch v7"); await_signal(); report("rolled back")') as trainer:
        report = report_of(trainer)
        assert (report.outcome, report.version, trainer.watched) == ("promoted", "v7", True)
        assert trainer.poll() is None
        assert trainer._child is not None
        os.kill(trainer._child.process.pid, signal.SIGUSR1)
        assert report_of(trainer).outcome == "rolled back"


def test_a_process_that_dies_while_it_watches_has_promoted() -> None:
    with training('say("watch v7"); 1/0') as trainer:
        until(lambda: (it := trainer.poll()) is not None and "cut short" in it.reasons[0])
        assert trainer.phase is None


def test_a_stop_ends_the_process_and_nothing_is_reported() -> None:
    with training("await_signal()") as trainer:
        assert trainer._child is not None
        pid = trainer._child.process.pid
        trainer.stop()
        assert is_over(pid)
        assert trainer.poll() is None


CHILD = """
import os, signal, sys
from detector.trainer import attend
request = attend(200_000_000)
"""


def test_a_process_is_told_its_request_and_keeps_to_its_memory() -> None:
    code = """
from datetime import UTC, datetime
from detector.trainings import Report
try:
    bytearray(10**9)
except MemoryError:
    os.kill(os.getpid(), signal.SIGTERM)  # which is for the daemon
    report = Report.of(request, datetime.now(UTC), "refused", f"at {os.nice(0)}")
    print(report.model_dump_json(), flush=True)
"""
    trainer = Trainer([sys.executable, "-c", CHILD + code], TIMEOUT_S, Clock())
    trainer.start(REQUEST)
    report = report_of(trainer)
    assert (report.id, report.outcome, report.reasons) == ("r1", "refused", [f"at {os.nice(0) + NICENESS}"])


def test_a_process_ends_when_its_daemon_is_killed() -> None:
    child = CHILD + "print('shadow', flush=True)\nsignal.pause()"
    parent = f"""
import os, sys
from detector.trainer import NICENESS, Trainer
from detector.trainings import Request
trainer = Trainer([sys.executable, "-c", {child!r}], 60)
trainer.start(Request(reason="demand"))
while trainer.phase != "shadow":
    pass
os.kill(os.getpid(), 9)
"""
    # It returns when nobody holds its standard error any longer, the grandchild among them.
    killed = subprocess.run([sys.executable, "-c", parent], capture_output=True, timeout=DEADLINE_S, check=False)
    assert killed.returncode == -signal.SIGKILL
