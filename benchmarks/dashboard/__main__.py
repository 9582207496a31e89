"""What the dashboard costs: whoever looks at it until it is there, and the daemon's hot path while they look.

    python -m benchmarks.dashboard [--json FILE] [--broker apache|tansu|HOST:PORT] [--records N] [--repeats N]
                                   [--browsers N]

One run measures everything on the same broker and the same records, in turns, and tells medians: the daemon at a
backlog, as fast as it can, without a dashboard, with one that nobody looks at, with browsers that look at the first
view, and with clients that ask what those browsers asked. Browsers are busy on the same cores: what they take from the
daemon that way is in its records a second, not in its processor time. The result is JSON on the last line.
"""

from __future__ import annotations

import argparse
import json
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import IO, Any

import httpx
import yaml

from benchmarks.brokers import broker
from benchmarks.dashboard.lookers import TOKEN
from benchmarks.processes import ROOT, command, environment, surroundings, told
from benchmarks.stage import Stage, unique
from benchmarks.workload import send

PACKAGES = ("offnominal", "fastapi", "uvicorn", "playwright", "kafka-python")
VARIANTS = ("off", "nobody", "browsers", "clients")
VISITS = 10
_MILLION = 1e6
_READY_S = 120.0


def main() -> None:
    """Runs what the arguments say, and prints the result last."""
    arguments = _arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that everything started is ended
    with tempfile.TemporaryDirectory(prefix="dashboard-") as at, broker(arguments.broker, Path(at) / "broker") as to:
        stage = Stage(Path(at), to, unique("bench"))
        stage.create_topics({stage.topic: 1, f"{stage.topic}-alerts": 1})
        stage.train("mixture")
        send(to, stage.topic, arguments.records)
        costs = cost(stage, arguments.records, arguments.repeats, arguments.browsers)
        result = {"page": first_visits(stage), **costs}
    line = json.dumps({**result, **surroundings(arguments.broker, PACKAGES)})
    if arguments.json:
        arguments.json.write_text(line + "\n", encoding="utf-8")
    print(line)  # noqa: T201 - the result


def cost(stage: Stage, records: int, repeats: int, browsers: int) -> dict[str, Any]:
    """The daemon at work, in turns with and without those who look."""
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in VARIANTS}
    recorded = stage.folder / "asked.json"
    for repeat in range(repeats):
        for name in VARIANTS:
            figures, asked = _run(stage, records, name, browsers, recorded)
            if name == "browsers":
                recorded.write_text(json.dumps(asked), encoding="utf-8")
            runs[name].append({**figures, "asked": len(asked)})
            rate = figures["records"] / figures["seconds"]
            print(f"{repeat + 1}/{repeats} {name:10}{rate:12,.0f} /s", file=sys.stderr)  # noqa: T201 - progress
    return {**summarise(runs), "records": records, "repeats": repeats, "browsers": browsers}


