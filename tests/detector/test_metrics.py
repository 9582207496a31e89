from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import pairwise

import pytest
from prometheus_client import generate_latest

from consumers.batch import Moved, Partition, Position, RawBatch
from consumers.errors import BrokerUnavailable, OutcomeUnknown
from consumers.memory import MemoryBroker
from consumers.stream import Window
from detector.bundle import Bundle
from detector.config import DetectorSettings
from detector.config_service import HealthSettings
from detector.health import Health
from detector.lifecycle import Look
from detector.metrics import HEALTH_SPECS, SPECS, Metrics
from detector.pipeline import Pipeline
from detector.training import train
from detector.training_data import gather
from detector.trainings import PHASES
from tests.detector.machines import CREATED, START_MS, TOPIC, broker_with, records, settings

A = Partition(TOPIC, 0)
CANARY = "canary"
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
    assert len(seen[-1]) < 200
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
    health.enter("joining")
    assert value(metrics, "partition_stalled_seconds", topic=TOPIC, partition="0") is None


def test_every_metric_says_what_it_is_and_what_to_do() -> None:
    specs = (*SPECS, *HEALTH_SPECS)
    assert len({spec.name for spec in specs}) == len(specs)
    for spec in specs:
        assert spec.help.endswith(".")
        assert spec.act.endswith((".", "?"))
        if spec.name.endswith(("seconds", "bytes")):
            assert f"({spec.name.rsplit('_', 1)[1]})" in spec.help or "epoch seconds" in spec.help
