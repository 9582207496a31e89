from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from consumers.memory import MemoryBroker
from detector.commands import run
from detector.config_service import HealthSettings
from detector.daemon import Daemon
from detector.errors import SettingsError
from detector.health import Health, Readiness
from detector.loading import parse
from detector.reference import REQUIRED
from detector.sd_notify import LOOK_S, notifying, pause_s, words
from tests.detector.test_health import Clock, at_work, health_with

QUICK = {"WATCHDOG_USEC": "20000"}
"""Two words in twenty milliseconds."""


class Manager:
    """A service manager's end of the socket."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.settimeout(10.0)
        self._socket.bind(f"\0{address[1:]}" if address.startswith("@") else address)

    def hears(self) -> list[str]:
        return self._socket.recv(4096).decode().splitlines()

    def hears_until(self, line: str) -> list[str]:
        """The first word that holds this line."""
        while line not in (said := self.hears()):
            pass
        return said

    def close(self) -> None:
        self._socket.close()


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Manager]:
    address = str(tmp_path / "notify") if request.param == "path" else f"@offnominal-{tmp_path}"
    manager = Manager(address)
    yield manager
    manager.close()


def said_of(health: Health, *, started: bool = False) -> list[str]:
    return words(health.ready(), alive=health.alive().ok, started=started)


def serving(clock: Clock) -> Health:
    health = health_with(clock)
    at_work(health, 5, end=9)
    return health


def test_a_manager_is_told_of_the_start_of_turns_and_of_the_end(manager: Manager) -> None:
    health = Health(HealthSettings())
    with notifying(health, {"NOTIFY_SOCKET": manager.address, **QUICK}):
        assert "READY=1" not in manager.hears()
        at_work(health)
        assert "WATCHDOG=1" in manager.hears_until("READY=1")
    assert manager.hears_until("STOPPING=1") == ["STOPPING=1"]


def test_who_was_ready_stays_started_and_pinging_while_it_joins_again(manager: Manager) -> None:
    health = serving(Clock())
    with notifying(health, {"NOTIFY_SOCKET": manager.address, **QUICK}):
        manager.hears_until("READY=1")
        health.enter("retrying", "the broker is away")
        status = "STATUS=retrying: for 0 s: the broker is away"
        assert manager.hears_until(status) == [status, "WATCHDOG=1", "READY=1"]


def test_run_tells_it(manager: Manager, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", manager.address)
    monkeypatch.setattr(run, "connect", lambda settings: MemoryBroker())
    monkeypatch.setattr(Daemon, "run", lambda daemon: manager.hears_until("WATCHDOG=1"))
    settings = parse({**REQUIRED, "store": {"url": str(tmp_path)}, "web": {"enabled": False}})
    run.run_daemon(settings, tmp_path / "machines.yaml")
    manager.hears_until("STOPPING=1")


def test_without_a_manager_there_is_neither_thread_nor_word() -> None:
    before = threading.active_count()
    with notifying(Health(HealthSettings()), {}):
        assert threading.active_count() == before


def test_a_manager_that_is_gone_harms_nobody(manager: Manager) -> None:
    with notifying(Health(HealthSettings()), {"NOTIFY_SOCKET": manager.address, **QUICK}):
        manager.hears()
        manager.close()


def test_words_come_twice_within_the_time_that_is_allowed_to_this_process() -> None:
    assert pause_s({}) == LOOK_S
    assert pause_s({"WATCHDOG_USEC": "4000000"}) == 2.0
    assert pause_s({"WATCHDOG_USEC": "4000000", "WATCHDOG_PID": str(os.getpid())}) == 2.0
    assert pause_s({"WATCHDOG_USEC": "4000000", "WATCHDOG_PID": "1"}) == LOOK_S, "another process is watched"
    assert pause_s({"WATCHDOG_USEC": "120000000"}) == LOOK_S, "status is told no less often"


def test_a_first_training_puts_the_deadline_of_the_start_off_however_long_it_takes() -> None:
    clock = Clock()
    health = health_with(clock)
    health.enter("training", "first version")
    assert said_of(health)[0] == "STATUS=training: first version"
    clock.now += 3_600.0
    status, *others = said_of(health)
    assert status.startswith("STATUS=training: ")
    assert others == ["WATCHDOG=1", "EXTEND_TIMEOUT_USEC=60000000"]


def test_a_loop_that_hangs_is_told_by_silence_of_the_watchdog() -> None:
    clock = Clock()
    health = serving(clock)
    assert "WATCHDOG=1" in said_of(health, started=True)
    clock.now += 301.0
    assert said_of(health, started=True) == ["STATUS=serving: no turn of the loop for 5 min (serving)"]


def test_one_that_hangs_while_it_starts_is_given_no_more_time() -> None:
    clock = Clock()
    health = health_with(clock)
    clock.now += 301.0
    assert [line.partition("=")[0] for line in said_of(health)] == ["STATUS"]


def test_all_well_says_how_much_there_is_to_do() -> None:
    health = serving(Clock())
    assert said_of(health, started=True)[0] == "STATUS=serving: 1 owned; 4 records to read"


def test_an_error_cannot_forge_a_line() -> None:
    found = Readiness(False, "retrying", "away\nMAINPID=1\nREADY=1", True, ())
    said = words(found, alive=True, started=False)
    assert [line.partition("=")[0] for line in "\n".join(said).splitlines()] == [
        "STATUS",
        "WATCHDOG",
        "EXTEND_TIMEOUT_USEC",
    ]


@pytest.mark.parametrize(
    ("environment", "wanted"),
    [
        (
            {"NOTIFY_SOCKET": "/nowhere/at/all"},
            r"NOTIFY_SOCKET '/nowhere/at/all' cannot be reached: .* Expected the path",
        ),
        ({"NOTIFY_SOCKET": "@", "WATCHDOG_USEC": "soon"}, r"WATCHDOG_USEC is 'soon'\. Expected microseconds"),
    ],
)
def test_an_environment_that_systemd_did_not_make_is_refused(environment: dict[str, str], wanted: str) -> None:
    with pytest.raises(SettingsError, match=wanted), notifying(Health(HealthSettings()), environment):
        pass
