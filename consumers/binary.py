"""What the decoders of binary formats share: where wanted fields go, how a scan writes them, and columns of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from consumers.batch import Schema
from consumers.compiled import compiled
from consumers.decode import roles_of, times
from consumers.fields import MOST_TEXT_CHARACTERS, within_calendar
from consumers.json_objects import NUMBER, TEXT, Leaf, Tree, tree_of
from consumers.packed import ABSENT, Packed
from consumers.scan import distinct

EPOCH, INSTANT, FIRST_NUMBER = 0, 1, 2
"""Rows of the numbers: a time of unknown unit, a time in milliseconds, the first wanted number."""

SOUND, MALFORMED, TOO_DEEP, OUT_OF_RANGE, WRONG_SHAPE = range(5)
"""What a scan says of a record. `WRONG_SHAPE` and `OUT_OF_RANGE` have a detail `DETAIL` bits higher up: the number of a
refusal, and of a row of the numbers."""
DETAIL = 4

SKIP, AS_NUMBER, AS_INSTANT, AS_INTEGER, AS_UNSIGNED, AS_NAME, AS_TEXT = range(7)
"""What becomes of a value: nothing, a number, units of time that add up, the digits of an integer (signed or not), a
name, a text."""

_INTEGER, _UNSIGNED, _NAME = ABSENT - 1, ABSENT - 2, ABSENT - 3
"""Lengths of texts that do not stand in the record: their start is the integer, or number of a name."""
_NAMES = 1 << 32
"""Numbers of names that an enumeration may have."""

MILLIS, MICROS, NANOS, DAYS, SECONDS = range(5)
_MS_OF_UNIT = np.array([1.0, 1e-3, 1e-6, 86_400_000.0, 1e3])

BOOLEANS: Mapping[int, str] = {0: "false", 1: "true"}


class Unreadable(Exception):
    """No record of this schema can be decoded: it is unknown, of another format, or not sound."""


class Target(NamedTuple):
    """What becomes of a value and the row it goes to; `extra` is a unit of time or the number of an enumeration."""

    sort: int = SKIP
    row: int = 0
    extra: int = 0


NOWHERE = Target()


class Found(NamedTuple):
    """What a scan found in n records: a status of each (n,), numbers (k, n) with NaN where there is none, and where the
    texts (t, n) begin and how long they are. Of a record that is not sound the rest is void."""

    status: NDArray[np.int64]
    numbers: NDArray[np.float64]
    starts: NDArray[np.int64]
    lengths: NDArray[np.int64]


class Program(Protocol):
    """How records of one writer's schema are read."""

    @property
    def refusals(self) -> Sequence[str]:
        """Errors by number."""

    @property
    def names(self) -> Sequence[Mapping[int, str]]:
        """The names of each enumeration."""

    def scan(self, values: Packed) -> Found:
        """Reads the records; no bytes make it raise."""


class Wanted:
    """The fields that a schema wants, and the rows they go to: a time has row 0 or 1 of the numbers, or 0 of the texts.

    A schema that wants one field in two roles, or a field within a field, raises `ValueError` here.
    """

    def __init__(self, schema: Schema) -> None:
        self.tree: Tree = tree_of(roles_of(schema))
        self.time = schema.timestamp
        self.numbers = [*schema.numbers]
        self.texts = [*dict.fromkeys((*schema.texts, *filter(None, [schema.entity])))]

    def nothing(self, n: int) -> Found:
        """For a scan to write to."""
        numbers = np.full((FIRST_NUMBER + len(self.numbers), n), np.nan)
        shape = 1 + len(self.texts), n
        return Found(np.zeros(n, np.int64), numbers, np.zeros(shape, np.int64), np.full(shape, ABSENT, np.int64))

    def target(self, leaf: Leaf, sort: int, extra: int = 0) -> Target | None:
        """Where a value goes that would be taken as `sort`: `AS_NUMBER` of a real number, `AS_INTEGER`, `AS_UNSIGNED`
        and `AS_INSTANT` of an integer, `AS_NAME` of a boolean or the name in an enumeration, `AS_TEXT` of a string.
        None where its field does not take such a value.
        """
        if leaf.role is TEXT:
            row = 1 + self.texts.index(leaf.path)
            sort = AS_INTEGER if sort == AS_INSTANT else sort
            return None if sort == AS_NUMBER else Target(sort, row, extra)
        if leaf.role is NUMBER:
            row = FIRST_NUMBER + self.numbers.index(leaf.path)
            takes = sort in (AS_NUMBER, AS_INTEGER, AS_UNSIGNED, AS_INSTANT) or (sort == AS_NAME and extra == 0)
            return Target(AS_NUMBER, row) if takes else None
        if sort in (AS_TEXT, AS_INSTANT):
            return Target(sort, INSTANT if sort == AS_INSTANT else 0, extra)
        return None if sort == AS_NAME else Target(AS_NUMBER, EPOCH)

    def columns(
        self, found: Found, data: NDArray[np.uint8], names: Sequence[Mapping[int, str]]
    ) -> tuple[dict[str, NDArray[Any]], NDArray[np.bool_]]:
        """A column (n,) a path, and which records (n,) have a wanted text that is not UTF-8."""
        texts, broken = [], np.zeros(len(found.status), np.bool_)
        for starts, lengths in zip(found.starts, found.lengths, strict=True):
            column, wrong = _texts(data, starts, lengths, names)
            texts.append(column)
            broken |= wrong
        fields: dict[str, NDArray[Any]] = dict(zip(self.numbers, found.numbers[FIRST_NUMBER:], strict=True))
        fields |= zip(self.texts, texts[1:], strict=True)
        if self.time is not None:
            told = within_calendar(found.numbers[INSTANT])
            fields[self.time] = np.where(np.isnan(told), times(found.numbers[EPOCH], texts[0]), told)
        return fields, broken


