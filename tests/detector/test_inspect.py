from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from consumers.memory import MemoryBroker
from detector.bundle import Bundle
from detector.commands.inspect import inspect_version
from detector.config import DetectorSettings
from detector.errors import BundleError, SettingsError
from detector.inspecting.report import write_report
from detector.inspection import inspect
from detector.store import Store
from detector.training import train
from detector.training_data import gather
from tests.detector.machines import CREATED, START_MS, broker_with, records, settings
from tests.detector.test_generation import mixed_records

Inspect = Callable[..., None]
HOSTILE = "<script>alert(1)</script>$x^"


@pytest.fixture
def chosen(tmp_path: Path) -> DetectorSettings:
    return settings(tmp_path)


@pytest.fixture
def broker() -> MemoryBroker:
    return broker_with(records(3_000))


@pytest.fixture
def command(
    chosen: DetectorSettings,
    champion: Bundle,
    broker: MemoryBroker,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Inspect:
    """The command on a store with a champion and the records it was trained on, changed by keyword."""
    store = Store(chosen.store.url, chosen.name)
    store.save(champion)
    store.promote(champion.version)
    monkeypatch.setattr("detector.commands.inspect.connect", lambda _: broker)

    def run(**changes: Any) -> None:
        asked = {"version": None, "records": None, "output": tmp_path / "report.html", "as_json": True}
        inspect_version(chosen, **{**asked, **changes})

    return run


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures take seconds, which figures do without."""
    monkeypatch.setattr("detector.inspecting.report.write_report", lambda path, found: None)


@pytest.mark.usefixtures("undrawn")
def test_the_figures_are_one_json_object(
    command: Inspect, champion: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    command()
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (told["version"], told["records"]) == (champion.version, 3_000)
    assert told["stretches"] == {"fitted": 2_400, "calibration": 600}
    assert told["models"]["gmm"]["likelihood"]["unit"] == "bits"
    assert told["warnings"] == []


def test_the_report_holds_all_it_needs(command: Inspect, tmp_path: Path) -> None:
    command()
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "http" not in text.replace('http-equiv="Content-Security-Policy"', "")
    assert "<script" not in text
    assert text.count("data:image/png;base64,") == 1 + 1 + 2 + 2 + 1  # scores, plane, transforms, marginals, matrices
    for title in ("How likely records are", "Latent space", "Calibration of each feature", "Real against generated"):
        assert f"<h2>{title}</h2>" in text
    assert "prefers-color-scheme: dark" in text


@pytest.mark.usefixtures("undrawn")
def test_a_person_is_shown_a_table_and_what_is_wrong(
    command: Inspect, broker: MemoryBroker, capsys: pytest.CaptureFixture[str]
) -> None:
    for value in records(2_000, start=3_000, odd={n: {"cpu": 0.9, "load": 1.8} for n in range(3_000, 5_000)}):
        broker.append("machines", value)
    command(as_json=False, records=4_000)
    told = capsys.readouterr().out
    assert "4,000 records" in told
    assert "calibration" in told
    assert "recent records score beyond" in " ".join(told.split())


@pytest.mark.usefixtures("undrawn")
def test_as_many_recent_records_are_read_as_asked_for(command: Inspect, capsys: pytest.CaptureFixture[str]) -> None:
    command(records=700)
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["records"] == 700


@pytest.mark.usefixtures("undrawn")
def test_a_version_other_than_the_champion_is_looked_at_where_it_is_named(
    command: Inspect, chosen: DetectorSettings, other: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    Store(chosen.store.url, chosen.name).save(other)
    command(version=other.version)
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["version"] == other.version


def test_what_there_is_none_of_is_told(command: Inspect, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="Version '20260101T000000Z-0000' is not in the store"):
        command(version="20260101T000000Z-0000")
    with pytest.raises(SettingsError, match=r"--output '.*nowhere/x.html' cannot be written: No such file"):
        command(output=tmp_path / "nowhere" / "x.html")


def test_a_store_without_champion_is_told(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"has no champion\. Train first"):
        inspect_version(settings(tmp_path), version=None, records=None, output=tmp_path / "x.html", as_json=True)


def test_names_and_categories_out_of_records_are_text(tmp_path: Path) -> None:
    features = [{"name": HOSTILE, "kind": "numeric"}, {"name": "zone", "kind": "categorical"}]
    chosen = settings(tmp_path, features=features)
    values = [
        json.dumps({**json.loads(value), HOSTILE: number % 17, "zone": HOSTILE if number % 2 else "b"}).encode()
        for number, value in enumerate(mixed_records(2_000))
    ]
    data = gather(chosen, broker_with(values), now_ms=START_MS)
    found = inspect(train(data, chosen, created=CREATED), data.columns, chosen)
    write_report(tmp_path / "report.html", found)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<script" not in text
    assert text.count("&lt;script&gt;alert(1)&lt;/script&gt;$x^") > 4
