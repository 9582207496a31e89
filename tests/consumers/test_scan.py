"""The compiled scan says of a record what msgspec says of it, or leaves it to msgspec."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from consumers import scan
from consumers.batch import Columns, DeadLetter, Schema
from consumers.decode import JsonDecoder
from consumers.packed import Packed
from consumers.scan import NUMBER, TEXT, Field, Plan
from tests.consumers.garbage import garbage, good
from tests.consumers.test_decode import raw_batch

SCHEMA = Schema(("a", "b", "in.c", "in.deep.d"), ("kind", "in.kind"), "machine", "ts")
DECODER = JsonDecoder(SCHEMA)

SPACE = st.sampled_from(["", "", "", " ", "\n", "\t \r"])
NUMBERS = st.sampled_from(
    [
        "0",
        "-0",
        "-0.0",
        "7",
        "1e3",
        "1E+2",
        "1.5e-7",
        "3.14159",
        "0.1",
        "123456789012345678",
        "9223372036854775807",
        "9223372036854775808",
        "1767225600123456789",
        "9007199254740993",
        "1e22",
        "1e23",
        "1e-22",
        "0.1e-22",
        "123456789.123456789",
        "1e400",
        "-1e-400",
        "01",
        "1.",
        ".5",
        "-",
        "1e",
        "+1",
        "0x1",
        "1_0",
        "NaN",
        "-Infinity",
    ]
) | st.floats(allow_nan=False).map(repr)
STRINGS = st.sampled_from(
    ['""', '"x"', '"m1"', '"null"', '"é"', '"\\n"', '"\\u0041"', '"\\q"', '"a\tb"', '"2026-01-01T00:00:00Z"', '"1"']
)
WORDS = st.sampled_from(["true", "false", "null", "nul", "True", "tru"])
KEYS = st.sampled_from(["a", "b", "c", "d", "in", "deep", "kind", "machine", "ts", "other", "", "é", "\\u0061"])


@st.composite
def objects(draw: st.DrawFn, inner: st.SearchStrategy[str]) -> str:
    fields = draw(st.lists(st.tuples(SPACE, KEYS, SPACE, SPACE, inner, SPACE), max_size=6))
    end = draw(st.sampled_from(["}", "}", "}", ",}", "", "]"]))
    return "{" + ",".join(f'{a}"{key}"{b}:{c}{value}{d}' for a, key, b, c, value, d in fields) + end


@st.composite
def arrays(draw: st.DrawFn, inner: st.SearchStrategy[str]) -> str:
    return "[" + draw(SPACE).join(draw(st.lists(inner, max_size=3))).replace("  ", ",") + "]"


RECORDS = objects(
    st.recursive(NUMBERS | STRINGS | WORDS, lambda inner: objects(inner) | arrays(inner), max_leaves=8)
).map(str.encode)


def plainly(values: list[bytes | None]) -> tuple[Columns, list[DeadLetter]]:
    """What msgspec alone says."""

    def nothing(*arguments: Any) -> scan.Scanned:
        found = whole(*arguments)
        return found._replace(plain=np.zeros(len(values), np.bool_))

    whole = scan.scan
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scan, "scan", nothing)
        return DECODER.decode(raw_batch(values))


def told(columns: Columns, letters: list[DeadLetter]) -> list[Any]:
    numbers = [[value.hex() for value in column.tolist()] for column in columns.numbers.values()]
    texts = [column.tolist() for column in columns.texts.values()]
    return [columns.row.tolist(), columns.time.tolist(), columns.entity.tolist(), numbers, texts, letters]


@settings(deadline=None, max_examples=500)
@given(st.lists(RECORDS, min_size=1, max_size=5))
@example([b'{"machine":"m","in":{"c":1},"in":{"kind":"x"}}'])
@example([b'{"machine":"m","in":{"c":1},"in":null,"a":1}'])
@example([b'{"machine":-0,"a":1}', b'{"machine":12,"a":true}', b'{"machine":1.0,"a":true}'])
@example([b'{"machine":"m","a":-0,"b":-0.0}'])
@example([b'{"machine":"m","a":1}x', b'{"machine":"m","a":1} ', b' {"machine":"m","a":1}'])
@example([b'{"machine":"m","ts":true,"a":1}', b'{"machine":"m","ts":"","a":1}'])
def test_records_mean_what_msgspec_says_they_mean(values: list[bytes | None]) -> None:
    assert told(*DECODER.decode(raw_batch(values))) == told(*plainly(values))


def test_garbage_means_what_msgspec_says_it_means() -> None:
    values = garbage(3_000, seed=3)
    assert told(*DECODER.decode(raw_batch(values))) == told(*plainly(values))


@settings(deadline=None, max_examples=500)
@given(st.integers(0, 200), st.integers(0, 255))
def test_a_record_with_a_byte_changed_means_what_msgspec_says_it_means(at: int, byte: int) -> None:
    record = bytearray(b'{"machine": "m1", "ts": 1767225600000, "a": -12.5e1, "in": {"c": 0.25, "deep": {"d": 3}}}')
    record[at % len(record)] = byte
    assert told(*DECODER.decode(raw_batch([bytes(record)]))) == told(*plainly([bytes(record)]))


@settings(deadline=None, max_examples=1000)
@given(st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**63), 2**63).map(float))
def test_a_number_is_the_nearest_float_or_left_to_msgspec(value: float) -> None:
    plan = Plan.of([Field(0, b"a", NUMBER, 0)])
    for text in (repr(value), f"{value:.6f}", f"{value:.3e}"):
        found = scan.scan(Packed.of([b'{"a": %s}' % text.encode()]), plan, 1, 0)
        assert not found.plain[0] or found.numbers[0, 0].hex() == float(text).hex()


def test_ordinary_records_are_plain() -> None:
    plan = Plan.of([Field(0, b"machine", TEXT, 0), Field(0, b"a", NUMBER, 0)])
    escaped = (
        rb'{"machine": 17, "log": "a \"quoted\" line\n", "list": [1, {"x": [true, null]}], "a": 1767225600123456789}'
    )
    values = [good(0), escaped, json.dumps({"machine": "m", "a": None}, indent=2).encode()]
    assert scan.scan(Packed.of(values), plan, 1, 1).plain.all()


def test_a_field_is_found_among_hundreds_whatever_their_order() -> None:
    names = [f"field_{number}" for number in range(300)]
    plan = Plan.of([Field(0, name.encode(), NUMBER, number) for number, name in enumerate(names)])
    values: list[bytes | None] = [json.dumps({name: float(name[6:]) for name in names[::-1]}).encode()]
    found = scan.scan(Packed.of(values), plan, len(names), 0)
    assert found.plain.all()
    assert found.numbers[:, 0].tolist() == [*range(300)]
