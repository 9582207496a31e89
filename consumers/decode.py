"""Bytes to columns: each record through a C-level JSON decoder, its fields gathered, poison records set apart."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from itertools import repeat
from operator import attrgetter, is_
from types import NoneType
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from consumers.batch import Columns, DeadLetter, RawBatch, Schema
from consumers.fields import milliseconds, number_column, split_path, within_calendar
from consumers.text import printable

CHUNK = 512
"""Records taken apart at a time: few enough that their objects stay in the processor's cache until they are gathered,
which measures 1.3 (8 fields) to 1.5 (38 fields) times as fast as a batch of 16,384 at once."""
ERROR_LENGTH = 200

MOST_ENTITY_CHARACTERS = 512
MOST_TEXT_CHARACTERS = 1_000
"""A longer text is taken by its beginning: texts are remembered by the hundred thousand, and alerts repeat them. More
than an entity's name may have, so that one that is too long still shows."""


class DeadLetterReason(StrEnum):
    """Why a record cannot be scored."""

    EMPTY = "empty"
    """The value is null or has no bytes."""
    NOT_UTF8 = "not_utf8"
    """Some part of the value, used or not, is not UTF-8."""
    MALFORMED = "malformed"
    """Not JSON: cut short, or with NaN and Infinity, which JSON does not have."""
    WRONG_SHAPE = "wrong_shape"
    """JSON, but not an object, or a field holds another type than its feature needs."""
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
        self._root = _object(_tree(_roles(schema)))
        self._decode = msgspec.json.Decoder(self._root.struct).decode

    def decode(self, batch: RawBatch) -> tuple[Columns, list[DeadLetter]]:
        """Each record as a row of the columns or as a dead letter, both in the order of the batch.

        No bytes whatever make it raise.
        """
        letters: list[DeadLetter] = []
        pieces = [self._chunk(batch.values, start, letters) for start in range(0, len(batch) or 1, CHUNK)]
        fields = {path: np.concatenate([piece[path] for piece in pieces]) for path in pieces[0]}
        row = np.delete(np.arange(len(batch)), np.array([letter.row for letter in letters], dtype=np.int64))
        time = self._time(fields, batch.timestamps[row])
        entity = fields[self._schema.entity] if self._schema.entity else np.full(len(row), "", dtype=object)

        refused = np.zeros(len(row), dtype=np.bool_)
        for reason, error, found in refusals(self._schema, fields, entity, time):
            letters += [DeadLetter(at, reason, printable(error, ERROR_LENGTH)) for at in row[found & ~refused].tolist()]
            refused |= found
        columns = Columns(
            row=row,
            partitions=batch.partitions,
            partition=batch.partition[row],
            offsets=batch.offsets[row],
            time=np.where(refused, 0.0, time).astype(np.int64),
            entity=entity,
            numbers={path: fields[path] for path in self._schema.numbers},
            texts={path: fields[path] for path in self._schema.texts},
        )
        return (columns.take(~refused) if refused.any() else columns), sorted(letters)

    def _chunk(
        self, values: Sequence[bytes | None], start: int, letters: list[DeadLetter]
    ) -> dict[str, NDArray[np.generic]]:
        """One column a path from the records at `start` that can be decoded; the others are added to `letters`.

        msgspec does not check the strings of fields it skips, so what is not UTF-8 is emptied first, for it to refuse.
        """
        checked = [
            value if value and (value.isascii() or _is_utf8(value)) else b"" for value in values[start : start + CHUNK]
        ]
        remaining, records, refused = iter(checked), list[msgspec.Struct](), 0
        while len(records) + refused < len(checked):
            try:
                records.extend(map(self._decode, remaining))  # on an error, what came before it stays in the list
            except (ValueError, RecursionError) as error:
                row = start + len(records) + refused
                letters.append(_refusal(row, values[row], error))
                refused += 1
        columns: dict[str, NDArray[np.generic]] = {}
        _gather(self._root, records, columns)
        return columns

    def _time(self, fields: dict[str, NDArray[Any]], broker: NDArray[np.int64]) -> NDArray[np.float64]:
        heard = within_calendar(broker.astype(np.float64))
        if self._schema.timestamp is None:
            return heard
        told = fields[self._schema.timestamp]
        return np.where(np.isnan(told), heard, told)


