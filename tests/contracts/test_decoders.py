"""What every decoder does, whatever the format: the same claims on each."""

from __future__ import annotations

import io
import json
import random
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import fastavro
import numpy as np
import pytest
from google.protobuf.message_factory import GetMessageClass  # type: ignore[import-untyped]  # ships no types
from hypothesis import given, settings
from hypothesis import strategies as st

from consumers.batch import Columns, DeadLetter, Partition, RawBatch, Schema
from consumers.decode import DeadLetterReason, JsonDecoder
from consumers.decoding import Decoder, decoder
from consumers.errors import Stop
from consumers.faults import faults
from consumers.fields import MOST_TEXT_CHARACTERS
from consumers.packed import Packed
from consumers.protoc import message_types
from consumers.settings import RegistrySettings
from tests.consumers.registries import Server, registry_server

BROKER_MS = 1_700_000_000_000
TOLD_MS = 1_767_225_600_123
SCHEMA = Schema(numbers=("x", "inner.b", "inner.deep.d"), texts=("status",), entity="machine", timestamp="ts")
ANY = DeadLetterReason
Record = Mapping[str, Any]

AVRO = {
    "type": "record",
    "name": "Record",
    "fields": [
        {"name": name, "type": ["null", type_], "default": None}
        for name, type_ in {
            "machine": "string",
            "ts": "long",
            "when": "string",
            "unused": {"type": "array", "items": "string"},
            "x": "double",
            "n": "long",
            "flag": "boolean",
            "status": "string",
            "inner": {
                "type": "record",
                "name": "Inner",
                "fields": [
                    {"name": "b", "type": ["null", "double"]},
                    {
                        "name": "deep",
                        "type": [
                            "null",
                            {"type": "record", "name": "Deep", "fields": [{"name": "d", "type": ["null", "long"]}]},
                        ],
                    },
                ],
            },
        }.items()
    ],
}
PROTOBUF = """
syntax = "proto3";
message Record {
  optional string machine = 1;
  optional int64 ts = 2;
  optional string when = 3;
  repeated string unused = 4;
  optional double x = 5;
  optional int64 n = 6;
  optional bool flag = 7;
  optional string status = 8;
  message Inner {
    optional double b = 1;
    message Deep { optional int64 d = 1; }
    Deep deep = 2;
  }
  Inner inner = 9;
}
"""


class World(Protocol):
    """One format: how records of the declared fields are written, and who reads them."""

    def encode(self, record: Record) -> bytes: ...

    def decoder(self, schema: Schema) -> Decoder: ...


class JsonWorld:
    def encode(self, record: Record) -> bytes:
        return json.dumps(record).encode()

    def decoder(self, schema: Schema) -> Decoder:
        return decoder(schema, "json", None)


class AvroWorld:
    def __init__(self, server: Server) -> None:
        self._server = server
        self._schema = fastavro.parse_schema(AVRO)
        self._header = b"\0" + server.register("avro-value", "AVRO", json.dumps(AVRO)).to_bytes(4, "big")

    def encode(self, record: Record) -> bytes:
        body = io.BytesIO()
        fastavro.schemaless_writer(body, self._schema, record)
        return self._header + body.getvalue()

    def decoder(self, schema: Schema) -> Decoder:
        return decoder(schema, "avro", self._server.settings)


class ProtobufWorld:
    def __init__(self, server: Server) -> None:
        self._server = server
        self._type = GetMessageClass(message_types(PROTOBUF, {})[0])
        self._header = b"\0" + server.register("protobuf-value", "PROTOBUF", PROTOBUF).to_bytes(4, "big") + b"\0"

    def encode(self, record: Record) -> bytes:
        return self._header + bytes(self._type(**record).SerializeToString())

    def decoder(self, schema: Schema) -> Decoder:
        return decoder(schema, "protobuf", self._server.settings)


@pytest.fixture(scope="module")
def worlds() -> Iterator[dict[str, World]]:
    with registry_server() as server:
        yield {"json": JsonWorld(), "avro": AvroWorld(server), "protobuf": ProtobufWorld(server)}


@pytest.fixture(scope="module")
def readers(worlds: dict[str, World]) -> dict[str, Decoder]:
    """A decoder of `SCHEMA` for each format."""
    return {format: world.decoder(SCHEMA) for format, world in worlds.items()}


@pytest.fixture(params=["json", "avro", "protobuf"])
def world(request: pytest.FixtureRequest, worlds: dict[str, World]) -> World:
    return worlds[request.param]


