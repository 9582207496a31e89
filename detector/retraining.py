"""One retraining from beginning to end: gather, clean, fit, gate, shadow, promote, watch.

Whatever goes wrong on the way, the version in service stays. What a version had to show stands in its manifest.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Literal

import structlog

from consumers.stream import Broker, Window
from detector.bundle import Bundle, Trial
from detector.challenger import challenger
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

Phase = Callable[[str], None]
"""Told where a training is: `training`, `shadow VERSION`, `watch VERSION`, and `alive` while these two go on."""


def retrain(
    settings: DetectorSettings, broker: Broker, store: Store, *, request: Request, lease: Lease, phase: Phase
) -> Report:
    """Trains a challenger and has it prove itself. Returns how that ended; raises what reading and storing raise."""
    started = datetime.now(UTC)
    report = Report(id=request.id, reason=request.reason, started=started, ended=started, outcome="refused")

    def ended(outcome: Literal["promoted", "refused", "rolled back"], told: Judgement | Finding, **more: str) -> Report:
        update = {"outcome": outcome, "reasons": told.reasons, "figures": told.figures, "ended": datetime.now(UTC)}
        return report.model_copy(update=update | more)

    phase("training")
    try:
        candidate, champion = challenger(settings, broker, store, created=started)
    except TrainingError as error:
        return ended("refused", Judgement([str(error)], {}))
    version = candidate.bundle.version
    store.save(candidate.bundle)
    _record(store, candidate.bundle, "gate", champion, candidate.gate)
    if candidate.gate.reasons:
        return ended("refused", candidate.gate, version=version)
    if champion is not None and settings.promotion.shadow:
        phase(f"shadow {version}")
        found = _trial(settings, broker, candidate.bundle, champion, started, settings.promotion.shadow, phase)
        if (least := min(settings.promotion.shadow, LEAST_RECORDS)) > found.records:
            found.reasons.append(f"{found.records} live records came in time. Expected at least {least}.")
        _record(store, candidate.bundle, "shadow", champion, found)
        if found.reasons:
            return ended("refused", found, version=version)
    lease.require()
    if store.champion() != (champion.version if champion else None):
        return ended("refused", Judgement(["another version was promoted meanwhile"], {}), version=version)
    if pinned := store.pinned():
        return ended("refused", Judgement([f"version {pinned} is pinned"], {}), version=version)
    store.promote(version, automatic=True)
    store.prune(settings.store.keep)
    log.info("promoted", version=version)
    if champion is None or not settings.promotion.watch:
        return ended("promoted", candidate.gate, version=version)
    promoted = datetime.now(UTC)
    phase(f"watch {version}")
    found = _trial(settings, broker, candidate.bundle, champion, promoted, settings.promotion.watch, phase)
    lease.require()
    _record(store, candidate.bundle, "watch", champion, found)
    if found.reasons:
        log.warning("rolled back", version=version, serves=store.withdraw(version), reasons=found.reasons)
        return ended("rolled back", found, version=version)
    return ended("promoted", found, version=version)


def _trial(
    settings: DetectorSettings,
    broker: Broker,
    version: Bundle,
    champion: Bundle,
    since: datetime,
    records: int,
    phase: Phase,
) -> Finding:
    """Both versions on the records since then, until there were so many, or `promotion.wait` has passed."""
    topics = settings.stream.topics
    both = SideBySide(settings, version, champion, sum(broker.partitions(topics).values()))
    deadline, told = time.monotonic() + settings.promotion.wait, 0.0
    for batch in broker.read(topics, Window(since_ms=round(since.timestamp() * 1000)), follow=True):
        both.judge(batch)
        now = time.monotonic()
        if now - told >= ALIVE_S:
            phase("alive")
            told = now
        if both.records >= records or now > deadline:
            break
    return both.finding()


def _record(
    store: Store,
    bundle: Bundle,
    stage: Literal["gate", "shadow", "watch"],
    against: Bundle | None,
    told: Judgement | Finding,
) -> None:
    store.add_verdict(
        bundle.version,
        Trial(
            stage=stage,
            passed=not told.reasons,
            at=datetime.now(UTC),
            against=against.version if against else None,
            reasons=told.reasons,
            figures=told.figures,
        ),
    )
