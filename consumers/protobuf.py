"""Protobuf records to columns: a writer's schema becomes tables that compiled code reads the bytes of its records by.

Wire format by the Protocol Buffers encoding guide; before it stand, as a schema registry's clients write them, the
indexes that lead from the file to the record's message. Every length is held against the bytes that are there before
anything is read, and nothing is allocated for a record, whatever it says.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np
from google.protobuf.descriptor import Descriptor, FieldDescriptor  # type: ignore[import-untyped]  # ships no types
from numpy.typing import NDArray

from consumers.binary import (
    AS_INSTANT,
    AS_INTEGER,
    AS_NAME,
    AS_NUMBER,
    AS_TEXT,
    AS_UNSIGNED,
    BOOLEANS,
    DETAIL,
    INSTANT,
    MALFORMED,
    NANOS,
    NOWHERE,
    SECONDS,
    SKIP,
    SOUND,
    WRONG_SHAPE,
    Found,
    Target,
    Wanted,
    fixed,
    put_integer,
    put_real,
    put_text,
    real,
    refusal,
    varint,
    zigzag,
)
from consumers.compiled import compiled
from consumers.json_objects import TIME, Leaf, Tree
from consumers.packed import ABSENT, Packed
from consumers.protoc import message_types

_REFUSED = 0
"""Beside the types of fields that a descriptor knows: one whose presence is a reason to refuse the record."""
_DOUBLE, _FLOAT, _INT64, _UINT64, _INT32, _FIXED64, _FIXED32, _BOOL, _STRING, _, _MESSAGE, _BYTES = range(1, 13)
_UINT32, _ENUM, _SFIXED32, _SFIXED64, _SINT32, _SINT64 = range(13, 19)

_VARINT, _EIGHT_BYTES, _DELIMITED, _GROUP, _GROUP_END, _FOUR_BYTES = range(6)
_WIRE_TYPES = np.array([-1, 1, 5, 0, 0, 0, 1, 5, 0, 2, -1, 2, 2, 0, 0, 5, 1, 0, 0])
"""How a field of each type is written. What comes in another way is not the field: it is passed over."""

_NUMBER, _TYPE, _SORT, _ROW, _EXTRA, _INNER, _IMPLIED = range(7)
_LARGEST_NUMBER = (1 << 29) - 1
_SORTS: Final = {
    **dict.fromkeys((_DOUBLE, _FLOAT), (AS_NUMBER, "float")),
    **dict.fromkeys((_INT64, _INT32, _UINT32, _FIXED32, _SFIXED32, _SFIXED64, _SINT32, _SINT64), (AS_INTEGER, "int")),
    **dict.fromkeys((_UINT64, _FIXED64), (AS_UNSIGNED, "int")),
    _BOOL: (AS_NAME, "bool"),
    _ENUM: (AS_NAME, "str"),
    _STRING: (AS_TEXT, "str"),
}
_WRAPPERS: Final = {
    f"google.protobuf.{name}Value"
    for name in ("Double", "Float", "Int64", "UInt64", "Int32", "UInt32", "Bool", "String", "Bytes")
}


class _Field(NamedTuple):
    """A wanted field of a message. `inner` is the table of the message that it holds, or the number of a refusal;
    `implied` says that where it is not written it has the default of its type."""

    number: int
    type: int
    target: Target = NOWHERE
    inner: int = 0
    implied: bool = False


class _Tables(NamedTuple):
    """`tree` (m, 3) has the message types of the file, which itself is the first: the table of the fields wanted of it,
    the first of the types within it, and how many these are. The fields of table `t`, by number, are those from
    `edges[t]` to `edges[t + 1]` of `fields` (f, 7), whose columns are `_NUMBER` to `_IMPLIED`."""

    tree: NDArray[np.int64]
    edges: NDArray[np.int64]
    fields: NDArray[np.int64]


class ProtobufProgram:
    """Reads records of one writer's schema, proto2, proto3 or an edition.

    A number is any number or a boolean; a text a string, enumeration, integer or boolean; a time a `Timestamp`, a
    number as in JSON, or a string in ISO 8601. A wrapper stands for its value. A field without presence that is not
    written has its default, one with presence is missing. A real number that is not a number counts as missing.
    """

    def __init__(self, schema: str, references: Mapping[str, str], wanted: Wanted) -> None:
        """Raises `Unreadable`. `references` are the files that this one imports, by the name it imports them by."""
        compiler = _Compiler(wanted)
        self._tables = compiler.tables(message_types(schema, references))
        self.refusals: Sequence[str] = compiler.refusals
        self.names: Sequence[Mapping[int, str]] = compiler.names
        self._wanted = wanted

    def scan(self, values: Packed) -> Found:
        found = self._wanted.nothing(len(values))
        _scan(values.data, values.starts, values.lengths, self._tables, found)
        return found


class _Compiler:
    """A table for each message type that a record may be, and for each that lies on the way to a wanted field."""

    def __init__(self, wanted: Wanted) -> None:
        self.refusals: list[str] = []
        self.names: list[Mapping[int, str]] = [BOOLEANS]
        self._wanted = wanted
        self._messages: list[list[_Field]] = []

    def tables(self, types: Sequence[Descriptor]) -> _Tables:
        tree, level = [[0, 1, len(types)]], [*types]
        while level:  # by breadth, so that the types within one stand together
            following: list[Descriptor] = []
            begin = len(tree) + len(level)
            for message in level:
                tree.append(
                    [self._message(message, self._wanted.tree, []), begin + len(following), len(message.nested_types)]
                )
                following += message.nested_types
            level = following
        fields = [field for message in self._messages for field in message]
        rows = [(it.number, it.type, *it.target, it.inner, it.implied) for it in fields]
        return _Tables(
            np.array(tree, np.int64),
            np.cumsum([0, *map(len, self._messages)]),
            np.array(rows, np.int64).reshape(-1, _IMPLIED + 1),
        )

    def _message(self, message: Descriptor, wanted: Tree, names: Sequence[str], wrapper: bool = False) -> int:
        """The number of a new table, of the fields wanted of a message; a wrapper's has no name of its own."""
        return self._table(
            self._field(field, wanted[field.name], names if wrapper else [*names, field.name])
            for field in message.fields
            if field.name in wanted
        )

    def _table(self, fields: Iterable[_Field]) -> int:
        made = sorted(fields)
        self._messages.append(made)
        return len(self._messages) - 1

    def _field(self, field: FieldDescriptor, wanted: Leaf | Tree, names: Sequence[str]) -> _Field:
        implied = not field.has_presence
        if field.is_repeated:
            found = "object" if field.message_type and field.message_type.GetOptions().map_entry else "array"
        elif field.type == _MESSAGE and (inner := self._inner(field.message_type, wanted, names)) is not None:
            return _Field(field.number, _MESSAGE, inner=inner)
        elif isinstance(wanted, Leaf) and (target := self._target(field, wanted)) is not None:
            return _Field(field.number, field.type, target, implied=implied)
        else:
            found = "object" if field.message_type else _SORTS.get(field.type, (SKIP, "bytes"))[1]
        self.refusals.append(refusal(names, wanted.role.name if isinstance(wanted, Leaf) else "object", found))
        return _Field(field.number, _REFUSED, inner=len(self.refusals) - 1, implied=implied)

    def _inner(self, message: Descriptor, wanted: Leaf | Tree, names: Sequence[str]) -> int | None:
        """The table of a message that holds wanted fields, or stands for one; None where it does neither."""
        if not isinstance(wanted, Leaf):
            return self._message(message, wanted, names)
        if message.full_name in _WRAPPERS:
            return self._message(message, {"value": wanted}, names, wrapper=True)
        if message.full_name == "google.protobuf.Timestamp" and wanted.role is TIME:
            seconds = _Field(1, _INT64, Target(AS_INSTANT, INSTANT, SECONDS), implied=True)
            return self._table([seconds, _Field(2, _INT32, Target(AS_INSTANT, INSTANT, NANOS), implied=True)])
        return None

    def _target(self, field: FieldDescriptor, leaf: Leaf) -> Target | None:
        """What becomes of a wanted value; None where its field does not take it."""
        if field.type not in _SORTS:
            return None
        extra = 0
        if field.type == _ENUM:
            self.names.append({value.number: value.name for value in reversed(field.enum_type.values)})
            extra = len(self.names) - 1
        return self._wanted.target(leaf, _SORTS[field.type][0], extra)


