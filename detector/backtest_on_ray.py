"""A backtest over files that no one machine holds, on the workers of a Ray cluster.

Files become what a topic of so many partitions would hold whose producer has the entity for a key: each worker reads
files and sends every record to its partition, and each partition is gone through from beginning to end by one worker,
by the pipeline that the daemon has. A partition's memory is its own, so what comes of it does not depend on who else is
at work; what workers send back are counts, however many records there were.
"""

from __future__ import annotations

import os
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache, partial
from typing import Any

if "RAY_ADDRESS" not in os.environ:
    # Its own processes then listen on the loopback interface alone; read when Ray is imported, on Linux too.
    os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]  # ships no types
import ray
import ray.data
from numpy.typing import NDArray
from ray.exceptions import RayTaskError

from consumers.batch import Columns, Partition, Schema
from detector.backtest import Backtest, Findings
from detector.bundle import Bundle
from detector.config import DetectorSettings
from detector.errors import NotEnoughRows, OffnominalError, SettingsError
from detector.features import fields
from detector.files import matching, read_files
from detector.replay import FILES, Replay, clock_of, cut, for_files
from detector.store import Store
from models.base import Progress, silent

_UNUSABLE = -1
"""In place of a partition: a row that says how many records of a file cannot be used."""


def backtest_on_ray(
    budgets: Sequence[DetectorSettings], partitions: int, *, version: str | None, progress: Progress = silent
) -> Backtest:
    """`backtest` of the files that `training.files` names, as so many partitions, under each of the budgets; `version`
    is the champion where none is given. On the cluster at RAY_ADDRESS, else on this machine.

    A worker holds one file, or one partition, at a time. Files and the store must be where all of them can read. Raises
    `SettingsError` where a record's partition would not have all that it is judged by, and what reading and loading a
    version raise.
    """
    settings, *_ = budgets
    _require_shareable(settings)
    store = Store(settings.store.url, settings.name)
    if (chosen := version or store.champion()) is None:
        raise SettingsError(f"--ray: the store holds no version of '{settings.name}' for workers to load. Train one.")
    bundle = store.load(chosen)
    bundle.require_fit(settings)
    place = settings.store.model_copy(update={"url": store.url})  # a relative folder would be another one to a worker
    budgets = [budget.model_copy(update={"store": place}) for budget in budgets]
    schema = fields(bundle.encoder.features, settings.stream.entity, settings.stream.timestamp)
    with _cluster(), _own_errors():
        found = _judged(budgets, chosen, schema, partitions, progress)
    return found.told(bundle, trained_here=False)


def partition_of(entity: str, partitions: int) -> int:
    """By a checksum, which is the same in every process."""
    return zlib.crc32(entity.encode()) % partitions


def _require_shareable(settings: DetectorSettings) -> None:
    """Raises `SettingsError` where what belongs together would be in several partitions."""
    stream, by = settings.stream, settings.calibration.by
    if not settings.training.files:
        raise SettingsError("--ray goes over files. Expected --files; a topic is gone through where it is read.")
    if stream.entity is None or stream.timestamp is None:
        raise SettingsError(
            f"--ray: stream.entity is {stream.entity}, stream.timestamp {stream.timestamp}. Expected both: records are "
            "shared out by their entity, and are put in order by their time."
        )
    if by not in ("entity", stream.entity):
        raise SettingsError(
            f"--ray: calibration.by is '{by}', and records that share a level would be in several partitions. "
            "Expected 'entity', or a backtest without --ray."
        )


def _judged(
    budgets: Sequence[DetectorSettings], version: str, schema: Schema, partitions: int, progress: Progress
) -> Findings:
    """What comes of all partitions, one after the other as workers are done with them."""
    paths = matching(budgets[0].training.files)
    files = ray.data.from_items(
        [{"number": number, "path": str(path.resolve())} for number, path in enumerate(paths)],
        override_num_blocks=len(paths),
    )
    read = partial(_read, schema=schema, partitions=partitions)
    rows = files.map_batches(read, batch_size=1).materialize()  # as shares of the budget go by the records of each
    seen = _sizes(rows)
    if not seen:
        raise NotEnoughRows(f"There is no usable record in {', '.join(budgets[0].training.files)}.")
    judge = partial(_judge, budgets=budgets, version=version, schema=schema, seen=seen)
    parts = rows.groupby("partition", num_partitions=partitions).map_groups(judge, batch_format="pyarrow")
    found, whole = Findings(budgets), len(seen)
    for done, row in enumerate(parts.iter_rows(), 1):
        found.add(row["findings"])
        progress(min(1.0, done / whole), f"{found.records:,} records judged")
    return found


