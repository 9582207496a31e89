"""To replace a model by another is to change one word: each of them through training, the store and the daemon."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from consumers.batch import Partition
from detector.alerts import Alert
from detector.averages import averaged
from detector.bundle import Bundle
from detector.config import DetectorSettings
from detector.config_models import ModelSettings
from detector.daemon import Daemon
from detector.pipeline import Outcome, Pipeline
from detector.proving.surprise import Surprise
from detector.store import Store
from detector.training import train
from detector.training_data import gather
from models.registry import KINDS
from tests.detector.machines import ALERTS, CREATED, START_MS, TOPIC, broker_with, send, settings
from tests.detector.test_daemon import Watcher, at_work, published
from tests.detector.test_pipeline import batch_of, cut

TRAINED, SERVED = 1_500, 300
BROKEN, UNSEEN = TRAINED + 120, TRAINED + 211
ODD: dict[int, dict[str, object]] = {BROKEN: {"cpu": 4.0, "load": -8.0}, UNSEEN: {"state": "melted"}}
"""m0 has two metrics that never were so far apart, and m1 a state that nobody had."""
TELLING = ("opened", "escalated")
PARTITION = Partition(TOPIC, 0)


def stream(
    start: int, stop: int, *, odd: Mapping[int, Mapping[str, object]] | None = None, ordered: bool = True
) -> list[bytes]:
    """Records by number of three machines in turn: two metrics that go on from their last values, a flag, a state."""
    chance = np.random.default_rng(0)
    shocks, errors = chance.normal(size=stop), chance.normal(size=stop)
    busy, state = chance.random(stop) < 0.3, chance.choice(["idle", "up", "full"], stop)
    cpu = shocks.copy()
    for number in range(3, stop if ordered else 0):
        cpu[number] += 0.8 * cpu[number - 3]
    return [
        json.dumps(
            {
                "machine": f"m{number % 3}",
                "ts": START_MS + number // 3 * 60_000,
                "cpu": float(cpu[number]),
                "load": float(2 * cpu[number] + 0.3 * errors[number]),
                "busy": bool(busy[number]),
                "state": str(state[number]),
                **(odd or {}).get(number, {}),
            }
        ).encode()
        for number in range(start, stop)
    ]


def quick(model: ModelSettings) -> ModelSettings:
    """The model with as little training as will do here."""
    return model.model_copy(update={"epochs": 5} if "epochs" in type(model).model_fields else {})


def chosen(folder: Path, models: list[str] | str, **changes: Any) -> DetectorSettings:
    """Settings that differ in nothing but the words for the models."""
    values: dict[str, Any] = {
        "features": "auto",
        "window": {},
        "training": {"records": TRAINED, "min_records": 300},
    }
    made = settings(folder, models=models, **{**values, **changes})
    return made if made.models == "auto" else made.model_copy(update={"models": [*map(quick, made.models)]})


@cache
def trained_on(folder: Path, *models: str) -> Bundle:
    made = chosen(folder, [*models])
    return train(gather(made, broker_with(stream(0, TRAINED)), now_ms=START_MS), made, created=CREATED)


def processed(made: DetectorSettings, bundle: Bundle) -> Outcome:
    """What comes of the records served, alone in their topic."""
    return Pipeline(made, bundle).process(batch_of([*stream(TRAINED, TRAINED + SERVED, odd=ODD)]))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("every-model")


@pytest.fixture(scope="module", params=sorted(KINDS))
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_the_word_is_all_it_takes(folder: Path, kind: str) -> None:
    one, other = (settings(folder, models=models) for models in ([kind], [{"type": kind}]))
    assert one == other
    bundle = trained_on(folder, kind)
    assert bundle.manifest.choice.startswith("models by the settings: records depend on those before them")
    assert bundle.encoder.window == KINDS[kind].natural_window(bundle.encoder.layout.columns)


def test_in_the_daemon_it_tells_of_what_is_odd_by_its_name_and_with_reasons(folder: Path, kind: str) -> None:
    made, bundle, watcher = chosen(folder, [kind]), trained_on(folder, kind), Watcher()
    store, broker = Store(str(folder / "store"), "machines"), broker_with(stream(0, TRAINED))
    store.save(bundle)
    store.promote(bundle.version)
    send(broker, stream(TRAINED, TRAINED + SERVED, odd=ODD))
    with at_work(Daemon(made, broker, observers=[watcher.observe])):
        watcher.wait_for_records(SERVED)
    assert sum(len(outcome.columns) for outcome in watcher.outcomes) == SERVED
    alerts = [Alert.model_validate_json(value) for value in published(broker, ALERTS)]
    about = {alert.source.offset: alert for alert in alerts if alert.kind in TELLING}
    assert {alert.model for alert in about.values()} == {kind}
    assert {alert.version for alert in alerts} == {bundle.version}
    assert about[BROKEN].reasons[0].feature in {"cpu", "load"}
    assert [alert.source.offset for alert in alerts if alert.kind == "unseen_category"] == [UNSEEN]


@pytest.mark.parametrize("likelihood", sorted(KINDS.keys() - {"gan"}))
def test_a_value_that_nobody_had_is_an_alarm_and_its_first_reason(folder: Path, likelihood: str) -> None:
    """But to a model without a likelihood, to which normal records may cost as much as the price of such a value."""
    outcome = processed(chosen(folder, [likelihood]), trained_on(folder, likelihood))
    (alert,) = (it for it in outcome.alerts if it.source.offset == UNSEEN - TRAINED and it.kind in TELLING)
    assert alert.static_p_value is not None
    assert alert.static_p_value < 0.001
    assert (alert.reasons[0].feature, alert.reasons[0].observed) == ("state", "melted")


def test_what_was_saved_scores_as_it_did_before(folder: Path, kind: str) -> None:
    made, bundle = chosen(folder, [kind]), trained_on(folder, kind)
    before, after = (processed(made, it) for it in (bundle, Bundle.from_files(bundle.to_files())))
    np.testing.assert_array_equal(after.decided.static_nats, before.decided.static_nats)
    assert after.alerts == before.alerts


def test_a_snapshot_between_two_batches_goes_on_exactly(folder: Path, kind: str) -> None:
    made, bundle = chosen(folder, [kind]), trained_on(folder, kind)
    batch = batch_of([*stream(TRAINED, TRAINED + SERVED, odd=ODD)])
    first, second = cut(batch, 0, 130), cut(batch, 130, SERVED)  # within the incident of m0
    pipeline, again = Pipeline(made, bundle), Pipeline(made, bundle)
    pipeline.process(first)
    assert pipeline.open_incidents
    snapshot, left_out = pipeline.packed(PARTITION)
    again.restore(PARTITION, snapshot)
    expected, found = pipeline.process(second), again.process(second)
    assert left_out == 0
    assert found.alerts == expected.alerts
    np.testing.assert_array_equal(found.decided.static_nats, expected.decided.static_nats)
    assert again.packed(PARTITION) == pipeline.packed(PARTITION)


def test_records_in_order_are_ranked_by_what_was_said_of_their_entity_lately(folder: Path) -> None:
    made, bundle = chosen(folder, ["ar"]), trained_on(folder, "ar")
    outcome, calibration, version = processed(made, bundle), bundle.calibration, Surprise(bundle, made)
    scores = version.scores(version.encode(outcome.columns))
    averages = averaged(scores, outcome.columns.entity, calibration.usual)
    nats, ranking = calibration.in_time(scores, calibration.by_model(scores), averages)
    np.testing.assert_allclose(outcome.ranking, ranking, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(outcome.decided.static_nats, nats, rtol=1e-4, atol=1e-6)
    assert ranking.argsort().tolist() != nats.argsort().tolist()


@pytest.mark.parametrize(
    ("ordered", "models", "why"),
    [
        (True, ["ar"], "records depend on those before them"),
        (False, ["kernel", "gmm"], "records have no order that matters"),
    ],
)
def test_auto_says_what_it_chose_and_why(folder: Path, ordered: bool, models: list[str], why: str) -> None:
    made = chosen(folder, "auto")
    data = gather(made, broker_with(stream(0, TRAINED, ordered=ordered)), now_ms=START_MS)
    bundle = train(data, made, created=CREATED)
    assert [*bundle.models] == models
    assert bundle.manifest.choice.startswith(f"models: auto: {why} (squared autocorrelations add up to ")
    assert bundle.manifest.choice.endswith("lately count" if ordered else "does not count")
    bundle.require_fit(made)


@pytest.mark.parametrize("level", ["online", "static"])
def test_three_models_keep_one_budget(folder: Path, level: str) -> None:
    made = chosen(folder, ["ar", "gmm", "vae"], calibration={"level": level})
    bundle = trained_on(folder, "ar", "gmm", "vae")
    outcome = Pipeline(made, bundle).process(batch_of([*stream(TRAINED, TRAINED + 4_000)]))
    assert len(outcome.columns) == 4_000
    assert 0.005 <= outcome.decided.alarm.mean() <= 0.02
    assert {*outcome.decided.model.tolist()} == {"ar", "gmm", "vae"}
