"""The straight line, batch in, outcome out: decode, encode, score, calibrate, decide, incidents, messages.

Pure computation: no clock, no I/O, no logging. What has memory is kept by partition, and the result depends on the
records alone, not on where batches end.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from consumers.batch import Columns, DeadLetter, Message, Partition, Position, RawBatch
from consumers.decode import DeadLetterReason, JsonDecoder, dead_letter_message
from detector.alerts import SEVERITIES, Alert, Source, event_time, identifier, severity_rank
from detector.budget import Allowance
from detector.bundle import Bundle
from detector.config import DetectorSettings
from detector.entities import EntityTable, Visits, everybody, segments
from detector.features import fields
from detector.incidents import Decided, Incidents, Transition
from detector.level import Levels, Start, concat
from detector.reasons import Reasoner, Told
from detector.windows import EntityHistory
from models.scorer import Scorer


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a batch. Every record is either a row of `columns`, scored, or a dead letter.

    `decided` holds what was decided of each row and `promised` (n,) the alarms per record that it was promised;
    `messages` holds alerts and dead letters, to be published together with `positions`.
    """

    columns: Columns
    decided: Decided
    promised: NDArray[np.float64]
    alerts: Sequence[Alert]
    dead_letters: Sequence[DeadLetter]
    messages: Sequence[Message]
    positions: Mapping[Partition, Position]
    open_incidents: int
    version: str

    @property
    def records(self) -> int:
        return len(self.columns) + len(self.dead_letters)


class PartitionState(NamedTuple):
    """Everything a partition remembers from one batch to the next."""

    entities: EntityTable
    segments: EntityTable
    history: EntityHistory
    allowance: Allowance
    levels: Levels
    incidents: Incidents


class Judged(NamedTuple):
    """Rows (n, window, d) as the models saw them, what each model said in nats (m, n), what was decided, the
    promised rate (n,), the names of the segments (n,), and what became of incidents."""

    x: NDArray[np.float32]
    by_model: NDArray[np.float64]
    decided: Decided
    promised: NDArray[np.float64]
    segment: NDArray[np.object_]
    transitions: list[Transition]


