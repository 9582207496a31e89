from __future__ import annotations

import json
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
    assert outcome.decided.alarm.mean() <= 0.03
    assert set(outcome.promised.tolist()) == {0.01}
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
        assert alert.p_value is not None
        assert alert.static_p_value is not None
        assert alert.level is not None
        assert alert.score == pytest.approx(-math.log(alert.p_value))
        assert alert.threshold == pytest.approx(-math.log(alert.level))
        assert alert.segment == alert.entity
        assert alert.version == bundle.version
        assert alert.model in bundle.models
        if alert.kind != "resolved":
            assert alert.p_value <= alert.level * (1 + 1e-6)
            assert alert.static_p_value <= 0.05
            assert alert.reasons
        assert (alert.makes_normal is None) == (alert.kind == "resolved")


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
    np.testing.assert_allclose(poisoned.decided.static_nats, clean.decided.static_nats, rtol=1e-4)
    np.testing.assert_allclose(poisoned.decided.nats, clean.decided.nats, rtol=1e-3, atol=1e-3)
    assert len(poisoned.dead_letters) == 300


@pytest.mark.parametrize("size", [1, 7, 333])
def test_alerts_do_not_depend_on_where_batches_end(folder: Path, bundle: Bundle, size: int) -> None:
    batch = batch_of([*records(999, seed=3, odd=ATTACK)])
    whole = Pipeline(settings(folder), bundle).process(batch)
    pipeline = Pipeline(settings(folder), bundle)
    parts = [pipeline.process(cut(batch, start, start + size)) for start in range(0, 999, size)]
    found = [alert for part in parts for alert in part.alerts]
    assert [alert.id for alert in found] == [alert.id for alert in whole.alerts]
    rounded = {"score", "p_value", "static_p_value", "threshold", "level"}
    for one, other in zip(found, whole.alerts, strict=True):
        assert one.model_dump(include=rounded) == pytest.approx(other.model_dump(include=rounded), rel=1e-3)
        assert one.model_dump(exclude=rounded | {"reasons"}) == other.model_dump(exclude=rounded | {"reasons"})


def shifted(values: list[bytes], by: float) -> list[bytes]:
    """The same records with cpu so much higher."""
    return [json.dumps({**(record := json.loads(value)), "cpu": record["cpu"] + by}).encode() for value in values]


def test_what_lasts_is_told_as_drift_of_each_machine_and_then_followed(folder: Path, bundle: Bundle) -> None:
    pipeline = Pipeline(settings(folder), bundle)
    pipeline.process(batch_of([*records(900, seed=4)]))
    changed = pipeline.process(batch_of([*shifted(records(4_500, start=900, seed=4), 0.6)]))
    drifts = [alert for alert in changed.alerts if alert.kind == "drift"]
    assert sorted(alert.entity for alert in drifts) == ["m0", "m1", "m2"]
    assert {alert.incident for alert in drifts} <= {
        alert.incident for alert in changed.alerts if alert.kind == "opened"
    }
    after = pipeline.process(batch_of([*shifted(records(6_000, start=5_400, seed=4), 0.6)]))
    assert after.decided.alarm.mean() <= 0.02
    assert after.decided.static_nats.mean() > 3


def test_a_static_level_stays_where_calibration_put_it(folder: Path, bundle: Bundle) -> None:
    pipeline = Pipeline(settings(folder, calibration={"level": "static"}), bundle)
    outcomes = [pipeline.process(batch_of([*shifted(records(1_500, seed=4), by)])) for by in (0.0, 0.6)]
    assert {level for outcome in outcomes for level in outcome.decided.level.tolist()} == {-math.log(0.01)}


def test_levels_by_a_field_are_shared_by_the_machines_that_have_its_value(folder: Path) -> None:
    regions: dict[int, dict[str, object]] = {
        number: {"region": "north" if number % 3 else "south"} for number in range(3_000)
    }
    chosen = settings(folder, calibration={"by": "region"})
    data = gather(chosen, broker_with(records(3_000, odd=regions)), now_ms=START_MS)
    bundle = train(data, chosen, created=CREATED)
    odd: dict[int, dict[str, object]] = {
        **regions,
        600: {"cpu": 9.0, "region": "south"},
        601: {"cpu": 9.0, "region": "north"},
        602: {"cpu": 9.0},
    }
    alerts = Pipeline(chosen, bundle).process(batch_of([*records(603, seed=1, odd=odd)])).alerts
    assert [(alert.entity, alert.segment) for alert in alerts[-3:]] == [("m0", "south"), ("m1", "north"), ("m2", "")]
    assert bundle.rows.names == ("north", "south")


def test_partitions_share_a_daily_budget(folder: Path) -> None:
    chosen = settings(folder, alerts={"topic": ALERTS, "false_alarms": "43.2/day", "quiet_for": "5m"})
    data = gather(chosen, broker_with(records(3_000), partitions=3), now_ms=START_MS)
    pipeline = Pipeline(chosen, train(data, chosen, created=CREATED), partitions=3)
    broker, promised, days = broker_with(records(8_640), partitions=3), 0.0, 2.0
    for batch in broker.read([TOPIC], Window()):
        promised += pipeline.process(batch).promised.sum()
    assert promised == pytest.approx(43.2 * days, rel=0.1)


def test_warming_up_leaves_no_trace(folder: Path, bundle: Bundle) -> None:
    values: list[bytes | None] = [*records(126, seed=3, odd=ATTACK)]
    warm = Pipeline(settings(folder), bundle)
    warm.warm_up()
    assert (warm.entities, warm.open_incidents) == (0, 0)
    assert warm.process(batch_of(values)).alerts == Pipeline(settings(folder), bundle).process(batch_of(values)).alerts


