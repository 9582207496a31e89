"""The straight line, batch in, outcome out: decode, encode, score, calibrate, decide, incidents, messages.

Pure computation: no clock, no I/O, no logging, but that a schema which was not met before is fetched from its registry.
What has memory is kept by partition, and the result depends on the records alone, not on where batches end.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from consumers.batch import Columns, DeadLetter, Message, Partition, Position, RawBatch
from consumers.dead_letters import dead_letter_message, undecodable_message
from consumers.decode import DeadLetterReason
from consumers.decoding import decoder
from consumers.faults import Fault, faults
from detector.alerts import Alert
from detector.averages import HALF_LIVES
from detector.bundle import Bundle
from detector.config import DetectorSettings
from detector.entities import segments
from detector.features import fields
from detector.feedback_effects import Opinions
from detector.incidents import Decided, Transition
from detector.late import judged_again, told_again
from detector.level import concat
from detector.partition import PartitionMemory, Seen, Service, decision
from detector.poison import refusal
from detector.reasons import Reasoner, Told
from detector.recursion import Levelled
from detector.relevance import Relevance
from detector.snapshot import packed, unpack
from detector.telling import Teller, is_of_its_record
from models.scorer import Scorer


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a batch. Every record is either a row of `columns`, scored, or a dead letter.

    `decided` holds what was decided of each row, `promised` (n,) the alarms per record that it was promised, and
    `ranking` (n,) how unlikely it is beside others, where what came lately counts for more than in alarms;
    `messages` holds alerts and dead letters, to be published together with `positions`, unless `refused` says why not.
    `hushed` is how many alarms were not told for what people had said of others.
    What `unprompted` partitions told came of no record: a replay of the log would tell it again.
    """

    columns: Columns
    decided: Decided
    promised: NDArray[np.float64]
    ranking: NDArray[np.float64]
    alerts: Sequence[Alert]
    dead_letters: Sequence[DeadLetter]
    messages: Sequence[Message]
    positions: Mapping[Partition, Position]
    unprompted: frozenset[Partition]
    open_incidents: int
    version: str
    hushed: int
    refused: str | None = None

    @property
    def records(self) -> int:
        return len(self.columns) + len(self.dead_letters)


class Judged(NamedTuple):
    """Rows (n, window, d) as the models saw them, what each model said in nats (m, n), what was decided, the
    promised rate (n,), the names of the segments (n,), how many alarms feedback took back, and by what records are
    ranked (n,)."""

    x: NDArray[np.float32]
    by_model: NDArray[np.float64]
    decided: Decided
    promised: NDArray[np.float64]
    segment: NDArray[np.object_]
    hushed: int
    ranking: NDArray[np.float64]


