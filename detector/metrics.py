"""The metrics of one daemon (`detector.metric_specs` says which). Counted per batch, never per record."""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Iterator

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from consumers.batch import Moved, Partition, RawBatch
from consumers.errors import Retry
from detector.health import Health
from detector.metric_specs import COUNTED, HEALTH, PREFIX, Spec
from detector.pipeline import Outcome
from detector.trainings import PHASES, Phase

# When each series began is of use to nobody, and would be as many series again.
disable_created_metrics()  # type: ignore[no-untyped-call]  # has no annotations


class Metrics:
    """The metrics of one detector, in a registry of their own.

    What is counted is there from the start, at 0: of a series that begins at 1 Prometheus sees no increase, and what
    happened once would raise no alert.
    """

    def __init__(self, detector: str, health: Health) -> None:
        self.registry = CollectorRegistry()
        self._series: dict[str, Collector] = {spec.name: _family(spec, self.registry) for spec in COUNTED}
        self._detector = detector
        self._scored = self._alarms = 0
        self._promised = 0.0
        self._begin()
        self.registry.register(_HealthCollector(detector, health))
        ProcessCollector(registry=self.registry)

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

    def _begin(self) -> None:
        for spec in COUNTED:
            if spec.kind is Gauge:
                continue  # it has no value before something is measured
            for labels in spec.series():
                (self.counter if spec.kind is Counter else self.histogram)(spec.name, *labels)


class _HealthCollector(Collector):
    """Asks `health` when the registry is read."""

    def __init__(self, detector: str, health: Health) -> None:
        self._detector = detector
        self._health = health

    def collect(self) -> Iterator[Metric]:
        figures, readiness = self._health.figures(), self._health.ready()
        values: dict[str, list[tuple[tuple[str, ...], float]]] = {
            "ready": [((), float(readiness.ok))],
            "check_passed": [((check.name,), float(check.ok)) for check in readiness.checks],
            "lag_records": [((it.topic, str(it.number)), lag) for it, lag in figures.lag.items()],
            "partition_stalled_seconds": [((it.topic, str(it.number)), s) for it, s in figures.stalled_s.items()],
            "model_age_seconds": [] if figures.model_age_s is None else [((), figures.model_age_s)],
            "store_errors": [((), figures.store_errors)],
        }
        for spec in HEALTH:
            family = GaugeMetricFamily if spec.kind is Gauge else CounterMetricFamily
            metric = family(PREFIX + spec.name, spec.help, labels=("detector", *spec.labels))
            for labels, value in values[spec.name]:
                metric.add_metric((self._detector, *labels), value)
            yield metric


def _family(spec: Spec, registry: CollectorRegistry) -> Collector:
    name, labels = PREFIX + spec.name, ("detector", *spec.labels)
    if spec.kind is Histogram:
        return Histogram(name, spec.help, labels, registry=registry, buckets=spec.buckets)
    return spec.kind(name, spec.help, labels, registry=registry)
