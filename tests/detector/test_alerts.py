from __future__ import annotations

import json
import math
from datetime import UTC, datetime
from pathlib import Path
from typing import get_args

import jsonschema
import numpy as np
import pytest

from detector.alerts import SEVERITIES, Alert, AlertKind, Reason, Source, event_time, identifier, schema, severity_rank

SOURCE = Source(topic="machines", partition=2, offset=77)
TIME = datetime(2026, 3, 1, 10, tzinfo=UTC)


def alert(**changes: object) -> Alert:
    values: dict[str, object] = {
        "id": "0f" * 16,
        "incident": "9c" * 16,
        "kind": "opened",
        "detector": "machines",
        "entity": "machine-1-6",
        "segment": "machine-1-6",
        "time": TIME,
        "opened": TIME,
        "severity": "critical",
        "p_value": 2.1e-7,
        "static_p_value": 3.4e-6,
        "level": 1e-4,
        "score": -math.log(2.1e-7),
        "threshold": -math.log(1e-4),
        "records": 1,
        "model": "vae",
        "version": "20260301T030000Z-4be1",
        "reasons": [Reason(feature="cpu", observed=0.98, expected=0.21, share=0.63)],
        "makes_normal": True,
        "source": SOURCE,
    }
    return Alert.model_validate({**values, **changes})


def test_the_message_carries_cloud_events_headers_and_the_entity_as_key() -> None:
    message = alert().message("machine-alerts")
    assert (message.topic, message.key) == ("machine-alerts", b"machine-1-6")
    headers = dict(message.headers)
    assert headers["ce_specversion"] == b"1.0"
    assert headers["ce_id"] == b"0f" * 16
    assert headers["ce_type"] == b"offnominal.alert.opened"
    assert headers["ce_time"] == b"2026-03-01T10:00:00Z"


def test_the_value_reads_back_as_the_same_alert() -> None:
    value = alert().message("machine-alerts").value
    assert value is not None
    assert Alert.model_validate_json(value) == alert()


def test_the_published_schema_is_current_and_accepts_an_alert() -> None:
    published = json.loads(Path("docs/alert.schema.json").read_text())
    assert published == schema()
    jsonschema.validate(json.loads(alert().model_dump_json()), published)


@pytest.mark.parametrize("kind", get_args(AlertKind))
def test_every_kind_is_in_the_schema_and_in_the_type_of_its_event(kind: str) -> None:
    told = alert(kind=kind)
    jsonschema.validate(json.loads(told.model_dump_json()), schema())
    assert dict(told.message("machine-alerts").headers)["ce_type"] == f"offnominal.alert.{kind}".encode()


def test_an_observation_that_is_no_number_is_null_in_the_message() -> None:
    value = alert(reasons=[Reason(feature="cpu", observed=math.nan, expected=0.2, share=1.0)]).message("a").value
    assert json.loads(value or b"")["reasons"][0]["observed"] is None


def test_the_schema_refuses_an_alert_without_its_source() -> None:
    broken = json.loads(alert().model_dump_json())
    del broken["source"]
    with pytest.raises(jsonschema.ValidationError, match="source"):
        jsonschema.validate(broken, schema())


def test_the_same_record_gives_the_same_id_and_any_other_another() -> None:
    same = {identifier("d", SOURCE, TIME, "opened", "m") for _ in range(2)}
    others = {
        identifier("e", SOURCE, TIME, "opened", "m"),
        identifier("d", SOURCE.model_copy(update={"offset": 78}), TIME, "opened", "m"),
        identifier("d", SOURCE.model_copy(update={"partition": 1}), TIME, "opened", "m"),
        identifier("d", SOURCE.model_copy(update={"topic": "x"}), TIME, "opened", "m"),
        identifier("d", SOURCE, event_time(0), "opened", "m"),
        identifier("d", SOURCE, TIME, "resolved", "m"),
        identifier("d", SOURCE, TIME, "opened", "n"),
    }
    assert len(same) == 1
    assert len(same | others) == 8


@pytest.mark.parametrize(
    ("p_value", "expected"),
    [(0.01, "minor"), (0.002, "minor"), (0.001, "major"), (0.0001, "critical"), (1e-30, "critical")],
)
def test_severity_counts_tenths_and_hundredths_of_the_level(p_value: float, expected: str) -> None:
    (rank,) = severity_rank(np.array([-math.log(p_value)]), np.array([-math.log(0.01)]))
    assert SEVERITIES[rank] == expected
