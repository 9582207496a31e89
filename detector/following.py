"""A topic that is read in a thread for as long as the process lasts: its past first, then whatever comes."""

from __future__ import annotations

import threading
from typing import Protocol

import structlog

from consumers.batch import Partition, RawBatch
from consumers.errors import StreamError, TopicMissing
from consumers.stream import Broker, Window

log = structlog.get_logger()

LOOK_AGAIN_S = 5.0
"""Pause before a topic that is missing, or cannot be read, is looked for again (seconds)."""


class Hearer(Protocol):
    """Who takes in what a topic holds. After trouble the topic is read from the beginning of the window again."""

    def begin(self) -> None:
        """What follows is the topic from the beginning of the window."""
        ...

    def hear(self, batch: RawBatch) -> None:
        """Records in offset order."""
        ...

    def caught_up(self) -> None:
        """That was all there is for now; of a topic that is missing, nothing."""
        ...


class Following:
    """Reads without a group and commits nothing. What hinders it is told once in the log, and tried again."""

    def __init__(self, broker: Broker, topic: str, window: Window, hearer: Hearer) -> None:
        self._broker = broker
        self._topic = topic
        self._window = window
        self._hearer = hearer
        self._trouble = ""
        self._stopped = threading.Event()

    def read_past(self) -> None:
        """Has the window heard as it is now, in the caller's thread."""
        self._attempt(follow=False)

    def start(self) -> None:
        threading.Thread(target=self._run, name=f"following-{self._topic}", daemon=True).start()

    def stop(self) -> None:
        """Ends the thread, at its next turn or in a second or so: a broker that does not answer must not hold up the
        end of the process."""
        self._stopped.set()

    def _run(self) -> None:
        while not self._stopped.is_set():
            self._attempt(follow=True)
            self._stopped.wait(LOOK_AGAIN_S)

    def _attempt(self, *, follow: bool) -> None:
        trouble = ""
        try:
            self._read(follow=follow)
        except TopicMissing:
            self._hearer.begin()
            self._hearer.caught_up()
        except (StreamError, OSError) as error:
            trouble = str(error)
        if trouble and trouble != self._trouble:
            log.error("a topic cannot be read; what it said before still counts", topic=self._topic, error=trouble)
        self._trouble = trouble

    def _read(self, *, follow: bool) -> None:
        self._hearer.begin()
        at = dict[Partition, int]()
        for batch in self._broker.read([self._topic], self._window, follow=follow):
            if self._stopped.is_set():
                return
            self._hearer.hear(batch)
            at |= {partition: position.offset for partition, position in batch.positions().items()}
            if not len(batch) or all(at.get(partition, 0) >= end for partition, end in batch.ends.items()):
                self._hearer.caught_up()
        self._hearer.caught_up()
