"""`offnominal feedback`."""

from __future__ import annotations

import getpass
from datetime import timedelta

from rich.console import Console
from rich.markup import escape

from consumers.text import printable
from detector.commands.terminal import connect, print_json, shown
from detector.config import DetectorSettings
from detector.errors import SettingsError
from detector.feedback import LONGEST_TEXT, Feedback, Label, said
from detector.feedback_effects import counts
from detector.feedback_giving import give, voting

LABELS: dict[str, Label] = {
    "false-alarm": "false_alarm",
    "confirmed": "confirmed",
    "known": "known",
    "note": "note",
    "retract": "retracted",
}
"""By what the command line calls them."""


def give_feedback(
    settings: DetectorSettings, begin: str, label: str, *, text: str, author: str | None, as_json: bool
) -> None:
    """Says something of the incident that has an alert, or an id of its own, that begins like that; or takes back what
    was said of it."""
    if label not in LABELS:
        raise SettingsError(f"LABEL '{label}' is not known. Expected one of {', '.join(LABELS)}.")
    if len(text) > LONGEST_TEXT:
        raise SettingsError(f"--text has {len(text):,} characters. Expected at most {LONGEST_TEXT:,}.")
    if label == "note" and not text:
        raise SettingsError("A note wants --text.")
    feedback = give(connect(voting(settings, "command")), settings, begin, LABELS[label], text, author or _user())
    _show(feedback, settings, as_json=as_json)


def list_feedback(settings: DetectorSettings, *, as_json: bool) -> None:
    """Prints the last word on each incident, the one said last at the end."""
    words = said(connect(settings), settings).values()
    for feedback in words:
        _show(feedback, settings, as_json=as_json)
    if not words and not as_json:
        Console().print(f"Nobody has said anything in {settings.feedback_topic}.")


def _user() -> str:
    try:
        return getpass.getuser()
    except (ImportError, KeyError, OSError):  # a container may know no name
        return "unknown"


def _show(feedback: Feedback, settings: DetectorSettings, *, as_json: bool) -> None:
    if as_json:
        print_json(feedback.model_dump_json(exclude={"records"}))
        return
    alert = feedback.alert
    text = f": {escape(printable(feedback.text, LONGEST_TEXT))}" if feedback.text else ""
    Console(highlight=False, soft_wrap=True).print(
        f"{feedback.time:%Y-%m-%d %H:%M:%S} [yellow]{feedback.label}[/] {shown(alert.entity or '-')} "
        f"[dim]{shown(alert.incident[:8])}[/] by {shown(feedback.author)}{text} [dim]({_effect(feedback, settings)})[/]"
    )


def _effect(feedback: Feedback, settings: DetectorSettings) -> str:
    if feedback.label == "confirmed":
        return f"an example for training, with {len(feedback.records)} records"
    if not counts(feedback):
        return "changes no decision"
    end = feedback.time + timedelta(seconds=settings.feedback.counts_for)
    return f"counts until {end:%Y-%m-%d %H:%M:%S}"
