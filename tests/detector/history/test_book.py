from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from consumers.memory import MemoryBroker
from detector.alerts import Alert, Reason
from detector.history.book import MOST_TOLD, Book, KnownIncident
from tests.detector.machines import ALERTS, broker_with, settings
from tests.detector.opinions import word
from tests.detector.test_alerts import TIME, alert
from tests.detector.trainings_at_work import until

FEEDBACK = "offnominal-machines-feedback"
INCIDENT = alert().incident


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("detector.following.LOOK_AGAIN_S", 0.001)


def tell(broker: MemoryBroker, *alerts: Alert) -> None:
    for it in alerts:
        broker.append(ALERTS, it.message(ALERTS).value)


def later(minutes: int, **changes: object) -> Alert:
    return alert(time=TIME + timedelta(minutes=minutes), id=f"{minutes:032x}", **changes)


@contextmanager
def reading(broker: MemoryBroker, folder: Path) -> Iterator[Book]:
    with Book(broker, settings(folder)) as book:
        yield book


def one(broker: MemoryBroker, folder: Path, *alerts: Alert) -> KnownIncident:
    """The incident that these alerts come to."""
    tell(broker, *alerts)
    with reading(broker, folder) as book:
        until(lambda: (it := book.incident(INCIDENT)) is not None and len(it.told) == len(alerts))
        found = book.incident(INCIDENT)
    assert found is not None
    return found


def test_an_incident_is_what_its_alerts_come_to(tmp_path: Path) -> None:
    likelier = [Reason(feature="disk", observed=1.0, expected=0.0, share=1.0)]
    found = one(
        broker_with([]),
        tmp_path,
        alert(severity="minor", p_value=1e-3, reasons=likelier),
        later(1, kind="escalated", severity="critical", p_value=1e-6, records=7),
        later(9, kind="resolved", severity="critical", p_value=1e-6, reasons=[], records=9),
    )
    assert (found.kind, found.severity, found.records, found.p_value) == ("opened", "critical", 9, 1e-6)
    assert (found.opened, found.latest, found.resolved) == (TIME, *[TIME + timedelta(minutes=9)] * 2)
    assert [it.feature for it in found.reasons] == ["cpu"]
    assert [it.kind for it in found.alerts] == ["opened", "escalated", "resolved"]


def test_an_incident_goes_on_until_it_is_told_to_be_over(tmp_path: Path) -> None:
    assert one(broker_with([]), tmp_path, alert()).resolved is None
    assert one(broker_with([]), tmp_path, alert(), later(5, kind="drift")).resolved is not None


@pytest.mark.parametrize("kind", ["unseen_category", "creep", "resolved"])
def test_what_is_told_but_once_is_over_at_once(tmp_path: Path, kind: str) -> None:
    assert one(broker_with([]), tmp_path, alert(kind=kind)).resolved == TIME


@pytest.mark.parametrize("kind", ["silence", "field_missing", "field_type"])
def test_what_is_told_to_be_over_later_goes_on(tmp_path: Path, kind: str) -> None:
    assert one(broker_with([]), tmp_path, alert(kind=kind, p_value=None)).resolved is None


def test_drift_is_remembered_of_an_incident(tmp_path: Path) -> None:
    assert one(broker_with([]), tmp_path, alert(), later(5, kind="drift")).drifted
    assert not one(broker_with([]), tmp_path, alert(), later(5, kind="resolved")).drifted


def test_of_an_incident_without_end_the_first_and_the_last_alerts_are_kept(tmp_path: Path) -> None:
    broker = broker_with([])
    tell(broker, alert(), *(later(minute, kind="reminded") for minute in range(1, 80)))
    with reading(broker, tmp_path) as book:
        until(lambda: (it := book.incident(INCIDENT)) is not None and it.latest == TIME + timedelta(minutes=79))
        found = book.incident(INCIDENT)
    assert found is not None
    assert [it.kind for it in found.alerts] == ["opened", *["reminded"] * (MOST_TOLD - 1)]
    assert found.alerts[-1].time == found.latest


def test_other_detectors_and_what_is_no_alert_are_passed_over(tmp_path: Path) -> None:
    broker = broker_with([])
    for value in (b"{", b"[]", None, alert(detector="other", incident="0a" * 16).message(ALERTS).value):
        broker.append(ALERTS, value)
    tell(broker, alert())
    with reading(broker, tmp_path) as book:
        until(lambda: len(book.incidents()) > 0)
        assert [it.incident for it in book.incidents()] == [INCIDENT]


def test_no_more_incidents_are_kept_than_there_is_room_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("detector.history.book.MOST_INCIDENTS", 3)
    broker = broker_with([])
    tell(broker, *(alert(incident=f"{number:032x}") for number in range(5)), alert(incident=f"{1:032x}"))
    with reading(broker, tmp_path) as book:
        until(lambda: len(book.incidents()) == 3)
        assert [int(it.incident, 16) for it in book.incidents()] == [3, 4, 1]


def test_alerts_that_come_later_change_what_is_known(tmp_path: Path) -> None:
    broker = broker_with([])
    with reading(broker, tmp_path) as book:
        until(lambda: book.changed > 0)
        before = book.changed
        tell(broker, alert())
        until(lambda: book.open_incidents() == 1)
        assert book.changed > before
        tell(broker, later(3, kind="resolved"))
        until(lambda: book.open_incidents() == 0)


def test_the_last_word_is_the_label_until_it_is_taken_back(tmp_path: Path) -> None:
    broker = broker_with([])
    tell(broker, alert())
    broker.create_topics({FEEDBACK: 1}, compacted=True)

    def say(label: str) -> None:
        said = word(alert()).model_copy(update={"label": label})
        broker.append(FEEDBACK, said.message(FEEDBACK).value, said.key.encode())

    with reading(broker, tmp_path) as book:
        say("known")
        until(lambda: book.label(INCIDENT) == "known")
        say("note")
        until(lambda: len(book.opinions(INCIDENT)) == 2)
        assert book.label(INCIDENT) == "known"
        say("retracted")
        until(lambda: book.label(INCIDENT) is None)
        assert [it.label for it in book.opinions(INCIDENT)] == ["retracted", "note"]
