"""Which records two versions are compared on, and which candidate is put forward."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from detector.bundle import Bundle
from detector.challenger import LEAST_RECENT, Candidate, _rank, _recent
from detector.errors import TrainingError
from detector.proving.gate import Judgement
from detector.training_data import gather
from tests.detector.machines import START_MS, broker_with, records, settings


def seen_to(champion: Bundle, time_ms: int) -> Bundle:
    data = champion.manifest.data.model_copy(update={"fitted_to_ms": time_ms})
    return replace(champion, manifest=champion.manifest.model_copy(update={"data": data}))


def test_versions_are_compared_on_records_that_the_champion_has_not_seen(tmp_path: Path, champion: Bundle) -> None:
    columns = gather(settings(tmp_path), broker_with(records(600)), now_ms=START_MS).columns
    middle = int(columns.time[300])
    recent = _recent(columns, seen_to(champion, middle))
    assert int(recent.time.min()) > middle
    assert len(recent) == int((columns.time > middle).sum()) >= LEAST_RECENT
    with pytest.raises(TrainingError, match=r"0 of the 600 records that calibrate are newer"):
        _recent(columns, seen_to(champion, int(columns.time.max())))


def test_what_has_nothing_against_it_goes_before_what_is_likelier(champion: Bundle) -> None:
    models = [champion.manifest.models[0].model_copy(update={"valid_score": -99.0})]
    likelier = replace(champion, manifest=champion.manifest.model_copy(update={"models": models}))
    refused, sound = Candidate(likelier, Judgement(["a reason"], {})), Candidate(champion, Judgement([], {}))
    assert min([refused, sound], key=_rank) is sound
    assert min([sound, Candidate(likelier, Judgement([], {}))], key=_rank).bundle is likelier
