from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import structlog
from pydantic import ValidationError

from consumers.batch import Partition
from consumers.decode import JsonDecoder
from consumers.memory import MemoryBroker
from detector.alerts import Alert, Source
from detector.config import DetectorSettings
from detector.errors import SettingsError
from detector.features import fields
from detector.feedback import (
    MOST_BEFORE,
    Feedback,
    Kept,
    Label,
    is_named,
    labelled,
    led_up,
    named,
    said,
    schema,
    the_one,
)
from models.registry import KINDS
from tests.detector.machines import ALERTS, START_MS, TOPIC, broker_with, records, settings
from tests.detector.opinions import word
from tests.detector.test_alerts import alert

FEEDBACK = "offnominal-machines-feedback"
KEPT = Kept(offset=7, timestamp=START_MS, value=b'\x00\xff"')


@pytest.fixture
def chosen(tmp_path: Path) -> DetectorSettings:
    return settings(tmp_path, window={"length": 3})


def told(*alerts: Alert) -> MemoryBroker:
    """A broker whose alert topic holds these."""
    broker = broker_with([])
    for it in alerts:
        broker.append(ALERTS, it.message(ALERTS).value)
    return broker


def saying(*words: Feedback | bytes | None) -> MemoryBroker:
    """A broker whose feedback topic holds these; None is the end of what was said last."""
    broker, key = broker_with([]), b""
    broker.create_topics({FEEDBACK: 1}, compacted=True)
    for it in words:
        if isinstance(it, Feedback):
            key = it.key.encode()
        broker.append(FEEDBACK, it.message(FEEDBACK).value if isinstance(it, Feedback) else it, key)
    return broker


def test_the_message_reads_back_whatever_bytes_its_records_hold() -> None:
    feedback = word(alert()).model_copy(update={"records": [KEPT]})
    message = feedback.message(FEEDBACK)
    assert (message.topic, message.key) == (FEEDBACK, b"9c" * 16)
    assert Feedback.model_validate_json(message.value or b"") == feedback


def test_the_published_schema_is_current_and_accepts_what_is_written_and_what_it_takes() -> None:
    published = json.loads(Path("docs/feedback.schema.json").read_text())
    assert published == schema(), "run: python -m detector.feedback > docs/feedback.schema.json"
    whole = json.loads(word(alert()).model_copy(update={"records": [KEPT]}).model_dump_json())
    jsonschema.validate(whole, published)
    least = {name: value for name, value in whole.items() if name not in ("text", "records")}
    jsonschema.validate(least, published)
    assert Feedback.model_validate(least).records == []