def raw_batch(values: Sequence[bytes | None], timestamp: int = BROKER_MS) -> RawBatch:
    n = len(values)
    return RawBatch(
        partitions=(Partition("machines", 3),),
        partition=np.zeros(n, np.int32),
        offsets=np.arange(100, 100 + n),
        timestamps=np.full(n, timestamp),
        keys=[None] * n,
        values=values,
        headers=[()] * n,
    )


def whole(index: int = 0) -> dict[str, Any]:
    return {
        "machine": f"m{index % 3}",
        "ts": TOLD_MS + index,
        "unused": ["a", "b"],
        "x": index / 8,
        "status": "GET",
        "inner": {"b": index + 0.5, "deep": {"d": -index}},
    }


def decoded(world: World, schema: Schema, *records: Record) -> Columns:
    columns, letters = world.decoder(schema).decode(raw_batch([world.encode(record) for record in records]))
    assert letters == []
    return columns


def refused(world: World, schema: Schema, record: Record, timestamp: int = BROKER_MS) -> DeadLetter:
    columns, letters = world.decoder(schema).decode(raw_batch([world.encode(record)], timestamp))
    assert len(columns) == 0
    assert letters[0].error.isprintable()
    return letters[0]


def as_lists(columns: Columns) -> list[object]:
    return [
        columns.row.tolist(),
        columns.offsets.tolist(),
        columns.time.tolist(),
        columns.entity.tolist(),
        {name: column.tolist() for name, column in columns.numbers.items()},
        {name: column.tolist() for name, column in columns.texts.items()},
    ]


def test_a_record_becomes_a_row_of_its_fields_by_path(world: World) -> None:
    columns = decoded(world, SCHEMA, whole(1), whole(2))
    assert columns.entity.tolist() == ["m1", "m2"]
    assert columns.time.tolist() == [TOLD_MS + 1, TOLD_MS + 2]
    assert {name: column.tolist() for name, column in columns.numbers.items()} == {
        "x": [0.125, 0.25], "inner.b": [1.5, 2.5], "inner.deep.d": [-1, -2],
    }  # fmt: skip
    assert columns.texts["status"].tolist() == ["GET", "GET"]


def test_missing_fields_and_missing_objects_are_missing_values(world: World) -> None:
    columns = decoded(world, SCHEMA, {"machine": "m", "x": 1.0}, {"machine": "m", "x": 1.0, "inner": {}})
    assert np.isnan([columns.numbers["inner.b"], columns.numbers["inner.deep.d"]]).all()
    assert columns.texts["status"].tolist() == [None, None]
    assert columns.numbers["x"].dtype == np.float64


def test_numbers_take_integers_reals_and_booleans(world: World) -> None:
    columns = decoded(world, Schema(numbers=("x", "n", "flag")), {"x": -2.5, "n": 2**53 + 1, "flag": True})
    assert [column[0] for column in columns.numbers.values()] == [-2.5, float(2**53 + 1), 1.0]


@pytest.mark.parametrize(
    ("field", "value", "text"),
    [
        ("status", "π\u00e9😀", "πé😀"),
        ("status", "", ""),
        ("n", 200, "200"),
        ("n", -(2**63), "-9223372036854775808"),
        ("flag", True, "true"),
        ("flag", False, "false"),
    ],
)
def test_texts_take_strings_integers_and_booleans(world: World, field: str, value: object, text: str) -> None:
    columns = decoded(world, Schema(texts=(field,)), {field: value})
    assert columns.texts[field].tolist() == [text]
    assert columns.texts[field].dtype == np.object_


def test_a_long_text_is_taken_by_its_beginning(world: World) -> None:
    columns = decoded(world, Schema(texts=("status",)), {"status": "é" * 5000})
    assert columns.texts["status"].tolist() == ["é" * MOST_TEXT_CHARACTERS]


@pytest.mark.parametrize(
    ("schema", "record", "field"),
    [
        (Schema(numbers=("status",)), {"status": "7"}, "status"),
        (Schema(texts=("x",)), {"x": 3.0}, "x"),
        (Schema(numbers=("unused",)), {"unused": ["1"]}, "unused"),
        (Schema(texts=("inner",)), {"inner": {"b": 1.0}}, "inner"),
        (Schema(numbers=("x.y", "n")), {"x": 1.0, "n": 1}, "x"),
        (Schema(numbers=("inner.b.c", "n")), {"inner": {"b": 1.0}, "n": 1}, "inner.b"),
        (Schema(numbers=("x",), timestamp="flag"), {"x": 1.0, "flag": True}, "flag"),
    ],
)
def test_a_field_of_another_type_is_refused_and_told_as_a_fault(
    world: World, schema: Schema, record: Record, field: str
) -> None:
    letter = refused(world, schema, record)
    assert letter.reason == ANY.WRONG_SHAPE
    assert [fault.fields for fault in faults(schema, raw_batch([b""]), [letter])[Partition("machines", 3)]] == [
        (field,)
    ]


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        (0, 0),
        (1767225600, 1767225600000),
        (TOLD_MS, TOLD_MS),
        (TOLD_MS * 1000 + 456, TOLD_MS),
        (TOLD_MS * 10**6, TOLD_MS),
    ],
)
def test_an_epoch_of_any_unit_becomes_milliseconds(world: World, told: int, expected: int) -> None:
    columns = decoded(world, Schema(numbers=("x",), timestamp="ts"), {"x": 1.0, "ts": told})
    assert columns.time.tolist() == [expected]
    assert columns.time.dtype == np.int64