def refusal(names: Sequence[str], wanted: str, got: str) -> str:
    """The error of a field that holds another type than is wanted, in the words that faults are told from."""
    return f"Expected `{wanted}`, got `{got}` - at `{'.'.join(('$', *names))}`"


def _texts(
    data: NDArray[np.uint8], starts: NDArray[np.int64], lengths: NDArray[np.int64], names: Sequence[Mapping[int, str]]
) -> tuple[NDArray[np.object_], NDArray[np.bool_]]:
    """The texts (n,) in these places, None where there is none, and which (n,) are not UTF-8; equal ones are one object
    and are cut to `MOST_TEXT_CHARACTERS`."""
    n = len(starts)
    code, first = np.empty(n, np.int64), np.empty(n, np.int64)
    table = np.zeros(1 << (2 * n).bit_length(), np.int64)
    first = first[: distinct(data, starts, np.maximum(lengths, ABSENT), table, code, first)]
    places = zip(starts[first].tolist(), lengths[first].tolist(), strict=True)
    strings = [_decoded(data[start : start + length].tobytes()) for start, length in places]
    wrong = np.array([*(text is None for text in strings), False])[code]
    column = np.array([*strings, None], object)[code]
    for length in np.unique(lengths[lengths < ABSENT]).tolist():
        rows = np.flatnonzero(lengths == length)
        values, index = np.unique(starts[rows], return_inverse=True)
        column[rows] = np.array([_written(value, length, names) for value in values.tolist()], object)[index]
    return column, wrong


def _decoded(text: bytes) -> str | None:
    try:
        return text.decode()[:MOST_TEXT_CHARACTERS]
    except UnicodeDecodeError:
        return None


def _written(value: int, length: int, names: Sequence[Mapping[int, str]]) -> str:
    """Digits, or a name; the number where an enumeration has no name for it."""
    if length == _NAME:
        enumeration, number = divmod(value + _NAMES // 2, _NAMES)
        number -= _NAMES // 2
        return names[enumeration].get(number, str(number))
    return str(value % (1 << 64) if length == _UNSIGNED else value)


@compiled
def put_integer(value: int, sort: int, to: int, extra: int, row: int, found: Found) -> int:
    """Writes an integer, a boolean or the number of a name. As all of these it gives a status."""
    if sort == AS_NUMBER:
        found.numbers[to, row] = value
    elif sort == AS_INSTANT:
        before = found.numbers[to, row]
        found.numbers[to, row] = value * _MS_OF_UNIT[extra] + (0.0 if math.isnan(before) else before)
    elif sort == AS_NAME:
        found.starts[to, row] = extra * _NAMES + value
        found.lengths[to, row] = _NAME
    elif sort != SKIP:
        found.starts[to, row] = value
        found.lengths[to, row] = _INTEGER if sort == AS_INTEGER else _UNSIGNED
    return SOUND


@compiled
def put_real(value: float, sort: int, to: int, row: int, found: Found) -> int:
    """Writes a real number, of which one that is not a number counts as none."""
    if sort == SKIP:
        return SOUND
    found.numbers[to, row] = value
    return OUT_OF_RANGE | to << DETAIL if math.isinf(value) and to >= FIRST_NUMBER else SOUND


@compiled
def put_text(start: int, length: int, sort: int, to: int, row: int, found: Found) -> int:
    """Writes where a string is."""
    if sort != SKIP:
        found.starts[to, row] = start
        found.lengths[to, row] = length
    return SOUND


@compiled
def varint(data: NDArray[np.uint8], at: int, end: int) -> tuple[np.uint64, int]:
    """The number in groups of seven bits, the lowest first, and where it ends; -1 where not within ten bytes."""
    if at < end and data[at] < 128:
        return np.uint64(data[at]), at + 1
    value, shift = np.uint64(0), np.uint64(0)
    for i in range(at, min(at + 10, end)):
        value |= np.uint64(data[i] & 127) << shift
        if data[i] < 128:
            return value, i + 1
        shift += np.uint64(7)
    return value, -1


@compiled
def zigzag(value: np.uint64) -> int:
    """The signed integer that was written as 0, -1, 1, -2, ..."""
    return int(np.int64(value >> np.uint64(1)) ^ -np.int64(value & np.uint64(1)))


@compiled
def fixed(data: NDArray[np.uint8], at: int, size: int) -> np.uint64:
    """The unsigned integer of so many bytes, the lowest first."""
    value = np.uint64(0)
    for i in range(size):
        value |= np.uint64(data[at + i]) << np.uint64(8 * i)
    return value


@compiled
def real(data: NDArray[np.uint8], at: int, size: int) -> float:
    """The IEEE 754 number of four or eight bytes, the lowest first."""
    bits = fixed(data, at, size)
    return float(np.uint64(bits).view(np.float64)) if size == 8 else float(np.uint32(bits).view(np.float32))
