from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detector.config import FeatureSettings
from detector.errors import TrainingError
from detector.inference import Inferred, infer, infer_features, render
from detector.loading import load

START_MS = 1_767_225_600_000


def sample(n: int = 200, **fields: Callable[[int], object]) -> list[bytes | None]:
    """n records of five machines in turn, with fields made from the record's number."""
    return [
        json.dumps(
            {
                "machine": f"m{row % 5}",
                "ts": START_MS + 1000 * row,
                **{name: make(row) for name, make in fields.items()},
            }
        ).encode()
        for row in range(n)
    ]


def kinds(values: list[bytes | None]) -> dict[str, str]:
    return {feature.name: feature.kind for feature in infer_features(values, "machine", "ts")}


def noise(row: int) -> float:
    return random.Random(row).uniform(-3, 80)


def test_entity_time_and_features_are_told_apart() -> None:
    inferred = infer(sample(cpu=noise, method=lambda row: ["GET", "PUT"][row % 2], up=lambda row: row % 7 > 0))
    assert (inferred.entity, inferred.timestamp) == ("machine", "ts")
    assert inferred.features == (
        FeatureSettings(name="cpu", kind="numeric"),
        FeatureSettings(name="method", kind="categorical"),
        FeatureSettings(name="up", kind="flag"),
    )
    assert inferred.notes["machine"] == "5 different values"
    assert inferred.notes["method"] == "2 categories: GET, PUT"


def test_fields_of_objects_are_named_by_path_and_dots_in_names_are_escaped() -> None:
    records = sample(cpu=lambda row: {"user": noise(row), "a.b": {"c": noise(row)}})
    assert kinds(records) == {"cpu.user": "numeric", r"cpu.a\.b.c": "numeric"}


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("host", lambda row: f"h{row % 4}"),
        ("deviceId", lambda row: row % 9),
        ("sensor_name", lambda row: "only"),
        ("id", lambda row: f"x{row % 4}"),
    ],
)
def test_an_entity_is_known_by_its_name_and_that_it_repeats(name: str, make: Callable[[int], object]) -> None:
    values: list[bytes | None] = [json.dumps({"x": noise(row), name: make(row)}).encode() for row in range(100)]
    assert infer(values).entity == name


def test_an_entity_may_be_called_by_the_object_it_is_in() -> None:
    values: list[bytes | None] = [b'{"x": %d, "host": {"name": "h%d"}}' % (row, row % 3) for row in range(100)]
    assert infer(values).entity == "host.name"


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("request_id", lambda row: f"x{row % 4}"),
        ("user_agent", lambda row: f"browser {row % 4}"),
        ("id", lambda row: f"x{row}"),
        ("user", lambda row: row / 4),
        ("host", lambda row: f"h{row % 4}" if row % 3 else None),
        ("host", lambda row: ["h1"]),
        ("status", lambda row: "ok"),
    ],
)
def test_what_is_no_entity_is_not_taken_for_one(name: str, make: Callable[[int], object]) -> None:
    values: list[bytes | None] = [json.dumps({"x": noise(row), name: make(row)}).encode() for row in range(100)]
    assert infer(values).entity is None


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("ts", lambda row: START_MS // 1000 + row),
        ("@timestamp", lambda row: START_MS + row),
        ("event_time", lambda row: START_MS * 1000 + row),
        ("createdAt", lambda row: START_MS * 1_000_000 + row),
        ("time", lambda row: f"2026-01-01T00:{row // 60:02}:{row % 60:02}Z"),
        ("seen", lambda row: f"2026-01-01T00:{row // 60:02}:{row % 60:02}+02:00"),
    ],
)
def test_a_time_is_known_by_its_values_and_its_name(name: str, make: Callable[[int], object]) -> None:
    values: list[bytes | None] = [json.dumps({"x": noise(row), name: make(row)}).encode() for row in range(100)]
    inferred = infer(values)
    assert inferred.timestamp == name
    assert [feature.name for feature in inferred.features] == ["x"]


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("time", lambda row: row / 7),
        ("bytes", lambda row: START_MS + row),
        ("born", lambda row: f"20{row * 37 % 60:02}-01-01"),
        ("date", lambda row: "20240101"),
        ("ts", lambda row: True),
    ],
)
def test_what_is_no_time_of_the_event_is_not_taken_for_one(name: str, make: Callable[[int], object]) -> None:
    values: list[bytes | None] = [json.dumps({"x": noise(row), name: make(row)}).encode() for row in range(100)]
    assert infer(values).timestamp is None


def test_of_several_times_the_best_named_is_taken_and_the_others_are_left_out() -> None:
    inferred = infer(sample(x=noise, date=lambda row: "2026-01-01", received_at=lambda row: START_MS + row))
    assert inferred.timestamp == "ts"
    assert inferred.notes["date"] == inferred.notes["received_at"] == "a time"


def test_a_counter_only_grows_within_each_entity_but_for_rare_resets() -> None:
    grows = {name: kind for name, kind in kinds(sample(
        sent=lambda row: 1e6 * (row % 5) + 10 * row,
        reset=lambda row: 10 * (row if row < 150 else row - 150),
        gauge=noise,
        constant=lambda row: 7,
        stepped=lambda row: row // 100,
        dips=lambda row: row * 10 - 200 * (row == 120),
        negative=lambda row: row - 100,
    )).items() if kind == "counter"}  # fmt: skip
    assert list(grows) == ["sent"]


