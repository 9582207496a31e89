"""Protobuf in itself: every type against Google's own library, presence, well-known types, evolution, hostile bytes."""

from __future__ import annotations

import math
import random
import tracemalloc
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.message_factory import GetMessageClass  # type: ignore[import-untyped]  # ships no types
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from consumers import protoc
from consumers.batch import Schema
from consumers.binary import DETAIL, MALFORMED, OUT_OF_RANGE, SOUND, WRONG_SHAPE, Found, Unreadable, Wanted
from consumers.errors import Retry, Stop
from consumers.packed import Packed
from consumers.protobuf import ProtobufProgram
from consumers.protoc import message_types

TYPES = [
    *("double", "float", "int64", "uint64", "int32", "fixed64", "fixed32", "bool", "string"),
    *("uint32", "sfixed32", "sfixed64", "sint32", "sint64"),
]
EVERY = (
    'syntax = "proto3"; import "google/protobuf/timestamp.proto"; import "google/protobuf/wrappers.proto"; message R {'
    + "".join(f"{type_} implied_{type_} = {number}; " for number, type_ in enumerate(TYPES, 1))
    + "".join(f"optional {type_} told_{type_} = {number}; " for number, type_ in enumerate(TYPES, 21))
    + """
  enum Kind { NONE = 0; GET = 1; PUT = -5; }
  Kind kind = 41;
  optional Kind perhaps = 42;
  google.protobuf.Timestamp at = 43;
  google.protobuf.DoubleValue wrapped = 44;
  google.protobuf.StringValue label = 45;
  repeated int32 many = 46;
  map<string, int32> by_name = 47;
  bytes blob = 48;
  optional bytes blob_perhaps = 49;
  R inner = 50;
  oneof choice { int32 first = 51; string second = 52; }
  message Nested { message Deeper { double y = 1; } double y = 1; }
  google.protobuf.BytesValue wrapped_blob = 53;
}
message Other { double x = 7; }
"""
)


@cache
def message(text: str = EVERY) -> Any:
    return GetMessageClass(message_types(text, {})[0])


def scan(
    wanted: Schema, values: Sequence[bytes], text: str = EVERY, header: bytes = b"\0"
) -> tuple[Found, dict[str, NDArray[Any]], ProtobufProgram]:
    targets, packed = Wanted(wanted), Packed.of([header + value for value in values])
    program = program_of(text, wanted)
    found = program.scan(packed)
    return found, targets.columns(found, packed.data, program.names)[0], program


@cache
def program_of(text: str, wanted: Schema) -> ProtobufProgram:
    return ProtobufProgram(text, {}, Wanted(wanted))


def read(wanted: Schema, value: Any, text: str = EVERY) -> dict[str, Any]:
    """The fields of one record that is sound."""
    found, columns, _ = scan(wanted, [value if isinstance(value, bytes) else value.SerializeToString()], text)
    assert found.status.tolist() == [SOUND]
    return {path: column.tolist()[0] for path, column in columns.items()}


def status(value: bytes, wanted: Schema | None = None, header: bytes = b"\0") -> int:
    return int(scan(wanted or Schema(numbers=("implied_double",)), [value], header=header)[0].status[0])


def numeric(chance: random.Random, type_: str) -> Any:
    """A value of a type of number, mostly at an end of its range."""
    if type_ in ("double", "float"):
        return chance.choice([0.0, -1.5, 0.25, 2.0**100])
    bits = 64 if "64" in type_ else 32
    low, high = (0, 2**bits - 1) if type_[0] in "uf" else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    return chance.random() < 0.5 if type_ == "bool" else chance.choice([low, high, 0, 1, chance.randint(low, high)])


NUMBERS = tuple(type_ for type_ in TYPES if type_ != "string")


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 2**32))
def test_numbers_of_every_type_are_what_googles_library_reads(seed: int) -> None:
    chance = random.Random(seed)
    fields = [f"{presence}_{type_}" for presence in ("implied", "told") for type_ in NUMBERS]
    values = []
    for _ in range(5):
        chosen = [name for name in fields if chance.random() < 0.7]
        values.append(message()(**{name: numeric(chance, name.partition("_")[2]) for name in chosen}))
    columns = scan(Schema(numbers=tuple(fields)), [value.SerializeToString() for value in values])[1]
    for name in fields:
        told = [value.HasField(name) if name.startswith("told") else True for value in values]
        expected = [
            float(getattr(value, name)) if there else math.nan for value, there in zip(values, told, strict=True)
        ]
        assert repr(columns[name].tolist()) == repr([it + 0.0 for it in expected])


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32))
def test_texts_of_every_type_are_what_googles_library_reads(seed: int) -> None:
    chance = random.Random(seed)
    whole = [type_ for type_ in NUMBERS if type_ not in ("double", "float")]
    fields = [f"{presence}_{type_}" for presence in ("implied", "told") for type_ in whole]
    value = message()(**{name: numeric(chance, name.partition("_")[2]) for name in fields})
    found = read(Schema(texts=tuple(fields)), value)
    assert found == {name: str(getattr(value, name)).lower() for name in fields}


