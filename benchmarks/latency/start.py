"""How long a process takes from nothing to its first record: the daemon, and what it cannot do without.

    python -m benchmarks.latency.start daemon SETTINGS
    python -m benchmarks.latency.start CLIENT BOOTSTRAP TOPIC GROUP

The second imports torch and reads one record as a member of a group, and that is all. Both print the moment, in seconds
since the epoch: when the first batch is committed, and when the record is there.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

WAIT_S = 0.1


def daemon(settings: str) -> float:
    """The daemon with a version in its store."""
    from detector.commands.terminal import connect
    from detector.daemon import Daemon
    from detector.loading import load

    moments: list[float] = []

    def committed(*_: Any) -> None:
        moments.append(time.time())
        served.stop()

    chosen = load(Path(settings))
    served = Daemon(chosen, connect(chosen), observers=[committed])
    served.run()
    return moments[0]


def kafka_python(bootstrap: str, topic: str, group: str) -> float:
    import torch  # noqa: F401 - that is what is measured
    from kafka import KafkaConsumer

    consumer = KafkaConsumer(topic, bootstrap_servers=bootstrap, group_id=group, auto_offset_reset="earliest")
    while not consumer.poll(1000 * WAIT_S):
        pass
    found = time.time()
    consumer.close(autocommit=False)
    return found


def confluent_kafka(bootstrap: str, topic: str, group: str) -> float:
    import torch  # noqa: F401 - that is what is measured
    from confluent_kafka import Consumer

    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": group, "auto.offset.reset": "earliest"})
    consumer.subscribe([topic])
    while consumer.poll(WAIT_S) is None:
        pass
    found = time.time()
    consumer.close()
    return found


STARTS: dict[str, Callable[..., float]] = {
    "daemon": daemon,
    "kafka-python": kafka_python,
    "confluent-kafka": confluent_kafka,
}


if __name__ == "__main__":
    print(STARTS[sys.argv[1]](*sys.argv[2:]))  # noqa: T201 - the result
