"""What the daemon really publishes is what `docs/asyncapi.yaml` says of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jsonschema
import pytest
import yaml

from consumers.batch import Partition
from consumers.dead_letters import letters, receipt, undecodable_message
from consumers.kafka_python import KafkaPythonBroker
from consumers.stream import Window
from detector import snapshot
from detector.commands.feedback import give_feedback
from detector.config import DetectorSettings
from tests.detector.machines import records
from tests.detector.machines import settings as settings_of
from tests.test_end_to_end import at_work, connect, send, train_version

DOCS = Path(__file__).parents[2] / "docs"
DOCUMENT: dict[str, Any] = yaml.safe_load((DOCS / "asyncapi.yaml").read_text(encoding="utf-8"))


class Published(NamedTuple):
    key: bytes | None
    value: bytes | None
    headers: dict[str, str]


@pytest.fixture(scope="module")
def settings(bootstrap: str, tmp_path_factory: pytest.TempPathFactory) -> DetectorSettings:
    """Of a daemon that ran, told an alert, and wrote a dead letter, one that was cut, and snapshots; with feedback."""
    name = "asyncapi"
    settings = settings_of(
        tmp_path_factory.mktemp(name),
        name=name,
        kafka={"bootstrap": bootstrap},
        stream={"topics": [name], "entity": "machine", "timestamp": "ts"},
        alerts={"topic": f"{name}-alerts", "rate": 0.01, "quiet_for": "5m"},
        dead_letters={"max_bytes": 1_000},
    )
    broker = connect(settings)
    broker.create_topics({name: 1})
    send(settings, records(3_000))
    train_version(settings, broker)
    live = [*records(300, start=3_000, odd={3_100: {"cpu": 9.0}}), b"{", b"x" * 2_000]
    with at_work(settings, broker, len(live)):
        send(settings, live)
    told = json.loads(next(iter(published(broker, settings.alerts.topic))).value or b"")
    give_feedback(settings, told["incident"], "confirmed", text="a test", author="tests", as_json=True)
    return settings


@pytest.fixture(scope="module")
def broker(settings: DetectorSettings) -> KafkaPythonBroker:
    return connect(settings)


def published(broker: KafkaPythonBroker, topic: str) -> Iterator[Published]:
    for batch in broker.read([topic], Window()):
        for key, value, headers in zip(batch.keys, batch.values, batch.headers, strict=True):
            yield Published(key, value, {name: text.decode() for name, text in headers})


def faults(message: str, found: Published) -> list[str]:
    """What the description of that message does not allow."""
    told = DOCUMENT["components"]["messages"][message]
    payload = told.get("payload", {})
    schema = json.loads((DOCS / payload["$ref"]).read_text()) if "$ref" in payload else payload
    value = json.loads(found.value or b"") if told["contentType"] == "application/json" else {}
    checked = [(found.headers, told.get("headers", {"maxProperties": 0})), (value, schema)]
    return [
        error.message
        for instance, wanted in checked
        for error in jsonschema.Draft202012Validator(
            wanted, format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER
        ).iter_errors(instance)
    ]


def test_alerts_are_as_described(settings: DetectorSettings, broker: KafkaPythonBroker) -> None:
    found = list(published(broker, settings.alerts.topic))
    assert {json.loads(it.value or b"")["kind"] for it in found} >= {"opened", "resolved"}
    for alert in found:
        assert not faults("alert", alert)
        assert alert.key == alert.headers["ce_subject"].encode()
        assert set(alert.headers) <= set(DOCUMENT["components"]["messages"]["alert"]["headers"]["properties"])


def test_dead_letters_are_as_described(settings: DetectorSettings, broker: KafkaPythonBroker) -> None:
    short, cut = published(broker, settings.dead_letter_topic)
    for letter in (short, cut):
        assert not faults("deadLetter", letter)
        assert set(letter.headers) <= set(DOCUMENT["components"]["messages"]["deadLetter"]["headers"]["properties"])
    assert (short.value, "offnominal.cut" in short.headers) == (b"{", False)
    assert cut.headers["offnominal.cut"] == "value"


def test_what_stands_for_a_batch_and_receipts_are_as_described(
    settings: DetectorSettings, broker: KafkaPythonBroker
) -> None:
    (batch,) = broker.read([settings.dead_letter_topic], Window())
    for name, message in (
        ("receipt", receipt(list(letters(batch)))),
        ("undecodable", undecodable_message(Partition("machines", 0), 3, 7, topic=settings.dead_letter_topic)),
    ):
        found = Published(message.key, message.value, {key: text.decode() for key, text in message.headers})
        assert not faults(name, found)
        assert faults("deadLetter", found)


def test_feedback_is_as_described(settings: DetectorSettings, broker: KafkaPythonBroker) -> None:
    (said,) = published(broker, settings.feedback_topic)
    assert not faults("feedback", said)
    assert said.key == json.loads(said.value or b"")["alert"]["incident"].encode()


def test_snapshots_are_as_described(settings: DetectorSettings, broker: KafkaPythonBroker) -> None:
    summary = DOCUMENT["components"]["messages"]["snapshot"]["summary"]
    for chunk in published(broker, settings.state_topic):
        group, topic, partition, slot, piece = (chunk.key or b"").decode().split("/")
        assert (group, topic, partition, piece) == (settings.group, settings.stream.topics[0], "0", "0")
        assert slot in "01"
        assert (chunk.value or b"").startswith(snapshot.NAME)
        assert snapshot.NAME.decode() in summary
        assert not faults("snapshot", chunk)


@pytest.mark.parametrize("channel", ["feedback", "state"])
def test_topics_that_are_compacted_are_described_as_such(channel: str) -> None:
    bindings = DOCUMENT["channels"][channel]["bindings"]["kafka"]
    assert bindings["topicConfiguration"] == {"cleanup.policy": ["compact"]}
