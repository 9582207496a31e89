from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from itertools import pairwise
from typing import get_args

import pytest
from prometheus_client import Counter, generate_latest

from consumers.batch import Moved, Partition, Position, RawBatch
from consumers.decode import DeadLetterReason
from consumers.errors import BrokerUnavailable, OutcomeUnknown, Retry
from consumers.memory import MemoryBroker
from consumers.stream import Window
from detector.bundle import Bundle
from detector.config import DetectorSettings
from detector.config_service import HealthSettings
from detector.health import Health
from detector.lifecycle import Look
from detector.metric_specs import COUNTED, HEALTH
from detector.metrics import Metrics
from detector.pipeline import Pipeline
from detector.training import train
from detector.training_data import gather
from detector.trainings import PHASES, Result
from tests.detector.machines import CREATED, START_MS, TOPIC, broker_with, records, settings

A = Partition(TOPIC, 0)
CANARY = "canary"
PROMTOOL = shutil.which("promtool")
FEATURES = ["cpu", "load", {"name": "site", "kind": "categorical"}]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> tuple[DetectorSettings, Bundle]:
    """Settings with a categorical feature, and a version trained for them."""
    chosen = settings(tmp_path_factory.mktemp("metrics"), features=FEATURES)
    normal = records(3_000, odd={number: {"site": "ab"[number % 2]} for number in range(3_000)})
    return chosen, train(gather(chosen, broker_with(normal), now_ms=START_MS), chosen, created=CREATED)


@pytest.fixture
def metrics() -> Metrics:
    return Metrics("machines", Health(HealthSettings()))


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(f"offnominal_{name}", {"detector": "machines", **labels})


def series(metrics: Metrics) -> set[tuple[str, ...]]:
    """Name and labels of everything that is exported."""
    return {
        (sample.name, *(f"{key}={text}" for key, text in sorted(sample.labels.items())))
        for family in metrics.registry.collect()
        for sample in family.samples
    }


def hostile(start: int, n: int) -> Iterator[tuple[bytes | None, bytes]]:
    """Value and key of records that try in every field to become a label, each with values of its own."""
    for number in range(start, start + n):
        name = f'{CANARY}-{number}"}} 1\noffnominal_{CANARY}{{x="\x00\u2028'
        normal = json.loads(records(1, start=number)[0]) | {"site": "a"}
        yield from (
            (json.dumps(changed).encode() if isinstance(changed, dict) else changed, name.encode())
            for changed in (
                normal | {"machine": name, "cpu": 99.0},
                normal | {"site": name},
                normal | {"cpu": name},
                normal | {"ts": name},
                normal | {"machine": {name: name}},
                normal | {"cpu": {name: number}, name: name},
                {name: name},
                name.encode(),
                b"\xff" + name.encode(),
                json.dumps([name]).encode(),
                None,
            )
        )


def batches(pairs: Iterator[tuple[bytes | None, bytes]]) -> Iterator[RawBatch]:
    broker = MemoryBroker()
    broker.create_topics({TOPIC: 1})
    for content, key in pairs:
        broker.append(TOPIC, content, key=key, headers=((key.decode(), key),))
    yield from broker.read([TOPIC], Window())


def test_what_is_in_records_never_becomes_a_label(service: tuple[DetectorSettings, Bundle], metrics: Metrics) -> None:
    pipeline = Pipeline(*service)
    seen = []
    for start in (3_000, 4_000, 5_000):
        for batch in batches(hostile(start, 100)):
            outcome = pipeline.process(batch)
            metrics.observe(batch, outcome)
            metrics.turned(outcome, entities=pipeline.entities, evicted=pipeline.evicted)
        seen.append(series(metrics))
    assert value(metrics, "records_total") == 3 * 1_100
    assert {"reason=malformed", "kind=opened"} <= {label for _, *labels in seen[0] for label in labels}
    assert CANARY not in generate_latest(metrics.registry).decode()
    assert len(seen[-1]) < 250
    assert all(before == after for before, after in pairwise(seen[1:])), "no series more for more records"


def test_errors_and_reasons_are_labels_out_of_fixed_sets(metrics: Metrics) -> None:
    metrics.lost(BrokerUnavailable(f"no answer {CANARY}"))
    metrics.lost(BrokerUnavailable("no answer again"))
    metrics.lost(OutcomeUnknown(CANARY))
    assert value(metrics, "rejoins_total", error="BrokerUnavailable") == 2
    assert value(metrics, "rejoins_total", error="OutcomeUnknown") == 1
    assert CANARY not in generate_latest(metrics.registry).decode()


def test_records_that_retention_deleted_unread_are_counted(metrics: Metrics) -> None:
    metrics.moved(A, Moved(100, 350, "retention"))
    metrics.moved(A, Moved(400, 450, "retention"))
    metrics.moved(A, Moved(900, 0, "recreated"))
    metrics.moved(A, Moved(10, 20, "undecodable"))
    assert value(metrics, "records_missed_total", topic=TOPIC, partition="0") == 300
    counts = {
        reason: value(metrics, "position_moves_total", reason=reason)
        for reason in ("retention", "recreated", "undecodable")
    }
    assert counts == {"retention": 2, "recreated": 1, "undecodable": 1}


