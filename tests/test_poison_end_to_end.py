"""What poison does to a daemon as a user runs it: a process of its own on a real broker."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from kafka import KafkaAdminClient

from consumers.batch import DeadLetter, Header, Message, Partition, RawBatch
from consumers.dead_letters import dead_letter_message
from consumers.kafka_python import KafkaPythonBroker
from consumers.producer import Producer
from consumers.stream import Window
from detector.config import DetectorSettings
from detector.loading import parse
from detector.store import Store
from tests.detector.machines import records, trained

DEADLINE_S = 120
NORMAL = 120
"""Records before the storm, and so its first offset."""
STORM: list[bytes | None] = [b"{broken"] * 250


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with a champion for `settings_for`."""
    folder = tmp_path_factory.mktemp("store")
    bundle = trained(folder)
    store = Store(str(folder), "machines")
    store.save(bundle)
    store.promote(bundle.version)
    return folder


class World:
    """A topic with 3,000 normal records that are read already, and a detector in a process of its own."""

    def __init__(self, bootstrap: str, unique: str, store: Path, folder: Path) -> None:
        self.topic = unique
        self._file = folder / "offnominal.yaml"
        self._values: dict[str, Any] = {
            "name": "machines",
            "kafka": {"bootstrap": bootstrap, "group": unique, "start": "earliest", "request_timeout_s": 10},
            "stream": {"topics": [unique], "entity": "machine", "timestamp": "ts"},
            "features": ["cpu", "load"],
            "models": [{"type": "gmm", "components": 1}],
            "alerts": {"topic": f"{unique}-alerts", "rate": 0.01, "quiet_for": "5m", "silence": False},
            "state": {"topic": f"{unique}-state"},
            "batch": {"max_records": 100},
            "store": {"url": str(store)},
            "web": {"enabled": False},
        }
        self.settings: DetectorSettings = parse(self._values)
        self.broker = KafkaPythonBroker(self.settings.kafka, group=unique, client_id="tests")
        self.broker.create_topics({unique: 1})

    def set(self, **dead_letters: Any) -> Path:
        """The settings file, with these limits."""
        self._file.write_text(yaml.safe_dump({**self._values, "dead_letters": dead_letters}))
        return self._file

    def send(self, values: list[bytes | None]) -> None:
        with Producer(self.settings.kafka, client_id="tests") as producer:
            for value in values:
                producer.send(Message(self.topic, b"key", value))

    def position(self) -> int:
        """Where the group stands, as the next member of it would hear."""
        with closing(self.broker.stream([self.topic])) as stream:
            for _ in range(60):
                if assigned := stream.poll(1, 0.5).assigned:
                    return assigned[Partition(self.topic, 0)].offset
        raise AssertionError("the partition was never assigned")

    def records(self) -> list[tuple[bytes | None, bytes | None, Sequence[Header]]]:
        """Key, value and headers of each record in the topic."""
        return [
            (batch.keys[row], batch.values[row], batch.headers[row])
            for batch in self.broker.read([self.topic], Window())
            for row in range(len(batch))
        ]

    def letters(self) -> Counter[int]:
        """How many dead letters there are of each offset."""
        return Counter(
            int(dict(headers)["offnominal.offset"])
            for batch in self.broker.read([self.settings.dead_letter_topic], Window())
            for headers in batch.headers
            if "offnominal.offset" in dict(headers)
        )


def offnominal(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "detector", *map(str, arguments)]


def ended(*arguments: str | Path, stdin: int = subprocess.DEVNULL) -> subprocess.CompletedProcess[str]:
    """A process that ends by itself."""
    return subprocess.run(
        offnominal(*arguments),
        stdin=stdin,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )


