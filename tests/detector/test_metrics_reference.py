"""docs/metrics.md against the code, and every metric that a page names against what is exported."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from detector.config_service import HealthSettings
from detector.health import Health
from detector.metric_specs import SECTIONS
from detector.metrics import Metrics
from detector.metrics_reference import page
from tests.detector.metric_names import SCRAPED, named

DOCS = Path(__file__).parents[2] / "docs"


def test_the_committed_page_is_current() -> None:
    told = "run: python -m detector.metrics_reference > docs/metrics.md"
    assert (DOCS / "metrics.md").read_text(encoding="utf-8") == page(), told


def test_every_metric_of_a_registry_is_on_the_page_and_no_other() -> None:
    families = list(Metrics("machines", Health(HealthSettings())).registry.collect())
    kinds = {it.name + ("_total" if it.type == "counter" else ""): it.type for it in families}
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \| ([^|]+) \|", page(), re.MULTILINE)
    assert {name: kind for name, kind, _ in rows} == kinds
    assert {spec.help for specs in SECTIONS.values() for spec in specs if spec.prefix != "process_"} <= {
        it.documentation for it in families
    }


@pytest.mark.parametrize("document", sorted(DOCS.glob("*.md")), ids=lambda path: path.name)
def test_a_page_names_no_metric_that_is_not_exported(document: Path) -> None:
    assert named(document.read_text(encoding="utf-8")) - SCRAPED == set()
