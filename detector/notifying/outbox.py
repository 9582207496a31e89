"""What a channel has to send, and when: filter, groups, quiet hours, pauses. Pure: time comes in."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import NamedTuple

from consumers.batch import Partition, Position
from detector.alerts import SEVERITIES, Alert, Severity
from detector.config_notify import ChannelSettings
from detector.notifying.ledger import Ledger
from detector.notifying.messages import Notification, compose

MOST_HELD = 10_000
"""Alerts that are held back at once, some kilobytes each; when there are so many, quiet hours end."""
MOST_REMEMBERED = 100_000
"""Ids of alerts that were sent, so that one which is in the topic twice, or is read again, is not."""
PAUSE_S = (1.0, 60.0)
"""First and longest pause before a message is tried again (seconds); doubled in between."""


class Held(NamedTuple):
    """An alert that is not settled, where it came from, and since when it is here (seconds)."""

    partition: Partition
    offset: int
    alert: Alert
    since: float


@dataclass(slots=True)
class Parcel:
    """One message under way. `route` is 0 for the channel itself, 1 for its fallback, tried since `since`."""

    held: list[Held]
    notification: Notification
    since: float
    due: float
    route: int = 0
    pause: float = 0.0


class Outbox:
    """The alerts of one channel between the topic and the service."""

    def __init__(self, channel: ChannelSettings, *, per_incident: bool, routes: int) -> None:
        self._channel = channel
        self._per_incident = per_incident
        self._routes = routes
        self._sent: dict[str, None] = {}
        self._ledgers: dict[Partition, Ledger] = {}
        self._held: dict[tuple[Partition, int], Held] = {}
        self._parcels: dict[str, Parcel] = {}

    def __len__(self) -> int:
        """Alerts that are not settled."""
        return len(self._held) + sum(len(parcel.held) for parcel in self._parcels.values())

    def assign(self, positions: Mapping[Partition, Position]) -> None:
        self._ledgers |= {partition: Ledger(position) for partition, position in positions.items()}

    def revoke(self, partitions: Iterable[Partition]) -> None:
        """Forgets what is under way there; who owns them now goes on from the committed positions."""
        for partition in partitions:
            self._ledgers.pop(partition, None)
        self._held = {place: held for place, held in self._held.items() if place[0] in self._ledgers}
        for key, parcel in [*self._parcels.items()]:
            if any(held.partition not in self._ledgers for held in parcel.held):
                # Of a partition that stays the rest is not settled: it goes into another message.
                kept = [held for held in parcel.held if held.partition in self._ledgers]
                self._held |= {(held.partition, held.offset): held for held in kept}
                del self._parcels[key]

    def reset(self) -> None:
        """The stream is lost: what is not settled will be read again. What was sent is remembered."""
        self.revoke([*self._ledgers])

    def take_in(self, partition: Partition, offset: int, alert: Alert | None, now: float) -> None:
        """One record of the topic, in order of offsets; None for one that is no alert."""
        ledger = self._ledgers[partition]
        if alert is None or ledger.is_settled(offset) or alert.id in self._sent or not self._wants(alert):
            ledger.settle(offset)
        else:
            ledger.take_in(offset)
            self._held[partition, offset] = Held(partition, offset, alert, now)

    def due(self, now: float, *, quiet: bool) -> Parcel | None:
        """A message to send now, if there is one: one that failed before, or else a new one.

        Of one incident, where a channel has messages of its own for each, and of a channel that has not, nothing is
        sent before what failed earlier: nobody is to read that something is over before that it began.
        """
        waiting = min(self._parcels.values(), key=lambda parcel: parcel.due, default=None)
        if waiting is not None and waiting.due <= now:
            return waiting
        for key, lane in self._lanes(quiet=quiet and len(self) < MOST_HELD).items():
            if key not in self._parcels and now - lane[0].since >= self._channel.group.within:
                for held in lane:
                    del self._held[held.partition, held.offset]
                alerts = [*{held.alert.id: held.alert for held in lane}.values()]
                notification = compose(alerts, self._channel.template, self._channel.group)
                self._parcels[key] = Parcel(lane, notification, since=now, due=now)
                return self._parcels[key]
        return None

    def sent(self, parcel: Parcel) -> None:
        self._sent |= dict.fromkeys(held.alert.id for held in parcel.held)
        for place, held in [*self._held.items()]:
            if held.alert.id in self._sent:  # it came once more, while this was under way
                del self._held[place]
                self._ledgers[held.partition].settle(held.offset)
        while len(self._sent) > MOST_REMEMBERED:
            del self._sent[next(iter(self._sent))]
        self.drop(parcel)

    def drop(self, parcel: Parcel) -> None:
        """It is settled, sent or not."""
        for held in parcel.held:
            self._ledgers[held.partition].settle(held.offset)
        self._parcels = {key: it for key, it in self._parcels.items() if it is not parcel}

    def failed(self, parcel: Parcel, now: float) -> float | None:
        """The pause before it is tried again, in seconds; None where it has been tried for long enough, on all ways."""
        if now - parcel.since >= self._channel.give_up_after:
            parcel.route, parcel.since, parcel.pause = parcel.route + 1, now, 0.0
            if parcel.route == self._routes:
                return None
        else:
            parcel.pause = min(max(2 * parcel.pause, PAUSE_S[0]), PAUSE_S[1])
        parcel.due = now + parcel.pause
        return parcel.pause

    def positions(self) -> dict[Partition, Position]:
        """Of all partitions, as they are to be committed."""
        return {partition: ledger.position() for partition, ledger in self._ledgers.items()}

    def _wants(self, alert: Alert) -> bool:
        channel = self._channel
        return (
            (not channel.kinds or alert.kind in channel.kinds)
            and _at_least(alert.severity, channel.severity)
            and (not channel.entities or self._names(alert))
        )

    def _names(self, alert: Alert) -> bool:
        """Whether it is about an entity that is wanted; an outbreak that does not name all of its own may be."""
        if (alert.members or 0) > len(alert.entities):
            return True
        names = alert.entities or [alert.entity]
        return any(fnmatchcase(name, pattern) for name in names for pattern in self._channel.entities)

    def _lanes(self, *, quiet: bool) -> dict[str, list[Held]]:
        """What may be sent, by what may go into one message."""
        lanes: dict[str, list[Held]] = {}
        grave = self._channel.quiet_except
        for held in self._held.values():
            if not quiet or (grave is not None and _at_least(held.alert.severity, grave)):
                lanes.setdefault(held.alert.incident if self._per_incident else "", []).append(held)
        return lanes


def _at_least(severity: Severity, least: Severity) -> bool:
    return SEVERITIES.index(severity) >= SEVERITIES.index(least)
