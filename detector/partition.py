"""What one partition remembers, and what its records are measured against; it moves with the partition."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from consumers.batch import Columns, Partition
from consumers.compiled import compiled
from consumers.faults import Fault
from detector.alerts import severity_rank
from detector.averages import Averages
from detector.budget import Allowance, Budget
from detector.bundle import Bundle
from detector.config import AlertSettings, DetectorSettings
from detector.entities import EntityTable, Visits, everybody, grown, of_slots, renumbered, segments
from detector.errors import SnapshotError
from detector.incidents import Decided, Incidents, Transition
from detector.lapses import Moment
from detector.level import Levels, Start
from detector.mute import MuteCalendar, hush
from detector.novelty import Finding, Novelty
from detector.novelty_rules import NoveltyRules
from detector.outbreaks import Outbreaks
from detector.poison import PoisonWatch
from detector.recursion import Levelled
from detector.rhythm import TOPIC
from detector.silence import Silences, SilenceWatch
from detector.snapshot import State, to_columns, to_rows
from detector.windows import EntityHistory, Late

SILENT = ("slot", "entity", "offset", "time")


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

    @property
    def shaping(self) -> dict[str, str]:
        """The settings by which it is settled what a memory means: one of others cannot go on. It follows the rest."""
        level = "online" if self.start.adapt else f"static at a rate of {self.budget.rate!r}"
        return {
            "calibration.by": self.settings.calibration.by,
            "calibration.level": level,
            "alerts.together.within": f"{self.settings.alerts.together.within!r} s",
        }

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
        self._averages = Averages(service.bundle.calibration.usual)
        self._levels = Levels(service.start)
        self.incidents = Incidents(service.settings.alerts)
        self.outbreaks = _outbreaks(service.settings.alerts)
        self._novelty = Novelty(service.rules)
        self._silence = SilenceWatch()
        self.poison = PoisonWatch(service.settings.dead_letters)
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
        self._averages.adopt(service.bundle.calibration.usual)
        self._levels.adopt(service.start)
        self._novelty.adopt(service.rules)
        self._keep_watched()

    def allot(self, share: float) -> None:
        """Another share of the budget."""
        self._allowance.allot(self._service.budget, share)

    @property
    def version(self) -> str:
        return self._service.bundle.version

    def dispensable(self) -> NDArray[np.int64]:
        """Slots of all entities, the most dispensable first: those without an open incident or a part in an outbreak,
        then the others, and of each who was not seen for longest."""
        order = self.entities.order()
        troubled = np.isin(order, [*self.incidents.slots, *self.outbreaks.slots])
        return order[np.argsort(troubled, kind="stable")]

    def to_state(self, slots: NDArray[np.int64] | None = None) -> State:
        """A copy of what is remembered between two batches. Where slots are given, in ascending order, of the entities
        in these, and of as many segments or as great a part of them: what is left out begins anew."""
        slots = np.arange(len(self.entities)) if slots is None else slots
        places = self._places(len(slots))
        own = self._service.settings.calibration.by == "entity"
        return {
            "version": self.version,
            "settings": [*self._service.shaping.items()],
            "entities": self.entities.to_state(slots),
            "segments": self._segments.to_state(places),
            "history": self._history.to_state(slots),
            "allowance": self._allowance.to_state(),
            "averages": self._averages.to_state(slots),
            "levels": self._levels.to_state(slots, slots if own else places),
            "incidents": self.incidents.to_state(slots),
            "outbreaks": self.outbreaks.to_state(slots),
            "novelty": self._novelty.to_state(),
            "silence": self._silence.to_state(slots),
            "poison": self.poison.to_state(),
            "silent": to_columns(SILENT, self._silent_rows(slots)),
            "last_offset": of_slots(self._last_offset, slots),
            "hushed": of_slots(self._hushed, slots),
            "excused": [*self._reach],
            "reach": np.array([of_slots(reach, slots) for reach in self._reach.values()], np.int64),
        }

    @classmethod
    def restore(cls, service: Service, share: float, state: State) -> Self:
        """Goes on where `to_state` stood, under the same version: what comes of further records is what would have.

        Raises `SnapshotError` for a state of another version, of settings under which it meant something else, or that
        does not fit together. Where `window.max_entities` has been lowered, only so many are taken.
        """
        try:
            _require_fit(service, state)
            memory = cls(service, share)
            memory._restore(state)
        except (LookupError, ValueError, TypeError, AttributeError) as error:
            raise SnapshotError(f"Snapshot does not fit together: {error!r}") from error
        most = service.settings.window.max_entities
        if max(len(memory.entities), len(memory._segments)) > most:
            return cls.restore(service, share, memory.to_state(np.sort(memory.dispensable()[-most:])))
        return memory

    def _places(self, entities: int) -> NDArray[np.int64]:
        """Slots of the segments to keep beside so many entities, in ascending order: those that were seen last."""
        there, order = len(self._segments), self._segments.order()
        part = math.ceil(there * entities / max(1, len(self.entities)))
        room = min(max(entities, part), self._service.settings.window.max_entities)
        return np.sort(order[max(0, there - room) :])

    def _restore(self, state: State) -> None:
        self.entities.restore(state["entities"])
        self._segments.restore(state["segments"])
        self._history.restore(state["history"])
        self._allowance.restore(state["allowance"])
        self._averages.restore(state["averages"])
        self._levels.restore(state["levels"])
        self.incidents.restore(state["incidents"])
        self.outbreaks.restore(state["outbreaks"])
        self._novelty.restore(state["novelty"])
        self._silence.restore(state["silence"])
        self.poison.restore(state["poison"])
        rows = to_rows(SILENT, state["silent"])
        self._silent = {slot: (entity, Moment(offset, time)) for slot, entity, offset, time in rows}
        self._last_offset, self._hushed = state["last_offset"].copy(), state["hushed"].copy()
        self._reach = dict(zip(state["excused"], state["reach"].copy(), strict=True))
        self._keep_watched()

    def see(self, columns: Columns, faults: Sequence[Fault]) -> Seen:
        """Takes in decoded records, and the faulty ones among them. What was told to be gone surprises nobody more."""
        visits = self.entities.locate(columns.entity)
        x, late = self._history.windows(columns, visits)
        if not self._service.settings.alerts.novelty:
            return Seen(columns, visits, x, late, [])
        found = self._novelty.update(columns, x[:, -1], faults)
        self._excuse(x, visits, found.gone)
        return Seen(columns, visits, x, late, [it for it in found.findings if not self._muted(it.opened.time)])

    def average(self, seen: Seen, scores: NDArray[np.float32]) -> NDArray[np.float64]:
        """The averages (m, half-lives, n) of what models said of the entities lately, with these scores (m, n)."""
        return self._averages.update(scores, seen.visits)

    def decide(self, seen: Seen, nats: NDArray[np.float64]) -> tuple[Levelled, NDArray[np.float64]]:
        """What the level says of −ln p (n,), with the rates (n,) that were promised."""
        by, columns, visits = self._service.settings.calibration.by, seen.columns, seen.visits
        names = segments(columns, by)
        places = visits
        if by == "all":
            places = everybody(self._segments, len(names))
        elif by != "entity":
            places = self._segments.locate(names)
        rates = self._allowance.rates(columns.time)
        return self._levels.decide(nats, rates, visits, places, names), rates

    def hush(self, seen: Seen, said: Levelled, doubted: NDArray[np.bool_]) -> None:
        """Takes back what the level said of records in mutes, and of the doubted ones (n,) but that a drift was
        recognised. What goes on beyond these becomes an alarm there."""
        if not len(doubted) or not (self._service.mute or doubted.any() or self._hushed.any()):
            return
        muted = self._service.mute.muted(seen.columns.time)
        drift = np.where(muted, 0, said.drift)
        self._hushed = grown(self._hushed, int(seen.visits.slot.max()) + 1)
        hush(muted | doubted, seen.visits, said, self._hushed)
        said.drift[:] = drift

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

    def _silent_rows(self, slots: NDArray[np.int64]) -> Iterator[tuple[int, str, int, int]]:
        """Who is told to be silent, of these slots and of all together."""
        together = {TOPIC: self._silent[TOPIC]} if TOPIC in self._silent else {}
        for slot, (entity, since) in {**renumbered(self._silent, slots), **together}.items():
            yield slot, entity, *since

    def _keep_watched(self) -> None:
        """Rhythms go on only while they are heard: those of a while ago would take every entity for silent."""
        if not self._service.watch_silence:
            self._silence, self._silent = SilenceWatch(), {}

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


def _require_fit(service: Service, state: State) -> None:
    """Raises `SnapshotError` where the state was made for something else."""
    now = {"version": service.bundle.version, **service.shaping}
    was = {"version": state["version"], **dict(state["settings"])}
    if differences := [f"{key} {was.get(key)!r}, not {now[key]!r}" for key in now if was.get(key) != now[key]]:
        raise SnapshotError(f"Snapshot was made under {'; '.join(differences)}.")


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
