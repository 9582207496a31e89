from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import pytest
import structlog

from consumers.batch import Message, Partition, Position
from consumers.errors import BrokerUnavailable, TopicMissing
from consumers.memory import MemoryBroker, MemoryStream
from consumers.memory_log import MemoryLog
from detector.alerts import Alert
from detector.config_notify import NotifySettings
from detector.notifying import channel as module
from detector.notifying.channel import Channel
from detector.notifying.deliveries import Deliveries
from detector.notifying.outbox import Outbox
from detector.notifying.senders import routes
from tests.detector.notifying.services import HttpService, http_service
from tests.detector.test_alerts import alert

TOPIC = "machine-alerts"
NIGHT = datetime(2026, 3, 1, 23, tzinfo=UTC)


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAUSE_S", (0.001, 0.001))
    monkeypatch.setattr(module, "TURN_S", 0.005)
    monkeypatch.setattr("detector.notifying.outbox.PAUSE_S", (0.001, 0.01))


@pytest.fixture
def log() -> MemoryLog:
    """With the alert topic, empty."""
    broker = MemoryBroker()
    broker.create_topics({TOPIC: 1})
    return broker.log


def told(number: int, **changes: Any) -> Alert:
    return alert(id=f"{number:032x}", **changes)


def publish(log: MemoryLog, *alerts: Alert) -> None:
    for it in alerts:
        MemoryBroker(log=log).append(TOPIC, it.message(TOPIC).value)


def made(log: MemoryLog, service: HttpService, *, now: datetime = NIGHT, name: str = "hook", **changes: Any) -> Channel:
    own = {"url": f"http://{service.host}/", "group": {"within": "1ms"}, **changes}
    settings = NotifySettings.model_validate({"channels": {name: own, "rest": {"url": f"http://{service.host}/rest"}}})
    return Channel(
        name,
        settings.channels[name],
        MemoryBroker(group=f"notify-{name}", log=log, start="latest"),
        TOPIC,
        routes=routes(settings)[name],
        deliveries=Deliveries("machines"),
        now=lambda: now,
    )


@contextmanager
def running(channel: Channel) -> Iterator[None]:
    """The channel at work, from when it has its place in the topic on."""
    stopping = threading.Event()
    thread = threading.Thread(target=channel.run, args=(stopping,), name="channel")
    thread.start()
    try:
        group = channel._broker.log.groups  # type: ignore[attr-defined]  # the one in memory
        until(lambda: any(it.members for it in group.values()))
        yield
    finally:
        stopping.set()
        thread.join(20)
        assert not thread.is_alive()


def until(reached: Callable[[], bool]) -> None:
    waited = threading.Event()
    for _ in range(4_000):
        if reached():
            return
        waited.wait(0.005)
    raise AssertionError("never came to be")


def committed(log: MemoryLog, name: str = "hook") -> Position:
    return log.groups[f"notify-{name}"].positions.get(Partition(TOPIC, 0), Position(-1))


def ids(service: HttpService, path: str = "/") -> list[int]:
    """Of all alerts that came, in order."""
    bodies = [json.loads(request.body) for request in service.requests if request.path == path]
    return [int(it["id"], 16) for body in bodies for it in body["alerts"]]


def test_alerts_are_sent_and_committed_and_a_restart_goes_on_after_them(log: MemoryLog) -> None:
    publish(log, told(0))  # before the channel was there
    with http_service() as service:
        with running(made(log, service)):
            publish(log, told(1), told(2))
            until(lambda: committed(log) == Position(3))
        publish(log, told(3))
        with running(made(log, service)):
            until(lambda: committed(log) == Position(4))
        assert ids(service) == [1, 2, 3]


def test_a_service_that_fails_for_a_while_gets_each_alert_once_and_in_order(log: MemoryLog) -> None:
    with http_service(500, 503, 429) as service:
        channel = made(log, service)
        with running(channel):
            publish(log, told(0))
            service.wait_for(2)
            publish(log, told(1))
            until(lambda: committed(log) == Position(2))
        requests = service.requests
        assert len({request.headers["webhook-id"] for request in requests[:4]}) == 1
        assert requests[0].body == requests[3].body
        assert ids(service)[3:] == [0, 1]


def test_a_channel_that_is_broken_holds_up_no_other(log: MemoryLog) -> None:
    with http_service() as service, http_service(*[500] * 1_000_000) as broken:
        with running(made(log, broken, name="broken")), running(made(log, service)):
            until(lambda: "notify-hook" in log.groups and bool(log.groups["notify-hook"].members))
            publish(log, told(0), told(1))
            until(lambda: committed(log) == Position(2))
            broken.wait_for(3)
        assert ids(service) == [0, 1]
        assert committed(log, "broken") == Position(0)


def test_where_it_gives_up_the_fallback_is_told(log: MemoryLog) -> None:
    with http_service(*[500] * 1_000_000) as broken, http_service() as service:
        channel = made(log, broken, give_up_after="20ms", fallback="rest")
        channel._routes = [*channel._routes[:1], made(log, service)._routes[0]]
        with structlog.testing.capture_logs() as logs, running(channel):
            publish(log, told(7))
            until(lambda: committed(log) == Position(1))
        assert ids(service) == [7]
    assert logs[-1]["event"] == "sent"
    assert logs[-1]["fallback"]


