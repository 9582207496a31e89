"""Milliseconds from a record's sending to its alert, beside the bare round trip; and seconds to start.

    python -m benchmarks.latency [--json FILE] [--broker apache|tansu|HOST:PORT] [--rate 5000] [--seconds 30]
                                 [--repeats 3] [--device auto]

A process sends records at a steady rate, each with the time of its sending; one in a hundred is anomalous. A subscriber
under read_committed notes when an alert that opens an incident is there, and takes the time of its record from that.
The bare round trip reads the same records, sends one in a hundred on, and commits, with transactions too. In turns for
each client; percentiles of each run, and of these the median. The result is JSON on the last line.
"""

from __future__ import annotations

import argparse
import json
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.brokers import broker
from benchmarks.latency.bare import CLIENTS
from benchmarks.latency.producer import ANOMALOUS
from benchmarks.latency.ways import WAYS, waits
from benchmarks.processes import surroundings, told
from benchmarks.stage import Stage, unique
from benchmarks.workload import send

PACKAGES = ("offnominal", "kafka-python", "confluent-kafka", "torch")
PERCENTILES = (50, 95, 99)
_ALERTS = {"rate": ANOMALOUS, "quiet_for": "1s"}
_SOME = 1_000


def main() -> None:
    """Runs what the arguments say, and prints the result last."""
    arguments = _arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that everything started is ended
    clients = [client for client in CLIENTS if client == "kafka-python" or find_spec("confluent_kafka")]
    with tempfile.TemporaryDirectory(prefix="latency-") as at, broker(arguments.broker, Path(at) / "broker") as to:
        stage = Stage(Path(at), to, unique("latency"), arguments.device, _ALERTS)
        stage.train("mixture")
        runs = play(stage, clients, arguments)
        starts = {client: started(stage, client, arguments.repeats) for client in clients}
    result = {
        **summarise(runs, starts),
        "rate": arguments.rate,
        "anomalous": ANOMALOUS,
        "repeats": arguments.repeats,
        **surroundings(arguments.broker, PACKAGES),
    }
    line = json.dumps(result)
    if arguments.json:
        arguments.json.write_text(line + "\n", encoding="utf-8")
    print(line)  # noqa: T201 - the result


def play(stage: Stage, clients: Sequence[str], arguments: argparse.Namespace) -> dict[str, list[list[float]]]:
    """Milliseconds of each run by way and client, in turns, so that a noisy moment hits all alike."""
    runs: dict[str, list[list[float]]] = {}
    for _ in range(arguments.repeats):
        for client in clients:
            for way, choose in WAYS.items():
                found = waits(stage, choose, client, arguments.rate, arguments.seconds)
                runs.setdefault(f"{way}/{client}", []).append(found)
                at = np.percentile(found, PERCENTILES).round(1).tolist()
                print(f"{way}/{client}: {len(found)} messages, {at} ms", file=sys.stderr)  # noqa: T201 - progress
    return runs


def started(stage: Stage, client: str, repeats: int) -> dict[str, float]:
    """Median seconds from the start of a process to its first record: of the daemon and of the bare member."""
    stage = replace(stage, topic=unique("start"))
    stage.create_topics({stage.topic: 1})
    send(stage.bootstrap, stage.topic, _SOME)
    seconds: dict[str, list[float]] = {"daemon": [], "bare": []}
    for _ in range(repeats):
        ways = {
            "daemon": ["daemon", str(stage.detector("mixture", client))],
            "bare": [client, stage.bootstrap, stage.topic, unique(stage.topic)],
        }
        for way, chosen in ways.items():
            at = time.time()
            seconds[way].append(told("benchmarks.latency.start", *chosen) - at)
    return {way: statistics.median(taken) for way, taken in seconds.items()}


def summarise(
    runs: Mapping[str, Sequence[Sequence[float]]], starts: Mapping[str, Mapping[str, float]]
) -> dict[str, Any]:
    """Percentiles in milliseconds and seconds to start, and the daemon's over the bare ones by client."""
    percentiles = {
        f"p{percent}_ms": {
            name: round(statistics.median(float(np.percentile(found, percent)) for found in done), 1)
            for name, done in runs.items()
        }
        for percent in PERCENTILES
    }
    p99 = percentiles["p99_ms"]
    return {
        **percentiles,
        "p99_ratio": {client: round(p99[f"daemon/{client}"] / p99[f"bare/{client}"], 2) for client in starts},
        "messages": {name: sum(map(len, done)) for name, done in runs.items()},
        "start": {client: {way: round(taken, 2) for way, taken in found.items()} for client, found in starts.items()},
        "start_ratio": {client: round(found["daemon"] / found["bare"], 2) for client, found in starts.items()},
    }


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="also write the result to this file")
    parser.add_argument("--broker", default="apache", help="apache, tansu, or HOST:PORT")
    parser.add_argument("--rate", type=float, default=5_000.0, help="records a second")
    parser.add_argument("--seconds", type=float, default=30.0, help="that count, of each run")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each, of which the median is told")
    parser.add_argument("--device", default="auto", help="where the detector's models run")
    return parser.parse_args()


if __name__ == "__main__":
    main()
