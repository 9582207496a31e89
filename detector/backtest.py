"""What would have fired: records of the past through the pipeline itself, under one budget or several side by side."""

from __future__ import annotations

import heapq
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import NamedTuple, Self

import numpy as np
from pydantic import BaseModel, ConfigDict

from consumers.batch import Columns, RawBatch
from detector.alerts import SEVERITIES, Severity, event_time
from detector.budget import DEFAULT_RATE
from detector.bundle import Bundle, DataWindow
from detector.config import DetectorSettings
from detector.entities import segments
from detector.errors import NotEnoughRows
from detector.incident_log import IncidentLog, LoggedIncident, count
from detector.pipeline import Outcome, Pipeline
from detector.replay import Replay
from detector.timeline import Timeline
from models.base import Progress, silent

MOST_ENTITIES = 10
MOST_SEGMENTS = 20
FEWEST_PROMISED = 1.0
"""Alarms that a segment must have been promised for its rate to be compared with the promise; fewer tell nothing."""
TELLING = 3.0
"""The same for all records together, below which a warning is given."""


class _Figures(BaseModel):
    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)


class EntityFigures(_Figures):
    """How many incidents an entity had, and what share of all that is."""

    entity: str
    incidents: int
    share: float


class SegmentFigures(_Figures):
    """How often a segment of `calibration.by` raised alarms, and how many times the promised rate that is."""

    segment: str
    records: int
    alarms: int
    realised_rate: float
    ratio: float


class BudgetFigures(_Figures):
    """What would have fired under one budget. Rates are alarms per record."""

    budget: str
    """In the user's words: `3/day`, `0.001`."""
    promised_rate: float
    realised_rate: float
    promised_per_day: float
    alarms_per_day: float
    alarms: int
    elevated: int
    """Records beyond the level within an excursion; the budget does not bound them."""
    incidents: int
    incidents_per_day: float
    by_severity: dict[Severity, int]
    alerts: dict[str, int]
    """By kind; drift and creep among them."""
    entities: list[EntityFigures]
    """Those with the most incidents."""
    by_segment: list[SegmentFigures]
    """Those with the largest ratio to the promise, out of all that were promised an alarm."""
    longest: LoggedIncident | None
    listed: list[LoggedIncident]
    """Incidents in order of time; the most unlikely ones where there are too many."""


class BacktestFigures(_Figures):
    """The result, the budgets in the order in which they were asked for."""

    detector: str
    version: str
    trained_here: bool
    """Whether the version was made of the records before these, for this result alone."""
    records: int
    trained_on: int
    """How many of them the version was trained on."""
    first: datetime
    last: datetime
    days: float
    """Event time that the records span, but for the outermost thousandth at either end."""
    dead_letters: dict[str, int]
    """By reason."""
    warnings: list[str]
    budgets: list[BudgetFigures]


class Backtest(NamedTuple):
    """The result, and a timeline a budget for pictures of it."""

    figures: BacktestFigures
    timelines: list[Timeline]


