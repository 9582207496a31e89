"""`offnominal models diff`: two versions side by side."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from itertools import groupby
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from consumers.text import printable
from detector.bundle import Bundle
from detector.commands.terminal import print_json, shown
from detector.config import DetectorSettings
from detector.store import Store

Facts = dict[tuple[str, str], Any]
"""What is so of a version, by group and name."""

_GROUPS = ("version", "data", "models", "features", "budget", "training", "gate", "shadow", "watch", "software")
_TRIAL = ("passed", "against", "reasons")


def print_difference(settings: DetectorSettings, one: str, other: str, *, as_json: bool) -> None:
    """Prints what is so of two versions, and marks where they differ. Features that are the same are only counted."""
    store = Store(settings.store.url, settings.name)
    left, right = (facts(store.load(version)) for version in (one, other))
    keys = sorted({**left, **right}, key=lambda key: _GROUPS.index(key[0]))
    if as_json:
        told = {
            group: {key[1]: [left.get(key), right.get(key)] for key in members}
            for group, members in groupby(keys, lambda key: key[0])
        }
        print_json(json.dumps({"versions": [one, other], **told}))
        return
    versions = (Column(version, min_width=len(version), overflow="fold") for version in (one, other))
    table = Table("", "", "", *versions, box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for group, members in groupby(keys, lambda key: key[0]):
        title = group
        for key in members:
            differ = left.get(key) != right.get(key)
            if differ or group != "features" or key[1] == "number":
                table.add_row(title, shown(key[1]), "≠" if differ else "", _text(left.get(key)), _text(right.get(key)))
                title = ""
        table.add_section()
    Console(highlight=False).print(table)


def facts(bundle: Bundle) -> Facts:
    """What is so of a version; of several trials of a kind the last."""
    made = json.loads(bundle.manifest.to_json())
    data, trials = made["data"], made["trials"]
    groups: dict[str, Mapping[str, Any]] = {
        "version": {"created": made["created"], "trained_from": made["trained_from"]},
        "data": {
            "from": _moment(data["first_ms"]),
            "to": _moment(data["last_ms"]),
            **{name: data[name] for name in ("records", "fitted", "calibrated", "dropped")},
            "cleaned": made["cleaned"],
        },
        "models": dict(_models(bundle, made["models"])),
        "features": {"number": len(bundle.encoder.features), **dict(_features(bundle))},
        "budget": {"rate": made["rate"], "calibrated_by": made["calibrated_by"]},
        "training": {name: value for name, value in made["verdict"].items() if name != "by_segment"},
        **{it["stage"]: {name: it[name] for name in _TRIAL} | it["figures"] for it in trials},
        "software": made["software"],
    }
    return {(group, name): value for group, values in groups.items() for name, value in values.items()}


def _models(bundle: Bundle, records: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, Any]]:
    for record in records:
        kind = record["kind"]
        yield kind, record["arguments"]
        yield f"{kind}_parameters", sum(it.numel() for it in bundle.models[kind].state_dict().values())
        yield f"{kind}_valid_score", record["valid_score"]
        yield f"{kind}_window", record["window"]
        yield f"{kind}_fit", record["details"]


def _features(bundle: Bundle) -> Iterator[tuple[str, Any]]:
    yield "window", bundle.encoder.window
    for feature in bundle.encoder.features:
        yield feature.name, feature.model_dump(mode="json", exclude={"name"}, exclude_defaults=True)


def _moment(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _text(value: Any) -> str:
    """A fact for a table: numbers short, nothing as a dash, what has parts as a list."""
    if value is None or value in ([], {}):
        return "[dim]-[/]"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, dict):
        return ", ".join(f"{shown(key)} {_text(part)}" for key, part in value.items())
    if isinstance(value, list):
        return ", ".join(map(_text, value))
    return escape(printable(value, 500)) if isinstance(value, str) else shown(value)
