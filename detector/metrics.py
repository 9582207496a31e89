"""Every metric the daemon exports, with its unit and what to do when it moves. Counted per batch, never per record."""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Iterator
from typing import NamedTuple

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from consumers.batch import Moved, Partition, RawBatch
from consumers.errors import Retry
from detector.health import Health
from detector.pipeline import Outcome
from detector.trainings import PHASES, Phase


class Spec(NamedTuple):
    """One metric: `kind` is the Prometheus type, `act` what an operator does about it."""

    name: str
    kind: type[Counter] | type[Gauge] | type[Histogram]
    help: str
    act: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = Histogram.DEFAULT_BUCKETS


SPECS = (
    Spec(
        "records",
        Counter,
        "Records taken from the topics.",
        "Flat while lag grows: see the log for the broker's answer.",
    ),
    Spec(
        "dead_letters",
        Counter,
        "Records that could not be scored.",
        "List the dead-letter topic by reason.",
        ("reason",),
    ),
    Spec("alarms", Counter, "Records that raised an alarm: what the budget bounds.", "Compare with promised_alarms."),
    Spec(
        "promised_alarms",
        Counter,
        "Alarms that the budget allowed for the records scored.",
        "Compare with alarms over the same time.",
    ),
    Spec(
        "elevated_records",
        Counter,
        "Records beyond the level inside incidents; no budget bounds them.",
        "Growing for long: an incident lasts, or a drift alert follows.",
    ),
    Spec(
        "suppressed_alarms",
        Counter,
        "Alarms that were not told, as people had said of their like that they are false or known.",
        "Many: look through `offnominal feedback`.",
    ),
    Spec("alerts", Counter, "Alerts published.", "Follow the alert topic.", ("kind", "severity")),
    Spec("open_incidents", Gauge, "Incidents that are open.", "Follow the alert topic."),
    Spec(
        "promised_rate",
        Gauge,
        "Alarms promised since start, as a share of scored records.",
        "Set by alerts.false_alarms or alerts.rate.",
    ),
    Spec(
        "realised_rate",
        Gauge,
        "Alarms since start, as a share of scored records.",
        "For long above twice promised_rate: real incidents, or retrain.",
    ),
    Spec("batch_seconds", Histogram, "Time to score and publish a batch (seconds).", "Growing: see lag_records."),
    Spec(
        "last_batch_timestamp_seconds", Gauge, "When the last batch was published (epoch seconds).", "Old: see readyz."
    ),
    Spec("entities", Gauge, "Entities with windows in memory.", "At window.max_entities: raise it, if memory allows."),
    Spec("evicted_entities", Gauge, "Entities forgotten for want of room.", "Growing: raise window.max_entities."),
    Spec("version_info", Gauge, "1 for the version that serves.", "Changes with each promotion.", ("version",)),
    Spec(
        "trainings",
        Counter,
        "Trainings of this replica that ended, by result.",
        "failed, timeout or rolled back: see their reports in the store.",
        ("result",),
    ),
    Spec(
        "training_phase",
        Gauge,
        "What a training of this replica is at: 0 none, 1 training, 2 shadow, 3 watch.",
        "At 1 for long: see training.timeout; at 2: too little traffic for promotion.shadow?",
    ),
    Spec(
        "rejoins",
        Counter,
        "Times that the stream was lost and joined anew, by class of error.",
        "Growing: see the log; a batch that takes longer than kafka.max_poll_interval_s?",
        ("error",),
    ),
    Spec(
        "position_moves",
        Counter,
        "Times that a partition did not go on where it should, by reason: retention, recreated, undecodable.",
        "See the log; retention: see records_missed.",
        ("reason",),
    ),
    Spec(
        "records_missed",
        Counter,
        "Offsets that retention deleted before they were read, by partition.",
        "Longer retention of the topic, or more replicas.",
        ("topic", "partition"),
    ),
    Spec(
        "replayed_records",
        Counter,
        "Records read again to bring back what a partition remembered.",
        "Much at each start: lower state.every or state.records.",
    ),
    Spec(
        "states_lost",
        Counter,
        "Partitions whose memory could not be brought back.",
        "See the log; windows, levels and incidents of theirs began anew.",
    ),
    Spec("snapshots", Counter, "Snapshots of partitions written.", "Flat for longer than state.every: see the log."),
    Spec(
        "snapshot_bytes",
        Histogram,
        "Size of a snapshot as written (bytes).",
        "Near state.max_bytes: see entities_left_out.",
        buckets=(1e3, 1e4, 1e5, 1e6, 4e6, 16e6, 64e6, 200e6),
    ),
    Spec("snapshot_seconds", Histogram, "Time to write a snapshot (seconds).", "Growing: raise state.every."),
    Spec(
        "entities_left_out",
        Counter,
        "Entities that snapshots had no room for, counted at each snapshot.",
        "Growing: raise state.max_bytes; they begin anew after a restart.",
    ),
)
HEALTH_SPECS = (
    Spec(
        "lag_records", Gauge, "Records not yet taken, by partition.", "Growing: add replicas.", ("topic", "partition")
    ),
    Spec(
        "partition_stalled_seconds",
        Gauge,
        "For how long a partition has stood still with records to read (seconds).",
        "Above health.stalled_after: see readyz and the log.",
        ("topic", "partition"),
    ),
    Spec(
        "model_age_seconds",
        Gauge,
        "Age of the version that serves (seconds).",
        "Above health.max_model_age: see trainings.",
    ),
    Spec("store_errors", Counter, "Looks at the store of versions that failed.", "Growing: see readyz."),
)
"""Those that are asked for when they are read: they go on growing where the loop hangs."""
PREFIX = "offnominal_"


