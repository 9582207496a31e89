"""Records a second, from the broker to committed alerts, beside the bare client and the loops one would write instead.

    python -m benchmarks.throughput [--json FILE] [--broker apache|tansu|HOST:PORT] [--records N] [--partitions N]
                                    [--repeats N] [--device auto] [--growth] [--soak N]

One run measures everything on the same broker and the same records, in turns, and tells medians: the clients alone, the
daemon in a process of its own, with transactions, on each client and with each model, and loops around scikit-learn,
PyOD and river. What is not installed is left out, and named. The result is JSON on the last line.

--growth adds what a record costs in the pipeline as entities, features, models and partitions grow, without a broker.
--soak instead has the daemon read N records while they are produced, and watches its memory.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.brokers import broker
from benchmarks.processes import beside, surroundings, told
from benchmarks.stage import DETECTORS, Stage, unique
from benchmarks.throughput.meter import SAMPLES
from benchmarks.throughput.variants import play, summarise, variants
from benchmarks.workload import send

PACKAGES = ("offnominal", "kafka-python", "confluent-kafka", "torch", "numpy", "numba", "scikit-learn", "pyod", "river")
_MILLION = 1_000_000


def main() -> None:
    """Runs what the arguments say, and prints the result last."""
    arguments = _arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that everything started is ended
    with tempfile.TemporaryDirectory(prefix="throughput-") as at, broker(arguments.broker, Path(at) / "broker") as to:
        stage = Stage(Path(at), to, unique("bench"), arguments.device)
        stage.create_topics({stage.topic: arguments.partitions, f"{stage.topic}-alerts": 1})
        result = soak(stage, arguments.soak) if arguments.soak else compare(stage, arguments.records, arguments.repeats)
    if arguments.growth:
        result["growth"] = told("benchmarks.throughput.growth")
    line = json.dumps({**result, **surroundings(arguments.broker, PACKAGES)})
    if arguments.json:
        arguments.json.write_text(line + "\n", encoding="utf-8")
    print(line)  # noqa: T201 - the result


def compare(stage: Stage, records: int, repeats: int) -> dict[str, Any]:
    """Everything that can be measured, side by side."""
    for model in DETECTORS:
        stage.train(model)
    send(stage.bootstrap, stage.topic, records)
    every = [*variants()]
    runs = play(stage, records, [variant for variant in every if variant.missing is None], repeats)
    skipped = {variant.name: variant.missing for variant in every if variant.missing is not None}
    return {**summarise(runs), "skipped": skipped, "records": records, "repeats": repeats}


def soak(stage: Stage, records: int) -> dict[str, Any]:
    """The daemon with the mixture, while the records are being produced."""
    stage.train("mixture")
    with beside("benchmarks.workload", stage.bootstrap, stage.topic, str(records)):
        settings = stage.detector("mixture", "kafka-python")
        figures = told("benchmarks.throughput.daemon", str(settings), str(records))
    sample = min(SAMPLES, max(1, -(-SAMPLES * _MILLION // records)))
    return {
        "records": records,
        "records_per_s": round(figures["records"] / figures["seconds"]),
        "rss_after_first_million_mb": figures["rss_mb"][sample - 1],
        "rss_end_mb": figures["rss_mb"][-1],
        "rss_mb": figures["rss_mb"],
        "cpu_s": round(_MILLION * figures["cpu_s"] / figures["records"], 3),
        "alerts": figures["alerts"],
    }


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="also write the result to this file")
    parser.add_argument("--broker", default="apache", help="apache, tansu, or HOST:PORT")
    parser.add_argument("--records", type=int, default=_MILLION, help="in the topic; loops read as many as they can")
    parser.add_argument("--partitions", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5, help="runs of each, of which the median is told")
    parser.add_argument("--device", default="auto", help="where the detector's models run")
    parser.add_argument("--growth", action="store_true", help="also the cost of a record as things grow")
    parser.add_argument("--soak", type=int, metavar="N", help="instead, N records while they are produced")
    return parser.parse_args()


if __name__ == "__main__":
    main()
