"""How faults are brought about. Each function strikes once and gives the mark from which its recovery counts."""

from __future__ import annotations

import resource
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

from kafka import KafkaAdminClient, TopicPartition

from benchmarks.brokers import ApacheKafka
from benchmarks.faults.fleet import ROOT
from benchmarks.faults.scene import LEAVE_S, STRIKE_S, Mark, Scene
from benchmarks.faults.stage import DETECTOR, POLL_INTERVAL_S, REQUEST_S, train_command
from benchmarks.faults.victim import Plan, Point
from benchmarks.faults.watch import last_log_line
from detector.bundle import Bundle, new_version
from detector.store import Store


def crash(point: Point, scene: Scene, *, within: float = 0.0) -> Mark:
    """kill -9 at a point of the work, or up to `within` seconds after it."""
    name = scene.anyone()
    scene.arm(name, Plan(point, scene.chance.randint(1, 5), "kill", scene.chance.uniform(0, within)))
    return scene.await_death(name, -signal.SIGKILL)


def kill(scene: Scene) -> Mark:
    """kill -9 at any moment."""
    name = scene.anyone()
    scene.fleet.send(name, signal.SIGKILL)
    return scene.await_death(name, -signal.SIGKILL)


def kill_while_restoring(scene: Scene) -> Mark:
    """kill -9, and again at one of the first batches that the restarted daemon reads."""
    name = scene.anyone()
    scene.fleet.send(name, signal.SIGKILL)
    scene.await_death(name, -signal.SIGKILL)
    scene.arm(name, Plan("polled", scene.chance.randint(1, 4), "kill"))
    return scene.await_death(name, -signal.SIGKILL)


def terminate(scene: Scene) -> Mark:
    """SIGTERM in the middle of a batch."""
    name = scene.anyone()
    point: Point = scene.chance.choice(("polled", "offsets_sent", "committing"))
    scene.arm(name, Plan(point, scene.chance.randint(1, 5), "terminate"))
    scene.await_strike(name)
    mark = scene.mark()
    scene.await_death(name, 0)
    return mark


def freeze_daemon(seconds: float, scene: Scene) -> Mark:
    """SIGSTOP for so long. Longer than its session, the others take over."""
    name = scene.anyone()
    mark = scene.mark()
    scene.fleet.send(name, signal.SIGSTOP)
    time.sleep(seconds)
    scene.fleet.send(name, signal.SIGCONT)
    return mark


def exceed_poll_interval(scene: Scene) -> Mark:
    """Scoring takes longer than the group waits for the next poll."""
    name = scene.anyone()
    scene.arm(name, Plan("polled", 1, "sleep", POLL_INTERVAL_S + 3))
    scene.await_strike(name)
    mark = scene.mark()
    time.sleep(POLL_INTERVAL_S + 3)
    scene.release(name)
    return mark


def restart_broker(scene: Scene) -> Mark:
    kafka = _kafka(scene)
    kafka.terminate()
    kafka.start()
    return scene.mark()


def kill_broker(scene: Scene) -> Mark:
    kafka = _kafka(scene)
    kafka.kill()
    kafka.start()
    return scene.mark()


def freeze_broker(seconds: tuple[float, float], scene: Scene) -> Mark:
    """The broker answers nothing for so long; recovery counts from when it does again."""
    kafka = _kafka(scene)
    kafka.freeze()
    time.sleep(scene.chance.uniform(*seconds))
    kafka.thaw()
    return scene.mark()


def freeze_broker_at_commit(scene: Scene) -> Mark:
    """The broker stops answering as a transaction is committed: its outcome is unknown."""
    kafka, name = _kafka(scene), scene.anyone()
    scene.arm(name, Plan("committing", scene.chance.randint(1, 5), "hold"))
    scene.await_strike(name)
    if scene.chance.random() < 0.5:
        kafka.freeze()
        scene.release(name)
    else:
        scene.release(name)
        time.sleep(scene.chance.uniform(0, 0.01))
        kafka.freeze()
    time.sleep(scene.chance.uniform(0.5, REQUEST_S + 3))
    kafka.thaw()
    return scene.mark()


def add_replica(scene: Scene) -> Mark:
    """Another replica joins, and then leaves the group again, which does not count."""
    if "extra" in scene.fleet.names:
        scene.leave("extra")
        scene.await_owners(scene.fleet.names)
    mark = scene.mark()
    scene.fleet.start("extra")
    scene.await_owners(scene.fleet.names)
    return mark


def remove_replica(number: signal.Signals, scene: Scene) -> Mark:
    """A replica goes for good, asked to or killed; the others take over after its session."""
    scene.fleet.start("extra")
    scene.await_owners(scene.fleet.names)
    scene.calm()
    mark = scene.mark()
    if number == signal.SIGTERM:
        scene.leave("extra")
    else:
        scene.fleet.dismiss("extra", number, LEAVE_S)
    return mark


