from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from detector.bundle import Bundle, Trial
from detector.commands import models
from detector.commands.models_diff import print_difference
from detector.config import DetectorSettings
from detector.errors import BundleError
from detector.store import Store
from tests.detector.machines import CREATED, settings

Saved = Callable[..., str]


@pytest.fixture
def chosen(tmp_path: Path) -> DetectorSettings:
    return settings(tmp_path)


@pytest.fixture
def store(chosen: DetectorSettings) -> Store:
    return Store(chosen.store.url, chosen.name)


@pytest.fixture
def saved(store: Store, champion: Bundle) -> Saved:
    """Saves a version of that day, with changes to its manifest, and returns its name."""

    def save(day: int, bundle: Bundle = champion, **changes: Any) -> str:
        created = CREATED + timedelta(days=day)
        update = {"version": f"{created:%Y%m%dT%H%M%SZ}-0000", "created": created, **changes}
        store.save(replace(bundle, manifest=bundle.manifest.model_copy(update=update)))
        return str(update["version"])

    return save


def trial(**changes: Any) -> Trial:
    values = {"stage": "gate", "passed": True, "at": CREATED, "against": None, "reasons": [], "figures": {}}
    return Trial.model_validate({**values, **changes})


def unsound(bundle: Bundle) -> dict[str, Any]:
    return {
        "verdict": bundle.manifest.verdict.model_copy(update={"sound": False, "reasons": ["[red]too many[/] alarms"]})
    }


def listed(chosen: DetectorSettings, capsys: pytest.CaptureFixture[str]) -> dict[str, dict[str, Any]]:
    capsys.readouterr()
    models.list_versions(chosen, as_json=True)
    return {entry["version"]: entry for entry in json.loads(capsys.readouterr().out)}


