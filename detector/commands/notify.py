"""`offnominal notify`."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import nullcontext

import structlog
from rich.console import Console
from rich.markup import escape

from detector.commands.terminal import connect, stopped_by_signals
from detector.config import DetectorSettings
from detector.errors import NotSent, SettingsError
from detector.notifying.channel import Channel
from detector.notifying.deliveries import Deliveries, application
from detector.notifying.messages import Notification
from detector.notifying.senders import Sender, routes
from detector.web.guard import Guard
from detector.web.serving import serving

log = structlog.get_logger()

TEST = Notification(
    id="offnominal-test",
    title="A test of offnominal",
    text="Alerts will come this way. There is nothing to do.",
    tone="warning",
    incident="offnominal-test",
    alerts=(),
    more=0,
)


def notify_people(settings: DetectorSettings) -> None:
    """Sends alerts to all channels until a signal ends it. What is not sent by then is sent after the next start."""
    ways = _ways(settings)
    deliveries = Deliveries(settings.name)
    channels = [_channel(settings, name, ways[name], deliveries) for name in ways]
    web = settings.notify.web
    served = serving(Guard(application(deliveries), web), web) if web.enabled else nullcontext(None)
    stopping = threading.Event()
    with stopped_by_signals(stopping.set), served as address:
        log.info("notifying", detector=settings.name, topic=settings.alerts.topic, channels=[*ways], web=address)
        serve(channels, stopping)
        log.info("stopped")


def serve(channels: Sequence[Channel], stopping: threading.Event) -> None:
    """Each channel in a thread of its own. Where one cannot go on all end, so that it is noticed; raises why."""
    with ThreadPoolExecutor(len(channels), thread_name_prefix="notify") as pool:
        running = [pool.submit(channel.run, stopping) for channel in channels]
        wait(running, return_when=FIRST_EXCEPTION)
        stopping.set()
    for ended in running:
        ended.result()


def test_channels(settings: DetectorSettings) -> int:
    """Sends a test message to each channel, and says what became of it. The exit code is 0 when all took it."""
    console, refused = Console(highlight=False, soft_wrap=True), 0
    for name, (way, *_) in _ways(settings).items():
        try:
            way.send(TEST)
            console.print(f"[green]✓[/] [bold]{name}[/] {escape(way.service)} took it")
        except NotSent as error:
            refused += 1
            console.print(f"[red]✗[/] [bold]{name}[/] {escape(f'{way.service}: {error}')}")
    return 1 if refused else 0


def _ways(settings: DetectorSettings) -> dict[str, list[Sender]]:
    if not settings.notify.channels:
        raise SettingsError("notify.channels names none. Expected one or more, as in docs/notify.md.")
    return routes(settings.notify)


def _channel(settings: DetectorSettings, name: str, ways: Sequence[Sender], deliveries: Deliveries) -> Channel:
    """In a group of its own, which begins at the topic's end and publishes nothing but its positions."""
    own = {"group": f"{settings.group}-notify-{name}", "start": "latest", "delivery": "at_least_once"}
    broker = connect(settings.model_copy(update={"kafka": settings.kafka.model_copy(update=own)}))
    channel = settings.notify.channels[name]
    return Channel(name, channel, broker, settings.alerts.topic, routes=ways, deliveries=deliveries)
