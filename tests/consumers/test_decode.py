from __future__ import annotations

import json
import math
import random
from collections import Counter
from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consumers.batch import DeadLetter, Header, Partition, RawBatch, Schema
from consumers.decode import DeadLetterReason, JsonDecoder
from consumers.fields import join_path, milliseconds, split_path
from consumers.json_objects import CHUNK
from tests.consumers.garbage import FEATURES, garbage, good

BROKER_MS = 1_700_000_000_000
SCHEMA = Schema(numbers=FEATURES, entity="machine", timestamp="ts")
ANY = DeadLetterReason


def raw_batch(
    values: Sequence[bytes | None],
    *,
    key: bytes | None = None,
    headers: Sequence[Header] = (),
    timestamp: int = BROKER_MS,
) -> RawBatch:
    n = len(values)
    return RawBatch(
        partitions=(Partition("machines", 3),),
        partition=np.zeros(n, dtype=np.int32),
        offsets=np.arange(100, 100 + n),
        timestamps=np.full(n, timestamp),
        keys=[key] * n,
        values=values,
        headers=[headers] * n,
    )


def number(text: bytes, schema: Schema | None = None) -> float:
    columns, letters = JsonDecoder(schema or Schema(numbers=("x", "y"))).decode(
        raw_batch([b'{"y": 0, "x": %b}' % text])
    )
    assert letters == []
    return float(columns.numbers["x"][0])


def text_of(value: bytes) -> str | None:
    columns, letters = JsonDecoder(Schema(numbers=("y",), texts=("x",))).decode(
        raw_batch([b'{"y": 0, "x": %b}' % value])
    )
    assert letters == []
    found: str | None = columns.texts["x"][0]
    return found


def refused(value: bytes | None, schema: Schema = SCHEMA) -> DeadLetter:
    columns, letters = JsonDecoder(schema).decode(raw_batch([value]))
    assert len(columns) == 0
    return letters[0]


def changed(**fields: object) -> bytes:
    return json.dumps({**json.loads(good(0)), **fields}).encode()


def test_numbers_take_json_numbers_and_booleans() -> None:
    assert [number(text) for text in (b"1", b"-2.5", b"1e3", b"true", b"false", b"1e-400")] == [1, -2.5, 1000, 1, 0, 0]


@pytest.mark.parametrize("text", [b"9007199254740993", b"18446744073709551615", b"-" + b"9" * 30])
def test_an_integer_beyond_what_a_float_holds_becomes_the_nearest(text: bytes) -> None:
    assert number(text) == float(text)


def test_a_missing_number_and_null_are_nan() -> None:
    columns, _ = JsonDecoder(Schema(numbers=("x", "y"))).decode(raw_batch([b'{"y": 1}', b'{"y": 1, "x": null}']))
    assert np.isnan(columns.numbers["x"]).all()
    assert columns.numbers["x"].dtype == np.float64


def test_texts_take_strings_integers_and_booleans() -> None:
    given_texts = [
        b'"GET"',
        b"200",
        b"true",
        b"false",
        b"null",
        '"π\\u00e9😀"'.encode(),
        b'""',
        b"18446744073709551616",
    ]
    expected = ["GET", "200", "true", "false", None, "πé😀", "", "18446744073709551616"]
    assert [text_of(value) for value in given_texts] == expected


def test_a_fraction_is_no_text() -> None:
    letter = refused(b'{"x": 3.0}', Schema(texts=("x",)))
    assert letter.reason == ANY.WRONG_SHAPE
    assert "$.x" in letter.error


def test_a_path_reaches_into_objects_and_an_escaped_dot_does_not() -> None:
    schema = Schema(numbers=("a.b", "a.c.d", r"a\.b", "class"), texts=(r"a.k\.1",))
    record = b'{"a": {"b": 1, "c": {"d": 2}, "k.1": "x"}, "a.b": 3, "class": 4}'
    columns, _ = JsonDecoder(schema).decode(raw_batch([record]))
    assert {name: column[0] for name, column in columns.numbers.items()} == {
        "a.b": 1, "a.c.d": 2, r"a\.b": 3, "class": 4,
    }  # fmt: skip
    assert columns.texts[r"a.k\.1"][0] == "x"


