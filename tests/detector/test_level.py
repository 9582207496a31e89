from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis
from hypothesis import strategies as st

from detector.calibration import Calibration
from detector.entities import Visits
from detector.level import SHRINKAGE, CalibrationRows, Levels, Start, concat
from detector.recursion import HOME, MEMBERS, NEW_REGIME, OFFSET, Q
from detector.snapshot import pack, unpack
from tests.detector.surprises import CALIBRATED, RATE, Alone, Floats, N, Names, Partitioned, noise, same, told


def test_where_calibration_rows_drift_a_level_begins_where_they_ended() -> None:
    rows = noise(8_000, 0) + np.linspace(0, 6, 8_000)
    assert abs(Alone(rows).begin - np.quantile(rows[-500:], 0.95)) < 0.5
    assert abs(np.quantile(rows, 0.95) - np.quantile(rows[-500:], 0.95)) > 0.5


def two_groups(n: int, seed: int) -> tuple[Floats, Names]:
    """Surprises of two groups in turn, the second three times as large."""
    group = np.array(["calm", "wild"], object)[np.arange(n) % 2]
    return noise(n, seed) * np.where(group == "wild", 3.0, 1.0), group


@pytest.mark.parametrize(("by", "fair"), [("field", True), ("all", False)])
def test_segments_with_levels_of_their_own_each_keep_the_rate(by: str, fair: bool) -> None:
    nats, group = two_groups(CALIBRATED, 0)
    names = group if by == "field" else same(CALIBRATED, "")
    start = Start.fit(CalibrationRows.of(nats, group, names), rate=RATE)
    live, group = two_groups(N, 1)
    alarm = Partitioned(start, by).take(live, group, group if by == "field" else same(N, "")).alarm
    rates = np.array([alarm[group == name].mean() for name in ("calm", "wild")])
    assert bool((rates >= 0.85 * RATE).all() and (rates <= 1.25 * RATE).all()) == fair
    assert alarm.mean() == pytest.approx(RATE, rel=0.3)


def test_a_segment_with_few_rows_begins_near_everybodys() -> None:
    chance, n = np.random.default_rng(0), 6_010
    names = chance.permutation(np.repeat(np.array(["usual", "few", "many"], object), [4_000, 10, 2_000]))
    rows = CalibrationRows.of(noise(n, 1) + np.where(names == "usual", 0.0, 6.0), same(n), names)
    start = Start.fit(rows, rate=RATE)
    everybody_, usual, few, many = start.states[[0, *(start.places[name] for name in ("usual", "few", "many"))], Q]
    assert usual < everybody_ < many
    assert abs(few - everybody_) < 0.3 * (many - everybody_)
    assert 10 / (10 + SHRINKAGE) < 0.3


def test_a_segment_that_calibration_did_not_see_begins_where_everybody_is() -> None:
    nats, group = two_groups(CALIBRATED, 0)
    start = Start.fit(CalibrationRows.of(nats, group, group), rate=RATE)
    stranger = Partitioned(start, "field").take(np.ones(1), same(1), same(1, "never seen"))
    (level,) = Partitioned(start._replace(places={}), "field").take(np.ones(1), same(1), same(1, "calm")).static_level
    assert stranger.static_level == [level]


def test_the_incident_of_one_entity_does_not_move_the_level_of_its_pool() -> None:
    entity = np.array([f"m{number % 10}" for number in range(20_000)], object)
    start = Start.fit(CalibrationRows.of(noise(20_000, 0), entity, same(20_000, "")), rate=RATE)
    pool = Partitioned(start, "all")
    before = pool.take(noise(20_000, 1), entity, same(20_000, ""))
    attacked = noise(5_000, 2) + np.where(entity[:5_000] == "m3", 20.0, 0.0)
    found = pool.take(attacked, entity[:5_000], same(5_000, ""))
    after = pool.take(noise(20_000, 3), entity, same(20_000, ""))
    assert found.elevated[entity[:5_000] == "m3"].mean() > 0.9
    assert abs(np.median(after.static_level[:200]) - np.median(before.static_level[-5_000:])) <= 0.7
    assert 0.85 * RATE <= after.alarm.mean() <= 1.25 * RATE


