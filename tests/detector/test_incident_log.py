from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from detector import incident_log
from detector.alerts import Alert, Reason, Source
from detector.incident_log import IncidentLog

START = datetime(2026, 1, 1, tzinfo=UTC)


def alert(kind: str, incident: str, minute: int, **changes: Any) -> Alert:
    values: dict[str, Any] = {
        "id": f"{incident}-{kind}-{minute}",
        "incident": incident,
        "kind": kind,
        "detector": "d",
        "entity": "m0",
        "segment": "m0",
        "time": START + timedelta(minutes=minute),
        "opened": START,
        "severity": "minor",
        "p_value": 1e-4,
        "static_p_value": 1e-4,
        "level": 1e-3,
        "score": 9.0,
        "threshold": 7.0,
        "records": 1,
        "model": "gmm",
        "version": "v",
        "reasons": [Reason(feature="cpu", observed=1.0, expected=0.0, share=1.0)],
        "makes_normal": True,
        "source": Source(topic="t", partition=0, offset=minute),
    }
    return Alert.model_validate({**values, **changes})


def heard(*alerts: Alert) -> IncidentLog:
    log = IncidentLog()
    for each in alerts:
        log.hear(each)
    log.close(START + timedelta(hours=1))
    return log


def test_an_incident_has_its_highest_severity_lowest_p_value_and_last_reasons() -> None:
    told = [Reason(feature="load", observed=1.0, expected=0.0, share=1.0)]
    (incident,) = heard(
        alert("opened", "a", 0, p_value=1e-5),
        alert("escalated", "a", 2, severity="major", p_value=1e-4, reasons=told),
        alert("resolved", "a", 9, severity="critical", p_value=1e-7, reasons=[]),
    ).incidents
    assert (incident.severity, incident.p_value, incident.reasons) == ("critical", 1e-7, told)
    assert incident.lasted == "0:09:00"


def test_a_new_regime_ends_an_incident() -> None:
    (incident,) = heard(alert("opened", "a", 0), alert("drift", "a", 7)).incidents
    assert incident.resolved == START + timedelta(minutes=7)


def test_a_drift_without_an_incident_is_only_counted() -> None:
    log = heard(alert("drift", "a", 7), alert("creep", "b", 8))
    assert not log.incidents
    assert log.by_kind == {"drift": 1, "creep": 1}


def test_what_is_open_at_the_end_counts_and_has_lasted_until_then() -> None:
    log = heard(alert("opened", "a", 0), alert("opened", "b", 1), alert("resolved", "b", 6))
    assert log.longest is not None
    assert (log.longest.incident, log.longest.lasted) == ("a", "1:00:00+")
    assert log.by_severity == {"minor": 2}


def test_the_most_unlikely_incidents_are_kept_and_all_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(incident_log, "MOST_INCIDENTS", 3)
    likely = [(f"i{number}", 10.0**-number) for number in (2, 9, 4, 7, 3)]
    pairs = [(alert("opened", name, 0, p_value=p), alert("resolved", name, 5, p_value=p)) for name, p in likely]
    log = heard(*(each for pair in pairs for each in pair))
    assert {incident.incident for incident in log.incidents} == {"i9", "i7", "i4"}
    assert log.by_kind["opened"] == log.by_entity["m0"] == 5


def test_of_too_many_names_the_rarest_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(incident_log, "MOST_NAMES", 4)
    alerts = [
        alert("opened", f"{name}{n}", n, entity=name)
        for name, times in zip("abcde", (5, 4, 1, 1, 1), strict=True)
        for n in range(times)
    ]
    assert heard(*alerts).by_entity == {"a": 5, "b": 4}


def test_two_logs_together_tell_what_one_would_have_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(incident_log, "MOST_INCIDENTS", 2)
    parts = [
        [alert("opened", "a", 0, p_value=1e-5), alert("resolved", "a", 9, p_value=1e-5), alert("opened", "b", 3)],
        [alert("opened", "c", 0, entity="m1", p_value=1e-7), alert("resolved", "c", 9, p_value=1e-7)],
        [alert("opened", "d", 1, entity="m1", p_value=1e-6), alert("resolved", "d", 2, p_value=1e-6)],
    ]
    whole, both = heard(*(it for part in parts for it in part)), IncidentLog()
    for part in parts:
        log = IncidentLog()
        for each in part:
            log.hear(each)
        both.add(log)
    both.close(START + timedelta(hours=1))
    assert [it.incident for it in both.incidents] == ["c", "d"]
    assert both.incidents == whole.incidents
    assert (both.by_kind, both.by_severity, both.by_entity) == (whole.by_kind, whole.by_severity, whole.by_entity)
    assert both.longest == whole.longest
