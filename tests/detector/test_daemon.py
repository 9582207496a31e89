from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from consumers.batch import Partition, RawBatch
from consumers.errors import BrokerUnavailable
from consumers.memory import MemoryBroker
from consumers.stream import Window
from detector.alerts import Alert
from detector.bundle import Bundle
from detector.daemon import Daemon
from detector.errors import TrainingError
from detector.feedback_effects import Opinions
from detector.pipeline import Outcome, Pipeline
from detector.store import Store
from detector.trainings import Request, Trainings
from tests.detector.machines import ALERTS, TOPIC, broker_with, records, send, settings
from tests.detector.trainings_at_work import DEADLINE_S, script, until

ON_START = {"records": 3_000, "min_records": 300, "on_start": True}


class Watcher:
    """Collects outcomes and lets a test wait for what it is after."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self.outcomes: list[Outcome] = []

    def observe(self, _batch: RawBatch, outcome: Outcome) -> None:
        with self._changed:
            self.outcomes.append(outcome)
            self._changed.notify_all()

    def wait(self, reached: Callable[[list[Outcome]], bool]) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: reached(self.outcomes), DEADLINE_S), "not reached in time"

    def wait_for_records(self, count: int) -> None:
        self.wait(lambda outcomes: sum(outcome.records for outcome in outcomes) >= count)


@contextmanager
def at_work(daemon: Daemon) -> Iterator[None]:
    with ThreadPoolExecutor(1) as executor:
        done = executor.submit(daemon.run)
        try:
            yield
        finally:
            daemon.stop()
            done.result(DEADLINE_S)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


@pytest.fixture
def bundle(folder: Path, champion: Bundle) -> Bundle:
    """The champion of the store in `folder`."""
    store = Store(str(folder / "store"), "machines")
    store.save(champion)
    store.promote(champion.version)
    return champion


def published(broker: MemoryBroker, topic: str) -> list[bytes]:
    return [value or b"" for batch in broker.read([topic], Window()) for value in batch.values]


def test_it_learns_from_the_topic_first_and_scores_what_comes_after(folder: Path) -> None:
    broker, watcher = broker_with(records(3_000)), Watcher()
    daemon = Daemon(settings(folder, training=ON_START), broker, observers=[watcher.observe])
    with at_work(daemon):
        send(broker, records(600, start=3_000))  # some of them are trained on, if it was not quick
        until(lambda: daemon.health.alive().phase == "serving")
        send(broker, records(30, start=3_600))
        watcher.wait(lambda outcomes: bool(outcomes) and outcomes[-1].positions[Partition(TOPIC, 0)].offset == 3_630)
    first = watcher.outcomes[0].columns.offsets[0]
    assert first >= 3_000
    assert sum(len(outcome.columns) for outcome in watcher.outcomes) == 3_630 - first


def test_without_a_version_and_without_on_start_it_says_what_to_do(folder: Path) -> None:
    with pytest.raises(TrainingError, match="offnominal train"):
        Daemon(settings(folder), broker_with([])).run()


def test_it_waits_for_a_topic_that_is_not_there_yet(folder: Path, bundle: Bundle) -> None:
    broker, watcher = MemoryBroker(group="offnominal-machines"), Watcher()
    daemon = Daemon(settings(folder), broker, observers=[watcher.observe])
    with at_work(daemon):
        until(lambda: daemon.health.alive().phase == "waiting")
        assert "machines" in daemon.health.ready().detail
        assert not daemon.health.ready().ok
        broker.create_topics({TOPIC: 1})
        send(broker, records(3_100))
        watcher.wait_for_records(100)
        assert daemon.health.ready().ok


def test_a_stop_ends_it_and_what_it_did_is_published(folder: Path, bundle: Bundle) -> None:
    broker, watcher = broker_with(records(3_000)), Watcher()
    send(broker, records(900, start=3_000, odd={3_250: {"cpu": 9.0}}))
    with at_work(Daemon(settings(folder), broker, observers=[watcher.observe])):
        watcher.wait_for_records(900)
    alerts = [Alert.model_validate_json(value) for value in published(broker, ALERTS)]
    assert alerts == [alert for outcome in watcher.outcomes for alert in outcome.alerts]
    assert 3_250 in {alert.source.offset for alert in alerts}


def test_a_second_run_goes_on_where_the_first_stopped(folder: Path, bundle: Bundle) -> None:
    broker, first, second = broker_with(records(3_300)), Watcher(), Watcher()
    with at_work(Daemon(settings(folder), broker, observers=[first.observe])):
        first.wait_for_records(300)
    send(broker, records(60, start=3_300))
    with at_work(Daemon(settings(folder), broker, observers=[second.observe])):
        second.wait_for_records(60)
    assert second.outcomes[0].columns.offsets[0] == 3_300


def test_a_new_champion_is_taken_between_two_batches_without_losing_or_doubling_a_record(
    folder: Path, bundle: Bundle, other: Bundle
) -> None:
    broker, watcher = broker_with(records(3_000)), Watcher()
    store = Store(str(folder / "store"), "machines")
    with at_work(Daemon(settings(folder), broker, observers=[watcher.observe])):
        send(broker, records(300, start=3_000))
        watcher.wait_for_records(300)
        store.save(other)
        store.promote(other.version)
        number = 3_300
        while watcher.outcomes[-1].version != other.version:
            send(broker, records(30, start=number))
            number += 30
            watcher.wait_for_records(number - 3_000)
    offsets = [offset for outcome in watcher.outcomes for offset in outcome.columns.offsets.tolist()]
    assert offsets == list(range(3_000, number))
    assert {outcome.version for outcome in watcher.outcomes} == {bundle.version, other.version}


def test_a_damaged_champion_leaves_the_old_one_in_service(folder: Path, bundle: Bundle, other: Bundle) -> None:
    broker, watcher = broker_with(records(3_000)), Watcher()
    store = Store(str(folder / "store"), "machines")
    store.save(other)
    with at_work(Daemon(settings(folder), broker, observers=[watcher.observe])):
        send(broker, records(30, start=3_000))
        watcher.wait_for_records(30)
        (folder / "store" / "machines" / other.version / "model-gmm.safetensors").write_bytes(b"half")
        store.promote(other.version)
        for number in range(3_030, 3_300, 30):
            send(broker, records(30, start=number))
            watcher.wait_for_records(number - 2_970)
    assert {outcome.version for outcome in watcher.outcomes} == {bundle.version}


def test_a_lost_connection_is_made_again_and_no_record_is_lost(
    folder: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    from consumers.memory import MemoryStream

    broker, watcher = broker_with(records(3_000)), Watcher()
    sound, failures = MemoryStream.publish, [BrokerUnavailable("gone"), BrokerUnavailable("still gone")]

    def publish(self: MemoryStream, *arguments: Any) -> list[tuple[Partition, int]]:
        if failures:
            raise failures.pop()
        return sound(self, *arguments)

    monkeypatch.setattr(MemoryStream, "publish", publish)
    send(broker, records(300, start=3_000))
    with at_work(Daemon(settings(folder), broker, observers=[watcher.observe])):
        watcher.wait_for_records(300)
    offsets = [offset for outcome in watcher.outcomes for offset in outcome.columns.offsets.tolist()]
    assert offsets == list(range(3_000, 3_300))


def test_the_pause_before_joining_again_starts_small_after_a_good_turn(
    folder: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    from consumers.memory import MemoryStream

    monkeypatch.setattr("detector.daemon.RETRY_S", (0.01, 30.0))
    broker, watcher = broker_with(records(3_000)), Watcher()
    sound, turns = MemoryStream.poll, iter(range(10**6))

    def poll(self: MemoryStream, *arguments: Any) -> RawBatch:
        if next(turns) % 3 == 2:
            raise BrokerUnavailable("gone")
        return sound(self, *arguments)

    monkeypatch.setattr(MemoryStream, "poll", poll)
    daemon = Daemon(settings(folder, batch={"max_wait": "10ms"}), broker, observers=[watcher.observe])
    with at_work(daemon):
        for number in range(3_000, 3_300, 30):
            send(broker, records(30, start=number))
            watcher.wait_for_records(number - 2_970)
        assert daemon._pause_s <= 0.02


def test_the_metrics_count_what_happened(folder: Path, bundle: Bundle) -> None:
    broker, watcher = broker_with(records(3_000)), Watcher()
    send(broker, [*records(300, start=3_000, odd={3_100: {"cpu": 9.0}}), b"broken"])
    daemon = Daemon(settings(folder), broker, observers=[watcher.observe])
    with at_work(daemon):
        watcher.wait_for_records(301)

    def value(name: str, **labels: str) -> float | None:
        return exported(daemon, name, **labels)

    assert value("suppressed_alarms_total") == 0
    assert value("records_total") == 301
    assert value("dead_letters_total", reason="malformed") == 1
    alarms = sum(int(outcome.decided.alarm.sum()) for outcome in watcher.outcomes)
    assert alarms >= 1
    assert value("alarms_total") == alarms
    assert value("promised_alarms_total") == pytest.approx(3.0)
    assert value("elevated_records_total") == sum(int(outcome.decided.elevated.sum()) for outcome in watcher.outcomes)
    assert value("promised_rate") == pytest.approx(0.01)
    assert value("realised_rate") == pytest.approx(alarms / 300)
    assert value("lag_records", topic=TOPIC, partition="0") == 0
    assert value("version_info", version=bundle.version) == 1


def exported(daemon: Daemon, name: str, **labels: str) -> float | None:
    return daemon.metrics.registry.get_sample_value(f"offnominal_{name}", {"detector": "machines", **labels})


def test_of_two_replicas_without_a_version_one_trains_the_first(folder: Path) -> None:
    broker = broker_with(records(3_000), partitions=2)
    one, two = (Daemon(settings(folder, training=ON_START), broker) for _ in range(2))
    with at_work(one), at_work(two):
        until(lambda: one.health.alive().phase == two.health.alive().phase == "serving")
    store = Store(str(folder / "store"), "machines")
    (report,) = Trainings(store).reports(10)
    assert (report.reason, report.outcome, [report.version]) == ("start", "promoted", store.versions())


def test_a_training_that_is_asked_for_runs_and_its_version_takes_over(
    folder: Path, bundle: Bundle, other: Bundle
) -> None:
    broker, watcher = broker_with(records(3_000)), Watcher()
    store = Store(str(folder / "store"), "machines")
    store.save(other)
    pointer = folder / "store" / "machines" / "champion.json"
    promotion = f"""
