"""What more replicas carry and cost, and how long a partition stands still while they come and go.

    python -m benchmarks.scale_out [--json FILE] [--kafka PATH] [--replicas 1 2 4] [--records N] [--client C]
                                   [--session S]

A topic of 24 partitions on Apache Kafka, and daemons as processes of their own with one detector, the mixture.

carrying   replicas join while the topic is empty, are held (SIGSTOP) while the backlog is sent, and let go together: a
           rate is all records over the time until the last is committed. The first row is what the others are held to.
moving     two replicas under a steady load; a third joins, leaves (SIGTERM), joins, is killed; then one of the two is
           killed and started again at once. `read_again_s` is from the event (of a join: from the start of the process)
           until the partitions are shared among those that are left, and each is committed beyond where it ended at
           the event; `standstill_s` the longest that any partition's position stood still meanwhile. Beside it members
           of a group that only read and commit.

Broker, load and daemons share the cores of this machine; `cores_got` is how many of them daemons and broker had in all.
The result is JSON on the last line.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from kafka import KafkaConsumer, TopicPartition

from benchmarks.brokers import START, apache_kafka
from benchmarks.faults.fleet import Fleet
from benchmarks.faults.watch import GroupWatch
from benchmarks.processes import beside, command, surroundings
from benchmarks.stage import Stage, unique
from benchmarks.workload import key, outlet, values
from consumers.settings import KafkaSettings
from detector.loading import load

PARTITIONS = 24
MACHINES = 2_400
"""A hundred a partition, so that these are about equally long."""
RATE, LOAD_S = 1_200.0, 300.0
"""The steady load: fifty records a second and partition, so that a position that does not move stands still."""
CALM_S = 5.0
"""How long nothing happens, to see what a position takes to move then."""
HELD_S = 75.0
"""Held daemons answer nobody: exchanges with the broker, and sessions, must outlast the sending of the backlog."""
SOON_S = 120.0
"""What is waited for has to come within so long."""
_BLOCK = 100_000
_LOOK_S = 0.02
_MILLION = 1e6
PACKAGES = ("offnominal", "kafka-python", "confluent-kafka", "torch", "numba")


def main() -> None:
    """Runs what the arguments say, and prints the result last."""
    arguments = _arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that everything started is ended
    with tempfile.TemporaryDirectory(prefix="scale-out-") as at:
        folder = Path(at)
        with apache_kafka(arguments.kafka, folder / "kafka") as kafka:
            broker_pid = int((folder / "kafka" / "pid").read_text())
            stage = Stage(folder, kafka.address, unique("scale"))
            stage.train("mixture")
            carried = [carrying(stage, n, arguments, broker_pid) for n in arguments.replicas]
            for row in carried:
                row["over_first"] = round(row["records_per_s"] / carried[0]["records_per_s"], 2)
            moved = {name: moving(stage, name, arguments) for name in ("daemon", "bare")}
    line = json.dumps({"carrying": carried, "moving": moved, **surroundings("apache", PACKAGES)})
    if arguments.json:
        arguments.json.write_text(line + "\n", encoding="utf-8")
    print(line)  # noqa: T201 - the result


class Group(NamedTuple):
    """Replicas of one group on a topic of its own, and a watch over its positions."""

    topic: str
    fleet: Fleet
    watch: GroupWatch

    def shared(self) -> bool:
        """Whether the replicas that there are have equally many partitions, all in all."""
        counts = [len(self.watch.owned.get(name, ())) for name in self.fleet.names]
        return sum(counts) == PARTITIONS and max(counts) - min(counts) <= 1


@contextmanager
def group(stage: Stage, name: str, client: str, **kafka: float) -> Iterator[Group]:
    """Replicas, not started yet, of the daemon or of bare members; `kafka` are their settings of that name."""
    stage = Stage(stage.folder, stage.bootstrap, unique(name))
    stage.create_topics({stage.topic: PARTITIONS, f"{stage.topic}-alerts": 1})
    detector = stage.detector("mixture", client)
    settings = load(detector, {f"OFFNOMINAL__KAFKA__{key.upper()}": str(value) for key, value in kafka.items()})
    folder = stage.folder / stage.topic
    folder.mkdir()
    run = _bare(settings.kafka, folder, stage.topic) if name == "bare" else daemon_command(detector, kafka)
    fleet = Fleet(folder, run)
    watch = GroupWatch(stage.bootstrap, group=settings.group, topic=stage.topic)
    try:
        yield Group(stage.topic, fleet, watch)
    finally:
        watch.stop()
        fleet.close()


def daemon_command(detector: Path, kafka: Mapping[str, float]) -> Callable[[str], Sequence[str]]:
    """The command of a replica; `env` gives way to what it starts, so that its process is the daemon's."""

    def run(name: str) -> Sequence[str]:
        given = {**kafka, "instance": name}
        environment = [f"OFFNOMINAL__KAFKA__{key.upper()}={value}" for key, value in given.items()]
        return ["env", *environment, *command("detector", "run", "--config", str(detector))]

    return run


def _bare(settings: KafkaSettings, folder: Path, topic: str) -> Callable[[str], Sequence[str]]:
    path = folder / "member.json"
    path.write_text(settings.model_dump_json())
    return lambda name: command("benchmarks.faults.member", str(path), topic, name)


