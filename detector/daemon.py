"""The loop: poll, process, publish; and around it what comes before, between and after."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from datetime import UTC, datetime

import structlog

from consumers.batch import Partition, RawBatch
from consumers.errors import Retry
from consumers.stream import Broker, Stream
from detector.bundle import Bundle, Manifest
from detector.config import DetectorSettings
from detector.errors import TooManyInvalid
from detector.feedback_effects import Opinions
from detector.feedback_watch import FeedbackWatch
from detector.first_version import FirstVersion, champion
from detector.health import Health
from detector.history.recorder import Recorder
from detector.lifecycle import ChampionWatch, Retraining
from detector.metrics import Metrics
from detector.pacing import Pace
from detector.pipeline import Outcome, Pipeline
from detector.recovery import Recovery
from detector.state_topic import Snapshots
from detector.store import Store
from detector.training import require_device
from detector.trainings import Phase, Result
from detector.watchdog import Watchdog

log = structlog.get_logger()

Observer = Callable[[RawBatch, Outcome], None]
"""Told of each batch after it has been published. Runs in the loop: must be quick and must not raise."""

LOOK_AGAIN_S = 2.0
"""How often a missing topic is looked for (seconds)."""
RETRY_S = (0.5, 30.0)
"""First and longest pause before a new connection (seconds); doubled in between."""
PART_OF_INTERVAL = 0.1
"""A batch may take this part of the longest time between two polls."""

_MOVED = {
    "retention": "records were deleted before they were read; going on at the first that is left",
    "recreated": "the topic was made anew; what was remembered of it is dropped, going on at its first record",
    "undecodable": "records cannot be decoded; one dead letter stands for them",
}


class Daemon:
    """One detector at work. `run` blocks until `stop` is called from another thread or a signal handler."""

    def __init__(
        self,
        settings: DetectorSettings,
        broker: Broker,
        *,
        training_command: Sequence[str] = (),
        observers: Sequence[Observer] = (),
    ) -> None:
        self.health = Health(settings.health)
        self.metrics = Metrics(settings.name, self.health)
        self.recorder = Recorder(self.health)
        self.serving: Manifest | None = None
        """Of the version that serves; None before there is one."""
        self.entities = 0
        """Remembered, as of the last turn of the loop."""
        self._settings = settings
        self._broker = broker
        self._store = Store(settings.store.url, settings.name)
        self._watchdog = Watchdog(settings.health.watchdog)
        self._snapshots = Snapshots(settings, wrote=self.metrics.snapshot_written)
        self._recovery = Recovery(
            *(settings, broker, self._store, self._snapshots),
            replayed=self.metrics.replayed,
            lost=self.metrics.state_lost,
        )
        self._pace = Pace(settings.batch.max_records, PART_OF_INTERVAL * settings.kafka.max_poll_interval_s)
        self._retraining = Retraining(settings, self._store, training_command, ended=self._trained)
        self._observers = (self.metrics.observe, self.recorder.observe, self._retraining.notice, *observers)
        self._owned: set[Partition] = set()
        self._partitions = 1
        self._heard_at = 0.0
        self._stopping = threading.Event()
        self._pause_s = RETRY_S[0]

    def stop(self) -> None:
        """Asks the loop to end after the batch it is at."""
        self._stopping.set()

    @property
    def training(self) -> Phase | None:
        """What a training of this replica is at."""
        return self._retraining.phase

    @property
    def next_training(self) -> datetime | None:
        """When the schedule asks for the next one; None where there is no schedule."""
        return self._retraining.next

    def run(self) -> None:
        """Serves until stopped. Raises `consumers.errors.Stop` or `OffnominalError` where going on makes no sense."""
        require_device(self._settings.device)
        bundle = champion(self._settings, self._store)
        self._await_topics(creating=True)
        if bundle is None:
            first = FirstVersion(self._settings, self._broker, self._store, self.health, self._stopping)
            bundle = first.await_it()
        if bundle is None or self._stopping.is_set():
            return
        pipeline = Pipeline(self._settings, bundle, partitions=self._partitions)
        pipeline.warm_up()
        self._serves(bundle)
        watch = ChampionWatch(self._store, self._settings, bundle.version, self._retraining.look)
        feedback = FeedbackWatch(self._broker, self._settings)
        with self._watchdog:
            try:
                while not self._stopping.is_set():
                    try:
                        self._join_and_serve(pipeline, watch, feedback, bundle)
                    except Retry as error:
                        self._lost(error, pipeline)
            finally:
                self.health.enter("stopping")
                feedback.stop()
                watch.stop()
                self._retraining.stop()

    def _lost(self, error: Retry, pipeline: Pipeline) -> None:
        """What is remembered goes with the stream: the next one brings it back as the positions say."""
        self.health.enter("retrying", str(error))
        self.metrics.lost(error)
        log.warning("stream lost, joining again", error=str(error), pause_s=self._pause_s)
        self._retraining.own(False)
        for part in (pipeline, self._recovery, self._snapshots):
            part.reset()
        self._stopping.wait(self._pause_s)
        self._pause_s = min(2 * self._pause_s, RETRY_S[1])
        self._await_topics(creating=False)

    def _serves(self, bundle: Bundle) -> None:
        now, created = datetime.now(UTC), bundle.manifest.created
        self.serving = bundle.manifest
        self.metrics.serving(bundle.version)
        self.health.serves(
            bundle.version, age_s=(now - created).total_seconds(), interval_s=self._retraining.interval_s(created)
        )

    def _await_topics(self, *, creating: bool) -> None:
        """Waits for the topics to read, and creates those to write where they are not there: at the start only, as one
        that is deleted later is no accident to paper over."""
        topics, written = self._settings.stream.topics, [self._settings.alerts.topic, self._settings.dead_letter_topic]
        while not self._stopping.is_set():
            self._watchdog.turn()
            try:
                there = self._broker.partitions(topics)
                missing = sorted(set(topics) - set(there))
                if not missing:
                    self._partitions = sum(there.values())
                    if creating:
                        self._broker.create_topics(dict.fromkeys(written, 1))
                        kept = [self._settings.state_topic, self._settings.feedback_topic]
                        self._broker.create_topics(dict.fromkeys(kept, 1), compacted=True)
                    return
                detail = f"topic {', '.join(missing)} is not there yet"
            except Retry as error:
                detail = str(error)
            if self.health.alive().detail != detail:
                log.warning("waiting", reason=detail)
            self.health.enter("waiting", detail)
            self._stopping.wait(LOOK_AGAIN_S)

    def _join_and_serve(self, pipeline: Pipeline, watch: ChampionWatch, feedback: FeedbackWatch, first: Bundle) -> None:
        self.health.enter("joining")
        self._owned.clear()
        begin = first.manifest.data.end_positions()
        self._watchdog.turn()
        with closing(self._broker.stream(self._settings.stream.topics, begin)) as stream:
            log.info("joined", group=self._settings.group, version=pipeline.version)
            while not self._stopping.is_set():
                self._watchdog.turn()
                self.health.looked(watch.look)
                if (challenger := watch.take()) is not None:
                    self._adopt(challenger, stream, pipeline)
                if (opinions := feedback.take()) is not None:
                    self._heed(opinions, stream, pipeline)
                self._turn(stream, pipeline)
            self._write_down(stream, pipeline)

    def _turn(self, stream: Stream, pipeline: Pipeline) -> None:
        """One batch: everything that comes of it is published at once, or none of it."""
        polled = stream.poll(self._pace.records, self._settings.batch.max_wait)
        started = time.monotonic()
        self._heard_at = started if len(polled) or polled.assigned else self._heard_at
        if polled.assigned or polled.revoked:
            self._reassign(polled, pipeline)
        for partition, moved in polled.moved.items():
            log.error(_MOVED[moved.reason], partition=str(partition), expected=moved.expected, found=moved.found)
            self.metrics.moved(partition, moved)
        batch = self._recovery.advance(polled, stream, pipeline)
        outcome = pipeline.process(batch, idle_ms=1000 * (started - self._heard_at))
        if outcome.refused:
            raise TooManyInvalid(outcome.refused)
        self._snapshots.write(stream, pipeline, outcome.unprompted)
        positions = self._snapshots.positions(outcome.positions, outcome.unprompted)
        if positions or outcome.messages:
            stream.publish(outcome.messages, positions)
            self.metrics.took(time.monotonic() - started, time.time())
            for observe in self._observers:
                observe(batch, outcome)
        self._pace.took(len(polled), time.monotonic() - started)
        self._snapshots.write(stream, pipeline, self._snapshots.due() - self._recovery.under_way)
        self.health.follow(polled, len(outcome.dead_letters), self._recovery.under_way)
        self.metrics.training(self._retraining.phase)
        self.entities = pipeline.entities
        self.metrics.turned(outcome, entities=self.entities, evicted=pipeline.evicted)
        self._pause_s = RETRY_S[0]

    def _reassign(self, batch: RawBatch, pipeline: Pipeline) -> None:
        """Partitions have come and gone, some perhaps because there are more now."""
        self._owned = (self._owned - batch.revoked) | batch.assigned.keys()
        self._retraining.own(Partition(self._settings.stream.topics[0], 0) in self._owned)
        log.info("partitions", assigned=[*map(str, batch.assigned)], revoked=[*map(str, batch.revoked)])
        pipeline.spread(sum(self._broker.partitions(self._settings.stream.topics).values()))

    def _adopt(self, challenger: Bundle, stream: Stream, pipeline: Pipeline) -> None:
        """Another version takes over."""
        pipeline.adopt(challenger)
        self._serves(challenger)
        self._retraining.adopted()
        log.info("another version serves", version=challenger.version)
        self._begin_anew(stream, pipeline)

    def _heed(self, opinions: Opinions, stream: Stream, pipeline: Pipeline) -> None:
        """People say something else of alerts now."""
        pipeline.heed(opinions)
        self._begin_anew(stream, pipeline)

    def _begin_anew(self, stream: Stream, pipeline: Pipeline) -> None:
        """Writes down where something other than records has changed what comes of them: a replay would not come to
        that."""
        self._snapshots.write(stream, pipeline, self._owned - self._recovery.under_way)

    def _write_down(self, stream: Stream, pipeline: Pipeline) -> None:
        """What has changed since the last snapshots, so that the next start has nothing to replay."""
        try:
            unwritten = self._snapshots.unwritten() - self._recovery.under_way
            self._snapshots.write(stream, pipeline, unwritten)
            stream.publish([], self._snapshots.positions({}, unwritten))
        except Retry as error:
            log.warning("stopped without snapshots, the next start replays", error=str(error))

    def _trained(self, result: Result) -> None:
        """A training of this replica has ended."""
        self.metrics.counter("trainings", result).inc()
        self.health.trained(result)
