"""Times at which nothing is told: weekly hours, and the events of calendar files.

A mute holds by the event time of a record, so the past is muted as the present was, whenever it is read.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Annotated, Literal, Protocol, get_args
from zoneinfo import ZoneInfo

import numpy as np
import recurring_ical_events  # type: ignore[import-untyped]  # ships no types
from icalendar import Calendar, Event, vRecur
from numpy.typing import NDArray
from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    PlainSerializer,
    Tag,
    WithJsonSchema,
)

from consumers.compiled import compiled
from consumers.settings import Settings
from detector.entities import Visits
from detector.errors import SettingsError
from detector.recursion import Levelled

HOUR, DAY, WEEK = 60, 1_440, 10_080
"""Minutes."""
MINUTE_MS = 60_000
QUARTER_MS = 15 * MINUTE_MS
"""No zone has changed its offset within a quarter of an hour of UTC since 1972."""
FIRST, END = datetime(1970, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC)
"""Event times outside are wrong clocks: never muted. It bounds the months that can be asked for."""
MOST_OCCURRENCES = 1_000_000
"""Of one rule from its start to `END`: hourly for a century. Each is stepped through, and 10 µs long."""
Day = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
DAYS: tuple[Day, ...] = get_args(Day)
EPOCH_DAY = DAYS.index("thu")


def _time_zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (KeyError, ValueError, OSError) as error:
        raise ValueError("Expected a time zone like Europe/Berlin or UTC") from error
    return name


def _minutes(clock: object) -> int:
    """Minutes since midnight; of an unquoted 22:00 YAML 1.1 has made 22 · 60 + 0 before it comes here."""
    if isinstance(clock, int) and HOUR <= clock < DAY:
        return clock
    match = re.fullmatch(r"([01]?\d|2[0-3]):([0-5]\d)", clock) if isinstance(clock, str) else None
    if match is None:
        raise ValueError('Expected a time of day from "00:00" to "23:59", in quotes')
    return HOUR * int(match[1]) + int(match[2])


def _clock(minutes: int) -> str:
    return f"{minutes // HOUR:02}:{minutes % HOUR:02}"


def _form(mute: object) -> str:
    return "calendar" if isinstance(mute, CalendarMute) or (isinstance(mute, dict) and "calendar" in mute) else "weekly"


TimeZone = Annotated[str, AfterValidator(_time_zone)]

Clock = Annotated[
    int,
    BeforeValidator(_minutes),
    PlainSerializer(_clock, return_type=str, when_used="json"),
    WithJsonSchema({"type": "string", "format": "time of day"}),
]
"""Minutes since midnight; written like `"22:00"`."""


class WeeklyMute(Settings):
    """Hours that come every week, by the clock on the wall."""

    model_config = ConfigDict(serialize_by_alias=True)

    days: Annotated[list[Day], Field(min_length=1)] = list(DAYS)
    """Days on which it begins."""
    start: Clock = Field(alias="from")
    """Time of day at which it begins, `"22:00"`."""
    end: Clock = Field(alias="to")
    """Time of day at which it is over, on the next day where that is not later than `from`."""
    timezone: TimeZone = "UTC"
    """Time zone of the clock; its daylight saving counts."""


class CalendarMute(Settings):
    """The events of a calendar file, recurring ones and all-day ones among them; cancelled ones do not count."""

    calendar: Path
    """An iCalendar file (.ics), read when the detector starts."""
    timezone: TimeZone = "UTC"
    """Time zone of all-day events, and of times for which the file names none."""


Mute = Annotated[Annotated[CalendarMute, Tag("calendar")] | Annotated[WeeklyMute, Tag("weekly")], Discriminator(_form)]


class _Part(Protocol):
    def muted(self, time_ms: NDArray[np.int64]) -> NDArray[np.bool_]:
        """(n,) of times from `FIRST` to `END`."""


class MuteCalendar:
    """All mutes of a detector as one; false where there are none."""

    def __init__(self, parts: Sequence[_Part]) -> None:
        self._parts = parts

    def __bool__(self) -> bool:
        return bool(self._parts)

    @classmethod
    def from_settings(cls, mutes: Sequence[WeeklyMute | CalendarMute]) -> MuteCalendar:
        """Raises `SettingsError` naming a calendar file that cannot be followed, and why."""
        weekly = [mute for mute in mutes if isinstance(mute, WeeklyMute)]
        zones = sorted({mute.timezone for mute in weekly})
        weeks = [_Week(zone, [mute for mute in weekly if mute.timezone == zone]) for zone in zones]
        return cls([*weeks, *(_Events(mute) for mute in mutes if isinstance(mute, CalendarMute))])

    def muted(self, time_ms: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether each event time (n,), in epoch milliseconds, lies in a mute: its first moment does, its end not."""
        muted = np.zeros(len(time_ms), dtype=np.bool_)
        rows = np.flatnonzero((time_ms >= _epoch_ms(FIRST)) & (time_ms < _epoch_ms(END)))
        for part in self._parts:
            muted[rows] |= part.muted(time_ms[rows])
        return muted


