from __future__ import annotations

from datetime import timedelta

import numpy as np
import pytest

from consumers.batch import Columns, Partition
from detector.alerts import Alert, AlertKind, Source, event_time
from detector.proving.cleaning import clean, incident_spans

MINUTE = 60_000
N = 1_000


def alert(kind: AlertKind, incident: str, minute: int, *, entity: str = "m0", opened: int = 100) -> Alert:
    return Alert(
        id=f"{incident}-{kind}",
        incident=incident,
        kind=kind,
        detector="machines",
        entity=entity,
        segment=entity,
        time=event_time(minute * MINUTE),
        opened=event_time(opened * MINUTE),
        severity="minor",
        p_value=None,
        static_p_value=None,
        level=None,
        score=None,
        threshold=None,
        records=1,
        model=None,
        version="20260301T030000Z-0000",
        reasons=[],
        makes_normal=None,
        source=Source(topic="machines", partition=0, offset=minute),
    )


def columns() -> Columns:
    """Two machines in turns, a record of each a minute."""
    return Columns(
        row=np.arange(N),
        partitions=(Partition("machines", 0),),
        partition=np.zeros(N, np.int32),
        offsets=np.arange(N),
        time=MINUTE * (np.arange(N) // 2),
        entity=np.array([f"m{row % 2}" for row in range(N)], object),
        numbers={},
        texts={},
    )


def test_records_inside_an_incident_stay_out_and_those_of_other_entities_do_not() -> None:
    spans = incident_spans([alert("opened", "a", 100), alert("resolved", "a", 119)])
    cleaned = clean(columns(), spans, None)
    assert cleaned.left_out == {"inside incidents": 20}
    kept = cleaned.columns.time[cleaned.columns.entity == "m0"] // MINUTE
    assert not ((kept >= 100) & (kept <= 119)).any()
    assert (cleaned.columns.entity == "m1").sum() == N // 2


def test_an_incident_without_an_end_reaches_to_the_end() -> None:
    assert clean(columns(), incident_spans([alert("opened", "a", 100)]), None).left_out == {"inside incidents": 400}


def test_what_ended_as_drift_is_the_new_normal_and_stays_in() -> None:
    assert incident_spans([alert("opened", "a", 100), alert("drift", "a", 300)]) == {}


def test_what_somebody_called_abnormal_stays_out_even_where_it_ended_as_drift() -> None:
    told = [alert("opened", "a", 100), alert("drift", "a", 300)]
    assert [*incident_spans(told, abnormal={"a"})] == ["m0"]


def test_what_somebody_called_a_false_alarm_stays_in() -> None:
    assert incident_spans([alert("opened", "a", 100), alert("resolved", "a", 119)], normal={"a"}) == {}


def test_an_outbreak_keeps_out_the_records_of_its_members() -> None:
    outbreak = alert("opened", "a", 100, entity="").model_copy(update={"entities": ["m0", "m1"], "members": 2})
    spans = incident_spans([outbreak, alert("resolved", "a", 109, entity="")])
    assert clean(columns(), spans, None).left_out == {"inside incidents": 20}  # ten minutes of both


def test_scattered_suspects_are_counted_and_only_the_far_ones_trimmed() -> None:
    nats = np.zeros(N)
    nats[::50] = 8.0  # less likely than 1 in 1,000
    nats[::250] = 20.0  # than 1 in 1,000,000
    cleaned = clean(columns(), {}, nats)
    assert cleaned.left_out == {"far too unlikely": 4}
    assert cleaned.contamination == pytest.approx(0.02)
    assert cleaned.changed == 0.0


def test_suspects_to_the_end_of_an_entity_are_a_change_and_no_contamination() -> None:
    nats = np.where((columns().entity == "m1") & (np.arange(N) > N // 2), 30.0, 0.0)
    cleaned = clean(columns(), {}, nats)
    assert (cleaned.contamination, cleaned.left_out) == (0.0, {})
    assert cleaned.changed == pytest.approx(0.25, abs=0.01)


def test_a_change_that_has_passed_is_contamination() -> None:
    nats = np.where((columns().entity == "m1") & (np.arange(N) < N // 2), 30.0, 0.0)
    assert clean(columns(), {}, nats).contamination == pytest.approx(0.25)


def test_spans_are_those_of_event_time() -> None:
    late = alert("opened", "a", 100)
    resolved = alert("resolved", "a", 100).model_copy(update={"time": late.time + timedelta(minutes=4)})
    assert clean(columns(), incident_spans([late, resolved]), None).left_out == {"inside incidents": 5}
