"""Alerts of a thousand entities over a week, and of some whose names are meant to do harm."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

from detector.alerts import Alert, AlertKind, Reason, Severity, Source, event_time, identifier
from tests.dashboard.site import NEWEST_MS, TRAINED
from tests.detector.machines import TOPIC

ENTITIES = 1_000
WEEK_MS, MINUTE_MS = 7 * 86_400_000, 60_000
LONG = "long" + 50_000 * "w\u0301\u0327"
"""200 kB of letters that carry marks above and below."""
HOSTILE = (
    "<img src=x onerror=alert(1)>",
    "\"'><script>alert(1)</script><svg onload=alert(1)>",
    "javascript:alert(1)",
    "</bdi></a></td></table><h1>owned</h1>",
    "\u202egnp.exe\u202c \u2066over\u2069",
    "zero\u200b\u200d\ufeff\u2060width",
    "bell\x07 escape\x1b[31m null\x00 newline\n tab\t return\r",
    "tags\U000e0041\U000e0042 private\ue000",
    "../../../etc/passwd?range=1w&tz=UTC#/models",
    "__proto__",
    "{{constructor.constructor('alert(1)')()}}",
    '=HYPERLINK("http://127.0.0.2/")',
    50 * "unbreakable",
    LONG,
)
"""Entities that are told of as open incidents, and whose reasons are no better."""

_ONCE: tuple[AlertKind, ...] = ("unseen_category", "creep", "drift")
_UNLIKELY = ("p_value", "static_p_value", "level", "score", "threshold", "model", "makes_normal")
"""What an alert has none of that is told without likelihood."""


def crowd(version: str) -> Iterator[Alert]:
    """Every entity with one to three incidents in the week up to the newest record; one in fifty is still open."""
    chance = random.Random(0)
    for number in range(ENTITIES):
        for turn in range(1 + number % 3):
            begin = NEWEST_MS - chance.randrange(MINUTE_MS, WEEK_MS)
            goes_on = number % 50 == 0 and turn == 0
            yield from _incident(
                f"web-{number:04}", NEWEST_MS - number * 1_000 if goes_on else begin, version, chance, goes_on
            )


def hostile(version: str) -> Iterator[Alert]:
    """One open, critical incident for each of the names."""
    for number, name in enumerate(HOSTILE):
        reasons = [
            Reason(feature=name, observed=name, expected=HOSTILE[0], share=0.6),
            Reason(feature="cpu", observed=1e300, expected=None, share=0.4),
        ]
        yield alert(name, "opened", NEWEST_MS - number, version, severity="critical", p_value=1e-300, reasons=reasons)


def alert(
    entity: str, kind: AlertKind, at_ms: int, version: str, *, opened_ms: int | None = None, **changes: Any
) -> Alert:
    """One alert at that time, of the incident that was opened by then or before."""
    began = at_ms if opened_ms is None else opened_ms
    source = Source(topic=TOPIC, partition=0, offset=TRAINED + began // MINUTE_MS % 1_000)
    told: dict[str, Any] = {
        "id": identifier("machines", source, event_time(at_ms), kind, entity),
        "incident": identifier("machines", source, event_time(began), "incident", entity),
        "kind": kind,
        "detector": "machines",
        "entity": entity,
        "segment": "",
        "time": event_time(at_ms),
        "opened": event_time(began),
        "severity": "minor",
        "p_value": 2e-4,
        "static_p_value": 3e-4,
        "level": 1e-3,
        "score": 8.5,
        "threshold": 6.9,
        "records": 1,
        "model": "gmm",
        "version": version,
        "reasons": [Reason(feature="cpu", observed=0.93, expected=0.51, share=0.8)],
        "makes_normal": True,
        "source": source,
    }
    return Alert.model_validate({**told, **changes})


def _incident(entity: str, begin: int, version: str, chance: random.Random, goes_on: bool) -> Iterator[Alert]:
    severity: Severity = chance.choices(("minor", "major", "critical"), (6, 3, 0 if goes_on else 1))[0]
    if not goes_on and chance.random() < 0.1:
        kind = chance.choice(_ONCE)
        yield alert(entity, kind, begin, version, severity=severity, reasons=[], **dict.fromkeys(_UNLIKELY))
        return
    yield alert(entity, "opened", begin, version)
    end = min(begin + chance.randrange(MINUTE_MS, 300 * MINUTE_MS), NEWEST_MS)
    if severity != "minor":
        yield alert(entity, "escalated", (begin + end) // 2, version, opened_ms=begin, severity=severity, p_value=1e-6)
    if not goes_on:
        yield alert(entity, "resolved", end, version, opened_ms=begin, severity=severity, reasons=[], records=12)
