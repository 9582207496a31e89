"""`offnominal` with the Kafka client wrapped, so that a fault strikes at a chosen point of its work.

    python -m benchmarks.faults.victim PLAN run --config FILE

The product has no hooks for this. At each of the `Point`s the process looks for the file PLAN; once it is there, its
calls are counted, and at the one that the plan names it is renamed to `*.struck` and acted on.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

from kafka import KafkaConsumer, KafkaProducer

from detector.cli import main

Point = Literal["polled", "produced", "offsets_sent", "committing", "committed"]
"""polled: records have come. produced: a transaction's messages are at the broker, its positions are not. offsets_sent:
they are. committing: everything is in the transaction. committed: the broker has answered."""
Act = Literal["kill", "terminate", "hold", "sleep"]
"""hold: until the struck plan is removed."""


class Plan(NamedTuple):
    """What happens at which call of a point; `seconds` is how long it sleeps, or how much later it is killed."""

    point: Point
    call: int
    act: Act
    seconds: float = 0.0

    def write(self, path: Path) -> None:
        """Whole or not at all, as it is looked for all the time."""
        beside = path.with_suffix(".part")
        beside.write_text(json.dumps(self))
        beside.rename(path)


def struck(path: Path) -> Path:
    """What a plan is renamed to when it strikes."""
    return path.with_suffix(".struck")


class Saboteur:
    """Follows the plan in a file, and the next one after it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._plan: Plan | None = None
        self._calls = 0

    def at(self, point: Point, prepare: Callable[[], object] = lambda: None) -> None:
        """A call has come to a point; `prepare` is run before the one that is struck."""
        if self._plan is None and self._path.exists():
            self._plan, self._calls = Plan(*json.loads(self._path.read_text())), 0
        if (plan := self._plan) is None or plan.point != point:
            return
        self._calls += 1
        if self._calls == plan.call:
            self._plan = None
            prepare()
            self._path.rename(struck(self._path))
            self._act(plan)

    def _act(self, plan: Plan) -> None:
        if plan.act == "sleep":
            time.sleep(plan.seconds)
        elif plan.act == "hold":
            while struck(self._path).exists():
                time.sleep(0.001)
        else:
            number = signal.SIGKILL if plan.act == "kill" else signal.SIGTERM
            strike = threading.Timer(plan.seconds, os.kill, (os.getpid(), number))
            strike.start() if plan.seconds else strike.run()


def sabotage(saboteur: Saboteur) -> None:
    """Wraps the client's methods in this process."""
    poll, send = KafkaConsumer.poll, KafkaProducer.send
    send_offsets, commit = KafkaProducer.send_offsets_to_transaction, KafkaProducer.commit_transaction
    unflushed = threading.Event()

    def polled(consumer: Any, *args: Any, **named: Any) -> Any:
        found = poll(consumer, *args, **named)
        if found:
            saboteur.at("polled")
        return found

    def sent(producer: Any, *args: Any, **named: Any) -> Any:
        unflushed.set()
        return send(producer, *args, **named)

    def offsets_sent(producer: Any, *args: Any, **named: Any) -> Any:
        if unflushed.is_set():
            unflushed.clear()
            saboteur.at("produced", producer.flush)
        result = send_offsets(producer, *args, **named)
        saboteur.at("offsets_sent")
        return result

    def committed(producer: Any) -> Any:
        saboteur.at("committing")
        result = commit(producer)
        saboteur.at("committed")
        return result

    KafkaConsumer.poll, KafkaProducer.send = polled, sent
    KafkaProducer.send_offsets_to_transaction, KafkaProducer.commit_transaction = offsets_sent, committed


if __name__ == "__main__":
    plan_file = Path(sys.argv.pop(1))
    sabotage(Saboteur(plan_file))
    main()
