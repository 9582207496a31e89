"""The deliberately bad retrainings are bad in the way they say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.lifecycle.machine import Machine
from benchmarks.lifecycle.retrainings import _KINDS, FEW, Run, figures
from detector.demo.recording import load_recording

ROWS = 2_000


@pytest.fixture(scope="module")
def machine() -> Machine:
    return Machine(load_recording(), Path("nowhere"), [])


@pytest.mark.parametrize("kind", [kind for kind in _KINDS if kind != "another machine"])
def test_every_kind_spoils_the_records_and_leaves_the_recording_alone(machine: Machine, kind: str) -> None:
    rows = machine.recording.values[:ROWS]
    before = rows.copy()
    spoiled = _KINDS[kind](machine, rows, np.random.default_rng(0), None, 0)
    assert spoiled is not None
    assert len(spoiled) == (FEW if kind == "few" else ROWS)
    assert kind == "few" or not np.array_equal(spoiled, before)
    np.testing.assert_array_equal(rows, before)


def test_without_the_suite_there_are_no_records_of_another_machine(machine: Machine) -> None:
    rows = machine.recording.values[:ROWS]
    assert _KINDS["another machine"](machine, rows, np.random.default_rng(0), None, 0) is None


def test_a_bad_version_counts_as_promoted_even_where_it_was_taken_back() -> None:
    def run(kind: str, outcome: str, serves: bool) -> Run:
        return Run(kind, 0, 0, outcome, serves, [])

    told = figures(
        [
            run("units", "refused", False),
            run("units", "rolled back", False),
            run("few", "promoted", True),
            run("good", "promoted", True),
            run("good", "refused", False),
        ]
    )
    assert (told["bad_runs"], told["bad_promoted"]) == (3, 2)
    assert (told["good_runs"], told["good_promoted"]) == (2, 1)
    assert told["bad_refused"] == {"units": 1, "few": 0}
