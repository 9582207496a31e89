from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from models.base import seeded
from models.distributed import MOST_RANKS, started
from models.ranks import Noise, Part, averaged, rolled
from tests.models.fitting_along import KINDS, every_kind

DEADLINE_S = 240.0
HERE = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1"]
ALONG = ["-m", "tests.models.fitting_along"]
FITS = [*KINDS, *(f"{kind} tuned" for kind in KINDS)]


@pytest.fixture(scope="module")
def alone() -> dict[str, Tensor]:
    return every_kind()


@pytest.fixture(scope="module")
def by_two(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    path = tmp_path_factory.mktemp("ranks") / "scores.safetensors"
    ran = subprocess.run(
        [*TORCHRUN, "--nproc-per-node", "2", *ALONG, str(path)],
        env=HERE,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
    )
    assert ran.returncode == 0, ran.stderr
    return load_file(path)


@pytest.mark.xdist_group("ranks")  # all fits are of one run
@pytest.mark.parametrize("fit", FITS)
def test_two_processes_fit_what_one_does(fit: str, alone: Mapping[str, Tensor], by_two: Mapping[str, Tensor]) -> None:
    torch.testing.assert_close(by_two[fit], alone[fit], rtol=0, atol=1e-3)


def test_a_rank_that_fails_ends_the_leader_with_a_reason(tmp_path: Path) -> None:
    leader, helper = (rank_of_two(rank, tmp_path, port) for port in [free_port()] for rank in (0, 1))
    _, told = leader.communicate(timeout=DEADLINE_S)
    _, failure = helper.communicate(timeout=DEADLINE_S)
    assert (leader.returncode, helper.returncode) == (1, 1)
    assert "RankLost: Rank 0 of 2 lost another one" in told
    assert "MemoryError: none is left" in failure
    assert not list(tmp_path.iterdir())


def rank_of_two(rank: int, folder: Path, port: int) -> subprocess.Popen[str]:
    """A process as `torchrun` would start it, without one that ends it when the other fails; the second one fails."""
    group = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return subprocess.Popen(
        [sys.executable, *ALONG, str(folder / "scores.safetensors"), "lost"],
        env={**HERE, **{name: str(value) for name, value in group.items()}},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.parametrize("ranks", [3, 2 * MOST_RANKS])
def test_batches_that_cannot_be_shared_evenly_are_refused(monkeypatch: pytest.MonkeyPatch, ranks: int) -> None:
    monkeypatch.setenv("WORLD_SIZE", str(ranks))
    with pytest.raises(ValueError, match=f"started {ranks} processes. Expected a power of two, 64 at most"):
        started()


def test_parts_of_a_batch_get_the_noise_that_the_whole_gets() -> None:
    whole = Noise(seeded(1))
    parts = [Noise(seeded(1), Part(number, 4)) for number in range(4)]
    torch.testing.assert_close(torch.cat([it.normal(8, 3) for it in parts]), whole.normal(32, 3), rtol=0, atol=0)
    torch.testing.assert_close(torch.cat([it.uniform(2) for it in parts]), whole.uniform(8), rtol=0, atol=0)


def test_a_process_alone_has_the_whole_batch_and_sends_nothing() -> None:
    assert started() == 1
    assert Part.own() == Part(0, 1)
    rows, loss = torch.arange(6.0), torch.tensor(2.0)
    assert averaged(loss, [rows]) is loss
    assert rolled(rows).tolist() == [5, 0, 1, 2, 3, 4]
