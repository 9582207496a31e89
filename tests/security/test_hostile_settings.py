"""A settings file is read or refused in little memory, whatever stands in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from detector.errors import SettingsError
from detector.loading import ENVIRONMENT_PREFIX, load
from tests.security.memory import at_most

MERGED = "a0: &a0 {name: x}\n" + "".join(
    f"a{level}: &a{level} {{<<: [{', '.join([f'*a{level - 1}'] * 9)}]}}\n" for level in range(1, 12)
)
NESTED = "a0: &a0 [x]\n" + "".join(
    f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 9)}]\n" for level in range(1, 12)
)


@pytest.mark.parametrize("text", [MERGED, NESTED, "a: &a [*a]\n"], ids=["merged maps", "nested lists", "itself"])
def test_values_that_stand_for_billions_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "offnominal.yaml"
    path.write_text(text)
    with at_most(256), pytest.raises(SettingsError, match="has an alias"):
        load(path, {})


def test_so_they_are_in_the_environment(tmp_path: Path) -> None:
    path = tmp_path / "offnominal.yaml"
    path.write_text("name: x\n")
    with pytest.raises(SettingsError, match="OFFNOMINAL__STREAM has an alias"):
        load(path, {f"{ENVIRONMENT_PREFIX}STREAM": "{x: &x [y], z: *x}"})


@pytest.mark.parametrize("text", ["[" * 10_000, "{a: " * 10_000, "!!python/object/apply:os.system [id]", "9" * 5_000])
def test_what_is_no_plain_yaml_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "offnominal.yaml"
    path.write_text(text)
    with pytest.raises(SettingsError):
        load(path, {})