def test_without_presence_a_default_is_a_value_and_with_it_what_is_unset_is_missing() -> None:
    wanted = Schema(
        numbers=("implied_double", "told_double", "inner.implied_double", "wrapped"),
        texts=("implied_string", "told_string", "kind", "perhaps", "first", "label", "implied_bool"),
    )
    assert repr(read(wanted, b"")) == repr(
        {"implied_double": 0.0, "told_double": math.nan, "inner.implied_double": math.nan, "wrapped": math.nan}
        | {"implied_string": "", "told_string": None, "kind": "NONE", "perhaps": None, "first": None, "label": None}
        | {"implied_bool": "false"}
    )
    told = message()(inner={}, wrapped={}, label={}, told_double=0.0, told_string="", perhaps=0, first=0)
    assert read(wanted, told) == (
        {"implied_double": 0.0, "told_double": 0.0, "inner.implied_double": 0.0, "wrapped": 0.0}
        | {"implied_string": "", "told_string": "", "kind": "NONE", "perhaps": "NONE", "first": "0", "label": ""}
        | {"implied_bool": "false"}
    )


def test_an_enumeration_is_its_name_or_the_number_that_has_none() -> None:
    values = [message()(kind=kind).SerializeToString() for kind in (1, -5, 77)]
    assert scan(Schema(texts=("kind",)), values)[1]["kind"].tolist() == ["GET", "PUT", "77"]


def test_a_timestamp_is_a_time_and_a_wrapper_its_value() -> None:
    value = message()(at={"seconds": 1767225600, "nanos": 123_456_789}, wrapped={"value": 2.5}, label={"value": "é"})
    wanted = Schema(numbers=("wrapped",), texts=("label",), timestamp="at")
    assert read(wanted, value) == {"wrapped": 2.5, "label": "é", "at": 1767225600123.0}
    assert math.isnan(read(wanted, b"")["at"])
    assert read(wanted, message()(at={}))["at"] == 0.0


@pytest.mark.parametrize("name", ["implied_int64", "implied_double", "told_uint64", "implied_string"])
def test_a_time_may_be_a_number_or_a_string(name: str) -> None:
    told = "2026-01-01T00:00:00Z" if name == "implied_string" else 1767225600000
    assert read(Schema(timestamp=name), message()(**{name: told}))[name] == 1767225600000


def test_fields_of_messages_within_messages_are_reached_by_path() -> None:
    value = message()(implied_int32=1, inner={"implied_int32": 2, "inner": {"implied_int32": 3}})
    wanted = Schema(numbers=("implied_int32", "inner.implied_int32", "inner.inner.implied_int32", "at.seconds"))
    assert list(read(wanted, value).values())[:3] == [1, 2, 3]
    assert read(wanted, message()(at={"seconds": 7}))["at.seconds"] == 7


@pytest.mark.parametrize(
    ("wanted", "value", "error"),
    [
        (Schema(numbers=("many",)), {}, "Expected `number`, got `array` - at `$.many`"),
        (Schema(texts=("by_name",)), {}, "Expected `text`, got `object` - at `$.by_name`"),
        (Schema(texts=("blob",)), {}, "Expected `text`, got `bytes` - at `$.blob`"),
        (Schema(texts=("blob_perhaps",)), {"blob_perhaps": b""}, "Expected `text`, got `bytes` - at `$.blob_perhaps`"),
        (Schema(texts=("wrapped_blob",)), {"wrapped_blob": {}}, "Expected `text`, got `bytes` - at `$.wrapped_blob`"),
        (Schema(numbers=("inner",)), {"inner": {}}, "Expected `number`, got `object` - at `$.inner`"),
        (Schema(numbers=("at",)), {"at": {}}, "Expected `number`, got `object` - at `$.at`"),
        (Schema(numbers=("kind",)), {}, "Expected `number`, got `str` - at `$.kind`"),
        (Schema(numbers=("many.x",)), {}, "Expected `object`, got `array` - at `$.many`"),
        (Schema(numbers=("inner.kind",)), {"inner": {}}, "Expected `number`, got `str` - at `$.inner.kind`"),
        (Schema(timestamp="implied_bool"), {}, "Expected `time`, got `bool` - at `$.implied_bool`"),
    ],
)
def test_a_field_of_another_type_is_refused(wanted: Schema, value: Mapping[str, Any], error: str) -> None:
    found, _, program = scan(wanted, [message()(**value).SerializeToString()])
    assert found.status[0] & 15 == WRONG_SHAPE
    assert program.refusals[found.status[0] >> DETAIL] == error


