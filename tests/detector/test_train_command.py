from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from detector.bundle import Bundle
from detector.commands.train import train_version
from detector.config import DetectorSettings
from detector.errors import SettingsError
from detector.loading import load
from detector.store import Store
from tests.detector.machines import records, settings

DEADLINE_S = 240.0
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1"]
HERE = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
MODELS = [{"type": "vae", "epochs": 4}, {"type": "gmm", "components": 1}]


def config(folder: Path) -> Path:
    """A settings file that trains on a file beside it, by gradient and in closed form."""
    folder.mkdir()
    (folder / "past.ndjson").write_bytes(b"\n".join(records(3_000)))
    chosen = settings(folder, models=MODELS, training={"files": [str(folder / "past.ndjson")], "min_records": 300})
    path = folder / "offnominal.yaml"
    path.write_text(yaml.safe_dump(chosen.model_dump(mode="json", exclude_unset=True)))
    return path


def offnominal_train(path: Path, ranks: int) -> subprocess.CompletedProcess[str]:
    command = [*TORCHRUN, "--nproc-per-node", str(ranks), "-m", "detector", "train", "-c", str(path), "--json"]
    return subprocess.run(command, env=HERE, capture_output=True, text=True, timeout=DEADLINE_S)


def champion(chosen: DetectorSettings) -> Bundle:
    store = Store(chosen.store.url, chosen.name)
    (version,) = store.versions()
    assert version == store.champion()
    return store.load(version)


def test_two_processes_store_and_tell_the_version_that_one_does(tmp_path: Path) -> None:
    one, two = config(tmp_path / "one"), config(tmp_path / "two")
    ran = offnominal_train(two, 2)
    assert ran.returncode == 0, ran.stderr
    assert train_version(load(one), as_json=False) == 0
    alone, together = champion(load(one)).manifest, champion(load(two)).manifest
    assert json.loads(ran.stdout)["version"] == together.version
    assert [it.kind for it in together.models] == [it.kind for it in alone.models] == ["vae", "gmm"]
    for model, shared in zip(alone.models, together.models, strict=True):
        assert shared.valid_score == pytest.approx(model.valid_score, abs=1e-3)
    assert together.verdict.realised_rate == pytest.approx(alone.verdict.realised_rate, abs=2e-3)


def test_what_goes_wrong_is_told_once_and_ends_all_processes(tmp_path: Path) -> None:
    path = config(tmp_path / "two")
    (tmp_path / "two" / "past.ndjson").write_bytes(b"\n".join(records(9)))
    ran = offnominal_train(path, 2)
    assert ran.returncode == 1
    assert ran.stderr.count("NotEnoughRows: 9 usable records") == 1
    assert not Store(str(tmp_path / "two" / "store"), "machines").versions()


def test_a_number_of_processes_that_cannot_share_batches_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(SettingsError, match=r"torchrun started 3 processes. Expected a power of two"):
        train_version(load(config(tmp_path / "one")), as_json=True)