@compiled
def _scan(
    data: NDArray[np.uint8], begins: NDArray[np.int64], sizes: NDArray[np.int64], tables: _Tables, found: Found
) -> None:
    stack = np.empty((len(tables.edges), 2), np.int64)
    for row in range(len(begins)):
        end = begins[row] + sizes[row]
        message, at = _message(data, begins[row], end, tables)
        found.status[row] = MALFORMED if at < 0 else _record(data, at, end, row, message, tables, stack, found)


@compiled
def _message(data: NDArray[np.uint8], at: int, end: int, tables: _Tables) -> tuple[int, int]:
    """The table of the message type that the indexes at `at` lead to, and where they end; -1 where there is none.

    Before the indexes, in zigzag, stands their number; a zero alone leads to the first type.
    """
    value, at = varint(data, at, end)
    left, node, index = zigzag(value), 0, 0
    first = left == 0
    while at >= 0 and (first or left > 0):
        if not first:
            value, at = varint(data, at, end)
            index = zigzag(value)
        if index < 0 or index >= tables.tree[node, 2]:
            return 0, -1
        node = tables.tree[node, 1] + index
        left -= 1
        first = False
    return tables.tree[node, 0], at if node else -1


@compiled
def _record(
    data: NDArray[np.uint8],
    at: int,
    end: int,
    row: int,
    message: int,
    tables: _Tables,
    stack: NDArray[np.int64],
    found: Found,
) -> int:
    """The status of the message from `at` to `end`, its wanted fields written. `stack` holds the ends and tables of the
    messages around."""
    fields, edges = tables.fields, tables.edges
    depth, groups, following = 0, 0, edges[message]
    status = _imply(message, row, tables, found)
    while not status:
        if at == end:
            if groups:
                return MALFORMED
            if depth == 0:
                return SOUND
            depth -= 1
            end, message = stack[depth, 0], stack[depth, 1]
            continue
        key, at = varint(data, at, end)
        number, wire = int(np.int64(key >> np.uint64(3))), int(np.int64(key & np.uint64(7)))
        if at < 0 or number < 1 or number > _LARGEST_NUMBER:
            return MALFORMED
        field, kind, sort, to, extra = -1, 0, SKIP, 0, 0
        if groups == 0:
            field = _field(number, edges[message], edges[message + 1], following, fields)
        if field >= 0:
            following = field + 1
            kind = fields[field, _TYPE]
            if kind == _REFUSED:
                return int(WRONG_SHAPE | fields[field, _INNER] << DETAIL)
            if wire == _WIRE_TYPES[kind]:
                sort, to, extra = fields[field, _SORT], fields[field, _ROW], fields[field, _EXTRA]
            else:
                kind = 0
        if wire == _VARINT:
            value, at = varint(data, at, end)
            if at < 0:
                return MALFORMED
            status = _put(value, kind, sort, to, extra, row, found)
        elif wire in (_EIGHT_BYTES, _FOUR_BYTES):
            size = 8 if wire == _EIGHT_BYTES else 4
            if end - at < size:
                return MALFORMED
            if kind in (_DOUBLE, _FLOAT):
                status = put_real(real(data, at, size), sort, to, row, found)
            elif sort:
                status = _put(fixed(data, at, size), kind, sort, to, extra, row, found)
            at += size
        elif wire == _DELIMITED:
            value, at = varint(data, at, end)
            if at < 0 or value > np.uint64(end - at):
                return MALFORMED
            size = int(np.int64(value))
            if kind == _MESSAGE:
                stack[depth, 0], stack[depth, 1] = end, message
                depth += 1
                end, message = at + size, fields[field, _INNER]
                following = edges[message]
                status = _imply(message, row, tables, found)
            else:
                status = put_text(at, size, sort, to, row, found)
                at += size
        elif wire == _GROUP:
            groups += 1
        elif wire == _GROUP_END and groups:
            groups -= 1
        else:
            return MALFORMED
    return status


