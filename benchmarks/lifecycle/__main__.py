"""Whether a detector that retrains itself can be trusted to.

    python -m benchmarks.lifecycle [--parts a,b] [--suite DIR] [--models gmm,vae] [--kills 20] [--json FILE]

On the demo's machine:
retrainings  deliberately bad ones, 15 of each kind, of which none may serve, and 20 good ones on later records. Records
             of another machine come out of the suite (see `benchmarks.quality`), without which they are left out.
service      the second half of the recording, judged by a version that is never retrained, and by one that is, five
             times.
feedback     twenty labelled false alarms of one of two entities.
change       a daemon on an embedded broker and a stream that changes for good, with an attack in it: made up, and out
             of the suite.
pace         how much later alerts come while a training runs beside the daemon.
kills        three replicas; a trainer is killed -9 at moments drawn at random, and versions take over.

The result is JSON on the last line; what each retraining said is on standard error.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import tempfile
from collections.abc import Callable, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import structlog

from benchmarks.lifecycle import change, kills, labels, pace, retrainings, service
from benchmarks.lifecycle.machine import Machine

Part = Callable[[Machine, argparse.Namespace], dict[str, Any]]


def main() -> None:
    """Runs the parts one after the other."""
    arguments = _arguments()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    result: dict[str, Any] = {"models": arguments.models}
    with tempfile.TemporaryDirectory(prefix="lifecycle-") as folder:
        machine = Machine.trained(Path(folder), [{"type": kind} for kind in arguments.models.split(",")])
        for part in arguments.parts.split(","):
            result |= _PARTS[part](machine, arguments)
            print(f"{part}: {json.dumps(result)}", file=sys.stderr, flush=True)  # noqa: T201 - progress
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result))  # noqa: T201 - the result


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="also write the result to this file")
    parser.add_argument("--parts", default=",".join(_PARTS), help="which, by name; all where nothing is said")
    parser.add_argument("--suite", type=Path, help="folder of data sets")
    parser.add_argument("--models", default="gmm", help="of the detector, with commas between")
    parser.add_argument("--kills", type=int, default=20)
    return parser.parse_args()


def _retrainings(machine: Machine, arguments: argparse.Namespace) -> dict[str, Any]:
    runs = []
    for run in chain(retrainings.bad(machine, arguments.suite), retrainings.good(machine)):
        print(json.dumps(run._asdict()), file=sys.stderr, flush=True)  # noqa: T201 - progress
        runs.append(run)
    return retrainings.figures(runs)


def _change(machine: Machine, arguments: argparse.Namespace) -> dict[str, Any]:
    streams = {"made up": change.synthetic(machine)}
    if arguments.suite:
        streams["real"] = change.real(arguments.suite)
    found = {name: change.recovered(stream, machine.folder / f"change {name}") for name, stream in streams.items()}
    return {
        "drift_recovered": sum(it["promoted"] for it in found.values()),
        "ratio_after_drift": {name: it["ratio"] for name, it in found.items()},
        "change": found,
    }


_PARTS: Mapping[str, Part] = {
    "retrainings": _retrainings,
    "service": lambda machine, _: service.figures(machine),
    "feedback": lambda machine, _: labels.figures(machine),
    "change": _change,
    "pace": lambda machine, _: pace.figures(machine, machine.folder / "pace"),
    "kills": lambda machine, arguments: kills.killed(machine, machine.folder / "kills", arguments.kills),
}

if __name__ == "__main__":
    main()