def test_a_rare_reset_keeps_a_counter_one() -> None:
    assert kinds(sample(2000, sent=lambda row: row if row < 1500 else row - 1500))["sent"] == "counter"


def test_too_few_records_show_no_counter() -> None:
    assert kinds(sample(24, sent=lambda row: row))["sent"] == "numeric"
    assert kinds(sample(25, sent=lambda row: row))["sent"] == "counter"


def test_integers_of_few_values_stay_numeric() -> None:
    assert kinds(sample(level=lambda row: row * 7 % 3)) == {"level": "numeric"}


def test_texts_are_categories_up_to_fifty_and_a_fifth_of_the_records() -> None:
    found = kinds(
        sample(
            1000,
            fifty=lambda row: f"c{row % 50}",
            more=lambda row: f"c{row % 51}",
            mixed=lambda row: [200, "timeout", True][row % 3],
        )
    )
    assert found == {"fifty": "categorical", "mixed": "categorical"}
    assert kinds(sample(100, many=lambda row: f"c{row % 21}", few=lambda row: f"c{row % 20}")) == {"few": "categorical"}


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda row: "v1.2", "always 'v1.2'"),
        (lambda row: f"free text {row}", "200 different texts in 200 records"),
        (lambda row: [1, 2], "an array"),
        (lambda row: None, "has a value in 0 of 200 records"),
        (lambda row: 1 if row < 10 else None, "has a value in 10 of 200 records"),
        (lambda row: 1.5 if row % 2 else "n/a", "texts and numbers mixed"),
        (lambda row: {"y": 1} if row % 2 else 3, "an object in some records, none in 100"),
    ],
)
def test_what_is_left_out_has_a_reason(make: Callable[[int], object], words: str) -> None:
    inferred = infer(sample(x=make))
    assert inferred.notes["x"] == words
    assert "x" not in [feature.name for feature in inferred.features]


def test_identifiers_are_left_out() -> None:
    inferred = infer(sample(order_id=lambda row: 1000 + row))
    assert inferred.notes["order_id"] == "an identifier, 1000 to 1199"


def test_what_is_no_json_object_is_passed_over() -> None:
    values = [None, b"", b"{", b"[1]", b'"\xff"', b"[" * 5000, *sample(50, x=noise)]
    assert infer(values) == infer(sample(50, x=noise))


def test_numbers_too_large_for_a_float_do_no_harm() -> None:
    assert infer([b'{"x": %s}' % (b"9" * 400), *sample(50, x=noise)]).features[0].name == "x"


def test_no_usable_field_says_what_was_seen() -> None:
    with pytest.raises(TrainingError, match=r"found none in 1 records \(tag: always 'a'\)"):
        infer_features([b'{"tag": "a"}'], None, None)
    with pytest.raises(TrainingError, match="no JSON objects"):
        infer_features([b"[]"], None, None)


def test_known_entity_and_time_are_no_features_whatever_they_look_like() -> None:
    values: list[bytes | None] = [b'{"shop": %d, "moment": %d, "x": %d}' % (row % 3, row, row % 7) for row in range(99)]
    assert [feature.name for feature in infer_features(values, "shop", "moment")] == ["x"]


def written(inferred: Inferred, path: Path, topic: str = "metrics") -> str:
    text = render(inferred, name="machines", bootstrap="localhost:9092", topic=topic, false_alarms="2/week")
    path.write_text(text, encoding="utf-8")
    return text


def test_a_rendered_file_loads_and_means_what_was_inferred(tmp_path: Path) -> None:
    inferred = infer(sample(cpu=noise, up=lambda row: row % 7 > 0, id=lambda row: f"x{row}"))
    text = written(inferred, tmp_path / "machines.yaml")
    loaded = load(tmp_path / "machines.yaml", {})
    assert loaded.features == list(inferred.features)
    assert (loaded.stream.entity, loaded.stream.timestamp) == ("machine", "ts")
    assert loaded.alerts.false_alarms == "2/week"
    assert "  - {name: up, kind: flag}  # true in 86%\n" in text
    assert "  # id: 200 different texts in 200 records\n" in text


def test_a_rendered_file_without_features_asks_for_auto(tmp_path: Path) -> None:
    written(infer([b"{}"]), tmp_path / "x.yaml")
    assert load(tmp_path / "x.yaml", {}).features == "auto"


NAMES = st.text(st.sampled_from("aA.:#,&*!|>%@`'\"{}[]-? \t\n\r\\\0\x7f\x85\u2028\ufeffé😀~0"), max_size=8)
TRAPS = st.sampled_from(
    ["null", "yes", "on", "1", "1e5", "~", "2026-01-01", "0x10", "a: b", "- a", "a #b", "---", "..."]
)


@settings(deadline=None)
@given(st.lists(NAMES | TRAPS, min_size=1, max_size=5, unique=True), NAMES)
def test_untrusted_names_survive_rendering(
    tmp_path_factory: pytest.TempPathFactory, names: list[str], tag: str
) -> None:
    values: list[bytes | None] = [
        json.dumps({**{name: math.sin(row) for name in names}, "tag": tag, "kind": f"{tag}{row % 2}"}).encode()
        for row in range(20)
    ]
    inferred = infer(values)
    path = tmp_path_factory.mktemp("render") / "settings.yaml"
    written(inferred, path)
    assert load(path, {}).features == list(inferred.features)
    assert set(inferred.notes) >= {feature.name for feature in inferred.features}
