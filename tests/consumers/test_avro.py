"""Avro in itself: schemas of every kind against a second implementation, logical types, evolution, hostile bytes."""

from __future__ import annotations

import io
import json
import math
import random
import tracemalloc
import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from itertools import count
from typing import Any

import fastavro
import numpy as np
import pytest
from fastavro.utils import generate_one
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from consumers.avro import DEPTH, AvroProgram
from consumers.batch import Schema
from consumers.binary import DETAIL, MALFORMED, OUT_OF_RANGE, SOUND, TOO_DEEP, WRONG_SHAPE, Found, Unreadable, Wanted
from consumers.packed import Packed


def record(*fields: Mapping[str, Any], name: str = "Record") -> dict[str, Any]:
    return {"type": "record", "name": name, "fields": list(fields)}


def field(name: str, type_: Any, **more: Any) -> dict[str, Any]:
    return {"name": name, "type": type_, **more}


def encoded(schema: Any, value: Any) -> bytes:
    body = io.BytesIO()
    fastavro.schemaless_writer(body, fastavro.parse_schema(schema), value)
    return body.getvalue()


def scan(schema: Any, wanted: Schema, values: Sequence[bytes]) -> tuple[Found, dict[str, NDArray[Any]], AvroProgram]:
    targets, packed = Wanted(wanted), Packed.of(values)
    program = AvroProgram(json.dumps(schema), {}, targets)
    found = program.scan(packed)
    return found, targets.columns(found, packed.data, program.names)[0], program


def read(schema: Any, wanted: Schema, value: Any) -> dict[str, Any]:
    """The fields of one record that is sound."""
    found, columns, _ = scan(schema, wanted, [encoded(schema, value)])
    assert found.status.tolist() == [SOUND]
    return {path: column.tolist()[0] for path, column in columns.items()}


def status(schema: Any, value: bytes, wanted: Schema | None = None) -> int:
    return int(scan(schema, wanted or Schema(numbers=("x",)), [value])[0].status[0])


NUMBERS = count()
SIMPLE = ["null", "boolean", "int", "long", "float", "double", "string", "bytes"]


@st.composite
def types(draw: st.DrawFn, depth: int = 3) -> Any:
    """A type of any kind; no name comes twice."""
    kind = draw(
        st.sampled_from(["simple", "enum", "fixed", "array", "map", "union", "record"] if depth else ["simple"])
    )
    name = f"N{next(NUMBERS)}"
    match kind:
        case "enum":
            return {"type": "enum", "name": name, "symbols": ["A", "B", "C"]}
        case "fixed":
            return {"type": "fixed", "name": name, "size": draw(st.integers(0, 9))}
        case "array":
            return {"type": "array", "items": draw(types(depth - 1))}
        case "map":
            return {"type": "map", "values": draw(types(depth - 1))}
        case "union":
            return draw(st.lists(st.sampled_from(SIMPLE), min_size=1, unique=True))
        case "record":
            inner = draw(st.lists(types(depth - 1), max_size=3))
            return record(*(field(f"f{number}", type_) for number, type_ in enumerate(inner)), name=name)
    return draw(st.sampled_from(SIMPLE))


@settings(deadline=None, max_examples=150)
@given(types(), types(), st.integers(0, 2**32))
def test_what_lies_around_a_wanted_field_is_passed_over(before: Any, after: Any, seed: int) -> None:
    schema = record(field("p", before), field("x", "double"), field("q", after), field("s", "string"))
    random.seed(seed)
    values = [generate_one(schema) for _ in range(5)]
    found, columns, _ = scan(schema, Schema(numbers=("x",), texts=("s",)), [encoded(schema, value) for value in values])
    assert found.status.tolist() == [SOUND] * 5
    assert columns["x"].tolist() == [value["x"] for value in values]
    assert columns["s"].tolist() == [value["s"] for value in values]


