"""Every metric the daemon exports, with its unit and what to do when it moves. Counted per batch, never per record."""

from __future__ import annotations

from collections import Counter as Tally
from typing import NamedTuple

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.registry import Collector

from consumers.batch import Partition, RawBatch
from detector.pipeline import Outcome


class Spec(NamedTuple):
    """One metric: `kind` is the Prometheus type, `act` what an operator does about it."""

    name: str
    kind: type[Counter] | type[Gauge] | type[Histogram]
    help: str
    act: str
    labels: tuple[str, ...] = ()


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
    Spec(
        "lag_records", Gauge, "Records not yet taken, by partition.", "Growing: add replicas.", ("topic", "partition")
    ),
    Spec("batch_seconds", Histogram, "Time to score and publish a batch (seconds).", "Growing: see lag_records."),
    Spec(
        "last_batch_timestamp_seconds", Gauge, "When the last batch was published (epoch seconds).", "Old: see readyz."
    ),
    Spec("entities", Gauge, "Entities with windows in memory.", "At window.max_entities: raise it, if memory allows."),
    Spec("evicted_entities", Gauge, "Entities forgotten for want of room.", "Growing: raise window.max_entities."),
    Spec("version_info", Gauge, "1 for the version that serves.", "Changes with each promotion.", ("version",)),
    Spec("trainings", Counter, "Scheduled trainings that ended.", "failed or unsound: see the log.", ("result",)),
)
PREFIX = "offnominal_"


class Metrics:
    """The metrics of one detector, in a registry of their own."""

    def __init__(self, detector: str) -> None:
        self.registry = CollectorRegistry()
        self._series: dict[str, Collector] = {
            spec.name: spec.kind(PREFIX + spec.name, spec.help, ("detector", *spec.labels), registry=self.registry)
            for spec in SPECS
        }
        self._detector = detector
        self._scored = self._alarms = 0
        self._promised = 0.0
        self._positions: dict[Partition, int] = {}

    def counter(self, name: str, *labels: str) -> Counter:
        series = self._series[name]
        assert isinstance(series, Counter)
        return series.labels(self._detector, *labels)

    def gauge(self, name: str, *labels: str) -> Gauge:
        series = self._series[name]
        assert isinstance(series, Gauge)
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
        series = self._series["batch_seconds"]
        assert isinstance(series, Histogram)
        series.labels(self._detector).observe(seconds)
        self.gauge("last_batch_timestamp_seconds").set(finished_at)

    def serving(self, version: str) -> None:
        """Another version serves."""
        series = self._series["version_info"]
        assert isinstance(series, Gauge)
        series.clear()
        self.gauge("version_info", version).set(1)

    def joined(self) -> None:
        """The group is joined anew: partitions of before are no longer ours."""
        self._positions.clear()

    def turned(self, batch: RawBatch, outcome: Outcome, *, entities: int, evicted: int) -> None:
        """The loop has turned, with records or without."""
        self.gauge("open_incidents").set(outcome.open_incidents)
        self.gauge("entities").set(entities)
        self.gauge("evicted_entities").set(evicted)
        for partition in batch.revoked:
            self._positions.pop(partition, None)
        self._positions |= {partition: position.offset for partition, position in batch.assigned.items()}
        self._positions |= {partition: position.offset for partition, position in outcome.positions.items()}
        series = self._series["lag_records"]
        assert isinstance(series, Gauge)
        series.clear()
        for partition, offset in self._positions.items():
            lag = max(0, batch.ends.get(partition, offset) - offset)
            self.gauge("lag_records", partition.topic, str(partition.number)).set(lag)