content = json.dumps({{"version": "{other.version}", "history": ["{bundle.version}"]}})
open("{pointer}.part", "w").write(content)
os.replace("{pointer}.part", "{pointer}")
say("watch {other.version}")
await_signal()
"""
    daemon = Daemon(settings(folder), broker, training_command=script(promotion), observers=[watcher.observe])
    trainings = Trainings(store)
    with at_work(daemon):
        assert exported(daemon, "training_phase") in (0, None)
        request = trainings.ask(Request(reason="demand"))
        until(lambda: exported(daemon, "training_phase") == 3)
        until(lambda: trainings.report(request.id) is not None)
        number = 3_000
        while not watcher.outcomes or watcher.outcomes[-1].version != other.version:
            send(broker, records(30, start=number))
            number += 30
            watcher.wait_for_records(number - 3_000)
        assert exported(daemon, "trainings_total", result="promoted") == 1
        child = daemon._retraining._trainer._child
        assert child is not None
    assert child.process.returncode is not None, "it ends with the daemon"
    assert trainings.under_way() is None


def test_a_training_ends_with_the_stream_and_is_taken_again(
    folder: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    from consumers.memory import MemoryStream

    monkeypatch.setattr("detector.daemon.RETRY_S", (0.01, 0.01))
    broker, watcher = broker_with(records(3_000)), Watcher()
    trainings = Trainings(Store(str(folder / "store"), "machines"))
    sound, failures = MemoryStream.publish, list[BrokerUnavailable]()

    def publish(self: MemoryStream, *arguments: Any) -> list[tuple[Partition, int]]:
        if failures:
            raise failures.pop()
        return sound(self, *arguments)

    monkeypatch.setattr(MemoryStream, "publish", publish)
    daemon = Daemon(settings(folder), broker, training_command=script("await_signal()"), observers=[watcher.observe])
    with at_work(daemon):
        request = trainings.ask(Request(reason="demand"))
        until(lambda: daemon._retraining.phase == "training")
        first = daemon._retraining._trainer._child
        failures.append(BrokerUnavailable("gone"))
        send(broker, records(30, start=3_000))
        watcher.wait_for_records(30)
        until(lambda: daemon._retraining._trainer._child not in (first, None))
        assert first is not None
        assert first.process.returncode is not None
        assert trainings.under_way() == request
    assert trainings.reports(10) == []


def test_drift_has_a_training_asked_for(folder: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    broker, sound = broker_with(records(3_000)), Pipeline.process
    trainings = Trainings(Store(str(folder / "store"), "machines"))

    def process(self: Pipeline, batch: RawBatch, **how: float) -> Outcome:
        outcome = sound(self, batch, **how)
        drifted = [alert.model_copy(update={"kind": "drift"}) for alert in outcome.alerts]
        return replace(outcome, alerts=drifted)

    monkeypatch.setattr(Pipeline, "process", process)
    send(broker, records(300, start=3_000, odd={3_100: {"cpu": 9.0}}))
    with at_work(Daemon(settings(folder), broker)):
        until(lambda: trainings.asked() is not None)
    request = trainings.asked()
    assert request is not None
    assert request.reason == "drift"


def test_what_people_say_is_heeded_between_two_batches_and_written_down(
    folder: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    said, heeded = [Opinions()], list[Opinions]()
    words = [said[0]]

    class Watch:
        def __init__(self, *_arguments: object) -> None:
            self.stopped = False

        def take(self) -> Opinions | None:
            return words.pop() if words and watcher.outcomes else None

        def stop(self) -> None:
            stopped.append(True)

    stopped = list[bool]()
    monkeypatch.setattr("detector.daemon.FeedbackWatch", Watch)
    monkeypatch.setattr(Pipeline, "heed", lambda _self, opinions: heeded.append(opinions))
    broker, watcher = broker_with(records(3_300)), Watcher()
    daemon = Daemon(settings(folder, state={"every": "1d"}), broker, observers=[watcher.observe])
    with at_work(daemon):
        watcher.wait_for_records(300)
        until(lambda: exported(daemon, "snapshots_total") == 1)
    assert heeded == said
    assert stopped == [True]
    assert broker.partitions(["offnominal-machines-feedback"])
