from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from benchmarks.scale_out import PARTITIONS, Group, Standstill, daemon_command

HALF = PARTITIONS // 2


def group(names: list[str], owned: dict[str, range]) -> Group:
    found = {name: frozenset(numbers) for name, numbers in owned.items()}
    return Group("t", cast(Any, SimpleNamespace(names=names)), cast(Any, SimpleNamespace(owned=found)))


def test_partitions_are_shared_when_those_that_run_have_all_of_them_evenly() -> None:
    assert group(["0", "1"], {"0": range(HALF), "1": range(HALF, PARTITIONS)}).shared()
    assert not group(["0", "1"], {"0": range(PARTITIONS)}).shared(), "one has none yet"
    assert not group(["0", "1"], {"0": range(HALF - 2), "1": range(HALF, PARTITIONS)}).shared(), "two are on their way"
    assert not group(["0"], {"0": range(HALF), "1": range(HALF, PARTITIONS)}).shared(), "one that is gone holds half"


def test_a_standstill_is_that_of_the_partition_that_waited_longest() -> None:
    standstill = Standstill({0: 5, 1: 5}, now=100.0)
    standstill.see({0: 6, 1: 5}, now=101.0)
    standstill.see({0: 7, 1: 5}, now=102.0)
    assert standstill.longest_s == 1.0, "one that has not moved yet is waited for"
    standstill.see({0: 7, 1: 6}, now=104.0)
    standstill.see({0: 8, 1: 7}, now=104.5)
    assert standstill.longest_s == 4.0


def test_replicas_are_daemons_with_names_of_their_own(tmp_path: Path) -> None:
    run = daemon_command(tmp_path / "detector.yaml", {"session_timeout_s": 10.0})
    env, *given = run("3")
    assert env == "env", "which gives way to the daemon, so that its processor time is found under its process id"
    assert given[:2] == ["OFFNOMINAL__KAFKA__SESSION_TIMEOUT_S=10.0", "OFFNOMINAL__KAFKA__INSTANCE=3"]
    assert Path(given[2]).exists()
    assert os.access(given[2], os.X_OK)
    assert given[3:] == ["-m", "detector", "run", "--config", str(tmp_path / "detector.yaml")]
