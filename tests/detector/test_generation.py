from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from consumers.batch import Columns
from detector.bundle import Bundle
from detector.commands.init import write_settings
from detector.config import DetectorSettings
from detector.errors import SettingsError
from detector.generation import draw, generate, to_json, to_values
from detector.loading import load
from detector.parts import CLIP
from detector.proving.surprise import encode
from detector.training import train
from detector.training_data import gather
from models.registry import KINDS
from tests.detector.machines import CREATED, START_MS, broker_with, settings, trained

MODELS: dict[str, dict[str, Any]] = {
    "gmm": {"type": "gmm", "components": 1},
    "vae": {"type": "vae", "latent": 2, "hidden": [16], "epochs": 15},
    "autoencoder": {"type": "autoencoder", "latent": 1, "hidden": [16], "epochs": 15},
    "kernel": {"type": "kernel"},
    "flow": {"type": "flow", "transforms": 1, "hidden": [16], "epochs": 15},
    "gan": {"type": "gan", "latent": 1, "hidden": [16], "epochs": 15},
    "ar": {"type": "ar"},
    "tcn": {"type": "tcn", "channels": 8, "epochs": 5},
    "transformer": {"type": "transformer", "width": 8, "heads": 2, "layers": 1, "epochs": 5},
}
MIXED = [
    "cpu",
    {"name": "net.sent", "kind": "counter"},
    {"name": "level", "transform": "diff"},
    {"name": "up", "kind": "flag"},
    {"name": "zone", "kind": "categorical"},
]


def mixed_records(n: int) -> list[bytes]:
    """Of four machines a minute, each with a counter, a level that wanders, a flag, and a zone that is missing at
    times."""
    chance = np.random.default_rng(0)
    sent, level = np.zeros(4), np.zeros(4)
    values = []
    for number in range(n):
        machine, cpu = number % 4, float(chance.normal(50, 5))
        sent[machine] += 60 * chance.exponential(1.5)
        level[machine] += chance.normal(0, 3)
        record: dict[str, Any] = {"machine": f"m{machine}", "ts": START_MS + number * 15_000, "cpu": cpu}
        record |= {"net": {"sent": sent[machine]}, "level": level[machine], "up": cpu > 50}
        values.append(json.dumps(record | ({"zone": "a" if cpu > 50 else "b"} if number % 7 else {})).encode())
    return values


def made(chosen: DetectorSettings, values: list[bytes]) -> Bundle:
    return train(gather(chosen, broker_with(values), now_ms=START_MS), chosen, created=CREATED)


def mixed(folder: Path, window: int, **changes: Any) -> tuple[DetectorSettings, Bundle]:
    chosen = settings(folder, features=MIXED, window={"length": window}, **changes)
    return chosen, made(chosen, mixed_records(3_000))


def of_entities(columns: Columns, name: str) -> dict[str, NDArray[Any]]:
    values: NDArray[Any] = columns.numbers[name] if name in columns.numbers else columns.texts[name]
    return {str(entity): values[columns.entity == entity] for entity in dict.fromkeys(columns.entity)}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("window", [1, 2])
def test_every_kind_of_model_gives_records_like_those_it_was_trained_on(tmp_path: Path, kind: str, window: int) -> None:
    bundle = trained(tmp_path, models=[MODELS[kind]], window={"length": window})
    found = generate(bundle, 2_001, seed=0)
    cpu, load = found.numbers["cpu"], found.numbers["load"]
    assert len(found) == 2_001
    assert np.median(cpu) == pytest.approx(0.5, abs=0.03)
    assert cpu.std() == pytest.approx(0.1, rel=0.25)
    if not KINDS[kind].conditional:  # which have columns follow from the past, and not from one another
        assert np.corrcoef(cpu, load)[0, 1] > 0.8


def test_every_kind_of_model_is_tried_here() -> None:
    assert MODELS.keys() == KINDS.keys()


def test_the_same_seed_gives_the_same_records_and_another_one_others(champion: Bundle) -> None:
    same, again, other = (to_json(to_values(champion, generate(champion, 50, seed))) for seed in (1, 1, 2))
    assert same == again
    assert same != other


def test_a_model_is_chosen_by_its_kind_and_the_first_where_none_is(tmp_path: Path) -> None:
    bundle = trained(tmp_path, models=[MODELS["gmm"], MODELS["vae"]])
    given = {kind: generate(bundle, 20, 0, kind).numbers["cpu"].tolist() for kind in (None, "gmm", "vae")}
    assert given[None] == given["gmm"] != given["vae"]
    with pytest.raises(SettingsError, match=r"has no model 'gan'. Expected one of gmm, vae\."):
        generate(bundle, 20, 0, "gan")


