"""One retraining from beginning to end: gather, clean, fit, gate, shadow, promote, watch.

Whatever goes wrong on the way, the version in service stays. What a version had to show stands in its manifest.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Literal

import structlog

from consumers.stream import Broker, Window
from detector.bundle import Bundle, Trial
from detector.challenger import Candidate, challenger
from detector.config import DetectorSettings
from detector.errors import TrainingError
from detector.lease import Lease
from detector.proving.gate import Judgement
from detector.proving.trial import LEAST_RECORDS, Finding, SideBySide
from detector.store import Store
from detector.trainings import Report, Request

log = structlog.get_logger()

ALIVE_S = 5.0
"""How often a trial says that it goes on."""

Stage = Literal["gate", "shadow", "watch"]
Phase = Callable[[str], None]
"""Told where a training is: `training`, `shadow VERSION`, `watch VERSION`, and `alive` while these two go on."""


Told = Judgement | Finding


def retrain(
    settings: DetectorSettings, broker: Broker, store: Store, *, request: Request, lease: Lease, phase: Phase
) -> Report:
    """Trains a challenger and has it prove itself. Returns how that ended; raises what reading and storing raise."""
    started, before = datetime.now(UTC), store.champion()

    def ended(outcome: Literal["promoted", "refused", "rolled back"], told: Told, version: str | None = None) -> Report:
        report = Report.of(request, started, outcome, "", version=version)
        return report.model_copy(update={"reasons": told.reasons, "figures": told.figures})

    phase("training")
    try:
        candidate, champion = challenger(settings, broker, store, created=started)
    except TrainingError as error:
        return ended("refused", Judgement([str(error)], {}))
    version = candidate.bundle.version
    store.save(candidate.bundle)
    trials = _Trials(settings, broker, store, candidate, champion, phase)
    for told in trials.before(started):
        if told.reasons:
            return ended("refused", told, version)
    lease.require()
    if hindered := _hindered(store, before):
        return ended("refused", Judgement([hindered], {}), version)
    store.promote(version, automatic=True)
    store.prune(settings.store.keep)
    log.info("promoted", version=version)
    told = trials.after(datetime.now(UTC))
    lease.require()
    if told.reasons:
        log.warning("rolled back", version=version, serves=store.withdraw(version), reasons=told.reasons)
        return ended("rolled back", told, version)
    return ended("promoted", told, version)


def _hindered(store: Store, before: str | None) -> str | None:
    """Why nothing is to be promoted now, whatever it is worth."""
    if store.champion() != before:
        return "another version was promoted meanwhile"
    pinned = store.pinned()
    return f"version {pinned} is pinned" if pinned else None


class _Trials:
    """What a version has to show; it stands in its manifest at once."""

    def __init__(
        self,
        settings: DetectorSettings,
        broker: Broker,
        store: Store,
        candidate: Candidate,
        champion: Bundle | None,
        phase: Phase,
    ) -> None:
        self._settings, self._broker, self._store = settings, broker, store
        self._candidate, self._champion, self._phase = candidate, champion, phase

    def before(self, since: datetime) -> Iterator[Told]:
        """The gate, and the shadow on the records since then."""
        yield self._recorded("gate", self._candidate.gate)
        records = self._settings.promotion.shadow
        if self._champion is not None and records:
            told = self._side_by_side("shadow", self._champion, since, records)
            if told.records < (least := min(records, LEAST_RECORDS)):
                told.reasons.append(f"{told.records} live records came in time. Expected at least {least}.")
            yield self._recorded("shadow", told)

    def after(self, since: datetime) -> Told:
        """The watch, on the records since the promotion; what the gate said where there is nothing to compare with."""
        records = self._settings.promotion.watch
        if self._champion is None or not records:
            return self._candidate.gate
        return self._recorded("watch", self._side_by_side("watch", self._champion, since, records))

    def _side_by_side(self, stage: Stage, champion: Bundle, since: datetime, records: int) -> Finding:
        """Both versions on the records since then, until there were so many, or `promotion.wait` has passed."""
        self._phase(f"{stage} {self._candidate.bundle.version}")
        topics = self._settings.stream.topics
        partitions = sum(self._broker.partitions(topics).values())
        both = SideBySide(self._settings, self._candidate.bundle, champion, partitions)
        deadline, told = time.monotonic() + self._settings.promotion.wait, 0.0
        for batch in self._broker.read(topics, Window(since_ms=round(since.timestamp() * 1000)), follow=True):
            both.judge(batch)
            now = time.monotonic()
            if now - told >= ALIVE_S:
                self._phase("alive")
                told = now
            if both.records >= records or now > deadline:
                break
        return both.finding()

    def _recorded(self, stage: Stage, told: Told) -> Told:
        against = self._champion.version if self._champion else None
        trial = Trial(
            stage=stage,
            passed=not told.reasons,
            at=datetime.now(UTC),
            against=against,
            reasons=told.reasons,
            figures=told.figures,
        )
        self._store.add_verdict(self._candidate.bundle.version, trial)
        return told
