"""The incidents of a detector as its topics tell them: every replica's, those from before this process, and what people
said of them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from consumers.batch import RawBatch
from consumers.stream import Broker, Window
from detector.alerts import ENDING, SEVERITIES, Alert, AlertKind, Reason, Severity
from detector.config import DetectorSettings
from detector.feedback import Feedback, Label, Said
from detector.following import Following

MOST_ALERTS = 20_000
"""The newest alerts of the topic that are read at the start."""
MOST_INCIDENTS = 5_000
"""That are kept, those with the latest alerts: some 20 MB."""
MOST_TOLD = 50
"""Alerts of one incident that are kept: the first, and the last ones."""
MOMENTARY: frozenset[AlertKind] = frozenset({"unseen_category", "creep", *ENDING})
"""Kinds that begin nothing: where one of them is the first of its incident, that is over at once."""

DRIFTING: frozenset[AlertKind] = frozenset({"drift", "creep"})


class Summary(BaseModel):
    """An incident as far as it was told. What is told but once, as an unseen category, begins and ends at once."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True, ser_json_inf_nan="null")

    incident: str
    entity: str
    """Empty where it is about many, or the stream has none."""
    kind: AlertKind
    """Of its first alert."""
    severity: Severity
    """The highest."""
    opened: datetime
    latest: datetime
    """Of its last alert."""
    resolved: datetime | None
    """None where it goes on."""
    p_value: float | None
    """Of its most unlikely record told of."""
    records: int
    reasons: list[Reason]
    """Of the most unlikely alert that gives reasons, as are model and version; the weightiest first."""
    model: str | None
    version: str
    members: int | None


class KnownIncident(Summary):
    """With its alerts `told` as they were published, in that order, and whether one of them told of another normal."""

    drifted: bool
    told: tuple[bytes, ...]

    @classmethod
    def begun(cls, alert: Alert, value: bytes) -> Self:
        """By its first alert, `value` as it was published."""
        return cls.model_construct(
            **{name: getattr(alert, name) for name in Summary.model_fields.keys() & Alert.model_fields.keys()},
            latest=alert.time,
            resolved=alert.time if alert.kind in MOMENTARY else None,
            drifted=alert.kind in DRIFTING,
            told=(value,),
        )

    def gone_on(self, alert: Alert, value: bytes) -> KnownIncident:
        """With one more alert."""
        changes: dict[str, Any] = {
            "severity": max(self.severity, alert.severity, key=SEVERITIES.index),
            "opened": min(self.opened, alert.opened),
            "latest": max(self.latest, alert.time),
            "resolved": alert.time if alert.kind in ENDING else self.resolved,
            "p_value": min((self.p_value, alert.p_value), key=_or_one),
            "records": max(self.records, alert.records),
            "members": alert.members or self.members,
            "drifted": self.drifted or alert.kind in DRIFTING,
            "told": (*self.told, value) if len(self.told) < MOST_TOLD else (self.told[0], *self.told[2:], value),
        }
        if alert.reasons and (not self.reasons or _or_one(alert.p_value) <= _or_one(self.p_value)):
            changes |= {"reasons": alert.reasons, "model": alert.model, "version": alert.version}
        return self.model_copy(update=changes)

    @property
    def alerts(self) -> list[Alert]:
        """As many as are kept."""
        return [Alert.model_validate_json(value) for value in self.told]


def _or_one(p_value: float | None) -> float:
    return 1.0 if p_value is None else p_value


class Book:
    """Follows the alert and the feedback topic while the context lasts. All that it gives may be kept by the caller.

    `changed` counts what has been taken in: where it is as before, so are the incidents.
    """

    def __init__(self, broker: Broker, settings: DetectorSettings) -> None:
        self.changed = 0
        self._detector = settings.name
        self._incidents: dict[str, KnownIncident] = {}
        self._words: Mapping[str, Feedback] = {}
        self._lock = threading.Lock()
        self._following = (
            Following(broker, settings.alerts.topic, Window(records=MOST_ALERTS), _Alerts(settings.name, self._heard)),
            Following(broker, settings.feedback_topic, Window(), _Words(settings.name, self._said)),
        )

    def __enter__(self) -> Self:
        for following in self._following:
            following.start()
        return self

    def __exit__(self, *_: object) -> None:
        for following in self._following:
            following.stop()

    def incidents(self) -> list[KnownIncident]:
        """All that are known, that with the latest alert last."""
        with self._lock:
            return [*self._incidents.values()]

    def incident(self, name: str) -> KnownIncident | None:
        with self._lock:
            return self._incidents.get(name)

    def opinions(self, incident: str) -> list[Feedback]:
        """The last word on an incident, and the note beside it, where there are any."""
        with self._lock:
            words = [self._words.get(key) for key in (incident, f"{incident}/note")]
        return [word for word in words if word is not None]

    def label(self, incident: str) -> Label | None:
        """What was last said of an incident, if that still stands."""
        with self._lock:
            word = self._words.get(incident)
        return None if word is None or word.label == "retracted" else word.label

    def open_incidents(self) -> int:
        return sum(incident.resolved is None for incident in self.incidents())

    def _heard(self, incidents: dict[str, KnownIncident]) -> None:
        with self._lock:
            self._incidents = incidents
            self.changed += 1

    def _said(self, words: Mapping[str, Feedback]) -> None:
        with self._lock:
            self._words = words
            self.changed += 1


class _Alerts:
    """Hears the alert topic. Who may write to it may write anything: what is no alert is passed over."""

    def __init__(self, detector: str, heard: Callable[[dict[str, KnownIncident]], None]) -> None:
        self._detector = detector
        self._heard = heard
        self._incidents: dict[str, KnownIncident] = {}
        self._changed = False

    def begin(self) -> None:
        self._incidents, self._changed = {}, True

    def hear(self, batch: RawBatch) -> None:
        for value in batch.values:
            if value is not None and (alert := _alert(value)) is not None and alert.detector == self._detector:
                self._take_in(alert, value)
        while len(self._incidents) > MOST_INCIDENTS:
            del self._incidents[next(iter(self._incidents))]

    def caught_up(self) -> None:
        if self._changed:
            self._heard(dict(self._incidents))
        self._changed = False

    def _take_in(self, alert: Alert, value: bytes) -> None:
        before = self._incidents.pop(alert.incident, None)
        told = KnownIncident.begun(alert, value) if before is None else before.gone_on(alert, value)
        self._incidents[alert.incident] = told
        self._changed = True


class _Words:
    """Hears the feedback topic."""

    def __init__(self, detector: str, heard: Callable[[Mapping[str, Feedback]], None]) -> None:
        self._detector = detector
        self._heard = heard
        self._before: Mapping[str, Feedback] | None = None

    def begin(self) -> None:
        self._said = Said(self._detector, with_records=False)

    def hear(self, batch: RawBatch) -> None:
        self._said.take_in(batch)

    def caught_up(self) -> None:
        if self._said.words != self._before:
            self._before = dict(self._said.words)
            self._heard(self._before)


def _alert(value: bytes) -> Alert | None:
    try:
        return Alert.model_validate_json(value)
    except ValidationError:
        return None