def test_snapshots_and_replays_are_counted(metrics: Metrics) -> None:
    metrics.snapshot_written(2_000_000, 0.03, 5)
    metrics.snapshot_written(500, 0.01, 0)
    metrics.state_lost()
    metrics.replayed(700)
    metrics.replayed(50)
    assert value(metrics, "snapshots_total") == 2
    assert value(metrics, "states_lost_total") == 1
    assert value(metrics, "snapshot_bytes_sum") == 2_000_500
    assert value(metrics, "snapshot_bytes_bucket", le="1000.0") == 1
    assert value(metrics, "snapshot_seconds_count") == 2
    assert value(metrics, "entities_left_out_total") == 5
    assert value(metrics, "replayed_records_total") == 750


def test_what_a_training_is_at_is_a_number(metrics: Metrics) -> None:
    shown = []
    for phase in (None, *PHASES):
        metrics.training(phase)
        shown.append(value(metrics, "training_phase"))
    assert shown == [0, 1, 2, 3]


def test_what_health_knows_is_as_of_when_it_is_read() -> None:
    now = 1_000.0
    health = Health(HealthSettings(), clock=lambda: now)
    metrics = Metrics("machines", health)
    assert value(metrics, "model_age_seconds") is None
    assert value(metrics, "store_errors_total") == 0
    assert value(metrics, "check_passed", check="model") == 0
    health.serves("v1", age_s=60.0, interval_s=None)
    health.looked(Look(good_at=now, next_at=now, trouble="gone", failed=3))
    (batch,) = batches(iter([(b"{}", b"k")]))
    nothing_read = batch.take(batch.offsets < 0)
    behind = RawBatch(
        nothing_read.partitions, nothing_read.partition, nothing_read.offsets, nothing_read.timestamps, (), (), (),
        assigned={A: Position(0)}, ends={A: 1},
    )  # fmt: skip
    health.follow(behind)
    now += 40.0
    assert value(metrics, "partition_stalled_seconds", topic=TOPIC, partition="0") == 40.0
    assert value(metrics, "lag_records", topic=TOPIC, partition="0") == 1
    assert value(metrics, "model_age_seconds") == 100.0
    assert value(metrics, "store_errors_total") == 3
    assert value(metrics, "check_passed", check="store") == 0
    assert (value(metrics, "ready"), value(metrics, "check_passed", check="partitions")) == (1, 1)
    now += HealthSettings().stalled_after
    assert (value(metrics, "ready"), value(metrics, "check_passed", check="partitions")) == (0, 0)
    health.enter("joining")
    assert value(metrics, "partition_stalled_seconds", topic=TOPIC, partition="0") is None


def test_what_is_counted_is_there_at_0_before_it_happens(metrics: Metrics) -> None:
    assert value(metrics, "states_lost_total") == 0
    assert value(metrics, "trainings_total", result="rolled back") == 0
    assert value(metrics, "alerts_total", kind="opened", severity="critical") == 0
    assert value(metrics, "batch_seconds_count") == 0
    assert value(metrics, "last_batch_timestamp_seconds") is None, "1970 is not when the last batch was"
    for spec in COUNTED:
        for labels in spec.series() if spec.kind is Counter else ():
            told = dict(zip(spec.labels, labels, strict=True))
            assert metrics.registry.get_sample_value(spec.exported, {"detector": "machines", **told}) == 0, spec.name


def test_labels_have_no_values_but_those_known_beforehand(metrics: Metrics) -> None:
    before = series(metrics)
    for error in (Retry(CANARY), BrokerUnavailable(CANARY), OutcomeUnknown(CANARY)):
        metrics.lost(error)
    for letter in DeadLetterReason:
        metrics.counter("dead_letters", letter).inc()
    for result in get_args(Result):
        metrics.counter("trainings", result).inc()
    assert series(metrics) == before


def test_every_metric_says_what_it_is_and_what_to_do() -> None:
    specs = (*COUNTED, *HEALTH)
    assert len({spec.name for spec in specs}) == len(specs)
    for spec in specs:
        assert spec.help.endswith(".")
        assert spec.act.endswith((".", "?"))
        for unit in ("seconds", "bytes"):
            assert spec.name.endswith(f"_{unit}") == spec.unit.startswith(unit), f"{spec.name} is in {spec.unit}"


@pytest.mark.skipif(not PROMTOOL, reason="Debian's package prometheus is not installed")
def test_promtool_has_nothing_to_say_of_what_is_scraped(metrics: Metrics) -> None:
    metrics.took(0.1, 1.0)
    linted = subprocess.run(
        [str(PROMTOOL), "check", "metrics"], input=generate_latest(metrics.registry), capture_output=True, check=False
    )
    assert linted.returncode == 0, linted.stderr.decode()