def refusals(
    schema: Schema, fields: Mapping[str, NDArray[Any]], entity: NDArray[np.object_], time: NDArray[np.float64]
) -> list[tuple[DeadLetterReason, str, NDArray[np.bool_]]]:
    """What decoded rows are still refused for, and which of them: the first reason that applies counts.

    `fields` holds a column for each number and text of the schema, `time` epoch milliseconds or infinity.
    """
    refused = []
    if schema.entity:
        error = f"Field '{schema.entity}' is missing, null or empty. Expected the name of an entity."
        refused.append((DeadLetterReason.MISSING_ENTITY, error, ~entity.astype(np.bool_)))
        lengths = np.fromiter((len(name or "") for name in entity), np.int64, len(entity))
        error = f"Field '{schema.entity}' is too long. Expected at most {MOST_ENTITY_CHARACTERS} characters."
        refused.append((DeadLetterReason.ENTITY_TOO_LONG, error, lengths > MOST_ENTITY_CHARACTERS))
    origin = "The broker's timestamp"
    if schema.timestamp:
        origin = f"Field '{schema.timestamp}' (the broker's timestamp where it is missing)"
    error = f"{origin} is no time from 1970 to 9999. Expected an epoch number or ISO 8601."
    refused.append((DeadLetterReason.BAD_TIMESTAMP, error, np.isinf(time)))
    if schema.numbers or schema.texts:
        absent = [np.isnan(fields[path]) for path in schema.numbers]
        absent += [np.fromiter(map(is_, fields[path], repeat(None)), dtype=np.bool_) for path in schema.texts]
        error = f"Every feature is missing or null. Expected one of {', '.join((*schema.numbers, *schema.texts))}."
        refused.append((DeadLetterReason.NO_FEATURES, error, np.logical_and.reduce(absent)))
    return refused


def _texts(values: Sequence[Any]) -> NDArray[np.object_]:
    if not set(map(type, values)) <= {str, NoneType}:
        values = [
            value if value is None else str(value).lower() if isinstance(value, int) else value for value in values
        ]
    if max(map(len, filter(None, values)), default=0) > MOST_TEXT_CHARACTERS:
        values = [value and value[:MOST_TEXT_CHARACTERS] for value in values]
    return np.array(values, dtype=object)


class _Role(NamedTuple):
    """What a field is wanted as: its word in messages, what msgspec accepts, what stands for none, and its column."""

    name: str
    accepts: Any
    missing: float | None
    column: Callable[[Sequence[Any]], NDArray[Any]]


_NUMBER = _Role("number", float | bool | None, math.nan, number_column)
_TEXT = _Role("text", str | int | bool | None, None, _texts)
_TIME = _Role("time", float | str | None, math.nan, milliseconds)


class _Leaf(NamedTuple):
    path: str
    role: _Role


_Tree = dict[str, "_Leaf | _Tree"]


class _Object(NamedTuple):
    """The struct that takes an object, and how to get at its fields and at the objects within it."""

    struct: type[msgspec.Struct]
    leaves: list[tuple[attrgetter[Any], _Leaf]]
    objects: list[tuple[attrgetter[Any], _Object]]


def _roles(schema: Schema) -> dict[str, _Role]:
    roles = dict.fromkeys(schema.numbers, _NUMBER)
    texts = dict.fromkeys((*schema.texts, *filter(None, [schema.entity])), _TEXT)
    for path, role in (*texts.items(), *((path, _TIME) for path in filter(None, [schema.timestamp]))):
        if (other := roles.setdefault(path, role)) is not role:
            raise ValueError(f"field '{path}' is wanted as {other.name} and as {role.name}: expected one of them")
    return roles


def _tree(roles: dict[str, _Role]) -> _Tree:
    root: _Tree = {}
    for path, role in roles.items():
        *outer, last = split_path(path)
        node: _Leaf | _Tree = root
        for name in outer:
            node = node.setdefault(name, {}) if isinstance(node, dict) else node
        if not isinstance(node, dict) or last in node:
            raise ValueError(
                f"field '{path}' is within another one, or another one within it: expected only one of them"
            )
        node[last] = _Leaf(path, role)
    return root


def _object(tree: _Tree) -> _Object:
    fields, renames, leaves, objects = [], {}, [], []
    for number, (name, child) in enumerate(tree.items()):
        attribute = f"f{number}"
        renames[attribute] = name
        if isinstance(child, _Leaf):
            fields.append((attribute, child.role.accepts, child.role.missing))
            leaves.append((attrgetter(attribute), child))
        else:
            inner = _object(child)
            fields.append((attribute, inner.struct | None, None))
            objects.append((attrgetter(attribute), inner))
    return _Object(msgspec.defstruct("Record", fields, rename=renames, gc=False), leaves, objects)


def _gather(node: _Object, records: Sequence[msgspec.Struct], columns: dict[str, NDArray[np.generic]]) -> None:
    for get, leaf in node.leaves:
        columns[leaf.path] = leaf.role.column(list(map(get, records)))
    for get, inner in node.objects:
        absent = inner.struct()
        _gather(inner, [child or absent for child in map(get, records)], columns)


def _is_utf8(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


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
