from __future__ import annotations

import itertools
import json
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from structlog.testing import capture_logs

from detector import store as store_module
from detector import store_files
from detector.bundle import MANIFEST, Bundle, Trial
from detector.errors import BundleError, StoreError
from detector.store import Store
from detector.store_files import StoreFiles
from tests.detector.machines import CREATED, settings, trained
from tests.detector.places import KINDS, Place, bucket, s3_server

TRIAL = Trial(
    stage="shadow",
    passed=False,
    at=datetime(2026, 3, 2, tzinfo=UTC),
    against="20260228T030000Z-0000",
    reasons=["it told 31 alarms where 10 were promised"],
    figures={"records": 10_000, "ratio": 3.1, "least": float("-inf")},
)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return trained(
        tmp_path_factory.mktemp("bundle"), models=[{"type": "gmm", "components": 1}, {"type": "vae", "epochs": 2}]
    )


@pytest.fixture(scope="module")
def s3() -> Iterator[None]:
    with s3_server():
        yield


@pytest.fixture(params=KINDS)
def place(request: pytest.FixtureRequest, tmp_path: Path, unique: str) -> Place:
    if request.param == "s3":
        request.getfixturevalue("s3")
        return bucket()
    return Place(str(tmp_path) if request.param == "folder" else f"memory://{unique}")


@pytest.fixture
def store(place: Place, bundle: Bundle) -> Store:
    store = place.store()
    store.save(bundle)
    return store


@pytest.fixture
def three(store: Store, bundle: Bundle) -> list[str]:
    """Versions that served one after the other, oldest first."""
    versions = [renamed(bundle, day) for day in range(3)]
    for version in versions:
        store.save(version)
        store.promote(version.version)
    return [version.version for version in versions]


def renamed(bundle: Bundle, day: int) -> Bundle:
    created = CREATED + timedelta(days=day)
    update = {"version": f"{created:%Y%m%dT%H%M%SZ}-0000", "created": created}
    return replace(bundle, manifest=bundle.manifest.model_copy(update=update))


def damage(place: Place, name: str) -> None:
    content = bytearray(place.read(name))
    content[-1] ^= 1
    place.write(name, bytes(content))


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
def test_a_changed_file_is_refused_by_its_hash(store: Store, bundle: Bundle, place: Place, name: str) -> None:
    damage(place, f"{bundle.version}/{name}")
    with pytest.raises(BundleError, match=f"file '{name}' has SHA-256"):
        store.load(bundle.version)


def test_an_emptied_file_is_refused_by_its_hash(store: Store, bundle: Bundle, place: Place) -> None:
    place.write(f"{bundle.version}/level.safetensors", b"")
    with pytest.raises(BundleError, match=r"file 'level\.safetensors' has SHA-256"):
        store.load(bundle.version)


def test_a_missing_file_is_named(store: Store, bundle: Bundle, place: Place) -> None:
    place.remove(f"{bundle.version}/model-vae.safetensors")
    with pytest.raises(BundleError, match=r"'model-vae\.safetensors' is missing"):
        store.load(bundle.version)


def test_a_folder_without_manifest_is_no_version(store: Store, bundle: Bundle, place: Place) -> None:
    place.remove(f"{bundle.version}/{MANIFEST}")
    assert store.versions() == []
    with pytest.raises(BundleError, match="not in the store"):
        store.promote(bundle.version)


def test_a_manifest_of_another_format_is_refused(store: Store, bundle: Bundle, place: Place) -> None:
    name = f"{bundle.version}/{MANIFEST}"
    place.write(name, json.dumps({**json.loads(place.read(name)), "format": 99}).encode())
    with pytest.raises(BundleError, match="format 99"):
        store.load(bundle.version)


def test_columns_that_do_not_match_the_features_are_refused(store: Store, bundle: Bundle, place: Place) -> None:
    manifest = json.loads(place.read(f"{bundle.version}/{MANIFEST}"))
    manifest["layout"]["blocks"] = manifest["layout"]["blocks"][:-1]
    place.write(f"{bundle.version}/{MANIFEST}", json.dumps(manifest).encode())
    with pytest.raises(BundleError, match="disagree"):
        store.load(bundle.version)


@pytest.mark.parametrize("window", [0, 3])
def test_a_model_that_looks_at_more_records_than_there_are_or_at_none_is_refused(
    store: Store, bundle: Bundle, place: Place, window: int
) -> None:
    name = f"{bundle.version}/{MANIFEST}"
    manifest = json.loads(place.read(name))
    assert manifest["layout"]["window"] == 2
    manifest["models"][1]["window"] = window
    place.write(name, json.dumps(manifest).encode())
    with pytest.raises(BundleError, match="model 'vae' looks at more records than the window has, or at none"):
        store.load(bundle.version)


