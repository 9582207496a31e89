"""Which records a retraining leaves out: what was told to be abnormal must not become normal by being learned.

Records inside incidents stay out, unless a person called the incident a false alarm, or it ended as drift: then what it
told of is the new normal. Of the rest, the version in service names suspects: records less likely than `SUSPECT`. Where
most of an entity's newest records are suspects, the entity has changed, and that is what a retraining is for. Suspects
scattered among others are contamination: a few of them are trimmed, more than `CONTAMINATED` make the records unfit.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from consumers.batch import Columns
from detector.alerts import Alert

SUSPECT = 1e-3
"""p-value, by the version in service, at and below which a record is one."""
TRIMMED = 1e-6
"""p-value at and below which a scattered suspect is left out: what is merely uncommon belongs to the normal."""
CONTAMINATED = 0.05
"""Share of scattered suspects that makes records unfit to train on. Of records a few weeks newer than the version some
1 % are suspects for no reason but time."""
NEWEST, CHANGED = 0.25, 0.5
"""An entity has changed where more than that share of so many of its newest records are suspects."""

Spans = dict[str, list[tuple[int, int]]]
"""By entity, the event times (ms) from and up to which its records stay out; "" is every entity."""


class Cleaned(NamedTuple):
    """The records to train on, how many were left out by reason, and the shares of all that are scattered suspects and
    suspects of entities that have changed."""

    columns: Columns
    left_out: dict[str, int]
    contamination: float
    changed: float


def incident_spans(alerts: Iterable[Alert], *, normal: Collection[str] = (), abnormal: Collection[str] = ()) -> Spans:
    """When entities were inside incidents, out of alerts in the order of their topic. People said which incidents are
    `normal` after all, and which are `abnormal` however they ended."""
    opened: dict[str, Alert] = {}
    ended: dict[str, int] = {}
    for alert in alerts:
        if alert.kind == "opened":
            opened[alert.incident] = alert
        elif alert.kind == "resolved":
            ended[alert.incident] = _milliseconds(alert)
        elif alert.kind == "drift" and alert.incident not in abnormal:
            opened.pop(alert.incident, None)
    spans: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for incident, alert in opened.items():
        if incident not in normal:
            begin = round(alert.opened.timestamp() * 1000)
            for entity in alert.entities or [alert.entity]:
                spans[entity].append((begin, ended.get(incident, np.iinfo(np.int64).max)))
    return dict(spans)


def clean(columns: Columns, spans: Spans, nats: NDArray[np.float64] | None) -> Cleaned:
    """Takes records out by `spans`, and by what the version in service says of them, −ln p (n,), where there is one."""
    inside = _inside(columns, spans)
    if nats is None:
        return Cleaned(columns.take(~inside), _counts(inside=inside), 0.0, 0.0)
    suspect = (nats >= -math.log(SUSPECT)) & ~inside
    changed = _changed(columns, suspect, ~inside)
    scattered = suspect & ~changed
    trimmed = scattered & (nats >= -math.log(TRIMMED))
    left = max(1, int((~inside).sum()))
    return Cleaned(
        columns.take(~inside & ~trimmed),
        _counts(inside=inside, trimmed=trimmed),
        float(scattered.sum()) / left,
        float((suspect & changed).sum()) / left,
    )


def _counts(**left_out: NDArray[np.bool_]) -> dict[str, int]:
    words = {"inside": "inside incidents", "trimmed": "far too unlikely"}
    return {words[name]: int(rows.sum()) for name, rows in left_out.items() if rows.any()}


def _inside(columns: Columns, spans: Spans) -> NDArray[np.bool_]:
    inside = np.zeros(len(columns), np.bool_)
    for entity, periods in spans.items():
        own = np.full(len(columns), True) if entity == "" else columns.entity == entity
        for begin, end in periods:
            inside |= own & (columns.time >= begin) & (columns.time <= end)
    return inside


def _changed(columns: Columns, suspect: NDArray[np.bool_], there: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which records (n,) are of entities that have changed."""
    changed = np.zeros(len(columns), np.bool_)
    _, number = np.unique(columns.entity, return_inverse=True)
    order = np.lexsort((columns.time, number))
    edges = np.flatnonzero(np.diff(number[order], prepend=-1, append=-1))
    for start, stop in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        rows = order[start:stop]
        rows = rows[there[rows]]
        newest = rows[len(rows) - math.ceil(NEWEST * len(rows)) :]
        changed[rows] = len(newest) > 0 and bool(suspect[newest].mean() > CHANGED)
    return changed


def _milliseconds(alert: Alert) -> int:
    return round(alert.time.timestamp() * 1000)
