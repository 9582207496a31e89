from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from consumers.batch import Columns, Partition, Schema
from detector.errors import SettingsError
from detector.files import read_files, sample_files
from detector.inference import infer

SCHEMA = Schema(numbers=("cpu", "up"), texts=("method",), entity="machine", timestamp="ts")
START_MS = 1_767_225_600_000
RECORDS: list[dict[str, Any]] = [
    {"machine": "m1", "ts": START_MS, "cpu": 1.5, "up": True, "method": "GET"},
    {"machine": "m2", "ts": START_MS + 1000, "cpu": None, "up": False, "method": "PUT"},
    {"machine": None, "ts": START_MS + 2000, "cpu": 3.0, "up": True, "method": "GET"},
    {"machine": "m1", "ts": None, "cpu": 4.0, "up": True, "method": "GET"},
    {"machine": "m2", "ts": START_MS + 4000, "cpu": None, "up": None, "method": None},
    {"machine": "m2", "ts": START_MS + 5000, "cpu": 6.0, "up": None, "method": None},
]


def write(path: Path, records: list[dict[str, Any]]) -> Path:
    frame = pl.DataFrame(records, infer_schema_length=None)
    if path.suffix == ".parquet":
        frame.write_parquet(path)
    elif path.suffix == ".csv":
        frame.write_csv(path)
    else:
        path.write_text("\n".join(map(json.dumps, records)) + "\n\n", encoding="utf-8")
    return path


def listed(columns: Columns) -> dict[str, list[object]]:
    found = {**columns.numbers, **columns.texts, "entity": columns.entity, "time": columns.time, "row": columns.offsets}
    return {
        name: [None if isinstance(value, float) and np.isnan(value) else value for value in column.tolist()]
        for name, column in found.items()
    }


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".ndjson", ".jsonl"])
def test_every_kind_of_file_gives_the_same_columns(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path / f"x{suffix}", RECORDS)
    columns, dropped = read_files([str(path)], SCHEMA)
    assert dropped == 3
    assert columns.partitions == (Partition(str(path), 0),)
    assert listed(columns) == {
        "cpu": [1.5, None, 6.0],
        "up": [1.0, 0.0, None],
        "method": ["GET", "PUT", None],
        "entity": ["m1", "m2", "m2"],
        "time": [START_MS, START_MS + 1000, START_MS + 5000],
        "row": [0, 1, 5],
    }
    assert columns.numbers["cpu"].dtype == columns.numbers["up"].dtype == np.float64


def test_files_of_a_glob_are_read_in_the_order_of_their_names_and_once(tmp_path: Path) -> None:
    for name in ("b.csv", "a.ndjson", "c.parquet"):
        write(tmp_path / name, [{"x": ord(name[0])}])
    columns, _ = read_files([f"{tmp_path}/*.*", f"{tmp_path}/b.csv"], Schema(numbers=("x",)))
    assert [Path(partition.topic).name for partition in columns.partitions] == ["a.ndjson", "b.csv", "c.parquet"]
    assert columns.numbers["x"].tolist() == [97, 98, 99]
    assert columns.partition.tolist() == [0, 1, 2]


def test_relative_globs_and_names_with_brackets_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data").mkdir()
    write(tmp_path / "data" / "x[1].csv", [{"x": 1}])
    monkeypatch.chdir(tmp_path)
    for pattern in ("data/*.csv", "**/*.csv", "data/x[1].csv"):
        assert len(read_files([pattern], Schema(numbers=("x",)))[0]) == 1


def test_rows_without_a_time_field_are_a_second_apart_across_files(tmp_path: Path) -> None:
    write(tmp_path / "a.csv", [{"x": 1}, {"x": 2}])
    write(tmp_path / "b.ndjson", [{"x": 3}])
    write(tmp_path / "c.parquet", [{"x": 4}])
    assert read_files([f"{tmp_path}/*"], Schema(numbers=("x",)))[0].time.tolist() == [0, 1000, 2000, 3000]


MOMENT = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
@pytest.mark.parametrize(
    "moment",
    [
        MOMENT,
        MOMENT.replace(tzinfo=None),
        MOMENT.date(),
        "2026-01-01T01:00:00+01:00",
        START_MS,
        START_MS // 1000,
        float(START_MS),
        START_MS * 1_000_000,
    ],
)
def test_times_in_frames_are_read_like_those_in_json(tmp_path: Path, suffix: str, moment: object) -> None:
    path = write(tmp_path / f"x{suffix}", [{"x": 1, "t": moment}])
    columns, dropped = read_files([str(path)], Schema(numbers=("x",), timestamp="t"))
    assert (columns.time.tolist(), dropped) == ([START_MS], 0)


