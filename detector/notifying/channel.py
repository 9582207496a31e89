"""One channel at work: reads the alert topic in a group of its own, sends, and commits what is settled."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from datetime import UTC, datetime

import numpy as np
import structlog
from pydantic import ValidationError

from consumers.batch import RawBatch
from consumers.errors import Retry
from consumers.stream import Broker, Stream
from detector.alerts import Alert
from detector.config_notify import ChannelSettings
from detector.errors import NotSent
from detector.mute import MuteCalendar
from detector.notifying.deliveries import Deliveries
from detector.notifying.outbox import MOST_HELD, Outbox, Parcel
from detector.notifying.senders import Sender

log = structlog.get_logger()

TURN_S = 0.5
"""Longest wait for alerts before the clock is looked at (seconds): a message comes that much later, at most."""
PAUSE_S = (0.5, 30.0)
"""First and longest pause before a new connection (seconds); doubled in between."""


class Channel:
    """Sends the alerts of one topic to one service. `run` blocks until it is told to stop.

    Each channel is a consumer group of its own, so one that is broken holds up no other. What was sent is committed
    after that; a crash in between sends it again, with the same id.
    """

    def __init__(
        self,
        name: str,
        settings: ChannelSettings,
        broker: Broker,
        topic: str,
        *,
        routes: Sequence[Sender],
        deliveries: Deliveries,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._broker = broker
        self._topic = topic
        self._routes = routes
        self._outbox = Outbox(settings, per_incident=routes[0].per_incident, routes=len(routes))
        self._quiet = MuteCalendar.from_settings(settings.quiet)
        self._deliveries = deliveries
        self._now = now
        self._name = name
        self._log = log.bind(channel=name)
        self._wait_s = TURN_S

    def run(self, stopping: threading.Event) -> None:
        """Raises `consumers.errors.Stop` where going on makes no sense."""
        pause_s, made = PAUSE_S[0], False
        while not stopping.is_set():
            try:
                if not made:  # as `run` does; one that is deleted later is no accident to paper over
                    self._broker.create_topics({self._topic: 1})
                    made = True
                with closing(self._broker.stream([self._topic])) as stream:
                    while not stopping.is_set():
                        self._turn(stream)
                        pause_s = PAUSE_S[0]
            except Retry as error:
                self._log.warning("stream lost, joining again", error=str(error), pause_s=pause_s)
                stopping.wait(pause_s)
                pause_s = min(2 * pause_s, PAUSE_S[1])
            finally:
                self._outbox.reset()

    def _turn(self, stream: Stream) -> None:
        """What came is taken in, one message is sent where one is due, and what is settled is committed."""
        room = MOST_HELD - len(self._outbox)
        batch = stream.poll(max(room, 1), self._wait_s)
        self._outbox.revoke(batch.revoked)
        self._outbox.assign(batch.assigned)
        for partition, moved in batch.moved.items():
            self._log.error("the topic lacks alerts that were not sent", partition=str(partition), why=moved.reason)
        if room > 0:
            self._take_in(batch)
        else:
            _put_back(stream, batch)
        parcel = self._outbox.due(time.monotonic(), quiet=self._is_quiet())
        if parcel is not None:
            self._attempt(parcel)
        if len(batch) or parcel is not None:
            stream.publish([], self._outbox.positions())
        self._wait_s = TURN_S if parcel is None else 0.0
        self._deliveries.waiting(self._name, len(self._outbox))

    def _take_in(self, batch: RawBatch) -> None:
        for row, value in enumerate(batch.values):
            partition, offset = batch.source(row)
            try:
                alert = Alert.model_validate_json(value or b"")
            except ValidationError:
                self._log.warning("not an alert", source=f"{partition}@{offset}")
                alert = None
            self._outbox.take_in(partition, offset, alert, time.monotonic())

    def _attempt(self, parcel: Parcel) -> None:
        message, ids = parcel.notification, [held.alert.id for held in parcel.held]
        route = self._routes[parcel.route]
        try:
            route.send(message)
        except NotSent as error:
            self._failed(parcel, route.service, str(error))
            return
        self._outbox.sent(parcel)
        self._deliveries.count(self._name, "sent")
        self._log.info("sent", service=route.service, message=message.id, alerts=len(ids), fallback=parcel.route > 0)

    def _failed(self, parcel: Parcel, service: str, reason: str) -> None:
        pause_s = self._outbox.failed(parcel, time.monotonic())
        self._deliveries.count(self._name, "failed")
        told = {"service": service, "message": parcel.notification.id, "error": reason}
        if pause_s is not None:
            self._log.warning("not sent, trying again", **told, pause_s=pause_s)
            return
        self._outbox.drop(parcel)
        self._deliveries.count(self._name, "given_up")
        self._log.error("given up: nobody was told of these alerts", **told, alerts=[it.alert.id for it in parcel.held])

    def _is_quiet(self) -> bool:
        moment = np.array([round(self._now().timestamp() * 1000)], dtype=np.int64)
        return bool(self._quiet) and bool(self._quiet.muted(moment)[0])


def _put_back(stream: Stream, batch: RawBatch) -> None:
    """There is no room for these: they are read again. Polling without an end would lose the place in the group."""
    for index, partition in enumerate(batch.partitions):
        offsets = batch.offsets[batch.partition == index]
        if len(offsets):
            stream.rewind(partition, int(offsets[0]))
