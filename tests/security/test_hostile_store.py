"""Whoever can write to the store decides what serves, but gets nothing run, nothing read elsewhere, and no memory."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from detector.bundle import MANIFEST, Bundle
from detector.errors import BundleError, OffnominalError, SettingsError, StoreError
from detector.level import CalibrationRows
from detector.store import Store
from tests.detector.machines import trained
from tests.security.memory import at_most

MOST_MB = 256
"""Memory that refusing a version may take."""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    models = [{"type": "gmm", "components": 1}, {"type": "vae", "epochs": 1, "hidden": [8]}]
    return trained(tmp_path_factory.mktemp("bundle"), models=models)


@pytest.fixture
def store(tmp_path: Path, bundle: Bundle) -> Store:
    store = Store(str(tmp_path / "store"), "machines")
    store.save(bundle)
    return store


@pytest.fixture
def folder(tmp_path: Path, store: Store, bundle: Bundle) -> Path:
    return tmp_path / "store" / "machines" / bundle.version


def declare(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Changes the manifest, hashes made to fit."""
    path = folder / MANIFEST
    manifest = json.loads(path.read_text())
    change(manifest)
    for name in manifest["sha256"]:
        if (folder / name).is_file():
            manifest["sha256"][name] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    path.write_text(json.dumps(manifest))


NAMES = (
    "../machines", "/etc/passwd", "20260301T030000Z-4be1/..", "20260301T030000Z-4be1\0", "20260301T030000Z-4be1\n",
    "..\\x", "%2e%2e%2fx", "２０２６0301T030000Z-4be1", "20260301T030000Z-4be1" * 10_000, ".", "",
)  # fmt: skip


@pytest.mark.parametrize("name", NAMES, ids=lambda name: repr(name[:24]))
def test_no_version_reaches_beyond_its_detector(store: Store, name: str) -> None:
    for use in (store.load, store.manifest, store.promote):
        with pytest.raises(BundleError, match="is no version") as refused:
            use(name)
        assert len(str(refused.value)) < 200
        assert str(refused.value).isprintable()


@pytest.mark.parametrize("name", NAMES, ids=lambda name: repr(name[:24]))
def test_a_pointer_to_what_is_no_version_is_refused(tmp_path: Path, store: Store, name: str) -> None:
    for history in ([name], [name, "20260301T030000Z-4be1"]):
        content = {"version": history[-1], "history": history[:-1]}
        (tmp_path / "store" / "machines" / "champion.json").write_text(json.dumps(content))
        for use in (store.champion, store.rollback):
            with pytest.raises(StoreError, match="which is no version") as refused:
                use()
            assert len(str(refused.value)) < 400


@pytest.mark.parametrize(
    "content", ["", "7", "[]", "{}", '{"version": 1}', "[" * 100_000, "9" * 5_000, "\0", '"\\ud800"']
)
def test_a_pointer_that_is_none_is_refused(tmp_path: Path, store: Store, content: str) -> None:
    (tmp_path / "store" / "machines" / "champion.json").write_text(content)
    with pytest.raises(StoreError):
        store.champion()


@pytest.mark.parametrize("content", ["", "7", "[]", '{"format": 2}', "[" * 100_000, "9" * 5_000, '{"a":' * 100_000])
def test_a_manifest_that_is_none_is_refused(folder: Path, store: Store, bundle: Bundle, content: str) -> None:
    (folder / MANIFEST).write_text(content)
    with pytest.raises(BundleError, match="Manifest"):
        store.load(bundle.version)


@pytest.mark.parametrize(
    "name", ["../secret.safetensors", "/etc/passwd", "manifest.json", "a/b.safetensors", "x\0.safetensors"]
)
def test_a_manifest_names_no_file_but_those_beside_it(
    tmp_path: Path, folder: Path, store: Store, bundle: Bundle, name: str
) -> None:
    (tmp_path / "store" / "machines" / "secret.safetensors").write_text("canary")
    declare(folder, lambda manifest: manifest["sha256"].update({name: "0" * 64}))
    with pytest.raises(BundleError) as refused:
        store.load(bundle.version)
    assert "Manifest cannot be read" in str(refused.value)
    assert hashlib.sha256(b"canary").hexdigest() not in str(refused.value)


@pytest.mark.parametrize("name", ["champion.json", MANIFEST, "features.safetensors"])
def test_a_file_of_terabytes_is_refused_before_it_is_read(
    tmp_path: Path, folder: Path, store: Store, bundle: Bundle, name: str
) -> None:
    path = (folder.parent if name == "champion.json" else folder) / name
    with path.open("wb") as file:
        file.truncate(1 << 40)  # takes no room on the disk
    with at_most(MOST_MB), pytest.raises(StoreError, match=r"has 1,099,511,627,776 bytes\. Expected at most"):
        store.load(store.champion() or bundle.version)


