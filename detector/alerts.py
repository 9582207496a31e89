"""The published message. Its JSON Schema is `docs/alert.schema.json`."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from consumers.batch import Message

Severity = Literal["minor", "major", "critical"]
AlertKind = Literal[
    "opened",
    "escalated",
    "reminded",
    "amended",
    "resolved",
    "drift",
    "creep",
    "silence",
    "unseen_category",
    "field_missing",
    "field_type",
]

ENDING: tuple[AlertKind, ...] = ("resolved", "drift")
"""Kinds after which an incident is no longer open."""
SEVERITIES: tuple[Severity, ...] = ("minor", "major", "critical")
LONGEST_TEXT = 200
"""Characters of a record's text that an alert repeats: an alert must fit into a message whatever the record holds."""
_STEPS = np.log([10.0, 100.0]) - 1e-9
"""Nats beyond the level at which the next severity begins."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True, ser_json_inf_nan="null")


class Reason(_Part):
    """One feature's part in an alert."""

    feature: str
    """Path of the field in the record."""
    observed: float | str | bool | None
    """What was scored of the record, in the field's own units: for a counter its rate, with `diff` the change; null
    where it was missing.
    """
    expected: float | str | bool | None
    """What would have been normal, given the rest of the record."""
    share: float = Field(ge=0, le=1)
    """Part of the surprise that is due to this feature. The shares of all features sum to 1; the largest are listed."""


class Source(_Part):
    """The record that an alert is about."""

    topic: str
    partition: int
    offset: int


class Shared(_Part):
    """What members of an outbreak have in common."""

    field: str
    """Path of the field; empty for the beginning of the name."""
    value: str
    share: float
    elsewhere: float


class Alert(_Part):
    """Something was noticed, or is over."""

    id: str
    """Derived from detector, source record, entity and kind: the same record always gives the same id."""
    incident: str
    """Joins the alerts of one incident."""
    kind: AlertKind
    """opened: an incident begins. escalated: its severity rises. reminded: it still goes on. resolved: it is over.

    drift: what was unlikely has lasted so long that it is the new normal; ends the incident. creep: the scores have
    moved away slowly, without incident. amended: a late record has changed what an earlier alert of the incident said.

    silence: the entity has not reported for longer than it does. unseen_category: a value that training never saw.
    field_missing, field_type: a field is gone, or comes with another JSON type.
    """
    detector: str
    """Name of the detector."""
    entity: str
    """What the record is about; empty where the stream has no entities."""
    segment: str
    """Whose level it was: the entity, a value of the field that `calibration.by` names, or empty for everybody's."""
    time: AwareDatetime
    """Event time of the source record."""
    opened: AwareDatetime
    """Event time of the record that opened the incident."""
    severity: Severity
    """minor: beyond the level; major: ten times less likely than the level; critical: a hundred times.

    Resolved alerts carry the highest.
    """
    p_value: float | None
    """Share of normal records at least as unlikely as the source record, as the stream is now; of the most unlikely one
    in resolved alerts. This and what follows on likelihood is null in kinds that have none.
    """
    static_p_value: float | None
    """The same as the stream was when the version was trained, of the source record."""
    level: float | None
    """The p-value below which records of this segment are alarms now."""
    score: float | None
    """−ln(p_value), in nats."""
    threshold: float | None
    """−ln(level), in nats."""
    records: int
    """Records beyond the level in this incident so far."""
    model: str | None
    """The model that was most surprised."""
    version: str
    """Version of the detector that scored the source record."""
    reasons: list[Reason]
    """Why, largest share first; empty in resolved alerts."""
    makes_normal: bool | None
    """Whether setting the features of `reasons` to what was expected would bring the record below the level."""
    members: int | None = None
    """Entities concerned, where they are many; the entity is empty then."""
    entities: list[str] = []
    """The first of them, where the alert is about an outbreak."""
    common: list[Shared] = []
    """What they have in common and others have not, the most telling first."""
    source: Source
    """The record that caused this alert; of a silence the last one before it."""

    def message(self, topic: str) -> Message:
        """This alert as a record: JSON value, entity as key, CloudEvents 1.0 attributes as headers (Kafka binding,
        binary mode).
        """
        attributes = {
            "ce_specversion": "1.0",
            "ce_id": self.id,
            "ce_type": f"offnominal.alert.{self.kind}",
            "ce_source": f"/offnominal/{self.detector}",
            "ce_subject": self.entity,
            "ce_time": self.time.isoformat().replace("+00:00", "Z"),
            "content-type": "application/json",
        }
        headers = tuple((name, value.encode()) for name, value in attributes.items() if value)
        return Message(topic, self.entity.encode() or None, self.model_dump_json().encode(), headers)


def severity_rank(nats: NDArray[np.float64], level: NDArray[np.float64]) -> NDArray[np.int64]:
    """Index into `SEVERITIES` of records (n,), by how far they are beyond the level; both in nats."""
    return np.digitize(nats - level, _STEPS)


def identifier(detector: str, source: Source, time: datetime, kind: str, entity: str) -> str:
    """32 hexadecimal digits that name one thing said about one record.

    Event time keeps a recreated topic's offsets apart.
    """
    parts = (
        detector,
        source.topic,
        str(source.partition),
        str(source.offset),
        str(round(time.timestamp() * 1000)),
        kind,
        entity,
    )
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]


def event_time(milliseconds: int) -> datetime:
    """Epoch milliseconds as a date in UTC."""
    return datetime.fromtimestamp(milliseconds / 1000, UTC)


def schema() -> dict[str, Any]:
    """JSON Schema of the published message."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **Alert.model_json_schema(mode="serialization"),
    }


if __name__ == "__main__":
    print(json.dumps(schema(), indent=2))  # noqa: T201 - the result