class Pipeline:
    """A bundle in service, on topics of so many partitions in all. Not thread-safe."""

    def __init__(self, settings: DetectorSettings, bundle: Bundle, *, partitions: int = 1) -> None:
        self._settings = settings
        self._partitions = partitions
        self._states: dict[Partition, PartitionState] = {}
        self._serve(bundle)

    def adopt(self, bundle: Bundle) -> None:
        """Another version takes over: windows are carried into its scale, levels begin where it was calibrated, open
        incidents stay open."""
        self._serve(bundle)
        for partition, state in self._states.items():
            state.history.adopt(bundle.encoder)
            state.levels.adopt(self._start)
            state.allowance.allot(self._budget, self._share(partition))

    def reset(self) -> None:
        """Forgets all partitions, as after losing the stream; they are assigned anew."""
        self._states.clear()

    @property
    def version(self) -> str:
        return self._bundle.version

    @property
    def open_incidents(self) -> int:
        """Open incidents of all partitions."""
        return sum(len(state.incidents) for state in self._states.values())

    @property
    def entities(self) -> int:
        """Entities remembered."""
        return sum(len(state.entities) for state in self._states.values())

    @property
    def evicted(self) -> int:
        """Entities forgotten since the partitions were assigned, because there were more than `window.max_entities`."""
        return sum(state.entities.evicted for state in self._states.values())

    def process(self, batch: RawBatch) -> Outcome:
        """Takes a batch through the whole line. The batch must be published before the next one is processed."""
        for partition in (*batch.revoked, *batch.assigned):
            self._states.pop(partition, None)
        columns, letters = self._decoder.decode(batch)
        return self.judge(columns, batch, letters)

    def judge(self, columns: Columns, batch: RawBatch | None = None, letters: Sequence[DeadLetter] = ()) -> Outcome:
        """Everything after decoding; `batch` is what the columns and dead letters came from, where there was one."""
        judged = self._judged(columns)
        lost = ~np.isfinite(judged.decided.static_nats)
        letters = [
            *letters,
            *(
                DeadLetter(row, DeadLetterReason.UNSCORABLE, "a model gave no number")
                for row in columns.row[lost].tolist()
            ),
        ]
        alerts = self._alerts(columns, judged)
        topic, max_bytes = self._settings.dead_letter_topic, self._settings.dead_letters.max_bytes
        dead = (
            []
            if batch is None
            else [dead_letter_message(batch, it, topic=topic, max_bytes=max_bytes) for it in letters]
        )
        return Outcome(
            columns=columns.take(~lost) if lost.any() else columns,
            decided=judged.decided.take(~lost) if lost.any() else judged.decided,
            promised=judged.promised[~lost],
            alerts=alerts,
            dead_letters=letters,
            messages=[*(alert.message(self._settings.alerts.topic) for alert in alerts), *dead],
            positions={} if batch is None else batch.positions(),
            open_incidents=self.open_incidents,
            version=self.version,
        )

    def _serve(self, bundle: Bundle) -> None:
        settings = self._settings
        self._bundle = bundle
        self._budget = bundle.manifest.data.budget(settings.alerts)
        self._start = Start.fit(bundle.rows, rate=self._budget.rate, adapt=settings.calibration.level == "online")
        self._decoder = JsonDecoder(
            fields(bundle.encoder.features, settings.stream.entity, settings.stream.timestamp, settings.segment)
        )
        self._scorer = Scorer(bundle.models, settings.device)
        self._reasoner = Reasoner(bundle.encoder, self._scorer, bundle.calibration, settings.alerts.max_reasons)

    def _share(self, partition: Partition) -> float:
        return self._budget.share(partition, self._bundle.manifest.data.records_by_partition(), self._partitions)

    def _state(self, partition: Partition) -> PartitionState:
        if partition not in self._states:
            most = self._settings.window.max_entities
            self._states[partition] = PartitionState(
                EntityTable(most),
                EntityTable(most),
                EntityHistory(self._bundle.encoder),
                Allowance(self._budget, self._share(partition)),
                Levels(self._start),
                Incidents(self._settings.alerts),
            )
        return self._states[partition]

    def _judged(self, columns: Columns) -> Judged:
        layout, models = self._bundle.encoder.layout, len(self._bundle.models)
        names = segments(columns, self._settings.calibration.by)
        parts = [(self._state(partition), rows) for partition, rows in columns.by_partition()]
        visits = [state.entities.locate(columns.entity[rows]) for state, rows in parts]
        x = np.concatenate(
            [
                np.empty((0, layout.window, layout.columns), np.float32),
                *(s.history.windows(columns.take(rows), v) for (s, rows), v in zip(parts, visits, strict=True)),
            ]
        )
        by_model, nats = np.empty((models, 0)), np.empty(0)
        if len(x):
            by_model, nats = self._bundle.calibration.nats(self._scorer.score(x))
        promised = np.concatenate([np.empty(0), *(state.allowance.rates(columns.time[rows]) for state, rows in parts)])
        levelled = concat(
            [
                state.levels.decide(nats[rows], promised[rows], v, self._places(state, names[rows], v), names[rows])
                for (state, rows), v in zip(parts, visits, strict=True)
            ]
        )
        decided = Decided(
            static_nats=nats,
            nats=levelled.nats,
            level=levelled.level,
            static_level=levelled.static_level,
            alarm=levelled.alarm,
            elevated=levelled.elevated,
            drift=levelled.drift,
            model=np.array([*self._bundle.models], object)[by_model.argmax(axis=0)],
            rank=severity_rank(levelled.nats, levelled.level),
        )
        transitions = [
            transition._replace(row=transition.row + rows.start)
            for (state, rows), v in zip(parts, visits, strict=True)
            for transition in state.incidents.update(columns.take(rows), decided.take(rows), v)
        ]
        return Judged(x, by_model, decided, promised, names, transitions)

    def _places(self, state: PartitionState, names: NDArray[np.object_], visits: Visits) -> Visits:
        """Where the segments of the records live."""
        by = self._settings.calibration.by
        if by == "entity":
            return visits
        return everybody(state.segments, len(names)) if by == "all" else state.segments.locate(names)

    def _alerts(self, columns: Columns, judged: Judged) -> list[Alert]:
        rows = [transition.row for transition in judged.transitions if transition.kind != "resolved"]
        chosen = np.array(rows, np.int64)
        told = self._reasoner.reasons(
            columns.take(chosen), judged.x[chosen], judged.by_model[:, chosen], judged.decided.static_level[chosen]
        )
        reasons = dict(zip(rows, told, strict=True))
        return [
            self._alert(columns, judged, transition, reasons.get(transition.row)) for transition in judged.transitions
        ]

    def _alert(self, columns: Columns, judged: Judged, transition: Transition, told: Told | None) -> Alert:
        row, kind, incident = transition
        if kind == "resolved":
            told = None
        decided, detector, opened = judged.decided, self._settings.name, event_time(incident.opened)
        topic, number = columns.partitions[columns.partition[row]]
        source = Source(topic=topic, partition=number, offset=int(columns.offsets[row]))
        origin = Source(topic=topic, partition=number, offset=incident.opened_offset)
        time = event_time(int(columns.time[row]))
        score, level = incident.peak if kind == "resolved" else float(decided.nats[row]), float(decided.level[row])
        return Alert(
            id=identifier(detector, source, time, kind, incident.entity),
            incident=identifier(detector, origin, opened, "incident", incident.entity),
            kind=kind,
            detector=detector,
            entity=incident.entity,
            segment=str(judged.segment[row]),
            time=time,
            opened=opened,
            severity=SEVERITIES[incident.rank],
            p_value=float(np.exp(-score)),
            static_p_value=float(np.exp(-decided.static_nats[row])),
            level=float(np.exp(-level)),
            score=score,
            threshold=level,
            records=incident.records,
            model=incident.peak_model,
            version=self.version,
            reasons=told.reasons if told else [],
            makes_normal=told.makes_normal if told else None,
            source=source,
        )