@pytest.mark.parametrize("path", ["blob_perhaps", "inner", "at", "inner.kind"])
def test_a_field_with_presence_that_is_unset_refuses_nothing(path: str) -> None:
    assert status(b"", Schema(numbers=(path,))) == SOUND


def test_infinity_is_out_of_range_and_not_a_number_is_missing() -> None:
    assert status(message()(implied_double=math.inf).SerializeToString()) & 15 == OUT_OF_RANGE
    assert math.isnan(read(Schema(numbers=("implied_float",)), message()(implied_float=math.nan))["implied_float"])


def test_a_message_that_comes_in_parts_is_merged() -> None:
    parts = [
        message()(inner={"implied_int32": 2, "implied_string": "a"}),
        message()(inner={"told_int32": 3}),
        message()(told_int32=9),
    ]
    merged = b"".join(part.SerializeToString() for part in parts)
    wanted = Schema(numbers=("inner.implied_int32", "inner.told_int32", "told_int32"), texts=("inner.implied_string",))
    assert list(read(wanted, merged).values()) == [2, 3, 9, "a"]


def test_fields_that_the_schema_or_the_settings_do_not_name_are_passed_over() -> None:
    newer = message(
        'syntax = "proto3"; message R { double implied_double = 1; string added = 99; repeated R more = 98; }'
    )
    value = newer(implied_double=2.0, added="x", more=[newer(implied_double=3.0)])
    assert read(Schema(numbers=("implied_double", "told_double")), value)["implied_double"] == 2.0


def test_a_field_in_another_wire_type_is_not_that_field() -> None:
    assert read(Schema(numbers=("told_double",)), b"\xa8\x01\x05")["told_double"] != 5  # field 21 as a varint


def test_groups_are_passed_over_with_what_is_in_them() -> None:
    inside = b"\x09" + bytes(7) + b"\x40"  # implied_double, 2.0
    found, columns, _ = scan(Schema(numbers=("implied_double",)), [b"\xf3\x05\xfb\x05" + inside + b"\xfc\x05\xf4\x05"])
    assert (found.status.tolist(), columns["implied_double"].tolist()) == ([SOUND], [0.0])


PROTO2 = (
    'syntax = "proto2"; message R { optional double x = 1 [default = 5]; required string s = 2; repeated int32 r = 3; }'
)


def test_proto2_has_presence_whatever_the_default() -> None:
    wanted = Schema(numbers=("x",), texts=("s",))
    assert repr(read(wanted, b"", PROTO2)) == repr({"x": math.nan, "s": None})
    assert read(wanted, message(PROTO2)(x=0.0, s="é"), PROTO2) == {"x": 0.0, "s": "é"}


@pytest.mark.parametrize(
    ("header", "path"),
    [(b"\0", "implied_double"), (b"\2\0", "implied_double"), (b"\2\2", "x"), (b"\4\0\2", "y"), (b"\6\0\2\0", "y")],
)
def test_indexes_lead_to_the_message_type(header: bytes, path: str) -> None:
    number = {"x": 7}.get(path, 1)
    value = bytes([number << 3 | 1]) + bytes(6) + b"\xf8\x3f"
    found, columns, _ = scan(Schema(numbers=(path,)), [value], header=header)
    assert (found.status.tolist(), columns[path].tolist()) == ([SOUND], [1.5])


@pytest.mark.parametrize(
    "header", [b"", b"\2", b"\2\4", b"\1", b"\2\1", b"\xff" * 12, b"\xfe\xff\xff\xff\x0f", b"\4\2\0"]
)
def test_indexes_that_lead_nowhere_are_malformed(header: bytes) -> None:
    assert status(b"", header=header) == MALFORMED


