"""Bytes to columns: the wanted fields of JSON records, poison records set apart."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import StrEnum
from itertools import count, repeat
from operator import is_
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from consumers import scan
from consumers.batch import Columns, DeadLetter, RawBatch, Schema
from consumers.fields import MOST_TEXT_CHARACTERS, epoch_milliseconds, iso_milliseconds, within_calendar
from consumers.json_objects import NUMBER, TEXT, TIME, ObjectDecoder, Role, Tree, tree_of
from consumers.packed import ABSENT, Packed
from consumers.text import printable

ERROR_LENGTH = 200
MOST_ENTITY_CHARACTERS = 512


class DeadLetterReason(StrEnum):
    """Why a record cannot be scored."""

    EMPTY = "empty"
    """The value is null or has no bytes."""
    NOT_UTF8 = "not_utf8"
    """Some part of the value, used or not, is not UTF-8."""
    MALFORMED = "malformed"
    """Not what its format says: cut short, or JSON with NaN and Infinity, which JSON does not have."""
    WRONG_SHAPE = "wrong_shape"
    """Not an object, or a field holds another type than its feature needs."""
    TOO_DEEP = "too_deep"
    """Nested beyond about a thousand levels."""
    OUT_OF_RANGE = "out_of_range"
    """A number too large for its field: beyond 1.8e308, or an integer of thousands of digits."""
    MISSING_ENTITY = "missing_entity"
    """The entity field is missing, null or an empty string."""
    ENTITY_TOO_LONG = "entity_too_long"
    """The entity's name has more characters than a name of a thing has; it goes into every alert and every key."""
    BAD_TIMESTAMP = "bad_timestamp"
    """No time between the years 1970 and 9999."""
    NO_FEATURES = "no_features"
    """Every feature is missing or null."""
    UNSCORABLE = "unscorable"
    """Decoded, but a model gives no number for it."""
    UNKNOWN_SCHEMA = "unknown_schema"
    """The schema registry has no schema of the id that the value names, or none that can be read as the format is."""
    UNDECODABLE = "undecodable"
    """A whole record batch that the client cannot decode: one dead letter for all its records."""


class JsonDecoder:
    """Takes the fields of a schema out of JSON records.

    A number is a JSON number or boolean. A text is a string, an integer or a boolean ("true", "false"), never a number
    with a point: 3 and 3.0 would be two texts. Null counts as missing, also for an object on the way to a field.
    Of a repeated key the last one counts.
    A schema that wants one field in two roles, or a field within a field, raises `ValueError` here.
    """

    def __init__(self, schema: Schema) -> None:
        self._schema = schema
        tree = tree_of(roles_of(schema))
        self._objects = ObjectDecoder(tree)
        self._numbers = [*schema.numbers]
        self._texts = [*dict.fromkeys((*schema.texts, *filter(None, [schema.entity])))]
        self._plan = scan.Plan.of([*self._wanted(tree, 0, count(1))])

    def decode(self, batch: RawBatch) -> tuple[Columns, list[DeadLetter]]:
        """Each record as a row of the columns or as a dead letter, both in the order of the batch.

        No bytes whatever make it raise.
        """
        return settled(self._schema, batch, *self._fields(Packed.of(batch.values)))

    def _fields(self, values: Packed) -> tuple[dict[str, NDArray[Any]], list[DeadLetter]]:
        """A column (n,) a path, and the records that cannot be decoded: their rows of the columns are void."""
        found = scan.scan(values, self._plan, 1 + len(self._numbers), 1 + len(self._texts))
        doubtful = np.flatnonzero(~found.plain)
        found.lengths[:, doubtful] = ABSENT
        lengths = np.minimum(found.lengths, MOST_TEXT_CHARACTERS)
        texts = [scan.texts_at(values.data, *places) for places in zip(found.starts, lengths, strict=True)]
        fields = dict(zip((*self._numbers, *self._texts), (*found.numbers[1:], *texts[1:]), strict=True))
        if self._schema.timestamp:
            fields[self._schema.timestamp] = times(found.numbers[0], texts[0])
        return fields, self._doubt(values.take(doubtful), doubtful, fields) if len(doubtful) else []

    def _doubt(self, values: Packed, rows: NDArray[np.int64], fields: Mapping[str, NDArray[Any]]) -> list[DeadLetter]:
        """Decodes the records that are not plain into their rows of the columns."""
        columns, refused = self._objects.decode([*values])
        sound = np.delete(rows, [at for at, _ in refused])
        for path, column in columns.items():
            fields[path][sound] = column
        return [_refusal(int(rows[at]), values[at], error) for at, error in refused]

    def _wanted(self, tree: Tree, owner: int, numbers: Iterator[int]) -> Iterator[scan.Field]:
        """The fields for the scan; the time is number 0 of both the numbers and the texts."""
        for name, child in tree.items():
            if isinstance(child, dict):
                own = next(numbers)
                yield scan.Field(owner, name.encode(), scan.OBJECT, own)
                yield from self._wanted(child, own, numbers)
            elif child.role is NUMBER:
                yield scan.Field(owner, name.encode(), scan.NUMBER, 1 + self._numbers.index(child.path))
            elif child.role is TEXT:
                yield scan.Field(owner, name.encode(), scan.TEXT, 1 + self._texts.index(child.path))
            else:
                yield scan.Field(owner, name.encode(), scan.TIME, 0)


