"""The version that a detector begins with: the daemon trains it itself, as there is nothing to serve meanwhile."""

from __future__ import annotations

import threading
from datetime import UTC, datetime

import structlog

from consumers.errors import Retry
from consumers.stream import Broker
from detector.bundle import Bundle
from detector.challenger import challenger
from detector.config import DetectorSettings
from detector.errors import TrainingError
from detector.health import Health
from detector.lease import SETTLE_S, Lease
from detector.store import Store
from detector.trainings import Report, Request, Trainings

log = structlog.get_logger()

LOOK_AGAIN_S = 2.0
"""How often records to train on are looked for (seconds)."""


def champion(settings: DetectorSettings, store: Store) -> Bundle | None:
    """The version to serve; None where there is none and the settings have `run` train the first."""
    if (bundle := store.servable()) is not None:
        bundle.require_fit(settings)
        return bundle
    if not settings.training.on_start:
        raise TrainingError(
            f"The store {store.url} holds no version of '{settings.name}'. "
            "Run `offnominal train`, or set training.on_start: true."
        )
    return None


class FirstVersion:
    """Trains it on one replica, while the others wait for it."""

    def __init__(
        self, settings: DetectorSettings, broker: Broker, store: Store, health: Health, stopping: threading.Event
    ) -> None:
        self._settings = settings
        self._broker = broker
        self._store = store
        self._health = health
        self._stopping = stopping

    def await_it(self) -> Bundle | None:
        """The first version, trained here or by another replica; None when stopped before."""
        lease = Lease(self._store)
        while not self._stopping.is_set():
            self._health.enter("waiting", "another replica may be training the first version")
            if (bundle := champion(self._settings, self._store)) is not None:
                return bundle
            if lease.take():
                with lease.kept():
                    return self._train_until_there()
            self._stopping.wait(SETTLE_S)
        return None

    def _train_until_there(self) -> Bundle | None:
        """Trains it as soon as the topics hold enough records."""
        told = ""
        while not self._stopping.is_set():
            self._health.enter("training", "first version")
            try:
                return self._train()
            except (TrainingError, Retry) as error:
                if self._settings.training.files:
                    raise
                if str(error) != told:
                    log.warning("waiting for records to train on", reason=str(error))
                told = str(error)
                self._health.enter("waiting", told)
                self._stopping.wait(LOOK_AGAIN_S)
        return None

    def _train(self) -> Bundle:
        started = datetime.now(UTC)
        candidate, _ = challenger(
            self._settings, self._broker, self._store, created=started, progress=self._interrupted
        )
        bundle = candidate.bundle
        verdict = bundle.manifest.verdict
        for warning in verdict.warnings:
            log.warning(warning)
        if not verdict.sound:
            log.warning("the first version serves for want of a better one", reasons=verdict.reasons)
        self._store.save(bundle)
        self._store.promote(bundle.version)
        Trainings(self._store).done(
            Report.of(Request(reason="start"), started, "promoted", "; ".join(verdict.reasons), version=bundle.version)
        )
        log.info("trained", version=bundle.version, records=bundle.manifest.data.records)
        return bundle

    def _interrupted(self, _fraction: float, _message: str) -> None:
        """A progress of training that ends it when the daemon is to stop."""
        if self._stopping.is_set():
            raise TrainingError("stopped while training")
