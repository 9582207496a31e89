"""A daemon that loses its stream again and again says the same as one that is left in peace."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from consumers.batch import Message, Partition, Position, RawBatch
from consumers.errors import OutcomeUnknown, Retry
from consumers.memory import MemoryBroker, MemoryStream
from consumers.memory_log import Group
from detector import daemon as daemons
from detector.alerts import Alert
from detector.bookmark import Bookmark
from detector.bundle import Bundle
from detector.config import DetectorSettings
from detector.daemon import Daemon
from detector.store import Store
from tests.detector.machines import ALERTS, DEAD_LETTERS, START_MS, TOPIC, broker_with, records, send, settings
from tests.detector.test_daemon import at_work, published
from tests.detector.trainings_at_work import until

STATE = "offnominal-machines-state"
N = 1_500
ODD: dict[int, dict[str, object]] = {
    **{number: {"cpu": 9.0} for number in range(3_201, 3_240, 3)},
    **{number: {"cpu": 5.0 + number % 7} for number in range(3_700, 3_760)},
    **{number: {"load": -4.0} for number in (3_900, 3_903, 4_100, 4_101, 4_102)},
    **{number: {"cpu": "broken"} for number in range(4_200, 4_260, 6)},
    **{number: {"cpu": 40.0} for number in range(4_400, 4_420)},
}


class Shaky:
    """A broker in memory whose streams break, before or after what they were asked for."""

    def __init__(self, inner: MemoryBroker, chance: np.random.Generator, share: float) -> None:
        self._inner, self._chance, self._share = inner, chance, share
        self.broken = 0

    def stream(self, topics: Sequence[str], begin: Mapping[Partition, int] | None = None) -> ShakyStream:
        return ShakyStream(self._inner.stream(topics, begin), self)

    def breaks(self) -> bool:
        broken = bool(self._chance.random() < self._share)
        self.broken += broken
        return broken

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


class ShakyStream:
    def __init__(self, inner: MemoryStream, broker: Shaky) -> None:
        self._inner, self._broker = inner, broker

    def poll(self, max_records: int, timeout_s: float) -> RawBatch:
        if self._broker.breaks():
            raise Retry("broken before a poll")
        return self._inner.poll(max_records, timeout_s)

    def publish(
        self, messages: Sequence[Message], positions: Mapping[Partition, Position]
    ) -> list[tuple[Partition, int]]:
        if self._broker.breaks():
            raise OutcomeUnknown("broken before a commit")
        places = self._inner.publish(messages, positions)
        if self._broker.breaks():
            raise OutcomeUnknown("broken after a commit")
        return places

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(daemons, "RETRY_S", (0.001, 0.001))


def chosen(folder: Path, bundle: Bundle, **changes: Any) -> DetectorSettings:
    store = Store(str(folder / "store"), "machines")
    store.save(bundle)
    store.promote(bundle.version)
    values: dict[str, Any] = {
        "batch": {"max_records": 100, "max_wait": "10ms"},
        "state": {"every": "1h", "records": 120},
        "alerts": {"topic": ALERTS, "rate": 0.01, "quiet_for": "5m", "silence": False},
    }
    return settings(folder, **{**values, **changes})


def told(broker: MemoryBroker, topic: str = ALERTS) -> dict[str, Alert]:
    """Alerts by id, each published once."""
    alerts = [Alert.model_validate_json(value) for value in published(broker, topic)]
    times = Counter(alert.id for alert in alerts)
    assert not [id_ for id_, count in times.items() if count > 1]
    return {alert.id: alert for alert in alerts}


def dead(broker: MemoryBroker) -> list[bytes]:
    return sorted(published(broker, DEAD_LETTERS))


def stream_of(partitions: int) -> MemoryBroker:
    broker = broker_with(records(3_000), partitions=partitions)
    send(broker, records(N, start=3_000, odd=ODD), timestamp_ms=START_MS)
    return broker


def through(memory: MemoryBroker) -> bool:
    """Whether the group has taken all records that are there."""
    with memory.log.changed:
        positions = memory.log.groups["offnominal-machines"].positions if memory.log.groups else {}
        at = [
            positions.get(Partition(TOPIC, number), Position(-1)).offset
            for number in range(len(memory.log.topics[TOPIC]))
        ]
        return at == [log.end for log in memory.log.topics[TOPIC]]


class Crashing(Daemon):
    """Ends without another word."""

    def _write_down(self, *_: object) -> None: ...


def served(settings: DetectorSettings, broker: Any, memory: MemoryBroker, kind: type[Daemon] = Daemon) -> None:
    """Runs a daemon until all records are taken."""
    with at_work(kind(settings, broker)):
        until(lambda: through(memory))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, champion: Bundle) -> MemoryBroker:
    broker = stream_of(2)
    served(chosen(tmp_path_factory.mktemp("undisturbed"), champion), broker, broker)
    return broker


@pytest.mark.parametrize("seed", range(4))
def test_whatever_breaks_alerts_and_dead_letters_are_those_of_a_run_in_peace(
    tmp_path: Path, champion: Bundle, undisturbed: MemoryBroker, seed: int
) -> None:
    memory = stream_of(2)
    broker = Shaky(memory, np.random.default_rng(seed), 0.06)
    served(chosen(tmp_path, champion), broker, memory)
    assert broker.broken > 3
    assert told(memory) == told(undisturbed)
    assert dead(memory) == dead(undisturbed)
    assert {alert.kind for alert in told(memory).values()} >= {"opened", "escalated", "resolved"}


def test_without_snapshots_the_same_breaks_would_be_seen(
    tmp_path: Path, champion: Bundle, undisturbed: MemoryBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Bookmark, "read", lambda _text: None)
    memory = stream_of(2)
    served(chosen(tmp_path, champion), Shaky(memory, np.random.default_rng(0), 0.06), memory)
    assert told(memory) != told(undisturbed)


def test_before_the_first_snapshot_the_log_is_replayed_from_the_first_record(
    tmp_path: Path, champion: Bundle, undisturbed: MemoryBroker
) -> None:
    memory = stream_of(2)
    rare = chosen(tmp_path, champion, state={"every": "1h", "records": 1_000_000})
    served(rare, Shaky(memory, np.random.default_rng(1), 0.015), memory)
    assert told(memory) == told(undisturbed)


def test_a_restart_replays_nothing_and_goes_on(tmp_path: Path, champion: Bundle, undisturbed: MemoryBroker) -> None:
    memory, values = broker_with(records(3_000), partitions=2), records(N, start=3_000, odd=ODD)
    rare = chosen(tmp_path, champion, state={"every": "1h", "records": 1_000_000})
    for start in range(0, N, 500):
        send(memory, values[start : start + 500], timestamp_ms=START_MS)
        served(rare, memory, memory)
        with memory.log.changed:
            for position in memory.log.groups["offnominal-machines"].positions.values():
                bookmark = Bookmark.read(position.snapshot)
                assert bookmark is not None
                assert bookmark.at == position.offset
    assert told(memory) == told(undisturbed)


def test_partitions_that_move_to_another_replica_go_on_there(
    tmp_path: Path, champion: Bundle, undisturbed: MemoryBroker
) -> None:
    memory, values = broker_with(records(3_000), partitions=2), records(N, start=3_000, odd=ODD)
    rare = chosen(tmp_path, champion, state={"every": "1h", "records": 1_000_000})
    send(memory, values[:700], timestamp_ms=START_MS)
    with at_work(Daemon(rare, memory)):
        until(lambda: through(memory))
        with at_work(Daemon(rare, MemoryBroker(group="offnominal-machines", log=memory.log))):
            until(lambda: len(set(memory.log.groups["offnominal-machines"].owners.values())) == 2)
            send(memory, values[700:1_200], timestamp_ms=START_MS)
            until(lambda: through(memory))
        send(memory, values[1_200:], timestamp_ms=START_MS)
        until(lambda: through(memory))
    assert told(memory) == told(undisturbed)


def test_a_stream_that_stopped_is_told_once_however_often_the_daemon_starts(
    tmp_path: Path, champion: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = stream_of(1)
    loud = chosen(tmp_path, champion, alerts={"topic": ALERTS, "rate": 0.01, "quiet_for": "5m", "silence": True})
    served(loud, memory, memory)
    now = count(step=600.0)
    monkeypatch.setattr(daemons, "time", SimpleNamespace(monotonic=lambda: next(now), time=time.time))
    broker = Shaky(memory, np.random.default_rng(2), 0.1)
    with at_work(Daemon(loud, broker)):
        until(lambda: broker.broken > 8)
    assert [alert.entity for alert in told(memory).values() if alert.kind == "silence"] == [""]


def test_an_open_incident_outlives_a_crash_and_a_change_of_version_at_once(
    tmp_path: Path, champion: Bundle, other: Bundle
) -> None:
    memory, values = broker_with(records(3_000)), records(N, start=3_000, odd=ODD)
    rare = chosen(tmp_path, champion, state={"every": "1h", "records": 100})
    send(memory, values[:220], timestamp_ms=START_MS)  # within the first incident
    served(rare, memory, memory, Crashing)
    opened = {alert.incident for alert in told(memory).values() if alert.kind == "opened"}
    store = Store(str(tmp_path / "store"), "machines")
    store.save(other)
    store.promote(other.version)
    send(memory, values[220:], timestamp_ms=START_MS)
    served(rare, memory, memory)
    after = [alert for alert in told(memory).values() if alert.version == other.version]
    assert after
    assert {alert.incident for alert in after if alert.kind == "resolved"} & opened


def test_a_position_whose_note_makes_no_sense_costs_memory_and_no_record(
    tmp_path: Path, champion: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    memory = stream_of(1)
    with memory.log.changed:
        group = memory.log.groups.setdefault("offnominal-machines", Group(frozenset({TOPIC}), {TOPIC}))
        group.positions[Partition(TOPIC, 0)] = Position(3_100, "what somebody else wrote")
    served(chosen(tmp_path, champion), memory, memory)
    assert "what a partition remembered is lost" in capsys.readouterr().out


def test_a_snapshot_that_is_gone_costs_memory_and_no_record(
    tmp_path: Path, champion: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    memory, values = broker_with(records(3_000)), records(N, start=3_000, odd=ODD)
    often = chosen(tmp_path, champion)
    send(memory, values[:700], timestamp_ms=START_MS)
    served(often, memory, memory)
    with memory.log.changed:
        del memory.log.topics[STATE]
    memory.create_topics({STATE: 1})
    send(memory, values[700:], timestamp_ms=START_MS)
    served(often, memory, memory)
    assert "what a partition remembered is lost" in capsys.readouterr().out
    assert len(dead(memory)) == sum("cpu" in odd and odd["cpu"] == "broken" for odd in ODD.values())
