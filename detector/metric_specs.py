"""Every metric of the daemon: its type, unit and labels, what it means, and what to do when it moves.

Nothing else names a metric in words of its own: `detector.metrics` makes them of this, docs/metrics.md and the Grafana
board are generated from it, and tests hold rules and runbooks to it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import product
from types import MappingProxyType
from typing import NamedTuple, get_args

from prometheus_client import Counter, Gauge, Histogram

from consumers.batch import MoveReason
from consumers.decode import DeadLetterReason
from consumers.errors import BrokerUnavailable, OutcomeUnknown, Retry
from detector.alerts import AlertKind, Severity
from detector.health import CheckName
from detector.trainings import Result

PREFIX = "offnominal_"

_ANY: tuple[str, ...] = ()
"""The values of a label that are not known before they come: names of topics, partitions, versions."""


class Spec(NamedTuple):
    """One metric: `kind` is the Prometheus type, `act` what an operator does when it moves.

    `labels` gives the values that each label may have beside `detector`; none where they are not known beforehand.
    """

    name: str
    kind: type[Counter] | type[Gauge] | type[Histogram]
    unit: str
    help: str
    act: str
    labels: Mapping[str, tuple[str, ...]] = MappingProxyType({})
    buckets: tuple[float, ...] = Histogram.DEFAULT_BUCKETS
    prefix: str = PREFIX

    @property
    def exported(self) -> str:
        """The name under which it is scraped, as queries write it; a histogram's without _bucket, _sum and _count."""
        return self.prefix + self.name + ("_total" if self.kind is Counter else "")

    def series(self) -> Iterator[tuple[str, ...]]:
        """Values of the labels of every series that is known beforehand."""
        return product(*self.labels.values())


