"""JSON records to columns in compiled code, as far as they are plain; whatever it is not sure of is left to msgspec.

Plain is a record of ASCII strings without escapes, of numbers that a float64 takes exactly, of no more than `DEPTH`
levels, in which every wanted field has a type that its role takes. That is nearly every record of nearly every stream;
it measures up to twice as fast as objects that are gathered into columns. What a record means is for msgspec to say:
of a record that is taken here it says the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from consumers.compiled import compiled, inlined
from consumers.packed import ABSENT, Packed

DEPTH = 32
NUMBER, TEXT, TIME, OBJECT = range(4)
"""What a field is wanted as: a number or boolean; a string, integer or boolean; a number or a string; its fields."""

_OWNER, _ROLE, _TARGET, _BEGIN, _END = range(5)  # columns of a plan's fields
_UNWANTED, _ARRAY = -1, -2
_DIGITS = 19  # of an integer that may fit 64 bits
_EXACT = 1 << 53  # integers up to it are float64s, and so are powers of ten up to 22: their quotient is rounded once
_POWERS = 10.0 ** np.arange(23)
_OFFSET, _PRIME = np.uint64(14695981039346656037), np.uint64(1099511628211)


class Field(NamedTuple):
    """A wanted field: the number of the object that it is in (0 is the record itself), its name, what it is wanted as,
    and its column, or the number of the object that it is."""

    owner: int
    name: bytes
    role: int
    target: int


class Plan(NamedTuple):
    """Wanted fields in a hash table by owner and name: `slots` holds 1 + the number of a field, 0 where there is none.
    `fields` has a row each: the columns of `Field`, with where the name begins in `names` and ends."""

    slots: NDArray[np.int64]
    names: NDArray[np.uint8]
    fields: NDArray[np.int64]
    objects: int

    @classmethod
    def of(cls, fields: Sequence[Field]) -> Plan:
        """A table half full at most; two fields of one object have different names."""
        slots = np.zeros(1 << (2 * len(fields) + 1).bit_length(), np.int64)
        for number, field in enumerate(fields):
            at = _hash(np.frombuffer(field.name, np.uint8), 0, len(field.name), field.owner) & (len(slots) - 1)
            while slots[at]:
                at = (at + 1) & (len(slots) - 1)
            slots[at] = 1 + number
        ends = np.cumsum([0, *(len(field.name) for field in fields)]).tolist()
        rows = [(it.owner, it.role, it.target, *ends[i : i + 2]) for i, it in enumerate(fields)]
        names = np.frombuffer(b"".join(field.name for field in fields), np.uint8)
        objects = 1 + sum(field.role == OBJECT for field in fields)
        return cls(slots, names, np.array(rows, np.int64).reshape(-1, 5), objects)


class Scanned(NamedTuple):
    """What a scan found in n records: which are plain (n,), numbers (k, n) with NaN where there is none, and where the
    texts (t, n) begin and how long they are, `ABSENT` where there is none. Of records that are not plain it is void."""

    plain: NDArray[np.bool_]
    numbers: NDArray[np.float64]
    starts: NDArray[np.int64]
    lengths: NDArray[np.int64]


def scan(values: Packed, plan: Plan, numbers: int, texts: int) -> Scanned:
    """Of so many columns of numbers and of texts. A field wanted as a time has one of either with the same number."""
    n = len(values)
    found = Scanned(
        np.zeros(n, np.bool_),
        np.full((numbers, n), np.nan),
        np.zeros((texts, n), np.int64),
        np.full((texts, n), ABSENT, np.int64),
    )
    _scan(values.data, values.starts, values.lengths, *plan, *found)
    return found


def texts_at(data: NDArray[np.uint8], starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.object_]:
    """The ASCII strings (n,) in these places, None where there is none; equal ones are one object."""
    code, first = np.empty(len(starts), np.int64), np.empty(len(starts), np.int64)
    first = first[
        : distinct(data, starts, lengths, np.zeros(1 << (2 * len(starts)).bit_length(), np.int64), code, first)
    ]
    places = zip(starts[first].tolist(), lengths[first].tolist(), strict=True)
    strings = [data[start : start + length].tobytes().decode("ascii") for start, length in places]
    return np.array([*strings, None], object)[code]


@inlined
def _hash(data: NDArray[np.uint8], start: int, stop: int, owner: int) -> int:
    """Of Fowler, Noll and Vo (FNV-1a)."""
    found = _OFFSET ^ np.uint64(owner)
    for at in range(start, stop):
        found = (found ^ np.uint64(data[at])) * _PRIME
    return int((found ^ (found >> np.uint64(29))) & np.uint64(0x7FFFFFFF))


@inlined
def _field(
    data: NDArray[np.uint8],
    start: int,
    stop: int,
    owner: int,
    slots: NDArray[np.int64],
    names: NDArray[np.uint8],
    fields: NDArray[np.int64],
) -> int:
    """The number of the wanted field of this name in an object, or -1."""
    mask = len(slots) - 1
    at = _hash(data, start, stop, owner) & mask
    while slots[at]:
        field = slots[at] - 1
        begin = fields[field, _BEGIN]
        if fields[field, _OWNER] == owner and fields[field, _END] - begin == stop - start:
            same = True
            for i in range(stop - start):
                same = same and names[begin + i] == data[start + i]
            if same:
                return int(field)
        at = (at + 1) & mask
    return -1


@inlined
def _space(data: NDArray[np.uint8], at: int, end: int) -> int:
    while at < end and (data[at] == 32 or data[at] == 10 or data[at] == 13 or data[at] == 9):
        at += 1
    return at


@inlined
def _string(data: NDArray[np.uint8], at: int, end: int, escapes: bool) -> int:
    """Where a plain string that begins at `at`, after its quote, ends; -1 where it is none. Escapes of one letter may
    be allowed."""
    while at < end:
        byte = data[at]
        if byte == 34:
            return at
        if byte < 32 or byte > 126:
            return -1
        if byte == 92:
            at += 1
            if not escapes or at >= end or not _is_escape(data[at]):
                return -1
        at += 1
    return -1


@inlined
def _is_escape(byte: int) -> bool:
    """Of " \\ / b f n r t."""
    slash_or_quote = byte == 34 or byte == 92 or byte == 47
    return slash_or_quote or byte == 98 or byte == 102 or byte == 110 or byte == 114 or byte == 116