class Findings:
    """What came of records under each of the budgets. Small, however many records there were: memory grows with the
    number of entities, up to a limit."""

    def __init__(self, budgets: Sequence[DetectorSettings]) -> None:
        self.tallies = [_Tally(settings) for settings in budgets]
        self.dead_letters = Counter[str]()
        self.trained_on = 0

    @classmethod
    def of(cls, budgets: Sequence[DetectorSettings], past: Replay, *, progress: Progress = silent) -> Self:
        """Judges the records under each of the budgets. What comes of it does not depend on how they are cut into
        stretches."""
        found = cls(budgets)
        pipelines = [Pipeline(settings, past.bundle, partitions=past.partitions) for settings in budgets]
        for records, dropped, done in past.stretches:
            outcomes = [_judged(pipeline, records) for pipeline in pipelines]
            for tally, outcome in zip(found.tallies, outcomes, strict=True):
                tally.count(outcome)
            found.dead_letters.update(dropped)
            found.dead_letters.update(str(letter.reason) for letter in outcomes[0].dead_letters)
            if not past.trained_here:
                found.trained_on += _trained_on(past.bundle.manifest.data, outcomes[0].columns)
            progress(done, f"{found.records:,} records judged")
        return found

    @property
    def records(self) -> int:
        """How many were judged."""
        return self.tallies[0].records

    def add(self, other: Findings) -> None:
        """With what came of other partitions under the same budgets."""
        for tally, own in zip(self.tallies, other.tallies, strict=True):
            tally.add(own)
        self.dead_letters.update(other.dead_letters)
        self.trained_on += other.trained_on

    def told(self, bundle: Bundle, *, trained_here: bool) -> Backtest:
        """The result. Raises `NotEnoughRows` where there was no record to judge."""
        if not self.records:
            raise NotEnoughRows(f"There is no record to judge; left out: {dict(self.dead_letters) or 'none'}.")
        first, *_ = self.tallies
        budgets = [tally.figures() for tally in self.tallies]
        figures = BacktestFigures(
            detector=bundle.manifest.detector,
            version=bundle.version,
            trained_here=trained_here,
            records=self.records,
            trained_on=self.trained_on,
            first=event_time(first.first),
            last=event_time(first.last),
            days=first.timeline.days,
            dead_letters=dict(self.dead_letters),
            warnings=_doubts(bundle, trained_here, self.records, self.trained_on, budgets),
            budgets=budgets,
        )
        return Backtest(figures, [tally.timeline for tally in self.tallies])


def backtest(budgets: Sequence[DetectorSettings], past: Replay, *, progress: Progress = silent) -> Backtest:
    """Judges the records under each of the budgets: settings that differ in `alerts.rate` and `false_alarms` alone.

    Raises `NotEnoughRows` where there is no record to judge.
    """
    return Findings.of(budgets, past, progress=progress).told(past.bundle, trained_here=past.trained_here)


def summary(figures: BacktestFigures) -> list[tuple[str, list[str]]]:
    """The figures to show side by side: what each is, and it under each of the budgets."""

    def row(label: str, told: Callable[[BudgetFigures], str]) -> tuple[str, list[str]]:
        return label, [told(budget) for budget in figures.budgets]

    return [
        row("alarms promised, of records", lambda it: f"{it.promised_rate:.3%}"),
        row("alarms raised, of records", lambda it: f"{it.realised_rate:.3%}"),
        row("alarms promised a day", lambda it: f"{it.promised_per_day:.3g}"),
        row("alarms raised a day", lambda it: f"{it.alarms_per_day:.3g}"),
        row("alarms", lambda it: f"{it.alarms:,}"),
        row("elevated records", lambda it: f"{it.elevated:,}"),
        row("incidents", lambda it: f"{it.incidents:,}"),
        row("incidents a day", lambda it: f"{it.incidents_per_day:.3g}"),
        row("critical, major, minor", lambda it: ", ".join(f"{count:,}" for count in it.by_severity.values())),
        row("drift, creep", lambda it: f"{it.alerts.get('drift', 0):,}, {it.alerts.get('creep', 0):,}"),
        row("longest incident", lambda it: it.longest.lasted if it.longest else "-"),
    ]


