from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from consumers.memory import MemoryBroker
from detector.alerts import Alert
from detector.bundle import Bundle
from detector.config import DetectorSettings
from detector.history.around import AFTER, BEFORE, Surroundings, surroundings
from detector.pipeline import Outcome, Pipeline
from tests.detector.machines import START_MS, broker_with, records, settings
from tests.detector.test_pipeline import batch_of

ODD = {number: {"cpu": 3.0} for number in range(1_500, 1_530, 3)}
"""Ten records in a row of machine m0."""
VALUES: list[bytes | None] = [*records(2_400, seed=1, odd=ODD)]


@pytest.fixture
def chosen(tmp_path: Path) -> DetectorSettings:
    return settings(tmp_path)


@pytest.fixture
def outcome(chosen: DetectorSettings, champion: Bundle) -> Outcome:
    return Pipeline(chosen, champion).process(batch_of(VALUES))


@pytest.fixture
def alerts(outcome: Outcome) -> list[Alert]:
    """Of the incident that the odd records are."""
    incident = next(it.incident for it in outcome.alerts if it.source.offset in ODD and it.kind == "opened")
    return [it for it in outcome.alerts if it.incident == incident]


@pytest.fixture
def found(chosen: DetectorSettings, champion: Bundle, alerts: list[Alert]) -> Surroundings:
    around = surroundings(broker_with(VALUES), chosen, champion, alerts, ["cpu", "load"])
    assert around is not None
    return around


def test_it_holds_the_records_of_the_entity_alone_before_and_after(found: Surroundings) -> None:
    assert found.offset.tolist() == [*range(1_500 - 3 * BEFORE, 1_500 + 3 * AFTER, 3)]
    assert found.time[BEFORE] == START_MS + 500 * 60_000


def test_it_tells_what_the_records_hold(found: Surroundings) -> None:
    (cpu, load) = found.tracks
    assert (cpu.name, load.name, found.others) == ("cpu", "load", [])
    wanted = [json.loads(VALUES[offset] or b"")["cpu"] for offset in found.offset]
    assert cpu.observed == pytest.approx(wanted)
    assert cpu.numeric


def test_surprise_is_what_the_pipeline_said(found: Surroundings, outcome: Outcome) -> None:
    scored = dict(zip(outcome.columns.offsets.tolist(), outcome.decided.static_nats.tolist(), strict=True))
    assert found.nats == pytest.approx([scored[offset] for offset in found.offset.tolist()], rel=1e-6)


def test_the_odd_records_and_hardly_any_other_are_beyond_the_threshold(found: Surroundings) -> None:
    assert found.threshold is not None
    beyond = set(found.offset[found.nats >= found.threshold].tolist())
    assert set(ODD) <= beyond
    assert len(beyond - set(ODD)) <= 0.05 * len(found.offset)


def test_the_threshold_lies_between_nothing_and_the_record_however_the_level_stretched_nats(
    chosen: DetectorSettings, champion: Bundle, alerts: list[Alert]
) -> None:
    stretched = [it.model_copy(update={"score": 3 * it.score}) for it in alerts if it.score]
    around = surroundings(broker_with(VALUES), chosen, champion, stretched, ["cpu"])
    assert around is not None
    assert around.threshold is not None
    assert 0 < around.threshold < around.nats.max()
    assert around.tracks[0].high is not None


def test_the_band_holds_what_is_normal_and_not_what_is_odd(found: Surroundings) -> None:
    cpu = found.tracks[0]
    assert cpu.low is not None
    assert cpu.high is not None
    seen, odd = np.array(cpu.observed, float), np.isin(found.offset, [*ODD])
    inside = (seen >= cpu.low) & (seen <= cpu.high)
    assert not inside[odd].any()
    assert inside[~odd].mean() > 0.95
    assert ((np.array(cpu.expected, float) >= cpu.low) & (np.array(cpu.expected, float) <= cpu.high)).all()


def test_a_feature_that_was_not_asked_for_is_among_the_others(
    chosen: DetectorSettings, champion: Bundle, alerts: list[Alert]
) -> None:
    around = surroundings(broker_with(VALUES), chosen, champion, alerts, ["load", "nowhere"])
    assert around is not None
    assert ([it.name for it in around.tracks], around.others) == (["load"], ["cpu"])


def test_an_alert_of_many_shows_the_entity_of_its_record(
    chosen: DetectorSettings, champion: Bundle, alerts: list[Alert], found: Surroundings
) -> None:
    many = [it.model_copy(update={"entity": ""}) for it in alerts]
    around = surroundings(broker_with(VALUES), chosen, champion, many, ["cpu"])
    assert around is not None
    assert np.array_equal(around.offset, found.offset)


def test_an_alert_without_likelihood_has_no_threshold(
    chosen: DetectorSettings, champion: Bundle, alerts: list[Alert]
) -> None:
    silent = [it.model_copy(update={"static_p_value": None, "score": None, "threshold": None}) for it in alerts]
    around = surroundings(broker_with(VALUES), chosen, champion, silent, [])
    assert around is not None
    assert around.threshold is None


@pytest.mark.parametrize("there", [MemoryBroker(group="g", start="earliest"), broker_with(VALUES[:1_000])])
def test_nothing_is_told_where_the_topic_or_the_record_is_gone(
    chosen: DetectorSettings, champion: Bundle, alerts: list[Alert], there: MemoryBroker
) -> None:
    assert surroundings(there, chosen, champion, alerts, ["cpu"]) is None


def test_a_band_wants_more_than_a_few_records(chosen: DetectorSettings, champion: Bundle, alerts: list[Alert]) -> None:
    broker = broker_with([])
    for offset, value in enumerate(VALUES):
        broker.append("machines", value if offset in (*ODD, 1_494, 1_497) else None)
    around = surroundings(broker, chosen, champion, alerts, ["cpu"])
    assert around is not None
    assert around.tracks[0].low is None
