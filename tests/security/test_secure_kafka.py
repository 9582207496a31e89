"""TLS, SASL and access control against Apache Kafka itself: who is let in, and what one who is not is told."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from threading import Timer
from typing import Any, NamedTuple

import pytest
from kafka import KafkaAdminClient
from kafka.admin import ACL, ACLOperation, ACLPermissionType, ResourcePattern, ResourceType

from consumers.batch import Message, Partition, Position
from consumers.errors import AuthenticationFailed, NotAuthorised, StreamError, TlsFailed
from consumers.kafka_python import KafkaPythonBroker
from consumers.producer import Producer
from consumers.settings import KafkaSettings
from consumers.stream import Window
from tests.detector.machines import records
from tests.security.certificates import Authority

START = os.environ.get("OFFNOMINAL_TEST_KAFKA_START")
START_S = 120.0

pytestmark = [
    pytest.mark.skipif(not START, reason="OFFNOMINAL_TEST_KAFKA_START names no script that starts Apache Kafka"),
    pytest.mark.xdist_group("access"),  # one broker
]


class Kafka(NamedTuple):
    """A broker with a listener for each way to reach it, `port` onwards, and the folder of its certificates."""

    port: int
    folder: Path

    def address(self, listener: str, host: str = "127.0.0.1") -> str:
        return f"{host}:{self.port + LISTENERS.index(listener)}"

    def file(self, name: str) -> Path:
        return self.folder / name


LISTENERS = ("plaintext", "tls", "sasl over tls", "sasl", "expired", "mutual")
"""By their distance from the first port; the first four are those of the script that starts the broker."""


@pytest.fixture(scope="module")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kafka]:
    """Its certificates are ours: for 127.0.0.1 alone, and on one listener one that has expired."""
    folder = tmp_path_factory.mktemp("kafka")
    ours, other = Authority(folder, "ca"), Authority(folder, "other-ca")
    for name, days in ("server", 2), ("expired", 0):
        ours.sign(folder, name, days=days)
        chain = "".join((folder / f"{name}{part}").read_text() for part in (".key", ".pem"))
        (folder / f"{name}-all.pem").write_text(chain + (folder / "ca.pem").read_text())
    ours.sign(folder, "client")
    other.sign(folder, "stranger")
    port = _free_ports()
    with _broker(port, folder):
        yield Kafka(port, folder)


@contextmanager
def _broker(port: int, folder: Path) -> Iterator[None]:
    """Runs it with two listeners more than the script knows."""
    names = ("PLAINTEXT", "SSL", "SASL_SSL", "SASL_PLAINTEXT", "EXPIRED", "MUTUAL")
    advertised = ",".join(f"{name}://127.0.0.1:{port + number}" for number, name in enumerate(names))
    own = {name: name for name in names[:4]} | {"CONTROLLER": "PLAINTEXT", "EXPIRED": "SSL", "MUTUAL": "SSL"}
    properties = {
        "listeners": f"{advertised},CONTROLLER://127.0.0.1:{port + 9}",
        "advertised.listeners": advertised,
        "listener.security.protocol.map": ",".join(f"{name}:{protocol}" for name, protocol in own.items()),
        "listener.name.expired.ssl.keystore.location": str(folder / "expired-all.pem"),
        "listener.name.mutual.ssl.client.auth": "required",
    }
    process = subprocess.Popen(
        [
            *(str(START), "--port", str(port), "--dir", str(folder), "--secure"),
            *(word for key, value in properties.items() for word in ("--prop", f"{key}={value}")),
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    too_long = Timer(START_S, process.terminate)
    too_long.start()
    try:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("ready"), "Apache Kafka did not start"
        too_long.cancel()
        yield
    finally:
        too_long.cancel()
        process.terminate()
        process.communicate()


def _free_ports() -> int:
    """The first of ten ports in a row that nobody listens on."""
    while True:
        with ExitStack() as held:
            first: int = held.enter_context(socket.create_server(("127.0.0.1", 0))).getsockname()[1]
            try:
                for port in range(first + 1, first + 10):
                    held.enter_context(socket.create_server(("127.0.0.1", port)))
            except (OSError, OverflowError):
                continue
            return first


def settings(kafka: Kafka, listener: str, host: str = "127.0.0.1", **security: Any) -> KafkaSettings:
    return KafkaSettings.model_validate(
        {
            "bootstrap": kafka.address(listener, host),
            "start": "earliest",
            "request_timeout_s": 10.0,
            "security": security,
        }
    )


def tls(kafka: Kafka, authority: str = "ca.pem", client: str = "") -> dict[str, Any]:
    own = {"certificate_file": kafka.file(f"{client}.pem"), "key_file": kafka.file(f"{client}.key")} if client else {}
    return {"protocol": "ssl", "ca_file": kafka.file(authority), **own}


def user(mechanism: str, name: str = "alice", password: str = "alice-secret") -> dict[str, Any]:
    return {
        "protocol": "sasl_plaintext",
        "mechanism": mechanism,
        "username": name,
        "password": password,
        "allow_plain_without_tls": True,
    }


def over_tls(kafka: Kafka, security: Mapping[str, Any]) -> dict[str, Any]:
    return {**security, "protocol": "sasl_ssl", "ca_file": kafka.file("ca.pem")}


def broker(given: KafkaSettings, group: str = "tests") -> KafkaPythonBroker:
    return KafkaPythonBroker(given, group=group, client_id="tests")


def refusal(given: KafkaSettings) -> StreamError:
    with pytest.raises(StreamError) as refused:
        broker(given).partitions(["any"])
    return refused.value


Given = Callable[[Kafka], KafkaSettings]

WAYS_IN: dict[str, Given] = {
    "tls": lambda kafka: settings(kafka, "tls", **tls(kafka)),
    "tls with a certificate of our own": lambda kafka: settings(kafka, "mutual", **tls(kafka, client="client")),
    "PLAIN over tls": lambda kafka: settings(kafka, "sasl over tls", **over_tls(kafka, user("PLAIN"))),
    "SCRAM over tls": lambda kafka: settings(kafka, "sasl over tls", **over_tls(kafka, user("SCRAM-SHA-512"))),
    "SCRAM without tls": lambda kafka: settings(kafka, "sasl", **user("SCRAM-SHA-512")),
}


@pytest.mark.parametrize("way", WAYS_IN)
def test_who_is_let_in_writes_and_reads(kafka: Kafka, unique: str, way: str) -> None:
    given = WAYS_IN[way](kafka)
    reached = broker(given)
    reached.create_topics({unique: 1})
    with Producer(given, client_id="tests") as producer:
        producer.send(Message(unique, b"key", b"value"))
    assert [value for batch in reached.read([unique], Window()) for value in batch.values] == [b"value"]


TLS_REFUSALS: dict[str, tuple[Given, str]] = {
    "certificate of an authority that is not trusted": (
        lambda kafka: settings(kafka, "tls", **tls(kafka, "other-ca.pem")),
        "certificate that is not accepted: self-signed certificate in certificate chain",
    ),
    "certificate for another host": (
        lambda kafka: settings(kafka, "tls", "localhost", **tls(kafka)),
        "not valid for 'localhost'",
    ),
    "expired certificate": (lambda kafka: settings(kafka, "expired", **tls(kafka)), "certificate has expired"),
    "no tls to a tls port": (lambda kafka: settings(kafka, "tls"), "speaks TLS"),
    "tls to a port without": (lambda kafka: settings(kafka, "plaintext", **tls(kafka)), "speaks no TLS"),
    "no sasl over tls to a port with sasl alone": (
        lambda kafka: settings(kafka, "sasl", **over_tls(kafka, user("PLAIN"))),
        "speaks no TLS",
    ),
    "no certificate of our own where one is wanted": (
        lambda kafka: settings(kafka, "mutual", **tls(kafka)),
        "wants a client's certificate: kafka.security.certificate_file",
    ),
    "a certificate of our own that the broker does not trust": (
        lambda kafka: settings(kafka, "mutual", **tls(kafka, client="stranger")),
        "does not accept the client's certificate",
    ),
}


@pytest.mark.parametrize("what", TLS_REFUSALS)
def test_a_failure_of_tls_is_told_as_that(kafka: Kafka, what: str) -> None:
    given, words = TLS_REFUSALS[what]
    error = refusal(given(kafka))
    assert isinstance(error, TlsFailed), repr(error)
    assert words in str(error)


SASL_REFUSALS: dict[str, tuple[Given, str]] = {
    "wrong password, PLAIN over tls": (
        lambda kafka: settings(kafka, "sasl over tls", **over_tls(kafka, user("PLAIN", password="canary"))),
        "refuses user 'alice' by PLAIN",
    ),
    "wrong password, SCRAM": (
        lambda kafka: settings(kafka, "sasl", **user("SCRAM-SHA-512", password="canary")),
        "refuses user 'alice' by SCRAM-SHA-512",
    ),
    "unknown user": (
        lambda kafka: settings(kafka, "sasl", **user("SCRAM-SHA-512", "nobody", "canary")),
        "refuses user 'nobody' by SCRAM-SHA-512",
    ),
    "a mechanism that the broker does not offer": (
        lambda kafka: settings(kafka, "sasl", **user("SCRAM-SHA-256", password="canary")),
        "not SCRAM-SHA-256",
    ),
    "no sasl where it is wanted": (lambda kafka: settings(kafka, "sasl"), "wants SASL"),
    "sasl where there is none": (
        lambda kafka: settings(kafka, "plaintext", **user("PLAIN", password="canary")),
        "has no SASL",
    ),
}


@pytest.mark.parametrize("what", SASL_REFUSALS)
def test_a_failure_of_authentication_is_told_as_that_without_the_password(kafka: Kafka, what: str) -> None:
    given, words = SASL_REFUSALS[what]
    error = refusal(given(kafka))
    assert isinstance(error, AuthenticationFailed), repr(error)
    assert words in str(error)
    assert "canary" not in str(error)


Right = tuple[ResourceType, str, ACLOperation]


def needed(name: str) -> dict[str, Right]:
    """What a stream of this name needs once its topics exist; READ and WRITE imply DESCRIBE."""
    return {
        f"topic '{name}'": (ResourceType.TOPIC, name, ACLOperation.READ),
        f"topic '{name}-alerts'": (ResourceType.TOPIC, f"{name}-alerts", ACLOperation.WRITE),
        f"group '{name}'": (ResourceType.GROUP, name, ACLOperation.READ),
        f"transactional id '{name}-0'": (ResourceType.TRANSACTIONAL_ID, f"{name}-0", ACLOperation.WRITE),
    }


def grant(kafka: Kafka, rights: Mapping[str, Right]) -> None:
    """Gives the user `reader`, who has none, these rights."""
    with closing(KafkaAdminClient(bootstrap_servers=kafka.address("plaintext"))) as admin:
        for kind, name, operation in rights.values():
            pattern = ResourcePattern(kind, name)
            given = admin.create_acls([ACL("User:reader", "*", operation, ACLPermissionType.ALLOW, pattern)])
            assert not given["failed"]


def restricted(kafka: Kafka) -> KafkaSettings:
    return settings(kafka, "sasl", **user("SCRAM-SHA-512", "reader", "reader-secret"))


def work(given: KafkaSettings, name: str) -> None:
    """What a daemon does: joins, reads a record, publishes an alert and its position."""
    with closing(broker(given, name).stream([name])) as stream:
        batch = stream.poll(10, 1.0)
        while not len(batch):
            batch = stream.poll(10, 1.0)
        stream.publish([Message(f"{name}-alerts", None, b"alert")], {Partition(name, 0): Position(1)})


def prepared(kafka: Kafka, name: str) -> None:
    given = settings(kafka, "plaintext")
    broker(given).create_topics({name: 1, f"{name}-alerts": 1})
    with Producer(given, client_id="tests") as producer:
        producer.send(Message(name, None, b"record"))


def test_four_rights_are_all_that_a_stream_needs(kafka: Kafka, unique: str) -> None:
    prepared(kafka, unique)
    grant(kafka, needed(unique))
    work(restricted(kafka), unique)
    alerts = broker(settings(kafka, "plaintext")).read([f"{unique}-alerts"], Window())
    assert [value for batch in alerts for value in batch.values] == [b"alert"]


@pytest.mark.parametrize("lacking", needed("NAME"))
def test_a_right_that_is_lacking_is_named(kafka: Kafka, unique: str, lacking: str) -> None:
    resource = lacking.replace("NAME", unique)
    prepared(kafka, unique)
    grant(kafka, {what: right for what, right in needed(unique).items() if what != resource})
    with pytest.raises(NotAuthorised) as refused:
        work(restricted(kafka), unique)
    assert resource in str(refused.value)


def test_a_topic_that_may_be_seen_but_not_read_is_named(kafka: Kafka, unique: str) -> None:
    prepared(kafka, unique)
    grant(kafka, {"describe": (ResourceType.TOPIC, unique, ACLOperation.DESCRIBE)})
    with pytest.raises(NotAuthorised, match=unique):
        list(broker(restricted(kafka)).read([unique], Window()))


def test_a_topic_that_may_not_be_made_is_named(kafka: Kafka, unique: str) -> None:
    grant(kafka, {"describe": (ResourceType.TOPIC, unique, ACLOperation.DESCRIBE)})
    with pytest.raises(NotAuthorised, match=unique):
        broker(restricted(kafka)).create_topics({unique: 1})


def offnominal(*arguments: str | Path, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "detector", *map(str, arguments)],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_daemon_that_authenticates_leaves_its_secrets_nowhere(kafka: Kafka, unique: str, tmp_path: Path) -> None:
    given = settings(kafka, "plaintext")
    reached, topics = broker(given), (unique, f"{unique}-alerts", f"{unique}-alerts-dead-letters")
    reached.create_topics({unique: 1})
    with Producer(given, client_id="tests") as producer:
        for value in records(2_000):
            producer.send(Message(unique, None, value))
    config = tmp_path / "offnominal.yaml"
    config.write_text(
        f"name: {unique}\nkafka: {{bootstrap: '{kafka.address('sasl over tls')}', start: earliest, security: {{"
        f"protocol: sasl_ssl, ca_file: {kafka.file('ca.pem')}, mechanism: SCRAM-SHA-512, username: alice}}}}\n"
        f"stream: {{topics: [{unique}], entity: machine, timestamp: ts}}\nfeatures: [cpu, load]\n"
        f"alerts: {{topic: {unique}-alerts, rate: 0.01}}\nstore: {{url: {tmp_path / 'store'}}}\nweb: {{port: 0}}\n"
    )
    secrets = {
        "OFFNOMINAL__KAFKA__SECURITY__PASSWORD": "alice-secret",
        "OFFNOMINAL__KAFKA__SECURITY__KEY_PASSWORD": "canary-key",
        "OFFNOMINAL__WEB__TOKEN": "canary-web",
    }
    said: list[str] = []
    for command in ("train", "check"):
        done = offnominal(command, "-c", config, **secrets)
        said += done.communicate(timeout=START_S)
        assert done.returncode == 0, said
    daemon = offnominal("run", "-c", config, **secrets)
    try:
        assert daemon.stderr is not None
        lines = [next(line for line in daemon.stderr if '"starting"' in line)]
        lines += [next(line for line in daemon.stderr if '"partitions"' in line)]
        said += [*lines, Path(f"/proc/{daemon.pid}/cmdline").read_text()]
        with Producer(given, client_id="tests") as producer:
            for value in [b"no record", *records(100, start=2_000, odd={2_050: {"cpu": 99.0}})]:
                producer.send(Message(unique, None, value))
        letters = reached.read([topics[2]], Window(), follow=True)
        said += [repr(next(batch for batch in letters if len(batch)))]
        question = urllib.request.Request(
            json.loads(lines[0])["web"] + "/metrics", headers={"Authorization": "Bearer canary-web"}
        )
        with urllib.request.urlopen(question, timeout=10) as answer:
            said.append(answer.read().decode())
    finally:
        daemon.terminate()
        said += daemon.communicate(timeout=START_S)
    said += [repr(batch) for topic in topics for batch in reached.read([topic], Window())]
    said += [path.read_bytes().decode(errors="replace") for path in tmp_path.rglob("*") if path.is_file()]
    assert any("offnominal_records_total" in text for text in said)
    assert [text[:200] for text in said for secret in secrets.values() if secret in text] == []
