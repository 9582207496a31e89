"""A single-node local broker without Java, for the demo and the tests: the package `noida-db` (extra `demo`).

python -m consumers.embedded 9092    # one to try things on; ends with Ctrl-C, and its data with it
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import IO

from consumers.diagnose import diagnose
from consumers.errors import BrokerUnavailable, Stop
from consumers.settings import KafkaSettings

_START_S = 30.0
_STOP_S = 10.0

# Ends the broker when its standard input closes, which the death of our process brings about too, however it dies.
_KEEPER = """
import subprocess, sys, threading
broker = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL)
threading.Thread(target=lambda: (sys.stdin.read(), broker.terminate()), daemon=True).start()
sys.exit(broker.wait())
"""


@contextmanager
def embedded_broker(data_dir: Path | None = None) -> Iterator[str]:
    """Runs a broker on a free port of 127.0.0.1 and gives its address; ends it on leaving, whatever happens.

    Data is kept in `data_dir`, or thrown away with a temporary folder where none is given. Raises `Stop` when the
    package is missing or the broker dies while starting, `BrokerUnavailable` when it does not answer within 30 s.
    """
    with broker_process(data_dir) as (_, address):
        yield address


@contextmanager
def broker_process(
    data_dir: Path | None = None, port: int | None = None
) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """`embedded_broker` with the process, which leads a process group of its own and so can be frozen and killed.

    It listens on a free port where none is given.
    """
    with ExitStack() as cleanup:
        folder = data_dir or Path(cleanup.enter_context(tempfile.TemporaryDirectory(prefix="offnominal-")))
        output = cleanup.enter_context(tempfile.TemporaryFile())
        port = port or _free_port()
        process = _start(port, folder, output)
        cleanup.callback(_end, process)
        _await_answer(process, port, output)
        yield process, f"127.0.0.1:{port}"


def _start(port: int, folder: Path, output: IO[bytes]) -> subprocess.Popen[bytes]:
    """A process group of its own keeps Ctrl-C from it, which is for us to handle. It ends when its stdin closes."""
    command = [_binary(), "start", "--only", "kafka", "--kafka-port", str(port), "--data-dir", str(folder)]
    return subprocess.Popen(
        [sys.executable, "-ISc", _KEEPER, *command],
        stdin=subprocess.PIPE,
        stdout=output,
        stderr=output,
        start_new_session=True,
    )


def _binary() -> str:
    spec = find_spec("noida_db")
    if spec is None or spec.origin is None:
        raise Stop("The local broker is the package noida-db, which is not installed: pip install 'offnominal[demo]'")
    binary = Path(spec.origin).with_name("noida-db.exe" if os.name == "nt" else "noida-db")
    if not os.access(binary, os.X_OK):  # wheels do not keep the mode of a file
        binary.chmod(0o755)
    return str(binary)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _await_answer(process: subprocess.Popen[bytes], port: int, output: IO[bytes]) -> None:
    settings = KafkaSettings(bootstrap=f"127.0.0.1:{port}", request_timeout_s=1.0)
    deadline = time.monotonic() + _START_S
    while diagnose(settings) is not None:
        if process.poll() is not None:
            output.seek(0)
            said = output.read().decode(errors="replace").strip()
            raise Stop(f"The local broker ended with code {process.returncode} while starting. It said: {said}")
        if time.monotonic() > deadline:
            raise BrokerUnavailable(f"The local broker on port {port} did not answer within {_START_S:g} s.")
        time.sleep(0.02)


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.stdin is not None:
        process.stdin.close()
    try:
        process.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


if __name__ == "__main__":
    with suppress(KeyboardInterrupt), broker_process(port=int(sys.argv[1])) as (served, at):
        print(f"A broker at {at}; Ctrl-C ends it.", flush=True)  # noqa: T201 - the result
        served.wait()