def _sizes(rows: ray.data.Dataset) -> dict[int, int]:
    """Records of each partition that has some."""
    counts = Counter[int]()
    counted = rows.map_batches(_counted, batch_format="pyarrow", batch_size=None)
    for row in counted.iter_rows():
        counts[row["partition"]] += row["records"]
    return {number: counts[number] for number in sorted(counts) if number != _UNUSABLE}


def _counted(block: pa.Table) -> pa.Table:
    number, records = np.unique(block["partition"].to_numpy(), return_counts=True)
    return pa.table({"partition": number, "records": records})


def _read(files: Mapping[str, Any], schema: Schema, partitions: int) -> pa.Table:
    """The usable records of one file, each with its partition and where it stands in the order of all."""
    (number,), (path,) = files["number"].tolist(), files["path"].tolist()
    columns, unusable = read_files([path], schema)
    n, known = len(columns), {entity: partition_of(entity, partitions) for entity in set(columns.entity.tolist())}
    rows: dict[str, Any] = {
        "partition": pa.array([known[entity] for entity in columns.entity.tolist()], pa.int64()),
        "clock": clock_of(columns),
        "file": np.full(n, number),
        "row": np.arange(n),
        "unusable": np.zeros(n, np.int64),
        "time": columns.time,
        "entity": pa.array(columns.entity.tolist(), pa.string()),
        **{f"number {field}": numbers for field, numbers in columns.numbers.items()},
        **{f"text {field}": pa.array(texts.tolist(), pa.string()) for field, texts in columns.texts.items()},
    }
    table = pa.table(rows)
    left_out = {"partition": [_UNUSABLE], "unusable": [unusable]}
    return pa.concat_tables([table, _padded(left_out, table.schema)])


def _padded(rows: Mapping[str, list[int]], schema: pa.Schema) -> pa.Table:
    """Rows that have nothing in all other columns."""
    return pa.table({name: rows.get(name, [None]) for name in schema.names}, schema)


def _judge(
    group: pa.Table, budgets: Sequence[DetectorSettings], version: str, schema: Schema, seen: Mapping[int, int]
) -> dict[str, NDArray[np.object_]]:
    """What comes of one partition."""
    number = group["partition"][0].as_py()
    if number == _UNUSABLE:
        found = Findings(budgets)
        found.dead_letters += Counter(unusable=sum(group["unusable"].to_pylist()))
    else:
        settings, *_ = budgets
        bundle = for_files(_loaded(settings.store.url, settings.name, version), seen)
        stretches = cut(_columns(group, schema, number), {}, settings)
        found = Findings.of(budgets, Replay(bundle, stretches, partitions=len(seen), trained_here=False))
    return {"findings": np.array([found], object)}


def _columns(group: pa.Table, schema: Schema, number: int) -> Columns:
    """Records of one partition in order; offsets are their places in it."""
    rows = group.sort_by([("clock", "ascending"), ("file", "ascending"), ("row", "ascending")])
    n = len(rows)
    return Columns(
        row=np.arange(n),
        partitions=(Partition(FILES.topic, number),),
        partition=np.zeros(n, np.int32),
        offsets=np.arange(n),
        time=np.array(rows["time"]),  # a copy: Arrow's own memory is not to be written to
        entity=np.array(rows["entity"].to_pylist(), object),
        numbers={field: np.array(rows[f"number {field}"]) for field in schema.numbers},
        texts={field: np.array(rows[f"text {field}"].to_pylist(), object) for field in schema.texts},
    )


@lru_cache(maxsize=1)
def _loaded(url: str, detector: str, version: str) -> Bundle:
    """Once a process, for all the partitions that come to it."""
    return Store(url, detector).load(version)


@contextmanager
def _cluster() -> Iterator[None]:
    """The cluster that this process belongs to or that RAY_ADDRESS names, else one on this machine for the time being,
    which only this machine reaches."""
    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent elsewhere
    if "RAY_ADDRESS" in os.environ:
        ray.init(log_to_driver=False)
    else:
        ray.init(include_dashboard=False, log_to_driver=False)
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def _own_errors() -> Iterator[None]:
    """Errors of our own that workers raised, out of Ray's wrapping."""
    ray.data.DataContext.get_current().raise_original_map_exception = True
    try:
        yield
    except RayTaskError as error:
        if isinstance(error.cause, OffnominalError):
            raise error.cause from None
        raise