def twin(scene: Scene) -> Mark:
    """A second daemon of the same name starts: the older one has to leave."""
    name = scene.anyone()
    try:
        death = scene.fleet.supplant(name, STRIKE_S)
    except TimeoutError as error:
        scene.remarks.append(f"the older twin stayed: {error}")
        return scene.mark()
    if death.code <= 0:
        scene.remarks.append(f"the older twin ended with {death.code}, expected an exit code above 0")
    return scene.mark(death.at)


def poison_storm(scene: Scene) -> Mark:
    mark = scene.mark()
    scene.traffic.storm = scene.chance.randint(500, 2_000)
    scene.until(lambda: not scene.traffic.storm, STRIKE_S, "the end of the storm")
    return mark


def add_partition(scene: Scene) -> Mark:
    count = scene.traffic.partitions + 1
    with _admin(scene) as admin:
        admin.create_partitions({scene.topic: count})
    scene.until(lambda: scene.producer.knows(count), STRIKE_S, "another partition")
    scene.traffic.partitions = count
    return scene.mark()


def delete_dead_letters(scene: Scene) -> Mark:
    """The topic goes away between two batches: the daemons have to stop, and not to commit past a dead letter.

    Started again, they make the topic anew.
    """
    names, topic = scene.fleet.names, scene.settings.dead_letter_topic
    for name in names:
        scene.arm(name, Plan("committed", 1, "hold"))
    for name in names:
        scene.await_strike(name)
    scene.subscriber.catch_up(STRIKE_S)
    with _admin(scene) as admin:
        admin.delete_topics([topic])
    scene.until(lambda: topic not in scene.broker.partitions([topic]), STRIKE_S, f"the end of topic {topic}")
    scene.subscriber.begin_anew(topic)
    for name in names:
        scene.release(name)
    marks = [scene.await_death(name, 1) for name in names]
    return min(marks)


def fill_disk(scene: Scene) -> Mark:
    """A training runs out of room while it saves its version: that one does not exist, and the old one serves on."""
    config = scene.folder / "0.yaml"
    before = scene.store.champion(), scene.store.versions()
    sizes = [path.stat().st_size for path in scene.folder.glob(f"store/{DETECTOR}/*/*")]
    room = scene.chance.randint(1, max(sizes) - 1)
    process = subprocess.run(
        train_command(config),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        preexec_fn=partial(resource.setrlimit, resource.RLIMIT_FSIZE, (room, room)),
        check=False,
    )
    said = last_log_line(process.stdout.decode(errors="replace"))
    if process.returncode <= 0 or not said.startswith("StoreError"):
        scene.remarks.append(f"a training with room for {room} bytes ended with {process.returncode}: {said}")
    if (scene.store.champion(), scene.store.versions()) != before:
        scene.remarks.append(f"a training with room for {room} bytes left versions {scene.store.versions()}")
    return scene.mark()


def promote_damaged(scene: Scene) -> Mark:
    """A version with a damaged file becomes champion: the one in service stays."""
    version = _another(scene.store, scene.chance.randbytes(8))
    path = scene.chance.choice(sorted(scene.folder.glob(f"store/{DETECTOR}/{version}/*.safetensors")))
    content = bytearray(path.read_bytes())
    at = scene.chance.randrange(len(content))
    content[at] ^= 1 << scene.chance.randrange(8)
    path.write_bytes(content if scene.chance.random() < 0.7 else content[:at])
    scene.store.promote(version)
    mark = scene.mark()
    time.sleep(3 * scene.settings.store.poll)
    scene.store.rollback()
    return mark


def swap_champion(scene: Scene) -> Mark:
    """Another version takes over in the middle of the stream."""
    scene.store.promote(_another(scene.store, scene.chance.randbytes(8)))
    time.sleep(3 * scene.settings.store.poll)
    return scene.mark()


def delete_unread(scene: Scene) -> Mark:
    """While no daemon runs, the broker deletes records that none has read: those have no outcome, all others have."""
    names = scene.fleet.names
    for name in names:
        scene.leave(name)
    time.sleep(0.5)
    committed, ends = dict(scene.group.committed), scene.ledger.ends()
    with _admin(scene) as admin:
        admin.delete_records({TopicPartition(scene.topic, number): end for number, end in ends.items()})
    for number, end in ends.items():
        scene.ledger.excuse(number, range(committed.get(number, 0), end))
    for name in names:
        scene.fleet.start(name)
    return scene.mark()


def _another(store: Store, fingerprint: bytes) -> str:
    """Saves the champion under another name."""
    bundle = store.load(store.champion() or "")
    version = new_version(bundle.manifest.created, fingerprint)
    store.save(_renamed(bundle, version))
    return version


def _renamed(bundle: Bundle, version: str) -> Bundle:
    return replace(bundle, manifest=bundle.manifest.model_copy(update={"version": version}))


def _kafka(scene: Scene) -> ApacheKafka:
    if scene.stage.kafka is None:
        raise ValueError("this fault wants a broker of our own")
    return scene.stage.kafka


@contextmanager
def _admin(scene: Scene) -> Iterator[Any]:
    with closing(KafkaAdminClient(bootstrap_servers=scene.stage.bootstrap)) as admin:
        yield admin
