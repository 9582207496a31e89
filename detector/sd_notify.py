"""Tells systemd how the daemon is: started, at what, alive, stopping; the protocol of sd_notify(3).

A thread looks at the daemon's health and says what it found. A hung loop so ends in silence, and systemd ends the
process: it stands behind `detector.watchdog`, which is first and leaves traces, for a process that is stopped or out of
memory and can end nothing itself.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress

from consumers.text import printable
from detector.errors import SettingsError
from detector.health import Health, Readiness

LOOK_S = 5.0
"""How often the state is told (seconds); twice within the time that systemd allows where that is less."""
STARTING_US = 60_000_000
"""While it starts, each word puts systemd's deadline off by so much (microseconds): a training takes what it takes."""
_SEND_S = 1.0
"""systemd reads at once; where it does not, a word is lost rather than the thread."""
_MOST_STATUS = 500


@contextmanager
def notifying(health: Health, environment: Mapping[str, str] = os.environ) -> Iterator[None]:
    """Tells the service manager at NOTIFY_SOCKET of `health` while the context lasts; does nothing where there is none.

    Raises `SettingsError` where the environment names no socket or no time.
    """
    if not (address := environment.get("NOTIFY_SOCKET")):
        yield
        return
    look_s, ended = pause_s(environment), threading.Event()
    with _connected(address) as manager:
        thread = threading.Thread(target=_tell, args=(manager, health, look_s, ended), name="sd_notify", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
            _send(manager, ["STOPPING=1"])


def _tell(manager: socket.socket, health: Health, look_s: float, ended: threading.Event) -> None:
    started = False
    while not ended.is_set():
        found = health.ready()
        started = started or found.phase == "serving"
        _send(manager, words(found, alive=health.alive().ok, started=started))
        ended.wait(look_s)


def words(found: Readiness, *, alive: bool, started: bool) -> list[str]:
    """What to tell. `started` is whether a batch has gone through since the process began: systemd has no word for what
    was ready and is not, that is /readyz's to say."""
    status = f"STATUS={printable(_told(found), _MOST_STATUS)}"  # one line: an error's text must not become another
    if found.phase == "stopping":
        return ["STOPPING=1", status]
    if not alive:
        return [status]
    return [status, "WATCHDOG=1", "READY=1" if started else f"EXTEND_TIMEOUT_USEC={STARTING_US}"]


def _told(found: Readiness) -> str:
    """The phase, and what is wrong, or else how much there is to do."""
    much = "; ".join(check.detail for check in found.checks if check.name in ("partitions", "lag"))
    told = found.detail if found.degraded else much
    return told if told.startswith(found.phase) else f"{found.phase}: {told}"


def pause_s(environment: Mapping[str, str]) -> float:
    """Seconds between two words. Raises `SettingsError` where WATCHDOG_USEC is no time."""
    text = environment.get("WATCHDOG_USEC")
    if text is None or environment.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return LOOK_S
    if not text.isdecimal() or int(text) == 0:
        raise SettingsError(f"WATCHDOG_USEC is '{text}'. Expected microseconds, as systemd sets it.")
    return min(LOOK_S, int(text) / 2e6)


def _connected(address: str) -> socket.socket:
    path = f"\0{address[1:]}" if address.startswith("@") else address
    manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    manager.settimeout(_SEND_S)
    try:
        manager.connect(path)
    except OSError as error:
        manager.close()
        wanted = "Expected the path of a datagram socket, or @ and an abstract name"
        raise SettingsError(f"NOTIFY_SOCKET '{address}' cannot be reached: {error}. {wanted}.") from error
    return manager


def _send(manager: socket.socket, lines: list[str]) -> None:
    with suppress(OSError):  # a manager that is gone for a moment is told again
        manager.send("\n".join(lines).encode())
