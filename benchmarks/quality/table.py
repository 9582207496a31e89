"""The table of `docs/models.md`, out of what `python -m benchmarks.quality --json FILE` wrote.

    python -m benchmarks.quality.table FILE [--write]

A row a detector, the product's models before those of libraries. Each family has the first of `RANKINGS` that it is
judged by, VUS-PR in streams and the AUROC in tables, with the highest in bold; what a detector costs is over the data
sets of all families, by the statistics of `FIGURES`. With --write it takes the place of what stands between the marks
in the document.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.quality.comparison import FIGURES, RANKINGS, Row

DOCUMENT = Path(__file__).parents[2] / "docs" / "models.md"
BEGIN, END = "<!-- measured -->", "<!-- /measured -->"
WORDS = {"vus_pr": "VUS-PR", "auroc": "AUROC", "average_precision": "average precision"}
COSTS = {
    "fit_s": ("seconds to fit", ",.2f"),
    "fit_peak_mb": ("peak MB to fit", ",.0f"),
    "rows_per_s": ("rows/s", ",.0f"),
}
"""What each is called, and how it is written."""


def main() -> None:
    """Prints the table, or puts it where it belongs."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("file", type=Path, help="what the benchmark wrote")
    arguments.add_argument("--write", action="store_true", help=f"into {DOCUMENT.name}")
    given = arguments.parse_args()
    table = rendered(json.loads(given.file.read_text(encoding="utf-8")))
    if given.write:
        DOCUMENT.write_text(placed(table, DOCUMENT.read_text(encoding="utf-8")), encoding="utf-8")
    else:
        sys.stdout.write(table + "\n")


def rendered(measured: Mapping[str, Any]) -> str:
    """The table in Markdown."""
    columns = [_ranked(family, told) for family, told in measured["compared"].items()]
    rows = _rows_by_detector(measured)
    costs = {name: [_cost(rows[name], figure) for figure in COSTS] for name in rows}
    lines = [
        ["detector", *(title for title, _ in columns), *(title for title, _ in COSTS.values())],
        ["---"] * (1 + len(columns) + len(COSTS)),
        *([name, *(cells[name] for _, cells in columns), *costs[name]] for name in rows),
    ]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def placed(table: str, text: str) -> str:
    """The text with the table between the marks. Ends the program where these are not there."""
    before, begun, rest = text.partition(BEGIN)
    _, ended, after = rest.partition(END)
    if not (begun and ended):
        raise SystemExit(f"{DOCUMENT.name} does not hold both marks. Expected {BEGIN} and after it {END}.")
    return f"{before}{BEGIN}\n\n{table}\n\n{END}{after}"


def _ranked(family: str, told: Mapping[str, Any]) -> tuple[str, dict[str, str]]:
    """The title of a family's column and its cells by detector."""
    detectors: Mapping[str, Row] = told["detectors"]
    ranking = next((it for it in RANKINGS if any(row[it] is not None for row in detectors.values())), RANKINGS[0])
    known = {name: row[ranking] for name, row in detectors.items() if row[ranking] is not None}
    highest = max(known.values(), default=None)
    cells = {name: f"**{value:.3f}**" if value == highest else f"{value:.3f}" for name, value in known.items()}
    return f"{family} ({told['data_sets']}), {WORDS[ranking]}", {name: cells.get(name, "-") for name in detectors}


def _rows_by_detector(measured: Mapping[str, Any]) -> dict[str, Sequence[Row]]:
    """What was measured of each detector, a row a data set."""
    own = {name: [*result["streams"], *result["tables"]] for name, result in measured["models"].items()}
    return {**own, **measured["libraries"]}


def _cost(rows: Sequence[Row], figure: str) -> str:
    _, form = COSTS[figure]
    return format(FIGURES[figure]([row[figure] for row in rows]), form)


if __name__ == "__main__":
    main()
