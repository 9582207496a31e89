"""The page on models against the code."""

from __future__ import annotations

import pkgutil
import re
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

import pytest
from pydantic import BaseModel

import models
from detector import averages, calibration, choice, parts
from detector.config_models import ModelSettings
from detector.inference import yaml_line
from models.registry import KINDS

PAGE = (Path(__file__).parents[2] / "docs" / "models.md").read_text(encoding="utf-8")
SETTINGS: tuple[type[BaseModel], ...] = get_args(get_args(ModelSettings)[0])
DECIDING = (choice, averages, calibration)
"""Modules whose public constants are all on the page."""


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def table(first: str) -> list[dict[str, str]]:
    """The rows of all tables whose first column is called so, by column."""
    rows: list[dict[str, str]] = []
    for part in re.findall(r"(?:^\|.*\n)+", PAGE, re.MULTILINE):
        head, _, *lines = map(cells, part.splitlines())
        if head[0] == first:
            rows += [dict(zip(head, line, strict=True)) for line in lines]
    return rows


def section(heading: str) -> str:
    """What stands under a heading, on one line."""
    _, found, after = PAGE.partition(f"\n### {heading}\n")
    assert found, heading
    return " ".join(after.split("\n#")[0].split())


def modules_of_models() -> list[ModuleType]:
    return [import_module(f"models.{it.name}") for it in pkgutil.iter_modules(models.__path__)]


def several(value: Any) -> Iterable[Any]:
    return value if isinstance(value, tuple) else (value,)


def written(value: Any) -> str:
    """A constant as the page writes it: models by their word, numbers short, several with commas between."""
    return ", ".join(
        f"`{it.model_dump()['type']}`" if isinstance(it, BaseModel) else f"{it:g}" for it in several(value)
    )


def constants(module: ModuleType) -> dict[str, str]:
    """The numbers, models and rows of them that a module names in capitals, as the page writes them."""
    return {
        name: written(value)
        for name, value in vars(module).items()
        if name.isupper() and all(isinstance(it, int | float | BaseModel) for it in several(value))
    }


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_in_the_table_with_its_window_and_what_its_score_is(kind: str) -> None:
    (row,) = (row for row in table("kind") if row["kind"] == f"`{kind}`")
    model = KINDS[kind]
    assert row["window"] == str(model.window)
    density = "density of the record given the past" if model.conditional else "density of the window"
    assert (row["its score is"] == density) is model.is_density
    assert row["its score is"].startswith("density") is model.is_density


def test_the_table_has_no_other_kinds() -> None:
    assert {row["kind"] for row in table("kind")} == {f"`{kind}`" for kind in KINDS}


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda settings: settings.__name__)
def test_every_kind_has_a_section_with_its_settings_and_their_defaults(settings: type[BaseModel]) -> None:
    (kind,) = get_args(settings.model_fields["type"].annotation)
    text = section(f"`{kind}`")
    told = re.search(r"Settings: (none|`.*?`(?:, `.*?`)*)\. `(\w+)`", text)
    assert told, text
    defaults = settings(type=kind).model_dump(exclude={"type"})
    assert re.findall(r"`(.*?)`", told[1]) == [f"{key}: {yaml_line(value)}" for key, value in defaults.items()]
    assert told[2] == KINDS[kind].__name__


@pytest.mark.parametrize("module", DECIDING, ids=lambda module: module.__name__)
def test_every_constant_that_decides_is_there_with_its_value(module: ModuleType) -> None:
    told = {row["constant"].strip("`"): row["value"] for row in table("constant")}
    for name, value in constants(module).items():
        assert name.startswith("_") or told.get(name) == value, f"{name} is {value}"


def test_no_constant_has_a_value_that_it_does_not_have_in_the_code() -> None:
    known = {item for module in (*modules_of_models(), *DECIDING, parts) for item in constants(module).items()}
    told = {(row["constant"].strip("`"), row["value"]) for row in table("constant")}
    assert told - known == set()
