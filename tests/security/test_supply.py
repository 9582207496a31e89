"""What is installed is pinned and hashed, and nothing in the packages runs what a file or a record says."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from importlib.metadata import requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
SOURCES = sorted(path for package in ("consumers", "models", "detector") for path in (ROOT / package).rglob("*.py"))
UNHASHED = re.compile("torch$|triton$|nvidia-|cuda-")
"""Each index has builds of torch of its own, and these bring drivers where they are for a GPU."""
FORBIDDEN = {
    *("eval", "exec", "compile", "__import__"),
    *("pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"),
    *("torch.load", "numpy.load", "np.load", "pandas.read_pickle"),
    *("yaml.load", "yaml.load_all", "yaml.full_load", "yaml.unsafe_load", "yaml.Loader", "yaml.UnsafeLoader"),
    *("os.system", "os.popen", "subprocess.getoutput", "tempfile.mktemp"),
    *("xml", "lxml"),
}
"""What runs code out of data, or leaves a gap for others to step into."""


def pins(name: str) -> dict[str, str]:
    """Versions by canonical name."""
    found = re.findall(r"^([A-Za-z0-9._-]+)==([^\s\\]+)", (ROOT / name).read_text(encoding="utf-8"), re.MULTILINE)
    return {canonicalize_name(package): version for package, version in found}


def needed(package: str, seen: set[str]) -> set[str]:
    """What a package needs at run time here, and what that needs, and so on."""
    for line in requires(package) or ():
        requirement = Requirement(line)
        name = canonicalize_name(requirement.name)
        if name in seen or (requirement.marker and not requirement.marker.evaluate({"extra": ""})):
            continue
        seen.add(name)
        needed(name, seen)
    return seen


def test_the_lock_holds_the_versions_that_are_tested_and_all_that_the_product_needs() -> None:
    locked, tested = pins("requirements.lock"), pins("constraints.txt")
    assert locked.items() <= tested.items()
    assert {name for name in needed("offnominal", set()) if not UNHASHED.match(name)} <= locked.keys()


def test_every_line_of_the_lock_has_a_hash_and_none_an_address() -> None:
    text = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    entries = text.replace("\\\n", " ").splitlines()
    assert all("--hash=sha256:" in entry for entry in entries if "==" in entry)
    assert "://" not in text


def names(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Every name that is used, dotted as it is written, and every module that is imported, with the line."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Name | ast.Attribute):
            yield node.lineno, ast.unparse(node)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_runs_code_out_of_data(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    used = [f"line {line}: {name}" for line, name in names(tree) if {name, name.split(".")[0]} & FORBIDDEN]
    unsafe = [
        f"line {node.lineno}: {keyword.arg}"
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        for keyword in node.keywords
        if keyword.arg in ("shell", "allow_pickle")
        and not (isinstance(keyword.value, ast.Constant) and not keyword.value.value)
    ]
    assert used + unsafe == []


def test_the_tests_that_the_documentation_names_are_there() -> None:
    named = re.findall(r"`([\w/]+/test_\w+)`", (ROOT / "docs/security.md").read_text(encoding="utf-8"))
    assert len(named) > 20
    assert [name for name in named if not (ROOT / "tests" / f"{name}.py").is_file()] == []
