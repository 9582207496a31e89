"""What people are told of alerts: a title, a line for each, and how grave it is."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from string import Template
from typing import Literal, NamedTuple

from consumers.text import printable
from detector.alerts import ENDING, LONGEST_TEXT, SEVERITIES, Alert, AlertKind
from detector.config_notify import GroupSettings, TemplateSettings

Tone = Literal["failure", "warning", "success"]
"""How a service shows it, in apprise's words. Those that open and close incidents close them on success."""

HAPPENED: dict[AlertKind, str] = {
    "opened": "not normal",
    "escalated": "getting worse",
    "reminded": "still not normal",
    "amended": "judged anew after a late record",
    "resolved": "normal again",
    "drift": "changed for long, this is the new normal",
    "creep": "moving away slowly",
    "silence": "stopped reporting",
    "unseen_category": "a value never seen before",
    "field_missing": "a field is gone",
    "field_type": "a field of another type",
}
"""What follows the name of one entity, or of many, in a headline."""
_DEFANGED = str.maketrans({"@": "\N{FULLWIDTH COMMERCIAL AT}", "<": "\N{FULLWIDTH LESS-THAN SIGN}"})
"""What begins a mention or markup in one chat or another, and is escaped by some services only."""
_LINK = ("](", "]\N{FULLWIDTH LEFT PARENTHESIS}")
"""What makes a link that is not what it reads."""


class Notification(NamedTuple):
    """One message. `alerts` are those it spells out, in order of offsets; `more` is how many others it is about."""

    id: str
    title: str
    text: str
    tone: Tone
    incident: str
    alerts: Sequence[Alert]
    more: int


def compose(alerts: Sequence[Alert], template: TemplateSettings, group: GroupSettings) -> Notification:
    """One message about alerts, one or more, in the order in which they were told.

    The id follows from theirs: a message that is sent again has the one it had.
    """
    order = sorted(range(len(alerts)), key=lambda index: -SEVERITIES.index(alerts[index].severity))
    told = [alerts[index] for index in sorted(order[: group.lines])]
    more = len(alerts) - len(told)
    lines = [_said(template.line, alert) for alert in told]
    return Notification(
        id=hashlib.sha256("".join(alert.id for alert in alerts).encode()).hexdigest()[:32],
        title=_said(template.title, alerts[0]) if len(alerts) == 1 else _title(alerts),
        text="\n".join([*lines, *([f"and {more:,} more"] if more else [])]),
        tone=tone(alerts),
        incident=alerts[-1].incident,
        alerts=told,
        more=more,
    )


def tone(alerts: Iterable[Alert]) -> Tone:
    """By the gravest incident that is open after these alerts; success where none is."""
    last = {alert.incident: alert for alert in alerts}
    going_on = [alert.severity for alert in last.values() if alert.kind not in ENDING]
    if not going_on:
        return "success"
    return "failure" if "critical" in going_on else "warning"


def _title(alerts: Sequence[Alert]) -> str:
    gravest = max((alert.severity for alert in alerts), key=SEVERITIES.index)
    concerned = len({alert.entity for alert in alerts})
    whom = _whom(alerts[0]) if concerned == 1 else f"{concerned} entities"
    return f"[{gravest}] {harmless(alerts[0].detector)}: {len(alerts):,} alerts on {whom}"


def _said(template: str, alert: Alert) -> str:
    """A template filled in. Values are never looked at as templates."""
    fields = {
        **alert.model_dump(mode="json", exclude={"reasons", "source", "entities", "common"}),
        **alert.source.model_dump(),
        "happened": HAPPENED[alert.kind],
        "entity": _whom(alert),
        "time": f"{alert.time:%Y-%m-%d %H:%M:%S %Z}",
        "opened": f"{alert.opened:%Y-%m-%d %H:%M:%S %Z}",
        "why": "; ".join(f"{it.feature} {_value(it.observed)}, expected {_value(it.expected)}" for it in alert.reasons),
    }
    shown = {key: "-" if value is None else harmless(_value(value)) for key, value in fields.items()}
    return Template(template).substitute(shown).strip()


def _whom(alert: Alert) -> str:
    if alert.members:
        return f"{alert.members} entities ({', '.join(alert.entities[:3])}{', …' if alert.members > 3 else ''})"
    return alert.entity or "the stream"


def _value(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return "missing" if value is None else str(value)


def harmless(text: str) -> str:
    """Text that a record may have brought, so that it is read as text: on one line, without control characters, and
    with nothing that some chat takes for a mention, markup or a link under another name.

    A service's own escaping comes after this.
    """
    return printable(text, 5 * LONGEST_TEXT).translate(_DEFANGED).replace(*_LINK)