def summarise(runs: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    """Medians by variant; `over_nobody` are records a second, and processor time of the daemon for each record, over
    those with a dashboard that nobody looks at."""
    rates = {name: statistics.median(it["records"] / it["seconds"] for it in done) for name, done in runs.items()}
    cpu = {
        name: statistics.median(_MILLION * it["cpu_s"] / it["records"] for it in done) for name, done in runs.items()
    }
    return {
        "records_per_s": {name: round(rate) for name, rate in rates.items()},
        "cpu_s_per_million": {name: round(seconds, 3) for name, seconds in cpu.items()},
        "asked": {name: statistics.median(it["asked"] for it in done) for name, done in runs.items()},
        "over_nobody": {
            name: {
                "records_per_s": round(rates[name] / rates["nobody"], 3),
                "cpu_s": round(cpu[name] / cpu["nobody"], 3),
            }
            for name in runs
        },
    }


def first_visits(stage: Stage) -> dict[str, Any]:
    """First paint and bytes, of a daemon that has done with everything and waits."""
    endless = sys.maxsize  # it never has done with so many
    with _talking("benchmarks.dashboard.daemon", str(_settings(stage, served=True)), str(endless)) as daemon:
        address = json.loads(daemon.read())["address"]
        daemon.go_on()
        _await_end(address)
        figures: dict[str, Any] = told("benchmarks.dashboard.paint", address, str(VISITS))
    return figures


def _run(stage: Stage, records: int, name: str, browsers: int, recorded: Path) -> tuple[dict[str, Any], list[Any]]:
    """Figures of the daemon, and what was asked meanwhile."""
    settings = _settings(stage, served=name != "off")
    with _talking("benchmarks.dashboard.daemon", str(settings), str(records)) as daemon:
        address = json.loads(daemon.read())["address"]
        more = [str(recorded)] if name == "clients" else []
        looking = name in ("browsers", "clients")
        with (
            _talking("benchmarks.dashboard.lookers", name, address, str(browsers), *more)
            if looking
            else nullcontext() as lookers
        ):
            if lookers is not None:
                lookers.read()
                lookers.go_on()
            daemon.go_on()
            figures = json.loads(daemon.read())
            asked = []
            if lookers is not None:
                lookers.go_on()
                asked = json.loads(lookers.read())
    return figures, asked


def _settings(stage: Stage, *, served: bool) -> Path:
    """A detector in a group of its own, that reads the topic from the beginning."""
    path = stage.detector("mixture", "kafka-python")
    chosen = yaml.safe_load(path.read_text(encoding="utf-8"))
    chosen["web"] = {"port": 0, "token": TOKEN} if served else {"enabled": False}
    path.write_text(yaml.safe_dump(chosen), encoding="utf-8")
    return path


def _await_end(address: str) -> None:
    """Returns when the daemon has nothing left to read. Raises `TimeoutError` after `_READY_S`."""
    deadline = time.monotonic() + _READY_S
    while time.monotonic() < deadline:
        now = httpx.get(
            f"{address}/api/overview", headers={"Authorization": f"Bearer {TOKEN}"}, trust_env=False
        ).json()["now"]
        if now["ready"] and now["records"] and not now["lag"]:
            return
        time.sleep(0.2)
    raise TimeoutError(f"the daemon at {address} has records to read after {_READY_S:g} s")


class _Talk:
    """A process that is told to go on by a line, and says one itself."""

    def __init__(self, said: IO[str], heard: IO[str], words: IO[str], module: str) -> None:
        self._said, self._heard, self._words, self._module = said, heard, words, module

    def read(self) -> str:
        """What it says next that is not of its log. Raises `RuntimeError` with its last words where it has ended."""
        for line in self._said:
            if line.startswith(("{", "[{", "[[", "[]", "ready")):
                return line
        self._words.seek(0)
        raise RuntimeError(f"{self._module} ended: {self._words.read().strip()[-2000:]}")

    def go_on(self) -> None:
        self._heard.write("\n")
        self._heard.flush()


@contextmanager
def _talking(module: str, *arguments: str) -> Iterator[_Talk]:
    """A module in a process of its own, which has ended when the context does."""
    with tempfile.TemporaryFile("w+") as words:
        process = subprocess.Popen(
            command(module, *arguments),
            cwd=ROOT,
            env=environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=words,
            text=True,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield _Talk(process.stdout, process.stdin, words, module)
        finally:
            process.terminate()
            process.wait()
            process.stdin.close()
            process.stdout.close()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="also write the result to this file")
    parser.add_argument("--broker", default="apache", help="apache, tansu, or HOST:PORT")
    parser.add_argument("--records", type=int, default=2_000_000, help="in the topic; each run reads all of them")
    parser.add_argument("--repeats", type=int, default=5, help="runs of each, of which the median is told")
    parser.add_argument("--browsers", type=int, default=5, help="that look at once")
    return parser.parse_args()


if __name__ == "__main__":
    main()
