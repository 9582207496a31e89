"""The daemon itself, from the broker to committed positions, until it has done with so many records.

python -m benchmarks.throughput.daemon SETTINGS RECORDS
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

from benchmarks.throughput.meter import Meter
from benchmarks.throughput.profile import per_record, profiled
from consumers.batch import RawBatch
from consumers.stream import Broker
from detector.commands.terminal import connect
from detector.config import DetectorSettings
from detector.daemon import Daemon
from detector.loading import load
from detector.pipeline import Outcome


def measure(settings: DetectorSettings, broker: Broker, records: int) -> dict[str, Any]:
    """Figures of the meter, how many `alerts` were published, and microseconds a record by stage in `stages`."""
    meter, alerts, spent = Meter(records), 0, dict[str, float]()
    with profiled(broker) as profile:

        def committed(batch: RawBatch, outcome: Outcome) -> None:
            nonlocal alerts, spent
            alerts += len(outcome.alerts)
            if meter.took(len(batch)):
                daemon.stop()
            spent = dict(profile.seconds)
            if not meter.begun:
                profile.reset()

        daemon = Daemon(settings, broker, observers=[committed])
        daemon.run()
    figures = meter.figures()
    return {**figures, "alerts": alerts, "stages": per_record(spent, figures["records"], figures["seconds"])}


if __name__ == "__main__":
    detector = load(Path(sys.argv[1]))
    result = measure(detector, connect(detector), int(sys.argv[2]))
    print(json.dumps(result))  # noqa: T201 - the result
