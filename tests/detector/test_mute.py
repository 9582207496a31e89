from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from detector.errors import SettingsError
from detector.mute import DAYS, CalendarMute, Mute, MuteCalendar, WeeklyMute

MUTE: TypeAdapter[WeeklyMute | CalendarMute] = TypeAdapter(Mute)
BERLIN, NEW_YORK = "Europe/Berlin", "America/New_York"
EVERY_MINUTE = ",".join(map(str, range(60)))
NIGHT = {"from": "22:00", "to": "06:00"}


def weekly(*mutes: dict[str, Any]) -> MuteCalendar:
    return MuteCalendar.from_settings([MUTE.validate_python(mute) for mute in mutes])


def events(folder: Path, *bodies: str, head: str = "", timezone: str = "UTC") -> MuteCalendar:
    """Of a calendar whose events have these lines."""
    path = folder / "mute.ics"
    parts = [f"BEGIN:VEVENT\nUID:event-{n}\n{body}\nEND:VEVENT\n" for n, body in enumerate(bodies)]
    path.write_text(f"BEGIN:VCALENDAR\nVERSION:2.0\nPRODID:test\n{head}{''.join(parts)}END:VCALENDAR\n")
    return MuteCalendar.from_settings([CalendarMute(calendar=path, timezone=timezone)])


def ms(text: str, zone: str = "UTC") -> int:
    return round(datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp() * 1000)


def at(calendar: MuteCalendar, *texts: str, zone: str = "UTC") -> list[bool]:
    found: list[bool] = calendar.muted(np.array([ms(text, zone) for text in texts])).tolist()
    return found


def minutes(first: str, hours: int) -> NDArray[np.int64]:
    return ms(first) + 60_000 * np.arange(60 * hours)


def on_the_wall(times: NDArray[np.int64], zone: str) -> list[str]:
    return [datetime.fromtimestamp(time / 1000, ZoneInfo(zone)).strftime("%H:%M") for time in times.tolist()]


def test_a_weekly_mute_holds_from_its_first_moment_up_to_its_end() -> None:
    calendar = weekly({"from": "09:00", "to": "17:30", "timezone": BERLIN})
    times = ("2026-07-01T08:59:59.999", "2026-07-01T09:00", "2026-07-01T17:29:59.999", "2026-07-01T17:30")
    assert at(calendar, *times, zone=BERLIN) == [False, True, True, False]


def test_a_mute_over_midnight_belongs_to_the_day_on_which_it_begins() -> None:
    calendar = weekly({**NIGHT, "days": ["sun"]})  # 22 November 2026 is a Sunday
    times = ("2026-11-22T05:00", "2026-11-22T22:00", "2026-11-23T05:59", "2026-11-23T06:00", "2026-11-23T22:00")
    assert at(calendar, *times) == [False, True, True, False, False]


def test_from_equal_to_to_is_a_whole_day() -> None:
    calendar = weekly({"days": ["sat"], "from": "06:00", "to": "06:00"})
    times = ("2026-11-21T05:59", "2026-11-21T06:00", "2026-11-22T05:59", "2026-11-22T06:00")
    assert at(calendar, *times) == [False, True, True, False]


@pytest.mark.parametrize(
    ("zone", "midnight", "muted_minutes"),
    [
        (BERLIN, "2026-03-28T23:00", 120),  # 02:00 becomes 03:00
        (BERLIN, "2026-10-24T22:00", 240),  # 03:00 becomes 02:00
        (NEW_YORK, "2026-03-08T05:00", 120),
        (NEW_YORK, "2026-11-01T04:00", 240),  # 02:00 becomes 01:00
        (BERLIN, "2026-07-01T22:00", 180),
    ],
)
def test_a_weekly_mute_goes_by_the_clock_on_the_wall_when_that_is_changed(
    zone: str, midnight: str, muted_minutes: int
) -> None:
    times = minutes(midnight, 12)
    muted = weekly({"from": "01:00", "to": "04:00", "timezone": zone}).muted(times)
    assert muted.tolist() == ["01:00" <= clock < "04:00" for clock in on_the_wall(times, zone)]
    assert muted.sum() == muted_minutes


