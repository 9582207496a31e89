"""A retraining from beginning to end, on a broker in memory."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from consumers.memory import MemoryBroker
from detector.bundle import Bundle
from detector.config import DetectorSettings
from detector.errors import TrainingError
from detector.lease import Lease
from detector.retraining import retrain
from detector.store import Store
from detector.trainings import Report, Request
from tests.detector.machines import broker_with, records, send, settings

TRAINING = {"records": 3_000, "min_records": 300}
PROMOTION = {"shadow": 900, "watch": 900, "wait": "1s"}


class Course:
    """A store with a champion, a broker with records after those it was trained on, and what comes live by phase."""

    def __init__(self, folder: Path, champion: Bundle | None, past: Sequence[bytes], **changes: Any) -> None:
        changes = {"promotion": PROMOTION, "training": TRAINING, **changes}
        self.settings: DetectorSettings = settings(folder, **changes)
        self.store = Store(self.settings.store.url, self.settings.name)
        if champion is not None:
            self.store.save(champion)
            self.store.promote(champion.version)
        self.broker: MemoryBroker = broker_with(past)
        self.live = {"shadow": records(1_000, start=6_000), "watch": records(1_000, start=7_000)}
        self.phases: list[str] = []
        self.at: dict[str, Callable[[], object]] = {}

    def run(self) -> Report:
        lease = Lease(self.store)
        while not lease.take():
            pass  # nobody else is there to claim it
        return retrain(
            self.settings, self.broker, self.store, request=Request(reason="demand"), lease=lease, phase=self._phase
        )

    def _phase(self, told: str) -> None:
        word = told.split()[0]
        self.phases.append(word)
        self.at.get(word, lambda: None)()
        send(self.broker, self.live.get(word, []), timestamp_ms=round(time.time() * 1000) + 1_000)


def test_a_good_version_is_promoted_and_its_manifest_says_what_it_had_to_show(tmp_path: Path, champion: Bundle) -> None:
    course = Course(tmp_path, champion, records(3_000, start=3_000))
    report = course.run()
    assert (report.outcome, report.reasons) == ("promoted", [])
    assert course.store.champion() == report.version != champion.version
    manifest = course.store.manifest(str(report.version))
    assert [(trial.stage, trial.passed, trial.against) for trial in manifest.trials] == [
        (stage, True, champion.version) for stage in ("gate", "shadow", "watch")
    ]
    assert manifest.trials[1].figures["records"] >= 900
    assert course.phases[:3] == ["training", "shadow", "alive"]


def test_the_better_of_a_cold_and_a_warm_start_is_taken(tmp_path: Path, champion: Bundle) -> None:
    cold = Course(tmp_path / "cold", champion, records(3_000, start=3_000), training={**TRAINING, "warm_start": False})
    assert cold.store.manifest(str(cold.run().version)).trained_from is None
    few = Course(tmp_path / "warm", champion, records(600, start=3_000), training={"records": 600, "min_records": 300})
    assert few.store.manifest(str(few.run().version)).trained_from in (None, champion.version)


def test_exchanged_fields_are_refused_by_name_and_nothing_is_saved(tmp_path: Path, champion: Bundle) -> None:
    swapped = [line.replace(b'"cpu"', b'"x"').replace(b'"load"', b'"cpu"').replace(b'"x"', b'"load"')
               for line in records(3_000, start=3_000)]  # fmt: skip
    course = Course(tmp_path, champion, swapped)
    report = course.run()
    assert report.outcome == "refused"
    assert "fields 'cpu' and 'load' look exchanged" in report.reasons[0]
    assert course.store.versions() == [champion.version]


def test_records_with_an_attack_mixed_in_are_refused_as_contaminated(tmp_path: Path, champion: Bundle) -> None:
    odd = {number: {"cpu": 2.0, "load": 0.1} for number in range(3_000, 6_000, 7)}
    report = Course(tmp_path, champion, records(3_000, start=3_000, odd=odd)).run()
    assert report.outcome == "refused"
    assert "they look contaminated" in report.reasons[0]


def test_too_few_and_unusable_records_are_refused_with_their_numbers(tmp_path: Path, champion: Bundle) -> None:
    (few,) = Course(tmp_path / "few", champion, records(50, start=3_000)).run().reasons
    assert "50 records" in few
    broken = [b"not json" if row % 5 == 0 else line for row, line in enumerate(records(3_000, start=3_000))]
    (unusable,) = Course(tmp_path / "broken", champion, broken).run().reasons
    assert unusable.startswith("20.0% of the records are unusable (600 malformed)")


def test_a_version_that_does_not_know_the_live_records_is_refused_in_the_shadow(
    tmp_path: Path, champion: Bundle
) -> None:
    course = Course(tmp_path, champion, records(3_000, start=3_000))
    moved = {number: {"cpu": 3.0 + number % 5 / 10, "load": 6.0 + number % 7 / 10} for number in range(3_000)}
    course.broker = broker_with([*records(3_000, start=3_000)[:1_500], *records(3_000, odd=moved)[1_500:]])
    report = course.run()
    assert report.outcome == "refused"
    assert course.store.champion() == champion.version


def test_where_no_live_records_come_the_version_in_service_stays(tmp_path: Path, champion: Bundle) -> None:
    course = Course(tmp_path, champion, records(3_000, start=3_000), promotion={**PROMOTION, "wait": "1ms"})
    course.live = {}
    report = course.run()
    assert report.outcome == "refused"
    assert report.reasons == ["0 live records came in time. Expected at least 500."]
    assert not course.store.manifest(str(report.version)).trials[-1].passed


def test_a_version_that_breaks_the_budget_after_its_promotion_is_taken_back(tmp_path: Path, champion: Bundle) -> None:
    course = Course(tmp_path, champion, records(3_000, start=3_000))

    def spoil() -> None:
        """What serves now says of every record that it is unlikely, though nobody could know before."""
        from detector.proving import trial

        monkey.setattr(trial.SideBySide, "finding", lambda _: trial.Finding(900, ["99 alarms"], {}))

    with pytest.MonkeyPatch.context() as monkey:
        course.at = {"watch": spoil}
        report = course.run()
    assert (report.outcome, report.reasons) == ("rolled back", ["99 alarms"])
    assert course.store.champion() == champion.version
    assert [trial.passed for trial in course.store.manifest(str(report.version)).trials] == [True, True, False]


def test_a_version_is_not_promoted_over_another_that_was_promoted_meanwhile(
    tmp_path: Path, champion: Bundle, other: Bundle
) -> None:
    course = Course(tmp_path, champion, records(3_000, start=3_000))
    course.store.save(other)
    course.at = {"shadow": lambda: course.store.promote(other.version)}
    report = course.run()
    assert (report.outcome, report.reasons) == ("refused", ["another version was promoted meanwhile"])
    assert course.store.champion() == other.version


def test_who_has_lost_the_lease_does_not_promote(tmp_path: Path, champion: Bundle) -> None:
    course = Course(tmp_path, champion, records(3_000, start=3_000))
    course.at = {"shadow": lambda: course.store.write_json("lease.json", b"another's")}
    with pytest.raises(TrainingError, match="lease"):
        course.run()
    assert course.store.champion() == champion.version


def test_a_pinned_version_stays(tmp_path: Path, champion: Bundle) -> None:
    course = Course(tmp_path, champion, records(3_000, start=3_000))
    course.store.pin(champion.version)
    report = course.run()
    assert report.outcome == "refused"
    assert "pinned" in report.reasons[0]
    assert course.store.champion() == champion.version


def test_the_first_version_goes_on_from_another_detector_s_where_that_is_asked(
    tmp_path: Path, champion: Bundle
) -> None:
    library = Store(settings(tmp_path).store.url, "elsewhere")
    there = replace(champion, manifest=champion.manifest.model_copy(update={"detector": "elsewhere"}))
    library.save(there)
    library.promote(there.version)
    training = {"records": 300, "min_records": 300, "transfer": "elsewhere"}
    course = Course(tmp_path, None, records(300, start=3_000), training=training)
    report = course.run()
    assert report.outcome == "promoted"
    assert course.store.manifest(str(report.version)).trained_from == champion.version


def test_of_more_records_than_memory_is_to_hold_stretches_are_taken_and_that_is_told(
    tmp_path: Path, champion: Bundle
) -> None:
    course = Course(tmp_path, champion, records(3_000, start=3_000), training={**TRAINING, "max_records": 1_000})
    report = course.run()
    data = course.store.manifest(str(report.version)).data
    assert data.dropped["passed over"] == 3_000 - data.records > 0
    assert 300 <= data.records <= 1_000
