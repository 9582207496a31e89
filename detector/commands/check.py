"""`offnominal check`: everything `run` relies on, a tick or the reason and the remedy for each."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.markup import escape

from consumers.diagnose import diagnose
from consumers.errors import AuthenticationFailed, BrokerUnavailable, NotAuthorised, StreamError, TlsFailed
from consumers.stream import Window
from detector.commands.terminal import connect, print_json
from detector.config import DetectorSettings
from detector.errors import OffnominalError, SettingsError
from detector.loading import load
from detector.mute import MuteCalendar
from detector.notifying.senders import routes
from detector.store import Store
from detector.training import require_device

_REMEDIES: dict[type[Exception], str] = {
    BrokerUnavailable: "Start the broker, or mend kafka.bootstrap.",
    AuthenticationFailed: "Mend kafka.security.username, password or mechanism.",
    TlsFailed: "Mend kafka.security.ca_file or protocol, or take the address that the certificate names.",
    NotAuthorised: "Ask for the right on that resource: Read on topics and group, Write on alerts and dead letters.",
}


class Check(NamedTuple):
    """One thing looked at; `ok` is None where it could not be looked at because of an earlier one."""

    name: str
    ok: bool | None
    detail: str
    remedy: str = ""


def run_checks(config: Path, *, as_json: bool) -> int:
    """Prints all checks. The exit code is 0 when `run` would work."""
    found = list(checks(config))
    if as_json:
        print_json(json.dumps([check._asdict() for check in found]))
    else:
        for check in found:
            _show(check)
    return 0 if all(check.ok for check in found) else 1


def checks(config: Path) -> Iterator[Check]:
    """Looks at settings, broker, topics, store and model, in the order in which one needs the other."""
    try:
        settings = load(config)
    except SettingsError as error:
        yield Check("settings", False, str(error), "Mend the settings file; configs/reference.yaml shows every key.")
        return
    yield Check("settings", True, f"{config} describes detector '{settings.name}'")
    broker = _attempt("broker", lambda: _reach(settings), "")
    yield broker
    for name, look, remedy in (
        ("topics to read", _read_topics, "Create it, or mend stream.topics; `run` waits for it."),
        ("topics to write", _written_topics, "Mend alerts.topic or dead_letters.topic."),
    ):
        if broker.ok:
            yield _attempt(name, partial(look, settings), remedy)
        else:
            yield Check(name, None, "not looked at: the broker is not reached")
    yield _attempt("store", partial(_writable, settings), "Mend store.url, or the rights on it.")
    yield _attempt("mutes", partial(_mutes, settings), "Mend alerts.mute.")
    yield _attempt("notify", partial(_notify, settings), "Mend notify.channels; docs/notify.md shows addresses.")
    yield _attempt("device", partial(_device, settings), "Set device: auto.")
    yield _attempt("model", partial(_model, settings), "Run `offnominal train`, or set training.on_start: true.")


def _attempt(name: str, look: Callable[[], str], remedy: str) -> Check:
    try:
        return Check(name, True, look())
    except (OffnominalError, StreamError) as error:
        return Check(name, False, str(error), _REMEDIES.get(type(error), remedy))


def _reach(settings: DetectorSettings) -> str:
    if (trouble := diagnose(settings.kafka)) is not None:
        raise trouble
    user = settings.kafka.security.username
    return f"{settings.kafka.bootstrap} answers" + (f" and accepts user '{user}'" if user else "")


def _read_topics(settings: DetectorSettings) -> str:
    topics, broker = settings.stream.topics, connect(settings)
    there = broker.partitions(topics)
    if missing := sorted(set(topics) - set(there)):
        raise SettingsError(f"topic {', '.join(missing)} is not there")
    for _ in broker.read(topics, Window(records=1)):
        pass
    return ", ".join(f"{topic} ({count} partition{'s' * (count > 1)})" for topic, count in there.items())


def _written_topics(settings: DetectorSettings) -> str:
    topics = [settings.alerts.topic, settings.dead_letter_topic, settings.feedback_topic]
    there = connect(settings).partitions(topics)
    return ", ".join(topic if topic in there else f"{topic} (`run` creates it)" for topic in topics)


def _writable(settings: DetectorSettings) -> str:
    store = Store(settings.store.url, settings.name)
    store.check_writable()
    return f"{store.url} can be written"


def _mutes(settings: DetectorSettings) -> str:
    MuteCalendar.from_settings(settings.alerts.mute)
    return f"{len(settings.alerts.mute) or 'none'} to keep"


def _notify(settings: DetectorSettings) -> str:
    """Looks at the addresses, and asks nobody: that is for `offnominal notify --test`."""
    for channel in settings.notify.channels.values():
        MuteCalendar.from_settings(channel.quiet)
    return ", ".join(f"{name} ({ways[0].service})" for name, ways in routes(settings.notify).items()) or "no channels"


def _device(settings: DetectorSettings) -> str:
    require_device(settings.device)
    return f"{settings.device} is there"


def _model(settings: DetectorSettings) -> str:
    store = Store(settings.store.url, settings.name)
    if (version := store.champion()) is None:
        if settings.training.on_start:
            return "none yet; `run` trains the first one"
        raise OffnominalError(f"the store holds no version of '{settings.name}'")
    bundle = store.load(version)
    bundle.require_fit(settings)
    return f"{version} ({', '.join(bundle.models)}) loads"


def _show(check: Check) -> None:
    mark = {True: "[green]✓[/]", False: "[red]✗[/]", None: "[dim]·[/]"}[check.ok]
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"{mark} [bold]{check.name}[/] {escape(check.detail)}")
    if check.remedy and not check.ok:
        console.print(f"  → {escape(check.remedy)}")
