from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detector.bundle import Bundle
from detector.errors import BundleError, StoreError
from detector.store import Store
from tests.detector.machines import CREATED, settings, trained


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return trained(
        tmp_path_factory.mktemp("bundle"), models=[{"type": "gmm", "components": 1}, {"type": "vae", "epochs": 2}]
    )


@pytest.fixture
def store(tmp_path: Path, bundle: Bundle) -> Store:
    store = Store(str(tmp_path), "machines")
    store.save(bundle)
    return store


def renamed(bundle: Bundle, day: int) -> Bundle:
    created = CREATED + timedelta(days=day)
    update = {"version": f"{created:%Y%m%dT%H%M%SZ}-0000", "created": created}
    return replace(bundle, manifest=bundle.manifest.model_copy(update=update))


def test_a_version_loads_as_it_was_saved(store: Store, bundle: Bundle) -> None:
    loaded = store.load(bundle.version)
    assert loaded.encoder.to_state()[0] == bundle.encoder.to_state()[0]
    for name, array in bundle.calibration.to_arrays().items():
        np.testing.assert_array_equal(loaded.calibration.to_arrays()[name], array)
    assert loaded.rows.names == bundle.rows.names == ("m0", "m1", "m2")
    for name, array in bundle.rows.to_arrays().items():
        np.testing.assert_array_equal(loaded.rows.to_arrays()[name], array)
    for kind, model in bundle.models.items():
        for name, tensor in model.state_dict().items():
            np.testing.assert_array_equal(loaded.models[kind].state_dict()[name].numpy(), tensor.numpy())


def test_a_version_is_no_champion_until_it_is_promoted(store: Store, bundle: Bundle) -> None:
    assert store.champion() is None
    store.promote(bundle.version)
    assert store.champion() == bundle.version


@pytest.mark.parametrize(
    "name", ["features.safetensors", "model-gmm.safetensors", "calibration.safetensors", "level.safetensors"]
)
def test_a_changed_file_is_refused_by_its_hash(store: Store, bundle: Bundle, tmp_path: Path, name: str) -> None:
    path = tmp_path / "machines" / bundle.version / name
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(BundleError, match=f"file '{name}' has SHA-256"):
        store.load(bundle.version)


def test_a_missing_file_is_named(store: Store, bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "machines" / bundle.version / "model-vae.safetensors").unlink()
    with pytest.raises(BundleError, match=r"'model-vae\.safetensors' is missing"):
        store.load(bundle.version)


def test_a_folder_without_manifest_is_no_version(store: Store, bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "machines" / bundle.version / "manifest.json").unlink()
    assert store.versions() == []
    with pytest.raises(BundleError, match="not in the store"):
        store.promote(bundle.version)


def test_a_manifest_of_another_format_is_refused(store: Store, bundle: Bundle, tmp_path: Path) -> None:
    path = tmp_path / "machines" / bundle.version / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 99}))
    with pytest.raises(BundleError, match="format 99"):
        store.load(bundle.version)


def test_columns_that_do_not_match_the_features_are_refused(store: Store, bundle: Bundle, tmp_path: Path) -> None:
    path = tmp_path / "machines" / bundle.version / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["layout"]["blocks"] = manifest["layout"]["blocks"][:-1]
    path.write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match="disagree"):
        store.load(bundle.version)


@pytest.mark.parametrize("version", ["../other", "20260301T030000Z-4be1/../..", "", "latest"])
def test_a_version_cannot_leave_the_store(store: Store, version: str) -> None:
    with pytest.raises(BundleError, match="is no version"):
        store.load(version)


def test_rollback_goes_back_one_champion_and_says_when_there_is_none(store: Store, bundle: Bundle) -> None:
    newer = renamed(bundle, 1)
    store.save(newer)
    store.promote(bundle.version)
    store.promote(newer.version)
    assert store.rollback() == bundle.version
    assert store.champion() == bundle.version
    with pytest.raises(StoreError, match="Nothing to roll back to"):
        store.rollback()


def test_versions_are_listed_oldest_first(store: Store, bundle: Bundle) -> None:
    store.save(renamed(bundle, 1))
    store.save(renamed(bundle, -1))
    assert store.versions() == sorted(store.versions())
    assert len(store.versions()) == 3


def test_a_store_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be used"):
        Store(str(tmp_path / "file"), "machines").check_writable()


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"features": ["cpu"]}, "other features"),
        ({"features": [{"name": "cpu", "transform": "diff"}, "load"]}, "other features"),
        ({"window": {"length": 3}}, "window.length 2, not 3"),
        ({"models": [{"type": "gmm"}]}, "models"),
        (
            {"stream": {"topics": ["machines"], "entity": "host", "timestamp": "ts"}},
            "stream.entity 'machine', not 'host'",
        ),
        ({"calibration": {"by": "all"}}, "calibration.by 'entity', not 'all'"),
    ],
)
def test_a_version_for_other_settings_is_refused_with_the_difference(
    bundle: Bundle, tmp_path: Path, changes: dict[str, Any], told: str
) -> None:
    fitting = {"models": [{"type": "gmm"}, {"type": "vae"}]}
    bundle.require_fit(settings(tmp_path, **fitting))
    with pytest.raises(BundleError, match=told):
        bundle.require_fit(settings(tmp_path, **{**fitting, **changes}))


def test_a_version_serves_under_another_budget_or_kind_of_level(bundle: Bundle, tmp_path: Path) -> None:
    fitting = {"models": [{"type": "gmm"}, {"type": "vae"}], "calibration": {"level": "static"}}
    bundle.require_fit(settings(tmp_path, **fitting, alerts={"topic": "machine-alerts", "false_alarms": "3/day"}))
