"""What is measured side by side, each in a process of its own; and what the figures say together."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from typing import Any, NamedTuple

from benchmarks.processes import told
from benchmarks.stage import DETECTORS, Stage
from benchmarks.throughput.clients import CLIENTS
from benchmarks.throughput.loops import LIBRARIES

NEEDS = {"confluent-kafka": "confluent_kafka", "pyod": "pyod", "river": "river"}
"""What has to be installed, by the name to install it under, and the module that is looked for."""

Figures = Mapping[str, Any]
Run = Callable[[Stage, int], Figures]
"""Reads so many records of the stage's topic, or fewer where that would take too long."""


class Variant(NamedTuple):
    """One way to read the records, by client or library."""

    name: str
    needs: str
    run: Run

    @property
    def missing(self) -> str | None:
        """How to get what is not there."""
        module = NEEDS.get(self.needs)
        return f"pip install {self.needs}" if module and find_spec(module) is None else None


def variants() -> Iterator[Variant]:
    """The clients alone, the daemon on each of them with each model, and the loops."""
    for client in CLIENTS:
        yield Variant(f"client/{client}", client, _client(client))
    for client in CLIENTS:
        for model in DETECTORS:
            yield Variant(f"daemon/{client}/{model}", client, _daemon(model, client))
    for library in LIBRARIES:
        yield Variant(f"loop/{library}", library, _loop(library))


def play(stage: Stage, records: int, chosen: Sequence[Variant], repeats: int) -> dict[str, list[Figures]]:
    """Runs them in turns, so that a noisy moment hits all alike."""
    runs: dict[str, list[Figures]] = {variant.name: [] for variant in chosen}
    for repeat in range(repeats):
        for variant in chosen:
            figures = variant.run(stage, records)
            runs[variant.name].append(figures)
            rate = figures["records"] / figures["seconds"]
            print(f"{repeat + 1}/{repeats} {variant.name:32}{rate:12,.0f} /s", file=sys.stderr)  # noqa: T201 - progress
    return runs


def summarise(runs: Mapping[str, Sequence[Figures]]) -> dict[str, Any]:
    """Medians by variant, and ratios of them.

    `fraction_of_raw` is the daemon with the mixture over the client that it reads with, `over_…_loop` the same over
    a loop, which is on kafka-python, and `over_mixture` the daemon with other models over the one with the mixture.
    """
    rates = {name: statistics.median(it["records"] / it["seconds"] for it in done) for name, done in runs.items()}
    daemons = {name: done for name, done in runs.items() if name.startswith("daemon/")}
    return {
        "records_per_s": {name: round(rate) for name, rate in rates.items()},
        "fraction_of_raw": {
            client: _ratio(rates, f"daemon/{client}/mixture", f"client/{client}") for client in CLIENTS
        },
        **{
            f"over_{library.replace('-', '_')}_loop": {
                client: _ratio(rates, f"daemon/{client}/mixture", f"loop/{library}") for client in CLIENTS
            }
            for library in LIBRARIES
        },
        "over_mixture": {
            client: {
                model: _ratio(rates, f"daemon/{client}/{model}", f"daemon/{client}/mixture") for model in DETECTORS
            }
            for client in CLIENTS
        },
        "stages": {
            name: {stage: _median([it["stages"][stage] for it in done]) for stage in done[0]["stages"]}
            for name, done in daemons.items()
        },
        "rss_mb": {
            name: {
                "first_tenth": _median([it["rss_mb"][0] for it in done]),
                "end": _median([it["rss_mb"][-1] for it in done]),
            }
            for name, done in daemons.items()
        },
        "cpu_s": {name: _median([1e6 * it["cpu_s"] / it["records"] for it in done]) for name, done in runs.items()},
        "alerts": {name: _median([it["alerts"] for it in done]) for name, done in runs.items() if "alerts" in done[0]},
    }


def _ratio(rates: Mapping[str, float], over: str, under: str) -> float | None:
    return round(rates[over] / rates[under], 3) if over in rates and under in rates else None


def _median(figures: Sequence[float]) -> float:
    return round(statistics.median(figures), 3)


def _client(client: str) -> Run:
    return lambda stage, records: told(
        "benchmarks.throughput.clients", client, stage.bootstrap, stage.topic, str(records)
    )


def _daemon(model: str, client: str) -> Run:
    return lambda stage, records: told("benchmarks.throughput.daemon", str(stage.detector(model, client)), str(records))


def _loop(library: str) -> Run:
    return lambda stage, records: told(
        "benchmarks.throughput.loops", library, stage.bootstrap, stage.topic, str(records)
    )
