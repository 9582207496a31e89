"""Avro records to columns: a writer's schema becomes a program that compiled code runs over the bytes of its records.

Binary encoding by the Avro specification 1.12. Every length is held against the bytes that are there before anything is
read, and nothing is allocated for a record, whatever it says.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from fastavro.schema import SchemaParseException, parse_schema
from numpy.typing import NDArray

from consumers.binary import (
    AS_INSTANT,
    AS_INTEGER,
    AS_NAME,
    AS_NUMBER,
    AS_TEXT,
    BOOLEANS,
    DAYS,
    DETAIL,
    MALFORMED,
    MICROS,
    MILLIS,
    NANOS,
    NOWHERE,
    SOUND,
    TOO_DEEP,
    WRONG_SHAPE,
    Found,
    Target,
    Unreadable,
    Wanted,
    put_integer,
    put_real,
    put_text,
    real,
    refusal,
    varint,
    zigzag,
)
from consumers.compiled import compiled
from consumers.json_objects import Leaf, Tree
from consumers.packed import Packed

DEPTH = 1024
"""Arrays, maps and records within one another, as far as they are passed over."""
STEPS = 64
"""Instructions a byte. Only arrays of items without bytes take more, or schemas that are many records deep."""

_LONG, _BOOLEAN, _REAL, _STRING, _DECIMAL, _ENUM, _UNION, _JUMP, _CALL, _RETURN, _BLOCK, _NEXT, _REFUSE = range(13)
"""Instructions. Beside what becomes of the value they have an operand: of a real number its size; of a string, bytes, a
fixed and a decimal too, or -1 where a length stands before it; of an enumeration the number of its symbols; of a union
where its branches begin; of blocks where they end; else a place to go on at, or the number of a refusal. The other
operand is the scale of a decimal, and the number of a union's branches."""

_INSTANTS: Final = {
    "timestamp-millis": MILLIS,
    "timestamp-micros": MICROS,
    "timestamp-nanos": NANOS,
    "local-timestamp-millis": MILLIS,
    "local-timestamp-micros": MICROS,
    "local-timestamp-nanos": NANOS,
    "date": DAYS,
}
_FOUND: Final = {
    "array": "array",
    "map": "object",
    "record": "object",
    "error": "object",
    "enum": "str",
    "string": "str",
}
_FOUND_NUMBERS: Final = {"int": "int", "long": "int", "float": "float", "double": "float", "boolean": "bool"}


class _Instruction(NamedTuple):
    op: int
    target: Target = NOWHERE
    operand: int = 0
    other: int = 0


class AvroProgram:
    """Reads records of one writer's schema.

    A number is an int, long, float, double, boolean or decimal; a text a string, enumeration, int, long or boolean; a
    time a timestamp of any unit, a date, a number as in JSON, or a string in ISO 8601. A field is known by its name, or
    by an alias in the writer's schema. A real number that is not a number counts as missing.
    """

    def __init__(self, schema: str, references: Mapping[str, str], wanted: Wanted) -> None:
        """Raises `Unreadable`. `references` are the schemas that this one names, by name, each after those it names."""
        compiler = _Compiler(schema, references, wanted)
        self.refusals: Sequence[str] = compiler.refusals
        self.names: Sequence[Mapping[int, str]] = compiler.names
        self._wanted = wanted
        self._code = np.array([(it.op, *it.target, it.operand, it.other) for it in compiler.code], np.int64)
        self._branches = np.array([*compiler.branches, 0], np.int64)

    def scan(self, values: Packed) -> Found:
        found = self._wanted.nothing(len(values))
        _scan(values.data, values.starts, values.lengths, self._code, self._branches, found)
        return found