@contextmanager
def running(config: Path) -> Iterator[subprocess.Popen[str]]:
    """A daemon that has got its partition."""
    process = subprocess.Popen(offnominal("run", "-c", config), stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        assert any(json.loads(line)["event"] == "partitions" for line in process.stderr), "it ended"
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.fixture
def world(bootstrap: str, unique: str, store: Path, tmp_path: Path) -> World:
    return World(bootstrap, unique, store, tmp_path)


def until(world: World, letters: int) -> None:
    """Waits for so many dead letters."""
    following = world.broker.read([world.settings.dead_letter_topic], Window(), follow=True)
    seen = 0
    for _, batch in zip(range(DEADLINE_S), following, strict=False):
        seen += sum("offnominal.offset" in dict(headers) for headers in batch.headers)
        if seen >= letters:
            return
    raise AssertionError(f"{seen} dead letters, wanted {letters}")


def test_a_storm_stops_the_daemon_and_a_raised_limit_lets_it_through_once(world: World) -> None:
    world.send([*records(NORMAL, start=3_000), *STORM, *records(30, start=3_000 + NORMAL)])
    for _ in range(2):
        stopped = ended("run", "-c", world.set(max_consecutive=150))
        assert stopped.returncode == 1
        what, why, remedy = stopped.stderr.splitlines()[-3:]
        assert what.startswith(f"TooManyInvalid: {world.topic}[0]: ")
        assert "151 records in a row" in what
        assert "dead_letters.max_consecutive = 150" in what
        assert "malformed" in why
        assert "raise dead_letters.max_consecutive" in remedy
        assert "Traceback" not in stopped.stderr
        assert world.position() <= NORMAL + 150
    with running(world.set(max_consecutive=None, max_invalid_ratio=None)):
        until(world, len(STORM))
    assert world.letters() == Counter(range(NORMAL, NORMAL + len(STORM)))
    assert world.position() > NORMAL + 150


def test_a_deleted_dead_letter_topic_stops_the_daemon_and_nothing_is_committed_past_it(world: World) -> None:
    world.send([*records(NORMAL, start=3_000)])
    with running(world.set()) as daemon:
        world.send([b"{broken"])
        until(world, 1)
        delete(world.settings.kafka.bootstrap, world.settings.dead_letter_topic)
        world.send([b"{broken"])
        _, said = daemon.communicate(timeout=DEADLINE_S)
    assert daemon.returncode == 1
    assert "TopicMissing" in said
    assert world.settings.dead_letter_topic in said
    assert world.position() == NORMAL + 1
    with running(world.set()):
        until(world, 1)
    assert world.letters() == Counter([NORMAL + 1])


def delete(bootstrap: str, topic: str) -> None:
    with closing(KafkaAdminClient(bootstrap_servers=bootstrap)) as admin:
        admin.delete_topics([topic])


def put_letters(world: World) -> None:
    """Dead letters of three records, one of which was too large to be kept whole."""
    world.broker.create_topics({world.settings.dead_letter_topic: 1})
    values: list[bytes | None] = [b"{broken\n", b"x" * 5_000, b"[]"]
    batch = RawBatch(
        partitions=(Partition(world.topic, 0),),
        partition=np.zeros(3, np.int32),
        offsets=np.arange(10, 13),
        timestamps=np.full(3, 1_767_225_600_000),
        keys=[b"k1", b"k2", b"k3"],
        values=values,
        headers=[[("trace", b"t")]] * 3,
    )
    reasons = zip(range(3), ("malformed", "malformed", "wrong_shape"), strict=True)
    with Producer(world.settings.kafka, client_id="tests") as producer:
        for row, reason in reasons:
            letter = DeadLetter(row, reason, f"wrong with {10 + row}")
            producer.send(dead_letter_message(batch, letter, topic=world.settings.dead_letter_topic, max_bytes=1_000))


def said(*arguments: str | Path) -> list[dict[str, Any]]:
    """What `offnominal dead-letters` prints for a script."""
    done = ended("dead-letters", *arguments, "--json")
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_dead_letters_are_counted_and_listed(world: World) -> None:
    put_letters(world)
    config = world.set()
    counted = said("-c", config)
    assert [(it["reason"], it["letters"], it["sent_back"]) for it in counted] == [
        ("malformed", 2, 0),
        ("wrong_shape", 1, 0),
    ]
    listed = said("-c", config, "--all")
    assert [it["source"]["offset"] for it in listed] == [10, 11, 12]
    assert listed[0] | {"time": "", "offset": 0} == {
        "partition": 0,
        "offset": 0,
        "time": "",
        "reason": "malformed",
        "error": "wrong with 10",
        "source": {"topic": world.topic, "partition": 0, "offset": 10},
        "records": 1,
        "key": "k1",
        "value": "{broken\\n",
        "bytes": 8,
        "cut": [],
    }
    assert (listed[1]["bytes"], listed[1]["cut"]) == (5_000, ["value"])
    assert [it["reason"] for it in said("-c", config, "--reason", "wrong_shape")] == ["wrong_shape"]
    assert [it["source"]["offset"] for it in said("-c", config, "--last", "2")] == [11, 12]
    assert len(said("-c", config, "--since", "1h")) == 3
    shown = ended("dead-letters", "-c", config)
    assert "malformed 2, 0 sent back" in shown.stdout


def test_a_replay_sends_each_record_back_once_and_says_what_it_cannot(world: World) -> None:
    put_letters(world)
    config = world.set()
    plan = {"sendable": {"malformed": 1, "wrong_shape": 1}, "held_back": {"cut": 1}}
    assert said("-c", config, "--replay", "--dry-run") == [{**plan, "sent": 0, "dry_run": True}]
    assert world.records() == []
    assert said("-c", config, "--replay", "--yes") == [{**plan, "sent": 2, "dry_run": False}]
    assert said("-c", config, "--replay", "--yes")[0]["sent"] == 0
    dead = f"{world.settings.dead_letter_topic}[0]@".encode()
    (k1, v1, h1), (k3, v3, h3) = world.records()
    assert [(k1, v1), (k3, v3)] == [(b"k1", b"{broken\n"), (b"k3", b"[]")]
    assert all([name for name, _ in headers] == ["trace", "offnominal.replayed"] for headers in (h1, h3))
    assert h1[1][1].startswith(dead)
    assert h1[1][1] != h3[1][1]


def test_a_replay_asks_a_person_and_refuses_where_there_is_none(world: World) -> None:
    put_letters(world)
    config = world.set()
    refused = ended("dead-letters", "-c", config, "--replay")
    assert refused.returncode == 2
    assert "--yes" in refused.stderr
    ours, theirs = pty.openpty()
    os.write(ours, b"n\n")
    asked = ended("dead-letters", "-c", config, "--replay", stdin=theirs)
    os.close(ours)
    os.close(theirs)
    assert asked.returncode == 1
    assert "Send 2 records back" in asked.stderr
    assert world.records() == []


def test_a_wrong_question_is_told_in_a_line(world: World) -> None:
    config = world.set()
    for arguments in (["--reason", "bad"], ["--since", "soon"], ["--last", "3", "--since", "1h"], ["--dry-run"]):
        refused = ended("dead-letters", "-c", config, *arguments)
        assert refused.returncode == 2
        assert "Traceback" not in refused.stderr