class _Week:
    """Weekly mutes of one zone: the minutes of the local week at which one of them holds."""

    def __init__(self, zone: str, mutes: Sequence[WeeklyMute]) -> None:
        self._zone = ZoneInfo(zone)
        self._holds = np.zeros(WEEK, dtype=np.bool_)
        for mute in mutes:
            begins = np.array([DAYS.index(day) * DAY + mute.start for day in mute.days])
            lasts = (mute.end - mute.start) % DAY or DAY
            self._holds[np.add.outer(begins, np.arange(lasts)) % WEEK] = True

    def muted(self, time_ms: NDArray[np.int64]) -> NDArray[np.bool_]:
        quarter, index = np.unique(time_ms // QUARTER_MS, return_inverse=True)
        offset = np.array([self._offset_ms(number * QUARTER_MS) for number in quarter.tolist()], dtype=np.int64)
        muted: NDArray[np.bool_] = self._holds[((time_ms + offset[index]) // MINUTE_MS + EPOCH_DAY * DAY) % WEEK]
        return muted

    def _offset_ms(self, time_ms: int) -> int:
        return (datetime.fromtimestamp(time_ms / 1000, self._zone).utcoffset() or timedelta()) // timedelta(
            milliseconds=1
        )


class _Events:
    """Events of one file, laid out a month of UTC at a time as ascending edges: begin, end, begin, end, …"""

    def __init__(self, mute: CalendarMute) -> None:
        self._zone = ZoneInfo(mute.timezone)
        self._months: dict[int, NDArray[np.int64]] = {}
        try:
            self._query = recurring_ical_events.of(_read(mute.calendar))
            self._edges(0)
        except OSError as error:
            raise SettingsError(f"Calendar '{mute.calendar}' cannot be read: {error.strerror}.") from error
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:  # as parsers raise them
            raise SettingsError(f"Calendar '{mute.calendar}' cannot be followed: {error}") from error

    def muted(self, time_ms: NDArray[np.int64]) -> NDArray[np.bool_]:
        month = time_ms.astype("datetime64[ms]").astype("datetime64[M]").astype(np.int64)
        muted = np.zeros(len(time_ms), dtype=np.bool_)
        for number in np.unique(month).tolist():
            rows = month == number
            muted[rows] = np.searchsorted(self._edges(number), time_ms[rows], side="right") % 2 == 1
        return muted

    def _edges(self, month: int) -> NDArray[np.int64]:
        """Of the month so many after January 1970, and of some days around it: local dates are not those of UTC."""
        if month not in self._months:
            first = datetime(1970 + month // 12, month % 12 + 1, 1, tzinfo=UTC)
            found = self._query.between(first - timedelta(days=1), first + timedelta(days=32))
            spans = [
                (_epoch_ms(event.start, self._zone), _epoch_ms(event.end, self._zone))
                for event in found
                if event.get("STATUS") != "CANCELLED"
            ]
            self._months[month] = _united(np.array(spans, dtype=np.int64).reshape(-1, 2))
        return self._months[month]


def _read(path: Path) -> Calendar:
    """Raises `ValueError` naming the event and what is wrong with it."""
    calendar = Calendar.from_ical(path.read_bytes())
    if not isinstance(calendar, Calendar):
        raise ValueError(f"it begins with {calendar.name}. Expected VCALENDAR.")
    for event in calendar.events:
        try:
            _check(event)
        except ValueError as error:
            raise ValueError(f"event '{event.get('UID', '')}' {error}") from error
    return calendar


def _check(event: Event) -> None:
    """Refuses what would be misread in silence, or never come to an end."""
    for name, reason in event.errors:
        raise ValueError(f"has {name} that is not understood: {reason}.")
    start = event.start
    zone = event["DTSTART"].params.get("TZID")
    if zone and isinstance(start, datetime) and start.tzinfo is None:
        raise ValueError(f"has the time zone '{zone}', which is neither known nor defined in the file.")
    for rule in event.rrules:
        _check_rule(rule, start)


def _check_rule(rule: vRecur, start: date) -> None:
    if not rule.get("FREQ"):
        raise ValueError("has an RRULE without FREQ.")
    if (interval := min(rule.get("INTERVAL", [1]))) < 1:
        raise ValueError(f"recurs with INTERVAL={interval}. Expected 1 or more.")
    often = {"SECONDLY": 86_400, "MINUTELY": 1_440, "HOURLY": 24}.get(rule["FREQ"][0], len(rule.get("BYHOUR", "-")))
    often *= len(rule.get("BYMINUTE", "-")) * len(rule.get("BYSECOND", "-"))
    if often * 365 * (END.year - start.year) > MOST_OCCURRENCES:
        raise ValueError(f"recurs up to {often:,} times a day from {start.year} on. Expected at most hourly.")


def _epoch_ms(moment: date, zone: ZoneInfo | None = None) -> int:
    """A date means its midnight; `zone` is for moments that name none."""
    if not isinstance(moment, datetime):
        moment = datetime.combine(moment, time())
    return round(moment.replace(tzinfo=moment.tzinfo or zone).timestamp() * 1000)


def _united(spans: NDArray[np.int64]) -> NDArray[np.int64]:
    """Begin and end of each stretch that the spans (m, 2) cover together, as one ascending row."""
    begin, end = spans[np.argsort(spans[:, 0])].T
    reach = np.maximum.accumulate(end)
    apart = np.ones(len(spans) + 1, dtype=np.bool_)
    apart[1:-1] = begin[1:] > reach[:-1]
    edges: NDArray[np.int64] = np.stack([begin[apart[:-1]], reach[apart[1:]]], axis=1).reshape(-1)
    return edges


@compiled
def hush(muted: NDArray[np.bool_], visits: Visits, said: Levelled, hushed: NDArray[np.bool_]) -> None:
    """Takes back what was said of muted records (n,). What went on through the end of a mute becomes an alarm there;
    `hushed` remembers, by slot, which entities raised one within."""
    for i in range(len(muted)):
        slot = visits.slot[i]
        if visits.fresh[i]:
            hushed[slot] = False
        if muted[i]:
            hushed[slot] = hushed[slot] or said.alarm[i]
            said.alarm[i], said.elevated[i], said.drift[i] = False, False, 0
        elif hushed[slot] and said.elevated[i]:
            said.alarm[i], hushed[slot] = True, False
