"""The diagram of the lifecycle against the code."""

from __future__ import annotations

from pathlib import Path
from typing import get_args, get_type_hints

from detector.bundle import Trial
from detector.trainings import Phase, Reason, Result

DOCUMENT = Path(__file__).parents[2] / "docs" / "lifecycle.md"
DIAGRAM = DOCUMENT.read_text(encoding="utf-8").split("```")[1]


def test_the_diagram_has_every_stage_in_the_order_in_which_they_come() -> None:
    stages = ["training", *get_args(get_type_hints(Trial)["stage"])]
    assert set(get_args(Phase)) <= set(stages)
    places = [DIAGRAM.index(f"  {stage} ") for stage in stages]
    assert places == sorted(places)


def test_the_diagram_has_every_way_in_which_a_training_is_asked_for_and_ends() -> None:
    for word in (*get_args(Reason), *get_args(Result)):
        assert word in DIAGRAM, word
