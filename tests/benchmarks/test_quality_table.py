from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.quality import table
from benchmarks.quality.comparison import compared
from benchmarks.quality.table import BEGIN, DOCUMENT, END, main, placed, rendered


def judged(family: str, ranking: str, ours: float, theirs: float, fit_s: float) -> dict[str, dict[str, Any]]:
    """One data set, by our models and by a library, which has no other ranking."""
    blank = {"family": family, "vus_pr": None, "auroc": None, "average_precision": None}
    costs = {"fit_s": fit_s, "fit_peak_mb": 10 * fit_s, "rows_per_s": 1000 * fit_s}
    return {"auto": {**blank, ranking: ours, **costs}, "pyod/knn": {**blank, ranking: theirs, **costs}}


def measured() -> dict[str, Any]:
    """As the benchmark writes it: two streams, a table, and a data set whose labels are all the same."""
    streams = [judged("servers", "vus_pr", 0.6, 0.5, 1.0), judged("servers", "vus_pr", 0.7, 0.3, 2.0)]
    tables = [judged("events", "auroc", 0.8, 0.9, 6.0), judged("quiet", "auroc", 0.0, 0.0, 3.0)]
    for row in tables[1].values():
        row["auroc"] = None
    every = [*streams, *tables]
    return {
        "models": {"auto": {"streams": [it["auto"] for it in streams], "tables": [it["auto"] for it in tables]}},
        "libraries": {"pyod/knn": [it["pyod/knn"] for it in every]},
        "compared": compared(every),
    }


def test_streams_are_ranked_by_vus_pr_tables_by_auroc_and_the_best_stands_out() -> None:
    head, rule, ours, theirs = (line.strip("| ").split(" | ") for line in rendered(measured()).splitlines())
    assert head[:4] == ["detector", "events (1), AUROC", "quiet (1), VUS-PR", "servers (2), VUS-PR"]
    assert len(head) == len(rule) == len(ours) == len(theirs) == 7
    assert ours[:4] == ["auto", "0.800", "-", "**0.650**"]
    assert theirs[:4] == ["pyod/knn", "**0.900**", "-", "0.400"]


def test_costs_are_the_mean_the_highest_and_the_middling_of_all_data_sets() -> None:
    ours = rendered(measured()).splitlines()[2].strip("| ").split(" | ")
    assert ours[4:] == ["3.00", "60", "2,500"]


def test_the_table_takes_the_place_of_the_one_before_and_of_nothing_else() -> None:
    text = f"above\n{BEGIN}\nold\n{END}\nbelow\n"
    assert placed("| new |", text) == f"above\n{BEGIN}\n\n| new |\n\n{END}\nbelow\n"
    assert placed("| new |", placed("| old |", text)) == placed("| new |", text)


@pytest.mark.parametrize("text", ["", BEGIN, f"{END} {BEGIN}"], ids=["no marks", "no end", "the end first"])
def test_a_document_without_the_marks_is_left_alone(text: str) -> None:
    with pytest.raises(SystemExit, match="does not hold both marks"):
        placed("| new |", text)


def test_the_document_has_a_place_for_it() -> None:
    assert "| new |" in placed("| new |", DOCUMENT.read_text(encoding="utf-8"))


@pytest.mark.parametrize("write", [True, False], ids=["into the document", "to the terminal"])
def test_only_when_told_to_is_the_document_written(
    write: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    document, file = tmp_path / "models.md", tmp_path / "figures.json"
    document.write_text(f"{BEGIN}{END}", encoding="utf-8")
    file.write_text(json.dumps(measured()), encoding="utf-8")
    monkeypatch.setattr(table, "DOCUMENT", document)
    monkeypatch.setattr(sys, "argv", ["table", str(file), *(["--write"] if write else [])])
    main()
    assert ("pyod/knn" in document.read_text(encoding="utf-8")) is write
    assert ("pyod/knn" in capsys.readouterr().out) is not write
