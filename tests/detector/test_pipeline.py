from __future__ import annotations

import math
from dataclasses import replace
from datetime import UTC
from pathlib import Path

import numpy as np
import pytest

from consumers.batch import Partition, Position, RawBatch
from consumers.stream import Window
from detector.alerts import Alert
from detector.bundle import Bundle
from detector.pipeline import Outcome, Pipeline
from detector.training import train
from detector.training_data import gather
from tests.detector.machines import (
    ALERTS,
    CREATED,
    DEAD_LETTERS,
    START_MS,
    TOPIC,
    broker_with,
    records,
    settings,
    trained,
)

ATTACK = {number: {"cpu": 5.0, "load": 10.0} for number in range(120, 132, 3)}
"""Machine m0 is far off at its records 40 to 43."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pipeline")


@pytest.fixture(scope="module")
def bundle(folder: Path) -> Bundle:
    return trained(folder, models=[{"type": "gmm", "components": 1}, {"type": "vae", "epochs": 5}])


def batch_of(values: list[bytes | None]) -> RawBatch:
    (batch,) = broker_with(values).read([TOPIC], Window())
    return batch


def cut(batch: RawBatch, start: int, stop: int) -> RawBatch:
    rows = slice(start, stop)
    return replace(
        batch,
        partition=batch.partition[rows],
        offsets=batch.offsets[rows],
        timestamps=batch.timestamps[rows],
        keys=batch.keys[rows],
        values=batch.values[rows],
        headers=batch.headers[rows],
    )


def processed(folder: Path, bundle: Bundle, values: list[bytes | None]) -> Outcome:
    return Pipeline(settings(folder), bundle).process(batch_of(values))


def test_normal_records_are_scored_and_positions_move_past_them(folder: Path, bundle: Bundle) -> None:
    outcome = processed(folder, bundle, [*records(2_000, seed=1)])
    assert len(outcome.columns) == 2_000
    assert outcome.crossing.mean() <= 0.03
    assert outcome.positions == {Partition(TOPIC, 0): Position(2_000)}


def test_an_attack_opens_one_incident_that_names_its_features_and_resolves(folder: Path, bundle: Bundle) -> None:
    outcome = processed(folder, bundle, [*records(900, seed=1, odd=ATTACK)])
    about = [alert for alert in outcome.alerts if alert.opened.timestamp() * 1000 == START_MS + 40 * 60_000]
    opened, *_, resolved = about
    assert (opened.kind, resolved.kind) == ("opened", "resolved")
    assert opened.incident == resolved.incident
    assert (opened.entity, opened.severity) == ("m0", "critical")
    assert opened.time.tzinfo == UTC
    assert {reason.feature for reason in opened.reasons} == {"cpu", "load"}
    assert sum(reason.share for reason in opened.reasons) == pytest.approx(1, abs=1e-3)
    cpu = next(reason for reason in opened.reasons if reason.feature == "cpu")
    assert cpu.observed == pytest.approx(5.0)
    assert isinstance(cpu.expected, float)
    assert abs(cpu.expected - 0.5) < 0.5
    assert opened.source.offset == 120
    assert resolved.records >= 4


def test_alert_fields_agree_with_each_other(folder: Path, bundle: Bundle) -> None:
    for alert in processed(folder, bundle, [*records(900, seed=1, odd=ATTACK)]).alerts:
        assert alert.p_value <= alert.level * (1 + 1e-6)
        assert alert.score == pytest.approx(-math.log(alert.p_value))
        assert alert.version == bundle.version
        assert alert.model in bundle.models


def test_messages_are_the_alerts_and_the_dead_letters(folder: Path, bundle: Bundle) -> None:
    outcome = processed(folder, bundle, [*records(400, seed=1, odd=ATTACK), b"broken", None])
    assert [message.topic for message in outcome.messages] == [ALERTS] * len(outcome.alerts) + [DEAD_LETTERS] * 2
    values = [Alert.model_validate_json(m.value or b"") for m in outcome.messages if m.topic == ALERTS]
    assert values == list(outcome.alerts)
    assert len(outcome.columns) == 400


def test_poison_between_records_changes_nothing_for_its_neighbours(folder: Path, bundle: Bundle) -> None:
    clean = processed(folder, bundle, [*records(300, seed=2)])
    mixed: list[bytes | None] = []
    for value in records(300, seed=2):
        mixed += [value, b'{"machine": "m1", "cpu": "a lot"}']
    poisoned = processed(folder, bundle, mixed)
    np.testing.assert_allclose(poisoned.nats, clean.nats, rtol=1e-4)
    assert len(poisoned.dead_letters) == 300


@pytest.mark.parametrize("size", [1, 7, 333])
def test_alerts_do_not_depend_on_where_batches_end(folder: Path, bundle: Bundle, size: int) -> None:
    batch = batch_of([*records(999, seed=3, odd=ATTACK)])
    whole = Pipeline(settings(folder), bundle).process(batch)
    pipeline = Pipeline(settings(folder), bundle)
    parts = [pipeline.process(cut(batch, start, start + size)) for start in range(0, 999, size)]
    found = [alert for part in parts for alert in part.alerts]
    assert [alert.id for alert in found] == [alert.id for alert in whole.alerts]
    for one, other in zip(found, whole.alerts, strict=True):
        assert one.score == pytest.approx(other.score, rel=1e-4)
        assert one.model_dump(exclude={"score", "p_value", "reasons"}) == other.model_dump(
            exclude={"score", "p_value", "reasons"}
        )


def test_a_revoked_partition_takes_its_memory_with_it(folder: Path, bundle: Bundle) -> None:
    pipeline = Pipeline(settings(folder), bundle)
    hot = pipeline.process(batch_of([*records(126, seed=3, odd=ATTACK)]))
    assert hot.open_incidents
    empty = replace(cut(batch_of([*records(1)]), 0, 0), revoked=frozenset({Partition(TOPIC, 0)}))
    assert not pipeline.process(empty).open_incidents
    assert pipeline.entities == 0


def test_another_version_takes_over_with_incidents_open(folder: Path, bundle: Bundle) -> None:
    pipeline = Pipeline(settings(folder), bundle)
    batch = batch_of([*records(999, seed=3, odd=ATTACK)])
    first = pipeline.process(cut(batch, 0, 126))
    other = trained(folder, training={"records": 2_000, "seed": 5})
    pipeline.adopt(other)
    second = pipeline.process(cut(batch, 126, 999))
    (opened,) = [alert for alert in first.alerts if alert.source.offset == 120]
    (resolved,) = [a for a in second.alerts if a.incident == opened.incident and a.kind == "resolved"]
    assert (opened.version, resolved.version) == (bundle.version, other.version)
    assert resolved.kind == "resolved"


def test_a_record_that_a_model_cannot_score_is_a_dead_letter(
    folder: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    from models.scorer import Scorer

    sound = Scorer.score

    def broken(self: Scorer, x: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> object:
        scores = sound(self, x)
        scores[:, 3] = np.nan
        return scores

    monkeypatch.setattr(Scorer, "score", broken)
    outcome = processed(folder, bundle, [*records(10)])
    assert [(letter.row, letter.reason) for letter in outcome.dead_letters] == [(3, "unscorable")]
    assert outcome.columns.row.tolist() == [0, 1, 2, 4, 5, 6, 7, 8, 9]


def test_an_alert_fits_into_a_message_whatever_the_record_holds(folder: Path) -> None:
    def named(values: list[bytes], state: str) -> list[bytes]:
        return [value.replace(b'{"machine"', b'{"state": "' + state.encode() + b'", "machine"') for value in values]

    chosen = settings(folder, features=["cpu", {"name": "state", "kind": "categorical"}], window={"length": 1})
    data = gather(chosen, broker_with(named(records(3_000), "up")), now_ms=0)
    pipeline = Pipeline(chosen, train(data, chosen, created=CREATED))
    outcome = pipeline.process(batch_of([*named(records(3), "x" * 900_000)]))
    assert "state" in {reason.feature for reason in outcome.alerts[0].reasons}
    assert all(len(message.value or b"") < 10_000 for message in outcome.messages)