@pytest.mark.parametrize("record", [b'{"y": 1}', b'{"y": 1, "a": null}', b'{"y": 1, "a": {"c": null}}'])
def test_fields_of_a_missing_object_are_missing(record: bytes) -> None:
    columns, letters = JsonDecoder(Schema(numbers=("y", "a.b", "a.c.d"))).decode(raw_batch([record]))
    assert letters == []
    assert math.isnan(columns.numbers["a.b"][0])
    assert math.isnan(columns.numbers["a.c.d"][0])


def test_a_value_where_an_object_is_needed_is_refused() -> None:
    assert refused(b'{"a": 5}', Schema(numbers=("a.b",))).reason == ANY.WRONG_SHAPE


def test_the_last_of_a_repeated_key_counts_however_it_is_escaped() -> None:
    columns, _ = JsonDecoder(Schema(numbers=("cpu",))).decode(raw_batch([b'{"cpu": 1, "\\u0063pu": 2}']))
    assert columns.numbers["cpu"].tolist() == [2]


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        (Schema(numbers=("x",), texts=("x",)), "'x' is wanted as number and as text"),
        (Schema(numbers=("ts",), timestamp="ts"), "'ts' is wanted as number and as time"),
        (Schema(numbers=("a", "a.b")), "'a.b' is within another one"),
        (Schema(numbers=("a.b", "a")), "'a' is within another one, or another one within it"),
        (Schema(numbers=("a.b", "a.b.c.d")), "'a.b.c.d' is within another one"),
        (Schema(numbers=('"',)), "without quote"),
    ],
)
def test_a_schema_that_no_record_can_fulfil_is_refused(schema: Schema, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        JsonDecoder(schema)


def test_the_entity_may_be_a_category_too() -> None:
    columns, _ = JsonDecoder(Schema(texts=("machine",), entity="machine")).decode(raw_batch([b'{"machine": 7}']))
    assert columns.entity.tolist() == columns.texts["machine"].tolist() == ["7"]


def test_without_an_entity_field_the_entity_is_empty() -> None:
    columns, _ = JsonDecoder(Schema(numbers=("x",))).decode(raw_batch([b'{"x": 1}']))
    assert columns.entity.tolist() == [""]


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        (0, 0),
        (1767225600, 1767225600000),
        (1767225600.1234, 1767225600123),
        (1767225600123, 1767225600123),
        (1767225600123456, 1767225600123),
        (1767225600123456789, 1767225600123),
        ("2026-01-01", 1767225600000),
        ("2026-01-01T00:00:00", 1767225600000),
        ("2026-01-01T01:00:00+01:00", 1767225600000),
        ("2026-01-01 00:00:00.123456Z", 1767225600123),
        ("9999-12-31T23:59:59Z", 253402300799000),
        (None, BROKER_MS),
    ],
)
def test_times_of_every_form_become_epoch_milliseconds(told: object, expected: int) -> None:
    columns, letters = JsonDecoder(SCHEMA).decode(raw_batch([changed(ts=told)]))
    assert letters == []
    assert columns.time.tolist() == [expected]
    assert columns.time.dtype == np.int64


def test_numbers_and_texts_of_time_mix_in_a_batch() -> None:
    values = [changed(ts="1970-01-02"), changed(ts=86400), changed(ts=None), changed(ts="never")]
    columns, letters = JsonDecoder(SCHEMA).decode(raw_batch(values))
    assert columns.time.tolist() == [86_400_000, 86_400_000, BROKER_MS]
    assert [(letter.row, letter.reason) for letter in letters] == [(3, ANY.BAD_TIMESTAMP)]


def test_a_missing_time_without_one_from_the_broker_is_refused() -> None:
    _, letters = JsonDecoder(SCHEMA).decode(raw_batch([changed(ts=None)], timestamp=-1))
    assert letters[0].reason == ANY.BAD_TIMESTAMP


OFFSETS = st.integers(-1439, 1439).map(lambda minutes: timezone(timedelta(minutes=minutes)))


