"""The daemon with its dashboard, until it has done with so many records.

    python -m benchmarks.dashboard.daemon SETTINGS RECORDS

prints the address of the dashboard, begins once it reads a line, prints the figures of the meter, and serves on until
it reads another: who looks at it is not to see it go.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

from benchmarks.throughput.meter import Meter
from consumers.batch import RawBatch
from detector.commands.terminal import connect
from detector.config import DetectorSettings
from detector.daemon import Daemon
from detector.loading import load
from detector.pipeline import Outcome
from detector.web.server import dashboard


def measure(settings: DetectorSettings, records: int) -> None:
    """Figures of the meter count all that the process did: the loop, and the web server beside it."""
    meter = Meter(records)

    def committed(batch: RawBatch, outcome: Outcome) -> None:
        if meter.took(len(batch)):
            daemon.stop()

    daemon = Daemon(settings, connect(settings), observers=[committed])
    with dashboard(settings, daemon, connect) as address:
        print(json.dumps({"address": address}), flush=True)  # noqa: T201 - who starts it waits for this
        sys.stdin.readline()
        daemon.run()
        print(json.dumps(meter.figures()), flush=True)  # noqa: T201 - the result
        sys.stdin.readline()


if __name__ == "__main__":
    measure(load(Path(sys.argv[1])), int(sys.argv[2]))