@compiled
def _field(number: int, low: int, high: int, following: int, fields: NDArray[np.int64]) -> int:
    """The wanted field of this number from `low` to `high`, or -1. Most fields come in order, so the one `following` is
    tried first."""
    if low <= following < high and fields[following, _NUMBER] == number:
        return following
    last = high
    while low < high:
        middle = (low + high) // 2
        if fields[middle, _NUMBER] < number:
            low = middle + 1
        else:
            high = middle
    return low if low < last and fields[low, _NUMBER] == number else -1


@compiled
def _imply(message: int, row: int, tables: _Tables, found: Found) -> int:
    """Writes the defaults of fields without presence where nothing is written yet."""
    for field in range(tables.edges[message], tables.edges[message + 1]):
        if not tables.fields[field, _IMPLIED]:
            continue
        if tables.fields[field, _TYPE] == _REFUSED:
            return int(WRONG_SHAPE | tables.fields[field, _INNER] << DETAIL)
        sort, to = tables.fields[field, _SORT], tables.fields[field, _ROW]
        if sort in (AS_NUMBER, AS_INSTANT):
            if np.isnan(found.numbers[to, row]):
                found.numbers[to, row] = 0.0
        elif found.lengths[to, row] == ABSENT:
            if sort == AS_TEXT:
                put_text(0, 0, sort, to, row, found)
            else:
                put_integer(0, sort, to, tables.fields[field, _EXTRA], row, found)
    return SOUND


@compiled
def _put(value: np.uint64, kind: int, sort: int, to: int, extra: int, row: int, found: Found) -> int:
    """Writes an integer of any type from the bits that it came in."""
    if sort == AS_NUMBER and kind in (_UINT64, _FIXED64):
        return put_real(float(value), sort, to, row, found)
    number = int(np.int64(value))
    if kind in (_INT32, _ENUM, _SFIXED32):
        number = int(np.int32(value))
    elif kind == _UINT32:
        number = int(np.uint32(value))
    elif kind == _SINT32:
        number = zigzag(np.uint64(np.uint32(value)))
    elif kind == _SINT64:
        number = zigzag(value)
    elif kind == _BOOL:
        number = int(value != 0)
    return put_integer(number, sort, to, extra, row, found)