@pytest.mark.parametrize(
    "changes",
    [
        {"label": "wrong"},
        {"text": "x" * 2_001},
        {"author": "x" * 201},
        {"time": datetime(2026, 1, 1)},
        {"records": [{"offset": 2**63, "timestamp": 0, "value": ""}]},
    ],
)
def test_what_cannot_count_is_no_feedback(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Feedback.model_validate(word(alert()).model_dump() | changes)


def test_the_last_word_on_an_incident_counts_and_a_note_stands_beside_it(chosen: DetectorSettings) -> None:
    first, other = word(alert()), word(alert(incident="0a" * 16))
    note, last = word(alert(), "note"), word(alert(), "confirmed")
    assert [*said(saying(first, other, note, last), chosen).values()] == [other, note, last]


def test_a_word_that_is_deleted_from_the_topic_is_gone(chosen: DetectorSettings) -> None:
    assert said(saying(word(alert()), None), chosen) == {}


def test_without_the_topic_nobody_has_said_anything(chosen: DetectorSettings) -> None:
    assert said(broker_with([]), chosen) == {}


def test_of_many_words_the_newest_are_kept(chosen: DetectorSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("detector.feedback.MOST_KEPT", 2)
    those = [word(alert(incident=f"{number:032x}")) for number in (1, 2, 3)]
    assert [*said(saying(*those, those[0]), chosen).values()] == [those[2], those[0]]


def test_what_is_no_feedback_is_told_and_passed_over(chosen: DetectorSettings) -> None:
    foreign = word(alert(detector="other", incident="0a" * 16))
    deep = b'{"label":' + b"[" * 100_000
    with structlog.testing.capture_logs() as logs:
        found = said(saying(b"{", b"\xff", b"[]", deep, foreign, word(alert())), chosen)
    assert [*found.values()] == [word(alert())]
    assert [line["source"] for line in logs] == [f"{FEEDBACK}[0]@{offset}" for offset in range(4)]


def test_an_alert_is_named_by_the_beginning_of_its_id_or_of_that_of_its_incident(chosen: DetectorSettings) -> None:
    opened = alert(score=7.0)
    escalated = alert(id="ab" * 16, kind="escalated", score=9.0, time=opened.time + timedelta(minutes=1))
    resolved = alert(id="cd" * 16, kind="resolved", score=9.5, reasons=[], time=opened.time + timedelta(minutes=9))
    broker = told(opened, escalated, resolved, alert(id="ee" * 16, incident="ee" * 16))
    for begin in ("9c9c9c", "0f" * 16, "cdcdcd"):
        assert named(broker, chosen, begin) == (escalated, resolved.time)


def test_a_name_that_is_not_there_or_not_of_one_alone_is_refused(chosen: DetectorSettings) -> None:
    broker = told(alert(), alert(incident="9c9c9c" + "0" * 26), alert(detector="other", incident="77" * 16))
    broker.append(ALERTS, b'no alert "777777')
    with pytest.raises(SettingsError, match=r"'9c9c9c' may mean 2 incidents: 9c9c9c0000.*Expected more digits"):
        named(broker, chosen, "9c9c9c")
    with pytest.raises(SettingsError, match="'777777' is in topic 'machine-alerts' neither"):
        named(broker, chosen, "777777")
    assert not is_named(alert(), "c9c9c9")
    assert the_one("9c9c9c", ["9c" * 16], ALERTS) == "9c" * 16


def about(offset: int, **changes: Any) -> Alert:
    """An alert of the record at this offset of the small stream."""
    time = datetime.fromtimestamp(START_MS / 1000, UTC) + timedelta(minutes=offset // 3)
    source = Source(topic=TOPIC, partition=0, offset=offset)
    return alert(**{"entity": f"m{offset % 3}", "time": time, "source": source, **changes})


def test_as_many_records_are_kept_as_any_model_looks_at_by_nature() -> None:
    assert max(model.window for model in KINDS.values()) == MOST_BEFORE


def test_the_records_that_led_up_to_an_alert_are_read_back_in_order(chosen: DetectorSettings) -> None:
    values = records(300)
    broker = broker_with([*values[:299], b"broken"])
    kept = led_up(broker, chosen, about(241))
    assert [(it.offset, it.value) for it in kept] == [(offset, values[offset]) for offset in (235, 238, 241)]
    assert [it.offset for it in led_up(broker, chosen, about(4))] == [1, 4]
    whole = settings(Path(), stream={"topics": [TOPIC], "timestamp": "ts"})
    assert [it.offset for it in led_up(broker, whole, about(241, entity=""))] == [240, 241]


def test_what_retention_left_of_them_is_kept_and_without_the_source_nothing(chosen: DetectorSettings) -> None:
    broker = broker_with(records(300))
    broker.delete_records(Partition(TOPIC, 0), 236)
    assert [it.offset for it in led_up(broker, chosen, about(241))] == [238, 241]
    assert led_up(broker, chosen, about(234)) == []
    broker.delete_topic(TOPIC)
    assert led_up(broker, chosen, about(241)) == []


def test_another_record_of_the_same_time_is_not_taken_for_the_source(chosen: DetectorSettings) -> None:
    whole = chosen.model_copy(update={"stream": chosen.stream.model_copy(update={"entity": None})})
    broker = broker_with([*records(300)[:242], b"broken"])
    assert led_up(broker, whole, about(242, entity="")) == []


def test_nothing_is_read_back_of_a_topic_made_anew_or_for_an_outbreak(chosen: DetectorSettings) -> None:
    broker = broker_with(records(300))
    assert led_up(broker, chosen, about(241, time=about(240).time + timedelta(hours=1))) == []
    assert led_up(broker, chosen, about(241, entity="", members=3)) == []


def test_records_too_large_to_keep_are_left_out_from_the_oldest_on(
    chosen: DetectorSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = records(300)
    broker = broker_with(values)
    monkeypatch.setattr("detector.feedback.MOST_BYTES", len(values[238]) + len(values[241]))
    assert [it.offset for it in led_up(broker, chosen, about(241))] == [238, 241]
    monkeypatch.setattr("detector.feedback.MOST_BYTES", 10)
    assert led_up(broker, chosen, about(241)) == []


def test_only_records_close_to_the_source_are_looked_at(
    chosen: DetectorSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("detector.feedback.REACH", 4)
    assert [it.offset for it in led_up(broker_with(records(300)), chosen, about(241))] == [238, 241]


@pytest.mark.parametrize("label", ["confirmed", "false_alarm", "known"])
def test_what_was_judged_is_there_for_a_training_with_records_to_decode(chosen: DetectorSettings, label: Label) -> None:
    broker = broker_with(records(300))
    kept = led_up(broker, chosen, about(241))
    end = about(270).time
    judged = word(about(241), label).model_copy(update={"records": kept, "until": end})
    others = [word(alert(incident="0a" * 16), "note"), word(alert(incident="0b" * 16), "retracted")]
    (found,) = labelled(saying(judged, *others), chosen)
    assert (found.label, found.incident, found.entity) == (label, "9c" * 16, "m1")
    assert (found.begin_ms, found.end_ms) == (judged.alert.opened.timestamp() * 1000, end.timestamp() * 1000)
    columns, _ = JsonDecoder(fields((), "machine", "ts")).decode(found.records)
    assert columns.offsets.tolist() == [235, 238, 241]
    assert columns.entity.tolist() == ["m1"] * 3
    assert found.records.timestamps.tolist() == [it.timestamp for it in kept]


def test_what_was_judged_without_records_has_none(chosen: DetectorSettings) -> None:
    (found,) = labelled(saying(word(alert())), chosen)
    assert len(found.records) == 0
