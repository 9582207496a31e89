"""What the contract does not reach: what librdkafka cannot read, deadlines, security, and the choice of a client."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import closing, contextmanager
from pathlib import Path
from time import monotonic
from typing import Any
from unittest.mock import Mock

import pytest
from confluent_kafka import KafkaError, Uuid
from confluent_kafka import Message as Received
from kafka import KafkaAdminClient, KafkaProducer, TopicPartition

from consumers import clients, member
from consumers.batch import Message, Moved, Partition, Position, RawBatch
from consumers.confluent import ConfluentBroker
from consumers.confluent_connection import client_properties, consumer_properties
from consumers.confluent_reader import ConfluentReader
from consumers.confluent_topics import TopicWatch
from consumers.errors import AuthenticationFailed, BrokerUnavailable, Retry, Stop
from consumers.kafka_python import KafkaPythonBroker
from consumers.records import Run
from consumers.settings import KafkaSettings
from tests.consumers.test_kafka_python import Latin, Local, everything, first_records, local

__all__ = ["local"]  # a fixture

AT = Partition("t", 0)


def broker(bootstrap: str, group: str = "g", max_bytes: int = 64_000_000, **settings: Any) -> ConfluentBroker:
    given = KafkaSettings.model_validate({"bootstrap": bootstrap, "start": "earliest", **settings})
    return ConfluentBroker(given, group=group, client_id="test", max_bytes=max_bytes)


def test_a_header_name_that_is_not_utf_8_does_not_stop_the_stream(bootstrap: str, unique: str) -> None:
    broker(bootstrap).create_topics({unique: 1})
    with closing(KafkaProducer(bootstrap_servers=bootstrap)) as producer:
        producer.send(unique, b"before", headers=[("é", b"0")])
        producer.send(unique, b"odd", headers=[(Latin("x"), b"1"), ("é", b"2")])
        producer.send(unique, b"after").get(10)
    with closing(broker(bootstrap, unique).stream([unique])) as stream:
        batches = [stream.poll(100, 0.5)]
        while sum(map(len, batches)) < 3:
            batches.append(stream.poll(100, 0.5))
    assert [value for batch in batches for value in batch.values] == [b"before", b"odd", b"after"]
    assert [list(headers) for batch in batches for headers in batch.headers] == [
        [("é", b"0")],
        [(r"caf\xe9", b"1"), ("é", b"2")],
        [],
    ]


def test_retention_that_overtakes_a_running_stream_is_told(bootstrap: str, unique: str) -> None:
    if "OFFNOMINAL_TEST_BOOTSTRAP" not in os.environ:
        pytest.skip("the embedded broker sends all it has at once, however little was asked for")
    partition, sent = Partition(unique, 0), [b"%04d" % number * 2_500 for number in range(200)]
    broker(bootstrap).create_topics({unique: 1})
    with (
        closing(KafkaAdminClient(bootstrap_servers=bootstrap)) as admin,
        closing(KafkaProducer(bootstrap_servers=bootstrap)) as producer,
        closing(broker(bootstrap, unique, max_bytes=60_000).stream([unique])) as stream,
    ):
        for value in sent:
            last = producer.send(unique, value)
        last.get(10)
        got = first_records(stream)
        admin.delete_records({TopicPartition(*partition): 190})
        batches: list[RawBatch] = []
        while len(got) < len(sent) - sum(why.found - why.expected for b in batches for why in b.moved.values()):
            batches.append(stream.poll(100, 0.5))
            if batches[-1].moved:
                assert batches[-1].moved == {partition: Moved(len(got), 190, "retention")}
            got += batches[-1].values
    assert got == sent[: len(got) - 10] + sent[190:]
    assert len(got) < len(sent)


class Served:
    """A consumer that gives what it is told to, a call after the other, and a client to turn to instead of it."""

    def __init__(self, *calls: Sequence[Received], found: dict[Partition, Run], moved: dict[Partition, Moved]) -> None:
        self._calls = list(calls)
        self._instead = Mock(**{"poll.return_value": (found, moved)})
        self.consumer = Mock(consume=lambda *_: list(self._calls.pop(0)) if self._calls else [])
        self.reader = ConfluentReader(
            self.consumer,
            Mock(**{"describe_topics.return_value": {}}),
            [],
            self._opened,
            max_bytes=1_000_000,
            timeout_s=1.0,
        )
        self.reader.seek({AT: 0})

    @contextmanager
    def _opened(self, partitions: Sequence[Partition]) -> Iterator[Any]:
        assert list(partitions) == [AT]
        yield self._instead

    def asked_from(self) -> int:
        (given,), _ = self._instead.seek.call_args
        return int(given[AT])


def record(offset: int) -> Received:
    return Received(topic=AT.topic, partition=0, offset=offset, value=b"%d" % offset, timestamp=(1, 7))


def broken(offset: int) -> Received:
    return Received(topic=AT.topic, partition=0, offset=offset, error=KafkaError(KafkaError._BAD_MSG))


def end(offset: int) -> Received:
    return Received(topic=AT.topic, partition=0, offset=offset, error=KafkaError(KafkaError._PARTITION_EOF))


def test_the_end_of_the_log_passes_over_markers() -> None:
    served = Served([record(0), end(2)], found={}, moved={})
    served.reader.poll(10, 0.1)
    assert served.reader.positions([AT]) == {AT: 2}


def test_what_librdkafka_cannot_decode_is_passed_over_where_the_other_client_says() -> None:
    passed = Moved(2, 4, "undecodable")
    served = Served([record(0), record(1), broken(2), record(4), end(5)], found={}, moved={AT: passed})
    found, moved = served.reader.poll(10, 0.1)
    assert ([*found[AT].values], moved) == ([b"0", b"1"], {})
    assert served.reader.poll(10, 0.1) == ({}, {AT: passed})
    assert served.asked_from() == 2
    assert served.reader.positions([AT]) == {AT: 4}


def test_what_the_other_client_can_decode_is_not_lost() -> None:
    run = Run.of([Mock(offset=offset, timestamp=7, key=None, value=b"x", headers=[]) for offset in (0, 1)])
    served = Served([broken(0)], found={AT: run}, moved={})
    assert served.reader.poll(10, 0.1) == ({}, {})
    assert served.reader.poll(10, 0.1) == ({AT: run}, {})
    assert served.reader.positions([AT]) == {AT: 2}


def test_a_topic_is_anew_only_when_its_id_is_another() -> None:
    def answer(number: int) -> dict[str, Future[Any]]:
        told: Future[Any] = Future()
        told.set_result(Mock(topic_id=Uuid(1, number)))
        return {"t": told}

    admin = Mock(describe_topics=Mock(side_effect=[answer(1), answer(1), answer(2)]))
    watch = TopicWatch(admin, ["t"], 1.0)
    anew = []
    for _ in range(3):
        watch.look_now()
        anew.append(watch.made_anew())
    assert anew == [set(), set(), {"t"}]


def test_both_clients_put_a_key_into_the_same_partition(bootstrap: str, unique: str) -> None:
    broker(bootstrap).create_topics({unique: 7, f"{unique}-in": 1})
    messages = [Message(unique, b"key %d" % number, b"x") for number in range(40)]
    places = []
    for kind in (ConfluentBroker, KafkaPythonBroker):
        given = KafkaSettings(bootstrap=bootstrap)
        with closing(kind(given, group=unique, client_id="test").stream([f"{unique}-in"])) as stream:
            places.append([partition for partition, _ in stream.publish(messages, {})])
    assert places[0] == places[1]
    assert len(set(places[0])) > 3


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


@pytest.mark.parametrize("delivery", ["exactly_once", "at_least_once"])
def test_publishing_to_a_frozen_broker_ends_at_the_deadline(local: Local, delivery: str) -> None:
    patient = broker(local.address, delivery=delivery)
    patient.create_topics({"in": 1, "out": 1})
    hurried = broker(local.address, delivery=delivery, request_timeout_s=2.0)
    with closing(hurried.stream(["in"])) as stream:
        stream.publish([Message("in", None, b"0"), Message("out", None, b"first")], {})
        assert first_records(stream) == [b"0"]
        with local.frozen():
            began = monotonic()
            with pytest.raises(Retry):
                stream.publish([Message("out", None, b"lost")], {Partition("in", 0): Position(1)})
            stream.close()
            assert monotonic() - began < 4 * 2.0 + 1.0
    with closing(patient.stream(["in"])) as stream:
        assert first_records(stream) == [b"0"]
        stream.publish([Message("out", None, b"second")], {Partition("in", 0): Position(1)})
    assert delivery == "at_least_once" or everything(local.address, "out") == [b"first", b"second"]


def test_a_stream_with_nothing_to_read_notices_that_its_broker_is_gone(
    local: Local, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(member, "SILENCE_S", 0.5)
    hurried = broker(local.address, request_timeout_s=2.0)
    hurried.create_topics({"in": 1})
    with closing(hurried.stream(["in"])) as stream:
        stream.publish([Message("in", None, b"0")], {})
        assert first_records(stream) == [b"0"]
        with local.frozen():
            began = monotonic()
            with pytest.raises(BrokerUnavailable):
                first_records(stream)
            assert monotonic() - began < 0.5 + 0.5 + 2.0 + 2.0


def properties(security: dict[str, Any]) -> dict[str, Any]:
    return client_properties(KafkaSettings.model_validate({"bootstrap": "one:9092", "security": security}), "me")


def test_security_settings_reach_librdkafka_whole(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("from file\n")
    (tmp_path / "token").write_text("token\n")
    user = {"mechanism": "SCRAM-SHA-512", "username": "alice"}
    tls = {"ca_file": "ca.pem", "certificate_file": "c.pem", "key_file": "c.key", "key_password": "k"}
    given = properties({"protocol": "sasl_ssl", **user, **tls, "password_file": str(tmp_path / "password")})
    assert given["security.protocol"] == "sasl_ssl"
    assert (given["sasl.mechanisms"], given["sasl.username"]) == ("SCRAM-SHA-512", "alice")
    assert given["sasl.password"] == "from file"
    assert given["ssl.ca.location"] == "ca.pem"
    assert (given["ssl.certificate.location"], given["ssl.key.location"]) == ("c.pem", "c.key")
    assert given["ssl.key.password"] == "k"
    assert given["ssl.endpoint.identification.algorithm"] == "https"
    lax = properties({"protocol": "ssl", "check_hostname": False})
    assert lax["ssl.endpoint.identification.algorithm"] == "none"
    token = {"protocol": "sasl_ssl", "mechanism": "OAUTHBEARER", "token_file": str(tmp_path / "token")}
    assert properties(token)["oauth_cb"]("")[0] == "token"
    with pytest.raises(AuthenticationFailed, match="password_file"):
        properties({"protocol": "sasl_ssl", **user, "password_file": str(tmp_path / "none")})


@pytest.mark.parametrize("max_bytes", [1_000, 64_000_000, 10_000_000_000])
def test_what_waits_in_the_client_is_bounded_by_what_a_batch_may_hold(max_bytes: int) -> None:
    given = consumer_properties(KafkaSettings(bootstrap="one:9092"), "me", "g", max_bytes)
    assert given["queued.max.messages.kbytes"] <= max(1, max_bytes // 2048)
    assert given["fetch.message.max.bytes"] <= given["fetch.max.bytes"] <= max(1_000, max_bytes // 2)


def test_settings_choose_the_client() -> None:
    for client, kind in (("kafka-python", KafkaPythonBroker), ("confluent-kafka", ConfluentBroker)):
        settings = KafkaSettings.model_validate({"bootstrap": "one:9092", "client": client})
        assert type(clients.broker(settings, group="g", client_id="test")) is kind


def test_a_client_that_is_not_installed_is_named_with_what_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith(("confluent_kafka", "consumers.confluent"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "confluent_kafka", None)
    settings = KafkaSettings(bootstrap="one:9092", client="confluent-kafka")
    with pytest.raises(Stop, match=r"install offnominal\[fast\]"):
        clients.broker(settings, group="g", client_id="test")
