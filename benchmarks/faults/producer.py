"""The producer whose every record is in the ledger."""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from typing import Any

from kafka import KafkaProducer
from kafka.errors import KafkaError

from benchmarks.faults.ledger import Ledger
from benchmarks.faults.traffic import Record, Traffic

_TICK_S = 0.02
_AHEAD = 100_000
"""Most records on their way that the broker has not acknowledged."""
_PATIENCE_S = 600.0
"""A broker may be away for so long: the outcome of a send is always known in the end."""


class LedgeredProducer:
    """Sends `rate` records a second from a thread of its own, as an idempotent producer, until it is finished."""

    def __init__(self, bootstrap: str, topic: str, traffic: Traffic, ledger: Ledger, *, rate: float) -> None:
        self.sent = 0
        self._topic, self._traffic, self._ledger, self._rate = topic, traffic, ledger, rate
        self._failure: BaseException | None = None
        self._producer: Any = KafkaProducer(
            bootstrap_servers=bootstrap,
            acks="all",
            linger_ms=5,
            batch_size=65_536,
            request_timeout_ms=5_000,
            delivery_timeout_ms=1000 * _PATIENCE_S,
            max_block_ms=1000 * _PATIENCE_S,
            reconnect_backoff_max_ms=500,
            metadata_max_age_ms=1_000,
            metrics_enabled=False,
        )
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="producer", daemon=True)
        self._thread.start()

    def knows(self, partitions: int) -> bool:
        """Whether it has heard that the topic has so many."""
        return len(self._producer.partitions_for(self._topic)) == partitions

    def finish(self) -> None:
        """Sends no more; returns when all that was sent is acknowledged. Raises where something was refused."""
        self._stopping.set()
        self._thread.join()
        self._producer.flush(timeout=_PATIENCE_S)
        self._producer.close(timeout=5)
        if self._failure is not None:
            raise self._failure

    def abandon(self) -> None:
        """Sends no more, whatever is on its way."""
        self._stopping.set()
        with suppress(KafkaError):
            self._producer.close(timeout=0)
        self._thread.join()

    def _run(self) -> None:
        started = time.monotonic()
        while not self._stopping.wait(_TICK_S):
            due = min(int(self._rate * (time.monotonic() - started)), len(self._ledger) + _AHEAD)
            while self.sent < due and not self._stopping.is_set():
                self._send(next(self._traffic), self.sent)

    def _send(self, record: Record, sequence: int) -> None:
        future = self._producer.send(
            self._topic, record.value, record.key, headers=list(record.headers), partition=record.partition
        )
        self.sent += 1
        poison = None if record.poison is None else str(record.poison)
        future.add_callback(
            lambda there: self._ledger.acknowledged(there.partition, there.offset, sequence, poison)
        ).add_errback(self._refused)

    def _refused(self, error: BaseException) -> None:
        self._failure = error
