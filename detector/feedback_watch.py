"""What is said while a daemon runs, for its loop to take up."""

from __future__ import annotations

import threading
from collections.abc import Mapping

import structlog

from consumers.batch import Partition
from consumers.errors import StreamError, TopicMissing
from consumers.stream import Broker, Window
from detector.config import DetectorSettings
from detector.feedback import Feedback, Said
from detector.feedback_effects import Opinions

log = structlog.get_logger()

LOOK_AGAIN_S = 5.0
"""Pause before a topic that is missing, or cannot be read, is looked for again (seconds)."""


class FeedbackWatch:
    """Follows the feedback topic in a thread. What was said before is there when this is made, so that a replay is
    judged as the records were; where it cannot be read, that is told in the log, and tried again."""

    def __init__(self, broker: Broker, settings: DetectorSettings) -> None:
        self._broker = broker
        self._settings = settings
        self._words: Mapping[str, Feedback] = {}
        self._opinions: Opinions | None = None
        self._trouble = ""
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._attempt(follow=False)
        self._thread = threading.Thread(target=self._run, name="feedback-watch", daemon=True)
        self._thread.start()

    def take(self) -> Opinions | None:
        """What people say now, where that has changed since the last call."""
        with self._lock:
            opinions, self._opinions = self._opinions, None
        return opinions

    def stop(self) -> None:
        """Ends the thread, at its next turn or in a second or so: a broker that does not answer must not hold up the
        end of the process."""
        self._stopped.set()

    def _run(self) -> None:
        while not self._stopped.is_set():
            self._attempt(follow=True)
            self._stopped.wait(LOOK_AGAIN_S)

    def _attempt(self, *, follow: bool) -> None:
        """Reads the topic from its beginning, and on. What hinders it is told once."""
        trouble = ""
        try:
            self._read(follow=follow)
        except TopicMissing:
            self._say({})
        except (StreamError, OSError) as error:
            trouble = str(error)
        if trouble and trouble != self._trouble:
            log.error("feedback cannot be read; what was said before still counts", error=trouble)
        self._trouble = trouble

    def _read(self, *, follow: bool) -> None:
        """Says what there is whenever all of it is read: what was replaced must not count meanwhile."""
        said, at = Said(self._settings.name, with_records=False), dict[Partition, int]()
        for batch in self._broker.read([self._settings.feedback_topic], Window(), follow=follow):
            if self._stopped.is_set():
                return
            said.take_in(batch)
            at |= {partition: position.offset for partition, position in batch.positions().items()}
            if not len(batch) or all(at.get(partition, 0) >= end for partition, end in batch.ends.items()):
                self._say(said.words)
        self._say(said.words)

    def _say(self, words: Mapping[str, Feedback]) -> None:
        if words != self._words:
            self._words = dict(words)
            opinions = Opinions(words.values(), self._settings.feedback.counts_for)
            with self._lock:
                self._opinions = opinions