class _Compiler:
    """Instructions of a schema: wanted fields in line, as they lie within one another finitely; types that are passed
    over as routines, as they may hold themselves."""

    def __init__(self, schema: str, references: Mapping[str, str], wanted: Wanted) -> None:
        self.code: list[_Instruction] = []
        self.branches: list[int] = []
        self.refusals: list[str] = []
        self.names: list[Mapping[int, str]] = [BOOLEANS]
        self._wanted = wanted
        self._routines: dict[str, int] = {}
        self._named: dict[str, Any] = {}
        try:
            for reference in references.values():
                parse_schema(json.loads(reference), named_schemas=self._named)
            self._value(parse_schema(json.loads(schema), named_schemas=self._named), wanted.tree, [])
            self._emit(_RETURN)
            self._write_routines()
        except (SchemaParseException, LookupError, TypeError, ValueError, RecursionError) as error:
            raise Unreadable(f"is no Avro schema that can be read: {type(error).__name__}: {error}") from error

    def _emit(self, op: int, target: Target = NOWHERE, operand: int = 0, other: int = 0) -> int:
        self.code.append(_Instruction(op, target, operand, other))
        return len(self.code) - 1

    def _value(self, schema: Any, wanted: Leaf | Tree | None, names: list[str]) -> None:
        """One value, of which a field is wanted, some fields, or nothing."""
        if isinstance(schema, list):
            self._union(schema, wanted, names)
        elif isinstance(schema, str) and schema in self._named:
            self._value(self._named[schema], wanted, names)
        elif isinstance(schema, dict) and not isinstance(schema["type"], str):
            self._value(schema["type"], wanted, names)
        else:
            whole = schema if isinstance(schema, dict) else {"type": schema}
            if whole["type"] in ("record", "error"):
                self._record(whole, wanted, names)
            elif whole["type"] != "null":
                self._other(whole, wanted, names)

    def _union(self, branches: list[Any], wanted: Leaf | Tree | None, names: list[str]) -> None:
        first = len(self.branches)
        self._emit(_UNION, operand=first, other=len(branches))
        self.branches += [0] * len(branches)
        ends = []
        for number, branch in enumerate(branches):
            self.branches[first + number] = len(self.code)
            self._value(branch, wanted, names)
            ends.append(self._emit(_JUMP))
        for end in ends:
            self.code[end] = _Instruction(_JUMP, operand=len(self.code))

    def _record(self, record: dict[str, Any], wanted: Leaf | Tree | None, names: list[str]) -> None:
        if wanted is None:
            self._emit(_CALL, operand=self._routine(record["name"]))
        elif isinstance(wanted, Leaf):
            self._refuse(wanted, names, "object")
        else:
            present = {field["name"] for field in record["fields"]}
            for field in record["fields"]:
                known_as = [field["name"], *(alias for alias in field.get("aliases", ()) if alias not in present)]
                name = next((name for name in known_as if name in wanted), None)
                self._value(field["type"], None if name is None else wanted[name], [*names, name or ""])

    def _routine(self, name: str) -> int:
        """The number of the routine that passes over a record of this name."""
        return self._routines.setdefault(name, len(self._routines))

    def _write_routines(self) -> None:
        """Routines may want others. Calls, that name a routine by number, are given its place."""
        places: list[int] = []
        while len(places) < len(self._routines):
            places.append(len(self.code))
            for field in self._named[[*self._routines][len(places) - 1]]["fields"]:
                self._value(field["type"], None, [])
            self._emit(_RETURN)
        self.code = [it._replace(operand=places[it.operand]) if it.op == _CALL else it for it in self.code]

    def _refuse(self, wanted: Leaf | Tree, names: list[str], got: str) -> None:
        role = wanted.role.name if isinstance(wanted, Leaf) else "object"
        self.refusals.append(refusal(names, role, got))
        self._emit(_REFUSE, operand=len(self.refusals) - 1)

    def _other(self, schema: dict[str, Any], wanted: Leaf | Tree | None, names: list[str]) -> None:
        """A value that is neither null nor a record."""
        kind, target = schema["type"], NOWHERE
        if wanted is not None:
            taken = self._taken(schema, wanted) if isinstance(wanted, Leaf) else None
            if taken is None:
                found = (
                    "float" if schema.get("logicalType") == "decimal" else _FOUND.get(kind, _FOUND_NUMBERS.get(kind))
                )
                return self._refuse(wanted, names, found or "bytes")
            target = taken
        if kind in ("array", "map"):
            return self._blocks(schema)
        if kind in ("int", "long"):
            self._emit(_LONG, target)
        elif kind == "boolean":
            self._emit(_BOOLEAN, target)
        elif kind in ("float", "double"):
            self._emit(_REAL, target, 4 if kind == "float" else 8)
        elif kind == "enum":
            self._emit(_ENUM, target, len(schema["symbols"]))
        elif kind in ("string", "bytes", "fixed"):
            size = schema["size"] if kind == "fixed" else -1
            decimal = target.sort == AS_NUMBER
            self._emit(_DECIMAL if decimal else _STRING, target, size, schema.get("scale", 0) if decimal else 0)
        else:
            raise ValueError(f"type '{kind}' is not known")
        return None

    def _taken(self, schema: dict[str, Any], leaf: Leaf) -> Target | None:
        """What becomes of a wanted value; None where its field does not take it."""
        kind, logical = schema["type"], schema.get("logicalType")
        if kind in ("int", "long"):
            sort, extra = (AS_INSTANT, _INSTANTS[logical]) if logical in _INSTANTS else (AS_INTEGER, 0)
            return self._wanted.target(leaf, sort, extra)
        if kind == "enum":
            self.names.append(dict(enumerate(schema["symbols"])))
            return self._wanted.target(leaf, AS_NAME, len(self.names) - 1)
        if logical == "decimal" and kind in ("bytes", "fixed"):
            return self._wanted.target(leaf, AS_NUMBER)
        sorts = {"float": AS_NUMBER, "double": AS_NUMBER, "boolean": AS_NAME, "string": AS_TEXT}
        return self._wanted.target(leaf, sorts[kind]) if kind in sorts else None

    def _blocks(self, schema: dict[str, Any]) -> None:
        """Items come in blocks, each after their number; the last block has none."""
        start = self._emit(_BLOCK)
        if schema["type"] == "map":
            self._emit(_STRING, operand=-1)
        self._value(schema["items" if schema["type"] == "array" else "values"], None, [])
        self._emit(_NEXT, operand=start)
        self.code[start] = _Instruction(_BLOCK, operand=len(self.code))