def carrying(stage: Stage, replicas: int, arguments: argparse.Namespace, broker_pid: int) -> dict[str, Any]:
    """What so many replicas make of a backlog, and what it costs."""
    held = {"session_timeout_s": 2 * HELD_S, "request_timeout_s": HELD_S}
    with group(stage, "daemon", arguments.client, **held) as it:
        for number in range(replicas):
            it.fleet.start(str(number))
        _until(it.shared, f"partitions for {replicas} replicas")
        for name in it.fleet.names:
            it.fleet.send(name, signal.SIGSTOP)
        _send(stage.bootstrap, it.topic, arguments.records)
        pids = [it.fleet.pid(name) for name in it.fleet.names]
        before, broker_before, started = [*map(_cpu_s, pids)], _cpu_s(broker_pid), time.monotonic()
        for name in it.fleet.names:
            it.fleet.send(name, signal.SIGCONT)
        _until(lambda: sum(it.watch.committed.values()) >= arguments.records, "an outcome for all records", 6 * SOON_S)
        seconds = time.monotonic() - started
        cpu = [_cpu_s(pid) - spent for pid, spent in zip(pids, before, strict=True)]
        resident = [_resident_mb(pid) for pid in pids]
        millions, broker_cpu = arguments.records / _MILLION, _cpu_s(broker_pid) - broker_before
    return {
        "replicas": replicas,
        "records": arguments.records,
        "records_per_s": round(arguments.records / seconds),
        "per_replica_per_s": round(arguments.records / seconds / replicas),
        "cpu_s_per_million": round(sum(cpu) / millions, 2),
        "broker_cpu_s_per_million": round(broker_cpu / millions, 2),
        "cores_got": round((sum(cpu) + broker_cpu) / seconds, 2),
        "rss_mb": [round(mb) for mb in resident],
    }


def moving(stage: Stage, name: str, arguments: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Seconds by event: until every partition was read again, and the longest that one stood still."""
    with (
        group(stage, name, arguments.client, session_timeout_s=arguments.session) as it,
        beside("benchmarks.latency.producer", stage.bootstrap, it.topic, str(RATE), str(LOAD_S)),
    ):
        for number in range(2):
            it.fleet.start(str(number))
        settled = partial(_settled, stage.bootstrap, it)
        settled(lambda: None)
        return {
            "calm": settled(lambda: time.sleep(CALM_S)),
            "joins": settled(lambda: it.fleet.start("2")),
            "leaves": settled(lambda: it.fleet.dismiss("2", signal.SIGTERM, SOON_S)),
            "joins again": settled(lambda: it.fleet.start("2")),
            "is killed": settled(lambda: it.fleet.dismiss("2", signal.SIGKILL, SOON_S)),
            "is killed and restarted": settled(lambda: it.fleet.send("0", signal.SIGKILL)),
        }


def _settled(bootstrap: str, it: Group, event: Callable[[], object]) -> dict[str, float]:
    """What an event does to the group: see the top."""
    ends, started = _ends(bootstrap, it.topic), time.monotonic()
    standstill = Standstill(it.watch.committed, started)

    def settled() -> bool:
        committed = it.watch.committed
        standstill.see(committed, time.monotonic())
        return under_way.done() and it.shared() and all(committed.get(at, 0) > end for at, end in ends.items())

    with ThreadPoolExecutor(1) as executor:
        under_way = executor.submit(event)
        _until(settled, "every partition to be read again", SOON_S)
        under_way.result()
    return {"read_again_s": round(time.monotonic() - started, 1), "standstill_s": round(standstill.longest_s, 1)}


class Standstill:
    """The longest that the position of any partition did not move, ended by a move (seconds)."""

    def __init__(self, committed: Mapping[int, int], now: float) -> None:
        self.longest_s = 0.0
        self._at = {number: (committed.get(number, 0), now) for number in range(PARTITIONS)}

    def see(self, committed: Mapping[int, int], now: float) -> None:
        """Positions as of now."""
        for number, (position, since) in self._at.items():
            if (moved_to := committed.get(number, 0)) > position:
                self.longest_s = max(self.longest_s, now - since)
                self._at[number] = (moved_to, now)


def _ends(bootstrap: str, topic: str) -> dict[int, int]:
    with closing(KafkaConsumer(bootstrap_servers=bootstrap, metrics_enabled=False)) as consumer:
        ends = consumer.end_offsets([TopicPartition(topic, number) for number in range(PARTITIONS)])
    return {place.partition: end for place, end in ends.items()}


def _send(bootstrap: str, topic: str, records: int) -> None:
    out = outlet(bootstrap)
    for start in range(0, records, _BLOCK):
        block = values(start, min(_BLOCK, records - start), entities=MACHINES)
        for number, value in enumerate(block, start):
            out.send(topic, value, key(number, MACHINES))
        out.flush()


def _until(done: Callable[[], bool], what: str, seconds: float = SOON_S) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {seconds:g} s")
        time.sleep(_LOOK_S)


def _cpu_s(pid: int) -> float:
    """Processor time that a process has had, in user and system mode; of Linux."""
    after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(after_name[11]) + int(after_name[12])) / os.sysconf("SC_CLK_TCK")


def _resident_mb(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / _MILLION


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="also write the result to this file")
    parser.add_argument("--kafka", type=Path, default=START, help="the script that starts Apache Kafka")
    parser.add_argument(
        "--replicas", type=int, nargs="+", default=[1, 2, 4], help="how many carry the backlog, in turn"
    )
    parser.add_argument("--records", type=int, default=2_000_000, help="of the backlog")
    parser.add_argument("--client", default="kafka-python", help="kafka.client of the daemons")
    parser.add_argument(
        "--session", type=float, default=10.0, help="kafka.session_timeout_s where replicas come and go"
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
