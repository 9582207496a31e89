from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from consumers.kafka_python import KafkaPythonBroker
from consumers.memory import MemoryBroker
from consumers.stream import Window
from detector.bundle import Bundle
from detector.commands.generate import generate_records, publish, write
from detector.config import DetectorSettings
from detector.errors import SettingsError
from detector.features import fields
from detector.files import read_files
from detector.generation import generate, to_json, to_values
from detector.store import Store
from tests.detector.machines import ALERTS, TOPIC, broker_with, records, settings
from tests.detector.test_generation import mixed

Generate = Callable[..., None]


@pytest.fixture
def chosen(tmp_path: Path) -> DetectorSettings:
    return settings(tmp_path)


@pytest.fixture
def command(
    chosen: DetectorSettings, champion: Bundle, broker: MemoryBroker, monkeypatch: pytest.MonkeyPatch
) -> Generate:
    """The command on a store with a champion and the records it was trained on, changed by keyword."""
    store = Store(chosen.store.url, chosen.name)
    store.save(champion)
    store.promote(champion.version)
    monkeypatch.setattr("detector.commands.generate.connect", lambda _: broker)

    def run(**changes: Any) -> None:
        asked = {"records": 1_000, "output": None, "topic": None, "version": None, "model": None, "seed": 0}
        generate_records(chosen, **{**asked, "as_json": True, **changes})

    return run


@pytest.fixture
def broker() -> MemoryBroker:
    return broker_with(records(3_000))


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".ndjson", ".jsonl"])
def test_files_read_back_give_the_same_columns(tmp_path: Path, suffix: str) -> None:
    _, bundle = mixed(tmp_path, 2)
    found = generate(bundle, 500, 0)
    path = tmp_path / f"generated{suffix}"
    write(path, to_values(bundle, found))
    again, dropped = read_files([str(path)], fields(bundle.encoder.features, "machine", "ts"))
    assert dropped == 0
    assert again.time.tolist() == found.time.tolist()
    assert again.entity.tolist() == found.entity.tolist()
    for name, column in found.numbers.items():
        assert again.numbers[name] == pytest.approx(column, nan_ok=True)
    assert {name: column.tolist() for name, column in again.texts.items()} == {"zone": found.texts["zone"].tolist()}


def test_a_path_is_a_column_with_dots_and_flags_are_booleans(tmp_path: Path) -> None:
    _, bundle = mixed(tmp_path, 2)
    write(tmp_path / "x.parquet", to_values(bundle, generate(bundle, 100, 0)))
    frame = pl.read_parquet(tmp_path / "x.parquet")
    assert set(frame.columns) == {"machine", "ts", "cpu", "net.sent", "level", "up", "zone"}
    assert frame.schema["up"] == pl.Boolean()


def test_the_command_writes_as_many_records_as_asked_and_tells_how_good_they_are(
    command: Generate, champion: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command(records=1_200, output=tmp_path / "x.csv")
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert len(pl.read_csv(tmp_path / "x.csv")) == 1_200
    assert (told["version"], told["model"], told["records"]) == (champion.version, "gmm", 1_200)
    assert told["warnings"] == []
    assert told["fidelity"]["rows"] == 600
    assert told["fidelity"]["generated"]["coverage"] > 0.9
    assert told["fidelity"]["generated"]["near_copies"] < 0.04


def test_a_few_records_are_judged_by_more_draws_than_they_are(
    command: Generate, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command(records=3, output=tmp_path / "x.ndjson")
    assert (tmp_path / "x.ndjson").read_text().count("\n") == 3
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["fidelity"]["rows"] == 600  # as many as are held back


def test_a_person_is_shown_a_table(command: Generate, capsys: pytest.CaptureFixture[str]) -> None:
    command(as_json=False)
    shown = capsys.readouterr().out
    assert "600 rows beside as many held-back ones" in shown
    assert "near copies" in shown


def test_a_version_other_than_the_champion_is_drawn_from_where_it_is_named(
    command: Generate, chosen: DetectorSettings, other: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    Store(chosen.store.url, chosen.name).save(other)
    command(version=other.version)
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["version"] == other.version


def test_real_records_of_another_time_than_that_of_training_are_told(
    command: Generate, broker: MemoryBroker, capsys: pytest.CaptureFixture[str]
) -> None:
    for value in records(3_000, start=9_000):
        broker.append(TOPIC, value)
    command()
    assert "few real records are of the window trained on" in capsys.readouterr().out


def test_a_store_without_champion_is_told(tmp_path: Path) -> None:
    asked: dict[str, Any] = {"records": 10, "output": None, "topic": None, "version": None, "model": None}
    with pytest.raises(SettingsError, match=r"has no champion\. Train first"):
        generate_records(settings(tmp_path), **asked, seed=0, as_json=True)


@pytest.mark.parametrize(
    ("place", "told"),
    [
        ({"output": Path("x.csv"), "topic": "t"}, "--output x.csv and --topic t exclude one another"),
        ({"output": Path("x.xlsx")}, "--output x.xlsx has an unknown suffix. Expected one of .parquet, .csv"),
        ({"topic": TOPIC}, f"--topic {TOPIC} is one of the detector's own"),
        ({"topic": ALERTS}, f"--topic {ALERTS} is one of the detector's own"),
        ({"topic": "nowhere"}, "Topic 'nowhere' is not on 127.0.0.1:1. Create it first."),
        ({"output": Path("/nowhere/x.ndjson")}, "'/nowhere/x.ndjson' cannot be written: No such file"),
        ({"output": Path("/nowhere/x.csv")}, "'/nowhere/x.csv' cannot be written: No such file"),
        ({"output": Path("/nowhere/x.parquet")}, "'/nowhere/x.parquet' cannot be written: No such file"),
    ],
)
def test_a_place_that_cannot_be_written_to_is_refused_with_the_reason(
    command: Generate, place: dict[str, Any], told: str
) -> None:
    with pytest.raises(SettingsError, match=told):
        command(**place)


def test_records_in_a_topic_are_those_generated_by_entity(
    champion: Bundle, bootstrap: str, unique: str, tmp_path: Path
) -> None:
    chosen = settings(tmp_path, kafka={"bootstrap": bootstrap})
    broker = KafkaPythonBroker(chosen.kafka, group=unique, client_id="tests")
    broker.create_topics({unique: 1})
    found = generate(champion, 200, 0)
    values = to_json(to_values(champion, found))
    publish(chosen, unique, found, values)
    batches = list(broker.read([unique], Window()))
    assert [value for batch in batches for value in batch.values] == values
    keys = [key for batch in batches for key in batch.keys]
    assert keys == [entity.encode() for entity in found.entity.tolist()]
