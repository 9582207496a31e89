"""Which fields made records dead letters: those that are missing, or hold another JSON type than is wanted."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from consumers.batch import DeadLetter, Partition, RawBatch, Schema
from consumers.decode import DeadLetterReason
from consumers.fields import join_path, split_path, within_calendar

_MISFIT = re.compile("got `(?P<found>[a-z]+)` - at `(?P<location>.+)`$")
"""How msgspec, whose words are the error of a dead letter, tells of a value of another type."""
_JSON_TYPES = {"str": "string", "int": "number", "float": "number", "bool": "boolean"}


class Fault(NamedTuple):
    """Fields for which one record was refused. `time` is the broker's, in epoch milliseconds, as the record's own was
    not read; 0 where that is no time from 1970 to 9999."""

    offset: int
    time: int
    fields: tuple[str, ...]
    found: str | None
    """string, number, boolean, array or object; None where the fields are missing."""
    wanted: str | None
    """number, text, time or object; None where the fields are missing."""


class _Cause(NamedTuple):
    fields: tuple[str, ...]
    found: str | None = None
    wanted: str | None = None


def faults(schema: Schema, batch: RawBatch, letters: Sequence[DeadLetter]) -> dict[Partition, list[Fault]]:
    """The letters, in the order of the batch, that are due to fields of the schema; by partition.

    Of a record with several fields of another type only the first is told; so is none whose path is too long for the
    error text or has characters that are not printable.
    """
    causes = {said: _cause(schema, *said) for said in {(letter.reason, letter.error) for letter in letters}}
    rows = np.array([letter.row for letter in letters], dtype=np.int64)
    time = within_calendar(batch.timestamps[rows].astype(np.float64))
    time[np.isinf(time)] = 0
    found: dict[Partition, list[Fault]] = {}
    sources = batch.partition[rows].tolist(), batch.offsets[rows].tolist(), time.astype(np.int64).tolist()
    for letter, partition, offset, ms in zip(letters, *sources, strict=True):
        if (cause := causes[letter.reason, letter.error]) is not None:
            found.setdefault(batch.partitions[partition], []).append(Fault(offset, ms, *cause))
    return found


def _cause(schema: Schema, reason: str, error: str) -> _Cause | None:
    if reason == DeadLetterReason.NO_FEATURES:
        return _Cause((*schema.numbers, *schema.texts))
    if reason == DeadLetterReason.MISSING_ENTITY and schema.entity:
        return _Cause((schema.entity,))
    misfit = _MISFIT.search(error) if reason == DeadLetterReason.WRONG_SHAPE else None
    if misfit is None or (at := _locations(schema).get(misfit["location"])) is None:
        return None
    return _Cause((at[0],), _JSON_TYPES.get(misfit["found"], misfit["found"]), at[1])


@lru_cache(maxsize=16)
def _locations(schema: Schema) -> dict[str, tuple[str, str]]:
    """Path of each field of the schema, and of the objects around it, with what is wanted there; by msgspec's name."""
    locations: dict[str, tuple[str, str]] = {}
    for path, wanted in _wanted(schema):
        names = split_path(path)
        for end in range(1, len(names)):
            locations[".".join(("$", *names[:end]))] = join_path(names[:end]), "object"
        locations[".".join(("$", *names))] = path, wanted
    return locations


def _wanted(schema: Schema) -> Iterator[tuple[str, str]]:
    yield from ((path, "number") for path in schema.numbers)
    yield from ((path, "text") for path in (*schema.texts, *filter(None, [schema.entity])))
    yield from ((path, "time") for path in filter(None, [schema.timestamp]))
