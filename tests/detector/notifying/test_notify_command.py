from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from consumers.batch import Partition, Position
from consumers.errors import NotAuthorised
from consumers.kafka_python import KafkaPythonBroker
from consumers.memory import MemoryBroker
from consumers.settings import KafkaSettings
from detector.commands import notify as command
from detector.commands.notify import notify_people, serve
from detector.commands.notify import test_channels as try_channels
from detector.commands.terminal import connect
from detector.config import DetectorSettings
from detector.errors import SettingsError
from detector.notifying.channel import Channel
from detector.notifying.deliveries import Deliveries, application
from detector.notifying.senders import routes
from detector.web.guard import Guard
from tests.detector.machines import settings
from tests.detector.notifying.services import http_service, mailbox
from tests.detector.notifying.test_channel import exported, ids, made, told, until

KEY = "4110417104"


def chosen(
    folder: Path, bootstrap: str = "127.0.0.1:1", topic: str = "machine-alerts", **channels: Any
) -> DetectorSettings:
    return settings(
        folder,
        kafka={"bootstrap": bootstrap, "group": f"{topic}-group"},
        alerts={"topic": topic},
        notify={"channels": channels, "web": {"port": 0}},
    )


def test_a_test_message_tells_of_each_channel_what_became_of_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with http_service(200, 500) as service, mailbox() as box:
        there = chosen(
            tmp_path,
            hook={"url": f"http://{service.host}/{KEY}", "fallback": "mail"},
            mail={"url": f"mailto://127.0.0.1:{box.port}/{KEY}@example.org?from=me@example.org"},
            other={"url": f"json://{service.host}/{KEY}/$incident"},
        )
        assert try_channels(there) == 1
        shown = capsys.readouterr().out
        assert [line[:8].split()[:2] for line in shown.splitlines()] == [["✓", "hook"], ["✓", "mail"], ["✗", "other"]]
        assert "500" in shown
        assert KEY not in shown
        assert json.loads(service.requests[0].body)["alerts"] == []
        assert [mail["subject"] for mail in box.mails] == ["A test of offnominal"]
        assert try_channels(there) == 0


def test_without_channels_there_is_nothing_to_do(tmp_path: Path) -> None:
    for run in (notify_people, try_channels):
        with pytest.raises(SettingsError, match=r"notify\.channels names none"):
            run(chosen(tmp_path))


def test_where_one_channel_cannot_go_on_all_end_and_the_reason_is_told() -> None:
    class Forbidden(MemoryBroker):
        def stream(self, *_: Any) -> Any:
            raise NotAuthorised("no right on group 'notify-hook'")

    with http_service() as service:
        broker = MemoryBroker()
        broker.create_topics({"machine-alerts": 1})
        well, ill = made(broker.log, service), made(broker.log, service)
        ill._broker = Forbidden(log=broker.log)
        with pytest.raises(NotAuthorised, match="no right on group"):
            serve([well, ill], threading.Event())


@contextmanager
def publishing(bootstrap: str, topic: str) -> Iterator[Callable[..., object]]:
    """What publishes alerts to the topic, which is there from now on."""
    broker = KafkaPythonBroker(KafkaSettings(bootstrap=bootstrap), group=f"{topic}-writer", client_id="tests")
    broker.create_topics({topic: 1})
    with closing(broker.stream([topic])) as stream:
        yield lambda *alerts: stream.publish([it.message(topic) for it in alerts], {})


def committed(there: DetectorSettings) -> Position:
    """The position of the channel `hook`, as its next stream is told of it."""
    own = there.model_copy(update={"kafka": there.kafka.model_copy(update={"group": f"{there.group}-notify-hook"})})
    with closing(connect(own).stream([there.alerts.topic])) as stream:
        batch = next(batch for batch in iter(lambda: stream.poll(1, 1.0), None) if batch.assigned)
        return batch.assigned[Partition(there.alerts.topic, 0)]