def test_a_partition_that_is_given_up_takes_its_memory_with_it(folder: Path, bundle: Bundle) -> None:
    pipeline = Pipeline(settings(folder), bundle)
    hot = pipeline.process(batch_of([*records(126, seed=3, odd=ATTACK)]))
    assert hot.open_incidents
    pipeline.release(Partition(TOPIC, 0))
    assert not pipeline.open_incidents
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
    assert np.isfinite(outcome.ranking).tolist() == [True] * 9


def test_an_alert_fits_into_a_message_whatever_the_record_holds(folder: Path) -> None:
    def named(values: list[bytes], state: str) -> list[bytes]:
        return [value.replace(b'{"machine"', b'{"state": "' + state.encode() + b'", "machine"') for value in values]

    chosen = settings(folder, features=["cpu", {"name": "state", "kind": "categorical"}], window={"length": 1})
    data = gather(chosen, broker_with(named(records(3_000), "up")), now_ms=0)
    pipeline = Pipeline(chosen, train(data, chosen, created=CREATED))
    outcome = pipeline.process(batch_of([*named(records(3), "x" * 900_000)]))
    assert "state" in {reason.feature for reason in outcome.alerts[0].reasons}
    assert all(len(message.value or b"") < 10_000 for message in outcome.messages)


GONE = {number: {"cpu": None} for number in range(300, 420)}


def test_the_return_of_a_field_that_was_gone_surprises_no_more_than_its_absence(folder: Path, bundle: Bundle) -> None:
    outcome = processed(folder, bundle, [*records(600, odd=GONE)])
    (lost,) = (alert for alert in outcome.alerts if alert.kind == "field_missing")
    (back,) = (alert for alert in outcome.alerts if alert.kind == "resolved" and alert.incident == lost.incident)
    assert back.source.offset >= 420
    nats, at = outcome.decided.static_nats, outcome.columns.offsets
    without = nats[(lost.source.offset <= at) & (at < 420)]
    assert nats[(at >= 420) & (at < 423)].max() < without.max()


@pytest.mark.parametrize("size", [1, 7, 420])
def test_a_field_that_is_gone_is_forgiven_alike_wherever_batches_end(folder: Path, bundle: Bundle, size: int) -> None:
    batch = batch_of([*records(600, odd=GONE)])
    whole, pipeline = Pipeline(settings(folder), bundle).process(batch), Pipeline(settings(folder), bundle)
    parts = [pipeline.process(cut(batch, start, start + size)) for start in range(0, 600, size)]
    assert sorted(alert.id for part in parts for alert in part.alerts) == sorted(alert.id for alert in whole.alerts)
    nats = np.concatenate([part.decided.static_nats for part in parts])
    np.testing.assert_allclose(nats, whole.decided.static_nats, rtol=1e-3, atol=1e-3)


def test_what_was_told_before_a_mute_is_resolved_within_it(folder: Path, bundle: Bundle) -> None:
    muted = settings(
        folder, alerts={"topic": ALERTS, "rate": 0.01, "mute": [{"days": ["thu"], "from": "02:00", "to": "03:00"}]}
    )
    outcome = Pipeline(muted, bundle).process(batch_of([*records(600, odd=GONE)]))
    kinds = [alert.kind for alert in outcome.alerts if alert.entity == ""]
    assert kinds == ["field_missing", "resolved"]


def test_a_machine_that_stops_is_told_once_and_again_when_it_returns(folder: Path, bundle: Bundle) -> None:
    values = [value for number, value in enumerate(records(1_200, seed=6)) if number % 3 or not 600 <= number < 900]
    alerts = [a for a in processed(folder, bundle, [*values]).alerts if a.entity == "m0" and a.p_value is None]
    assert [alert.kind for alert in alerts] == ["silence", "resolved"]
    silence, resolved = alerts
    assert silence.incident == resolved.incident
    assert silence.opened.timestamp() * 1000 == START_MS + 199 * 60_000
    assert silence.opened < silence.time < resolved.time


def test_a_stream_that_stops_is_told_once_though_no_record_comes(folder: Path, bundle: Bundle) -> None:
    pipeline, batch = Pipeline(settings(folder), bundle), batch_of([*records(600, seed=6)])
    pipeline.process(batch)
    empty = cut(batch, 0, 0)
    told = [alert for idle in (60_000, 3_600_000, 7_200_000) for alert in pipeline.process(empty, idle_ms=idle).alerts]
    assert [(alert.kind, alert.entity, alert.members) for alert in told] == [("silence", "", 3)]


def test_an_attack_that_outlasts_a_mute_is_opened_at_its_end(folder: Path, bundle: Bundle) -> None:
    attack = {number: {"cpu": 5.0, "load": 10.0} for number in range(390, 600, 3)}  # m0, from 02:10 to 03:19
    mute = [{"days": ["thu"], "from": "02:00", "to": "03:00"}]
    muted = settings(folder, alerts={"topic": ALERTS, "rate": 0.01, "mute": mute})
    outcome = Pipeline(muted, bundle).process(batch_of([*records(700, seed=6, odd=attack)]))
    assert not outcome.decided.elevated[360:540].any()
    (opened,) = [a for a in outcome.alerts if a.kind == "opened" and a.entity == "m0" and a.time.hour == 3]
    assert (opened.time.minute, opened.severity) == (0, "critical")
