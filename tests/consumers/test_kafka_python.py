"""What only a real broker can show: fences, frozen brokers, records that kafka-python cannot read by itself."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from threading import Event
from time import monotonic
from typing import Any
from unittest.mock import Mock

import pytest
from kafka import KafkaAdminClient, KafkaProducer, TopicPartition
from kafka.admin import ConfigResource

from consumers import connection, kafka_python, member
from consumers.batch import Message, Partition, Position
from consumers.diagnose import diagnose
from consumers.embedded import broker_process
from consumers.errors import BrokerUnavailable, OutcomeUnknown, Retry, Stop
from consumers.kafka_python import KafkaPythonBroker
from consumers.settings import KafkaSettings
from consumers.stream import Stream, Window


def broker(bootstrap: str, group: str = "g", **settings: Any) -> KafkaPythonBroker:
    return KafkaPythonBroker(
        KafkaSettings(bootstrap=bootstrap, start="earliest", **settings), group=group, client_id="test"
    )


class Latin(str):
    """A header name in another encoding."""

    def encode(self, *_: Any) -> bytes:
        return b"caf\xe9"


def first_records(stream: Stream) -> list[bytes | None]:
    """What the first poll that is not empty brings."""
    return next(list(batch.values) for batch in (stream.poll(100, 0.5) for _ in range(40)) if len(batch))


def everything(bootstrap: str, topic: str) -> list[bytes | None]:
    return [value for batch in broker(bootstrap).read([topic], Window()) for value in batch.values]


def test_a_header_name_that_is_not_utf_8_does_not_stop_the_stream(bootstrap: str, unique: str) -> None:
    broker(bootstrap).create_topics({unique: 1})
    with closing(KafkaProducer(bootstrap_servers=bootstrap)) as producer:
        producer.send(unique, b"before")
        producer.send(unique, b"odd", headers=[(Latin("x"), b"1"), ("é", b"2")])
        producer.send(unique, b"after").get(10)
    batches = list(broker(bootstrap).read([unique], Window()))
    assert [value for batch in batches for value in batch.values] == [b"before", b"odd", b"after"]
    assert [list(headers) for batch in batches for headers in batch.headers] == [
        [],
        [(r"caf\xe9", b"1"), ("é", b"2")],
        [],
    ]


def test_nothing_of_a_transaction_is_seen_when_one_message_is_too_large(bootstrap: str, unique: str) -> None:
    source, out = f"{unique}-in", f"{unique}-out"
    broker(bootstrap).create_topics({source: 1, out: 1})
    with closing(broker(bootstrap, unique).stream([source])) as stream:
        stream.publish([Message(source, None, b"0")], {})
        assert first_records(stream) == [b"0"]
        with pytest.raises(Stop, match="larger than"):
            stream.publish(
                [Message(out, None, b"small"), Message(out, None, bytes(2_000_000))],
                {Partition(source, 0): Position(1)},
            )
        with pytest.raises(Retry, match="open another"):
            stream.poll(1, 0.1)
    assert everything(bootstrap, out) == []
    with closing(broker(bootstrap, unique).stream([source])) as stream:
        assert first_records(stream) == [b"0"]


@pytest.mark.parametrize("delivery", ["exactly_once", "at_least_once"])
def test_a_publish_that_comes_later_than_a_poll_may_is_refused(bootstrap: str, unique: str, delivery: str) -> None:
    source, out = f"{unique}-in", f"{unique}-out"
    patient = broker(bootstrap, unique, delivery=delivery)
    patient.create_topics({source: 1, out: 1})
    settings = KafkaSettings(bootstrap=bootstrap, start="earliest", delivery=delivery)  # type: ignore[arg-type]
    hurried = KafkaPythonBroker(
        settings.model_copy(update={"max_poll_interval_s": 1.0}), group=unique, client_id="test"
    )
    with closing(hurried.stream([source])) as stream:
        stream.publish([Message(source, None, b"0")], {})
        assert first_records(stream) == [b"0"]
        Event().wait(1.1)
        with pytest.raises(Retry, match="max_poll_interval_s"):
            stream.publish([Message(out, None, b"late")], {Partition(source, 0): Position(1)})
    assert everything(bootstrap, out) == []
    with closing(patient.stream([source])) as stream:
        assert first_records(stream) == [b"0"]


def test_who_scores_for_longer_than_the_session_timeout_stays_a_member(bootstrap: str, unique: str) -> None:
    source = f"{unique}-in"
    steady = broker(bootstrap, unique, session_timeout_s=6.0)
    steady.create_topics({source: 1})
    with closing(steady.stream([source])) as stream:
        stream.publish([Message(source, None, b"0")], {})
        assert first_records(stream) == [b"0"]
        Event().wait(7)
        stream.publish([Message(source, None, b"1")], {Partition(source, 0): Position(1)})
        batch = next(batch for batch in (stream.poll(100, 0.5) for _ in range(40)) if len(batch))
        assert (list(batch.values), batch.assigned, batch.revoked) == ([b"1"], {}, frozenset())


def test_a_topic_made_anew_that_has_outgrown_the_old_position_is_read_whole(
    bootstrap: str, unique: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "OFFNOMINAL_TEST_BOOTSTRAP" not in os.environ:
        pytest.skip("the embedded broker gives topics no ids")
    monkeypatch.setattr(connection, "METADATA_AGE_S", 0.5)
    partition, new = Partition(unique, 0), [b"%d" % number for number in range(5)]
    broker(bootstrap).create_topics({unique: 1})
    with (
        closing(KafkaAdminClient(bootstrap_servers=bootstrap)) as admin,
        closing(KafkaProducer(bootstrap_servers=bootstrap)) as producer,
        closing(broker(bootstrap, unique).stream([unique])) as stream,
    ):
        producer.send(unique, b"old").get(10)
        assert first_records(stream) == [b"old"]
        admin.delete_topics([unique])
        admin.create_topics({unique: {"num_partitions": 1}}, wait_for_metadata=True)
        for value in new:
            producer.send(unique, value).get(10)
        batch = next(batch for batch in (stream.poll(100, 0.5) for _ in range(40)) if batch.assigned)
        assert {moved.reason for moved in batch.moved.values()} <= {"recreated"}
        assert batch.assigned == {partition: Position(0)}
        assert batch.revoked == {partition}
        got = list(batch.values)
        while len(got) < len(new):
            got += first_records(stream)
        assert got == new


def test_compacted_topics_are_cleared_soon_but_not_at_once(bootstrap: str, unique: str) -> None:
    broker(bootstrap).create_topics({unique: 1}, compacted=True)
    with closing(KafkaAdminClient(bootstrap_servers=bootstrap)) as admin:
        described = admin.describe_configs([ConfigResource("topic", unique)], config_filter="all")
    configs = described["topic"][unique]
    assert configs["cleanup.policy"]["value"] == "compact"
    assert 600_000 <= int(configs["min.compaction.lag.ms"]["value"]) < int(configs["max.compaction.lag.ms"]["value"])
    assert int(configs["max.compaction.lag.ms"]["value"]) <= 3_600_000


def test_a_broker_that_does_not_know_how_to_compact_soon_makes_the_topic_all_the_same(
    bootstrap: str, unique: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(kafka_python._SOON, "no.such.setting", "1")
    broker(bootstrap).create_topics({unique: 2}, compacted=True)
    assert broker(bootstrap).partitions([unique]) == {unique: 2}


def test_the_end_is_where_a_stream_was_rewound_to_when_only_a_marker_is_left(bootstrap: str, unique: str) -> None:
    partition = Partition(unique, 0)
    broker(bootstrap).create_topics({unique: 1})
    with closing(broker(bootstrap, unique).stream([unique])) as stream:
        stream.publish([Message(unique, None, b"%d" % number) for number in range(5)], {})
        assert len(first_records(stream)) == 5
        with closing(KafkaAdminClient(bootstrap_servers=bootstrap)) as admin:
            admin.delete_records({TopicPartition(*partition): 6})
        assert stream.rewind(partition, 0) == 6
        assert stream.poll(100, 0.5).ends == {partition: 6}


def test_an_idle_stream_asks_a_broker_that_is_there_and_goes_on(
    bootstrap: str, unique: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker(bootstrap).create_topics({unique: 1})
    with closing(broker(bootstrap, unique).stream([unique])) as stream:
        stream.publish([Message(unique, None, b"0")], {})
        assert first_records(stream) == [b"0"]
        asked = Mock(wraps=stream._reader.ends)
        monkeypatch.setattr(stream._reader, "ends", asked)
        assert [len(stream.poll(100, 0.1)) for _ in range(5)] == [0] * 5
        assert asked.call_count == 0
        monkeypatch.setattr(member, "SILENCE_S", 0.0)
        assert [len(stream.poll(100, 0.1)) for _ in range(5)] == [0] * 5
        assert asked.call_count == 5
        stream.publish([Message(unique, None, b"1")], {})
        assert first_records(stream) == [b"1"]


class Local:
    """A broker of its own, which can be frozen and killed."""

    def __init__(self, process: subprocess.Popen[bytes], address: str) -> None:
        self._process = process
        self.address = address

    @contextmanager
    def gone(self, by: signal.Signals) -> Iterator[None]:
        os.killpg(self._process.pid, by)
        try:
            while diagnose(KafkaSettings(bootstrap=self.address, request_timeout_s=1.0)) is None:
                """The signal is on its way."""
            yield
        finally:
            os.killpg(self._process.pid, signal.SIGCONT)

    def frozen(self) -> AbstractContextManager[None]:
        return self.gone(signal.SIGSTOP)


@pytest.fixture
def local() -> Iterator[Local]:
    with broker_process() as (process, address):
        yield Local(process, address)


@pytest.mark.parametrize("delivery", ["exactly_once", "at_least_once"])
def test_publishing_to_a_frozen_broker_ends_at_the_deadline_and_leaves_no_trace(local: Local, delivery: str) -> None:
    address = local.address
    patient = broker(address, delivery=delivery)
    patient.create_topics({"in": 1, "out": 1})
    hurried = broker(address, delivery=delivery, request_timeout_s=2.0)
    with closing(hurried.stream(["in"])) as stream:
        stream.publish([Message("in", None, b"0"), Message("out", None, b"first")], {})
        assert first_records(stream) == [b"0"]
        with local.frozen():
            with pytest.raises(Retry):
                stream.publish([Message("out", None, b"lost")], {Partition("in", 0): Position(1)})
            stream.close()
            with pytest.raises(BrokerUnavailable, match="gives no answer"):
                hurried.stream(["in"])
    with closing(patient.stream(["in"])) as stream:
        assert first_records(stream) == [b"0"]
        stream.publish([Message("out", None, b"second")], {Partition("in", 0): Position(1)})
    assert b"second" in everything(address, "out")
    assert delivery == "at_least_once" or everything(address, "out") == [b"first", b"second"]


def test_a_commit_without_an_answer_has_an_unknown_outcome(local: Local, monkeypatch: pytest.MonkeyPatch) -> None:
    address = local.address
    patient = broker(address)
    patient.create_topics({"in": 1, "out": 1})
    with closing(broker(address, request_timeout_s=2.0).stream(["in"])) as stream, ExitStack() as thaw:
        stream.publish([Message("in", None, b"0")], {})
        assert first_records(stream) == [b"0"]
        commit = stream._publisher.producer.commit_transaction

        def freeze_and_commit() -> None:
            thaw.enter_context(local.frozen())
            commit()

        monkeypatch.setattr(stream._publisher.producer, "commit_transaction", freeze_and_commit)
        with pytest.raises(OutcomeUnknown):
            stream.publish([Message("out", None, b"perhaps")], {Partition("in", 0): Position(1)})
        stream.close()
    with closing(patient.stream(["in"])) as stream:
        stream.publish([Message("in", None, b"1")], {})
        committed = first_records(stream) == [b"1"]
    assert everything(address, "out") == [b"perhaps"] * committed


@pytest.mark.parametrize(
    ("by", "owns"),
    [(signal.SIGSTOP, True), (signal.SIGKILL, True), (signal.SIGSTOP, False)],
    ids=["frozen", "killed", "frozen before a partition is owned"],
)
def test_a_stream_with_nothing_to_read_notices_that_its_broker_is_gone(
    local: Local, by: signal.Signals, owns: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(member, "SILENCE_S", 0.5)
    hurried = broker(local.address, request_timeout_s=2.0)
    hurried.create_topics({"in": 1})
    with closing(hurried.stream(["in"])) as stream:
        if owns:
            stream.publish([Message("in", None, b"0")], {})
            assert first_records(stream) == [b"0"]
        with local.gone(by):
            began = monotonic()
            with pytest.raises(BrokerUnavailable):
                first_records(stream)
            assert monotonic() - began < 0.5 + 0.5 + 2.0 + 1.0  # the silence, a poll, the request, and some air


def test_reading_ends_with_an_error_when_the_broker_falls_silent(
    local: Local,
) -> None:
    hurried = broker(local.address, request_timeout_s=2.0)
    hurried.create_topics({"in": 1})
    with closing(hurried.stream(["in"])) as stream:
        stream.publish([Message("in", None, b"0")], {})
    reading = hurried.read(["in"], Window())
    with local.frozen(), pytest.raises(BrokerUnavailable):
        list(reading)
