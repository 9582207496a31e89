"""Sends records at a steady rate, each with the time at which it is sent.

python -m benchmarks.latency.producer BOOTSTRAP TOPIC RATE SECONDS
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from benchmarks.workload import TIMESTAMP, key, outlet, values

ENTITIES = 1_000
"""So many that an anomaly seldom meets a machine whose last incident is still open."""
ANOMALOUS = 0.01
_TICK_S = 0.002


def send_paced(bootstrap: str, topic: str, rate: float, seconds: float) -> None:
    """Returns when all records are in the topic. Who falls behind catches up: the rate is kept."""
    records = [with_time(line) for line in values(0, round(rate * seconds), entities=ENTITIES, anomalous=ANOMALOUS)]
    out, sent, started = outlet(bootstrap, linger_ms=1), 0, time.monotonic()
    while sent < len(records):
        due = min(len(records), round(rate * (time.monotonic() - started)))
        for number in range(sent, due):
            out.send(topic, records[number](time.time_ns() // 1_000_000), key(number, ENTITIES))
        sent = due
        time.sleep(_TICK_S)
    out.flush()


def with_time(line: bytes) -> Callable[[int], bytes]:
    """The record as of a time in epoch milliseconds, without taking it apart again."""
    before, name, rest = line.partition(b'"%b":' % TIMESTAMP.encode())
    after = rest[rest.index(b",") :]
    return lambda now: b"%b%b%d%b" % (before, name, now, after)


if __name__ == "__main__":
    send_paced(sys.argv[1], sys.argv[2], float(sys.argv[3]), float(sys.argv[4]))