@inlined
def _word(data: NDArray[np.uint8], at: int, end: int) -> int:
    """How long the `true`, `false` or `null` at `at` is; 0 where there is none."""
    if end - at >= 4:
        if data[at] == 116 and data[at + 1] == 114 and data[at + 2] == 117 and data[at + 3] == 101:
            return 4
        if data[at] == 110 and data[at + 1] == 117 and data[at + 2] == 108 and data[at + 3] == 108:
            return 4
    if end - at >= 5 and data[at] == 102 and data[at + 1] == 97 and data[at + 2] == 108 and data[at + 3] == 115:
        return 5 if data[at + 4] == 101 else 0
    return 0


@inlined
def _number(data: NDArray[np.uint8], at: int, end: int) -> tuple[int, float, bool]:
    """Where the number that begins at `at` ends, -1 where there is none by JSON's grammar; its value, NaN where that is
    not certain; and whether it is an integer."""
    negative = data[at] == 45
    start = at + negative
    at, mantissa = start, 0
    while at < end and 48 <= data[at] <= 57:
        mantissa = 10 * mantissa + (data[at] - 48)
        at += 1
    digits, power, integer = at - start, 0, True
    if not digits or (data[start] == 48 and digits > 1):
        return -1, np.nan, False
    if at < end and data[at] == 46:
        at += 1
        point = at
        while at < end and 48 <= data[at] <= 57:
            mantissa = 10 * mantissa + (data[at] - 48)
            at += 1
        power, integer = point - at, False
        digits -= power
        if not power:
            return -1, np.nan, False
    if at < end and (data[at] == 101 or data[at] == 69):
        at, raised = _exponent(data, at + 1, end)
        power, integer = power + raised, False
    if digits > _DIGITS or mantissa < 0 or (power and mantissa > _EXACT) or abs(power) > 22:
        return at, np.nan, integer
    value = mantissa * _POWERS[power] if power >= 0 else mantissa / _POWERS[-power]
    return at, -value if negative and not (integer and value == 0.0) else value, integer  # an integer has no -0


@inlined
def _exponent(data: NDArray[np.uint8], at: int, end: int) -> tuple[int, int]:
    """Where an exponent that begins at `at`, after its letter, ends, -1 where it has no digits; and what it is."""
    sign = at < end and (data[at] == 43 or data[at] == 45)
    begin, power = at + sign, 0
    at = begin
    while at < end and 48 <= data[at] <= 57:
        power = min(10 * power + (data[at] - 48), 1000)
        at += 1
    if at == begin:
        return -1, 0
    return at, -power if sign and data[begin - 1] == 45 else power


@compiled
def _scan(
    data: NDArray[np.uint8],
    begins: NDArray[np.int64],
    sizes: NDArray[np.int64],
    slots: NDArray[np.int64],
    names: NDArray[np.uint8],
    fields: NDArray[np.int64],
    objects: int,
    plain: NDArray[np.bool_],
    numbers: NDArray[np.float64],
    starts: NDArray[np.int64],
    lengths: NDArray[np.int64],
) -> None:
    stack, met = np.empty(DEPTH, np.int64), np.empty(objects, np.int64)
    met[:] = -1
    for row in range(len(begins)):
        if sizes[row] > 1:
            end = begins[row] + sizes[row]
            stop = _record(data, begins[row], end, row, slots, names, fields, stack, met, numbers, starts, lengths)
            plain[row] = stop > 0 and _space(data, stop, end) == end


