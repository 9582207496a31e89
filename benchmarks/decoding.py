"""Microseconds to decode a JSON record into columns, for records of many kinds, beside other ways to do it.

    python -m benchmarks.decoding [--json FILE]

The decoder in service (a compiled scan, msgspec where that is in doubt), msgspec alone with its objects gathered into
columns, polars, which gives no reasons and refuses a whole batch for one bad record, and `json.loads` with a list a
field. Medians of `REPEATS` interleaved runs on batches of `BATCH` records, one thread.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("POLARS_MAX_THREADS", "1")

import numpy as np
import polars as pl

from consumers.batch import Partition, RawBatch, Schema
from consumers.decode import JsonDecoder, roles_of
from consumers.json_objects import ObjectDecoder, tree_of
from consumers.packed import Packed

BATCH = 16_384
REPEATS = 7

Record = dict[str, Any]
Kind = tuple[Schema, Callable[[int, Sequence[float]], Record], int]
"""What is wanted, a record by its number and its values, and how many values it has."""


def main() -> None:
    """Runs everything and prints the result."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--json", type=Path, help="also write the result to this file")
    target = arguments.parse_args().json
    result = {name: measured(*kind) for name, kind in KINDS.items()}
    line = json.dumps({"us_per_record": result})
    if target:
        target.write_text(line + "\n", encoding="utf-8")
    print(line)  # noqa: T201 - the result


def measured(schema: Schema, make: Callable[[int, Sequence[float]], Record], values: int) -> dict[str, float]:
    """Microseconds a record of each way, and `bytes` of a record."""
    rows = np.random.default_rng(0).normal(size=(BATCH, values)).round(4).tolist()
    records = [json.dumps(make(number, row)).encode() for number, row in enumerate(rows)]
    batch, objects = batch_of(records), ObjectDecoder(tree_of(roles_of(schema)))
    frame = {name: pl.String for name in (schema.entity, *schema.texts) if name} | dict.fromkeys(
        (*schema.numbers, "ts"), pl.Float64
    )
    ways: dict[str, Callable[[], object]] = {
        "decoder": lambda: JsonDecoder(schema).decode(batch),
        "msgspec": lambda: objects.decode(records),
        "json": lambda: by_json(records, schema.numbers),
    }
    if not schema.texts and not any("." in name for name in frame):
        ways["polars"] = lambda: pl.read_ndjson(b"\n".join(records), schema=frame)
    taken: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(1 + REPEATS):
        for way, run in ways.items():
            started = time.perf_counter()
            run()
            taken[way].append(time.perf_counter() - started)
    told = {way: round(1e6 * statistics.median(seconds[1:]) / BATCH, 2) for way, seconds in taken.items()}
    return {**told, "bytes": round(statistics.mean(map(len, records)))}


def by_json(records: list[bytes], names: Sequence[str]) -> list[list[Any]]:
    """A list a number, of those that are not within others."""
    decoded = [json.loads(record) for record in records]
    return [[record.get(name) for record in decoded] for name in names]


def batch_of(records: list[bytes]) -> RawBatch:
    """The records as one batch."""
    n = len(records)
    return RawBatch(
        partitions=(Partition("t", 0),),
        partition=np.zeros(n, np.int32),
        offsets=np.arange(n),
        timestamps=np.arange(n),
        keys=Packed.of([None] * n),
        values=Packed.of(records),
        headers=[()] * n,
    )


def flat(fields: int) -> Kind:
    """Numbers, an entity and a time."""
    names = tuple(f"field_{number}" for number in range(fields))
    schema = Schema(names, (), "machine", "ts")
    return schema, lambda number, row: {**_whose(number), **dict(zip(names, row, strict=True))}, fields


def _whose(number: int) -> Record:
    return {"machine": f"m{number % 100}", "ts": 1_767_225_600_000 + number}


def _few_wanted(number: int, row: Sequence[float]) -> Record:
    return {**_whose(number), "log": 'said "no"\n' * 5, **{f"field_{at}": value for at, value in enumerate(row)}}


def _nested(number: int, row: Sequence[float]) -> Record:
    return {"meta": {"host": _whose(number), "tags": ["a", "b"]}, "cpu": {"user": row[0], "system": {"io": row[1]}}}


def _texts(number: int, row: Sequence[float]) -> Record:
    words = {"status": f"s{number % 7}", "path": f"/v1/{number % 500}", "ok": row[0] > 0, "code": 200 + number % 5}
    return {**_whose(number), "ts": f"2026-01-01T00:{number // 60 % 60:02}:{number % 60:02}Z", **words, "ms": row[1]}


def _gaps(number: int, row: Sequence[float]) -> Record:
    there = {f"field_{at}": value if at % 3 else None for at, value in enumerate(row) if (number + at) % 4}
    return {**_whose(number), **there}


def _accents(number: int, row: Sequence[float]) -> Record:
    return {"machine": f"é{number % 100}", "ts": number + 1, "a": row[0], "b": row[1]}


KINDS: dict[str, Kind] = {
    "3 fields": flat(3),
    "8 fields": flat(8),
    "38 fields": flat(38),
    "200 fields": flat(200),
    "3 of 40 fields, a text with escapes": (
        Schema(("field_1", "field_20", "field_39"), (), "machine", "ts"),
        _few_wanted,
        40,
    ),
    "nested": (Schema(("cpu.user", "cpu.system.io"), (), "meta.host.machine", "meta.host.ts"), _nested, 2),
    "texts, ISO times": (Schema(("ms",), ("status", "path", "ok", "code"), "machine", "ts"), _texts, 2),
    "a third missing or null": (Schema(tuple(f"field_{at}" for at in range(12)), (), "machine", "ts"), _gaps, 12),
    "not ASCII, so left to msgspec": (Schema(("a", "b"), (), "machine", "ts"), _accents, 2),
}


if __name__ == "__main__":
    main()