@settings(deadline=None)
@given(st.datetimes(min_value=datetime(1970, 1, 2), max_value=datetime(9999, 12, 30), timezones=OFFSETS))
def test_an_iso_time_is_the_moment_it_names_to_the_millisecond(moment: datetime) -> None:
    assert abs(milliseconds([moment.isoformat()])[0] - moment.timestamp() * 1000) < 0.6


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, ANY.EMPTY),
        (b"", ANY.EMPTY),
        (b" ", ANY.MALFORMED),
        (good(0)[:-1], ANY.MALFORMED),
        (good(0) + b"x", ANY.MALFORMED),
        (good(0).replace(b"0.125", b"NaN"), ANY.MALFORMED),
        (good(0)[:-1] + b', "unused": Infinity}', ANY.MALFORMED),
        (changed(machine="HERE").replace(b"HERE", b"\\ud800"), ANY.MALFORMED),
        (good(0)[:-1] + b', "unused": "\xff"}', ANY.NOT_UTF8),
        (good(0).replace(b'"m0"', b'"\xed\xa0\x80"'), ANY.NOT_UTF8),
        (b"[]", ANY.WRONG_SHAPE),
        (b"null", ANY.WRONG_SHAPE),
        (changed(a="1"), ANY.WRONG_SHAPE),
        (changed(machine=1.5), ANY.WRONG_SHAPE),
        (changed(ts=True), ANY.WRONG_SHAPE),
        (good(0)[:-1] + b', "unused": ' + b"[" * 3000 + b"]" * 3000 + b"}", ANY.TOO_DEEP),
        (good(0).replace(b"0.125", b"1e999"), ANY.OUT_OF_RANGE),
        (good(0).replace(b"0.125", b"9" * 400), ANY.OUT_OF_RANGE),
        (good(0).replace(b'"m0"', b"9" * 5000), ANY.OUT_OF_RANGE),
        (changed(machine=None), ANY.MISSING_ENTITY),
        (changed(machine=""), ANY.MISSING_ENTITY),
        (changed(machine="m" * 513), ANY.ENTITY_TOO_LONG),
        (changed(ts="soon"), ANY.BAD_TIMESTAMP),
        (changed(ts=-1), ANY.BAD_TIMESTAMP),
        (changed(ts=1e30), ANY.BAD_TIMESTAMP),
        (changed(ts="1969-12-31T23:59:59Z"), ANY.BAD_TIMESTAMP),
        (changed(**dict.fromkeys(FEATURES)), ANY.NO_FEATURES),
        (changed(machine=None, ts=-1, **dict.fromkeys(FEATURES)), ANY.MISSING_ENTITY),
    ],
)
def test_a_refused_record_says_why(value: bytes | None, reason: DeadLetterReason) -> None:
    letter = refused(value)
    assert letter.reason == reason
    assert 0 < len(letter.error) <= 200
    assert letter.error.isprintable()


def test_a_number_out_of_range_in_an_unused_field_does_no_harm() -> None:
    columns, _ = JsonDecoder(SCHEMA).decode(raw_batch([good(0)[:-1] + b', "unused": 1e999}']))
    assert len(columns) == 1


def test_a_field_called_out_of_range_does_not_change_the_reason() -> None:
    assert refused(b'{"out of range": "x"}', Schema(numbers=("out of range",))).reason == ANY.WRONG_SHAPE


def test_a_schema_of_calendar_features_alone_needs_no_field() -> None:
    columns, letters = JsonDecoder(Schema(timestamp="ts")).decode(raw_batch([b'{"ts": 86400}', b"[]"]))
    assert columns.time.tolist() == [86_400_000]
    assert [letter.reason for letter in letters] == [ANY.WRONG_SHAPE]


def test_an_empty_batch_has_every_column() -> None:
    columns, letters = JsonDecoder(Schema(("x",), ("s",), "machine", "ts")).decode(raw_batch([]))
    assert (len(columns), letters) == (0, [])
    assert columns.numbers["x"].dtype == np.float64
    assert columns.texts["s"].dtype == columns.entity.dtype == np.object_


def test_rows_keep_their_place_and_source_across_chunks() -> None:
    values = [good(index) if index % 3 else None for index in range(3 * CHUNK)]
    columns, letters = JsonDecoder(SCHEMA).decode(raw_batch(values))
    assert columns.row.tolist() == [index for index in range(3 * CHUNK) if index % 3]
    assert columns.offsets.tolist() == (columns.row + 100).tolist()
    assert columns.numbers["a"].tolist() == columns.row.tolist()
    assert [letter.row for letter in letters] == list(range(0, 3 * CHUNK, 3))