def settled(
    schema: Schema, batch: RawBatch, fields: dict[str, NDArray[Any]], letters: list[DeadLetter]
) -> tuple[Columns, list[DeadLetter]]:
    """Columns of the records that have no letter, and are not refused for what their fields hold.

    `fields` holds a column (n,) a path, void in rows that have a letter.
    """
    row = np.arange(len(batch))
    if letters:
        row = np.delete(row, [letter.row for letter in letters])
        fields = {path: column[row] for path, column in fields.items()}
    time = within_calendar(batch.timestamps[row].astype(np.float64))
    if schema.timestamp is not None:
        told = fields[schema.timestamp]
        time = np.where(np.isnan(told), time, told)
    entity = fields[schema.entity] if schema.entity else np.full(len(row), "", dtype=object)
    refused = np.zeros(len(row), dtype=np.bool_)
    for reason, error, found in refusals(schema, fields, entity, time):
        letters += [DeadLetter(at, reason, printable(error, ERROR_LENGTH)) for at in row[found & ~refused].tolist()]
        refused |= found
    columns = Columns(
        row=row,
        partitions=batch.partitions,
        partition=batch.partition[row],
        offsets=batch.offsets[row],
        time=np.where(refused, 0.0, time).astype(np.int64),
        entity=entity,
        numbers={path: fields[path] for path in schema.numbers},
        texts={path: fields[path] for path in schema.texts},
    )
    return (columns.take(~refused) if refused.any() else columns), sorted(letters)


def refusals(
    schema: Schema, fields: Mapping[str, NDArray[Any]], entity: NDArray[np.object_], time: NDArray[np.float64]
) -> list[tuple[DeadLetterReason, str, NDArray[np.bool_]]]:
    """What decoded rows are still refused for, and which of them: the first reason that applies counts.

    `fields` holds a column for each number and text of the schema, `time` epoch milliseconds or infinity.
    """
    refused = []
    if schema.entity:
        error = f"Field '{schema.entity}' is missing, null or empty. Expected the name of an entity."
        names = set(entity.tolist())
        refused.append((DeadLetterReason.MISSING_ENTITY, error, _among(entity, {it for it in names if not it})))
        long = {it for it in names if it and len(it) > MOST_ENTITY_CHARACTERS}
        error = f"Field '{schema.entity}' is too long. Expected at most {MOST_ENTITY_CHARACTERS} characters."
        refused.append((DeadLetterReason.ENTITY_TOO_LONG, error, _among(entity, long)))
    origin = "The broker's timestamp"
    if schema.timestamp:
        origin = f"Field '{schema.timestamp}' (the broker's timestamp where it is missing)"
    error = f"{origin} is no time from 1970 to 9999. Expected an epoch number or ISO 8601."
    refused.append((DeadLetterReason.BAD_TIMESTAMP, error, np.isinf(time)))
    if schema.numbers or schema.texts:
        absent = np.ones(len(time), np.bool_)
        for path in schema.numbers if len(time) else ():
            absent &= np.isnan(fields[path])
        for path in schema.texts if absent.any() else ():
            absent &= np.fromiter(map(is_, fields[path], repeat(None)), dtype=np.bool_)
        error = f"Every feature is missing or null. Expected one of {', '.join((*schema.numbers, *schema.texts))}."
        refused.append((DeadLetterReason.NO_FEATURES, error, absent))
    return refused


def _among(names: NDArray[np.object_], wrong: set[str | None]) -> NDArray[np.bool_]:
    """Which of the names (n,) are wrong."""
    return np.array([name in wrong for name in names]) if wrong else np.zeros(len(names), np.bool_)


def roles_of(schema: Schema) -> dict[str, Role]:
    """What each field is wanted as, by path. Raises `ValueError` for one that is wanted in two roles."""
    roles = dict.fromkeys(schema.numbers, NUMBER)
    texts = dict.fromkeys((*schema.texts, *filter(None, [schema.entity])), TEXT)
    for path, role in (*texts.items(), *((path, TIME) for path in filter(None, [schema.timestamp]))):
        if (other := roles.setdefault(path, role)) is not role:
            raise ValueError(f"field '{path}' is wanted as {other.name} and as {role.name}: expected one of them")
    return roles


def times(numbers: NDArray[np.float64], texts: NDArray[np.object_]) -> NDArray[np.float64]:
    """Epoch milliseconds of times that are numbers (n,) or, where not None, texts (n,)."""
    told = {text: iso_milliseconds(text) for text in set(texts.tolist()) if text is not None}
    epoch = epoch_milliseconds(numbers)
    if told:
        iso = np.array([told.get(text, np.nan) for text in texts.tolist()])
        epoch = np.where(np.isnan(iso), epoch, iso)
    return within_calendar(epoch)


def _refusal(row: int, value: bytes | None, error: Exception) -> DeadLetter:
    if not value:
        return DeadLetter(row, DeadLetterReason.EMPTY, "The value is null or empty. Expected a JSON object.")
    try:
        value.decode()
    except UnicodeDecodeError as broken:
        return DeadLetter(row, DeadLetterReason.NOT_UTF8, printable(str(broken), ERROR_LENGTH))
    reason = DeadLetterReason.MALFORMED
    if isinstance(error, RecursionError):
        reason = DeadLetterReason.TOO_DEEP
    elif isinstance(error, msgspec.ValidationError):
        too_large = "out of range" in str(error).partition(" - at")[0]
        reason = DeadLetterReason.OUT_OF_RANGE if too_large else DeadLetterReason.WRONG_SHAPE
    return DeadLetter(row, reason, printable(str(error), ERROR_LENGTH))