@pytest.mark.parametrize(
    "value",
    [
        b"\x09\0",
        b"\x08",
        b"\x08" + b"\xff" * 10 + b"\1",
        b"\x4a\x05ab",
        b"\x4a" + b"\xff" * 9 + b"\1",
        b"\x4a\xff\xff\xff\xff\x07" + bytes(40),
        b"\x92\x03\xff\xff\xff\xff\x07" + bytes(40),
        b"\0\0",
        b"\x0e",
        b"\x0f",
        b"\xf3\x05",
        b"\xf4\x05",
        b"\x15\0\0",
    ],
)
def test_what_cannot_be_is_malformed_and_costs_nothing(value: bytes) -> None:
    wanted = Schema(numbers=("implied_double", "inner.implied_double"), texts=("implied_string",))
    status(value, wanted)
    tracemalloc.start()
    assert status(value, wanted) == MALFORMED
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000


@settings(deadline=None, max_examples=200)
@given(st.binary(max_size=60), st.integers(0, 99))
def test_bytes_that_googles_library_reads_are_read_alike_and_none_make_the_scan_raise(noise: bytes, place: int) -> None:
    whole = message()(implied_double=2.5, told_int32=-7, inner={"implied_double": 1.5}, label={"value": "x"})
    value = whole.SerializeToString()
    value = value[: place % len(value)] + noise + value[place % len(value) :]
    wanted = Schema(numbers=("implied_double", "inner.implied_double", "told_int32"))
    found, columns, _ = scan(wanted, [value, whole.SerializeToString()])
    assert found.status[1] == SOUND
    try:
        expected = message().FromString(value)
    except Exception:  # noqa: BLE001  # its class depends on how the library was built
        return
    if found.status[0] & 15 != OUT_OF_RANGE:
        assert found.status[0] == SOUND
        inner = expected.inner.implied_double if expected.HasField("inner") else math.nan
        told = float(expected.told_int32) if expected.HasField("told_int32") else math.nan
        read_alike = [expected.implied_double, inner, told]
        assert repr([column.tolist()[0] for column in columns.values()]) == repr(read_alike)


def test_files_may_import_those_of_their_references() -> None:
    shared = 'syntax = "proto3"; package shared; message Inner { double b = 1; }'
    text = 'syntax = "proto3"; import "shared/inner.proto"; message R { shared.Inner a = 1; }'
    targets = Wanted(Schema(numbers=("a.b",)))
    program = ProtobufProgram(text, {"shared/inner.proto": shared}, targets)
    body = Packed.of([b"\0\x0a\x09\x09" + bytes(6) + b"\xf8\x3f"])
    assert targets.columns(program.scan(body), body.data, program.names)[0]["a.b"].tolist() == [1.5]


@pytest.mark.parametrize(
    ("text", "references", "words"),
    [
        ("no proto", {}, "does not compile"),
        ('syntax = "proto3"; import "missing.proto";', {}, "does not compile"),
        (EVERY, {"../evil.proto": ""}, "Expected a relative path"),
        (EVERY, {"/evil.proto": ""}, "Expected a relative path"),
        (EVERY, {"descriptors/x.proto": ""}, "Expected a relative path"),
        (EVERY, {"record.proto": ""}, "cannot be written"),
        (EVERY, {"a": "", "a/b": ""}, "cannot be written"),
        (EVERY, {"": ""}, "cannot be written"),
        (EVERY, {"a\0": ""}, "cannot be written"),
        (EVERY + "\ud800", {}, "cannot be written"),
    ],
)
def test_a_schema_that_is_none_is_unreadable(text: str, references: Mapping[str, str], words: str) -> None:
    with pytest.raises(Unreadable, match=words):
        ProtobufProgram(text, references, Wanted(Schema(numbers=("x",))))


def test_a_compiler_that_takes_too_long_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protoc, "TIMEOUT_S", 0.0)
    with pytest.raises(Retry, match="protoc gave no answer"):
        message_types(EVERY, {})


def test_a_file_without_messages_refuses_its_records() -> None:
    program = ProtobufProgram('syntax = "proto3";', {}, Wanted(Schema(numbers=("x",))))
    assert program.scan(Packed.of([b"\0", b"", b"\2\0"])).status.tolist() == [MALFORMED] * 3


def test_a_machine_without_a_folder_for_temporary_files_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", "/nowhere")
    with pytest.raises(Stop, match="temporary files"):
        message_types(EVERY, {})


def test_nothing_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    message_types(EVERY, {})
    assert list(tmp_path.iterdir()) == []