@pytest.mark.parametrize("moment", ["soon", -5, 1e30, "1960-01-01", datetime(1960, 1, 1, tzinfo=UTC)])
def test_rows_whose_time_is_out_of_the_calendar_are_dropped(tmp_path: Path, moment: object) -> None:
    path = write(tmp_path / "x.parquet", [{"x": 1, "t": moment}])
    assert read_files([str(path)], Schema(numbers=("x",), timestamp="t"))[1] == 1


def test_fields_of_structs_and_columns_with_dots_are_found(tmp_path: Path) -> None:
    nested = write(tmp_path / "nested.parquet", [{"a": {"b": {"c": 1.0}}}, {"a": None}, {"a": {"b": {"c": 2.0}}}])
    assert read_files([str(nested)], Schema(numbers=("a.b.c",)))[0].numbers["a.b.c"].tolist() == [1, 2]
    flat = write(tmp_path / "flat.csv", [{"a.b.c": 1.0}])
    for path in ("a.b.c", r"a\.b\.c"):
        assert read_files([str(flat)], Schema(numbers=(path,)))[0].numbers[path].tolist() == [1]


def test_a_row_with_text_where_a_number_is_wanted_is_dropped(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("x,y\n1,a\nbroken,b\n3.5,c\n,d\n", encoding="utf-8")
    columns, dropped = read_files([f"{tmp_path}/x.csv"], Schema(numbers=("x",), texts=("y",)))
    assert listed(columns)["x"] == [1, 3.5, None]
    assert dropped == 1


def test_broken_lines_are_dropped_and_counted(tmp_path: Path) -> None:
    (tmp_path / "x.ndjson").write_bytes(b'{"x": 1}\n{"x": \n\n[1]\n{"x": "\xff"}\r\n{"x": 2}\r\n')
    columns, dropped = read_files([f"{tmp_path}/x.ndjson"], Schema(numbers=("x",)))
    assert (columns.numbers["x"].tolist(), dropped) == ([1, 2], 3)


@pytest.mark.parametrize("name", ["empty.ndjson", "empty.parquet"])
def test_a_file_without_rows_has_no_records(tmp_path: Path, name: str) -> None:
    pl.DataFrame(schema={"x": pl.Float64}).write_parquet(tmp_path / "empty.parquet")
    (tmp_path / "empty.ndjson").touch()
    columns, dropped = read_files([str(tmp_path / name)], Schema(numbers=("x",)))
    assert (len(columns), dropped) == (0, 0)


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("nothing/*.csv", "'nothing/.*' matches no file"),
        ("", "'' matches no file"),
        ("x.xlsx", r"unknown suffix. Expected one of .parquet, .csv, .ndjson, .jsonl"),
        ("broken.parquet", "broken.parquet' cannot be read as .parquet"),
        ("empty.csv", "empty.csv' cannot be read as .csv"),
        ("ragged.csv", "ragged.csv' cannot be read as .csv"),
        ("good.csv", "has no column 'cpu'. Known: x, y"),
        ("list.parquet", "holds List"),
    ],
)
def test_what_cannot_be_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pattern: str, words: str
) -> None:
    for name in ("x.xlsx", "broken.parquet", "empty.csv"):
        (tmp_path / name).touch()
    (tmp_path / "ragged.csv").write_text("cpu\n1,2,3\n", encoding="utf-8")
    (tmp_path / "good.csv").write_text("x,y\n1,2\n", encoding="utf-8")
    pl.DataFrame({"cpu": [[1]]}).write_parquet(tmp_path / "list.parquet")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SettingsError, match=words):
        read_files([pattern], Schema(numbers=("cpu",)))


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".ndjson"])
def test_a_sample_is_json_from_which_features_are_inferred(tmp_path: Path, suffix: str) -> None:
    records = [
        {"machine": f"m{row % 3}", "ts": f"2026-01-01T00:00:{row:02}", "cpu": row * 7 % 11 / 4, "up": row % 5 > 0}
        for row in range(60)
    ]
    write(tmp_path / f"x{suffix}", records)
    inferred = infer(sample_files([f"{tmp_path}/*"], 60))
    assert (inferred.entity, inferred.timestamp) == ("machine", "ts")
    assert {feature.name: feature.kind for feature in inferred.features} == {"cpu": "numeric", "up": "flag"}


def test_a_sample_takes_the_same_number_of_each_file(tmp_path: Path) -> None:
    for name in ("a.csv", "b.ndjson", "c.parquet"):
        write(tmp_path / name, [{"x": row} for row in range(10)])
    sample = sample_files([f"{tmp_path}/*"], 7)
    assert [json.loads(value or b"")["x"] for value in sample] == [0, 1, 2, 0, 1, 2, 0]
