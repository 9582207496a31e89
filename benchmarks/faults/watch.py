"""Those who look on from outside: a subscriber of what is published, and a reader of the group's positions."""

from __future__ import annotations

import json
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import Any

from kafka import KafkaAdminClient, KafkaConsumer, TopicPartition
from kafka.errors import KafkaError

from benchmarks.faults.ledger import Letter
from detector.alerts import Alert

_AGAIN_S = 0.2
_TIMEOUT_MS = 2_000


class Watch(ABC):
    """A thread that looks again and again, and connects anew when the broker was away."""

    def __init__(self, bootstrap: str) -> None:
        self._bootstrap = bootstrap
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=type(self).__name__, daemon=True)
        self._thread.start()

    @abstractmethod
    def _connect(self) -> Any: ...

    @abstractmethod
    def _look(self, client: Any) -> None: ...

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                with closing(self._connect()) as client:
                    while not self._stopping.is_set():
                        self._look(client)
            except (KafkaError, OSError, RuntimeError):
                self._stopping.wait(_AGAIN_S)


class Subscriber(Watch):
    """Reads topics of one partition each under read_committed, from the beginning, and keeps all of it."""

    def __init__(self, bootstrap: str, *, alerts: str, dead_letters: str) -> None:
        self._alert_topic = alerts
        self._positions = {TopicPartition(alerts, 0): 0, TopicPartition(dead_letters, 0): 0}
        self._values: list[bytes] = []
        self._letters: list[Letter] = []
        self._anew: set[TopicPartition] = set()
        super().__init__(bootstrap)

    @property
    def alerts(self) -> list[Alert]:
        return [Alert.model_validate_json(value) for value in self._values]

    @property
    def letters(self) -> list[Letter]:
        return list(self._letters)

    def catch_up(self, seconds: float) -> None:
        """Returns when it has all that is committed by now. Raises `TimeoutError`."""
        deadline = time.monotonic() + seconds
        with closing(self._consumer()) as consumer:
            ends = consumer.end_offsets(list(self._positions))
        while any(self._positions[key] < end for key, end in ends.items()):
            if time.monotonic() > deadline:
                raise TimeoutError(f"the subscriber is at {self._positions}, the topics end at {ends}")
            time.sleep(0.02)

    def begin_anew(self, topic: str) -> None:
        """The topic was deleted, and will be made anew."""
        self._anew.add(TopicPartition(topic, 0))

    def _connect(self) -> Any:
        consumer = self._consumer()
        consumer.assign(list(self._positions))
        for key, position in self._positions.items():
            consumer.seek(key, position)
        return consumer

    def _consumer(self) -> Any:
        return KafkaConsumer(
            bootstrap_servers=self._bootstrap,
            isolation_level="read_committed",
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            allow_auto_create_topics=False,
            request_timeout_ms=_TIMEOUT_MS,
            metadata_max_age_ms=1_000,
            reconnect_backoff_max_ms=500,
            metrics_enabled=False,
        )

    def _look(self, consumer: Any) -> None:
        while self._anew:
            key = self._anew.pop()
            self._positions[key] = 0
            consumer.seek(key, 0)
        for key, records in consumer.poll(timeout_ms=100).items():
            self._keep(key.topic, records)
            self._positions[key] = records[-1].offset + 1
        for key in self._positions:  # markers of transactions take offsets too
            if key not in self._anew and (position := consumer.position(key, timeout_ms=_TIMEOUT_MS)) is not None:
                self._positions[key] = position

    def _keep(self, topic: str, records: Sequence[Any]) -> None:
        if topic == self._alert_topic:
            self._values.extend(record.value for record in records)
            return
        for record in records:
            about = dict(record.headers)
            place = int(about["offnominal.partition"]), int(about["offnominal.offset"])
            self._letters.append(Letter(place, about["offnominal.reason"].decode()))


class GroupWatch(Watch):
    """Where a group is in a topic, and which member has what, looked at some twenty times a second."""

    def __init__(self, bootstrap: str, *, group: str, topic: str) -> None:
        self._group, self._topic = group, topic
        self.committed: Mapping[int, int] = {}
        self.owned: Mapping[str, frozenset[int]] = {}
        super().__init__(bootstrap)

    def _connect(self) -> Any:
        return KafkaAdminClient(
            bootstrap_servers=self._bootstrap,
            request_timeout_ms=_TIMEOUT_MS,
            reconnect_backoff_max_ms=500,
        )

    def _look(self, admin: Any) -> None:
        places = admin.list_group_offsets({self._group: None})[self._group]
        self.committed = {key.partition: at.offset for key, at in places.items() if key.topic == self._topic}
        members = admin.describe_groups([self._group])[self._group]["members"]
        self.owned = {member["group_instance_id"]: self._assigned(member) for member in members}
        self._stopping.wait(0.04)

    def _assigned(self, member: Mapping[str, Any]) -> frozenset[int]:
        assignment = member["member_assignment"] or {}
        return frozenset(
            number
            for topic in assignment.get("assigned_partitions", ())
            if topic["topic"] == self._topic
            for number in topic["partitions"]
        )


def last_log_line(text: str) -> str:
    """The last thing that a process said, short enough for a report."""
    lines = [line for line in text.splitlines() if line.strip()]
    if not lines:
        return "nothing"
    try:
        return str({key: value for key, value in json.loads(lines[-1]).items() if key != "timestamp"})[:300]
    except ValueError:
        return lines[-1][:300]