@pytest.mark.parametrize("version", ["../other", "20260301T030000Z-4be1/../..", "", "latest"])
def test_a_version_cannot_leave_the_store(store: Store, version: str) -> None:
    for use in (store.load, store.promote, store.pin):
        with pytest.raises(BundleError, match="is no version"):
            use(version)


def test_rollback_goes_back_one_champion_and_says_when_there_is_none(store: Store, three: list[str]) -> None:
    assert [store.rollback(), store.champion()] == [three[1], three[1]]
    assert [store.rollback(), store.champion()] == [three[0], three[0]]
    with pytest.raises(StoreError, match="Nothing to roll back to"):
        store.rollback()


def test_rollback_passes_over_versions_that_are_gone(store: Store, three: list[str], place: Place) -> None:
    place.remove(f"{three[1]}/{MANIFEST}")
    assert store.rollback() == three[0]
    assert store.history() == three[:1]


def test_versions_are_listed_oldest_first(store: Store, bundle: Bundle) -> None:
    store.save(renamed(bundle, 1))
    store.save(renamed(bundle, -1))
    assert store.versions() == sorted(store.versions())
    assert len(store.versions()) == 3


def test_an_empty_store_holds_nothing(place: Place) -> None:
    store = place.store()
    assert (store.versions(), store.history(), store.pinned(), store.names("requests/")) == ([], [], None, [])
    assert (store.champion(), store.servable(), store.read_json("lease.json")) == (None, None, None)
    assert store.prune(2) == []


def test_a_store_that_can_be_written_is_left_as_it_was(place: Place) -> None:
    place.store().check_writable()
    assert place.names() == []


def test_a_store_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be used"):
        Store(str(tmp_path / "file"), "machines").check_writable()


@pytest.mark.usefixtures("s3")
def test_a_bucket_that_is_not_there_is_named_and_not_made() -> None:
    missing = Place("s3://offnominal-missing/store")
    with pytest.raises(StoreError, match=r"s3://offnominal-missing/store' cannot be used: .*bucket does not exist"):
        missing.store().check_writable()
    assert not missing.files.exists("offnominal-missing")


