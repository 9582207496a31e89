"""Incidents as the API tells them: which are asked for, in lanes, and what they have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime

from detector.alerts import SEVERITIES, Reason
from detector.feedback import Feedback, Label
from detector.history.book import KnownIncident, Summary
from detector.web.views import IncidentRow, Incidents, Lane, Lanes, Opinion, Similar, Span, Which

MOST_SIMILAR = 5
ALIKE = 0.3
"""Incidents that share a smaller part of their reasons are not called similar."""
DAY_MS = 86_400_000

LabelOf = Callable[[str], Label | None]
"""What people last said of an incident."""


def wanted(incidents: Iterable[KnownIncident], which: Which, label_of: LabelOf) -> Iterator[KnownIncident]:
    """Those that are asked for, in the same order."""
    least, text = SEVERITIES.index(which.severity), which.entity.casefold()
    for it in incidents:
        if (
            SEVERITIES.index(it.severity) >= least
            and (which.kind is None or it.kind == which.kind)
            and (which.open is None or (it.resolved is None) == which.open)
            and (not text or text in it.entity.casefold())
            and (which.end is None or milliseconds(it.opened) < which.end)
            and (which.begin is None or it.resolved is None or milliseconds(it.resolved) >= which.begin)
            and (which.label is None or (label_of(it.incident) or "none") == which.label)
        ):
            yield it


def listed(incidents: Sequence[KnownIncident], which: Which, label_of: LabelOf) -> Incidents:
    """A page of them, that with the latest alert first."""
    found = sorted(wanted(incidents, which, label_of), key=lambda it: it.latest, reverse=True)
    page = found[which.offset : which.offset + which.limit]
    return Incidents(total=len(found), incidents=[row(it, label_of(it.incident)) for it in page])


def in_lanes(incidents: Sequence[KnownIncident], which: Which, label_of: LabelOf, *, newest: int) -> Lanes:
    """A page of entities with what happened to each, from the first of it on. Where no times are asked for, they are
    the week up to the `newest` record (epoch milliseconds)."""
    end = newest if which.end is None else which.end
    begin = end - 7 * DAY_MS if which.begin is None else which.begin
    by_entity: dict[str, list[KnownIncident]] = {}
    for it in wanted(incidents, which.model_copy(update={"begin": begin, "end": end}), label_of):
        by_entity.setdefault(it.entity, []).append(it)
    order = sorted(by_entity, key=lambda entity: _urgency(by_entity[entity]), reverse=True)
    page = order[which.offset : which.offset + which.limit]
    return Lanes(begin=begin, end=end, total=len(order), lanes=[_lane(by_entity[it], label_of) for it in page])


def similar(incident: KnownIncident, others: Iterable[KnownIncident], label_of: LabelOf) -> list[Similar]:
    """Earlier incidents with the same reasons, the most alike first, and of those alike the latest."""
    earlier = [it for it in others if it.opened < incident.opened and it.incident != incident.incident]
    alike = [(likeness(incident.reasons, it.reasons), it) for it in earlier]
    best = sorted(
        (pair for pair in alike if pair[0] >= ALIKE), key=lambda pair: (pair[0], pair[1].opened), reverse=True
    )
    return [Similar(likeness=much, incident=row(it, label_of(it.incident))) for much, it in best[:MOST_SIMILAR]]


def likeness(one: Sequence[Reason], other: Sequence[Reason]) -> float:
    """The part of the reasons that two share, in [0, 1]: the sum of the smaller share of each feature that strayed in
    the same direction in both."""
    shares = {_direction(reason): reason.share for reason in one}
    return min(1.0, sum(min(reason.share, shares.get(_direction(reason), 0.0)) for reason in other))


def row(it: KnownIncident, label: Label | None) -> IncidentRow:
    """An incident in a list."""
    return IncidentRow.model_construct(**{name: getattr(it, name) for name in Summary.model_fields}, label=label)


def opinion(word: Feedback) -> Opinion:
    """What somebody said."""
    return Opinion(label=word.label, author=word.author, text=word.text, time=word.time)


def milliseconds(moment: datetime) -> int:
    """Since the epoch."""
    return round(moment.timestamp() * 1000)


def _lane(incidents: Sequence[KnownIncident], label_of: LabelOf) -> Lane:
    return Lane(
        entity=incidents[0].entity,
        severity=max((it.severity for it in incidents), key=SEVERITIES.index),
        open=any(it.resolved is None for it in incidents),
        spans=[
            Span(
                incident=it.incident,
                kind=it.kind,
                severity=it.severity,
                begin=milliseconds(it.opened),
                end=None if it.resolved is None else milliseconds(it.resolved),
                label=label_of(it.incident),
            )
            for it in sorted(incidents, key=lambda it: it.opened)
        ],
    )


def _urgency(incidents: Sequence[KnownIncident]) -> tuple[bool, int, datetime]:
    return (
        any(it.resolved is None for it in incidents),
        max(SEVERITIES.index(it.severity) for it in incidents),
        max(it.latest for it in incidents),
    )


def _direction(reason: Reason) -> tuple[str, bool | str]:
    """The feature, and whether it was too high, or which value it had."""
    if isinstance(reason.observed, float) and isinstance(reason.expected, float):
        return reason.feature, reason.observed > reason.expected
    return reason.feature, str(reason.observed)