def test_a_time_may_be_iso_8601_or_be_left_to_the_broker(world: World) -> None:
    schema = Schema(numbers=("x",), timestamp="when")
    columns = decoded(world, schema, {"x": 1.0, "when": "2026-01-01T01:00:00.123+01:00"}, {"x": 1.0})
    assert columns.time.tolist() == [TOLD_MS, BROKER_MS]


@pytest.mark.parametrize("record", [{"x": 1.0, "when": "soon"}, {"x": 1.0, "when": "1969-12-31"}])
def test_what_is_no_time_is_refused(world: World, record: Record) -> None:
    assert refused(world, Schema(numbers=("x",), timestamp="when"), record).reason == ANY.BAD_TIMESTAMP


@pytest.mark.parametrize("ts", [-1, -(2**62)])
def test_an_epoch_outside_the_calendar_is_refused(world: World, ts: int) -> None:
    assert refused(world, Schema(numbers=("x",), timestamp="ts"), {"x": 1.0, "ts": ts}).reason == ANY.BAD_TIMESTAMP


def test_a_missing_time_without_one_from_the_broker_is_refused(world: World) -> None:
    schema = Schema(numbers=("x",), timestamp="ts")
    assert refused(world, schema, {"x": 1.0}, timestamp=-1).reason == ANY.BAD_TIMESTAMP


@pytest.mark.parametrize(
    ("name", "reason"),
    [(None, ANY.MISSING_ENTITY), ("", ANY.MISSING_ENTITY), ("m" * 513, ANY.ENTITY_TOO_LONG)],
)
def test_an_entity_needs_a_name_of_bearable_length(world: World, name: str | None, reason: DeadLetterReason) -> None:
    record = {"x": 1.0} if name is None else {"x": 1.0, "machine": name}
    assert refused(world, Schema(numbers=("x",), entity="machine"), record).reason == reason


def test_the_entity_may_be_an_integer_and_a_category_too(world: World) -> None:
    columns = decoded(world, Schema(texts=("n",), entity="n"), {"n": 7})
    assert columns.entity.tolist() == columns.texts["n"].tolist() == ["7"]


def test_without_an_entity_field_the_entity_is_empty(world: World) -> None:
    assert decoded(world, Schema(numbers=("x",)), {"x": 1.0}).entity.tolist() == [""]


def test_a_record_without_any_feature_is_refused(world: World) -> None:
    assert refused(world, SCHEMA, {"machine": "m", "ts": TOLD_MS}).reason == ANY.NO_FEATURES


@pytest.mark.parametrize("value", [None, b""])
def test_a_value_that_is_null_or_empty_is_refused_as_empty(world: World, value: bytes | None) -> None:
    _, letters = world.decoder(SCHEMA).decode(raw_batch([value]))
    assert [letter.reason for letter in letters] == [ANY.EMPTY]


@pytest.mark.parametrize("cut", [1, 5, 12])
def test_a_record_that_ends_early_is_refused(world: World, cut: int) -> None:
    _, letters = world.decoder(SCHEMA).decode(raw_batch([world.encode(whole())[:-cut]]))
    assert [letter.reason for letter in letters] == [ANY.MALFORMED]


def test_a_text_that_is_not_utf8_is_refused(world: World) -> None:
    value = world.encode({**whole(), "status": "HERE"}).replace(b"HERE", b"\xff\xfe\xfd\xfc")
    _, letters = world.decoder(SCHEMA).decode(raw_batch([value]))
    assert [letter.reason for letter in letters] == [ANY.NOT_UTF8]


def test_rows_and_letters_keep_the_order_of_the_batch_and_name_their_source(world: World) -> None:
    values = [world.encode(whole(index)) if index % 3 else None for index in range(3000)]
    columns, letters = world.decoder(SCHEMA).decode(raw_batch(values))
    assert columns.row.tolist() == [index for index in range(3000) if index % 3]
    assert columns.offsets.tolist() == (columns.row + 100).tolist()
    assert columns.numbers["x"].tolist() == (columns.row / 8).tolist()
    assert [letter.row for letter in letters] == list(range(0, 3000, 3))