def test_whatever_the_client_of_a_store_raises_is_an_error_of_the_store(
    store: Store, bundle: Bundle, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    class NoAnswerError(Exception):
        """What object stores' clients raise has no root in common."""

    def fail(*_: object, **__: object) -> None:
        raise NoAnswerError("no answer")

    for call in ("size", "find", "open"):
        monkeypatch.setattr(place.files, call, fail)  # fsspec gives the same object for the same URL
    for use in (store.champion, store.versions, store.check_writable, lambda: store.load(bundle.version)):
        with pytest.raises(StoreError, match="cannot be used: no answer"):
            use()


@pytest.mark.parametrize("ends_after", range(6))
def test_a_writer_that_dies_leaves_no_version_and_the_champion_as_it_was(
    store: Store, bundle: Bundle, ends_after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.promote(bundle.version)
    write, written = StoreFiles.write, list[str]()

    def dies(files: StoreFiles, name: str, content: bytes) -> None:
        if len(written) == ends_after:
            raise StoreError("the process ends here")
        written.append(name)
        write(files, name, content)

    monkeypatch.setattr(StoreFiles, "write", dies)
    with pytest.raises(StoreError, match="ends here"):
        store.save(renamed(bundle, 1))
    assert store.versions() == [store.champion()] == [bundle.version]


def test_a_file_in_a_folder_keeps_its_old_content_until_the_new_one_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(str(tmp_path), "machines")
    store.write_json("lease.json", b"old")

    def torn(path: Path, content: bytes) -> None:
        path.write_bytes(content[:1])
        raise OSError("disk full")

    monkeypatch.setattr(store_files, "_write_through", torn)
    with pytest.raises(StoreError, match="disk full"):
        store.write_json("lease.json", b"new")
    assert store.read_json("lease.json") == b"old"
    assert [path.name for path in (tmp_path / "machines").iterdir()] == ["lease.json"]


def test_a_pointer_that_grows_while_it_is_read_is_read_whole(
    store: Store, three: list[str], place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = place.read("champion.json")
    place.write("champion.json", json.dumps({"version": three[0], "history": []}).encode())
    files = place.files  # fsspec gives the same object for the same URL
    size = files.size

    def replaced_after(path: str) -> int:
        monkeypatch.setattr(files, "size", size)
        before = int(size(path))
        place.write("champion.json", whole)
        return before

    monkeypatch.setattr(files, "size", replaced_after)
    assert store.history() == three


def test_the_champion_is_served(store: Store, three: list[str]) -> None:
    served = store.servable()
    assert served is not None
    assert served.version == three[2]


@pytest.mark.parametrize("name", [MANIFEST, "features.safetensors"])
def test_where_the_champion_is_gone_or_damaged_the_newest_before_it_that_loads_is_served(
    store: Store, three: list[str], place: Place, name: str
) -> None:
    damage(place, f"{three[2]}/features.safetensors")
    place.remove(f"{three[1]}/{name}")
    with capture_logs() as logs:
        served = store.servable()
    assert served is not None
    assert served.version == three[0]
    assert [entry["version"] for entry in logs if entry["log_level"] == "error"] == [three[2], three[1], three[0]]


def test_where_nothing_loads_the_champions_trouble_is_told(store: Store, three: list[str], place: Place) -> None:
    for version in three:
        damage(place, f"{version}/level.safetensors")
    with pytest.raises(BundleError, match=rf"{three[2]}: file 'level\.safetensors' has SHA-256"):
        store.servable()


def test_nothing_that_comes_by_itself_replaces_a_pinned_version(store: Store, three: list[str]) -> None:
    store.pin(three[0])
    assert (store.champion(), store.pinned()) == (three[0], three[0])
    with pytest.raises(StoreError, match=f"{three[2]} is not promoted: {three[0]} is pinned"):
        store.promote(three[2], automatic=True)
    assert store.withdraw(three[0]) == store.champion() == three[0]


def test_a_person_ends_a_pin_by_unpin_promote_or_rollback(store: Store, three: list[str]) -> None:
    for end in (store.unpin, store.rollback, lambda: store.promote(three[2])):
        store.pin(three[2])
        end()
        assert store.pinned() is None
    assert store.unpin() is None


def test_unpin_leaves_the_version_in_service(store: Store, three: list[str]) -> None:
    store.pin(three[1])
    assert store.unpin() == store.champion() == three[1]
    store.promote(three[2], automatic=True)
    assert store.champion() == three[2]


def test_a_version_is_withdrawn_for_its_predecessor(store: Store, three: list[str]) -> None:
    assert store.withdraw(three[2]) == store.champion() == three[1]


def test_a_version_that_no_longer_serves_is_not_withdrawn(store: Store, three: list[str]) -> None:
    assert store.withdraw(three[1]) == store.champion() == three[2]


def test_versions_that_are_promoted_at_once_are_all_in_the_history(
    tmp_path: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_files, "_PAUSE_S", 0.001)
    place = Place(str(tmp_path))
    versions = [renamed(bundle, day) for day in range(8)]
    for version in versions:
        place.store().save(version)
    with ThreadPoolExecutor(len(versions)) as pool:
        for done in [pool.submit(place.store().promote, version.version) for version in versions]:
            done.result()
    assert sorted(place.store().history()) == [version.version for version in versions]


def test_a_promotion_that_has_to_wait_sees_the_pin_that_it_waited_for(
    store: Store, three: list[str], place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    person = StoreFiles(place.url, "machines").alone()
    person.__enter__()

    def pinned_meanwhile(_: float) -> None:
        content = {"version": three[0], "history": [], "pinned": True}
        place.write("champion.json", json.dumps(content).encode())
        person.__exit__(None, None, None)

    monkeypatch.setattr(store_files, "time", SimpleNamespace(monotonic=time.monotonic, sleep=pinned_meanwhile))
    with pytest.raises(StoreError, match="is pinned"):
        store.promote(three[1], automatic=True)
    assert store.history() == three[:1]


@pytest.mark.parametrize("refusal", [FileExistsError(), OSError("conflict")])
def test_a_writer_that_comes_second_waits_whatever_the_store_calls_it(
    store: Store, bundle: Bundle, place: Place, refusal: OSError, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = place.files  # fsspec gives the same object for the same URL
    opened = files.open

    def refused(path: str, mode: str) -> Any:
        monkeypatch.setattr(files, "open", opened)
        if not isinstance(refusal, FileExistsError):  # which says it even where the other is gone by now
            place.write(".writer", b"the first")
        raise refusal

    monkeypatch.setattr(files, "open", refused)
    monkeypatch.setattr(store_files, "_PATIENCE_S", -1.0)
    store.promote(bundle.version)
    assert store.champion() == bundle.version


def test_a_writer_that_died_holds_nobody_off_for_ever(
    store: Store, bundle: Bundle, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.write(".writer", b"its name")
    clock = itertools.count(0.0, 10.0)
    pauses = list[float]()
    monkeypatch.setattr(store_files, "time", SimpleNamespace(monotonic=lambda: next(clock), sleep=pauses.append))
    store.promote(bundle.version)
    assert store.champion() == bundle.version
    assert len(pauses) > 3
    assert ".writer" not in place.names()


def test_a_writer_that_is_thought_dead_takes_nobody_elses_turn_away(store: Store, place: Place) -> None:
    with StoreFiles(place.url, "machines").alone():
        place.write(".writer", b"who came after")
    assert place.read(".writer") == b"who came after"


def test_trials_are_told_in_the_manifest_and_the_version_still_loads(store: Store, bundle: Bundle) -> None:
    store.add_verdict(bundle.version, TRIAL)
    store.add_verdict(bundle.version, TRIAL.model_copy(update={"stage": "watch"}))
    told = store.load(bundle.version).manifest
    assert [trial.stage for trial in told.trials] == ["shadow", "watch"]
    assert told.trials[0] == TRIAL
    assert told.model_copy(update={"trials": []}).sha256 == store.manifest(bundle.version).sha256


def test_prune_keeps_the_newest_what_serves_its_predecessor_and_what_is_spared(
    store: Store, bundle: Bundle, place: Place
) -> None:
    versions = [renamed(bundle, day) for day in range(-8, 0)]
    for version in versions:
        store.save(version)
    names = [version.version for version in versions]
    for name in (names[0], names[1], names[3]):
        store.promote(name)
    assert store.prune(2, spare=[names[5]]) == [names[0], names[2], names[4], names[6]]
    assert store.versions() == [names[1], names[3], names[5], names[7], bundle.version]
    assert not [name for name in place.names() if name.startswith(names[0])]
    assert store.rollback() == names[1]


def test_prune_deletes_nothing_where_there_are_no_more_than_it_keeps(store: Store, bundle: Bundle) -> None:
    assert store.prune(5) == []
    assert store.versions() == [bundle.version]


def test_a_version_that_is_pruned_is_none_before_its_files_go(
    store: Store, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.save(renamed(bundle, 1))

    def looked_at(files: StoreFiles, name: str) -> None:
        assert name == bundle.version
        assert store.versions() == [renamed(bundle, 1).version]
        raise StoreError("the process ends here")

    monkeypatch.setattr(StoreFiles, "remove_folder", looked_at)
    with pytest.raises(StoreError, match="ends here"):
        store.prune(1)


def test_what_a_dead_writer_left_is_pruned_after_a_while_and_not_before(
    store: Store, bundle: Bundle, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead = renamed(bundle, 1).version
    for name in (f"{dead}/features.safetensors", "champion.json.0.part", "requests/1.json"):
        StoreFiles(place.url, "machines").write(name, b"half")
    store.prune(1)
    assert {f"{dead}/features.safetensors", "champion.json.0.part"} <= {*place.names()}
    monkeypatch.setattr(store_module, "_DEAD_S", -10.0)
    store.prune(1)
    assert not [name for name in place.names() if name.startswith(dead) or name.endswith(".part")]
    assert "requests/1.json" in place.names()
    assert store.load(bundle.version).version == bundle.version


def test_a_dead_writer_is_told_by_the_clock_of_the_store(tmp_path: Path, bundle: Bundle) -> None:
    left = tmp_path / "machines" / bundle.version / "features.safetensors"
    left.parent.mkdir(parents=True)
    for hours, stays in ((23, True), (25, False)):
        left.write_bytes(b"half")
        os.utime(left, (time.time() - hours * 3600,) * 2)
        Store(str(tmp_path), "machines").prune(1)
        assert left.exists() is stays


def test_files_beside_the_versions_are_written_read_listed_and_removed(store: Store, bundle: Bundle) -> None:
    for name in ("requests/1.json", "requests/2.json", "reports/1.json", "lease.json"):
        store.write_json(name, name.encode())
    store.write_json("lease.json", b"{}")
    assert store.read_json("lease.json") == b"{}"
    assert store.names("requests/") == ["requests/1.json", "requests/2.json"]
    assert store.names("le") == ["lease.json"]
    store.remove("requests/1.json")
    store.remove("requests/1.json")
    assert store.read_json("requests/1.json") is None
    assert store.names("requests/") == ["requests/2.json"]
    assert store.versions() == [bundle.version]


@pytest.mark.parametrize(
    "name",
    ["champion.json", "20260301T030000Z-4be1/manifest.json", "../x", "a/../../x", "/etc/x", ".writer", "", "a//b"],
)
def test_a_file_beside_the_versions_is_none_of_theirs(store: Store, name: str) -> None:
    for use in (store.read_json, store.remove, store.names, lambda name: store.write_json(name, b"{}")):
        with pytest.raises(StoreError, match="is no file beside the versions"):
            use(name)


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
