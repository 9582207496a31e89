"""The straight line, batch in, outcome out: decode, encode, score, calibrate, incidents, messages.

Pure computation: no clock, no I/O, no logging. What has memory is kept by partition, and the result depends on the
records alone, not on where batches end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from consumers.batch import Columns, DeadLetter, Message, Partition, Position, RawBatch
from consumers.decode import DeadLetterReason, JsonDecoder, dead_letter_message
from detector.alerts import SEVERITIES, Alert, Reason, Source, event_time, identifier, severity_rank
from detector.bundle import Bundle
from detector.calibration import threshold
from detector.config import DetectorSettings
from detector.features import FeatureReason
from detector.incidents import Decided, Incidents, Transition
from detector.windows import EntityHistory
from models.scorer import Scorer

NEGLIGIBLE_SHARE = 0.01
"""Features with a smaller part in an alert are not named, unless none has a larger one."""
LONGEST_TEXT = 200
"""Characters of a record's text that an alert repeats: an alert must fit into a message whatever the record holds."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a batch. Every record is either a row of `columns`, scored, or a dead letter.

    `nats` (n,) is −ln p of each row and `crossing` (n,) whether that is beyond the level; `messages` holds alerts and
    dead letters, to be published together with `positions`.
    """

    columns: Columns
    nats: NDArray[np.float64]
    crossing: NDArray[np.bool_]
    alerts: Sequence[Alert]
    dead_letters: Sequence[DeadLetter]
    messages: Sequence[Message]
    positions: dict[Partition, Position]
    open_incidents: int
    version: str

    @property
    def records(self) -> int:
        return len(self.columns) + len(self.dead_letters)


class PartitionState(NamedTuple):
    """Everything a partition remembers from one batch to the next."""

    history: EntityHistory
    incidents: Incidents


class Scored(NamedTuple):
    """Rows (n, window, d) as the models saw them, and what they said in nats: each model (m, n) and all as one (n,)."""

    x: NDArray[np.float32]
    by_model: NDArray[np.float64]
    nats: NDArray[np.float64]


class Pipeline:
    """A bundle in service. Not thread-safe."""

    def __init__(self, settings: DetectorSettings, bundle: Bundle) -> None:
        self._settings = settings
        self._states: dict[Partition, PartitionState] = {}
        self._threshold = threshold(settings.alerts.rate)
        self._serve(bundle)

    def adopt(self, bundle: Bundle) -> None:
        """Another version takes over: windows are carried into its scale, open incidents stay open."""
        self._serve(bundle)
        for state in self._states.values():
            state.history.adopt(bundle.encoder)

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
        """Entities that have windows."""
        return sum(len(state.history) for state in self._states.values())

    @property
    def evicted(self) -> int:
        """Entities forgotten since the partitions were assigned, because there were more than `window.max_entities`."""
        return sum(state.history.evicted for state in self._states.values())

    def process(self, batch: RawBatch) -> Outcome:
        """Takes a batch through the whole line. The batch must be published before the next one is processed."""
        for partition in (*batch.revoked, *batch.assigned):
            self._states.pop(partition, None)
        columns, letters = self._decoder.decode(batch)
        scored = self._score(columns)
        if not (finite := np.isfinite(scored.nats)).all():
            lost = columns.row[~finite].tolist()
            letters += [DeadLetter(row, DeadLetterReason.UNSCORABLE, "a model gave no number") for row in lost]
            columns = columns.take(finite)
            scored = Scored(scored.x[finite], scored.by_model[:, finite], scored.nats[finite])
        crossing = scored.nats >= self._threshold
        decided = Decided(
            scored.nats, crossing, self._most_surprised(scored), severity_rank(scored.nats, self._threshold)
        )
        alerts = self._alerts(columns, scored, self._transitions(columns, decided))
        settings = self._settings
        return Outcome(
            columns=columns,
            nats=scored.nats,
            crossing=crossing,
            alerts=alerts,
            dead_letters=letters,
            messages=[
                *(alert.message(settings.alerts.topic) for alert in alerts),
                *(
                    dead_letter_message(
                        batch, letter, topic=settings.dead_letter_topic, max_bytes=settings.dead_letters.max_bytes
                    )
                    for letter in letters
                ),
            ],
            positions=batch.positions(),
            open_incidents=self.open_incidents,
            version=self.version,
        )

    def _serve(self, bundle: Bundle) -> None:
        self._bundle = bundle
        self._decoder = JsonDecoder(
            bundle.encoder.schema(entity=self._settings.stream.entity, timestamp=self._settings.stream.timestamp)
        )
        self._scorer = Scorer(bundle.models, self._settings.device)

    def _state(self, partition: Partition) -> PartitionState:
        if partition not in self._states:
            self._states[partition] = PartitionState(
                EntityHistory(self._bundle.encoder, self._settings.window.max_entities),
                Incidents(self._settings.alerts.quiet_for),
            )
        return self._states[partition]

    def _score(self, columns: Columns) -> Scored:
        layout, models = self._bundle.encoder.layout, len(self._bundle.models)
        if not len(columns):
            empty = np.empty((0, layout.window, layout.columns), np.float32)
            return Scored(empty, np.empty((models, 0)), np.empty(0))
        x = np.concatenate(
            [self._state(partition).history.windows(columns.take(rows)) for partition, rows in columns.by_partition()]
        )
        return Scored(x, *self._bundle.calibration.nats(self._scorer.score(x)))

    def _most_surprised(self, scored: Scored) -> NDArray[np.object_]:
        names: NDArray[np.object_] = np.array(list(self._bundle.models), object)
        most: NDArray[np.object_] = names[scored.by_model.argmax(axis=0)]
        return most

    def _transitions(self, columns: Columns, decided: Decided) -> list[Transition]:
        found = []
        for partition, rows in columns.by_partition():
            part = self._state(partition).incidents.update(columns.take(rows), decided.take(rows))
            found += [transition._replace(row=transition.row + rows.start) for transition in part]
        return found

    def _alerts(self, columns: Columns, scored: Scored, transitions: Sequence[Transition]) -> list[Alert]:
        reasons = self._reasons(columns, scored, [t.row for t in transitions if t.kind != "resolved"])
        return [self._alert(columns, scored, transition, reasons.get(transition.row, [])) for transition in transitions]

    def _alert(self, columns: Columns, scored: Scored, transition: Transition, reasons: list[Reason]) -> Alert:
        row, kind, incident = transition
        detector, opened = self._settings.name, event_time(incident.opened)
        topic, number = columns.partitions[columns.partition[row]]
        source = Source(topic=topic, partition=number, offset=int(columns.offsets[row]))
        origin = Source(topic=topic, partition=number, offset=incident.opened_offset)
        time = event_time(int(columns.time[row]))
        score = incident.peak if kind == "resolved" else float(scored.nats[row])
        return Alert(
            id=identifier(detector, source, time, kind),
            incident=identifier(detector, origin, opened, "incident"),
            kind=kind,
            detector=detector,
            entity=incident.entity,
            time=time,
            opened=opened,
            severity=SEVERITIES[incident.rank],
            p_value=float(np.exp(-score)),
            level=self._settings.alerts.rate,
            score=score,
            threshold=self._threshold,
            records=incident.records,
            model=incident.peak_model,
            version=self.version,
            reasons=[] if kind == "resolved" else reasons,
            source=source,
        )

    def _reasons(self, columns: Columns, scored: Scored, rows: list[int]) -> dict[int, list[Reason]]:
        """Why each of these rows is unlikely, by the model that was most surprised by it."""
        reasons: dict[int, list[Reason]] = {}
        most_surprised = scored.by_model[:, rows].argmax(axis=0) if rows else np.empty(0, np.intp)
        for number, kind in enumerate(self._bundle.models):
            chosen = np.array(rows, np.int64)[most_surprised == number]
            if not len(chosen):
                continue
            share, expected = self._scorer.explain(kind, scored.x[chosen])
            told = self._bundle.encoder.reasons(
                columns.take(chosen), scored.x[chosen, -1], share, expected, self._settings.alerts.max_reasons
            )
            for row, parts in zip(chosen.tolist(), told, strict=True):
                reasons[row] = [_told(part) for part in parts if part is parts[0] or part.share >= NEGLIGIBLE_SHARE]
        return reasons


def _told(part: FeatureReason) -> Reason:
    """A reason as it is published: long texts are cut, and rounding does not take a share beyond 1."""
    observed, expected = (
        value[:LONGEST_TEXT] if isinstance(value, str) else value for value in (part.observed, part.expected)
    )
    return Reason(feature=part.feature, observed=observed, expected=expected, share=min(1.0, part.share))
