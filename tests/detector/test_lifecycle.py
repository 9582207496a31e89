from __future__ import annotations

import signal
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from zoneinfo import ZoneInfo

import pytest

from consumers.batch import RawBatch
from detector.config_training import TrainingSettings
from detector.errors import StoreError
from detector.lifecycle import ChampionWatch, Retraining, Schedule
from detector.pipeline import Outcome
from detector.store import Store
from detector.trainings import Request, Result, Trainings
from tests.detector.machines import settings
from tests.detector.trainings_at_work import MemoryRoom, script, until

NIGHT = datetime(2026, 3, 1, 2, 59, tzinfo=UTC)


def test_a_schedule_is_due_once_at_each_fire_time() -> None:
    schedule = Schedule(TrainingSettings(schedule="0 3 * * *"), NIGHT)
    assert not schedule.due(NIGHT)
    assert schedule.due(NIGHT + timedelta(minutes=1))
    assert not schedule.due(NIGHT + timedelta(minutes=2))
    assert schedule.due(NIGHT + timedelta(days=1, minutes=1))


def test_fire_times_missed_in_the_meantime_count_as_one() -> None:
    schedule = Schedule(TrainingSettings(schedule="*/5 * * * *"), NIGHT)
    later = NIGHT + timedelta(hours=6)
    assert schedule.due(later)
    assert not schedule.due(later)


def test_the_schedule_follows_its_time_zone_over_daylight_saving() -> None:
    schedule = Schedule(
        TrainingSettings(schedule="0 3 * * *", timezone="Europe/Berlin"), datetime(2026, 3, 30, tzinfo=UTC)
    )
    assert not schedule.due(datetime(2026, 3, 30, 0, 59, tzinfo=UTC))
    assert schedule.due(datetime(2026, 3, 30, 1, 0, tzinfo=UTC))


def test_without_a_schedule_nothing_is_ever_due() -> None:
    assert not Schedule(TrainingSettings(), NIGHT).due(NIGHT + timedelta(days=10_000))


def test_the_jitter_puts_each_fire_time_off_by_less_than_itself_and_never_by_the_same() -> None:
    schedule = Schedule(TrainingSettings(schedule="0 3 * * *", jitter=3_600.0), NIGHT, "machines")
    begins = list[datetime]()
    for minutes in range(0, 20 * 24 * 60, 5):
        if (found := schedule.due(NIGHT + timedelta(minutes=minutes))) is not None:
            begins.append(found)
    delays = [(it - it.replace(hour=3, minute=0, second=0, microsecond=0)).total_seconds() for it in begins]
    assert len(delays) == 20
    assert min(delays) >= 0
    assert max(delays) < 3_600
    assert max(delays) - min(delays) > 1_800


def test_all_replicas_of_a_detector_draw_the_same_jitter_and_other_detectors_another() -> None:
    chosen = TrainingSettings(schedule="0 3 * * *", timezone="Europe/Berlin", jitter=3_600.0)
    later = NIGHT + timedelta(days=1)
    drawn = [Schedule(chosen, start, name).due(later) for start, name in [
        (NIGHT, "machines"), (NIGHT - timedelta(minutes=30), "machines"), (NIGHT, "pumps"),
    ]]  # fmt: skip
    assert drawn[0] == drawn[1]
    assert drawn[0] != drawn[2]


def test_a_replica_that_starts_between_fire_time_and_beginning_is_due_with_the_others() -> None:
    chosen = TrainingSettings(schedule="0 3 * * *", jitter=3_600.0)
    begins = Schedule(chosen, NIGHT, "machines").due(NIGHT + timedelta(days=1))
    assert begins is not None
    late = Schedule(chosen, begins - timedelta(seconds=1), "machines")
    assert late.due(begins - timedelta(seconds=1)) is None
    assert late.due(begins) == begins


