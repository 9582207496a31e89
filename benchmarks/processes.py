"""Running a part of a benchmark in a process of its own, and what it has to say."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
MOST_S = 1800.0
_ENDING_S = 30.0
_LAST_WORDS = 2000


def told(module: str, *arguments: str) -> Any:
    """What a module, run with these arguments, prints as JSON on its last line; None where it prints nothing.

    Raises `RuntimeError` with its last words where it fails, `TimeoutExpired` after `MOST_S`.
    """
    done = subprocess.run(
        command(module, *arguments), cwd=ROOT, env=environment(), capture_output=True, timeout=MOST_S, check=False
    )
    if done.returncode:
        raise _failed(module, done.returncode, done.stderr)
    lines = done.stdout.splitlines()
    return json.loads(lines[-1]) if lines else None


@contextmanager
def beside(module: str, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """A module that runs while the context lasts; at its end it is asked to end, and killed where it does not. Raises
    `RuntimeError` with its last words where it has failed by then."""
    with tempfile.TemporaryFile() as words:
        process = subprocess.Popen(
            command(module, *arguments), cwd=ROOT, env=environment(), stdout=subprocess.DEVNULL, stderr=words
        )
        try:
            yield process
            if process.poll():
                words.seek(0)
                raise _failed(module, process.returncode, words.read())
        finally:
            process.terminate()
            try:
                process.wait(_ENDING_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _failed(module: str, code: int, words: bytes) -> RuntimeError:
    said = words.decode(errors="replace").strip()[-_LAST_WORDS:]
    return RuntimeError(f"{module} ended with code {code}: {said}")


def command(module: str, *arguments: str) -> Sequence[str]:
    """`python -m`, with the Python that runs this."""
    return [sys.executable, "-m", module, *arguments]


def environment() -> dict[str, str]:
    """One core a process, as the daemon itself has it."""
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def surroundings(broker: str, packages: Sequence[str]) -> dict[str, Any]:
    """What figures depend on: the broker, the cores of this process, and versions of packages, None where missing."""
    return {
        "broker": broker,
        "cores": len(os.sched_getaffinity(0)),
        "python": sys.version.split()[0],
        "versions": {package: _version(package) for package in packages},
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