@inlined
def _record(
    data: NDArray[np.uint8],
    at: int,
    end: int,
    row: int,
    slots: NDArray[np.int64],
    names: NDArray[np.uint8],
    fields: NDArray[np.int64],
    stack: NDArray[np.int64],
    met: NDArray[np.int64],
    numbers: NDArray[np.float64],
    starts: NDArray[np.int64],
    lengths: NDArray[np.int64],
) -> int:
    """Where the object at `at` ends, its wanted fields written; -1 where it is not plain. `stack` holds what is open:
    the number of a wanted object, `_UNWANTED` or `_ARRAY`; `met` the row in which each wanted object was last seen."""
    at = _space(data, at, end)
    if at >= end or data[at] != 123:
        return -1
    depth, first = 0, True
    stack[0] = 0
    at += 1
    while True:
        at = _space(data, at, end)
        if at >= end:
            return -1
        owner, byte = stack[depth], data[at]
        if byte == (93 if owner == _ARRAY else 125):
            at += 1
            depth -= 1
            first = False
            if depth < 0:
                return at
            continue
        if not first:
            if byte != 44:
                return -1
            at = _space(data, at + 1, end)
            if at >= end:
                return -1
        field = -1
        if owner != _ARRAY:
            if data[at] != 34:
                return -1
            stop = _string(data, at + 1, end, False)
            if stop < 0:
                return -1
            if owner != _UNWANTED:
                field = _field(data, at + 1, stop, owner, slots, names, fields)
            at = _space(data, stop + 1, end)
            if at >= end or data[at] != 58:
                return -1
            at = _space(data, at + 1, end)
            if at >= end:
                return -1
        role, target = -1, -1
        if field >= 0:
            role, target = fields[field, _ROLE], fields[field, _TARGET]
        if role == OBJECT:
            if met[target] == row:
                return -1
            met[target] = row
        byte = data[at]
        if byte == 123 or byte == 91:
            if depth + 1 == DEPTH or (field >= 0 and (role != OBJECT or byte == 91)):
                return -1
            depth += 1
            stack[depth] = _ARRAY if byte == 91 else target if field >= 0 else _UNWANTED
            at += 1
            first = True
            continue
        first = False
        start, value, integer, text = at, np.nan, False, False
        if byte == 34:
            stop, text = _string(data, at + 1, end, field < 0), True
            if stop < 0:
                return -1
            start, at = at + 1, stop + 1
        elif byte == 45 or 48 <= byte <= 57:
            stop, value, integer = _number(data, at, end)
            if stop < 0 or (field >= 0 and value != value):
                return -1
            at = stop
        else:
            size = _word(data, at, end)
            if not size:
                return -1
            at += size
            stop = at
            if byte != 110:
                value = 1.0 if byte == 116 else 0.0
                integer = True
        if field < 0:
            continue
        null = not text and value != value
        if role == NUMBER:
            if text:
                return -1
            numbers[target, row] = value
        elif role == TEXT:
            if not (text or null or integer) or (integer and byte == 45 and value == 0.0):
                return -1
            starts[target, row] = start
            lengths[target, row] = ABSENT if null else stop - start
        elif role == TIME:
            if not text and (byte == 116 or byte == 102):
                return -1
            numbers[target, row] = value
            starts[target, row] = start
            lengths[target, row] = stop - start if text else ABSENT
        elif not null:
            return -1


@compiled
def distinct(
    data: NDArray[np.uint8],
    starts: NDArray[np.int64],
    lengths: NDArray[np.int64],
    table: NDArray[np.int64],
    code: NDArray[np.int64],
    first: NDArray[np.int64],
) -> int:
    """Numbers distinct strings as they come: `code` (n,) of each, -1 where there is none, and the rows in which they
    come `first`. Gives how many there are; `table` has more than twice as many places, all 0."""
    count, mask = 0, len(table) - 1
    for row in range(len(starts)):
        start, length = starts[row], lengths[row]
        code[row] = -1
        if length == ABSENT:
            continue
        at = _hash(data, start, start + length, 0) & mask
        while code[row] < 0:
            if table[at] == 0:
                first[count] = row
                code[row] = count
                count += 1
                table[at] = count
                break
            other = first[table[at] - 1]
            same = lengths[other] == length
            for i in range(length if same else 0):
                if data[starts[other] + i] != data[start + i]:
                    same = False
                    break
            if same:
                code[row] = table[at] - 1
            at = (at + 1) & mask
    return count