class Metrics:
    """The metrics of one detector, in a registry of their own."""

    def __init__(self, detector: str, health: Health) -> None:
        self.registry = CollectorRegistry()
        self._series: dict[str, Collector] = {spec.name: _series(spec, self.registry) for spec in SPECS}
        self._detector = detector
        self._scored = self._alarms = 0
        self._promised = 0.0
        self.registry.register(_HealthCollector(detector, health))

    def counter(self, name: str, *labels: str) -> Counter:
        series = self._series[name]
        assert isinstance(series, Counter)
        return series.labels(self._detector, *labels)

    def gauge(self, name: str, *labels: str) -> Gauge:
        series = self._series[name]
        assert isinstance(series, Gauge)
        return series.labels(self._detector, *labels)

    def histogram(self, name: str, *labels: str) -> Histogram:
        series = self._series[name]
        assert isinstance(series, Histogram)
        return series.labels(self._detector, *labels)

    def observe(self, batch: RawBatch, outcome: Outcome) -> None:
        """Counts one published batch."""
        self._scored += len(outcome.columns)
        alarms, promised = int(outcome.decided.alarm.sum()), float(outcome.promised.sum())
        self._alarms += alarms
        self._promised += promised
        self.counter("records").inc(outcome.records)
        self.counter("alarms").inc(alarms)
        self.counter("promised_alarms").inc(promised)
        self.counter("suppressed_alarms").inc(outcome.hushed)
        self.counter("elevated_records").inc(int(outcome.decided.elevated.sum()))
        for reason, count in Tally(letter.reason for letter in outcome.dead_letters).items():
            self.counter("dead_letters", reason).inc(count)
        for (kind, severity), count in Tally((alert.kind, alert.severity) for alert in outcome.alerts).items():
            self.counter("alerts", kind, severity).inc(count)
        if self._scored:
            self.gauge("promised_rate").set(self._promised / self._scored)
            self.gauge("realised_rate").set(self._alarms / self._scored)

    def took(self, seconds: float, finished_at: float) -> None:
        """A batch took so long, until that epoch second."""
        self.histogram("batch_seconds").observe(seconds)
        self.gauge("last_batch_timestamp_seconds").set(finished_at)

    def serving(self, version: str) -> None:
        """Another version serves."""
        series = self._series["version_info"]
        assert isinstance(series, Gauge)
        series.clear()
        self.gauge("version_info", version).set(1)

    def lost(self, error: Retry) -> None:
        """The stream was lost; it is joined anew."""
        self.counter("rejoins", type(error).__name__).inc()

    def moved(self, partition: Partition, moved: Moved) -> None:
        """A partition does not go on where it should."""
        self.counter("position_moves", moved.reason).inc()
        if moved.reason == "retention":
            missed = self.counter("records_missed", partition.topic, str(partition.number))
            missed.inc(max(0, moved.found - moved.expected))

    def training(self, phase: Phase | None) -> None:
        """What a training of this replica is at."""
        self.gauge("training_phase").set(0 if phase is None else 1 + PHASES.index(phase))

    def replayed(self, records: int) -> None:
        """So many records were read again to bring back what was remembered."""
        self.counter("replayed_records").inc(records)

    def snapshot_written(self, size: int, seconds: float, left_out: int = 0) -> None:
        """A snapshot of `size` bytes was written in that time; it had no room for `left_out` entities."""
        self.counter("snapshots").inc()
        self.histogram("snapshot_bytes").observe(size)
        self.histogram("snapshot_seconds").observe(seconds)
        self.counter("entities_left_out").inc(left_out)

    def state_lost(self) -> None:
        """What a partition remembered could not be brought back; it begins anew."""
        self.counter("states_lost").inc()

    def turned(self, outcome: Outcome, *, entities: int, evicted: int) -> None:
        """The loop has turned, with records or without."""
        self.gauge("open_incidents").set(outcome.open_incidents)
        self.gauge("entities").set(entities)
        self.gauge("evicted_entities").set(evicted)


class _HealthCollector(Collector):
    """Asks `health` when the registry is read."""

    def __init__(self, detector: str, health: Health) -> None:
        self._detector = detector
        self._health = health

    def collect(self) -> Iterator[Metric]:
        figures = self._health.figures()
        values: dict[str, list[tuple[tuple[str, ...], float]]] = {
            "lag_records": [((it.topic, str(it.number)), lag) for it, lag in figures.lag.items()],
            "partition_stalled_seconds": [((it.topic, str(it.number)), s) for it, s in figures.stalled_s.items()],
            "model_age_seconds": [] if figures.model_age_s is None else [((), figures.model_age_s)],
            "store_errors": [((), figures.store_errors)],
        }
        for spec in HEALTH_SPECS:
            family = GaugeMetricFamily if spec.kind is Gauge else CounterMetricFamily
            metric = family(PREFIX + spec.name, spec.help, labels=("detector", *spec.labels))
            for labels, value in values[spec.name]:
                metric.add_metric((self._detector, *labels), value)
            yield metric


def _series(spec: Spec, registry: CollectorRegistry) -> Collector:
    name, labels = PREFIX + spec.name, ("detector", *spec.labels)
    if spec.kind is Histogram:
        return Histogram(name, spec.help, labels, registry=registry, buckets=spec.buckets)
    return spec.kind(name, spec.help, labels, registry=registry)