def test_without_a_past_as_many_entities_as_in_training_take_turns_at_its_pace(tmp_path: Path) -> None:
    found = generate(trained(tmp_path, window={"length": 1}), 300, 0)
    assert found.entity[:4].tolist() == ["generated-0", "generated-1", "generated-2", "generated-0"]
    assert len(set(found.entity)) == 3  # as in training, where each reported once a minute
    last_ms = START_MS + 999 * 60_000
    assert found.time[0] == pytest.approx(last_ms + 20_000, abs=50)
    assert np.diff(found.time) == pytest.approx(20_000, abs=50)


def test_with_a_past_each_entity_has_one_window_at_its_pace_in_training(champion: Bundle) -> None:
    found = generate(champion, 301, 0)
    _, counts = np.unique(found.entity, return_counts=True)
    assert sorted(set(counts.tolist())) == [1, 2]
    assert (counts == 2).sum() == 150
    first, second = found.time[found.entity == "generated-7"]
    assert second - first == pytest.approx(60_000, abs=50)
    assert (np.diff(found.time) >= 0).all()
    assert (found.time[-1] - found.time[0]) / 300 == pytest.approx(20_000, rel=0.05)


@pytest.mark.parametrize("window", [1, 3])
def test_records_are_encoded_into_what_was_drawn(tmp_path: Path, window: int) -> None:
    chosen, bundle = mixed(tmp_path, window)
    columns, x = generate(bundle, 600, 0), draw(bundle, 600, 0)
    rows = {str(entity): row for row, entity in enumerate(columns.entity)}  # the last of each
    ends = encode(bundle.encoder, columns, chosen.window)[:, -1]
    for number, (entity, row) in enumerate(rows.items()):
        drawn = x[number, -1] if window > 1 else x[len(x) - len(rows) + int(entity.removeprefix("generated-")), -1]
        rate = bundle.encoder.decode(drawn[None])["net.sent"][0]
        ends[row, 1] = ends[row, 1] if rate > 0 else drawn[1]  # a counter does not fall
        np.testing.assert_allclose(ends[row], drawn, atol=2e-3)  # times are whole milliseconds


def test_a_counter_never_falls_and_begins_at_zero(tmp_path: Path) -> None:
    _, bundle = mixed(tmp_path, 1)
    for sent in of_entities(generate(bundle, 800, 0), "net.sent").values():
        assert sent[0] == 0.0
        assert (np.diff(sent) >= 0).all()
        assert sent[-1] / (len(sent) - 1) == pytest.approx(90, rel=0.25)


def test_a_change_that_is_missing_leaves_the_field_out_of_that_record_alone(tmp_path: Path) -> None:
    chosen = settings(tmp_path, features=["cpu", {"name": "level", "transform": "diff"}], window={"length": 1})
    values = [
        json.dumps(
            {"machine": "m", "ts": START_MS + number * 60_000, "cpu": number % 3}
            | ({"level": number} if number % 4 else {})
        )
        for number in range(2_000)
    ]
    level = generate(made(chosen, [value.encode() for value in values]), 1_000, 0).numbers["level"]
    assert np.isnan(level).mean() == pytest.approx(0.25, abs=0.1)
    assert level[~np.isnan(level)][-1] == pytest.approx(1_000, rel=0.3)


def test_categories_and_missing_fields_are_as_frequent_as_in_training_and_go_with_the_rest(tmp_path: Path) -> None:
    _, bundle = mixed(tmp_path, 1, models=[{"type": "gmm", "components": 4}])
    found = generate(bundle, 4_000, 0)
    zone, up, cpu = found.texts["zone"], found.numbers["up"], found.numbers["cpu"]
    assert {*zone} == {"a", "b", None}
    assert (zone == None).mean() == pytest.approx(1 / 7, abs=0.05)  # noqa: E711 - element by element
    assert {*up} == {0.0, 1.0}
    assert cpu[up == 1.0].mean() > cpu[up == 0.0].mean() + 4.0
    assert np.abs(cpu - 50).max() < CLIP * 5