def test_a_file_that_is_a_device_gives_no_more_than_its_size(folder: Path, store: Store, bundle: Bundle) -> None:
    path = folder / "features.safetensors"
    path.unlink()
    path.symlink_to("/dev/zero")
    with at_most(MOST_MB), pytest.raises(BundleError, match="has SHA-256"):
        store.load(bundle.version)


Change = Callable[[dict[str, Any]], object]
SHAPES = "is declared with other shapes than its file holds"
HUGE: dict[str, tuple[Change, str]] = {
    "components": (lambda manifest: manifest["models"][0]["arguments"].update(components=10**9), SHAPES),
    "latent": (lambda manifest: manifest["models"][1]["arguments"].update(latent=10**8), SHAPES),
    "hidden": (lambda manifest: manifest["models"][1]["arguments"].update(hidden=[10**6, 10**6]), SHAPES),
    "window": (
        lambda manifest: [manifest[part].update(window=10**8) for part in ("features", "layout")],
        "less than or equal to 256",
    ),
    "columns": (lambda manifest: manifest["layout"]["blocks"][0].__setitem__(2, 10**9), "disagree on the columns"),
}


@pytest.mark.parametrize("what", HUGE)
def test_what_is_only_declared_takes_no_memory(folder: Path, store: Store, bundle: Bundle, what: str) -> None:
    change, words = HUGE[what]
    declare(folder, change)
    with at_most(MOST_MB), pytest.raises(BundleError, match=words):
        store.load(bundle.version)


@pytest.mark.parametrize("shape", [[1 << 40], [1 << 32, 1 << 32], [0], [-1]])
def test_a_tensor_that_is_larger_than_its_file_is_refused(
    folder: Path, store: Store, bundle: Bundle, shape: list[int]
) -> None:
    header = json.dumps({"weights": {"dtype": "F32", "shape": shape, "data_offsets": [0, 4]}}).encode()
    (folder / "model-gmm.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    declare(folder, lambda manifest: None)
    with at_most(MOST_MB), pytest.raises(BundleError):
        store.load(bundle.version)


@pytest.mark.parametrize("name", ["features", "calibration", "level", "model-gmm", "model-vae"])
def test_a_file_that_is_cut_short_is_refused_though_its_hash_fits(
    folder: Path, store: Store, bundle: Bundle, name: str
) -> None:
    path = folder / f"{name}.safetensors"
    for end in (0, 4, 20, -1):
        whole = path.read_bytes()
        path.write_bytes(whole[:end])
        declare(folder, lambda manifest: None)
        with pytest.raises(BundleError, match="does not fit together"):
            store.load(bundle.version)
        path.write_bytes(whole)


@pytest.mark.parametrize("what", ["entity", "segment"])
@pytest.mark.parametrize("number", [-1, -(1 << 31), (1 << 31) - 1])
def test_no_index_reaches_beyond_what_compiled_code_works_on(
    folder: Path, store: Store, bundle: Bundle, what: str, number: int
) -> None:
    path = folder / "level.safetensors"
    arrays = safetensors.numpy.load_file(path)
    arrays[what][0] = number
    safetensors.numpy.save_file(arrays, path)
    declare(folder, lambda manifest: None)
    with at_most(MOST_MB), pytest.raises(BundleError, match=f"calibration rows have {what}"):
        store.load(bundle.version)


@pytest.mark.parametrize(
    "changed", [{"entity": np.zeros(1, np.int32)}, {"segment": np.zeros((2, 2), np.int32)}, {"entity": np.zeros(0)}]
)
def test_calibration_rows_of_another_shape_or_type_are_refused(
    folder: Path, store: Store, bundle: Bundle, changed: dict[str, Any]
) -> None:
    arrays = {**bundle.rows.to_arrays(), **changed}
    assert set(arrays) == {*CalibrationRows._fields}
    safetensors.numpy.save_file(arrays, folder / "level.safetensors")
    declare(folder, lambda manifest: None)
    with pytest.raises(BundleError, match="calibration rows are"):
        store.load(bundle.version)


def test_whatever_is_changed_a_version_loads_or_is_refused(folder: Path, store: Store, bundle: Bundle) -> None:
    chance = random.Random(1)
    whole = {path: path.read_bytes() for path in sorted(folder.iterdir())}
    for _ in range(300):
        path = chance.choice([*whole])
        content = bytearray(whole[path])
        for _ in range(chance.choice((1, 1, 8))):
            content[chance.randrange(min(len(content), 4_000))] = chance.randrange(256)
        path.write_bytes(content)
        with suppress(OffnominalError):
            if path.name != MANIFEST:
                declare(folder, lambda manifest: None)
            store.load(bundle.version)
        for known, before in whole.items():
            known.write_bytes(before)


@pytest.mark.parametrize("url", ["sftp://user:canary@host/store", "simplecache::s3://key:canary@bucket/x"])
def test_a_password_in_the_address_of_the_store_is_refused_and_not_shown(url: str) -> None:
    with pytest.raises(SettingsError, match="holds a password") as refused:
        Store(url, "machines")
    assert "canary" not in str(refused.value)
