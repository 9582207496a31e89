"""The Grafana board: current, whole, and of metrics that there are."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import yaml

from detector.board import WIDTH, board
from detector.metric_specs import COUNTED, HEALTH
from tests.detector.metric_names import SCRAPED, named

FOLDER = Path(__file__).parents[2] / "deploy" / "grafana"
BOARD: dict[str, Any] = json.loads((FOLDER / "offnominal.json").read_text(encoding="utf-8"))
PANELS: list[dict[str, Any]] = [panel for panel in BOARD["panels"] if panel["type"] != "row"]
QUERIES: list[str] = [target["expr"] for panel in PANELS for target in panel["targets"]] + [
    annotation["target"]["expr"] for annotation in BOARD["annotations"]["list"]
]
RECORDED = {
    rule["record"]
    for group in yaml.safe_load((FOLDER.parent / "prometheus" / "rules.yaml").read_text())["groups"]
    for rule in group["rules"]
    if "record" in rule
}


def cells(panel: dict[str, Any]) -> set[tuple[int, int]]:
    """The places of the grid that a panel takes."""
    x, y, w, h = (panel["gridPos"][key] for key in "xywh")
    return {(column, row) for column in range(x, x + w) for row in range(y, y + h)}


def test_the_committed_board_is_current() -> None:
    assert board() == BOARD, "run: python -m detector.board > deploy/grafana/offnominal.json"


@pytest.mark.parametrize("query", QUERIES)
def test_a_query_asks_for_metrics_that_there_are_of_the_detectors_chosen(query: str) -> None:
    assert named(query) - SCRAPED == set()
    assert set(re.findall(r"detector:\w+:\w+", query)) <= RECORDED
    assert named(query) or "detector:" in query or query.startswith("ALERTS{")
    asked = re.findall(r"(?:offnominal_\w+|detector:\w+:\w+)(\{[^}]*\})?", query)
    assert all('detector=~"$detector"' in selected for selected in asked)


@pytest.mark.skipif(shutil.which("promtool") is None, reason="Debian's package prometheus is not installed")
def test_promtool_can_read_every_query(tmp_path: Path) -> None:
    plain = [query.replace("$__rate_interval", "1m").replace("$detector", ".*") for query in QUERIES]
    rules = [{"record": f"query:{number}", "expr": query} for number, query in enumerate(plain)]
    file = tmp_path / "queries.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "board", "rules": rules}]}))
    read = subprocess.run(["promtool", "check", "rules", file], capture_output=True, text=True, check=False)
    assert read.returncode == 0, read.stderr
    assert f"{len(QUERIES)} rules found" in read.stdout


def test_panels_have_ids_of_their_own_and_do_not_overlap() -> None:
    assert len({panel["id"] for panel in BOARD["panels"]}) == len(BOARD["panels"])
    for one, other in combinations(BOARD["panels"], 2):
        assert not cells(one) & cells(other), f"'{one['title']}' lies on '{other['title']}'"
    assert max(column for panel in BOARD["panels"] for column, _ in cells(panel)) == WIDTH - 1


def test_a_panel_says_what_its_metrics_are_and_what_to_do() -> None:
    for panel in PANELS:
        asked = {re.sub("_bucket$", "", name) for target in panel["targets"] for name in named(target["expr"])}
        assert asked == set(re.findall(r"^`(\w+)`", panel["description"], re.MULTILINE)), panel["title"]


def test_every_panel_asks_the_source_that_is_chosen() -> None:
    names = [variable["name"] for variable in BOARD["templating"]["list"]]
    assert names == ["datasource", "detector"]
    assert {panel["datasource"]["uid"] for panel in PANELS} == {"${datasource}"}


def test_nearly_every_metric_is_on_the_board() -> None:
    shown = named(" ".join(QUERIES)) | {
        f"offnominal_{it}" for query in QUERIES for it in re.findall(r":offnominal_(\w+):", query)
    }
    missing = {
        spec.name
        for spec in (*COUNTED, *HEALTH)
        if not any(spec.exported in name or f"offnominal_{spec.name}" == name for name in shown)
    }
    # since the start: the board shows the same over a day; and the store's errors, which a check tells
    assert missing == {"promised_rate", "realised_rate", "store_errors"}


def test_provisioning_finds_the_board_and_its_source() -> None:
    (source,) = yaml.safe_load((FOLDER / "datasource.yaml").read_text())["datasources"]
    assert (source["type"], source["isDefault"]) == ("prometheus", True)
    (provider,) = yaml.safe_load((FOLDER / "dashboards.yaml").read_text())["providers"]
    compose = (FOLDER.parent / "compose" / "compose.yaml").read_text()
    assert f"offnominal.json:{provider['options']['path']}/offnominal.json" in compose