@pytest.mark.parametrize(
    ("zone", "midnight", "muted_minutes"),
    [(BERLIN, "2026-03-28T23:00", 120), (BERLIN, "2026-10-24T22:00", 240), (NEW_YORK, "2026-11-01T04:00", 240)],
)
def test_an_event_of_a_zone_goes_by_the_clock_on_the_wall_when_that_is_changed(
    tmp_path: Path, zone: str, midnight: str, muted_minutes: int
) -> None:
    body = f"DTSTART;TZID={zone}:20260101T010000\nDTEND;TZID={zone}:20260101T040000\nRRULE:FREQ=DAILY"
    times = minutes(midnight, 12)
    muted = events(tmp_path, body).muted(times)
    # New York repeats 01:00 to 02:00, and the event begins with the first of the two
    assert muted.tolist() == ["01:00" <= clock < "04:00" for clock in on_the_wall(times, zone)]
    assert muted.sum() == muted_minutes


@given(
    st.lists(st.integers(ms("2025-12-30T00:00"), ms("2027-01-02T00:00")), min_size=1, max_size=50),
    st.tuples(st.integers(0, 1439), st.integers(0, 1439)),
    st.sets(st.sampled_from(DAYS), min_size=1),
    st.sampled_from(["UTC", BERLIN, NEW_YORK, "Australia/Lord_Howe", "Asia/Kathmandu"]),
)
def test_weekly_mutes_agree_with_the_local_time_of_each_record(
    times: list[int], hours: tuple[int, int], days: set[str], zone: str
) -> None:
    start, end = hours
    named = {"from": f"{start // 60:02}:{start % 60:02}", "to": f"{end // 60:02}:{end % 60:02}"}
    muted = weekly({**named, "days": sorted(days), "timezone": zone}).muted(np.array(times))
    for time, found in zip(times, muted.tolist(), strict=True):
        local = datetime.fromtimestamp(time // 1000, ZoneInfo(zone))
        minute = local.hour * 60 + local.minute
        begun_today = minute >= start and (minute < end or end <= start) and DAYS[local.weekday()] in days
        begun_yesterday = end <= start and minute < end and DAYS[local.weekday() - 1] in days
        assert found == (begun_today or begun_yesterday)


def test_a_recurring_event_leaves_out_its_exceptions(tmp_path: Path) -> None:
    calendar = events(
        tmp_path,
        f"DTSTART;TZID={BERLIN}:20260105T020000\nDURATION:PT2H\nRRULE:FREQ=WEEKLY;BYDAY=MO\n"
        f"EXDATE;TZID={BERLIN}:20260713T020000",
    )
    times = ("2026-07-06T03:59", "2026-07-06T04:00", "2026-07-13T03:00", "2026-07-14T03:00", "2026-07-20T02:00")
    assert at(calendar, *times, zone=BERLIN) == [True, False, False, False, True]


def test_an_occurrence_that_was_moved_or_cancelled_counts_as_it_was_changed(tmp_path: Path) -> None:
    once = "DURATION:PT1H\nRECURRENCE-ID:"
    calendar = events(tmp_path, "DTSTART:20260701T100000Z\nDURATION:PT1H\nRRULE:FREQ=DAILY")
    path = tmp_path / "mute.ics"
    changed = path.read_text().replace(
        "END:VCALENDAR",
        f"BEGIN:VEVENT\nUID:event-0\nDTSTART:20260702T150000Z\n{once}20260702T100000Z\nEND:VEVENT\n"
        f"BEGIN:VEVENT\nUID:event-0\nDTSTART:20260703T100000Z\n{once}20260703T100000Z\nSTATUS:CANCELLED\nEND:VEVENT\n"
        "END:VCALENDAR",
    )
    path.write_text(changed)
    calendar = MuteCalendar.from_settings([CalendarMute(calendar=path)])
    times = ("2026-07-01T10:30", "2026-07-02T10:30", "2026-07-02T15:30", "2026-07-03T10:30", "2026-07-04T10:30")
    assert at(calendar, *times) == [True, False, True, False, True]


def test_all_day_events_and_times_without_a_zone_are_of_the_zone_in_the_settings(tmp_path: Path) -> None:
    calendar = events(
        tmp_path, "DTSTART;VALUE=DATE:20261224\nDTEND;VALUE=DATE:20261227", "DTSTART:20261230T080000\nDURATION:PT1H",
        timezone=NEW_YORK,
    )  # fmt: skip
    times = ("2026-12-23T23:59", "2026-12-24T00:00", "2026-12-26T23:59", "2026-12-27T00:00", "2026-12-30T08:30")
    assert at(calendar, *times, zone=NEW_YORK) == [False, True, True, False, True]


def test_a_zone_that_the_file_defines_itself_is_understood(tmp_path: Path) -> None:
    zone = (
        "BEGIN:VTIMEZONE\nTZID:Plant\nBEGIN:STANDARD\nDTSTART:19700101T000000\nTZOFFSETFROM:+0330\n"
        "TZOFFSETTO:+0330\nEND:STANDARD\nEND:VTIMEZONE\n"
    )
    calendar = events(tmp_path, "DTSTART;TZID=Plant:20260701T120000\nDURATION:PT1H", head=zone)
    assert at(calendar, "2026-07-01T08:29", "2026-07-01T08:30", "2026-07-01T09:30") == [False, True, False]


def test_an_event_over_months_mutes_all_of_them(tmp_path: Path) -> None:
    calendar = events(
        tmp_path, "DTSTART:20260115T000000Z\nDTEND:20260615T000000Z", "DTSTART:20260301T000000Z\nDURATION:P1D"
    )
    times = ("2026-01-14T23:59", "2026-02-28T23:59", "2026-03-01T12:00", "2026-05-31T23:59", "2026-06-15T00:00")
    assert at(calendar, *times) == [False, True, True, True, False]


def test_an_event_without_an_end_mutes_nothing_but_an_all_day_one_its_day(tmp_path: Path) -> None:
    calendar = events(tmp_path, "DTSTART:20260701T100000Z", "DTSTART;VALUE=DATE:20260702")
    assert at(calendar, "2026-07-01T10:00", "2026-07-02T10:00") == [False, True]


def test_mutes_of_all_kinds_add_up(tmp_path: Path) -> None:
    path = tmp_path / "mute.ics"
    events(tmp_path, "DTSTART:20260701T100000Z\nDURATION:PT1H")
    mutes: Sequence[WeeklyMute | CalendarMute] = [
        MUTE.validate_python(value) for value in (NIGHT, {**NIGHT, "timezone": "Asia/Tokyo"}, {"calendar": path})
    ]
    times = ("2026-07-01T23:00", "2026-07-01T14:00", "2026-07-01T10:30", "2026-07-01T09:30")
    assert at(MuteCalendar.from_settings(mutes), *times) == [True, True, True, False]


def test_times_of_wrong_clocks_are_never_muted(tmp_path: Path) -> None:
    wrong = np.array([-(2**63), 2**63 - 1, ms("0001-01-01T00:00"), ms("9999-12-31T00:00"), -1, ms("2100-01-01T00:00")])
    always = {"from": "00:00", "to": "00:00", "timezone": NEW_YORK}
    assert weekly(always).muted(np.append(wrong, [0, ms("2099-12-31T23:59")])).tolist() == [False] * 6 + [True] * 2
    daily = events(tmp_path, "DTSTART:19700101T000000Z\nDURATION:P1D\nRRULE:FREQ=DAILY;COUNT=40")
    assert daily.muted(np.append(wrong, 0)).tolist() == [False] * 6 + [True]


def test_what_is_muted_does_not_depend_on_which_records_stand_together(tmp_path: Path) -> None:
    calendar = events(tmp_path, "DTSTART:20260115T000000Z\nDTEND:20260615T000000Z")
    times = np.array([ms("2026-06-14T00:00") - 86_400_000 * 30 * n for n in range(-3, 12)])
    one_by_one = [bool(calendar.muted(times[n : n + 1])[0]) for n in range(len(times))]
    again = events(tmp_path, "DTSTART:20260115T000000Z\nDTEND:20260615T000000Z")
    assert again.muted(times).tolist() == one_by_one


def test_without_mutes_it_is_false_and_mutes_nothing() -> None:
    calendar = MuteCalendar.from_settings([])
    assert not calendar
    assert weekly(NIGHT)
    assert at(calendar, "2026-07-01T23:00") == [False]
    assert weekly(NIGHT).muted(np.empty(0, dtype=np.int64)).tolist() == []


@pytest.mark.parametrize(
    ("mute", "wanted"),
    [
        ({"from": "24:00", "to": "06:00"}, 'a time of day from "00:00" to "23:59"'),
        ({"from": 5, "to": "06:00"}, 'a time of day from "00:00" to "23:59"'),
        ({**NIGHT, "days": ["monday"]}, "'mon', 'tue'"),
        ({**NIGHT, "days": []}, "at least 1"),
        ({**NIGHT, "timezone": "Mars"}, "a time zone like Europe/Berlin"),
        ({"from": "22:00"}, "required"),
        ({"calendar": "x.ics", **NIGHT}, "not permitted"),
    ],
)
def test_a_wrong_mute_is_refused_with_what_was_wanted(mute: dict[str, Any], wanted: str) -> None:
    with pytest.raises(ValidationError, match=wanted):
        MUTE.validate_python(mute)


def test_hours_are_read_unquoted_and_written_as_they_are_read() -> None:
    mute = MUTE.validate_python({"from": 1320, "to": "6:00"})  # YAML makes 1320 of 22:00
    written = MUTE.dump_python(mute, mode="json")
    assert (written["from"], written["to"]) == ("22:00", "06:00")
    assert MUTE.validate_python(written) == mute


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("hello", "parsed"),
        ("", "no components"),
        ("BEGIN:VEVENT\nUID:1\nDTSTART:20260310T100000Z\nEND:VEVENT\n", "begins with VEVENT. Expected VCALENDAR"),
        ("BEGIN:VCALENDAR\nVERSION:2.0\nX-WR-TIMEZONE:Mars\nEND:VCALENDAR\n", "Mars"),
    ],
)
def test_a_file_that_is_no_calendar_is_refused_by_name(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "broken.ics"
    path.write_text(text)
    with pytest.raises(SettingsError, match=rf"broken\.ics' cannot be followed: .*{told}"):
        MuteCalendar.from_settings([CalendarMute(calendar=path)])


def test_a_file_that_is_not_there_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"none\.ics' cannot be read: No such file"):
        MuteCalendar.from_settings([CalendarMute(calendar=tmp_path / "none.ics")])


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("DURATION:PT1H", "DTSTART"),
        ("DTSTART:soon\nDURATION:PT1H", "DTSTART that is not understood"),
        ("DTSTART;TZID=Mars/Base:20260101T000000\nDURATION:PT1H", "time zone 'Mars/Base'"),
        ("DTSTART:20260101T000000Z\nDURATION:P999999W", "out of range"),
        ("DTSTART:20260101T000000Z\nRRULE:often", "RRULE without FREQ"),
        ("DTSTART:20260101T000000Z\nRRULE:FREQ=DAILY;INTERVAL=0", "INTERVAL=0"),
        ("DTSTART:20260101T000000Z\nRRULE:FREQ=SECONDLY", "86,400 times a day"),
        ("DTSTART:20260101T000000Z\nRRULE:FREQ=MINUTELY;COUNT=5", "1,440 times a day"),
        (f"DTSTART:20260101T000000Z\nRRULE:FREQ=DAILY;BYHOUR=1,2;BYMINUTE={EVERY_MINUTE}", "120 times a day"),
        ("DTSTART:00010101T000000Z\nRRULE:FREQ=HOURLY", "24 times a day from 1 on"),
    ],
)  # fmt: skip
def test_an_event_that_cannot_be_followed_is_refused_by_name(tmp_path: Path, body: str, told: str) -> None:
    with pytest.raises(SettingsError, match=f"mute.ics' cannot be followed: (?s:.)*{told}"):
        events(tmp_path, body)


def test_a_rule_with_no_end_is_followed_no_further_than_the_month_asked_for(tmp_path: Path) -> None:
    calendar = events(
        tmp_path,
        "DTSTART:20260101T000000Z\nDURATION:PT5M\nRRULE:FREQ=HOURLY;COUNT=99999999",
        "DTSTART:20260101T003000Z\nDURATION:PT5M\nRRULE:FREQ=HOURLY",
    )
    muted = calendar.muted(minutes("2026-02-01T00:00", 24))
    assert muted.sum() == 24 * 10


def test_an_hour_of_every_day_of_a_year_is_muted_exactly(tmp_path: Path) -> None:
    calendar = events(tmp_path, "DTSTART:20260101T120000Z\nDURATION:PT1H\nRRULE:FREQ=DAILY;UNTIL=20261231T235959Z")
    first = datetime(2026, 1, 1, tzinfo=UTC)
    halves = [first + timedelta(minutes=30) * n for n in range(48 * 365)]
    muted = calendar.muted(np.array([round(half.timestamp() * 1000) for half in halves]))
    assert muted.tolist() == [half.hour == 12 for half in halves]