@pytest.mark.parametrize("features", [["hour"], ["weekday"], ["hour", "weekday"]])
@pytest.mark.parametrize("time_zone", ["UTC", "Europe/Berlin"])
def test_the_time_of_a_record_follows_from_the_calendar_that_was_drawn(
    tmp_path: Path, features: list[str], time_zone: str
) -> None:
    calendars = [{"name": name, "kind": "calendar"} for name in features]
    training = {"records": 3_000, "timezone": time_zone}
    chosen = settings(tmp_path, features=["cpu", *calendars], window={"length": 1}, training=training)
    values = [
        json.dumps({"machine": "m", "ts": START_MS + number * 1_200_000, "cpu": 0.1 * (number // 36 % 2)})
        for number in range(3_000)  # for five weeks: high every other half of the day
    ]
    bundle = made(chosen, [value.encode() for value in values])
    x, found = draw(bundle, 500, 0), generate(bundle, 500, 0)
    again = bundle.encoder.decode(encode(bundle.encoder, found, chosen.window)[:, -1])
    drawn = bundle.encoder.decode(x[:, -1])
    told = [sorted(zip(*(part[name].tolist() for name in features), strict=True)) for part in (drawn, again)]
    assert told[0] == told[1]
    assert (np.diff(found.time) >= 0).all()
    assert found.time[0] > bundle.manifest.data.last_ms
    if "hour" in features:
        cpu, hour = found.numbers["cpu"], again["hour"] // 60
        assert cpu[(hour >= 2) & (hour < 10)].mean() < cpu[(hour >= 14) & (hour < 22)].mean() - 0.05


@pytest.mark.parametrize("features", [["cpu"], ["cpu", {"name": "hour", "kind": "calendar"}]])
def test_a_stream_without_entities_is_one_sequence(tmp_path: Path, features: list[Any]) -> None:
    chosen = settings(tmp_path, stream={"topics": ["machines"], "timestamp": "ts"}, features=features)
    values = [json.dumps({"ts": START_MS + number * 60_000, "cpu": number % 10}).encode() for number in range(2_000)]
    bundle = made(chosen, values)
    found = generate(bundle, 400, 0)
    assert set(found.entity) == {""}
    assert (np.diff(found.time) >= 59_999).all()  # a minute apart at least, so that no window lies within another
    assert to_values(bundle, found).keys() == {"ts", "cpu"}


def test_an_entity_that_is_a_feature_is_the_one_drawn(tmp_path: Path) -> None:
    bundle = trained(tmp_path, features=["cpu", {"name": "machine", "kind": "categorical"}])
    found = generate(bundle, 300, 0)
    assert set(found.entity) == {"m0", "m1", "m2"}
    assert to_values(bundle, found)["machine"] == found.entity.tolist()


def test_the_field_that_levels_go_by_is_there_and_empty(tmp_path: Path) -> None:
    chosen = settings(tmp_path, calibration={"by": "zone"}, features=["cpu"])
    bundle = made(chosen, mixed_records(2_000))
    assert set(generate(bundle, 10, 0).texts["zone"]) == {None}


def test_a_path_is_an_object_within_an_object_and_a_missing_field_is_left_out(tmp_path: Path) -> None:
    _, bundle = mixed(tmp_path, 1)
    found = generate(bundle, 200, 0)
    records = [json.loads(line) for line in to_json(to_values(bundle, found))]
    assert [record["net"]["sent"] for record in records] == found.numbers["net.sent"].tolist()
    assert {record["up"] for record in records} == {True, False}
    assert [record.get("zone") for record in records] == found.texts["zone"].tolist()
    assert not all("zone" in record for record in records)
    assert records[0]["ts"].endswith("Z")


def test_init_and_train_work_on_generated_records(tmp_path: Path) -> None:
    _, bundle = mixed(tmp_path, 1)
    path = tmp_path / "generated.ndjson"
    path.write_bytes(b"\n".join(to_json(to_values(bundle, generate(bundle, 2_000, 0)))))
    write_settings(str(path), tmp_path / "offnominal.yaml", bootstrap="127.0.0.1:1", force=False)
    chosen = load(tmp_path / "offnominal.yaml")
    assert (chosen.stream.entity, chosen.stream.timestamp) == ("machine", "ts")
    again = train(gather(chosen, broker_with([]), now_ms=START_MS), chosen, created=CREATED)
    assert again.manifest.verdict.sound
    assert [(feature.name, feature.kind) for feature in again.encoder.features] == [
        *[("cpu", "numeric"), ("net.sent", "counter"), ("level", "numeric"), ("up", "flag"), ("zone", "categorical")]
    ]
