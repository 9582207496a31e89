from __future__ import annotations

import errno
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from consumers.memory import MemoryBroker
from detector.commands import retrain as command
from detector.config import DetectorSettings
from detector.errors import StoreError, TrainingError
from detector.lease import Lease
from detector.store import Store
from detector.trainings import EXIT_CODES, Report, Request, Result, Trainings
from tests.detector.machines import settings
from tests.detector.trainings_at_work import DEADLINE_S, until

NIGHT = datetime(2026, 3, 1, 3, tzinfo=UTC)


@pytest.fixture
def chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[DetectorSettings]:
    monkeypatch.setattr(command, "FOLLOW_S", 0.0)
    monkeypatch.setattr(command, "SETTLE_S", 0.0)
    monkeypatch.setattr(command, "connect", lambda _settings: MemoryBroker())
    with capture_logs():  # which unlike that of a command goes to standard output here
        yield settings(tmp_path)


@pytest.fixture
def trainings(chosen: DetectorSettings) -> Trainings:
    return Trainings(Store(chosen.store.url, chosen.name))


Say = Callable[[str], None]


def training(monkeypatch: pytest.MonkeyPatch, run: Callable[[Request, Say], Report]) -> None:
    """Puts `run` in the place of a retraining."""

    def retrain(*_parts: object, request: Request, lease: Lease, phase: Say) -> Report:
        lease.require()
        phase("training")
        return run(request, phase)

    monkeypatch.setattr(command, "retrain", retrain)


def report_of(request: Request, outcome: Result) -> Report:
    return Report.of(request, NIGHT, outcome, "[as] expected", version="v7")


def raising(error: Exception) -> Callable[[Request, Say], Report]:
    def run(_request: Request, _phase: Say) -> Report:
        raise error

    return run


def test_asking_leaves_a_request_and_asking_again_joins_it(
    chosen: DetectorSettings, trainings: Trainings, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.ask_for_training(chosen, wait=False, as_json=True) == 0
    asked = trainings.asked()
    assert asked == Request.model_validate_json(capsys.readouterr().out)
    assert asked is not None
    assert command.ask_for_training(chosen, wait=False, as_json=False) == 0
    assert asked.id in capsys.readouterr().out
    assert trainings.asked() == asked


@pytest.mark.parametrize("outcome", ["promoted", "refused", "failed", "timeout", "rolled back"])
def test_waiting_ends_with_the_report_and_its_exit_code(
    chosen: DetectorSettings, trainings: Trainings, capsys: pytest.CaptureFixture[str], outcome: Result
) -> None:
    with ThreadPoolExecutor(1) as executor:
        done = executor.submit(command.ask_for_training, chosen, wait=True, as_json=True)
        until(lambda: trainings.asked() is not None)
        request = trainings.asked()
        assert request is not None
        trainings.take(request)
        trainings.done(report_of(request, outcome))
        assert done.result(DEADLINE_S) == EXIT_CODES[outcome]
    assert json.loads(capsys.readouterr().out)["outcome"] == outcome


def test_waiting_for_a_request_that_is_gone_ends_with_an_error(chosen: DetectorSettings, trainings: Trainings) -> None:
    with ThreadPoolExecutor(1) as executor:
        done = executor.submit(command.ask_for_training, chosen, wait=True, as_json=True)
        until(lambda: trainings.asked() is not None)
        Store(chosen.store.url, chosen.name).remove("request.json")
        with pytest.raises(TrainingError, match="given up"):
            done.result(DEADLINE_S)


def test_the_exit_codes_differ_and_leave_out_that_of_wrong_settings() -> None:
    assert len(set(EXIT_CODES.values())) == len(EXIT_CODES)
    assert 2 not in EXIT_CODES.values()
    assert EXIT_CODES["promoted"] == 0


def test_training_here_files_its_report_and_gives_the_lease_back(
    chosen: DetectorSettings,
    trainings: Trainings,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    training(monkeypatch, lambda request, _phase: report_of(request, "refused"))
    assert command.retrain_here(chosen, as_json=False) == EXIT_CODES["refused"]
    shown = capsys.readouterr().out
    assert "refused: version v7" in shown
    assert "[as] expected" in shown
    (report,) = trainings.reports(10)
    assert (report.reason, report.outcome) == ("demand", "refused")
    assert Store(chosen.store.url, chosen.name).read_json("lease.json") is None


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        StoreError("Store 's3://x' cannot be used"),
        MemoryError("Unable to allocate 74.5 GiB"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
        TrainingError("The lease was taken by another training"),
    ],
)
def test_a_training_that_ends_with_an_error_has_failed_for_that_reason(
    chosen: DetectorSettings, trainings: Trainings, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    training(monkeypatch, raising(error))
    assert command.retrain_here(chosen, as_json=True) == EXIT_CODES["failed"]
    (report,) = trainings.reports(10)
    assert report.reasons == [f"{type(error).__name__}: {error}"]


def test_a_store_that_is_full_from_the_beginning_fails_the_training_too(
    chosen: DetectorSettings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(_store: Store, name: str, _content: bytes) -> None:
        raise StoreError(f"{name}: no space left on device")

    monkeypatch.setattr(Store, "write_json", full)
    monkeypatch.setattr(command, "attend", lambda _memory: Request(id="r1", reason="drift"))
    assert command.retrain_for_daemon(chosen) == EXIT_CODES["failed"]
    assert "no space left" in Report.model_validate_json(capsys.readouterr().out).reasons[0]


def test_an_error_after_the_promotion_leaves_it_promoted(
    chosen: DetectorSettings, trainings: Trainings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(_request: Request, phase: Say) -> Report:
        phase("watch v7")
        raise StoreError("not reached")

    training(monkeypatch, run)
    assert command.retrain_here(chosen, as_json=True) == 0
    (report,) = trainings.reports(10)
    assert (report.outcome, report.version) == ("promoted", "v7")
    assert "not reached" in report.reasons[0]


def test_a_child_tells_its_phases_and_its_report_and_files_nothing(
    chosen: DetectorSettings,
    trainings: Trainings,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    memory: list[int] = []

    def attend(most: int) -> Request:
        memory.append(most)
        return Request(id="r1", reason="drift")

    def run(request: Request, phase: Say) -> Report:
        phase("shadow v7")
        return report_of(request, "rolled back")

    monkeypatch.setattr(command, "attend", attend)
    training(monkeypatch, run)
    assert command.retrain_for_daemon(chosen) == EXIT_CODES["rolled back"]
    *lines, last = capsys.readouterr().out.splitlines()
    assert lines == ["alive", "training", "shadow v7"], "alive while the lease is claimed"
    assert Report.model_validate_json(last).id == "r1"
    assert trainings.reports(10) == []
    assert memory == [chosen.training.max_memory]


def test_a_training_begins_when_another_one_has_given_its_lease_back(
    chosen: DetectorSettings, trainings: Trainings, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(chosen.store.url, chosen.name)
    other = Lease(store)
    other.take()
    training(monkeypatch, lambda request, _phase: report_of(request, "refused"))
    with ThreadPoolExecutor(1) as executor:
        with other.kept():
            done = executor.submit(command.retrain_here, chosen, as_json=True)
            for _ in range(20):
                other.renew()
            assert trainings.reports(10) == []
        assert done.result(DEADLINE_S) == EXIT_CODES["refused"]
