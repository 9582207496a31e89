from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from detector.choice import LEAST_ROWS, STREAM, SUBSTANTIAL, TABLE, chosen, order_of
from tests.detector.machines import settings

N = 3_000
SEEDS = range(5)
Columns = NDArray[np.float32]


def noise(seed: int, columns: int = 4, rows: int = N) -> Columns:
    return np.random.default_rng(seed).normal(size=(rows, columns)).astype(np.float32)


def autoregressive(seed: int, carried: float = 0.5, rows: int = N) -> NDArray[np.float64]:
    """(rows,), each `carried` times the one before and noise."""
    column, chance = np.zeros(rows), np.random.default_rng(seed)
    for row in range(1, rows):
        column[row] = carried * column[row - 1] + chance.normal()
    return column


def tokens(seed: int, stay: float) -> Columns:
    """One-hot tokens of four kinds, each with this chance the one that follows on the last, else any."""
    chance = np.random.default_rng(seed)
    found = [0]
    for follows in (chance.random(N - 1) < stay).tolist():
        found.append((found[-1] + 1) % 4 if follows else int(chance.integers(4)))
    return np.eye(5, dtype=np.float32)[found]  # no record has the last one


def machines(n: int, count: int) -> NDArray[np.object_]:
    """Names of so many machines in turn."""
    return np.array([f"m{row % count}" for row in range(n)], object)


@pytest.mark.parametrize("seed", SEEDS)
def test_white_noise_is_a_table(seed: int) -> None:
    assert not order_of(noise(seed), machines(N, 1)).there


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("count", [1, 3])
def test_one_column_that_follows_on_itself_among_many_that_do_not_is_a_stream(seed: int, count: int) -> None:
    x = noise(seed, 20)
    for machine in range(count):
        rows = slice(machine, None, count)
        x[rows, 7] = autoregressive(10 * seed + machine, rows=len(x[rows]))
    assert order_of(x, machines(N, count)).there


@pytest.mark.parametrize("seed", SEEDS)
def test_machines_at_different_levels_of_noise_are_a_table(seed: int) -> None:
    x, names = noise(seed), machines(N, 2)
    x[names == "m1"] += 50.0
    assert not order_of(x, names).there
    assert not order_of(x[np.argsort(names, kind="stable")], np.sort(names)).there


def test_noise_that_is_read_as_one_entity_though_it_is_of_machines_in_turn_is_a_stream() -> None:
    x = noise(0)
    x[::2] += 50.0
    assert order_of(x, machines(N, 1)).there


@pytest.mark.parametrize("seed", SEEDS)
def test_heavy_tailed_noise_is_a_table(seed: int) -> None:
    x = np.random.default_rng(seed).standard_t(1, (N, 4)).astype(np.float32)
    assert not order_of(x, machines(N, 1)).there


@pytest.mark.parametrize("seed", SEEDS)
def test_an_outlier_now_and_then_does_not_hide_an_order(seed: int) -> None:
    x = autoregressive(seed)[:, None].astype(np.float32)
    x[np.random.default_rng(seed).choice(N, 30)] = 1e6
    assert order_of(x, machines(N, 1)).there


@pytest.mark.parametrize("seed", SEEDS)
def test_a_chain_of_tokens_is_a_stream_and_tokens_at_random_are_a_table(seed: int) -> None:
    assert order_of(tokens(seed, 0.5), machines(N, 1)).there
    assert not order_of(tokens(seed, 0.0), machines(N, 1)).there


@pytest.mark.parametrize("seed", SEEDS)
def test_few_rows_of_noise_are_a_table(seed: int) -> None:
    assert not order_of(noise(seed, 40, LEAST_ROWS), machines(LEAST_ROWS, 1)).there


def test_few_rows_that_follow_closely_on_one_another_are_a_stream() -> None:
    walk = np.cumsum(noise(0, 3, 2 * LEAST_ROWS), axis=0)
    assert order_of(walk, machines(2 * LEAST_ROWS, 1)).there


def test_of_entities_too_short_to_tell_an_order_is_taken_for_granted() -> None:
    names = np.repeat(np.array([f"s{number}" for number in range(100)], object), LEAST_ROWS - 1)
    order = order_of(noise(0, 4, len(names)), names)
    assert (order.there, order.rows) == (True, 0)
    assert str(order) == "no entity has 32 records, from which on it can be told: they are taken to have an order"


def test_entities_long_enough_tell_for_those_that_are_not() -> None:
    names = np.append(np.full(N, "long", object), [f"s{number}" for number in range(50)])
    order = order_of(noise(1, 4, len(names)), names)
    assert (order.there, order.rows) == (False, N)


def test_columns_that_never_change_have_no_order() -> None:
    order = order_of(np.ones((N, 3), np.float32), machines(N, 1))
    assert (order.there, order.dependence, order.rows) == (False, 0.0, N)
    x = np.column_stack([np.ones(N), autoregressive(0)]).astype(np.float32)
    assert order_of(x, machines(N, 1)).there


def test_columns_that_differ_only_from_machine_to_machine_have_no_order() -> None:
    x = np.random.default_rng(0).normal(size=(7, 3)).astype(np.float32)[np.arange(N) % 7]
    order = order_of(x, machines(N, 7))
    assert (order.there, order.dependence) == (False, 0.0)


def test_what_is_certain_but_of_no_use_is_a_table() -> None:
    order = order_of(autoregressive(0, 0.08, 100_000)[:, None].astype(np.float32), machines(100_000, 1))
    assert not order.there
    assert 100_000 * order.dependence > 500  # of noise it would be about 16


def test_records_of_one_machine_tell_nothing_of_those_of_the_next() -> None:
    x, names = autoregressive(0, 0.9, 40 * 50)[:, None].astype(np.float32), np.repeat(np.arange(50), 40)
    found = [
        order_of(x[rows], names[rows].astype(str).astype(object))
        for rows in (np.arange(len(x)), np.argsort(-names, kind="stable"))
    ]
    assert found[0].dependence == pytest.approx(found[1].dependence, rel=1e-9)


def test_the_dependence_is_the_sum_of_squared_autocorrelations() -> None:
    order = order_of(autoregressive(0, 0.5, 100_000)[:, None].astype(np.float32), machines(100_000, 1))
    rank = 6 / np.pi * np.arcsin(0.5 ** np.arange(1, 17) / 2)  # of a Gaussian pair, by its correlation: Pearson 1907
    assert order.dependence == pytest.approx((rank**2).sum(), rel=0.05)
    assert str(order) == (
        f"records depend on those before them (squared autocorrelations add up to {order.dependence:.3g}, "
        f"{SUBSTANTIAL:g} counts)"
    )


def test_without_an_order_the_figure_is_told_all_the_same() -> None:
    order = order_of(noise(0), machines(N, 1))
    assert 0 < order.dependence < SUBSTANTIAL
    assert f"records have no order that matters (squared autocorrelations add up to {order[1]:.3g}," in str(order)


def test_models_that_are_named_are_taken_whatever_the_order(tmp_path: Path) -> None:
    named = settings(tmp_path, models=["vae", {"type": "gmm", "components": 2}]).models
    stream, table = (order_of(x, machines(N, 1)) for x in (autoregressive(0)[:, None].astype(np.float32), noise(0)))
    for order in (stream, table):
        assert chosen(named, order) is named
    assert chosen("auto", stream) == STREAM
    assert chosen("auto", table) == TABLE
    assert ([it.type for it in STREAM], [it.type for it in TABLE]) == (["ar"], ["kernel", "gmm"])
