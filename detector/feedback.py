"""What people say of alerts: the message, its JSON Schema (`docs/feedback.schema.json`), and the last word on each.

The compacted topic of these messages is the only memory of them. A message holds all that its effects need, so it
counts long after the alert, and the records it is about, were deleted.
"""

from __future__ import annotations

import json
import re
from collections import deque
from collections.abc import Collection, Iterator
from datetime import datetime
from itertools import islice
from typing import Any, Literal, NamedTuple

import numpy as np
import structlog
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from consumers.batch import Message, Partition, RawBatch, Schema
from consumers.decoding import decoder
from consumers.errors import TopicMissing
from consumers.records import Run, to_batch
from consumers.stream import Broker, Window
from detector.alerts import Alert, event_time
from detector.config import DetectorSettings
from detector.errors import SettingsError

log = structlog.get_logger()

Label = Literal["false_alarm", "confirmed", "known", "note", "retracted"]

LONGEST_TEXT, LONGEST_NAME = 2_000, 200
"""Characters of what is said, and of who says it."""
MOST_KEPT = 10_000
"""Last words that are remembered, the newest."""
MOST_BYTES = 50_000
"""Of the records that a message keeps, all together."""
MOST_BEFORE = 16
"""Records that led up to an alert that are kept where the window is each model's own: no model looks at more."""
REACH = 10_000
"""Offsets before the source of an alert among which the records are looked for that led up to it."""
SHORTEST = 6
"""Digits that name an alert, where no other one begins with them."""


class _Part(BaseModel):
    model_config = ConfigDict(
        frozen=True, use_attribute_docstrings=True, ser_json_bytes="base64", val_json_bytes="base64"
    )


class Kept(_Part):
    """A record as its topic held it."""

    offset: int = Field(ge=0, lt=2**63)
    timestamp: int = Field(ge=-1, lt=2**63)
    """The broker's, in epoch milliseconds."""
    value: bytes


class Feedback(_Part):
    """What somebody said of an incident."""

    label: Label
    """false_alarm: nothing was wrong; its like is not told, and the level of its segment rises. known: its like is not
    told. confirmed: something was wrong; it is an example for the next training. note: a remark that changes nothing,
    and stands beside the other labels. retracted: what was said before no longer counts.
    """
    author: str = Field(max_length=LONGEST_NAME)
    """Who said it."""
    text: str = Field(default="", max_length=LONGEST_TEXT)
    """In words."""
    time: AwareDatetime
    """When it was said: it counts for records of that event time and later."""
    alert: Alert
    """What it was said of: of the alerts of the incident the most unlikely one that gives reasons."""
    until: AwareDatetime
    """Event time of the last alert of the incident that had been told by then."""
    records: list[Kept] = []
    """The last records of the entity up to the source of the alert, as many as a window holds, in offset order; fewer
    where they were gone, or too large.
    """

    @property
    def key(self) -> str:
        """Under which a later message replaces this one: the incident, with a place of its own for a note."""
        return f"{self.alert.incident}/note" if self.label == "note" else self.alert.incident

    def message(self, topic: str) -> Message:
        """This as a record: JSON value, and its key."""
        return Message(topic, self.key.encode(), self.model_dump_json().encode())


class Said:
    """The last word on each incident of a detector by key, as its topic tells, the one said last at the end."""

    def __init__(self, detector: str, *, with_records: bool) -> None:
        self.words: dict[str, Feedback] = {}
        self._detector = detector
        self._left_out: dict[str, Any] = {} if with_records else {"records": []}

    def take_in(self, batch: RawBatch) -> None:
        """Records of the topic, in offset order. Who may write to it may write anything: what is no feedback is told in
        the log and passed over."""
        for row, (key, value) in enumerate(zip(batch.keys, batch.values, strict=True)):
            if value is None:
                self.words.pop((key or b"").decode(errors="replace"), None)
                continue
            try:
                word = Feedback.model_validate_json(value)
            except ValidationError as error:
                partition, offset = batch.source(row)
                log.warning("not feedback", source=f"{partition}@{offset}", errors=error.error_count())
                continue
            if word.alert.detector == self._detector:
                self.words.pop(word.key, None)
                self.words[word.key] = word.model_copy(update=self._left_out)
        for oldest in [*islice(self.words, max(0, len(self.words) - MOST_KEPT))]:
            del self.words[oldest]


def said(broker: Broker, settings: DetectorSettings) -> dict[str, Feedback]:
    """The last word on each incident by key, with the records kept; none where the topic is not there yet."""
    found = Said(settings.name, with_records=True)
    try:
        for batch in broker.read([settings.feedback_topic], Window()):
            found.take_in(batch)
    except TopicMissing:
        return {}
    return found.words


class Labelled(NamedTuple):
    """An incident that somebody judged: from the event time of its beginning up to that of its last alert (epoch
    milliseconds), with the last records of the entity up to the source of the alert, as far as they were kept."""

    label: Label
    incident: str
    entity: str
    begin_ms: int
    end_ms: int
    records: RawBatch