def test_an_empty_batch_has_every_column(world: World) -> None:
    columns, letters = world.decoder(SCHEMA).decode(raw_batch([]))
    assert (len(columns), letters) == (0, [])
    assert set(columns.numbers) == set(SCHEMA.numbers)
    assert columns.texts["status"].dtype == columns.entity.dtype == np.object_


@pytest.mark.parametrize(
    "schema",
    [Schema(numbers=("x",), texts=("x",)), Schema(numbers=("ts",), timestamp="ts"), Schema(numbers=("a", "a.b"))],
)
def test_a_schema_that_no_record_can_fulfil_is_refused(world: World, schema: Schema) -> None:
    with pytest.raises(ValueError, match="field"):
        world.decoder(schema)


def damaged(world: World, chance: random.Random) -> bytes | None:
    value = bytearray(world.encode(whole(chance.randrange(100))))
    for _ in range(chance.randrange(4)):
        value[chance.randrange(len(value))] = chance.randrange(256)
    return chance.choice(
        [None, b"", chance.randbytes(chance.randrange(60)), bytes(value), bytes(value[:-1]), bytes(value[:6])]
    )


@pytest.mark.parametrize("format", ["json", "avro", "protobuf"])
@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 2**32))
def test_no_bytes_make_a_decoder_raise_or_harm_a_neighbour(
    worlds: dict[str, World], readers: dict[str, Decoder], format: str, seed: int
) -> None:
    world, chance = worlds[format], random.Random(seed)
    mixed = [*(damaged(world, chance) for _ in range(20)), *(world.encode(whole(index)) for index in range(5))]
    order = chance.sample(range(25), 25)
    columns, letters = readers[format].decode(raw_batch([mixed[index] for index in order]))

    assert sorted([*columns.row.tolist(), *(letter.row for letter in letters)]) == list(range(25))
    found = {order[row] - 20: columns.numbers["x"][place] for place, row in enumerate(columns.row.tolist())}
    assert {index: found.get(index) for index in range(5)} == {index: index / 8 for index in range(5)}
    assert all(letter.reason in set(ANY) and letter.error.isprintable() for letter in letters)
    assert not any(np.isinf(column).any() for column in columns.numbers.values())
    assert ((columns.time >= 0) & (columns.time < 253402300800000)).all()
    assert all(text is None or isinstance(text, str) for text in columns.texts["status"])


@pytest.mark.parametrize("format", ["json", "avro", "protobuf"])
@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 2**32), size=st.integers(1, 12))
def test_the_result_does_not_depend_on_where_batches_end(
    worlds: dict[str, World], readers: dict[str, Decoder], format: str, seed: int, size: int
) -> None:
    world, chance = worlds[format], random.Random(seed)
    values = [damaged(world, chance) if chance.random() < 0.5 else world.encode(whole(index)) for index in range(24)]
    reader = readers[format]
    columns, letters = reader.decode(raw_batch(values))
    packed, again = reader.decode(raw_batch(Packed.of(values)))
    assert repr(as_lists(packed)) == repr(as_lists(columns))  # NaN equals no NaN
    assert again == letters

    parts = [(start, reader.decode(raw_batch(values[start : start + size]))) for start in range(0, 24, size)]
    assert [letter._replace(row=letter.row + start) for start, (_, part) in parts for letter in part] == letters
    assert np.concatenate([part.row + start for start, (part, _) in parts]).tolist() == columns.row.tolist()
    for path in SCHEMA.numbers:
        joined = np.concatenate([part.numbers[path] for _, (part, _) in parts])
        assert np.array_equal(joined, columns.numbers[path], equal_nan=True)
    assert [name for _, (part, _) in parts for name in part.entity] == columns.entity.tolist()
    assert [text for _, (part, _) in parts for text in part.texts["status"]] == columns.texts["status"].tolist()


@pytest.mark.parametrize("format", ["avro", "protobuf"])
def test_a_format_without_its_libraries_names_the_extra(format: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, f"consumers.{format}", None)
    with pytest.raises(Stop, match=r"offnominal\[registry\]"):
        decoder(SCHEMA, format, RegistrySettings(url="http://127.0.0.1:1"))


def test_json_needs_no_registry() -> None:
    assert isinstance(decoder(SCHEMA, "json", None), JsonDecoder)


@pytest.mark.parametrize("format", ["avro", "protobuf"])
def test_a_binary_format_without_a_registry_is_refused(format: Any) -> None:
    with pytest.raises(ValueError, match=f"'{format}' wants a schema registry"):
        decoder(SCHEMA, format, None)
