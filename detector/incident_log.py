"""Incidents put together again from the alerts that told of them, in bounded memory."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from pydantic import BaseModel, ConfigDict

from detector.alerts import ENDING, Alert, Reason, Severity

MOST_INCIDENTS = 1_000
"""Incidents that are kept, the most unlikely ones; all are counted."""
MOST_NAMES = 100_000
"""Names that are counted apart; beyond it the rarest are forgotten."""
MOST_REASONS = 3


class LoggedIncident(BaseModel):
    """An incident from beginning to end; `resolved` is None where it has none yet."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    incident: str
    """Joins it with its alerts."""
    entity: str
    opened: datetime
    resolved: datetime | None
    seconds: float
    """How long it lasted, until the end of the records where it was open then."""
    severity: Severity
    """The highest."""
    p_value: float
    """Of the most unlikely record told of."""
    reasons: list[Reason]
    """Why, as last told."""

    @property
    def lasted(self) -> str:
        """The same in words; with a plus where it was open."""
        return f"{timedelta(seconds=self.seconds)}{'' if self.resolved else '+'}"


class IncidentLog:
    """Takes in alerts in the order in which they were published."""

    def __init__(self) -> None:
        self.by_kind = Counter[str]()
        """Alerts of each kind."""
        self.by_severity = Counter[Severity]()
        """Incidents of each, by their highest, once they have ended."""
        self.by_entity = Counter[str]()
        """Incidents of each entity."""
        self.longest: LoggedIncident | None = None
        self._kept: list[tuple[float, str, LoggedIncident]] = []
        self._open: dict[str, Alert] = {}

    def hear(self, alert: Alert) -> None:
        """Takes in an alert; one of no incident that is known only counts."""
        self.by_kind[alert.kind] += 1
        if alert.kind == "opened":
            count(self.by_entity, [alert.entity])
            self._open[alert.incident] = alert
        elif (before := self._open.pop(alert.incident, None)) is not None:
            least = min(_p_value(before), _p_value(alert))
            if alert.kind in ENDING:
                told = before.model_copy(update={"p_value": least, "severity": alert.severity})
                self._end(told, alert.time, alert.time)
            else:
                self._open[alert.incident] = alert.model_copy(update={"p_value": least})

    def close(self, now: datetime) -> None:
        """What is still open counts as it stands, having lasted until `now`."""
        while self._open:
            self._end(self._open.popitem()[1], None, now)

    def add(self, other: IncidentLog) -> None:
        """Takes in what another log heard, of other incidents."""
        self.by_kind.update(other.by_kind)
        self.by_severity.update(other.by_severity)
        count(self.by_entity, other.by_entity)
        self._kept = heapq.nlargest(MOST_INCIDENTS, [*self._kept, *other._kept])[::-1]  # which is a heap
        self._open |= other._open
        if other.longest is not None:
            self._compare(other.longest)

    @property
    def incidents(self) -> list[LoggedIncident]:
        """Those that have ended and are kept, in order of time."""
        kept = (incident for *_, incident in self._kept)
        return sorted(kept, key=lambda incident: (incident.opened, incident.incident))

    def _end(self, told: Alert, resolved: datetime | None, now: datetime) -> None:
        incident = LoggedIncident(
            incident=told.incident,
            entity=told.entity,
            opened=told.opened,
            resolved=resolved,
            seconds=max(0.0, (now - told.opened).total_seconds()),
            severity=told.severity,
            p_value=_p_value(told),
            reasons=told.reasons[:MOST_REASONS],
        )
        self.by_severity[incident.severity] += 1
        self._compare(incident)
        push = heapq.heappush if len(self._kept) < MOST_INCIDENTS else heapq.heappushpop
        push(self._kept, (-incident.p_value, incident.incident, incident))

    def _compare(self, incident: LoggedIncident) -> None:
        """Of incidents that lasted as long as each other the one of the last name, in whatever order they are told."""
        if self.longest is None or _length(incident) > _length(self.longest):
            self.longest = incident


def _length(incident: LoggedIncident) -> tuple[float, str]:
    return incident.seconds, incident.incident


def _p_value(alert: Alert) -> float:
    """Of an alert on likelihood, as those of incidents are."""
    return 1.0 if alert.p_value is None else alert.p_value


def count(counter: Counter[str], names: Sequence[str] | Mapping[str, int]) -> None:
    """Adds names, or what was counted of them, and forgets the rarest once there are more than `MOST_NAMES`."""
    counter.update(names)
    if len(counter) > MOST_NAMES:
        kept = dict(counter.most_common(MOST_NAMES // 2))
        counter.clear()
        counter.update(kept)
