"""What one partition remembers, and what its records are measured against; it moves with the partition."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from consumers.batch import Columns, Partition
from consumers.faults import Fault
from detector.alerts import severity_rank
from detector.budget import Allowance, Budget
from detector.bundle import Bundle
from detector.compiled import compiled
from detector.config import AlertSettings, DetectorSettings
from detector.entities import EntityTable, Visits, everybody, grown, segments
from detector.incidents import Decided, Incidents, Transition
from detector.lapses import Moment
from detector.level import Levels, Start
from detector.mute import MuteCalendar, hush
from detector.novelty import Finding, Novelty
from detector.novelty_rules import NoveltyRules
from detector.outbreaks import Outbreaks
from detector.recursion import Levelled
from detector.rhythm import TOPIC
from detector.silence import Silences, SilenceWatch
from detector.windows import EntityHistory, Late


class Service(NamedTuple):
    """What one version brings, for all partitions alike. `share` is not among it: each partition has its own."""

    settings: DetectorSettings
    bundle: Bundle
    budget: Budget
    start: Start
    rules: NoveltyRules
    mute: MuteCalendar
    watch_silence: bool

    @classmethod
    def of(cls, settings: DetectorSettings, bundle: Bundle) -> Service:
        budget = bundle.manifest.data.budget(settings.alerts)
        return cls(
            settings,
            bundle,
            budget,
            Start.fit(bundle.rows, rate=budget.rate, adapt=settings.calibration.level == "online"),
            NoveltyRules(bundle.encoder, bundle.manifest.novelty, rate=budget.beside, entity=settings.stream.entity),
            MuteCalendar.from_settings(settings.alerts.mute),
            bundle.manifest.steady if settings.alerts.silence == "auto" else settings.alerts.silence,
        )

    def share(self, partition: Partition, partitions: int) -> float:
        """The partition's part of the budget."""
        return self.budget.share(partition, self.bundle.manifest.data.records_by_partition(), partitions)


class Seen(NamedTuple):
    """Records of one partition on their way: where their entities live, what a model sees of them (n, window, d), what
    is late, and the novelties among them."""

    columns: Columns
    visits: Visits
    x: NDArray[np.float32]
    late: Late
    findings: list[Finding]


class Quiet(NamedTuple):
    """An entity that fell silent, or (`over`) is heard again; `entity` is empty where it is many at once."""

    entity: str
    over: bool
    at: Moment
    since: Moment
    entities: int