@contextmanager
def at_work(there: DetectorSettings) -> Iterator[Channel]:
    """The channel `hook`, from when it has its place in the topic on."""
    channel = command._channel(there, "hook", routes(there.notify)["hook"], Deliveries("machines"))
    stopping = threading.Event()
    thread = threading.Thread(target=channel.run, args=(stopping,))
    thread.start()
    try:
        until(lambda: bool(channel._outbox._ledgers))
        yield channel
    finally:
        stopping.set()
        thread.join(60)
        assert not thread.is_alive()


def test_on_a_broker_what_passed_in_quiet_hours_is_kept_beside_the_position(
    tmp_path: Path, bootstrap: str, unique: str
) -> None:
    always = [{"from": "00:00", "to": "00:00"}]
    with http_service() as service, publishing(bootstrap, unique) as publish:
        hook = {"url": f"http://{service.host}/", "group": {"within": "1ms"}}
        quiet = chosen(tmp_path, bootstrap, unique, hook={**hook, "quiet": always})
        for _ in range(2):
            with at_work(quiet) as channel:
                if not service.requests:
                    publish(told(0, severity="minor"), told(1), told(2, severity="major"))
                    service.wait_for(1)
                until(lambda: exported(channel, "offnominal_notify_waiting_alerts") == 2)
            assert ids(service) == [1]
        loud = chosen(tmp_path, bootstrap, unique, hook=hook)
        with at_work(loud):
            service.wait_for(2)
        assert ids(service) == [1, 0, 2]
    position = committed(loud)
    assert position.snapshot == ""
    assert position.offset >= 3


CONFIG = """\
name: machines
kafka: {{bootstrap: "{bootstrap}", group: {topic}-group}}
stream: {{topics: [machines]}}
alerts: {{topic: {topic}}}
notify:
  channels: {{hook: {{group: {{within: 1ms}}}}}}
  web: {{port: 0}}
"""


def test_the_command_sends_until_it_is_told_to_stop_and_says_no_key(
    tmp_path: Path, bootstrap: str, unique: str
) -> None:
    config = tmp_path / "offnominal.yaml"
    config.write_text(CONFIG.format(bootstrap=bootstrap, topic=unique))
    with http_service(500) as service, publishing(bootstrap, unique) as publish:
        url = f"http://{service.host}/{KEY}"
        process = subprocess.Popen(
            [sys.executable, "-m", "detector", "notify", "-c", str(config)],
            env={**os.environ, "OFFNOMINAL__NOTIFY__CHANNELS__HOOK__URL": url},
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            assert process.stderr is not None
            lines = [json.loads(process.stderr.readline())]
            health = httpx.get(f"{lines[0]['web']}/healthz")
            assert health.json() == {"ok": True}
            # It begins at the topic's end, whenever it has come there.
            until(lambda: publish(told(7)) is not None and len(service.requests) > 1)
            process.send_signal(signal.SIGTERM)
            rest = process.communicate(timeout=30)[1]
        finally:
            process.kill()
            process.wait()
    lines += [json.loads(line) for line in rest.splitlines()]
    assert process.returncode == 0
    events = [line["event"] for line in lines]
    assert (events[0], events[-1]) == ("notifying", "stopped")
    assert {"not sent, trying again", "sent"} <= set(events)
    assert KEY not in json.dumps(lines)
    assert ids(service, f"/{KEY}") == [7, 7]  # refused, and taken


def test_metrics_count_by_channel_and_want_the_token(tmp_path: Path) -> None:
    deliveries = Deliveries("machines")
    deliveries.count("hook", "sent")
    deliveries.waiting("hook", 3)
    web = chosen(tmp_path).notify.web.model_validate({"port": 0, "token": KEY})
    transport = httpx.ASGITransport(app=Guard(application(deliveries), web))

    async def get(path: str, **headers: str) -> httpx.Response:
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            return await client.get(path, headers=headers)

    assert asyncio.run(get("/metrics")).status_code == 401
    assert asyncio.run(get("/healthz")).status_code == 200
    text = asyncio.run(get("/metrics", Authorization=f"Bearer {KEY}")).text
    assert 'offnominal_notifications_total{channel="hook",detector="machines",result="sent"} 1.0' in text
    assert 'offnominal_notify_waiting_alerts{channel="hook",detector="machines"} 3.0' in text
