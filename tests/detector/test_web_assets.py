"""The dashboard's files as they lie in the package: small, whole, and fit for the policy they are served under."""

import json
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
needs_node = pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
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


@needs_node
@pytest.mark.parametrize("script", SCRIPTS, ids=named)
def test_scripts_are_well_formed(script: Path) -> None:
    kind = "module" if script in MODULES else "commonjs"
    checked = subprocess.run(
        ["node", "--check", f"--input-type={kind}", "-"], input=script.read_bytes(), capture_output=True, check=False
    )
    assert checked.returncode == 0, checked.stderr.decode()


def told(expression: str) -> object:
    """What an expression of the pure functions gives, which need no browser."""
    names = {"dom.js": "cut, visible", "words.js": "figure, odds, value, wellbeing", "time.js": "span, tell"}
    more = {"address.js": "here", "lanes.js": "drawn"}
    imports = "".join(f"import {{ {it} }} from '{(ASSETS / name).as_uri()}';" for name, it in (names | more).items())
    ran = subprocess.run(
        ["node", "--no-warnings", "--experimental-default-type=module", "--input-type=module"],
        input=f"{imports} console.log(JSON.stringify({expression}))".encode(),
        capture_output=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr.decode()
    return json.loads(ran.stdout)


@needs_node
def test_nothing_a_record_holds_is_hidden_or_turned_around() -> None:
    assert told(r"visible('a\u0000\u001b\u202eb\u200bc\u007f\ud800')") == "a␀␛⟨U+202E⟩b⟨U+200B⟩c␡⟨U+D800⟩"


@needs_node
def test_long_texts_are_cut_between_characters() -> None:
    assert told("[cut('x'.repeat(200000), 5), cut('😀😀😀', 3), cut('😀😀😀😀', 3)]") == ["xxxx…", "😀😀😀", "😀😀…"]


@needs_node
def test_unlikelihood_is_told_as_one_in_so_many() -> None:
    assert told("[0.05, 1 / 2400, 2.9e-7, 1e-15, null].map(odds)") == [
        *("1 in 20", "1 in 2,400", "1 in 3.4 million", "less than 1 in a trillion"),
        None,
    ]


@needs_node
def test_times_are_told_in_the_chosen_zone_with_a_year_that_is_not_this_one() -> None:
    assert told("[tell(0, 'UTC'), tell(0, 'Asia/Tokyo')]") == ["1 Jan 1970 00:00:00", "1 Jan 1970 09:00:00"]
    assert told("[0, 61000, 7200000, 950400000].map(span)") == ["less than 1 s", "1 min 1 s", "2 h", "11 d"]


@needs_node
def test_the_status_says_what_hinders_it_before_anything_else() -> None:
    now = "{ ready: READY, degraded: true, phase: 'retrying', detail: 'no broker', alarms: 1, promised_alarms: 4.1 }"
    assert told(f"wellbeing({now.replace('READY', 'false')}).tone") == "bad"
    assert told(f"wellbeing({now.replace('READY', 'true')})") == {
        "tone": "doubt",
        "head": "Scoring, but not well:",
        "rest": "no broker. 1 alarm where 4.1 were allowed",
    }


@needs_node
def test_an_address_holds_the_view_and_its_filters() -> None:
    assert told("(({ name, id, params }) => [name, id, params.get('tz')])(here('#/incident/9c1a?tz=UTC'))") == [
        *("incident", "9c1a", "UTC")
    ]
    assert told("here('').name") == "now"


@needs_node
def test_spans_that_would_cover_one_another_are_one_as_bad_as_the_worst() -> None:
    spans = (
        "[{ begin: 0, end: 10, severity: 'minor' }, { begin: 5, end: 6, severity: 'critical' },"
        " { begin: 900, end: null, severity: 'major' }]"
    )
    shown = told(
        f"drawn({spans}, {{ begin: 0, end: 1000 }}, 1000).map((it) => [it.worst.severity, it.all.length, it.right])"
    )
    assert shown == [["critical", 2, 11], ["major", 1, 1000]]