@compiled
def _scan(
    data: NDArray[np.uint8],
    begins: NDArray[np.int64],
    sizes: NDArray[np.int64],
    code: NDArray[np.int64],
    branches: NDArray[np.int64],
    found: Found,
) -> None:
    stack = np.empty(DEPTH, np.int64)
    for row in range(len(begins)):
        end = begins[row] + sizes[row]
        found.status[row] = _record(data, begins[row], end, row, code, branches, stack, found)


@compiled
def _record(
    data: NDArray[np.uint8],
    at: int,
    end: int,
    row: int,
    code: NDArray[np.int64],
    branches: NDArray[np.int64],
    stack: NDArray[np.int64],
    found: Found,
) -> int:
    """The status of the record from `at` to `end`, its wanted fields written. `stack` holds where open routines return
    to, and how many items of open blocks are left."""
    step, depth = 0, 0
    for _ in range(STEPS * (end - at + len(code))):
        op, sort, to, extra = code[step, 0], code[step, 1], code[step, 2], code[step, 3]
        operand, other = code[step, 4], code[step, 5]
        step += 1
        status = SOUND
        if op == _REAL:
            if end - at < operand:
                return MALFORMED
            if sort:
                status = put_real(real(data, at, operand), sort, to, row, found)
            at += operand
        elif op == _JUMP:
            step = operand
        elif op == _BOOLEAN:
            if at == end or data[at] > 1:
                return MALFORMED
            status = put_integer(data[at], sort, to, extra, row, found)
            at += 1
        elif op == _REFUSE:
            return int(WRONG_SHAPE | operand << DETAIL)
        elif op == _CALL:
            if depth == DEPTH:
                return TOO_DEEP
            stack[depth] = step
            depth += 1
            step = operand
        elif op == _RETURN:
            if depth == 0:
                return SOUND if at == end else MALFORMED
            depth -= 1
            step = stack[depth]
        elif op == _NEXT:
            stack[depth - 1] -= 1
            if stack[depth - 1] == 0:
                depth -= 1
                step = operand
            else:
                step = operand + 1
        else:
            number = operand
            if op < _STRING or op > _DECIMAL or operand < 0:
                value, at = varint(data, at, end)
                if at < 0:
                    return MALFORMED
                number = zigzag(value)
            if op == _LONG:
                status = put_integer(number, sort, to, extra, row, found)
            elif op in (_UNION, _ENUM):
                count = other if op == _UNION else operand
                if number < 0 or number >= count:
                    return MALFORMED
                if op == _UNION:
                    step = branches[operand + number]
                else:
                    status = put_integer(number, sort, to, extra, row, found)
            elif op == _BLOCK:
                if number < 0:
                    value, at = varint(data, at, end)
                    skipped = zigzag(value)
                    if at < 0 or skipped < 0 or skipped > end - at:
                        return MALFORMED
                    at += skipped
                    step -= 1
                elif number == 0:
                    step = operand
                elif depth == DEPTH:
                    return TOO_DEEP
                else:
                    stack[depth] = number
                    depth += 1
            else:
                if number < 0 or number > end - at:
                    return MALFORMED
                if op == _DECIMAL:
                    status = put_real(_decimal(data, at, number, other), sort, to, row, found)
                else:
                    status = put_text(at, number, sort, to, row, found)
                at += number
        if status:
            return status
    return MALFORMED


@compiled
def _decimal(data: NDArray[np.uint8], at: int, size: int, scale: int) -> float:
    """The number whose digits, a two's complement with the highest byte first, have `scale` of them after the point."""
    value = -256.0 if size and data[at] > 127 else 0.0
    for i in range(at, at + size):
        value = 256.0 * value + data[i] if i > at else value + data[i]
    return float(value / 10.0 ** float(scale))
