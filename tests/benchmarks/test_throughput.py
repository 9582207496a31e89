from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from benchmarks.brokers import broker
from benchmarks.stage import MIXTURE, VAE, Stage
from benchmarks.throughput.clients import CLIENTS, kafka_python
from benchmarks.throughput.daemon import measure
from benchmarks.throughput.growth import BATCH, CASES, Case
from benchmarks.throughput.loops import LIBRARIES, fitted, loop
from benchmarks.throughput.meter import SAMPLES, Meter
from benchmarks.throughput.profile import Profile, per_record
from benchmarks.throughput.variants import NEEDS, summarise, variants
from benchmarks.workload import TIMESTAMP, key, send, training, values
from consumers.decode import JsonDecoder
from consumers.memory import MemoryBroker
from detector.commands.terminal import connect
from detector.features import fields
from detector.loading import load
from detector.store import Store
from detector.training import train
from detector.training_data import gather

RECORDS = 4_000


def ticking(moments: Iterable[float]) -> Iterator[float]:
    yield from moments


def test_the_first_batch_is_not_counted() -> None:
    clock = ticking([10.0, 11.0, 13.0])
    meter = Meter(100, clock=lambda: next(clock))
    assert [meter.took(records) for records in (40, 30, 0, 30)] == [False, False, False, True]
    figures = meter.figures()
    assert (figures["records"], figures["seconds"]) == (60, 3.0)


def test_memory_is_sampled_at_each_tenth() -> None:
    meter = Meter(100)
    for _ in range(3):
        meter.took(34)
    assert len(meter.figures()["rss_mb"]) == SAMPLES


def test_one_batch_is_no_rate() -> None:
    meter = Meter(10)
    meter.took(10)
    with pytest.raises(ValueError, match="10 records came in one batch"):
        meter.figures()


def test_time_counts_for_the_innermost_stage() -> None:
    clock = ticking([0.0, 1.0, 5.0, 7.0])
    profile = Profile(clock=lambda: next(clock))
    score = profile.timed("score", lambda: None)
    profile.timed("decide", lambda: score())()
    assert (profile.seconds["decide"], profile.seconds["score"]) == (3.0, 4.0)
    stages = per_record(profile.seconds, 1_000_000, 10.0)
    assert (stages["decide"], stages["score"], stages["other"]) == (3.0, 4.0, 3.0)


def figures(rate: float) -> dict[str, object]:
    return {
        "records": 100,
        "seconds": 100 / rate,
        "cpu_s": 1.0,
        "rss_mb": [1.0, 2.0],
        "alerts": 1,
        "stages": {"poll": 1.0},
    }


def test_ratios_are_of_medians() -> None:
    runs = {
        "client/kafka-python": [figures(1000.0)],
        "daemon/kafka-python/mixture": [figures(rate) for rate in (500.0, 100.0, 900.0)],
        "loop/river": [figures(50.0)],
    }
    said = summarise(runs)
    assert said["records_per_s"]["daemon/kafka-python/mixture"] == 500
    assert said["fraction_of_raw"] == {"kafka-python": 0.5, "confluent-kafka": None}
    assert said["over_river_loop"] == {"kafka-python": 10.0, "confluent-kafka": None}
    assert said["over_mixture"]["kafka-python"]["vae"] is None
    assert said["rss_mb"] == {"daemon/kafka-python/mixture": {"first_tenth": 1.0, "end": 2.0}}
    assert said["cpu_s"]["loop/river"] == 10_000.0


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(NEEDS, "river", "no_such_module")
    missing = {variant.name: variant.missing for variant in variants()}
    assert missing["loop/river"] == "pip install river"
    assert missing["client/kafka-python"] is None
    assert {f"client/{client}" for client in CLIENTS} <= missing.keys()


def test_records_are_the_same_again_and_follow_the_training_records() -> None:
    assert values(0, 50) == values(0, 50)
    last, first = json.loads(training()[-1]), json.loads(values(0, 1)[0])
    assert first[TIMESTAMP] - last[TIMESTAMP] == 10
    assert [json.loads(value)["machine"].encode() for value in values(95, 10)] == [key(n) for n in range(95, 105)]
    assert 130 < np.mean([len(value) for value in values(0, 1000)]) < 160


@pytest.mark.parametrize("library", LIBRARIES)
def test_every_loop_takes_the_same_records_for_anomalies(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if library in NEEDS:
        pytest.importorskip(NEEDS[library])
    monkeypatch.setitem(VAE, "epochs", 3)
    known, seen = (
        [json.loads(value) for value in part] for part in (training()[:3000], values(0, 3000, anomalous=0.01))
    )
    normal = [json.loads(value) for value in values(0, 3000, anomalous=0.0)]
    planted = np.array([was != now for was, now in zip(normal, seen, strict=True)])
    score = LIBRARIES[library](known)
    flagged = score(seen) > np.quantile(score(known), 0.999)
    assert planted.sum() > 20
    assert flagged[planted].mean() > 0.9
    assert flagged[~planted].mean() < 0.03


@pytest.mark.parametrize("partitions", CASES["partitions"])
def test_growth_keeps_an_entity_in_one_partition_and_offsets_in_order(partitions: int) -> None:
    case = Case(partitions=partitions)
    traffic = case.batches()
    owners: dict[str, set[int]] = {}
    ends = dict.fromkeys(range(partitions), 0)
    for batch, _ in zip(traffic, range(2), strict=False):
        columns, letters = JsonDecoder(fields([], "machine", "ts")).decode(batch)
        assert (len(columns), len(letters)) == (BATCH, 0)
        for entity, number in zip(columns.entity, columns.partition.tolist(), strict=True):
            owners.setdefault(entity, set()).add(number)
        for partition, rows in columns.by_partition():
            assert columns.offsets[rows].tolist() == [
                *range(ends[partition.number], ends[partition.number] + BATCH // partitions)
            ]
            ends[partition.number] += BATCH // partitions
    assert {len(numbers) for numbers in owners.values()} == {1}


def test_a_broker_of_another_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected apache, tansu or HOST:PORT"), broker("kafka", tmp_path):
        pass


@pytest.fixture
def stage(bootstrap: str, unique: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stage:
    """A topic with records, and a version of a small mixture in the store."""
    monkeypatch.setitem(MIXTURE, "components", 1)
    stage = Stage(tmp_path, bootstrap, unique)
    stage.create_topics({unique: 1, f"{unique}-alerts": 1})
    send(bootstrap, unique, RECORDS)
    (tmp_path / "training.ndjson").write_bytes(b"\n".join(training()[:3000]))
    settings = load(stage.detector("mixture", "kafka-python"))
    bundle = train(gather(settings, MemoryBroker(), now_ms=0), settings, created=datetime.now(UTC))
    store = Store(settings.store.url, settings.name)
    store.save(bundle)
    store.promote(bundle.version)
    return stage


def test_client_loop_and_daemon_read_all_of_the_same_topic(stage: Stage) -> None:
    raw, looped = Meter(RECORDS), Meter(RECORDS)
    kafka_python(stage.bootstrap, stage.topic, raw)
    alerts = loop(*fitted("scikit-learn"), stage.bootstrap, stage.topic, looped)
    settings = load(stage.detector("mixture", "kafka-python"))
    said = measure(settings, connect(settings), RECORDS)
    assert raw.done
    assert looped.done
    assert 0 < alerts < RECORDS / 20
    assert said["alerts"] > 0
    assert all(said["stages"].pop(name) > 0 for name in ("poll", "decode", "encode", "score", "decide", "publish"))
    assert said["stages"].keys() == {"other"}