@pytest.mark.parametrize(
    ("schedule", "at", "hours"),
    [
        ("0 3 * * *", datetime(2026, 3, 10, 3, 0, 5), 24),
        ("0 3 * * *", datetime(2026, 3, 10, 12, 0), 24),
        ("0 3 * * 1-5", datetime(2026, 3, 13, 3, 0, 5), 72),  # a Friday
        ("0 3 * * 1-5", datetime(2026, 3, 12, 3, 0, 5), 72),
        ("0 3 * * 1-5", datetime(2026, 3, 11, 3, 0, 5), 24),
        ("0 3 * * *", datetime(2026, 10, 24, 12, 0), 25),  # the clocks go back in Berlin in that night
        ("@weekly", datetime(2026, 3, 11), 168),
    ],
)
def test_the_time_between_trainings_is_the_longest_around_a_moment(schedule: str, at: datetime, hours: float) -> None:
    berlin = Schedule(TrainingSettings(schedule=schedule, timezone="Europe/Berlin"), NIGHT)
    assert berlin.interval_s(at.replace(tzinfo=ZoneInfo("Europe/Berlin"))) == hours * 3600


def test_without_a_schedule_there_is_no_time_between_trainings() -> None:
    assert Schedule(TrainingSettings(), NIGHT).interval_s(NIGHT) is None


def test_a_watch_tells_of_looks_that_failed_and_of_the_last_good_one(tmp_path: Path) -> None:
    folder = tmp_path / "store" / "machines"
    folder.mkdir(parents=True)
    (folder / "champion.json").write_text("no pointer")
    chosen = settings(tmp_path)
    watch = ChampionWatch(Store(chosen.store.url, "machines"), chosen, "v1")
    try:
        while (bad := watch.look).failed < 2:
            pass
        assert "champion.json" in bad.trouble
        (folder / "champion.json").unlink()
        while (good := watch.look).trouble:
            pass
        assert good.good_at > bad.good_at
        assert good.next_at == pytest.approx(good.good_at + chosen.store.poll)
        assert good.failed >= bad.failed
    finally:
        watch.stop()


class Site:
    """A replica's retraining on a store in memory, at a time that a test moves on."""

    def __init__(
        self, room: MemoryRoom, code: str = "await_signal()", *, command: list[str] | None = None, **training: Any
    ) -> None:
        self.now = NIGHT
        self.ended: list[Result] = []
        self.trainings = Trainings(room)
        self.retraining = Retraining(
            settings(Path("unused"), training=training),
            room,
            script(code) if command is None else command,
            ended=self.ended.append,
            clock=lambda: self.now,
        )

    def look(self, **later: float) -> None:
        self.now += timedelta(**later)
        self.retraining.look()

    def look_until(self, outcome: Result) -> None:
        def seen() -> bool:
            self.retraining.look()
            return [report.outcome for report in self.trainings.reports(1)] == [outcome]

        until(seen)

    def see(self, kind: str) -> None:
        outcome = SimpleNamespace(alerts=[SimpleNamespace(kind=kind, id="a1")])
        self.retraining.notice(cast(RawBatch, None), cast(Outcome, outcome))


@pytest.fixture
def room() -> MemoryRoom:
    return MemoryRoom()


@pytest.fixture
def sites() -> Iterator[list[Site]]:
    """Those put into it are stopped at the end."""
    made: list[Site] = []
    yield made
    for site in made:
        site.retraining.stop()


def owner(sites: list[Site], room: MemoryRoom, code: str = "await_signal()", **changes: Any) -> Site:
    site = replica(sites, room, code, **changes)
    site.retraining.own(True)
    return site


def replica(sites: list[Site], room: MemoryRoom, code: str = "await_signal()", **changes: Any) -> Site:
    site = Site(room, code, **changes)
    sites.append(site)
    return site


def test_what_is_asked_for_is_trained_by_the_owner_of_the_first_partition_alone(
    sites: list[Site], room: MemoryRoom
) -> None:
    other, first = replica(sites, room), owner(sites, room)
    request = first.trainings.ask(Request(reason="demand"))
    other.look()
    assert (other.retraining.phase, other.trainings.asked()) == (None, request)
    first.look()
    assert (first.retraining.phase, first.trainings.under_way()) == ("training", request)
    other.look()
    assert other.retraining.phase is None


def test_its_report_is_filed_and_told(sites: list[Site], room: MemoryRoom) -> None:
    site = owner(sites, room, 'report("promoted", version="v7")')
    request = site.trainings.ask(Request(reason="demand"))
    site.look_until("promoted")
    assert site.ended == ["promoted"]
    assert site.trainings.under_way() is None
    found = site.trainings.report(request.id)
    assert found is not None
    assert found.version == "v7"


