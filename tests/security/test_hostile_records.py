"""Records by someone who wants to stop the daemon: each is scored or a dead letter, in memory of about its own size."""

from __future__ import annotations

import gc
import json
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest

from consumers.batch import Schema
from consumers.decode import MOST_ENTITY_CHARACTERS, DeadLetterReason, JsonDecoder
from consumers.fields import MOST_TEXT_CHARACTERS
from detector.files import read_files
from detector.pipeline import Pipeline
from detector.training import train
from detector.training_data import gather
from tests.detector.machines import CREATED, START_MS, broker_with, settings
from tests.security.hostile import TIME_MS, batch_of

SCHEMA = Schema(numbers=("a",), texts=("kind",), entity="machine", timestamp="ts")
MANY = 1_000_000


def record(field: str, value: bytes, *, more: bytes = b"") -> bytes:
    """A good record but for one field, of which the JSON is given, and further ones."""
    whole = {"machine": "m", "ts": TIME_MS, "a": 1.0, "kind": "x"} | {field: "HERE"}
    return json.dumps(whole).encode().replace(b'"HERE"', value)[:-1] + more + b"}"


SCORED = {
    "long text": record("kind", b'"' + b"x" * 10 * MANY + b'"'),
    "long key": record("a", b"1", more=b',"' + b"k" * 10 * MANY + b'": 1'),
    "many fields": record("a", b"1", more=b"".join(b',"k%d":1' % number for number in range(MANY))),
    "one field many times": record("a", b"1", more=b',"a":2' * MANY),
    "one text many times": record("kind", b'"y"', more=b',"kind":"%s"' % (b"y" * 1_000) * 10_000),
    "long list": record("unused", b"[" + b"1," * 5 * MANY + b"1]"),
    "digits of an unused field": record("unused", b"1" * MANY),
    "digits of a fraction": record("a", b"0." + b"1" * MANY),
    "exponent far below": record("a", b"1e-" + b"9" * MANY),
    "escapes": record("kind", b'"' + b"\\u0041" * MANY + b'"'),
}
REFUSED = {
    "digits of a number": (record("a", b"1" * MANY), DeadLetterReason.OUT_OF_RANGE),
    "digits of a text": (record("kind", b"1" * MANY), DeadLetterReason.OUT_OF_RANGE),
    "digits of an entity": (record("machine", b"1" * MANY), DeadLetterReason.OUT_OF_RANGE),
    "digits of a time": (record("ts", b"1" * MANY), DeadLetterReason.OUT_OF_RANGE),
    "5,000 digits": (record("kind", b"1" * 5_000), DeadLetterReason.OUT_OF_RANGE),
    "beyond a float": (record("a", b"1e400"), DeadLetterReason.OUT_OF_RANGE),
    "exponent far above": (record("a", b"1e" + b"9" * MANY), DeadLetterReason.OUT_OF_RANGE),
    "nested lists": (record("unused", b"[" * MANY + b"]" * MANY), DeadLetterReason.TOO_DEEP),
    "nested objects": (record("unused", b'{"a":' * MANY + b"1" + b"}" * MANY), DeadLetterReason.TOO_DEEP),
    "list for a number": (record("a", b"[" + b"1," * 5 * MANY + b"1]"), DeadLetterReason.WRONG_SHAPE),
    "long entity": (record("machine", b'"' + b"m" * 10 * MANY + b'"'), DeadLetterReason.ENTITY_TOO_LONG),
    "long time": (record("ts", b'"' + b"2" * MANY + b'"'), DeadLetterReason.BAD_TIMESTAMP),
    "long nonsense": (b"x" * 10 * MANY, DeadLetterReason.MALFORMED),
    "bytes": (b"\xff" * 10 * MANY, DeadLetterReason.NOT_UTF8),
}


@pytest.fixture
def traced() -> Iterator[None]:
    gc.collect()
    tracemalloc.start()
    yield
    tracemalloc.stop()


@pytest.mark.parametrize("what", SCORED)
def test_an_excessive_record_is_scored_in_memory_of_its_own_size(traced: None, what: str) -> None:
    columns, letters = JsonDecoder(SCHEMA).decode(batch_of([SCORED[what]]))
    assert (len(columns), letters) == (1, [])
    assert tracemalloc.get_traced_memory()[1] < 2 * len(SCORED[what]) + 1_000_000


