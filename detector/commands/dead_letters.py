"""`offnominal dead-letters`."""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from contextlib import ExitStack, closing
from datetime import UTC, datetime
from typing import Any

import typer
from pydantic import TypeAdapter, ValidationError
from rich.console import Console
from rich.markup import escape

from consumers.dead_letters import Letter
from consumers.decode import ERROR_LENGTH, DeadLetterReason
from consumers.stream import Broker, Window
from consumers.text import printable
from detector.commands.terminal import connect, print_json, progress_shown, shown
from detector.config import DetectorSettings
from detector.config_types import Duration
from detector.dead_letters import Replay, SentBack, Tally, by_reason, chosen
from detector.errors import SettingsError

_SHOWN_BYTES = 200
_MOST_SOURCES = 3


def window_of(last: int | None, since: str | None) -> Window:
    """The stretch of the topic that is asked for: its last letters, those since so long ago, or all."""
    if last is not None and since is not None:
        raise SettingsError(f"--last {last} and --since {since} exclude one another: give one.")
    if since is None:
        return Window(records=last)
    try:
        seconds = TypeAdapter(Duration).validate_python(since)
    except ValidationError as error:
        raise SettingsError(f"--since {since}: {error.errors()[0]['msg'].removeprefix('Value error, ')}") from None
    return Window(since_ms=round((time.time() - seconds) * 1000))


def list_letters(settings: DetectorSettings, window: Window, *, reason: str | None, as_json: bool) -> None:
    """Prints letters, one after the other."""
    _require_known(reason)
    console = Console(highlight=False, soft_wrap=True)
    for letter in chosen(connect(settings), settings.dead_letter_topic, window, reason):
        if as_json:
            print_json(json.dumps(_told(letter)))
        else:
            console.print(f"{_moment(letter.time)} [yellow]{letter.reason}[/] {_line(letter)}")


def count_letters(settings: DetectorSettings, window: Window, *, reason: str | None, as_json: bool) -> None:
    """Prints how many letters there are of each reason, since when, where from, and the newest."""
    _require_known(reason)
    broker, topic = connect(settings), settings.dead_letter_topic
    tallies = by_reason(chosen(broker, topic, window, reason), SentBack(broker, topic))
    if as_json:
        for name, tally in tallies.items():
            print_json(json.dumps(_counted(name, tally)))
        return
    console = Console(highlight=False, soft_wrap=True)
    for name, tally in tallies.items():
        sources = [f"{shown(source)} {count:,}" for source, count in tally.sources.most_common(_MOST_SOURCES)]
        more = len(tally.sources) - len(sources)
        console.print(
            f"[yellow]{name}[/] [bold]{tally.letters:,}[/], {tally.sent_back:,} sent back, "
            f"{_moment(tally.first_ms)} to {_moment(tally.last_ms)}, "
            f"from {', '.join(sources)}{f' and {more} more' if more else ''}\n    {_line(tally.newest)}"
        )
    if not tallies:
        console.print(f"There are no such dead letters in {topic}.")


def replay_letters(
    settings: DetectorSettings, window: Window, *, reason: str | None, dry_run: bool, confirmed: bool, as_json: bool
) -> None:
    """Sends letters back to the topics they came from, after asking; a dry run only says which."""
    _require_known(reason)
    if not (dry_run or confirmed or sys.stdin.isatty()):
        raise SettingsError("--replay sends records: give --yes where nobody can be asked, or --dry-run.")
    broker, topic, sent = _replayer(settings), settings.dead_letter_topic, 0
    with ExitStack() as cleanup:
        stream = None if dry_run else cleanup.enter_context(closing(broker.stream([topic])))
        replay = Replay(broker, topic, window, reason=reason, topics=settings.stream.topics)
        total = replay.sendable.total()
        if not as_json:
            typer.echo(f"Can be sent back: {total:,}{_listed(replay.sendable)}.")
            typer.echo(f"Stay: {replay.held_back.total():,}{_listed(replay.held_back)}.")
        if stream is not None and total:
            if not confirmed:
                typer.confirm(f"Send {total:,} records back to where they came from?", abort=True, err=True)
            with progress_shown("replay") as progress:
                for lot in replay.send(stream):
                    sent += lot
                    progress(sent / total, f"{sent:,} sent back")
    if as_json:
        counts = {"sendable": replay.sendable, "held_back": replay.held_back}
        print_json(json.dumps({**counts, "sent": sent, "dry_run": dry_run}))
    elif not dry_run:
        typer.echo(f"Sent back: {sent:,}.")


def _replayer(settings: DetectorSettings) -> Broker:
    """A place of its own at the broker, the same for everybody who replays: a second one ends the first."""
    own = {"group": f"{settings.group}-dead-letters", "instance": "replay"}
    return connect(settings.model_copy(update={"kafka": settings.kafka.model_copy(update=own)}))


def _require_known(reason: str | None) -> None:
    if reason is not None and reason not in set(DeadLetterReason):
        raise SettingsError(f"--reason {reason} is not known. Expected one of {', '.join(DeadLetterReason)}.")


def _told(letter: Letter) -> dict[str, Any]:
    """A letter as JSON values."""
    return {
        "partition": letter.partition.number,
        "offset": letter.offset,
        "time": _moment(letter.time),
        "reason": letter.reason,
        "error": letter.error,
        "source": {"topic": letter.source.topic, "partition": letter.source.number, "offset": letter.first},
        "records": letter.end - letter.first,
        "key": None if letter.key is None else _begin(letter.key),
        "value": None if letter.value is None else _begin(letter.value),
        "bytes": letter.size,
        "cut": letter.cut.split(", ") if letter.cut else [],
    }


def _counted(reason: str, tally: Tally) -> dict[str, Any]:
    """The letters of a reason as JSON values."""
    return {
        "reason": reason,
        "letters": tally.letters,
        "sent_back": tally.sent_back,
        "first": _moment(tally.first_ms),
        "last": _moment(tally.last_ms),
        "sources": {str(source): count for source, count in tally.sources.most_common()},
        "newest": _told(tally.newest),
    }


def _line(letter: Letter) -> str:
    upto = f" to {letter.end - 1}" if letter.end > letter.first + 1 else ""
    value = "no value" if letter.value is None else shown(_begin(letter.value))
    return (
        f"{shown(letter.source)}@{letter.first}{upto}: {escape(printable(letter.error, ERROR_LENGTH))} [dim]{value}[/] "
        f"[dim](letter {letter.partition.number}@{letter.offset})[/]"
    )


def _begin(content: bytes) -> str:
    """The first characters, with whatever is not printable escaped."""
    text = content[:_SHOWN_BYTES].decode("utf-8", "backslashreplace")
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text)


def _listed(counts: Counter[str]) -> str:
    return f" ({', '.join(f'{count:,} {name}' for name, count in counts.most_common())})" if counts else ""


def _moment(ms: int) -> str:
    return datetime.fromtimestamp(ms // 1000, UTC).isoformat().replace("+00:00", "Z")
