"""Records out of files: Parquet, CSV and NDJSON read into the same columns as a topic."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from consumers.batch import Columns, Partition, RawBatch, Schema
from consumers.decode import JsonDecoder, refusals
from consumers.fields import MOST_TEXT_CHARACTERS, milliseconds, number_column, split_path, within_calendar
from detector.errors import SettingsError

LINES = (".ndjson", ".jsonl")
FRAMES: dict[str, Callable[[Path], pl.DataFrame]] = {
    ".parquet": partial(pl.read_parquet, glob=False),
    ".csv": partial(pl.read_csv, glob=False, infer_schema_length=None),  # types by all rows, not the first hundred
}


def read_files(patterns: Sequence[str], schema: Schema) -> tuple[Columns, int]:
    """All rows that can be used, and the number of those that cannot; a file is a partition, offsets are row numbers.

    Rows are usable by the rules of `JsonDecoder`. Where the schema names no time, rows are one second apart, a file
    after the other, since the epoch. Raises `SettingsError` for patterns without a file, files that cannot be read,
    and fields that a Parquet or CSV file does not have.
    """
    parts = list(read_one_by_one(patterns, schema))
    return Columns.concat([columns for columns, _ in parts]), sum(dropped for _, dropped in parts)


def read_one_by_one(patterns: Sequence[str], schema: Schema) -> Iterator[tuple[Columns, int]]:
    """`read_files`, a file at a time."""
    rows = 0
    for path in matching(patterns):
        columns, total = _read_lines(path, schema, rows) if path.suffix in LINES else _read_frame(path, schema, rows)
        rows += total
        yield columns, total - len(columns)


def sample_files(patterns: Sequence[str], rows: int) -> list[bytes | None]:
    """At most so many records as JSON, the first ones of each file in equal parts."""
    paths = matching(patterns)
    share = -(-rows // len(paths))
    sample: list[bytes | None] = []
    for path in paths:
        if path.suffix in LINES:
            sample += _lines(path)[:share]
        else:
            sample += _frame(path).head(share).write_ndjson().encode().splitlines()
    return sample[:rows]


def matching(patterns: Sequence[str]) -> list[Path]:
    """The files that the patterns name, each once and sorted by name."""
    paths = set[Path]()
    for pattern in patterns:
        path = Path(pattern).expanduser()
        found = [path] if path.is_file() else _glob(path)
        if not found:
            raise SettingsError(f"'{pattern}' matches no file. Expected a path or a glob like data/*.csv.")
        paths.update(found)
    known = (*FRAMES, *LINES)
    if unknown := sorted(path for path in paths if path.suffix not in known):
        raise SettingsError(f"'{unknown[0]}' has an unknown suffix. Expected one of {', '.join(known)}.")
    return sorted(paths)


def _glob(path: Path) -> list[Path]:
    root = Path(path.anchor)
    pattern = str(path.relative_to(root))
    return [found for found in root.glob(pattern) if found.is_file()] if pattern != "." else []


def _lines(path: Path) -> list[bytes]:
    try:
        return [line for line in path.read_bytes().split(b"\n") if line.strip()]
    except OSError as error:
        raise SettingsError(f"'{path}' cannot be read: {error.strerror}.") from error


def _frame(path: Path) -> pl.DataFrame:
    try:
        return FRAMES[path.suffix](path)
    except (OSError, pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:  # on some damage it panics
        first = str(error).partition("\n")[0].rstrip(".")
        raise SettingsError(f"'{path}' cannot be read as {path.suffix}: {first}.") from error


def _read_lines(path: Path, schema: Schema, before: int) -> tuple[Columns, int]:
    lines = _lines(path)
    n = len(lines)
    batch = RawBatch(
        partitions=(Partition(str(path), 0),),
        partition=np.zeros(n, dtype=np.int32),
        offsets=np.arange(n),
        timestamps=_clock(schema, before, n),
        keys=[None] * n,
        values=lines,
        headers=[()] * n,
    )
    return JsonDecoder(schema).decode(batch)[0], n


def _clock(schema: Schema, before: int, n: int) -> NDArray[np.int64]:
    """What stands for the broker's timestamps: none (-1) where records have a time of their own."""
    return np.full(n, -1) if schema.timestamp else np.arange(before, before + n) * 1000


def _read_frame(path: Path, schema: Schema, before: int) -> tuple[Columns, int]:
    frame = _frame(path)
    n = len(frame)
    read = _FrameReader(path, frame)
    numbers = {name: read.numbers(name) for name in schema.numbers}
    texts = {name: read.texts(name) for name in schema.texts}
    entity = read.texts(schema.entity) if schema.entity else np.full(n, "", dtype=object)
    time = read.times(schema.timestamp) if schema.timestamp else _clock(schema, before, n).astype(np.float64)
    usable = read.sound.copy()
    for _, _, found in refusals(schema, {**numbers, **texts}, entity, time):
        usable &= ~found
    columns = Columns(
        row=np.arange(n),
        partitions=(Partition(str(path), 0),),
        partition=np.zeros(n, dtype=np.int32),
        offsets=np.arange(n),
        time=np.where(usable, time, 0.0).astype(np.int64),
        entity=entity,
        numbers=numbers,
        texts=texts,
    )
    return columns.take(usable), n


class _FrameReader:
    """Takes fields out of a frame; `sound` is false for rows where a number was wanted and something else found."""

    def __init__(self, path: Path, frame: pl.DataFrame) -> None:
        self.path = path
        self.frame = frame
        self.sound = np.ones(len(frame), dtype=np.bool_)

    def numbers(self, field: str) -> NDArray[np.float64]:
        found = self._series(field)
        numbers = self._cast(field, found, pl.Float64())
        self.sound &= (found.is_null() | numbers.is_not_null()).to_numpy()
        return numbers.to_numpy().astype(np.float64)

    def texts(self, field: str) -> NDArray[np.object_]:
        found = self._cast(field, self._series(field), pl.String())
        return np.array(found.str.head(MOST_TEXT_CHARACTERS).to_list(), dtype=object)

    def times(self, field: str) -> NDArray[np.float64]:
        """Epoch milliseconds; infinite where there is none."""
        found = self._series(field)
        if found.dtype.is_temporal():
            physical = self._cast(field, found, pl.Datetime("ms")).to_physical()
            ms = within_calendar(number_column(physical.to_list()))
        else:
            ms = milliseconds((found if found.dtype == pl.String else self._cast(field, found, pl.Float64())).to_list())
        return np.where(np.isnan(ms), np.inf, ms)

    def _cast(self, field: str, found: pl.Series, dtype: pl.DataType) -> pl.Series:
        try:
            return found.cast(dtype, strict=False)
        except pl.exceptions.PolarsError as error:
            raise SettingsError(
                f"'{self.path}' holds {found.dtype} in '{field}'. Expected what can be made {dtype}."
            ) from error

    def _series(self, field: str) -> pl.Series:
        """The column called like the field, or the field of a struct column."""
        names = split_path(field)
        if ".".join(names) in self.frame.columns:
            return self.frame.get_column(".".join(names))
        node = self.frame
        for name in names[:-1]:
            if not isinstance(node.schema.get(name), pl.Struct):
                break
            node = node.get_column(name).struct.unnest()
        else:
            if names[-1] in node.columns:
                return node.get_column(names[-1])
        raise SettingsError(f"'{self.path}' has no column '{field}'. Known: {', '.join(self.frame.columns)}.")
