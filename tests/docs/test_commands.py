"""Whoever follows the pages gets what they say; and what they call by name is there."""

from __future__ import annotations

import ast
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from detector.cli import app
from detector.config import DetectorSettings
from detector.loading import groups_in
from tests.docs.pages import ROOT, blocks, command_lines, mentions, ours, pages, words
from tests.docs.reader import Reader

COMMAND: Any = typer.main.get_command(app)
FIRST = ROOT / "docs" / "guide" / "first-alert.md"
GUIDE = ROOT / "docs" / "guide" / "reading-an-alert.md"
README = ROOT / "README.md"
SHELL = ("sh", "console", "bash", "")
PAGES = pages()
FOLLOWED = [
    page
    for page in PAGES
    if page not in (FIRST, README)
    and any(it.language in ("sh", "python", "yaml") and not it.title.startswith("Needs ") for it in blocks(page))
]


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    """Has followed the page on the first alert: a broker and a daemon run."""
    assert shutil.which("curl"), "the pages use curl"
    with Reader(tmp_path_factory.mktemp("reader")) as reader:
        reader.follow(FIRST)
        yield reader


@pytest.mark.xdist_group("pages")  # one reader, who has followed the first page
@pytest.mark.parametrize("page", FOLLOWED, ids=name)
def test_the_page_can_be_followed_word_for_word(reader: Reader, page: Path) -> None:
    reader.follow(page)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_no_block_is_overlooked(page: Path) -> None:
    fences = [line for line in page.read_text(encoding="utf-8").splitlines() if line.lstrip().startswith("```")]
    assert len(fences) == 2 * len(blocks(page))


def test_the_readme_subscribes_as_the_guide_does() -> None:
    ((one,), (other,)) = ([it.text for it in blocks(page) if it.language == "python"] for page in (README, GUIDE))
    assert ast.dump(ast.parse(one)) == ast.dump(ast.parse(other.replace("machine-metrics-alerts", "machine-alerts")))


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_command_in_a_block_would_be_taken(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = without_effect(typer.main.get_command(app))
    for block in blocks(page):
        for line in command_lines(block.text) if block.language in SHELL else ():
            for arguments in ours(line):
                with pytest.raises(SystemExit) as ended:
                    command.main(arguments, prog_name="offnominal")
                assert ended.value.code == 0, f"{block}: {line}\n{capsys.readouterr().err}"


def without_effect(command: Any) -> Any:
    """A command that takes arguments or refuses them, and does nothing."""
    command.callback = None
    for inner in getattr(command, "commands", {}).values():
        without_effect(inner)
    return command


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_command_and_option_in_the_running_text_is_there(page: Path) -> None:
    for mention in mentions(page):
        command = COMMAND
        for word in words(mention):
            known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
            if word.startswith("-"):
                assert word.partition("=")[0] in known | {"--help"}, f"offnominal {mention}"
            elif hasattr(command, "commands"):
                assert word in command.commands, f"offnominal {mention}"
                command = command.commands[word]


def settings(group: Any, path: tuple[str, ...] = ()) -> Iterator[str]:
    for key, info in group.model_fields.items():
        below = (*path, info.alias or key)
        yield ".".join(below)
        for inner in groups_in(info.annotation):
            yield from settings(inner, below)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_setting_in_the_running_text_is_there(page: Path) -> None:
    known = set(settings(DetectorSettings))
    groups = {path.partition(".")[0] for path in known if "." in path}
    for word in re.findall(r"`([a-z_]+(?:\.[a-z_]+)+)`", page.read_text(encoding="utf-8")):
        if word.partition(".")[0] in groups and not word.endswith((".py", ".md", ".yaml", ".json")):
            assert word in known, word