@settings(deadline=None, max_examples=150)
@given(types(), st.binary(max_size=80), st.integers(0, 2**32), st.integers(0, 99))
def test_no_bytes_of_no_schema_make_the_scan_raise_or_read_beyond_them(
    type_: Any, noise: bytes, seed: int, place: int
) -> None:
    schema = record(field("p", type_), field("x", ["null", "double"]), field("s", ["string", "long"]))
    random.seed(seed)
    whole = encoded(schema, generate_one(schema))
    damaged = whole[: place % len(whole)] + noise[:3] + whole[place % len(whole) + 2 :]
    values = [noise, damaged, whole, whole[:-1]]
    found, _, _ = scan(schema, Schema(numbers=("x",), texts=("s",)), values)
    assert found.status[2:].tolist() == [SOUND, MALFORMED]
    begins = np.cumsum([0, *map(len, values)])
    for row in np.flatnonzero(found.status == SOUND).tolist():
        texts = found.lengths[:, row] >= 0
        assert (found.starts[texts, row] >= begins[row]).all()
        assert (found.starts[texts, row] + found.lengths[texts, row] <= begins[row + 1]).all()


@pytest.mark.parametrize(
    ("type_", "value", "expected"),
    [
        ("int", -(2**31), -(2.0**31)),
        ("long", 2**63 - 1, 2.0**63),
        ("float", 0.5, 0.5),
        ("double", -1e300, -1e300),
        ("boolean", True, 1.0),
        ("double", math.nan, math.nan),
        (["null", "int", "double"], 1.5, 1.5),
        (["null", "int", "double"], None, math.nan),
        ({"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 2}, Decimal("-12.34"), -12.34),
        ({"type": "bytes", "logicalType": "decimal", "precision": 9}, Decimal(127), 127.0),
        (
            {"type": "fixed", "name": "F", "size": 16, "logicalType": "decimal", "precision": 30, "scale": 3},
            Decimal("-0.001"),
            -0.001,
        ),
    ],
)
def test_a_number_is_what_the_writer_wrote(type_: Any, value: object, expected: float) -> None:
    found = read(record(field("x", type_)), Schema(numbers=("x",)), {"x": value})["x"]
    assert found == expected or (math.isnan(found) and math.isnan(expected))


UUID = uuid.UUID(int=7)


@pytest.mark.parametrize(
    ("type_", "value", "expected"),
    [
        ({"type": "enum", "name": "E", "symbols": ["GET", "PUT"]}, "PUT", "PUT"),
        ({"type": "string", "logicalType": "uuid"}, str(UUID), str(UUID)),
        (["null", {"type": "enum", "name": "E", "symbols": ["A"]}, "long", "boolean"], -3, "-3"),
        (["null", {"type": "enum", "name": "E", "symbols": ["A"]}, "long", "boolean"], "A", "A"),
        (["null", {"type": "enum", "name": "E", "symbols": ["A"]}, "long", "boolean"], True, "true"),
    ],
)  # fmt: skip
def test_a_text_is_what_the_writer_wrote(type_: Any, value: object, expected: str) -> None:
    assert read(record(field("s", type_)), Schema(texts=("s",)), {"s": value}) == {"s": expected}


MOMENT = datetime(2026, 1, 1, 0, 0, 0, 123456, UTC)


@pytest.mark.parametrize(
    ("type_", "value", "expected"),
    [
        ({"type": "long", "logicalType": "timestamp-millis"}, MOMENT, 1767225600123),
        ({"type": "long", "logicalType": "timestamp-micros"}, MOMENT, 1767225600123),
        ({"type": "long", "logicalType": "timestamp-nanos"}, 1767225600123456789, 1767225600123),
        ({"type": "long", "logicalType": "timestamp-millis"}, 5000, 5000),
        ({"type": "long", "logicalType": "local-timestamp-millis"}, 5000, 5000),
        ({"type": "int", "logicalType": "date"}, date(2026, 1, 1), 1767225600000),
        ("long", 1767225600, 1767225600000),
        ("double", 1767225600.5, 1767225600500),
        ("string", "2026-01-01", 1767225600000),
        (["null", "string", {"type": "long", "logicalType": "timestamp-millis"}], 5000, 5000),
        (["null", "string"], None, math.nan),
        ("double", math.inf, math.inf),
    ],
)
def test_a_time_is_epoch_milliseconds_by_the_unit_of_its_type(type_: Any, value: object, expected: float) -> None:
    found = read(record(field("ts", type_)), Schema(timestamp="ts"), {"ts": value})["ts"]
    assert found == expected or (math.isnan(found) and math.isnan(expected))


@pytest.mark.parametrize(
    ("type_", "value", "got"),
    [
        ({"type": "array", "items": "int"}, [], "array"),
        ({"type": "map", "values": "int"}, {}, "object"),
        ("bytes", b"", "bytes"),
        ({"type": "fixed", "name": "F", "size": 2}, b"ab", "bytes"),
        ({"type": "enum", "name": "E", "symbols": ["A"]}, "A", "str"),
        (["null", "string"], "7", "str"),
    ],
)
def test_only_a_record_with_a_value_that_is_not_usable_is_refused(type_: Any, value: object, got: str) -> None:
    schema = record(field("x", type_), field("y", "double"))
    body = encoded(schema, {"x": value, "y": 1.0})
    found, _, program = scan(schema, Schema(numbers=("x", "y")), [body])
    assert found.status[0] & 15 == WRONG_SHAPE
    assert program.refusals[found.status[0] >> DETAIL] == f"Expected `number`, got `{got}` - at `$.x`"
    assert status(schema, body, Schema(numbers=("y",))) == SOUND


def test_the_branch_of_a_union_decides_whether_a_record_is_refused() -> None:
    schema = record(field("x", ["null", "string", "double"]))
    values = [encoded(schema, {"x": value}) for value in (None, "7", 7.0)]
    found, columns, _ = scan(schema, Schema(numbers=("x",)), values)
    assert (found.status & 15).tolist() == [SOUND, WRONG_SHAPE, SOUND]
    assert columns["x"][2] == 7.0


def test_infinity_is_out_of_range_where_a_number_is_wanted() -> None:
    schema = record(field("x", "float"))
    assert status(schema, encoded(schema, {"x": -math.inf})) & 15 == OUT_OF_RANGE
    assert status(schema, encoded(schema, {"x": math.inf}), Schema(texts=("y",))) == SOUND


def test_a_field_is_known_by_an_alias_unless_another_has_that_name() -> None:
    renamed = record(field("load_1m", "double", aliases=["x"]))
    assert read(renamed, Schema(numbers=("x",)), {"load_1m": 2.0}) == {"x": 2.0}
    fields = [field("load_1m", "double", aliases=["x"]), field("x", "double")]
    for taken in (record(*fields), record(*reversed(fields))):
        assert read(taken, Schema(numbers=("x",)), {"load_1m": 2.0, "x": 3.0}) == {"x": 3.0}


def test_fields_of_a_record_in_a_union_are_found_in_each_branch() -> None:
    one, two = record(field("b", "int"), name="One"), record(field("c", "string"), field("b", "double"), name="Two")
    schema = record(field("a", ["null", one, two]))
    values = [encoded(schema, {"a": value}) for value in (None, ("One", {"b": 1}), ("Two", {"c": "x", "b": 2.5}))]
    assert scan(schema, Schema(numbers=("a.b",)), values)[1]["a.b"].tolist()[1:] == [1.0, 2.5]


LIST = record(field("x", "double"), field("next", ["null", "Record"]))


def nested(depth: int) -> Any:
    value: Any = None
    for level in range(depth):
        value = {"x": float(level), "next": value}
    return value


def test_a_type_that_holds_itself_is_read_as_deep_as_is_wanted_and_passed_over_to_a_depth() -> None:
    assert read(LIST, Schema(numbers=("x", "next.next.x")), nested(5)) == {"x": 4.0, "next.next.x": 2.0}
    deepest = encoded(LIST, nested(1))[:8] + b"\2" + (b"\0" * 8 + b"\2") * (DEPTH - 1) + b"\0" * 9
    assert status(LIST, deepest) == SOUND
    assert status(LIST, encoded(LIST, nested(1))[:8] + b"\2" + (b"\0" * 8 + b"\2") * DEPTH + b"\0" * 9) == TOO_DEEP


def test_blocks_that_tell_their_size_are_passed_over() -> None:
    schema = record(field("a", {"type": "array", "items": "int"}), field("x", "double"))
    body = b"\3\4\2\4" + b"\2\2" + b"\0"  # two items in two bytes, then one item
    found, columns, _ = scan(schema, Schema(numbers=("x",)), [body + encoded("double", 1.5)])
    assert (found.status.tolist(), columns["x"].tolist()) == ([SOUND], [1.5])


LONG = encoded("long", 2**31)


@pytest.mark.parametrize(
    ("type_", "body"),
    [
        ("string", LONG),
        ("string", encoded("long", -1)),
        ("bytes", encoded("long", 2**63 - 1)),
        ({"type": "array", "items": "double"}, LONG),
        ({"type": "array", "items": "null"}, LONG),
        ({"type": "array", "items": "null"}, encoded("long", 2**63 - 1)),
        ({"type": "array", "items": record(name="Empty")}, LONG),
        ({"type": "array", "items": "int"}, encoded("long", -1) + LONG),
        ({"type": "array", "items": "int"}, encoded("long", -(2**63)) + encoded("long", -5)),
        ({"type": "map", "values": "int"}, b"\2" + LONG),
        ({"type": "enum", "name": "E", "symbols": ["A"]}, b"\2"),
        ({"type": "enum", "name": "E", "symbols": ["A"]}, b"\1"),
        (["null", "int"], b"\4"),
        ("boolean", b"\2"),
        ("long", b"\xff" * 10),
    ],
)
def test_a_length_or_number_that_cannot_be_is_malformed_and_costs_nothing(type_: Any, body: bytes) -> None:
    schema = record(field("p", type_), field("x", "double"))
    values = [body + bytes(40)]
    status(schema, values[0])
    tracemalloc.start()
    found, _, _ = scan(schema, Schema(numbers=("x",)), values)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.status.tolist() == [MALFORMED]
    assert peak < 1_000_000


def test_a_wanted_decimal_longer_than_its_record_is_malformed() -> None:
    schema = record(field("x", {"type": "bytes", "logicalType": "decimal", "precision": 4}))
    assert status(schema, LONG + bytes(40)) == MALFORMED


def test_bytes_after_the_end_are_malformed() -> None:
    schema = record(field("x", "double"))
    assert status(schema, encoded(schema, {"x": 1.0}) + b"\0") == MALFORMED


def test_a_schema_may_name_those_of_its_references() -> None:
    inner = record(field("b", "double"), name="shared.Inner")
    targets = Wanted(Schema(numbers=("a.b",)))
    program = AvroProgram(json.dumps(record(field("a", "shared.Inner"))), {"shared.Inner": json.dumps(inner)}, targets)
    body = Packed.of([encoded("double", 2.5)])
    assert targets.columns(program.scan(body), body.data, program.names)[0]["a.b"].tolist() == [2.5]


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "[1]", '"nothing.Known"', '{"type": "record"}'),
        '{"type": "record", "name": "R", "fields": [{"name": "x"}]}',
        '{"type": "array", "items": ' * 3000 + '"int"' + "}" * 3000,
    ],
)
def test_a_schema_that_is_none_is_unreadable(text: str) -> None:
    with pytest.raises(Unreadable, match="no Avro schema"):
        AvroProgram(text, {}, Wanted(Schema(numbers=("x",))))


def test_a_schema_that_is_no_record_refuses_its_records() -> None:
    assert status("double", encoded("double", 1.0)) & 15 == WRONG_SHAPE


def test_a_thousand_records_are_read_as_one_by_one() -> None:
    schema = record(field("x", ["null", "double"]), field("s", "string"), field("t", {"type": "array", "items": "int"}))
    random.seed(3)
    values = [encoded(schema, generate_one(schema)) for _ in range(1000)]
    wanted = Schema(numbers=("x",), texts=("s",))
    together = scan(schema, wanted, values)[1]
    alone = [scan(schema, wanted, [value])[1] for value in values[::97]]
    assert np.array_equal(together["x"][::97], [one["x"][0] for one in alone], equal_nan=True)
    assert together["s"][::97].tolist() == [one["s"][0] for one in alone]
