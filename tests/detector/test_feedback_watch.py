from __future__ import annotations

import math
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain, repeat
from pathlib import Path

import pytest
import structlog

from consumers.batch import RawBatch
from consumers.errors import BrokerUnavailable, StreamError, TopicMissing
from consumers.memory import MemoryBroker
from consumers.stream import Window
from detector.feedback import Feedback
from detector.feedback_effects import Opinions
from detector.feedback_watch import FeedbackWatch
from tests.detector.machines import broker_with, settings
from tests.detector.opinions import raised, word
from tests.detector.test_alerts import alert

FEEDBACK = "offnominal-machines-feedback"
ALERT = alert()


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("detector.following.LOOK_AGAIN_S", 0.001)


class Faulty(MemoryBroker):
    """Runs into these, one a call."""

    troubles: Iterator[StreamError | None] = iter(())

    def read(self, topics: Sequence[str], window: Window, *, follow: bool = False) -> Iterator[RawBatch]:
        if (trouble := next(self.troubles, None)) is not None:
            raise trouble
        return super().read(topics, window, follow=follow)


def broker() -> Faulty:
    return Faulty(log=broker_with([]).log)


def say(there: MemoryBroker, *words: Feedback) -> None:
    there.create_topics({FEEDBACK: 1}, compacted=True)
    for it in words:
        there.append(FEEDBACK, it.message(FEEDBACK).value, it.key.encode())


@contextmanager
def watching(there: MemoryBroker, folder: Path) -> Iterator[FeedbackWatch]:
    watch = FeedbackWatch(there, settings(folder))
    (thread,) = (it for it in threading.enumerate() if it.name == f"following-{FEEDBACK}")
    try:
        yield watch
    finally:
        watch.stop()
        say(there, word(ALERT))  # so that it need not be waited for
        thread.join(10)
        assert not thread.is_alive()


def changed(watch: FeedbackWatch) -> Opinions:
    while (opinions := watch.take()) is None:
        pass
    return opinions


def level(opinions: Opinions) -> float:
    return raised(opinions, ALERT.segment, ALERT.time)


def test_what_was_said_before_is_there_at_once_and_told_once(tmp_path: Path) -> None:
    there = broker()
    say(there, word(ALERT, "known"), word(ALERT))
    with watching(there, tmp_path) as watch:
        opinions = watch.take()
        assert opinions is not None
        assert level(opinions) == pytest.approx(math.log(2))
        assert watch.take() is None


def test_what_is_said_later_and_taken_back_again_follows(tmp_path: Path) -> None:
    there = broker()
    say(there, word(alert(incident="0a" * 16)))
    with watching(there, tmp_path) as watch:
        assert level(changed(watch)) == pytest.approx(math.log(2))
        say(there, word(ALERT))
        assert level(changed(watch)) == pytest.approx(math.log(3))
        say(there, word(ALERT, "retracted"))
        assert level(changed(watch)) == pytest.approx(math.log(2))


def test_a_topic_that_goes_takes_its_words_along(tmp_path: Path) -> None:
    there = broker()
    say(there, word(ALERT))
    there.troubles = chain([None], repeat(TopicMissing("it was deleted")))
    with watching(there, tmp_path) as watch:
        while level(changed(watch)) > 0:
            pass


def test_a_topic_that_comes_later_is_found(tmp_path: Path) -> None:
    there = broker()
    with watching(there, tmp_path) as watch:
        assert watch.take() is None
        say(there, word(ALERT))
        assert level(changed(watch)) == pytest.approx(math.log(2))


def test_a_broker_that_does_not_answer_is_told_once_and_asked_again(tmp_path: Path) -> None:
    there = broker()
    say(there, word(ALERT))
    there.troubles = repeat(BrokerUnavailable("no answer"), 3)
    with structlog.testing.capture_logs() as logs, watching(there, tmp_path) as watch:
        assert level(changed(watch)) == pytest.approx(math.log(2))
    assert [line["error"] for line in logs] == ["no answer"]


def test_words_that_were_replaced_do_not_count_while_the_topic_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Opinions] = []

    def kept(words: Iterable[Feedback], counts_for: float) -> Opinions:
        made.append(Opinions(words, counts_for))
        return made[-1]

    monkeypatch.setattr("detector.feedback_watch.Opinions", kept)
    monkeypatch.setattr("consumers.memory._READ_RECORDS", 1)
    there = broker()
    say(there, word(ALERT), word(ALERT, "retracted"))
    with watching(there, tmp_path) as watch:
        say(there, word(alert(incident="0a" * 16, segment="other")))
        while raised(changed(watch), "other", ALERT.time) == 0:
            pass
    assert {level(opinions) for opinions in made} == {0.0}
