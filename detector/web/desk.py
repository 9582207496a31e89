"""What the people on call see, put together from what the daemon knows: the API says it, the dashboard shows it."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from datetime import datetime

import numpy as np

from consumers.stream import Broker
from detector import __version__
from detector.budget import DEFAULT_RATE
from detector.bundle import Bundle
from detector.config import DetectorSettings
from detector.daemon import Daemon
from detector.errors import BundleError
from detector.history.around import surroundings
from detector.history.book import MOST_INCIDENTS, Book, KnownIncident
from detector.standings import Standing, standings
from detector.store import Store
from detector.trainings import Trainings
from detector.web.incident_views import DAY_MS, in_lanes, listed, milliseconds, opinion, row, similar
from detector.web.views import (
    Around,
    BudgetView,
    CheckView,
    DeadLetterView,
    FeatureTrack,
    HealthView,
    Incidents,
    IncidentView,
    Lanes,
    Models,
    ModelView,
    Now,
    Overview,
    PartitionView,
    Pulse,
    Range,
    Series,
    VersionView,
    Which,
)

RANGES: dict[Range, int] = {"15m": 900_000, "6h": DAY_MS // 4, "2d": 2 * DAY_MS, "1w": 7 * DAY_MS, "4w": 28 * DAY_MS}
MOST_REMEMBERED = 20
"""Surroundings of incidents that are kept: 100 kB each."""
KEEP_S = 5.0
"""What the store says of versions is asked for anew after so long."""
LATEST_REPORTS, LATEST_DRIFT = 20, 20
"""That are told."""
ACTING_WANTS = (
    "Actions want a token: set web.token in the environment (OFFNOMINAL__WEB__TOKEN) or web.token_file, and present it."
)


class UnknownIncident(Exception):
    """No incident of that name is known."""


class Desk:
    """Called from any of the web server's threads."""

    def __init__(self, settings: DetectorSettings, daemon: Daemon, book: Book, broker: Broker) -> None:
        self.ending = threading.Event()
        """Set when the server is about to end: what lives on for as long as it does ends as well."""
        self._settings = settings
        self._daemon = daemon
        self._recorder = daemon.recorder
        self._book = book
        self._broker = broker
        self._store = Store(settings.store.url, settings.name)
        self._bundles: dict[str, Bundle] = {}
        self._models: tuple[float, Models] | None = None
        self._around: dict[tuple[object, ...], Around] = {}
        self._slow = threading.Lock()
        """Held while something takes long, so that one looker at a time takes it from the daemon."""

    def overview(self, *, may_act: bool) -> Overview:
        manifest, settings = self._daemon.serving, self._settings
        asked = settings.alerts.false_alarms or f"{settings.alerts.rate or DEFAULT_RATE:.3%} of the records"
        budget = None if manifest is None else manifest.data.budget(settings.alerts)
        return Overview(
            detector=settings.name,
            software=__version__,
            topics=settings.stream.topics,
            alert_topic=settings.alerts.topic,
            feedback_topic=settings.feedback_topic,
            entity=settings.stream.entity,
            features=[] if manifest is None else [feature["name"] for feature in manifest.features["features"]],
            budget=None if budget is None else BudgetView(text=asked, rate=budget.rate, per_day=budget.per_day),
            may_act=may_act,
            acting_wants="" if may_act else ACTING_WANTS,
            since=self._recorder.since,
            now=self.now(),
        )

    def now(self) -> Now:
        ready, totals, manifest = self._daemon.health.ready(), self._recorder.totals, self._daemon.serving
        return Now(
            at=datetime.now().astimezone(),
            phase=ready.phase,
            ready=ready.ok,
            degraded=ready.degraded,
            detail=ready.detail,
            records_per_s=self._recorder.records_per_s(),
            lag=sum(self._daemon.health.figures().lag.values()),
            open_incidents=self._book.open_incidents(),
            promised_alarms=totals.promised,
            alarms=totals.alarms,
            records=totals.records,
            dead_letters=totals.dead_letters,
            version="" if manifest is None else manifest.version,
            training=self._daemon.training,
            clock=self._recorder.newest,
            revision=self._book.changed,
        )

    def series(self, span: Range, begin: int | None, end: int | None) -> Series:
        last = self._newest() if end is None else end
        bins = self._recorder.stream(last - RANGES[span] if begin is None else begin, last)
        records, promised, alarms, elevated, level = bins.sums
        return Series(
            width_ms=bins.width_ms,
            start=bins.start.tolist(),
            records=records.tolist(),
            promised=promised.tolist(),
            alarms=alarms.tolist(),
            elevated=elevated.tolist(),
            level=(level / np.maximum(records, 1)).tolist(),
            peak=bins.peaks[0].tolist(),
        )

    def pulse(self, span: Range) -> Pulse:
        bins = self._recorder.own(RANGES[span])
        end = int(self._recorder.clock()) * 1000 // bins.width_ms
        numbers = np.arange(end - RANGES[span] // bins.width_ms, end)
        records, lag = np.zeros(len(numbers)), np.zeros(len(numbers))
        there = bins.start // bins.width_ms - numbers[0]
        inside = (there >= 0) & (there < len(numbers))
        records[there[inside]], lag[there[inside]] = bins.sums[0, inside], bins.peaks[0, inside]
        return Pulse(
            width_ms=bins.width_ms,
            start=(numbers * bins.width_ms).tolist(),
            records_per_s=(records * 1000 / bins.width_ms).tolist(),
            lag=lag.tolist(),
        )

    def lanes(self, which: Which) -> Lanes:
        return in_lanes(self._book.incidents(), which, self._book.label, newest=self._newest())

    def incidents(self, which: Which) -> Incidents:
        return listed(self._book.incidents(), which, self._book.label)

    def incident(self, name: str) -> IncidentView:
        it = self.require(name)
        return IncidentView(
            row=row(it, self._book.label(name)),
            alerts=it.alerts,
            opinions=[opinion(word) for word in self._book.opinions(name)],
            similar=similar(it, self._book.incidents(), self._book.label),
        )

    def around(self, name: str, names: Sequence[str]) -> Around:
        """What stands in the topic around an incident; remembered, as it takes a while."""
        it = self.require(name)
        asked = list(names) or [reason.feature for reason in it.reasons]
        key = (name, len(it.told), it.latest, *asked)
        with self._slow:
            if key not in self._around:
                while len(self._around) >= MOST_REMEMBERED:
                    del self._around[next(iter(self._around))]
                self._around[key] = self._looked_around(it, asked)
            return self._around[key]

    def models(self) -> Models:
        with self._slow:
            if self._models is None or time.monotonic() - self._models[0] > KEEP_S:
                self._models = time.monotonic(), self._looked_at_models()
            return self._models[1]

    def health(self) -> HealthView:
        ready, figures = self._daemon.health.ready(), self._daemon.health.figures()
        by_reason, latest = self._recorder.lost()
        return HealthView(
            ready=ready.ok,
            degraded=ready.degraded,
            phase=ready.phase,
            detail=ready.detail,
            checks=[CheckView(**check._asdict()) for check in ready.checks],
            partitions=[
                PartitionView(topic=at.topic, partition=at.number, lag=lag, stalled_s=figures.stalled_s.get(at, 0.0))
                for at, lag in sorted(figures.lag.items())
            ],
            dead_letters=by_reason,
            latest_dead_letters=[
                DeadLetterView(
                    topic=it.partition.topic,
                    partition=it.partition.number,
                    offset=it.offset,
                    reason=it.reason,
                    error=it.error,
                )
                for it in latest
            ],
            dead_letter_topic=self._settings.dead_letter_topic,
            entities=self._daemon.entities,
            store=self._store.url,
            store_errors=figures.store_errors,
            model_age_s=figures.model_age_s,
            schedule=self._settings.training.schedule,
            timezone=self._settings.training.timezone,
            next_training=self._daemon.next_training,
        )

    def forget(self) -> None:
        """Something was done to the versions: they are looked at anew."""
        self._models = None

    def require(self, name: str) -> KnownIncident:
        """The incident of that name. Raises `UnknownIncident`."""
        it = self._book.incident(name)
        if it is None:
            raise UnknownIncident(f"Incident '{name}' is not among the latest {MOST_INCIDENTS:,} of the alert topic.")
        return it

    def _newest(self) -> int:
        """The stream's own time (epoch milliseconds) by its records; by alerts before this replica has had one."""
        if (newest := self._recorder.newest) is not None:
            return newest
        return max((milliseconds(it.latest) for it in self._book.incidents()), default=int(time.time() * 1000)) + 1

    def _looked_around(self, it: KnownIncident, names: Sequence[str]) -> Around:
        bundle, detail = self._bundle(it.version)
        found = surroundings(self._broker, self._settings, bundle, it.alerts, names)
        if found is None:
            return Around(
                version=bundle.version, time=[], offset=[], nats=[], threshold=None, features=[], others=[],
                detail="The topic no longer holds the records of this incident.",
            )  # fmt: skip
        shares = {reason.feature: reason.share for reason in it.reasons}
        return Around(
            version=bundle.version,
            time=found.time.tolist(),
            offset=found.offset.tolist(),
            nats=found.nats.tolist(),
            threshold=found.threshold,
            features=[
                FeatureTrack(
                    name=track.name,
                    share=shares.get(track.name),
                    numeric=track.numeric,
                    observed=[*track.observed],
                    expected=[*track.expected],
                    low=None if track.low is None else track.low.tolist(),
                    high=None if track.high is None else track.high.tolist(),
                )
                for track in found.tracks
            ],
            others=found.others,
            detail=detail,
        )

    def _bundle(self, version: str) -> tuple[Bundle, str]:
        """The version that told of an incident, or where it is gone the champion, and what is to be said of that."""
        if version not in self._bundles:
            try:
                loaded = self._store.load(version)
            except BundleError:
                champion = self._store.champion()
                if champion is None or champion == version:
                    raise
                return self._bundle(champion)[0], f"Version {version} is gone; {champion} was asked instead."
            self._bundles = {**dict([*self._bundles.items()][-1:]), version: loaded}
        return self._bundles[version], ""

    def _looked_at_models(self) -> Models:
        trainings = Trainings(self._store)
        drifted = [it for it in self._book.incidents() if it.drifted]
        latest = sorted(drifted, key=lambda it: it.latest, reverse=True)[:LATEST_DRIFT]
        return Models(
            champion=self._store.champion(),
            pinned=self._store.pinned(),
            versions=[_version(standing) for standing in standings(self._store)][::-1],
            drift=[row(it, self._book.label(it.incident)) for it in latest],
            under_way=trainings.under_way(),
            waiting=trainings.asked(),
            phase=self._daemon.training,
            reports=trainings.reports(LATEST_REPORTS)[::-1],
            schedule=self._settings.training.schedule,
            timezone=self._settings.training.timezone,
            next_training=self._daemon.next_training,
        )


def _version(standing: Standing) -> VersionView:
    made = standing.manifest
    return VersionView(
        version=standing.version,
        state=standing.state,
        created=None if made is None else made.created,
        models=[]
        if made is None
        else [ModelView(kind=it.kind, window=it.window, valid_score=it.valid_score) for it in made.models],
        choice="" if made is None else made.choice,
        data=None if made is None else made.data,
        verdict=None if made is None else made.verdict,
        trials=[] if made is None else made.trials,
        trained_from=None if made is None else made.trained_from,
        cleaned={} if made is None else made.cleaned,
        against=[*standing.against],
    )