@pytest.mark.parametrize("what", REFUSED)
def test_an_impossible_record_is_one_dead_letter_in_memory_of_its_own_size(traced: None, what: str) -> None:
    value, reason = REFUSED[what]
    columns, letters = JsonDecoder(SCHEMA).decode(batch_of([value, record("a", b"1")]))
    assert [(letter.row, letter.reason) for letter in letters] == [(0, reason)]
    assert len(columns) == 1
    assert tracemalloc.get_traced_memory()[1] < 5 * len(value) + 1_000_000


def test_a_text_is_taken_by_its_beginning_out_of_json_and_out_of_files(tmp_path: Path) -> None:
    long = "é" * (MOST_TEXT_CHARACTERS + 1)
    assert MOST_TEXT_CHARACTERS > MOST_ENTITY_CHARACTERS
    row = {"machine": "m", "ts": TIME_MS, "a": 1.0, "kind": long}
    pl.DataFrame([row]).write_parquet(tmp_path / "x.parquet")
    (tmp_path / "x.ndjson").write_text(json.dumps(row))
    columns, dropped = read_files([f"{tmp_path}/*"], SCHEMA)
    assert columns.texts["kind"].tolist() == [long[:-1]] * 2
    assert dropped == 0


def test_an_entity_that_is_too_long_is_refused_out_of_json_and_out_of_files(tmp_path: Path) -> None:
    row = {"machine": "m" * (MOST_ENTITY_CHARACTERS + 1), "ts": TIME_MS, "a": 1.0, "kind": "x"}
    pl.DataFrame([row]).write_parquet(tmp_path / "x.parquet")
    (tmp_path / "x.ndjson").write_text(json.dumps(row))
    assert read_files([f"{tmp_path}/*"], SCHEMA)[1] == 2


def strange(first: int, n: int) -> list[bytes]:
    """Records of which each is of an entity, a tenant and a kind of its own, all of the longest name."""
    return [
        json.dumps(
            {
                "machine": f"{number}".ljust(MOST_ENTITY_CHARACTERS, "m"),
                "tenant": f"{number}".ljust(20_000, "t"),
                "kind": f"{number}".ljust(20_000, "k"),
                "ts": START_MS + 1000 * number,
                "cpu": 0.5,
            }
        ).encode()
        for number in range(first, first + n)
    ]


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    """Levels by tenant, novelties and silences told, and room for a hundred entities."""
    chosen = settings(
        tmp_path_factory.mktemp("strange"),
        features=["cpu", {"name": "kind", "kind": "categorical"}],
        calibration={"by": "tenant"},
        window={"length": 2, "max_entities": 100},
        alerts={"topic": "machine-alerts", "rate": 0.01, "silence": True},
    )
    values = [
        json.dumps(
            {
                "machine": f"m{number % 3}",
                "tenant": f"t{number % 2}",
                "kind": f"k{number % 4}",
                "ts": START_MS + 1000 * number,
                "cpu": number * 7 % 11,
            }
        ).encode()
        for number in range(3_000)
    ]
    data = gather(chosen, broker_with(values), now_ms=START_MS)
    return Pipeline(chosen, train(data, chosen, created=CREATED))


def test_names_without_end_do_not_fill_the_memory(pipeline: Pipeline, traced: None) -> None:
    held = []
    for first in range(3_000, 5_400, 200):
        pipeline.process(batch_of(strange(first, 200), first=first))
        gc.collect()
        held.append(tracemalloc.get_traced_memory()[0])
    assert pipeline.entities == 100
    assert max(held[6:]) < max(held[:6]) + 100_000
    assert max(held) < held[0] + 2_000_000


def test_an_alert_is_small_whatever_the_record_holds(pipeline: Pipeline) -> None:
    values = strange(9_000, 3)
    values[1] = values[1].replace(b'"cpu": 0.5', b'"cpu": 1e30')
    outcome = pipeline.process(batch_of(values, first=9_000))
    assert outcome.alerts
    assert max(len(message.value or b"") for message in outcome.messages) < 20_000