def test_what_nobody_takes_is_given_up_aloud_and_the_next_is_sent(log: MemoryLog) -> None:
    with http_service(*[400] * 1_000_000) as service:
        channel = made(log, service, give_up_after="10ms")
        with structlog.testing.capture_logs() as logs, running(channel):
            publish(log, told(7))
            until(lambda: committed(log) == Position(1))
            with service.changed:
                service.answers.clear()
            publish(log, told(8))
            until(lambda: committed(log) == Position(2))
    (given_up,) = (line for line in logs if line["log_level"] == "error")
    assert given_up["event"] == "given up: nobody was told of these alerts"
    assert given_up["alerts"] == [told(7).id]
    assert given_up["error"] == "it answered 400"
    assert exported(channel, "offnominal_notifications_total", result="given_up") == 1
    assert exported(channel, "offnominal_notifications_total", result="sent") == 1


def exported(channel: Channel, name: str, **labels: str) -> float | None:
    registry = channel._deliveries.registry
    return registry.get_sample_value(name, {"detector": "machines", "channel": "hook", **labels})


def failing_commits(monkeypatch: pytest.MonkeyPatch, times: int) -> None:
    publish_ = MemoryStream.publish
    left = iter(range(times))

    def fail(
        self: MemoryStream, messages: Sequence[Message], positions: Mapping[Partition, Position]
    ) -> list[tuple[Partition, int]]:
        if positions.get(Partition(TOPIC, 0), Position(0)).offset > 0 and next(left, None) is not None:
            raise BrokerUnavailable("no answer")
        return publish_(self, messages, positions)

    monkeypatch.setattr(MemoryStream, "publish", fail)


def test_a_commit_that_fails_after_the_sending_sends_nothing_twice(
    log: MemoryLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing_commits(monkeypatch, 2)
    with http_service() as service:
        with running(made(log, service)):
            publish(log, told(0), told(1))
            until(lambda: committed(log) == Position(2))
        assert ids(service) == [0, 1]


class Crash(BaseException):
    """The process ends here."""


def test_a_crash_between_sending_and_commit_sends_again_under_the_same_id(
    log: MemoryLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    with http_service() as service:
        with running(made(log, service)):
            pass
        publish(log, told(0))
        with monkeypatch.context() as patched:

            def crash(*_: object) -> None:
                raise Crash

            patched.setattr(Outbox, "sent", crash)
            with pytest.raises(Crash):
                made(log, service).run(threading.Event())
        assert committed(log) == Position(0)
        with running(made(log, service)):
            until(lambda: committed(log) == Position(1))
        assert len({request.headers["webhook-id"] for request in service.requests}) == 1
        assert ids(service) == [0, 0]


def test_in_quiet_hours_the_rest_waits_in_the_topic_and_the_grave_is_sent_once(log: MemoryLog) -> None:
    quiet: dict[str, Any] = {"quiet": [{"from": "22:00", "to": "06:00"}]}
    with http_service() as service:
        with running(made(log, service, **quiet)):
            publish(log, told(0, severity="minor"), told(1), told(2, severity="major"))
            until(lambda: committed(log) == Position(0, "1-1"))
        assert ids(service) == [1]
        with running(made(log, service, **quiet, now=NIGHT.replace(hour=7))):
            until(lambda: committed(log) == Position(3))
        assert ids(service) == [1, 0, 2]
        assert len(service.requests) == 2


def test_what_is_no_alert_is_passed_over_and_told(log: MemoryLog) -> None:
    with http_service() as service:
        with structlog.testing.capture_logs() as logs, running(made(log, service)):
            MemoryBroker(log=log).append(TOPIC, b"{}")
            MemoryBroker(log=log).append(TOPIC, None)
            publish(log, told(0))
            until(lambda: committed(log) == Position(3))
        assert ids(service) == [0]
    assert [line["source"] for line in logs if line["event"] == "not an alert"] == [f"{TOPIC}[0]@0", f"{TOPIC}[0]@1"]


def test_there_is_a_bound_to_what_is_held_back_and_nothing_beyond_it_is_lost(
    log: MemoryLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_HELD", 3)
    monkeypatch.setattr("detector.notifying.outbox.MOST_HELD", 3)
    with http_service(*[500] * 20) as service:
        channel = made(log, service)
        waiting: list[float] = []

        def sent() -> bool:
            waiting.append(exported(channel, "offnominal_notify_waiting_alerts") or 0.0)
            return committed(log) == Position(12)

        with running(channel):
            publish(log, *(told(number) for number in range(12)))
            until(sent)
        assert max(waiting) == 3
        assert ids(service)[-12:] == [*range(12)]


def test_the_alerts_after_a_gap_are_sent_and_the_gap_is_told(log: MemoryLog) -> None:
    with http_service() as service:
        with running(made(log, service)):
            pass
        publish(log, told(0), told(1))
        MemoryBroker(log=log).delete_records(Partition(TOPIC, 0), 1)
        with structlog.testing.capture_logs() as logs, running(made(log, service)):
            until(lambda: committed(log) == Position(2))
        assert ids(service) == [1]
    assert [line["why"] for line in logs if line["event"].startswith("the topic lacks")] == ["retention"]


def test_a_topic_that_is_not_there_is_made_once_and_one_that_is_deleted_ends_it() -> None:
    log = MemoryLog()
    with http_service() as service:
        channel = made(log, service)
        stopping = threading.Event()
        ended: list[BaseException] = []

        def run() -> None:
            try:
                channel.run(stopping)
            except TopicMissing as error:
                ended.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        until(lambda: bool(log.groups) and bool(log.groups["notify-hook"].members))
        publish(log, told(0))
        service.wait_for(1)
        MemoryBroker(log=log).delete_topic(TOPIC)
        thread.join(20)
        assert not thread.is_alive()
    assert len(ended) == 1
