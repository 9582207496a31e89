"""`deploy/grafana/offnominal.json`: the Grafana board, generated so that each panel says what its metrics mean.

python -m detector.board > deploy/grafana/offnominal.json
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from detector.board_panels import BOARD, Panel
from detector.metric_specs import SECTIONS, Spec

WIDTH = 24
"""Columns of Grafana's grid."""
TALL, LOW = 8, 4
"""Rows of the grid that a picture takes, and a single figure."""
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
CHOSEN = 'detector=~"$detector"'
"""What `$chosen` in a query stands for: the detectors chosen on top of the board."""

_SPECS: Mapping[str, Spec] = {spec.exported: spec for specs in SECTIONS.values() for spec in specs}


def board() -> dict[str, Any]:
    """The board as Grafana imports it."""
    return {
        "uid": "offnominal",
        "title": "offnominal",
        "tags": ["offnominal"],
        "schemaVersion": 39,
        "editable": False,
        "graphTooltip": 1,
        "time": {"from": "now-6h", "to": "now"},
        "refresh": "30s",
        "templating": {"list": [_source(), _detectors()]},
        "annotations": {"list": [_promotions()]},
        "panels": list(_placed()),
    }


def _placed() -> Iterator[dict[str, Any]]:
    """Rows one under another; in a row panels from left to right, as many as fit."""
    y = number = 0
    for title, panels in BOARD.items():
        number += 1
        yield {"id": number, "type": "row", "title": title, "collapsed": False, "panels": []} | _place(0, y, WIDTH, 1)
        y, x, height = y + 1, 0, 0
        for panel in panels:
            if x + panel.width > WIDTH:
                y, x, height = y + height, 0, 0
            number, height = number + 1, LOW if panel.kind == "stat" else TALL
            yield _drawn(panel) | {"id": number} | _place(x, y, panel.width, height)
            x += panel.width
        y += height


def _place(x: int, y: int, width: int, height: int) -> dict[str, Any]:
    return {"gridPos": {"x": x, "y": y, "w": width, "h": height}}


def _drawn(panel: Panel) -> dict[str, Any]:
    steps: list[dict[str, Any]] = [{"color": "green", "value": None}]
    if panel.red is not None:
        steps.append({"color": "red", "value": panel.red})
    coloured = {"color": {"mode": "thresholds"}} if panel.kind == "stat" else {}
    defaults = {"unit": panel.unit, "thresholds": {"mode": "absolute", "steps": steps}, **coloured, **_custom(panel)}
    return {
        "type": panel.kind,
        "title": panel.title,
        "description": "\n\n".join(_meanings(panel)),
        "datasource": SOURCE,
        "targets": [_target(panel, *item) for item in enumerate(panel.queries.items())],
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": {"colorMode": "background", "graphMode": "none"} if panel.kind == "stat" else {},
    }


def _custom(panel: Panel) -> dict[str, Any]:
    """How curves are drawn; bars where what was counted adds up."""
    if panel.kind == "state-timeline":
        passed = {"0": {"text": "no", "color": "red"}, "1": {"text": "yes", "color": "green"}}
        return {"mappings": [{"type": "value", "options": passed}]}
    if panel.kind != "timeseries":
        return {}
    bars = {"drawStyle": "bars", "fillOpacity": 60, "stacking": {"mode": "normal", "group": "A"}}
    limit = {"thresholdsStyle": {"mode": "dashed"}} if panel.red is not None else {}
    return {"min": 0, "custom": {"showPoints": "never", **(bars if panel.stacked else {}), **limit}}


def _meanings(panel: Panel) -> Iterator[str]:
    """What the metrics are that the panel asks for, and what to do when they move."""
    named = re.findall(r"(?<!:)\b(?:offnominal|process)_[a-z_]+", " ".join(panel.queries.values()))
    for name in dict.fromkeys(re.sub(r"_bucket$", "", name) for name in named):
        spec = _SPECS[name]
        yield f"`{name}` ({spec.unit}): {spec.help} {spec.act}"


def _target(panel: Panel, number: int, named: tuple[str, str]) -> dict[str, Any]:
    name, query = named
    now = panel.kind in ("stat", "table")
    return {
        "refId": "ABC"[number],
        "datasource": SOURCE,
        "expr": query.replace("$chosen", CHOSEN),
        "legendFormat": name,
        "instant": now,
        "range": not now,
        "format": "table" if panel.kind == "table" else "time_series",
    }


def _source() -> dict[str, Any]:
    return {"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus"}


def _detectors() -> dict[str, Any]:
    return {
        "name": "detector",
        "label": "Detector",
        "type": "query",
        "datasource": SOURCE,
        "query": {"query": "label_values(offnominal_ready, detector)", "refId": "detector"},
        "refresh": 2,  # whenever the time range changes: detectors come and go
        "multi": True,
        "includeAll": True,
        "current": {"text": ["All"], "value": ["$__all"]},
        "sort": 1,
    }


def _promotions() -> dict[str, Any]:
    """A mark where another version begins to serve."""
    serves = f"sum by (detector, version) (offnominal_version_info{{{CHOSEN}}})"
    before = f"sum by (detector, version) (offnominal_version_info{{{CHOSEN}}} offset 1m)"
    return {
        "name": "Another version serves",
        "datasource": SOURCE,
        "enable": True,
        "iconColor": "blue",
        "target": {"refId": "Anno", "expr": f"{serves} unless {before}", "interval": "1m"},
        "titleFormat": "{{detector}}",
        "textFormat": "{{version}}",
    }


if __name__ == "__main__":
    sys.stdout.write(json.dumps(board(), indent=2) + "\n")
