from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from pydantic import ValidationError

from detector.store import Store
from detector.trainings import KEPT_REPORTS, Course, Report, Request, Result, Room, Trainings
from tests.detector.trainings_at_work import MemoryRoom

NIGHT = datetime(2026, 3, 1, 3, tzinfo=UTC)


@pytest.fixture(params=["memory", "folder"])
def room(request: pytest.FixtureRequest, tmp_path: Path) -> Room:
    return MemoryRoom() if request.param == "memory" else Store(str(tmp_path), "machines")


def report_of(request: Request, outcome: Result = "promoted", *, after_s: float = 0) -> Report:
    return Report.of(request, NIGHT + timedelta(seconds=after_s), outcome, "for a reason", version="v1")


def test_a_request_waits_is_under_way_and_has_a_report(room: Room) -> None:
    trainings, request = Trainings(room), Request(reason="demand", note="new machines")
    assert trainings.ask(request) == request
    assert (trainings.asked(), trainings.under_way()) == (request, None)
    trainings.take(request)
    assert (trainings.asked(), trainings.under_way()) == (None, request)
    trainings.done(report_of(request))
    assert (trainings.asked(), trainings.under_way()) == (None, None)
    assert trainings.report(request.id) == report_of(request).model_copy(
        update={"ended": trainings.reports(1)[0].ended}
    )


def test_who_asks_while_another_request_waits_joins_it(room: Room) -> None:
    trainings = Trainings(room)
    first = trainings.ask(Request(reason="demand"))
    assert trainings.ask(Request(reason="drift")) == first


def test_who_asks_while_another_is_under_way_waits_for_it(room: Room) -> None:
    trainings = Trainings(room)
    first = trainings.ask(Request(reason="demand"))
    trainings.take(first)
    second = trainings.ask(Request(reason="demand"))
    assert trainings.asked() == second
    trainings.done(report_of(first))
    assert (trainings.asked(), trainings.under_way()) == (second, None)


@pytest.mark.parametrize("over", [False, True])
def test_what_all_replicas_ask_for_at_the_same_time_is_trained_once(room: Room, over: bool) -> None:
    trainings, request = Trainings(room), Request(id="schedule-20260301T030000Z", reason="schedule")
    trainings.ask(request)
    trainings.take(request)
    if over:
        trainings.done(report_of(request))
    trainings.ask(request)
    assert trainings.asked() is None


def test_one_that_was_taken_but_whose_taker_died_is_still_under_way(room: Room) -> None:
    trainings, request = Trainings(room), Request(reason="demand")
    room.write_json("request.json", request.model_dump_json().encode())
    room.write_json("under-way.json", request.model_dump_json().encode())
    assert trainings.under_way() == request
    trainings.take(request)
    assert trainings.asked() is None


def test_a_later_report_of_a_training_replaces_the_earlier_one(room: Room) -> None:
    trainings, request = Trainings(room), Request(reason="demand")
    trainings.done(report_of(request))
    trainings.done(report_of(request, "rolled back", after_s=3_600))
    (found,) = trainings.reports(10)
    assert found.outcome == "rolled back"


def test_a_report_leaves_another_request_that_was_taken_where_it_is(room: Room) -> None:
    trainings, later = Trainings(room), Request(reason="demand")
    trainings.take(later)
    trainings.done(report_of(Request(reason="drift")))
    assert trainings.under_way() == later


def test_the_last_reports_are_told_oldest_first_and_older_ones_are_removed() -> None:
    trainings = Trainings(MemoryRoom())
    for number in range(KEPT_REPORTS + 5):
        trainings.done(report_of(Request(id=f"n{number}", reason="schedule"), after_s=number))
    assert [report.id for report in trainings.reports(2)] == [f"n{KEPT_REPORTS + 3}", f"n{KEPT_REPORTS + 4}"]
    assert len(trainings.reports(10_000)) == KEPT_REPORTS


def test_a_request_that_cannot_be_read_keeps_nobody_from_asking(room: Room) -> None:
    trainings, request = Trainings(room), Request(reason="demand")
    room.write_json("request.json", b'{"id": "../../champion", "reason": "demand"}')
    room.write_json("under-way.json", b"half of it")
    assert (trainings.asked(), trainings.under_way()) == (None, None)
    assert trainings.ask(request) == request
    assert trainings.asked() == request


def test_reports_that_cannot_be_read_are_left_out(room: Room) -> None:
    trainings = Trainings(room)
    trainings.done(report_of(Request(reason="demand")))
    room.write_json("trainings/20260302T030000Z-x.json", b"half of it")
    assert len(trainings.reports(10)) == 1
    assert trainings.report("x") is None


def test_when_a_training_on_drift_last_began_is_known(room: Room) -> None:
    trainings = Trainings(room)
    assert trainings.last("drift") is None
    trainings.done(report_of(Request(reason="drift"), "refused"))
    trainings.done(report_of(Request(reason="demand"), after_s=60))
    assert trainings.last("drift") == NIGHT
    trainings.take(Request(reason="drift", asked=NIGHT + timedelta(hours=1)))
    assert trainings.last("drift") == NIGHT + timedelta(hours=1)


def test_an_id_that_is_no_part_of_a_file_name_is_refused() -> None:
    with pytest.raises(ValidationError):
        Request(id="../champion", reason="demand")


def test_a_course_knows_phases_and_signs_of_life_and_nothing_else() -> None:
    course = Course(Request(reason="demand"))
    assert course.phase == "training"
    assert [course.hear(line) for line in ("shadow v7\n", "alive", "", "shadows", "no phase", "\x00")] == [
        *(True, True),
        *(False, False, False, False),
    ]
    assert (course.phase, course.version) == ("shadow", "v7")
    assert course.hear("watch")
    assert (course.phase, course.version) == ("watch", "v7")


def test_a_training_that_is_cut_short_has_failed_but_where_its_version_was_promoted_already() -> None:
    course = Course(Request(reason="demand"))
    assert course.cut_short("timeout", "no word").outcome == "timeout"
    course.hear("watch v7")
    report = course.cut_short("failed", "no word")
    assert (report.outcome, report.version) == ("promoted", "v7")
    assert "no word" in report.reasons[0]