@pytest.mark.parametrize(("code", "command"), [("1/0", None), ("", ["/no/such/command"])], ids=["crash", "no command"])
def test_a_training_that_leaves_no_report_gets_one(
    sites: list[Site], room: MemoryRoom, code: str, command: list[str] | None
) -> None:
    site = owner(sites, room, code, command=command)
    site.trainings.ask(Request(reason="demand"))
    site.look_until("failed")
    assert site.ended == ["failed"]
    site.look()
    assert site.retraining.phase is None, "it is not tried again"


def test_the_schedule_asks_once_for_all_replicas(sites: list[Site], room: MemoryRoom) -> None:
    other, first = (make(sites, room, 'report("refused")', schedule="0 3 * * *") for make in (replica, owner))
    other.look(minutes=5)
    first.look(minutes=5)
    first.look_until("refused")
    late = replica(sites, room, schedule="0 3 * * *")
    late.look(minutes=7)
    assert late.trainings.asked() is None
    assert len(first.trainings.reports(10)) == 1


@pytest.mark.parametrize("kind", ["drift", "creep"])
def test_a_replica_that_sees_drift_asks(sites: list[Site], room: MemoryRoom, kind: str) -> None:
    site = replica(sites, room)
    site.see(kind)
    site.look()
    request = site.trainings.asked()
    assert request is not None
    assert (request.reason, request.note) == ("drift", f"{kind}, alert a1")


@pytest.mark.parametrize(("kind", "on_drift"), [("opened", True), ("drift", False)])
def test_nobody_asks_for_other_alerts_or_where_drift_is_no_reason(
    sites: list[Site], room: MemoryRoom, kind: str, on_drift: bool
) -> None:
    site = replica(sites, room, on_drift=on_drift)
    site.see(kind)
    site.look()
    assert site.trainings.asked() is None


def test_drift_asks_again_after_a_pause_whichever_replica_sees_it(sites: list[Site], room: MemoryRoom) -> None:
    first = owner(sites, room, 'report("refused")', drift_pause="1h")
    first.trainings.take(Request(reason="drift", asked=NIGHT))
    other = replica(sites, room, drift_pause="1h")
    other.see("drift")
    other.look(minutes=59)
    assert other.trainings.asked() is None
    other.look(minutes=1)
    assert other.trainings.asked() is not None


def test_drift_asks_again_where_the_training_for_it_was_refused(sites: list[Site], room: MemoryRoom) -> None:
    site = owner(sites, room, 'report("refused")', drift_pause="1h")
    site.see("drift")
    site.look()
    site.look_until("refused")
    site.look(minutes=59)
    assert site.trainings.asked() is None
    site.look(minutes=2)
    assert site.trainings.asked() is not None or site.retraining.phase is not None


def test_drift_before_another_version_served_is_forgotten(sites: list[Site], room: MemoryRoom) -> None:
    site = replica(sites, room)
    site.see("drift")
    site.retraining.adopted()
    site.look()
    assert site.trainings.asked() is None


def test_a_training_ends_with_the_partition_and_the_next_owner_takes_it_again(
    sites: list[Site], room: MemoryRoom
) -> None:
    first, second = owner(sites, room), replica(sites, room)
    request = first.trainings.ask(Request(reason="demand"))
    first.look()
    first.retraining.own(False)
    assert first.retraining.phase is None
    first.look()
    assert first.retraining.phase is None
    second.retraining.own(True)
    second.look()
    assert second.retraining.phase == "training"
    assert second.trainings.under_way() == request
    assert first.ended == second.ended == []


def test_a_report_that_came_just_before_the_partition_went_is_filed(sites: list[Site], room: MemoryRoom) -> None:
    site = owner(sites, room, 'report("refused")')
    request = site.trainings.ask(Request(reason="demand"))
    site.look()
    child = site.retraining._trainer._child
    assert child is not None
    child.process.wait()
    site.retraining.own(False)
    assert site.ended == ["refused"]
    site.look()
    assert site.trainings.report(request.id) is not None


def test_another_request_waits_for_a_training(sites: list[Site], room: MemoryRoom) -> None:
    site = owner(sites, room, 'say("shadow v7"); await_signal()')
    first = site.trainings.ask(Request(reason="demand"))
    site.look()
    second = site.trainings.ask(Request(reason="demand"))
    until(lambda: site.retraining.phase == "shadow")
    site.look()
    assert site.trainings.under_way() == first
    assert site.trainings.asked() == second