def labelled(broker: Broker, settings: DetectorSettings) -> list[Labelled]:
    """The incidents called false_alarm, known or confirmed, whenever that was, in the order in which it was said."""
    return [_labelled(word) for word in said(broker, settings).values() if word.label not in ("note", "retracted")]


def _labelled(word: Feedback) -> Labelled:
    begin, end = (round(moment.timestamp() * 1000) for moment in (word.alert.opened, word.until))
    return Labelled(word.label, word.alert.incident, word.alert.entity, begin, end, _batch(word))


def _batch(word: Feedback) -> RawBatch:
    kept, n = word.records, len(word.records)
    offsets = np.array([it.offset for it in kept], np.int64)
    timestamps = np.array([it.timestamp for it in kept], np.int64)
    source = Partition(word.alert.source.topic, word.alert.source.partition)
    return to_batch({source: Run(offsets, timestamps, [None] * n, [it.value for it in kept], [()] * n)}, ends={})


def named(broker: Broker, settings: DetectorSettings, begin: str) -> tuple[Alert, datetime]:
    """What there is to judge where the id of one incident, or of one of its alerts, begins like that: the most unlikely
    of its alerts that give reasons, and the event time of its last one.

    Raises `SettingsError` where it is none of the alert topic, or not one alone.
    """
    found = {it.incident for it in _alerts(broker, settings, begin) if is_named(it, begin)}
    incident = the_one(begin, found, settings.alerts.topic)
    alerts = [it for it in _alerts(broker, settings, incident) if it.incident == incident]
    return max(alerts, key=lambda it: (bool(it.reasons), it.score or 0.0)), max(it.time for it in alerts)


def require_id(begin: str) -> None:
    """Raises `SettingsError` where an id cannot begin like that."""
    if not re.fullmatch(f"[0-9a-f]{{{SHORTEST},32}}", begin):
        raise SettingsError(
            f"ALERT '{begin}' is no id. Expected {SHORTEST} to 32 of the digits 0-9a-f that the id of an alert, or of "
            "its incident, begins with."
        )


def is_named(alert: Alert, begin: str) -> bool:
    """Whether the id of the alert, or of its incident, begins like that."""
    return alert.id.startswith(begin) or alert.incident.startswith(begin)


def the_one(begin: str, incidents: Collection[str], topic: str) -> str:
    """The incident, if it is one. Raises `SettingsError` otherwise."""
    if not incidents:
        raise SettingsError(f"ALERT '{begin}' is in topic '{topic}' neither the beginning of an alert nor an incident.")
    if len(incidents) > 1:
        listed = ", ".join(sorted(incidents)[:5])
        raise SettingsError(f"ALERT '{begin}' may mean {len(incidents)} incidents: {listed}. Expected more digits.")
    (incident,) = incidents
    return incident


def _alerts(broker: Broker, settings: DetectorSettings, containing: str) -> Iterator[Alert]:
    """The alerts of this detector in which the text occurs; the others are not parsed."""
    wanted = containing.encode()
    for batch in broker.read([settings.alerts.topic], Window()):
        for value in batch.values:
            if value is not None and wanted in value:
                try:
                    alert = Alert.model_validate_json(value)
                except ValidationError:
                    continue
                if alert.detector == settings.name:
                    yield alert


def led_up(broker: Broker, settings: DetectorSettings, alert: Alert) -> list[Kept]:
    """The records that led up to the source of an alert, and that one, of its entity: as many as a window holds, and no
    more than `MOST_BYTES`. None where the source is gone, or of a topic that was made anew, or the alert of many."""
    source, stream, size = alert.source, settings.stream, 0
    decode = decoder(Schema((), (), stream.entity, stream.timestamp), stream.format, stream.registry).decode
    first, end = max(0, source.offset + 1 - REACH), source.offset + 1
    found = deque[tuple[datetime, Kept]](maxlen=settings.window.length or MOST_BEFORE)
    try:
        for batch in broker.fetch({Partition(source.topic, source.partition): (first, end)}):
            columns, _ = decode(batch)
            of_entity = columns.take(columns.entity == alert.entity)
            for row, time in zip(of_entity.row.tolist(), of_entity.time.tolist(), strict=True):
                found.append((event_time(time), _kept(batch, row)))
    except TopicMissing:
        return []
    if not found or (found[-1][0], found[-1][1].offset) != (alert.time, source.offset):
        return []
    kept = deque[Kept]()
    for _, record in reversed(found):
        if (size := size + len(record.value)) > MOST_BYTES:
            break
        kept.appendleft(record)
    return [*kept]


def _kept(batch: RawBatch, row: int) -> Kept:
    return Kept(offset=int(batch.offsets[row]), timestamp=int(batch.timestamps[row]), value=batch.values[row] or b"")


def schema() -> dict[str, Any]:
    """JSON Schema of the message, as it is to be written."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Feedback.model_json_schema()}


if __name__ == "__main__":
    print(json.dumps(schema(), indent=2))  # noqa: T201 - the result
