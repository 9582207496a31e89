"""Names as they stand in queries and on pages."""

from __future__ import annotations

import re
from collections.abc import Iterator

from prometheus_client import Histogram

from detector.metric_specs import SECTIONS, Spec
from detector.notifying.deliveries import Deliveries


def _scraped(spec: Spec) -> Iterator[str]:
    yield from (spec.exported + end for end in ("_bucket", "_sum", "_count")) if spec.kind is Histogram else ()
    yield spec.exported


SCRAPED = {name for specs in SECTIONS.values() for spec in specs for name in _scraped(spec)} | {
    family.name + "_total" * (family.type == "counter") for family in Deliveries("machines").registry.collect()
}
"""Everything that a query may ask of a daemon, or of `offnominal notify`."""


def named(text: str) -> set[str]:
    """Metrics of the daemon that a text names, those that rules record left out."""
    return set(re.findall(r"(?<![:\w])(?:offnominal|process)_[a-z_]+\b(?!:)", text))
