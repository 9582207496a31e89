"""The pages of the documentation taken apart: fenced blocks, and what is said of the command line.

A title says how a block is to be followed, to the reader and to `reader.py`:

- `Needs …`: it cannot be run here. Our commands in it are held against the command line all the same.
- `In another terminal`: it goes on while the reader does.
- `Until Ctrl-C`: the reader ends it, after something was printed.
- `name.py`, of Python: a file to save.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml

ROOT = Path(__file__).parents[2]
GENERATED = {ROOT / "docs" / "commands.md"}
"""Its blocks are synopses."""
_FENCE = re.compile(r"^( *)```(\w*)(?: +title=\"([^\"\n]*)\")? *\n(.*?)^\1``` *$", re.MULTILINE | re.DOTALL)
_OPERATORS = set("|&;<>()")


class Block(NamedTuple):
    """A fenced block, with its line in the page."""

    page: Path
    line: int
    language: str
    title: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def pages() -> list[Path]:
    """All pages that people write, those of the site in the order of its navigation."""
    site = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    inside = [ROOT / "docs" / name for name in _names(site["nav"])]
    outside = [ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
    return [page for page in (*inside, *outside) if page not in GENERATED and page.exists()]


def _names(nav: object) -> Iterator[str]:
    match nav:
        case str():
            yield nav
        case list():
            for item in nav:
                yield from _names(item)
        case dict():
            for item in nav.values():
                yield from _names(item)


def blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    return [
        Block(page, text.count("\n", 0, found.start()) + 1, found[2], found[3] or "", found[4])
        for found in _FENCE.finditer(text)
    ]


def command_lines(text: str) -> list[str]:
    """The commands of a shell block; a backslash joins a line to the next."""
    lines = [line.strip() for line in text.replace("\\\n", " ").splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


def words(line: str) -> list[str]:
    """A command line as the shell splits it, without comments; operators are words of their own."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split, lexer.commenters = True, "#"
    return list(lexer)


def ours(line: str) -> Iterator[list[str]]:
    """The arguments of each call of our command in a line, be it run by another (`kubectl exec … -- offnominal …`)."""
    said = words(line)
    for place, word in enumerate(said):
        before = said[place - 1] if place else ""
        begins = not place or "=" in before or before == "--" or set(before) <= set("|&;(")
        if (begins and word == "offnominal") or (before, word) == ("-m", "detector"):
            rest = said[place + 1 :]
            end = next((at for at, it in enumerate(rest) if set(it) <= _OPERATORS), len(rest))
            yield rest[:end]


def alternatives(text: str) -> list[dict[str, Any]]:
    """The settings that a block of YAML shows; where a key stands in it more than once, one for each of its values."""
    entries = [yaml.safe_load(part) for part in re.split(r"\n(?=[\w])", text) if part.strip()]
    every: dict[str, Any] = {key: value for entry in entries for key, value in (entry or {}).items()}
    return [{**every, **(entry or {})} for entry in entries]


def mentions(page: Path) -> list[str]:
    """What stands in the running text as our command, `offnominal models list`."""
    text = _FENCE.sub("", page.read_text(encoding="utf-8"))
    return [" ".join(found.split()) for found in re.findall(r"`offnominal ([^`]+)`", text)]