def test_a_pool_whose_members_all_shift_is_told_of_it_once() -> None:
    entity = np.array([f"m{number % 5}" for number in range(30_000)], object)
    start = Start.fit(CalibrationRows.of(noise(5_000, 0), entity[:5_000], same(5_000, "")), rate=RATE)
    pool = Partitioned(start, "all")
    pool.take(noise(5_000, 1), entity[:5_000], same(5_000, ""))
    found = pool.take(noise(30_000, 2) + 6, entity, same(30_000, ""))
    assert told(found) == [NEW_REGIME]
    assert 750 * 5 < np.flatnonzero(found.drift)[0] < 850 * 5  # of each member 800 records
    assert 0.5 * RATE <= found.alarm[10_000:].mean() <= 2 * RATE


@pytest.mark.parametrize("correlation", [0.0, 0.5, 0.95, -0.5])
def test_several_models_keep_one_budget_whatever_their_dependence(correlation: float) -> None:
    normal = np.random.default_rng(0).normal(size=(2, CALIBRATED + N))
    other = correlation * normal[0] + math.sqrt(1 - correlation**2) * normal[1]
    both = np.stack([np.exp(normal[0]), 10 * other])
    calibration = Calibration.fit({"gmm": both[0, :CALIBRATED], "vae": both[1, :CALIBRATED]})
    nats = calibration.nats(both)
    alarms = Alone(nats[:CALIBRATED]).take(nats[CALIBRATED:]).alarm.mean()
    assert 0.85 * RATE <= alarms <= 1.25 * RATE


def test_a_level_of_few_rows_begins_higher_than_the_tail_says() -> None:
    def level(n: int) -> float:
        streams = (Alone(noise(n, seed), rate=0.001) for seed in range(20))
        return float(np.mean([stream.take(np.zeros(1), 0.001).level[0] for stream in streams]))

    assert level(50) - level(5_000) == pytest.approx(math.log(1 / (0.001 * 50)), abs=1)


def test_another_version_begins_where_its_calibration_put_everybody() -> None:
    def start(offset: float) -> Start:
        return Start.fit(
            CalibrationRows.of(noise(CALIBRATED, 0) + offset, same(CALIBRATED), same(CALIBRATED)), rate=RATE
        )

    old, new = Partitioned(start(0)), Partitioned(start(40))
    old.take(noise(1_000, 1), same(1_000), same(1_000))
    old.levels.adopt(start(40))
    expected = new.take(noise(10, 2) + 40, same(10, "b"), same(10, "b")).static_level[0]
    assert old.take(noise(10, 2) + 40, same(10), same(10)).static_level[0] == pytest.approx(expected, abs=0.5)


def test_an_entity_that_was_forgotten_begins_anew() -> None:
    rows = CalibrationRows.of(noise(CALIBRATED, 0), same(CALIBRATED), same(CALIBRATED, "a"))
    start = Start.fit(rows, rate=RATE)
    one_place = Partitioned(start, max_entities=1)
    one_place.take(noise(600, 1) + 9, same(600), same(600))
    one_place.take(noise(5, 2), same(5, "b"), same(5, "b"))
    again = one_place.take(noise(600, 3), same(600), same(600))
    for part, expected in zip(again, Partitioned(start).take(noise(600, 3), same(600), same(600)), strict=True):
        np.testing.assert_array_equal(part, expected)


def test_nothing_comes_of_no_records() -> None:
    stream = Partitioned(Start.fit(CalibrationRows.of(noise(100, 0), same(100), same(100)), rate=RATE))
    nobody = Visits(np.zeros(0, np.int64), np.zeros(0, np.bool_), np.zeros(0, np.int64), np.zeros(0, np.bool_))
    found = stream.levels.decide(np.zeros(0), np.zeros(0), nobody, nobody, same(0))
    assert [len(part) for part in (*found, *concat([]))] == [0] * 14


def test_calibration_rows_survive_being_taken_apart() -> None:
    names = np.array(["a", "ü\0", '"', ""] * 5, object)
    rows = CalibrationRows.of(noise(20, 0), names, names)
    again = CalibrationRows.from_arrays(rows.to_arrays())
    assert again.names == rows.names
    assert [again.names[number] for number in again.segment] == names.tolist()
    np.testing.assert_array_equal(again.nats, rows.nats)
    np.testing.assert_array_equal(again.entity, rows.entity)