class PartitionMemory:
    """Takes the records of one partition through everything that has memory, in offset order."""

    def __init__(self, service: Service, share: float) -> None:
        most = service.settings.window.max_entities
        self._service = service
        self.entities, self._segments = EntityTable(most), EntityTable(most)
        self._history = EntityHistory(service.bundle.encoder, service.settings.window.late_for)
        self._allowance = Allowance(service.budget, share)
        self._levels = Levels(service.start)
        self.incidents = Incidents(service.settings.alerts)
        self.outbreaks = _outbreaks(service.settings.alerts)
        self._novelty = Novelty(service.rules)
        self._silence = SilenceWatch()
        self._last_offset = np.zeros(0, np.int64)
        self._silent: dict[int, tuple[str, Moment]] = {}
        self._hushed = np.zeros(0, np.bool_)
        self._reach: dict[str, NDArray[np.int64]] = {}

    def adopt(self, service: Service, share: float) -> None:
        """Another version takes over: windows are carried into its scale, levels begin where it was calibrated, what is
        open stays open."""
        self._service = service
        self._history.adopt(service.bundle.encoder)
        self._allowance.allot(service.budget, share)
        self._levels.adopt(service.start)
        self._novelty.adopt(service.rules)

    def see(self, columns: Columns, faults: Sequence[Fault]) -> Seen:
        """Takes in decoded records, and the faulty ones among them. What was told to be gone surprises nobody more."""
        visits = self.entities.locate(columns.entity) if len(columns) else everybody(self.entities, 0)
        x, late = self._history.windows(columns, visits)
        if not self._service.settings.alerts.novelty:
            return Seen(columns, visits, x, late, [])
        found = self._novelty.update(columns, x[:, -1], faults)
        self._excuse(x, visits, found.gone)
        return Seen(columns, visits, x, late, [it for it in found.findings if not self._muted(it.opened.time)])

    def decide(self, seen: Seen, nats: NDArray[np.float64]) -> tuple[Levelled, NDArray[np.float64]]:
        """What the level says of −ln p (n,), with the rates (n,) that were promised. Nothing is beyond it in mutes."""
        by, columns, visits = self._service.settings.calibration.by, seen.columns, seen.visits
        names = segments(columns, by)
        places = visits
        if by == "all":
            places = everybody(self._segments, len(names))
        elif by != "entity" and len(names):
            places = self._segments.locate(names)
        rates = self._allowance.rates(columns.time)
        levelled = self._levels.decide(nats, rates, visits, places, names)
        if self._service.mute and len(columns):
            self._hushed = grown(self._hushed, int(visits.slot.max()) + 1)
            hush(self._service.mute.muted(columns.time), visits, levelled, self._hushed)
        return levelled, rates

    def follow(self, seen: Seen, decided: Decided, promised: NDArray[np.float64]) -> list[Transition]:
        """What is told of what the records did to incidents, with the rates (n,) that were promised."""
        found = self.incidents.update(seen.columns, decided, seen.visits, seen.late)
        return self.outbreaks.update(seen.columns, found, promised, seen.visits)

    def listen(self, seen: Seen, idle_ms: float) -> list[Quiet]:
        """Entities that fell silent or are heard again; `idle_ms` is how long no record has come, if none did now."""
        if not self._service.watch_silence:
            return []
        columns, visits = seen.columns, seen.visits
        if not len(columns):
            return [*self._quiet(self._silence.overdue(self._silence.clock_ms + idle_ms), seen)]
        for slot in visits.slot[visits.fresh].tolist():
            self._silent.pop(slot, None)
        rate = np.full(len(columns), self._service.budget.beside)
        found = self._silence.observe(visits.slot, visits.fresh, columns.time, rate)
        quiet = [*self._quiet(found, seen)]
        last = visits.last()
        self._last_offset = grown(self._last_offset, int(visits.slot.max()) + 1)
        self._last_offset[visits.slot[last]] = columns.offsets[last]
        return quiet

    def _excuse(self, x: NDArray[np.float32], visits: Visits, gone: Mapping[str, NDArray[np.bool_]]) -> None:
        """Takes fields that were told to be gone out of the windows x (n, window, d), as long as these reach back to a
        record that lacks one: its return would surprise as its loss did, once an entity."""
        encoder = self._service.bundle.encoder
        for field in {feature.name for feature in encoder.features} & (gone.keys() | self._reach.keys()):
            reach = grown(self._reach.get(field, np.zeros(0, np.int64)), int(visits.slot.max(initial=-1)) + 1)
            rows = gone.get(field, np.zeros(len(x), np.bool_)).copy()
            _reaching(visits, encoder.window, reach, rows)
            x[rows] = encoder.excused(x[rows], field)
            self._reach[field] = reach
        self._reach = {field: reach for field, reach in self._reach.items() if reach.any()}

    def _quiet(self, found: Silences, seen: Seen) -> Iterator[Quiet]:
        for row, slot, last, since_ms, lasted_ms, entities, over in zip(
            *(part.tolist() for part in found), strict=True
        ):
            if over:
                if (known := self._silent.pop(slot, None)) is not None:
                    entity, since = known
                    at = Moment(int(seen.columns.offsets[row]), int(seen.columns.time[row]))
                    yield Quiet(entity, True, at, since, entities)
                continue
            if slot == TOPIC:
                entity, offset = (
                    "",
                    int(seen.columns.offsets[row]) if row >= 0 else int(self._last_offset.max(initial=0)),
                )
            elif last >= 0:
                entity, offset = seen.columns.entity[last], int(seen.columns.offsets[last])
            else:
                entity, offset = self.entities.owner(slot), int(self._last_offset[slot])
            if not self._muted(since_ms + lasted_ms):
                since = Moment(offset, since_ms)
                self._silent[slot] = entity, since
                yield Quiet(entity, False, Moment(offset, since_ms + lasted_ms), since, entities)

    def _muted(self, *times: int) -> bool:
        return bool(self._service.mute) and bool(self._service.mute.muted(np.array(times, np.int64)).any())


@compiled
def _reaching(visits: Visits, window: int, reach: NDArray[np.int64], rows: NDArray[np.bool_]) -> None:
    """Adds to some rows (n,) those whose windows hold one of them. `reach` remembers, by slot, how many more do."""
    for i in range(len(rows)):
        slot = visits.slot[i]
        left = 0 if visits.fresh[i] else reach[slot]
        reach[slot] = window - 1 if rows[i] else max(0, left - 1)
        rows[i] = rows[i] or left > 0


def _outbreaks(alerts: AlertSettings) -> Outbreaks:
    return Outbreaks(
        entities=alerts.together.entities,
        within_ms=round(alerts.together.within * 1000),
        quiet_ms=round(alerts.quiet_for * 1000),
        remind_ms=None if alerts.remind_after is None else round(alerts.remind_after * 1000),
    )


def decision(nats: NDArray[np.float64], said: Levelled, model: NDArray[np.object_]) -> Decided:
    """All that was decided of n records, out of −ln p (n,), what the level said, and the most surprised models (n,)."""
    return Decided(static_nats=nats, model=model, rank=severity_rank(said.nats, said.level), **said._asdict())
