from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel

from detector.config import DetectorSettings
from detector.loading import groups_in, load, parse
from detector.reference import REQUIRED, reference
from models.registry import KINDS

FILE = Path(__file__).parents[2] / "configs" / "reference.yaml"


def groups(group: type[BaseModel]) -> Iterator[type[BaseModel]]:
    yield group
    for info in group.model_fields.values():
        for inner in groups_in(info.annotation):
            yield from groups(inner)


GROUPS = list(dict.fromkeys(groups(DetectorSettings)))


def test_the_committed_reference_is_current() -> None:
    assert FILE.read_text(encoding="utf-8") == reference(), "run: python -m detector.reference > configs/reference.yaml"


def test_the_reference_loads_and_means_the_defaults() -> None:
    assert load(FILE, {}) == parse(REQUIRED)


@pytest.mark.parametrize("group", GROUPS, ids=lambda group: group.__name__)
def test_every_setting_is_described_and_stands_in_the_reference(group: type[BaseModel]) -> None:
    lines = [line.strip(" #-") for line in reference().splitlines()]
    for name, info in group.model_fields.items():
        assert info.description, f"{group.__name__}.{name} has no docstring"
        assert any(line.startswith(f"{info.alias or name}:") for line in lines)


def test_what_is_commented_out_can_be_used_as_it_is() -> None:
    """Without the first `# ` of items of features and models, of a registry and a channel, it is settings that load."""
    lines, item = [], False
    text = reference().replace("auto  # or a list:", "").replace("format: json", "format: avro")
    text = text.replace("channels: {}  # or:", "channels:")
    for line in text.replace("registry: null  # or:", "registry:").splitlines():
        item = line.startswith("  # ") and (item or line.startswith(("  # # ", "  #   # ")))
        lines.append(line.replace("  # ", "  ", 1) if item else line)
    settings = parse(yaml.safe_load("\n".join(lines)))
    assert settings.chosen == sorted(KINDS)
    assert isinstance(settings.features, list)
    assert settings.stream.registry is not None
    assert list(settings.notify.channels) == ["name"]


def test_every_line_fits() -> None:
    assert max(map(len, reference().splitlines())) <= 120
