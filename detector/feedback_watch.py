"""What is said while a daemon runs, for its loop to take up."""

from __future__ import annotations

import threading
from collections.abc import Mapping

from consumers.batch import RawBatch
from consumers.stream import Broker, Window
from detector.config import DetectorSettings
from detector.feedback import Feedback, Said
from detector.feedback_effects import Opinions
from detector.following import Following


class FeedbackWatch:
    """Follows the feedback topic in a thread. What was said before is there when this is made, so that a replay is
    judged as the records were; where it cannot be read, that is told in the log, and tried again."""

    def __init__(self, broker: Broker, settings: DetectorSettings) -> None:
        self._settings = settings
        self._words: Mapping[str, Feedback] = {}
        self._opinions: Opinions | None = None
        self._lock = threading.Lock()
        self._following = Following(broker, settings.feedback_topic, Window(), self)
        self._following.read_past()
        self._following.start()

    def take(self) -> Opinions | None:
        """What people say now, where that has changed since the last call."""
        with self._lock:
            opinions, self._opinions = self._opinions, None
        return opinions

    def stop(self) -> None:
        """Ends the thread soon."""
        self._following.stop()

    def begin(self) -> None:
        """The topic is read from its beginning, perhaps not for the first time."""
        self._said = Said(self._settings.name, with_records=False)

    def hear(self, batch: RawBatch) -> None:
        """Takes in what was said; it counts once all that there is has been read, as some of it was replaced."""
        self._said.take_in(batch)

    def caught_up(self) -> None:
        """What was said counts."""
        if self._said.words != self._words:
            self._words = dict(self._said.words)
            opinions = Opinions(self._words.values(), self._settings.feedback.counts_for)
            with self._lock:
                self._opinions = opinions
