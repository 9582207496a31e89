"""Faults injected into running daemons on Apache Kafka, and what became of every record.

    python -m benchmarks.faults [--faults 300] [--kinds a,b] [--seed N] [--replicas N] [--json FILE] [--keep FOLDER]
                                [--lanes N] [--kafka PATH | --bootstrap ADDRESS] [--soak]

Daemons run as processes of their own and are started again at once when they end. A producer outside keeps a ledger of
what the broker has acknowledged, a subscriber reads alerts and dead letters under read_committed. Then:

lost       records that the group's positions have not passed; poison without its dead letter, or a dead letter that
           ought not to be there or names another reason.
doubled    alerts or dead letters that are there more than once.
different  alerts that are missing, or too many, or differ in any field (floats by more than 1e-4) from those of the
           pipeline, run offline over the same topic. Left out where the fault itself makes other alerts right.

Time to recover is from the fault (of the broker: from its return) until every partition is committed beyond its end at
the fault. `--soak` instead sends two million records through 24 partitions while replicas come and go.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from benchmarks.brokers import START
from benchmarks.faults.kinds import KINDS
from benchmarks.faults.play import Played, play, rejoin, summarise, table
from benchmarks.faults.soak import soak
from benchmarks.faults.stage import Stage, staged

_REJOINS = 5


def main() -> None:
    """Runs what the arguments say, tells of each kind as it ends, and prints the result last."""
    arguments = _arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that everything started is ended
    with tempfile.TemporaryDirectory(prefix="faults-") if arguments.keep is None else nullcontext(arguments.keep) as at:
        folder = Path(at)
        folder.mkdir(parents=True, exist_ok=True)
        with staged(folder, start=arguments.kafka, bootstrap=arguments.bootstrap, replicas=arguments.replicas) as stage:
            result = soak(stage, arguments.seed) if arguments.soak else _inject(stage, arguments)
    line = json.dumps(result)
    if arguments.json:
        arguments.json.write_text(line + "\n", encoding="utf-8")
    print(line)  # noqa: T201 - the result


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="also write the result to this file")
    parser.add_argument("--faults", type=int, default=300, help="how many in all, in equal parts of each kind")
    parser.add_argument("--kinds", default=",".join(KINDS), help="which, by name; all where nothing is said")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--replicas", type=int, default=2)
    parser.add_argument("--lanes", type=int, default=2, help="how many scenes go on side by side")
    parser.add_argument("--kafka", type=Path, default=START, help="starts Apache Kafka, given --port and --dir")
    parser.add_argument("--bootstrap", help="a broker to use instead; what wants one of our own is left out")
    parser.add_argument("--keep", type=Path, help="a folder to keep logs in")
    parser.add_argument("--soak", action="store_true", help="two million records while replicas come and go")
    return parser.parse_args()


def _inject(stage: Stage, arguments: argparse.Namespace) -> dict[str, Any]:
    """Scenes go on side by side, what a bare member needs among them; those whose fault is the broker's one by one."""
    names = [name for name in arguments.kinds.split(",") if stage.kafka or "broker" not in KINDS[name].needs]
    runs = {
        name: arguments.faults // len(names) + (number < arguments.faults % len(names))
        for number, name in enumerate(names)
    }

    def played(name: str) -> Played:
        done = play(stage, name, [KINDS[name]] * runs[name], arguments.seed)
        print(table([done]), file=sys.stderr, flush=True)  # noqa: T201 - progress
        return done

    def playing(lanes: int, *, broker: bool) -> list[Played]:
        due = [name for name in names if runs[name] and ("broker" in KINDS[name].needs) == broker]
        pool = ThreadPoolExecutor(lanes)
        try:
            return [*pool.map(played, due)]
        finally:
            pool.shutdown(wait=False, cancel_futures=True)  # whoever ends this wants no further scene

    with ThreadPoolExecutor(1) as beside:
        group = beside.submit(rejoin, stage, _REJOINS, arguments.seed)
        plays = playing(arguments.lanes, broker=False)
    plays += playing(1, broker=True)
    print(table(plays), file=sys.stderr, flush=True)  # noqa: T201 - the result for people
    return summarise(plays, group.result(), seed=arguments.seed, replicas=stage.replicas)


if __name__ == "__main__":
    main()
