"""Pages and descriptions that are generated from the code are current, and leave nothing out."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pydantic import BaseModel

from detector.asyncapi import written
from detector.config import DetectorSettings
from detector.loading import groups_in
from detector.settings_page import settings_page
from detector.topics_page import topics_page

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize(
    ("file", "text"), [("settings.md", settings_page), ("topics.md", topics_page), ("asyncapi.yaml", written)]
)
def test_the_committed_file_is_current(file: str, text: Callable[[], str]) -> None:
    assert (DOCS / file).read_text(encoding="utf-8") == text(), "run: make generated"


def test_the_committed_page_of_commands_is_current(tmp_path: Path) -> None:
    made = tmp_path / "commands.md"
    arguments = ["utils", "docs", "--name", "offnominal", "--title", "Commands", "--output", str(made)]
    subprocess.run([sys.executable, "-m", "typer", "detector.cli", *arguments], check=True, capture_output=True)
    assert (DOCS / "commands.md").read_text(encoding="utf-8") == made.read_text(encoding="utf-8"), "run: make generated"


def anchors(group: type[BaseModel], path: str = "") -> Iterator[str]:
    """The paths of settings that are no lists of groups, and of those in groups that are no items."""
    for name, info in group.model_fields.items():
        below = f"{path}.{info.alias or name}".lstrip(".")
        match groups_in(info.annotation):
            case [inner] if inner is info.annotation:
                yield from anchors(inner, below)
            case _:
                yield below


@pytest.mark.parametrize("path", [*anchors(DetectorSettings)])
def test_every_setting_has_an_anchor_of_its_own(path: str) -> None:
    assert settings_page().count(f'<a id="{path}"></a>') == 1