def test_another_request_takes_the_place_of_a_watch(sites: list[Site], room: MemoryRoom) -> None:
    site = owner(sites, room, 'say("watch v7"); await_signal()')
    first = site.trainings.ask(Request(reason="demand"))
    site.look_until("promoted")
    assert site.retraining.phase == "watch"
    second = site.trainings.ask(Request(reason="demand"))
    site.look()
    assert site.trainings.under_way() == second
    found = site.trainings.report(first.id)
    assert found is not None
    assert (found.outcome, found.version) == ("promoted", "v7")
    assert site.ended == ["promoted"]


def test_a_watch_that_rolls_back_is_told_after_the_promotion(sites: list[Site], room: MemoryRoom) -> None:
    site = owner(
        sites,
        room,
        'say("watch v7"); await_signal(); report("rolled back")',
    )
    site.trainings.ask(Request(reason="demand"))
    site.look_until("promoted")
    site.look()
    child = site.retraining._trainer._child
    assert child is not None
    child.process.send_signal(signal.SIGUSR1)
    site.look_until("rolled back")
    assert site.ended == ["promoted", "rolled back"]
    assert len(site.trainings.reports(10)) == 1


def test_a_report_that_cannot_be_filed_is_kept_and_nothing_is_started_meanwhile(
    sites: list[Site], room: MemoryRoom
) -> None:
    site = owner(sites, room, "1/0")
    request = site.trainings.ask(Request(reason="demand"))
    site.look()
    room.trouble = "no space left on device"

    def failed() -> bool:
        with pytest.raises(StoreError, match="no space"):
            site.look()
        return bool(site.ended)

    until(failed)
    failed()
    assert (site.ended, site.retraining.phase) == (["failed"], None)
    room.trouble = ""
    site.look()
    assert site.trainings.report(request.id) is not None
    assert (site.ended, site.retraining.phase) == (["failed"], None)


def test_without_a_command_an_owner_trains_nothing(sites: list[Site], room: MemoryRoom) -> None:
    site = owner(sites, room, command=[])
    site.trainings.ask(Request(reason="demand"))
    site.look()
    assert site.trainings.asked() is not None


def test_a_watch_on_the_store_does_what_else_is_to_be_done_whatever_becomes_of_the_champion(tmp_path: Path) -> None:
    folder = tmp_path / "store" / "machines"
    folder.mkdir(parents=True)
    (folder / "champion.json").write_text("no pointer")
    looks: list[int] = []

    def also() -> None:
        looks.append(1)
        raise StoreError("requests cannot be read")

    watch = ChampionWatch(Store(str(tmp_path / "store"), "machines"), settings(tmp_path), "v1", also)
    try:
        until(lambda: len(looks) >= 2 and watch.look.failed >= 2)
        assert "champion.json" in watch.look.trouble
        assert "requests cannot be read" in watch.look.trouble
    finally:
        watch.stop()


def test_a_watch_that_ends_well_is_not_told_as_a_second_promotion(sites: list[Site], room: MemoryRoom) -> None:
    site = owner(sites, room, 'say("watch v7"); await_signal(); report("promoted", reasons=["kept its budget"])')
    request = site.trainings.ask(Request(reason="demand"))
    site.look_until("promoted")
    child = site.retraining._trainer._child
    assert child is not None
    child.process.send_signal(signal.SIGUSR1)

    def over() -> bool:
        site.look()
        return site.retraining.phase is None

    until(over)
    assert site.ended == ["promoted"]
    found = site.trainings.report(request.id)
    assert found is not None
    assert found.reasons == ["kept its budget"]


def test_a_partition_that_goes_while_a_request_is_taken_leaves_it_to_the_next_owner(sites: list[Site]) -> None:
    class Moving(MemoryRoom):
        def write_json(self, name: str, content: bytes) -> None:
            super().write_json(name, content)
            if name == "under-way.json":
                site.retraining.own(False)

    room = Moving()
    site = owner(sites, room)
    request = site.trainings.ask(Request(reason="demand"))
    site.look()
    assert site.retraining.phase is None
    assert site.trainings.under_way() == request