class Pipeline:
    """A bundle in service, on topics of so many partitions in all. Not thread-safe."""

    def __init__(self, settings: DetectorSettings, bundle: Bundle, *, partitions: int = 1) -> None:
        self._settings = settings
        self._partitions = partitions
        self._memories: dict[Partition, PartitionMemory] = {}
        self._opinions = Opinions()
        self._serve(bundle)

    def beside(self, bundle: Bundle) -> Pipeline:
        """One like this, of the same or of another version, that remembers nothing yet."""
        other = copy(self)
        other._memories = {}
        if bundle is not self.bundle:
            other._serve(bundle)
        return other

    def warm_up(self) -> None:
        """Compiles and loads all that a batch needs, on records that leave no trace. That takes seconds the first time,
        in which the process does nothing else: no heartbeat is sent, and a group would take it for dead."""
        n = 64
        numbers = np.where(np.arange(n) < n - 1, 0.0, 1e9)
        columns = Columns(
            row=np.arange(n),
            partitions=(Partition("", 0),),
            partition=np.zeros(n, np.int32),
            offsets=np.arange(n),
            time=1000 * np.arange(n),
            entity=np.array([str(row % 4) for row in range(n)], object),
            numbers=dict.fromkeys(self._schema.numbers, numbers),
            texts=dict.fromkeys(self._schema.texts, np.full(n, "", object)),
        )
        self.beside(self.bundle).judge(columns)

    def adopt(self, bundle: Bundle) -> None:
        """Another version takes over: windows are carried into its scale, levels begin where it was calibrated, open
        incidents stay open."""
        self._serve(bundle)
        for partition, memory in self._memories.items():
            memory.adopt(self._service, self._share(partition))

    def heed(self, opinions: Opinions) -> None:
        """What people say now, in place of what they said before: it holds for the records to come."""
        self._opinions = opinions

    def spread(self, partitions: int) -> None:
        """The topics have so many partitions in all now: their shares of the budget follow."""
        self._partitions = partitions
        for partition, memory in self._memories.items():
            memory.allot(self._share(partition))

    def reset(self) -> None:
        """Forgets all partitions, as after losing the stream; they are assigned anew."""
        self._memories.clear()

    def release(self, partition: Partition) -> PartitionMemory | None:
        """Gives up a partition, and what was remembered of it, if anything."""
        return self._memories.pop(partition, None)

    def take_over(self, partition: Partition, memory: PartitionMemory) -> None:
        """Goes on with what another pipeline remembered of a partition."""
        if memory.version == self.version:
            memory.allot(self._share(partition))
        else:
            memory.adopt(self._service, self._share(partition))
        self._memories[partition] = memory

    def packed(self, partition: Partition) -> tuple[bytes, int]:
        """All that is remembered of a partition, and how many entities were left out, by `state.max_bytes`."""
        return packed(self._memory(partition), self._settings.state.max_bytes)

    def restore(self, partition: Partition, snapshot: bytes) -> None:
        """Remembers what `packed` gave, under this version. Raises `SnapshotError` where that makes no sense."""
        self._memories[partition] = PartitionMemory.restore(self._service, self._share(partition), unpack(snapshot))

    @property
    def bundle(self) -> Bundle:
        return self._service.bundle

    @property
    def version(self) -> str:
        return self.bundle.version

    @property
    def open_incidents(self) -> int:
        """Open incidents of all partitions."""
        return sum(len(memory.incidents) for memory in self._memories.values())

    @property
    def entities(self) -> int:
        """Entities remembered."""
        return sum(len(memory.entities) for memory in self._memories.values())

    @property
    def evicted(self) -> int:
        """Entities of these partitions forgotten so far, because there were more than `window.max_entities`."""
        return sum(memory.entities.evicted for memory in self._memories.values())

    def process(self, batch: RawBatch, *, idle_ms: float = 0.0) -> Outcome:
        """Takes a batch through the whole line; `idle_ms` is how long no record has come, where it is empty. The batch
        must be published before the next one is processed."""
        columns, letters = self._decoder.decode(batch)
        outcome = self.judge(columns, faults(self._schema, batch, letters), idle_ms=idle_ms)
        letters = [*letters, *outcome.dead_letters]
        topic, max_bytes = self._settings.dead_letter_topic, self._settings.dead_letters.max_bytes
        dead = [dead_letter_message(batch, letter, topic=topic, max_bytes=max_bytes) for letter in letters]
        lost = {partition: it for partition, it in batch.moved.items() if it.reason == "undecodable"}
        dead += [undecodable_message(it, moved.expected, moved.found, topic=topic) for it, moved in lost.items()]
        passed = {partition: Position(moved.found) for partition, moved in lost.items()}
        positions = {**passed, **{it: max(at, passed.get(it, at)) for it, at in batch.positions().items()}}
        return replace(
            outcome,
            dead_letters=letters,
            messages=[*outcome.messages, *dead],
            positions=positions,
            unprompted=outcome.unprompted - positions.keys(),
            refused=refusal(batch, letters, lambda partition: self._memory(partition).poison),
        )

    def judge(
        self, columns: Columns, faulty: Mapping[Partition, Sequence[Fault]] | None = None, *, idle_ms: float = 0.0
    ) -> Outcome:
        """Everything after decoding: of records by partition, in offset order, and of the faulty ones among them."""
        seen = self._seen(columns, faulty or {})
        judged = self._judged(columns, seen)
        scored = np.isfinite(judged.decided.static_nats)
        unscored = [] if scored.all() else columns.row[~scored].tolist()
        others = list(self._others(seen, idle_ms))
        alerts = [*self._alerts(columns, seen, judged), *(alert for _, alert in others)]
        return Outcome(
            columns=columns.take(scored) if unscored else columns,
            decided=judged.decided.take(scored) if unscored else judged.decided,
            promised=judged.promised[scored],
            ranking=judged.ranking[scored],
            alerts=alerts,
            dead_letters=[DeadLetter(row, DeadLetterReason.UNSCORABLE, "a model gave no number") for row in unscored],
            messages=[alert.message(self._settings.alerts.topic) for alert in alerts],
            positions={},
            unprompted=frozenset(partition for partition, _ in others),
            open_incidents=self.open_incidents,
            version=self.version,
            hushed=judged.hushed,
        )

    def _serve(self, bundle: Bundle) -> None:
        settings = self._settings
        self._service = Service.of(settings, bundle)
        self._schema = fields(
            bundle.encoder.features, settings.stream.entity, settings.stream.timestamp, settings.segment
        )
        self._decoder = decoder(self._schema, settings.stream.format, settings.stream.registry)
        self._scorer = Scorer(bundle.models, settings.device)
        self._relevance = Relevance(bundle.encoder, self._scorer, bundle.calibration)
        self._reasoner = Reasoner(bundle.encoder, self._scorer, bundle.calibration, settings.alerts.max_reasons)
        self._teller = Teller(settings.name, bundle.version)

    def _memory(self, partition: Partition) -> PartitionMemory:
        if partition not in self._memories:
            self._memories[partition] = PartitionMemory(self._service, self._share(partition))
        return self._memories[partition]

    def _share(self, partition: Partition) -> float:
        return self._service.share(partition, self._partitions)

    def _seen(self, columns: Columns, faulty: Mapping[Partition, Sequence[Fault]]) -> dict[Partition, Seen]:
        """What is there of each partition: those with records in the order of the columns, then all others."""
        rows = dict(columns.by_partition())
        return {
            partition: self._memory(partition).see(
                columns.take(rows.get(partition, slice(0, 0))), faulty.get(partition, ())
            )
            for partition in {**rows, **faulty, **self._memories}
        }

    def _judged(self, columns: Columns, seen: Mapping[Partition, Seen]) -> Judged:
        bundle = self._service.bundle
        x = np.concatenate(
            [
                np.empty((0, bundle.encoder.layout.window, bundle.encoder.layout.columns), np.float32),
                *(part.x for part in seen.values()),
            ]
        )
        x, scores = self._scored(x)
        calibration, places = self._service.bundle.calibration, _places(seen)
        by_model = calibration.by_model(scores)
        averages = np.concatenate(
            [
                np.empty((len(scores), len(HALF_LIVES), 0)),
                *(
                    self._memory(partition).average(part, scores[:, places[partition]])
                    for partition, part in seen.items()
                ),
            ],
            axis=-1,
        )
        nats, ranking = calibration.in_time(scores, by_model, averages)
        answers = [self._memory(partition).decide(part, nats[places[partition]]) for partition, part in seen.items()]
        said, segment = concat([levelled for levelled, _ in answers]), segments(columns, self._settings.calibration.by)
        promised = np.concatenate([np.empty(0), *(rates for _, rates in answers)])

        def explain(rows: NDArray[np.int64]) -> list[Told]:
            return self._reasoner.reasons(columns.take(rows), x[rows], by_model[:, rows], said.static_level[rows])

        doubted = self._opinions.doubt(segment, columns.time, said, explain)
        hushed = int((said.alarm & doubted).sum())
        for partition, part in seen.items():
            of_part = Levelled._make(array[places[partition]] for array in said)
            self._memory(partition).hush(part, of_part, doubted[places[partition]])
        decided = decision(nats, said, self._most_surprised(by_model))
        return Judged(x, by_model, decided, promised, segment, hushed, ranking)

    def _scored(self, x: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Rows (n, window, d) as far as they count, and each model's score of them (m, n)."""
        if not len(x):
            return x, np.empty((len(self._service.bundle.models), 0), np.float32)
        return self._relevance.judge(x, self._scorer.score(x))

    def _most_surprised(self, by_model: NDArray[np.float64]) -> NDArray[np.object_]:
        """The name (n,) of the model that said most of what they all said (m, n)."""
        names: NDArray[np.object_] = np.array([*self._service.bundle.models], object)[by_model.argmax(axis=0)]
        return names

    def _alerts(self, columns: Columns, seen: Mapping[Partition, Seen], judged: Judged) -> list[Alert]:
        transitions = [
            transition._replace(row=transition.row + place.start)
            for partition, place in _places(seen).items()
            for transition in self._memory(partition).follow(
                seen[partition], judged.decided.take(place), judged.promised[place]
            )
        ]
        alerts = [*self._told(columns, judged, [(it.row, it) for it in transitions if not it.again])]
        if amended := [it for it in transitions if it.again]:
            columns, judged = self._again(columns, judged, amended)
            rows = np.flatnonzero(np.isfinite(judged.decided.nats)).tolist()
            alerts += self._told(columns, judged, [(row, amended[row]) for row in rows])
        return [alert for _, alert in sorted(alerts, key=lambda told: told[0])]

    def _told(
        self, columns: Columns, judged: Judged, transitions: Sequence[tuple[int, Transition]]
    ) -> Iterator[tuple[int, Alert]]:
        """Alerts of transitions, each given with the row to tell of, behind the row at which it came about."""
        rows = np.array([row for row, transition in transitions if is_of_its_record(transition)], np.int64)
        told = self._reasoner.reasons(
            columns.take(rows), judged.x[rows], judged.by_model[:, rows], judged.decided.static_level[rows]
        )
        why = dict(zip(rows.tolist(), told, strict=True))
        for row, it in transitions:
            yield it.row, self._teller.incident(columns, judged.decided, judged.segment, row, it, why.get(row))

    def _again(self, columns: Columns, judged: Judged, amended: Sequence[Transition]) -> tuple[Columns, Judged]:
        """The records that are told of again, scored as they are now."""
        causes, again = np.array([it.row for it in amended], np.int64), [it.again for it in amended if it.again]
        x, scores = self._scored(np.stack([it.x for it in again]))
        by_model, nats = (
            self._service.bundle.calibration.by_model(scores),
            self._service.bundle.calibration.nats(scores),
        )
        decided = judged_again(judged.decided.take(causes), nats, self._most_surprised(by_model))
        rescored = Judged(x, by_model, decided, judged.promised[causes], judged.segment[causes], 0, nats)
        return told_again(columns.take(causes), again), rescored

    def _others(self, seen: Mapping[Partition, Seen], idle_ms: float) -> Iterator[tuple[Partition, Alert]]:
        """Alerts of kinds that likelihood does not tell of."""
        for partition, part in seen.items():
            for finding in part.findings:
                yield partition, self._teller.finding(partition, finding)
            for quiet in self._memory(partition).listen(part, idle_ms):
                yield partition, self._teller.silence(partition, quiet)


def _places(seen: Mapping[Partition, Seen]) -> dict[Partition, slice]:
    """Which rows of all are a partition's."""
    ends = np.cumsum([len(part.columns) for part in seen.values()])
    return {
        partition: slice(int(end) - len(part.columns), int(end))
        for (partition, part), end in zip(seen.items(), ends, strict=True)
    }