def test_ten_thousand_good_records_survive_among_ten_thousand_bad_ones() -> None:
    bad = garbage(10_000, seed=1)
    order = random.Random(2).sample(range(20_000), 20_000)
    mixed = [*(good(index) for index in range(10_000)), *bad]
    columns, letters = JsonDecoder(SCHEMA).decode(raw_batch([mixed[index] for index in order]))

    expected = [index for index in order if index < 10_000]
    assert columns.numbers["a"].tolist() == expected
    assert columns.numbers["h"].tolist() == [index + 7 / 8 for index in expected]
    assert columns.entity.tolist() == [f"m{index % 7}" for index in expected]
    assert columns.time.tolist() == [1_767_225_600_000 + 1000 * index for index in expected]
    assert [letter.row for letter in letters] == [row for row, index in enumerate(order) if index >= 10_000]
    others = {DeadLetterReason.UNSCORABLE, DeadLetterReason.UNDECODABLE, DeadLetterReason.UNKNOWN_SCHEMA}
    assert set(Counter(letter.reason for letter in letters)) == set(DeadLetterReason) - others


TEXT = st.text(st.sampled_from('aZ0é😀\ud800"\\ \n\0'), max_size=5)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*"abs", "machine", "ts"]), inner),
    max_leaves=5,
)
RECORDS = st.dictionaries(st.sampled_from([*FEATURES, "machine", "ts", "status", "n", "unused"]), JSON)


@st.composite
def values(draw: st.DrawFn) -> bytes | None:
    """Noise, JSON of any shape (Python writes NaN into it), and records with bytes changed here and there."""
    if draw(st.booleans()):
        return draw(st.none() | st.binary(max_size=50) | JSON.map(_dumped) | RECORDS.map(_dumped))
    mutated = bytearray(good(draw(st.integers(0, 99))))
    for _ in range(draw(st.integers(1, 3))):
        mutated[draw(st.integers(0, len(mutated) - 1))] = draw(st.integers(0, 255))
    return bytes(mutated)


def _dumped(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode(errors="surrogatepass")


@settings(deadline=None)
@given(st.lists(values(), max_size=10), st.randoms(use_true_random=False))
def test_no_bytes_make_the_decoder_raise_or_lose_a_record(bad: list[bytes | None], chance: random.Random) -> None:
    schema = Schema((*FEATURES, "n.a"), ("status", "n.b"), "machine", "ts")
    mixed = [*bad, *map(good, range(5))]
    order = chance.sample(range(len(mixed)), len(mixed))
    columns, letters = JsonDecoder(schema).decode(raw_batch([mixed[index] for index in order]))

    assert sorted([*columns.row.tolist(), *(letter.row for letter in letters)]) == list(range(len(mixed)))
    whole = {index: place for place, row in enumerate(columns.row.tolist()) if (index := order[row] - len(bad)) >= 0}
    assert {index: columns.numbers["h"][place] for index, place in whole.items()} == {i: i + 7 / 8 for i in range(5)}
    assert all(isinstance(name, str) and name.encode() for name in columns.entity)
    assert all(text is None or text.encode() is not None for text in columns.texts["status"])
    assert ((columns.time >= 0) & (columns.time < 253402300800000)).all()
    assert not any(np.isinf(column).any() for column in columns.numbers.values())
    assert all(letter.reason in set(DeadLetterReason) and letter.error.isprintable() for letter in letters)


@settings(deadline=None)
@given(st.lists(st.text(st.sampled_from("aZ0.é😀 '{[#"), min_size=1), min_size=1))
def test_a_path_of_any_names_is_taken_apart_again(names: list[str]) -> None:
    assert split_path(join_path(names)) == names


@pytest.mark.parametrize("path", ["", "a..b", "a.", 'a"b', "a\\b", "a\nb", "a\\", "a\\\\.b"])
def test_a_name_that_cannot_be_matched_is_refused(path: str) -> None:
    with pytest.raises(ValueError, match="field path"):
        split_path(path)
