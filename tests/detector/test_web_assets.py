"""The dashboard's files as they lie in the package: small, whole, and fit for the policy they are served under."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

import detector.web

ASSETS = Path(detector.web.__file__).parent / "assets"
FIRST_LOAD = 300_000
"""Bytes that a browser may have to fetch before anything shows."""

SCRIPTS = sorted(path for path in ASSETS.rglob("*.js") if path.name != "uplot.js")
MODULES = [path for path in SCRIPTS if path.name != "theme.js"]
INDEX = (ASSETS / "index.html").read_text(encoding="utf-8")
REFERENCES = set(re.findall(r'(?:src|href)="assets/([^"]+)"', INDEX))


def named(path: Path) -> str:
    return path.relative_to(ASSETS).as_posix()


def test_the_first_load_is_small() -> None:
    assert len(INDEX) + sum((ASSETS / name).stat().st_size for name in REFERENCES) < FIRST_LOAD


def test_every_file_the_page_names_is_there() -> None:
    assert all((ASSETS / name).is_file() for name in REFERENCES)


def test_every_module_is_fetched_at_once() -> None:
    assert {named(path) for path in MODULES} <= REFERENCES


@pytest.mark.parametrize("script", MODULES, ids=named)
def test_imports_name_files_that_are_there(script: Path) -> None:
    imported = re.findall(r'^(?:import|export) .*?from "([^"]+)";', script.read_text(encoding="utf-8"), re.M | re.S)
    assert all((script.parent / name).is_file() for name in imported)


def test_the_page_runs_and_styles_nothing_inline() -> None:
    assert not re.search(r"<script(?![^>]* src=)|<style|\sstyle=|\son\w+=", INDEX)


@pytest.mark.parametrize("script", SCRIPTS, ids=named)
def test_nothing_is_parsed_as_markup_or_code(script: Path) -> None:
    source = script.read_text(encoding="utf-8")
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacentHTML|DOMParser|document\.write|\beval\(|new Function", source
    )
    assert not re.search(r"""setAttribute\(\s*["']style""", source)


@pytest.mark.parametrize("path", [ASSETS / "index.html", ASSETS / "style.css", *SCRIPTS], ids=named)
def test_nothing_comes_from_elsewhere(path: Path) -> None:
    addresses = set(re.findall(r"(?:https?:)?//[a-z][\w.-]+\.[a-z]+[^\s\"']*", path.read_text(encoding="utf-8")))
    assert addresses <= {"http://www.w3.org/2000/svg"}
    assert "url(" not in path.read_text(encoding="utf-8")


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
@pytest.mark.parametrize("script", SCRIPTS, ids=named)
def test_scripts_are_well_formed(script: Path) -> None:
    kind = "module" if script in MODULES else "commonjs"
    checked = subprocess.run(
        ["node", "--check", f"--input-type={kind}", "-"], input=script.read_bytes(), capture_output=True, check=False
    )
    assert checked.returncode == 0, checked.stderr.decode()