class _Tally:
    """Counts what comes of records under one budget."""

    def __init__(self, settings: DetectorSettings) -> None:
        self._settings = settings
        self._log = IncidentLog()
        self._records_of, self._alarms_of = Counter[str](), Counter[str]()
        self._promised, self._alarms, self._elevated = 0.0, 0, 0
        self.timeline = Timeline.empty()
        self.records, self.first, self.last = 0, sys.maxsize, 0

    def count(self, outcome: Outcome) -> None:
        columns, decided = outcome.columns, outcome.decided
        self.records += len(columns)
        self.first = int(columns.time.min(initial=self.first))
        self.last = int(columns.time.max(initial=self.last))
        self._promised += float(outcome.promised.sum())
        self._alarms += int(decided.alarm.sum())
        self._elevated += int(decided.elevated.sum())
        names = segments(columns, self._settings.calibration.by)
        count(self._records_of, names.tolist())
        count(self._alarms_of, names[decided.alarm].tolist())
        for alert in outcome.alerts:
            self._log.hear(alert)
        opened = [round(alert.time.timestamp() * 1000) for alert in outcome.alerts if alert.kind == "opened"]
        self.timeline = self.timeline.extended(
            columns.time,
            promised=outcome.promised,
            alarm=decided.alarm,
            nats=decided.nats,
            level=decided.level,
            opened=opened,
        )

    def add(self, other: _Tally) -> None:
        """Of records of other partitions."""
        self.records += other.records
        self.first, self.last = min(self.first, other.first), max(self.last, other.last)
        self._promised += other._promised
        self._alarms += other._alarms
        self._elevated += other._elevated
        count(self._records_of, other._records_of)
        count(self._alarms_of, other._alarms_of)
        self._log.add(other._log)
        self.timeline = self.timeline.joined(other.timeline)

    def figures(self) -> BudgetFigures:
        alerts, days, log = self._settings.alerts, self.timeline.days, self._log
        log.close(event_time(min(self.last, self.timeline.span[1])))
        incidents = log.by_kind["opened"]
        return BudgetFigures(
            budget=alerts.false_alarms or f"{DEFAULT_RATE if alerts.rate is None else alerts.rate:g}",
            promised_rate=self._promised / self.records,
            realised_rate=self._alarms / self.records,
            promised_per_day=self._promised / days,
            alarms_per_day=self._alarms / days,
            alarms=self._alarms,
            elevated=self._elevated,
            incidents=incidents,
            incidents_per_day=incidents / days,
            by_severity={severity: log.by_severity[severity] for severity in reversed(SEVERITIES)},
            alerts=dict(log.by_kind),
            entities=[
                EntityFigures(entity=entity, incidents=own, share=own / incidents)
                for entity, own in heapq.nsmallest(MOST_ENTITIES, log.by_entity.items(), key=lambda it: (-it[1], it[0]))
            ],
            by_segment=self._by_segment(self._promised / self.records),
            longest=log.longest,
            listed=log.incidents,
        )

    def _by_segment(self, promised_rate: float) -> list[SegmentFigures]:
        rates = (
            SegmentFigures(
                segment=name,
                records=records,
                alarms=self._alarms_of[name],
                realised_rate=self._alarms_of[name] / records,
                ratio=self._alarms_of[name] / records / promised_rate,
            )
            for name, records in self._records_of.items()
            if promised_rate * records >= FEWEST_PROMISED
        )
        return heapq.nsmallest(MOST_SEGMENTS, rates, key=lambda figures: (-figures.ratio, figures.segment))


def _judged(pipeline: Pipeline, records: RawBatch | Columns) -> Outcome:
    return pipeline.process(records) if isinstance(records, RawBatch) else pipeline.judge(records)


def _trained_on(data: DataWindow, columns: Columns) -> int:
    """How many of the records lie in the time that a version was trained on, before the offsets where that ended."""
    ends = data.end_positions()
    end = np.array([ends.get(partition, sys.maxsize) for partition in columns.partitions], np.int64)
    within = (columns.time >= data.first_ms) & (columns.time <= data.last_ms)
    return int((within & (columns.offsets < end[columns.partition])).sum())


def _doubts(
    bundle: Bundle, trained_here: bool, records: int, trained_on: int, figures: Sequence[BudgetFigures]
) -> list[str]:
    """What to know before the figures are believed."""
    verdict, doubts = bundle.manifest.verdict, []
    if trained_on:
        doubts.append(
            f"Version {bundle.version} was trained on {trained_on:,} of these {records:,} records: figures on "
            f"training records flatter. Take later records, or --train-share."
        )
    if trained_here:
        doubts += [*verdict.reasons, *verdict.warnings]
    for budget in figures:
        if (promised := budget.promised_rate * records) < TELLING:
            doubts.append(
                f"Budget {budget.budget} promises {promised:.2g} alarms here in all: too few to tell if it is kept."
            )
    return doubts
