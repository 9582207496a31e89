from __future__ import annotations

from typing import Any

import pytest

from benchmarks.dashboard.__main__ import VARIANTS, _talking, summarise


def figures(seconds: float, cpu_s: float) -> dict[str, Any]:
    return {"records": 1_000_000, "seconds": seconds, "cpu_s": cpu_s, "asked": 7}


def test_costs_are_medians_over_a_dashboard_that_nobody_looks_at() -> None:
    runs = {name: [figures(it, it) for it in (4.0, 99.0, 4.0)] for name in VARIANTS}
    runs["browsers"] = [figures(8.0, 5.0)] * 3
    told = summarise(runs)
    assert told["records_per_s"]["nobody"] == 250_000
    assert told["over_nobody"]["browsers"] == {"records_per_s": 0.5, "cpu_s": 1.25}
    assert told["over_nobody"]["off"] == {"records_per_s": 1.0, "cpu_s": 1.0}


def test_a_part_that_ends_before_it_has_spoken_is_told_with_its_last_words() -> None:
    with (
        _talking("json.tool", "/nowhere.json") as part,
        pytest.raises(RuntimeError, match=r"(?s)json\.tool ended: .*nowhere"),
    ):
        part.read()
