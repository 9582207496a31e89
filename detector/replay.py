"""The past once more: records of files or of the topics, and the version that is to judge them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from consumers.batch import Columns, Partition, RawBatch
from consumers.stream import Broker, Window
from detector.bundle import Bundle
from detector.config import DetectorSettings
from detector.errors import NotEnoughRows
from detector.features import fields
from detector.store import Store
from detector.training import train
from detector.training_data import gather, training_window
from models.base import Progress, silent

TRAIN_SHARE = 0.5
"""Share of the records, the oldest, that a version is trained on where the store holds none."""
FILES = Partition("files", 0)
"""Where records out of files are, as far as the pipeline knows."""


class Stretch(NamedTuple):
    """Records that follow one another, as a topic or as a file holds them; how many were left out before by reason; and
    which part of all has been read with them."""

    records: RawBatch | Columns
    dropped: Mapping[str, int]
    done: float


@dataclass(frozen=True, slots=True)
class Replay:
    """A version and the records it is to judge, out of so many partitions, to be gone through once. `trained_here` says
    that the version was made of the records before them, and is in no store."""

    bundle: Bundle
    stretches: Iterator[Stretch]
    partitions: int
    trained_here: bool


def replay(
    settings: DetectorSettings,
    broker: Broker,
    *,
    now: datetime,
    version: str | None = None,
    train_share: float | None = None,
    progress: Progress = silent,
) -> Replay:
    """The records that `settings.training` names, for `version` to judge, the champion where none is given.

    Without a champion, or with a `train_share`, a version is trained in memory on that share of the records, the
    oldest, and the rest are replayed. Nothing is published, committed or stored. Raises what reading, loading a version
    and training raise.
    """
    store = Store(settings.store.url, settings.name)
    chosen = version or store.champion()
    if chosen is None or train_share is not None:
        return _trained_here(settings, broker, now, train_share or TRAIN_SHARE, progress)
    bundle = store.load(chosen)
    bundle.require_fit(settings)
    if settings.training.files:
        return Replay(for_files(bundle), _of_files(settings, bundle), partitions=1, trained_here=False)
    stretches = _of_topics(settings, broker, training_window(settings, _milliseconds(now)))
    return Replay(bundle, stretches, _partitions(settings, broker), trained_here=False)


def _trained_here(
    settings: DetectorSettings, broker: Broker, now: datetime, train_share: float, progress: Progress
) -> Replay:
    data = gather(settings, broker, now_ms=_milliseconds(now), progress=progress)
    files, least = settings.training.files, settings.training.min_records
    columns = merged(data.columns) if files else data.columns
    by_time = np.argsort(columns.time, kind="stable")
    older, newer = map(np.sort, np.split(by_time, [round(train_share * len(columns))]))
    if len(older) < least:
        raise NotEnoughRows(
            f"{len(older)} of {len(columns)} records are there to train on, a share of {train_share:g}. "
            f"Expected at least training.min_records = {least}."
        )
    bundle = train(data._replace(columns=columns.take(older)), settings, created=now, progress=progress)
    partitions = 1 if files else _partitions(settings, broker)
    return Replay(bundle, cut(columns.take(newer), data.dropped, settings), partitions, trained_here=True)


def _of_topics(settings: DetectorSettings, broker: Broker, window: Window) -> Iterator[Stretch]:
    read, lag = 0, dict[Partition, int]()
    for batch in broker.read(settings.stream.topics, window):
        lag |= {partition: batch.ends[partition] - at.offset for partition, at in batch.positions().items()}
        read += len(batch)
        yield Stretch(batch, {}, read / (read + sum(lag.values())))


def _of_files(settings: DetectorSettings, bundle: Bundle) -> Iterator[Stretch]:
    from detector.files import read_files  # brings polars, which a replay of topics does without

    schema = fields(bundle.encoder.features, settings.stream.entity, settings.stream.timestamp, settings.segment)
    columns, dropped = read_files(settings.training.files, schema)
    yield from cut(merged(columns), {"unusable": dropped} if dropped else {}, settings)


def cut(columns: Columns, dropped: Mapping[str, int], settings: DetectorSettings) -> Iterator[Stretch]:
    """Columns in stretches of the size of a batch; what was left out of all of them is told with the first."""
    n, size = len(columns), settings.batch.max_records
    for start in range(0, max(n, 1), size):
        stop = start + size
        yield Stretch(columns.take(slice(start, stop)), {} if start else dropped, min(1.0, stop / max(n, 1)))


def merged(columns: Columns) -> Columns:
    """Records of several files as one partition would hold them: by time, each file's in its own order."""
    n = len(columns)
    return replace(
        columns.take(np.argsort(clock_of(columns), kind="stable")),
        row=np.arange(n),
        partitions=(FILES,),
        partition=np.zeros(n, np.int32),
        offsets=np.arange(n),
    )


def clock_of(columns: Columns) -> NDArray[np.int64]:
    """How far each file has come (n,): to its latest time so far, so that a record that is late in its file does not
    overtake."""
    clock = columns.time.copy()
    for _, rows in columns.by_partition():
        clock[rows] = np.maximum.accumulate(clock[rows])
    return clock


def for_files(bundle: Bundle, seen: Mapping[int, int] = {}) -> Bundle:
    """The version for files, which are other partitions than those it was trained on: with the whole budget for a
    single one, else with a part for each by how many records it has been `seen` to hold."""
    manifest = bundle.manifest
    by_partition = {FILES.topic: dict(seen)} if seen else {}
    data = manifest.data.model_copy(update={"by_partition": by_partition})
    return replace(bundle, manifest=manifest.model_copy(update={"data": data}))


def _partitions(settings: DetectorSettings, broker: Broker) -> int:
    return sum(broker.partitions(settings.stream.topics).values())


def _milliseconds(moment: datetime) -> int:
    return round(moment.timestamp() * 1000)
