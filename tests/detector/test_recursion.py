from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.signal import lfilter

from consumers.batch import Columns, Partition
from detector.calibration import ScoreScale
from detector.config import AlertSettings
from detector.entities import EntityTable
from detector.incidents import Decided, Incidents
from detector.recursion import NEW_REGIME, SLOW_CREEP, Levelled
from detector.windows import Late
from tests.detector.surprises import CALIBRATED, RATE, Alone, Floats, N, noise, same, told


def beyond(found: Levelled) -> float:
    return float((found.nats >= found.level).mean())


def scores(kind: str, seed: int = 0) -> Floats:
    """Scores of a stream: stationary for the calibration rows, then as `kind` says."""
    chance = np.random.default_rng(seed)
    normal = np.abs(chance.normal(size=CALIBRATED + N))
    age = np.maximum(0, np.arange(CALIBRATED + N) - CALIBRATED)
    if kind == "slow tenfold growth":
        return normal * 10 ** (age / N)
    if kind == "random walk":
        walk: Floats = np.cumsum(np.where(age > 0, chance.normal(0, 0.005, len(age)), 0.0))
        return normal * np.exp(walk)
    if kind == "steps":
        return np.where(age // 10_000 % 2 == 1, 4.0, 1.0) * normal
    assert kind == "autocorrelated"
    return np.asarray(lfilter([math.sqrt(1 - 0.9**2)], [1, -0.9], chance.normal(size=len(age))), np.float64)


def in_nats(raw: Floats) -> tuple[Floats, Floats]:
    """Surprises of the calibration rows, and of those that follow."""
    nats = ScoreScale.fit(raw[:CALIBRATED]).nats(raw)
    return nats[:CALIBRATED], nats[CALIBRATED:]


@pytest.mark.parametrize("seed", range(3))
def test_the_promised_rate_is_kept_closely_where_nothing_changes(seed: int) -> None:
    alarms = Alone(noise(CALIBRATED, seed)).take(noise(N, 100 + seed)).alarm.mean()
    assert 0.85 * RATE <= alarms <= 1.2 * RATE


@pytest.mark.parametrize("kind", ["slow tenfold growth", "random walk", "steps", "autocorrelated"])
def test_the_promised_rate_is_kept_while_the_stream_changes(kind: str) -> None:
    calibration, live = in_nats(scores(kind))
    assert 0.5 * RATE <= Alone(calibration).take(live).alarm.mean() <= 2 * RATE


def test_a_level_that_stays_where_training_put_it_loses_the_rate_of_a_drifting_stream() -> None:
    calibration, live = in_nats(scores("slow tenfold growth"))
    assert Alone(calibration, adapt=False).take(live).alarm.mean() > 3 * RATE
    assert beyond(Alone(calibration).take(live)) < 2 * RATE


def test_p_values_stay_p_values_while_the_tail_grows_heavier() -> None:
    nats = noise(N, 1)
    grown = np.where(nats > 3, 3 + (nats - 3) * np.linspace(1, 4, N), nats)
    found = Alone(noise(CALIBRATED, 0)).take(grown)
    for p in (0.02, 0.005):
        assert p / 2 <= (found.nats[N // 2 :] >= -math.log(p)).mean() <= 2 * p


def test_the_promise_follows_a_rate_that_changes() -> None:
    rate = np.where(np.arange(N) // 5_000 % 2 == 1, 0.02, 0.003)
    alarms = Alone(noise(CALIBRATED, 0)).take(noise(N, 1), rate).alarm
    assert alarms.sum() == pytest.approx(rate.sum(), rel=0.25)
    assert alarms[rate > RATE].sum() > 3 * alarms[rate < RATE].sum()


def incidents(found: Levelled) -> list[tuple[int, str]]:
    """Row and kind of what is told of one entity with a record a minute."""
    n = len(found.nats)
    columns = Columns(
        row=np.arange(n),
        partitions=(Partition("t", 0),),
        partition=np.zeros(n, np.int32),
        offsets=np.arange(n),
        time=np.arange(n) * 60_000,
        entity=same(n),
        numbers={},
        texts={},
    )
    decided = Decided(
        static_nats=found.nats, model=same(n, "gmm"), rank=np.zeros(n, np.int64), **found._asdict()
    )  # fmt: skip
    settings = AlertSettings(topic="alerts", quiet_for=600.0)
    transitions = Incidents(settings).update(columns, decided, EntityTable(1).locate(columns.entity), Late.none(n))
    return [(transition.row, transition.kind) for transition in transitions]


def test_an_attack_is_one_incident_and_teaches_the_level_nothing() -> None:
    moved = []
    for seed in range(8):
        stream = Alone(noise(CALIBRATED, seed))
        before = stream.take(np.append(noise(5_000, 100 + seed), np.full(30, 0.5)))
        q = stream.q
        attack = stream.take(np.concatenate([noise(500, 200 + seed) + 8, np.full(30, 0.5)]))
        assert not told(attack)
        assert [kind for _, kind in incidents(attack)] == ["opened", "resolved"]
        assert attack.elevated[:500].mean() > 0.9
        moved.append((abs(stream.q - q), abs(attack.static_level[-1] - before.static_level[-1])))
        assert stream.take(noise(5_000, 300 + seed)).alarm.mean() <= 2 * RATE
    assert (np.median(moved, axis=0) <= 0.5).all()


def test_a_lasting_shift_is_told_once_and_then_followed() -> None:
    for seed in range(4):
        stream = Alone(noise(CALIBRATED, seed))
        stream.take(noise(5_000, 100 + seed))
        assert told(stream.take(noise(2_000, 200 + seed) + 5)) == [NEW_REGIME]
        after = stream.take(noise(20_000, 300 + seed) + 5)
        assert not told(after)
        assert 0.5 * RATE <= after.alarm.mean() <= 2 * RATE


def test_a_static_level_tells_a_shift_once_and_does_not_follow() -> None:
    stream = Alone(noise(CALIBRATED, 0), adapt=False)
    before = stream.take(noise(5_000, 1))
    after = stream.take(noise(20_000, 2) + 5)
    assert told(after) == [NEW_REGIME]
    assert set(after.static_level.tolist()) == set(before.static_level.tolist())
    assert beyond(after) > 0.9


def test_a_slow_creep_is_told_as_one_and_not_as_a_new_regime() -> None:
    for seed in range(3):
        stream = Alone(noise(CALIBRATED, seed))
        assert not told(stream.take(noise(5_000, 100 + seed)))
        found = stream.take(noise(15_000, 200 + seed) + 0.0005 * np.arange(15_000))
        assert set(told(found)) == {SLOW_CREEP}
        assert 0.5 * RATE <= found.alarm.mean() <= 2 * RATE


def test_a_stream_at_rest_is_told_of_no_drift() -> None:
    assert not told(Alone(noise(CALIBRATED, 0)).take(noise(N, 1)))


def test_a_level_far_too_high_comes_down() -> None:
    stream = Alone(noise(CALIBRATED, 0) + 50)
    stream.take(noise(1_500, 1))
    assert 0.5 * RATE <= stream.take(noise(4_000, 2)).alarm.mean() <= 2 * RATE


def test_within_an_incident_an_alarm_repeats_only_when_the_excess_has_doubled() -> None:
    found = Alone(noise(CALIBRATED, 0)).take(np.repeat([0.5, 12.0, 14.0, 40.0], [30, 30, 30, 30]))
    assert np.flatnonzero(found.alarm).tolist() == [30, 90]


def test_after_an_incident_the_same_excess_is_no_alarm_for_a_while() -> None:
    spikes = np.full(500, 0.5)
    spikes[[50, 60, 70, 450]] = 12.0
    found = Alone(noise(CALIBRATED, 0), rate=0.001).take(spikes, 0.001)
    assert np.flatnonzero(found.alarm).tolist() == [50, 450]


def test_an_alarm_far_beyond_the_level_is_not_held_against_it_until_such_alarms_are_more_than_promised() -> None:
    def rise(spike: float, times: int) -> list[bool]:
        stream, risen = Alone(noise(CALIBRATED, 0)), list[bool]()
        for _ in range(times):
            before = stream.take(np.append(np.full(60, 0.5), spike)).level[-1]
            risen.append(bool(stream.take(np.full(1, 0.5)).level[0] > before + 0.5))
        return risen

    assert rise(6.0, 1) == [True]
    far = rise(40.0, 12)
    assert not far[0]
    assert any(far)


def test_after_a_new_regime_an_alarm_counts_anew() -> None:
    stream = Alone(noise(CALIBRATED, 0))
    regime = stream.take(noise(900, 1) + 20)
    after = np.flatnonzero(regime.drift)[0] + 1
    again = Alone(noise(CALIBRATED, 0))
    again.take(noise(900, 1)[:after] + 20)
    assert again.take(np.full(1, 35.0)).alarm[0]
    assert not Alone(noise(CALIBRATED, 0)).take(np.append(noise(700, 1) + 20, 35.0)).alarm[-1]


def test_both_scales_agree_on_what_is_beyond_the_level() -> None:
    nats = noise(20_000, 1) * np.linspace(1, 3, 20_000)
    found = Alone(noise(CALIBRATED, 0)).take(nats)
    np.testing.assert_array_equal(found.nats >= found.level, nats >= found.static_level)


def test_what_is_not_finite_is_passed_over() -> None:
    nats = noise(3_000, 1) + np.where(np.arange(3_000) // 700 == 2, 6.0, 0.0)
    rows = np.sort(np.random.default_rng(2).permutation(4_000)[:3_000])
    mixed = np.resize([np.nan, np.inf, -np.inf], 4_000)
    mixed[rows] = nats
    found = Alone(noise(CALIBRATED, 0)).take(mixed)
    for name, expected in Alone(noise(CALIBRATED, 0)).take(nats)._asdict().items():
        np.testing.assert_array_equal(getattr(found, name)[rows], expected)
    assert not np.delete(found.alarm, rows).any()


def test_an_attack_like_the_last_one_is_told_again_however_rare_alarms_are_to_be() -> None:
    rate = 1e-5
    nats = np.minimum(noise(3_000, 7), 4.0)
    for onset in (1_000, 1_400, 2_200):
        nats[onset : onset + 10] = 40.0
    found = Alone(noise(CALIBRATED, 0), rate=rate).take(nats, rate)
    assert {1_000, 1_400, 2_200} <= set(np.flatnonzero(found.alarm).tolist())