BUDGET = (
    Spec("records", Counter, "records", "Records taken from the topics.", "Flat while lag grows: see /readyz."),
    Spec(
        "alarms",
        Counter,
        "records",
        "Records that raised an alarm: what the budget bounds.",
        "Compare with promised_alarms over the same time.",
    ),
    Spec(
        "promised_alarms",
        Counter,
        "records",
        "Alarms that the budget allowed for the records scored.",
        "Compare with alarms over the same time.",
    ),
    Spec(
        "elevated_records",
        Counter,
        "records",
        "Records beyond the level inside incidents; no budget bounds them.",
        "Growing for long: an incident lasts, or a drift alert follows.",
    ),
    Spec(
        "suppressed_alarms",
        Counter,
        "records",
        "Alarms that were not told, as people had said of their like that they are false or known.",
        "Many: look through `offnominal feedback`.",
    ),
    Spec(
        "alerts",
        Counter,
        "alerts",
        "Alerts published.",
        "Follow the alert topic: `offnominal alerts`.",
        {"kind": get_args(AlertKind), "severity": get_args(Severity)},
    ),
    Spec("open_incidents", Gauge, "incidents", "Incidents that are open.", "Follow the alert topic."),
    Spec(
        "dead_letters",
        Counter,
        "records",
        "Records that could not be scored.",
        "Look at some: `offnominal dead-letters --reason`.",
        {"reason": tuple(DeadLetterReason)},
    ),
    Spec(
        "promised_rate",
        Gauge,
        "ratio",
        "Alarms promised since start, as a share of scored records.",
        "Set by alerts.false_alarms or alerts.rate.",
    ),
    Spec(
        "realised_rate",
        Gauge,
        "ratio",
        "Alarms since start, as a share of scored records.",
        "For long above twice promised_rate: real incidents, or retrain.",
    ),
)
LOOP = (
    Spec(
        "batch_seconds",
        Histogram,
        "seconds",
        "Time to score and publish a batch.",
        "Growing with the lag: more replicas, or a lighter model.",
    ),
    Spec(
        "last_batch_timestamp_seconds",
        Gauge,
        "seconds since 1970",
        "When the last batch was published.",
        "Old while there is lag: see /readyz.",
    ),
    Spec(
        "rejoins",
        Counter,
        "times",
        "Times that the stream was lost and joined anew, by class of error.",
        "Growing: see the log; a batch that takes longer than kafka.max_poll_interval_s?",
        {"error": tuple(error.__name__ for error in (Retry, BrokerUnavailable, OutcomeUnknown))},
    ),
    Spec(
        "position_moves",
        Counter,
        "times",
        "Times that a partition did not go on where it should, by reason.",
        "See the log; retention: see records_missed.",
        {"reason": get_args(MoveReason)},
    ),
    Spec(
        "records_missed",
        Counter,
        "records",
        "Offsets that retention deleted before they were read, by partition.",
        "Longer retention of the topic, or more replicas.",
        {"topic": _ANY, "partition": _ANY},
    ),
)
VERSIONS = (
    Spec(
        "version_info",
        Gauge,
        "1",
        "1 for the version that serves.",
        "Changes with each promotion: `offnominal models list`.",
        {"version": _ANY},
    ),
    Spec(
        "trainings",
        Counter,
        "trainings",
        "Trainings of this replica that ended, by result.",
        "failed, timeout or rolled back: see their reports in the store.",
        {"result": get_args(Result)},
    ),
    Spec(
        "training_phase",
        Gauge,
        "0 to 3",
        "What a training of this replica is at: 0 none, 1 training, 2 shadow, 3 watch.",
        "At 1 for long: see training.timeout; at 2: too little traffic for promotion.shadow?",
    ),
)
MEMORY = (
    Spec(
        "entities",
        Gauge,
        "entities",
        "Entities with windows in memory.",
        "At window.max_entities a partition: raise it, if memory allows.",
    ),
    Spec(
        "evicted_entities",
        Gauge,
        "entities",
        "Entities that the partitions owned have forgotten so far for want of room.",
        "Growing: raise window.max_entities.",
    ),
    Spec("snapshots", Counter, "snapshots", "Snapshots written.", "Flat for longer than state.every: see the log."),
    Spec(
        "snapshot_bytes",
        Histogram,
        "bytes",
        "Size of a snapshot as written.",
        "Near state.max_bytes: see entities_left_out.",
        buckets=(1e3, 1e4, 1e5, 1e6, 4e6, 16e6, 64e6, 200e6),
    ),
    Spec("snapshot_seconds", Histogram, "seconds", "Time to write a snapshot.", "Growing: raise state.every."),
    Spec(
        "entities_left_out",
        Counter,
        "entities",
        "Entities that snapshots had no room for, counted at each snapshot.",
        "Growing: raise state.max_bytes; they begin anew after a restart.",
    ),
    Spec(
        "replayed_records",
        Counter,
        "records",
        "Records read again to bring back what a partition remembered.",
        "Much at each start: lower state.every or state.records.",
    ),
    Spec(
        "states_lost",
        Counter,
        "partitions",
        "Partitions whose memory could not be brought back.",
        "See the log; windows, levels and incidents of theirs began anew.",
    ),
)
HEALTH = (
    Spec(
        "ready",
        Gauge,
        "0 or 1",
        "1 while records are being scored, as /readyz says.",
        "0: /readyz names the check that fails, and why.",
    ),
    Spec(
        "check_passed",
        Gauge,
        "0 or 1",
        "1 for each check of /readyz that passes.",
        "0 of loop, broker, partitions or lag: not ready; of another: degraded. /readyz says why.",
        {"check": get_args(CheckName)},
    ),
    Spec(
        "lag_records",
        Gauge,
        "records",
        "Records not yet taken, by partition.",
        "Growing: add replicas.",
        {"topic": _ANY, "partition": _ANY},
    ),
    Spec(
        "partition_stalled_seconds",
        Gauge,
        "seconds",
        "For how long a partition has stood still with records to read.",
        "Above health.stalled_after: see /readyz and the log.",
        {"topic": _ANY, "partition": _ANY},
    ),
    Spec(
        "model_age_seconds",
        Gauge,
        "seconds",
        "Age of the version that serves.",
        "Above health.max_model_age: see trainings.",
    ),
    Spec(
        "store_errors",
        Counter,
        "times",
        "Looks at the store of versions that failed.",
        "Growing: see /readyz; what serves goes on.",
    ),
)
"""Those that are asked for when they are read: they go on changing where the loop hangs."""
PROCESS = tuple(
    Spec(name, kind, unit, told, act, prefix="process_")
    for name, kind, unit, told, act in (
        ("start_time_seconds", Gauge, "seconds since 1970", "When the process started.", "Changes often: see the log."),
        ("cpu_seconds", Counter, "seconds", "Time on the processor.", "A core for long: add replicas."),
        ("resident_memory_bytes", Gauge, "bytes", "Memory held.", "Near the limit: lower window.max_entities."),
        ("virtual_memory_bytes", Gauge, "bytes", "Addresses reserved.", "Of no concern by itself."),
        ("open_fds", Gauge, "files", "Files and sockets open.", "Near max_fds: connections leak; see the log."),
        ("max_fds", Gauge, "files", "Most files and sockets permitted.", "Set by the system."),
    )
)
"""The client library's own, on Linux; without the label `detector`."""
SECTIONS: Mapping[str, tuple[Spec, ...]] = {
    "What is detected": BUDGET,
    "The loop and the broker": LOOP,
    "Versions and trainings": VERSIONS,
    "Memory and snapshots": MEMORY,
    "Health": HEALTH,
    "The process": PROCESS,
}
"""All metrics, by what they are about."""
COUNTED = (*BUDGET, *LOOP, *VERSIONS, *MEMORY)
"""Those that the loop counts."""
