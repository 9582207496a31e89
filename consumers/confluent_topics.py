"""Which topics are there, by an admin client of confluent-kafka."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress

from confluent_kafka import KafkaError, KafkaException, TopicCollection, Uuid
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._topic import TopicDescription

from consumers.confluent_connection import code_of, results

_NO_ID = str(Uuid(0, 0))
_LOOK_S = 5.0


Answers = Mapping[str, "Future[TopicDescription]"]


def described(admin: AdminClient, topics: Iterable[str], timeout_s: float) -> dict[str, TopicDescription]:
    """Those of the topics that exist. Raises `KafkaException`."""
    if not (wanted := list(topics)):
        return {}
    return _existing(_ask(admin, wanted, timeout_s), timeout_s)


class TopicWatch:
    """Asks from time to time, without waiting for the answer, which of the topics are there and under which id.

    `gone` are those that the broker did not know when it was last asked.
    """

    def __init__(self, admin: AdminClient, topics: Sequence[str], timeout_s: float) -> None:
        self.gone: set[str] = set()
        self._admin = admin
        self._topics = topics
        self._timeout_s = timeout_s
        self._asked: Answers = {}
        self._due = 0.0
        self._ids: dict[str, str] = {}
        self._known: dict[str, str] = {}

    def look(self) -> None:
        """Takes in the answer that has come; asks where it is time to. Where there is none, it asks again later."""
        if self._asked:
            if all(answer.done() for answer in self._asked.values()):
                with suppress(KafkaException):
                    self._hear()
        elif time.monotonic() >= self._due:
            self._ask()

    def look_now(self) -> None:
        """Asks, and waits for the answer. Raises `KafkaException`."""
        self._ask()
        self._hear()

    def made_anew(self) -> set[str]:
        """Topics whose id is another than at the last call."""
        anew = {topic for topic, found in self._ids.items() if self._known.get(topic, found) != found}
        self._known |= self._ids
        return anew

    def forget(self, topics: set[str]) -> None:
        """Whatever these are found to be next is as it should be; an answer under way may tell of what was before."""
        if topics:
            self._ids = {topic: found for topic, found in self._ids.items() if topic not in topics}
            self._known = {topic: found for topic, found in self._known.items() if topic not in topics}
            self._asked, self._due = {}, 0.0

    def _ask(self) -> None:
        self._asked = _ask(self._admin, self._topics, self._timeout_s)
        self._due = time.monotonic() + _LOOK_S

    def _hear(self) -> None:
        asked, self._asked = self._asked, {}
        found = _existing(asked, self._timeout_s)
        self.gone = asked.keys() - found.keys()
        ids = {topic: _id(about.topic_id) for topic, about in found.items()}
        self._ids |= {topic: name for topic, name in ids.items() if name != _NO_ID}


def _id(name: Uuid) -> str:
    """As a value: two objects of confluent-kafka that stand for the same id are not equal."""
    return str(name)


def _ask(admin: AdminClient, topics: Sequence[str], timeout_s: float) -> Answers:
    return admin.describe_topics(TopicCollection(list(topics)), request_timeout=timeout_s)


def _existing(asked: Answers, timeout_s: float) -> dict[str, TopicDescription]:
    found: dict[str, TopicDescription] = {}
    for topic, answer in asked.items():
        try:
            found |= results({topic: answer}, timeout_s)
        except KafkaException as error:
            if code_of(error) != KafkaError.UNKNOWN_TOPIC_OR_PART:
                raise
    return found