def restless(seed: int) -> tuple[Floats, Names, Names, Floats]:
    """Surprises, entities, segments and rates of a stream in which everything happens: excursions, gaps and shifts."""
    chance = np.random.default_rng(seed)
    n = 4_000
    nats = chance.exponential(size=n) + np.where(chance.random(n).cumsum() % 300 > 200, 6.0, 0.0)
    nats[n // 2 :] += chance.choice([0.0, 5.0])
    nats[chance.random(n) < 0.01] = chance.choice([np.nan, np.inf])
    entity = np.array([f"m{number}" for number in chance.integers(0, 4, n) * chance.integers(0, 2, n)], object)
    return nats, entity, np.array([name[-1] for name in entity], object), np.where(np.arange(n) % 900 > 400, 0.01, 0.05)


@hypothesis(deadline=None, max_examples=40)
@given(
    st.integers(0, 50),
    st.lists(st.integers(0, 4_000), max_size=8),
    st.sampled_from(["entity", "field", "all"]),
    st.integers(1, 5),
    st.booleans(),
)
def test_what_comes_of_a_stream_does_not_depend_on_batches_or_on_being_taken_apart(
    seed: int, cuts: Sequence[int], by: str, max_entities: int, adapt: bool
) -> None:
    nats, entity, segment, rate = restless(seed)
    names = {"entity": entity, "field": segment, "all": same(len(nats), "")}[by]
    rows = CalibrationRows.of(noise(500, seed), entity[:500], names[:500])
    start = Start.fit(rows, rate=RATE, adapt=adapt)
    whole = Partitioned(start, by, max_entities).take(nats, entity, names, rate)
    stream, parts = Partitioned(start, by, max_entities), []
    for begin, end in pairwise(sorted({0, len(nats), *cuts})):
        parts.append(stream.take(nats[begin:end], entity[begin:end], names[begin:end], rate[begin:end]))
        kept, stream.levels = unpack(pack(stream.state())), Levels(start)
        stream.levels.restore(kept)
    for found, expected in zip(concat(parts), whole, strict=True):
        np.testing.assert_array_equal(found, expected)


def test_of_a_level_who_is_left_out_is_no_member_any_more() -> None:
    rows = CalibrationRows.of(noise(500, 0), same(500), same(500, "x"))
    start = Start.fit(rows, rate=RATE)
    stream = Partitioned(start, "field")
    entity, segment = np.array([*"abcde"], object), np.array([*"yxxxz"], object)
    stream.take(noise(5, 1), entity, segment)
    state = stream.levels.to_state(np.array([1, 3, 4]), np.array([1, 2]))
    assert state["segments"][:, MEMBERS].tolist() == [2, 1]
    assert state["entities"][:, HOME].tolist() == [1, 1, 2]
    state = stream.levels.to_state(np.array([0, 1]), np.array([1]))
    assert (state["segments"][:, MEMBERS].tolist(), state["entities"][:, HOME].tolist()) == ([1], [0, 1])


def test_rows_that_come_in_runs_count_once_a_run() -> None:
    chance = np.random.default_rng(0)
    nats, names = chance.exponential(size=4_000), np.full(4_000, "a", object)
    alone = CalibrationRows.of(nats, names, names).independent
    runs = CalibrationRows.of(np.repeat(nats[:400], 10), names, names).independent
    assert 0.7 * 4_000 < alone <= 4_000
    assert runs < 0.15 * 4_000


def test_a_run_is_of_one_entity() -> None:
    nats = np.repeat(np.random.default_rng(0).exponential(size=400), 10)
    many = np.array([f"m{number % 10}" for number in range(4_000)], object)
    assert CalibrationRows.of(nats, many, many).independent > 0.7 * 4_000


def test_where_unlikely_rows_come_in_runs_the_level_begins_higher() -> None:
    nats, names = np.random.default_rng(0).exponential(size=4_000), np.full(4_000, "a", object)
    runs = np.repeat(nats[:400], 10)
    alone, together = (
        Start.fit(CalibrationRows.of(it, names, names), rate=1e-4, adapt=False).states[0, OFFSET]
        for it in (np.random.default_rng(1).permutation(runs), runs)
    )
    assert together > alone + 1.5