def test_every_version_is_listed_with_its_state_and_what_speaks_against_it(
    chosen: DetectorSettings, store: Store, saved: Saved, champion: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    versions = [saved(day) for day in range(5)] + [saved(5, **unsound(champion))]
    for version in versions[:2]:
        store.promote(version)
    store.add_verdict(versions[2], trial())
    store.add_verdict(versions[3], trial())
    store.add_verdict(versions[3], trial(stage="shadow", passed=False, reasons=["31 alarms, not 10"]))
    told = listed(chosen, capsys)
    assert [(told[version]["state"], told[version]["against"]) for version in versions] == [
        ("served before", []),
        ("serves", []),
        ("on trial", []),
        ("refused", ["shadow: 31 alarms, not 10"]),
        ("idle", []),
        ("refused", ["training: [red]too many[/] alarms"]),
    ]
    assert [version for version in versions if told[version]["champion"]] == [versions[1]]


def test_a_version_that_was_withdrawn_is_refused_and_says_why(
    chosen: DetectorSettings, store: Store, saved: Saved, capsys: pytest.CaptureFixture[str]
) -> None:
    older, newer = saved(0), saved(1)
    store.promote(older)
    store.promote(newer)
    store.add_verdict(newer, trial(stage="watch", passed=False, reasons=["twice the budget"]))
    store.withdraw(newer)
    told = listed(chosen, capsys)
    assert (told[newer]["state"], told[newer]["against"]) == ("refused", ["watch: twice the budget"])


def test_the_table_shows_states_and_reasons_as_they_are(
    chosen: DetectorSettings, store: Store, saved: Saved, champion: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    store.pin(saved(0))
    refused = saved(1, **unsound(champion))
    models.list_versions(chosen, as_json=False)
    shown = capsys.readouterr().out
    assert "serves, pinned" in shown
    assert f"{refused}: training: [red]too many[/] alarms" in shown
    assert max(map(len, shown.splitlines()[:6])) <= 80


def test_a_version_that_cannot_be_read_hides_no_other(
    chosen: DetectorSettings, store: Store, saved: Saved, capsys: pytest.CaptureFixture[str]
) -> None:
    damaged, whole = saved(0), saved(1)
    (Path(store.url) / chosen.name / damaged / "manifest.json").write_text('{"format": 1}')
    models.list_versions(chosen, as_json=False)
    assert "unreadable" in capsys.readouterr().out
    told = listed(chosen, capsys)
    assert told[damaged]["against"] == ["Manifest has format 1. This release reads format 3."]
    assert told[whole]["state"] == "idle"


def test_a_store_without_versions_says_so(chosen: DetectorSettings, capsys: pytest.CaptureFixture[str]) -> None:
    models.list_versions(chosen, as_json=False)
    assert capsys.readouterr().out == "The store holds no version of 'machines'.\n"


@pytest.mark.parametrize("use", [models.promote_version, models.pin_version])
def test_a_version_for_other_settings_neither_serves_nor_is_pinned(
    tmp_path: Path, store: Store, saved: Saved, use: Callable[[DetectorSettings, str], None]
) -> None:
    version = saved(0)
    with pytest.raises(BundleError, match="Train again"):
        use(settings(tmp_path, window={"length": 3}), version)
    assert store.champion() is None


def test_pins_are_told_when_they_begin_and_end(
    chosen: DetectorSettings, store: Store, saved: Saved, capsys: pytest.CaptureFixture[str]
) -> None:
    older, newer = saved(0), saved(1)
    models.pin_version(chosen, older)
    models.promote_version(chosen, newer)
    models.pin_version(chosen, newer)
    models.unpin_version(chosen)
    models.unpin_version(chosen)
    models.roll_back(chosen)
    assert capsys.readouterr().out.splitlines() == [
        f"{older} serves now, and is pinned: no training or rollback of the daemon's replaces it.",
        f"{newer} serves now. {older} was pinned; nothing is pinned now.",
        f"{newer} serves now, and is pinned: no training or rollback of the daemon's replaces it.",
        f"{newer} serves on, and is no longer pinned.",
        "No version was pinned.",
        f"{older} serves now.",
    ]


def test_prune_spares_what_is_on_trial(
    chosen: DetectorSettings, store: Store, saved: Saved, capsys: pytest.CaptureFixture[str]
) -> None:
    versions = [saved(day) for day in range(5)]
    store.add_verdict(versions[1], trial())
    models.prune_versions(chosen, keep=2, as_json=True)
    assert json.loads(capsys.readouterr().out) == {
        "deleted": [versions[0], versions[2]],
        "kept": [versions[1], *versions[3:]],
    }
    models.prune_versions(chosen, keep=None, as_json=False)
    assert capsys.readouterr().out == "0 deleted, 3 kept.\n"


def test_a_difference_gives_both_sides_of_every_fact(
    chosen: DetectorSettings, store: Store, saved: Saved, other: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    one, two = saved(0), saved(1, other, trained_from="20260301T030000Z-0000", cleaned={"incident": 7})
    store.add_verdict(two, trial(passed=False, reasons=["worse"], figures={"ratio": float("inf")}))
    print_difference(chosen, one, two, as_json=True)
    told = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert told["versions"] == [one, two]
    assert told["version"]["trained_from"] == [None, one]
    assert told["data"]["records"] == [3000, 2000]
    assert told["data"]["cleaned"] == [{}, {"incident": 7}]
    assert told["models"]["gmm_parameters"][0] > 0
    assert told["features"]["number"] == [2, 2]
    assert told["budget"]["rate"] == [0.01, 0.01]
    assert told["gate"] == {
        "passed": [None, False],
        "against": [None, None],
        "reasons": [None, ["worse"]],
        "ratio": [None, "Infinity"],
    }


def test_the_table_of_a_difference_marks_what_differs_and_counts_features_that_do_not(
    chosen: DetectorSettings, saved: Saved, other: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    print_difference(chosen, saved(0), saved(1, other), as_json=False)
    lines = capsys.readouterr().out.splitlines()
    assert any(line.split() == ["records", "≠", "3,000", "2,000"] for line in lines)
    assert any(line.split() == ["features", "number", "2", "2"] for line in lines)
    assert not any(line.split()[:1] == ["cpu"] for line in lines)
    assert max(map(len, lines)) <= 80
