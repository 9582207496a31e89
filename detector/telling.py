"""What is told: alerts made of what became of incidents, of novelties and of silences."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from consumers.batch import Columns, Partition
from detector.alerts import (
    LONGEST_TEXT,
    SEVERITIES,
    Alert,
    AlertKind,
    Reason,
    Severity,
    Shared,
    Source,
    event_time,
    identifier,
)
from detector.incidents import Decided, Transition
from detector.lapses import Moment
from detector.novelty import Finding
from detector.novelty_rules import NoveltyKind
from detector.outbreaks import Outbreak
from detector.partition import Quiet
from detector.reasons import Told

SEVERITY: dict[NoveltyKind, Severity] = {"unseen_category": "minor", "field_missing": "major", "field_type": "major"}


class Teller(NamedTuple):
    """Makes the alerts of one version of a detector."""

    detector: str
    version: str

    def incident(
        self,
        columns: Columns,
        decided: Decided,
        segment: NDArray[np.object_],
        row: int,
        transition: Transition,
        told: Told | None,
    ) -> Alert:
        """Of what a record did to an incident, by the `row` that it tells of; `told` says why."""
        _, kind, incident, again = transition
        what = f"{kind} {again.cause}" if again else kind
        partition, time = columns.partitions[columns.partition[row]], int(columns.time[row])
        source = _source(partition, int(columns.offsets[row]))
        origin = _source(partition, incident.opened_offset)
        outbreak = incident if isinstance(incident, Outbreak) else None
        whose = incident.entity if outbreak is None else f"outbreak {incident.opened_offset}"
        told = told if is_of_its_record(transition) else None
        peak = kind == "resolved" or outbreak is not None
        score, level = incident.peak if peak else float(decided.nats[row]), float(decided.level[row])
        return Alert(
            id=identifier(self.detector, source, event_time(time), what, whose),
            incident=identifier(self.detector, origin, event_time(incident.first), "incident", whose),
            kind=kind,
            detector=self.detector,
            entity=incident.entity,
            segment="" if outbreak else str(segment[row]),
            time=event_time(time),
            opened=event_time(incident.opened),
            severity=SEVERITIES[incident.rank],
            p_value=float(np.exp(-score)),
            static_p_value=float(np.exp(-decided.static_nats[row])),
            level=float(np.exp(-level)),
            score=score,
            threshold=level,
            records=incident.records,
            model=incident.peak_model,
            version=self.version,
            reasons=[] if told is None else told.reasons,
            makes_normal=None if told is None else told.makes_normal,
            members=None if outbreak is None else outbreak.members,
            entities=[] if outbreak is None else list(outbreak.names),
            common=[] if outbreak is None else [Shared(**it._asdict()) for it in outbreak.common],
            source=source,
        )

    def finding(self, partition: Partition, finding: Finding) -> Alert:
        """Of a novelty, or of its end."""
        where = f"{finding.kind} {finding.field} {finding.observed if finding.kind == 'field_type' else ''}"
        reason = Reason(
            feature=finding.field, observed=_cut(finding.observed), expected=_cut(finding.expected), share=1.0
        )
        return self._plain(
            partition,
            kind="resolved" if finding.resolved else finding.kind,
            entity=finding.entity,
            at=finding.at,
            opened=finding.opened,
            what=where,
            severity=SEVERITY[finding.kind],
            reasons=[] if finding.resolved else [reason],
        )

    def silence(self, partition: Partition, quiet: Quiet) -> Alert:
        """Of an entity that stopped reporting, or reports again; of many at once where it is named by nothing."""
        return self._plain(
            partition,
            kind="resolved" if quiet.over else "silence",
            entity=quiet.entity,
            at=quiet.at,
            opened=quiet.since,
            what="silence",
            severity="major",
            reasons=[],
            members=quiet.entities if quiet.entities > 1 else None,
        )

    def _plain(
        self,
        partition: Partition,
        *,
        kind: AlertKind,
        entity: str,
        at: Moment,
        opened: Moment,
        what: str,
        severity: Severity,
        reasons: list[Reason],
        members: int | None = None,
    ) -> Alert:
        """Of something that no likelihood tells of; `what` tells it from others at the same record."""
        source, time, since = _source(partition, at.offset), event_time(at.time), event_time(opened.time)
        origin = _source(partition, opened.offset)
        return Alert(
            id=identifier(self.detector, source, time, f"{kind} {what}", entity),
            incident=identifier(self.detector, origin, since, what, entity),
            kind=kind,
            detector=self.detector,
            entity=entity,
            segment="",
            time=time,
            opened=since,
            severity=severity,
            p_value=None,
            static_p_value=None,
            level=None,
            score=None,
            threshold=None,
            records=1,
            model=None,
            version=self.version,
            reasons=reasons,
            makes_normal=None,
            members=members,
            source=source,
        )


def is_of_its_record(transition: Transition) -> bool:
    """Whether the record itself says why: not where time ended something, nor of an outbreak after its beginning."""
    return transition.kind == "opened" or not (
        transition.kind == "resolved" or isinstance(transition.incident, Outbreak)
    )


def _source(partition: Partition, offset: int) -> Source:
    return Source(topic=partition.topic, partition=partition.number, offset=offset)


def _cut(value: float | str | bool | None) -> float | str | bool | None:
    return value[:LONGEST_TEXT] if isinstance(value, str) else value
