from __future__ import annotations

import pytest
import torch
from torch import Tensor

from models.base import seeded
from models.discrete import UNSEEN, Discrete, drawn

WIDTHS = [3, 3, 2]
"""Three flags, of which the second is never up and the third always, and blocks of three and two categories."""
ROWS = torch.tensor(
    [
        [1.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0, 1.0],
        [0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 1.0, 0.0],
        [0.0, 0.0, 1.0, 0.0, 1.0, 0.0, 0.0, 1.0],
        [0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0, 1.0],
    ]
)
NOTHING = torch.zeros(8)


@pytest.fixture
def heads() -> Discrete:
    heads = Discrete(WIDTHS)
    heads.count(ROWS)
    return heads


def changed(column: int, to: float) -> Tensor:
    row = ROWS[0].clone()
    row[column] = to
    return row


def test_a_network_that_says_nothing_leaves_frequencies_smoothed_by_half_a_row(heads: Discrete) -> None:
    assert heads.frequency.tolist() == [0.25, 0.0, 1.0, 0.75, 0.25, 0.0, 0.25, 0.75]
    p = heads.probabilities(NOTHING)
    torch.testing.assert_close(p[[0, 6, 7]], torch.tensor([1.5, 1.5, 3.5]) / torch.tensor([5.0, 5.0, 5.0]))
    torch.testing.assert_close(p[3:6], torch.tensor([0.7, 0.3, 0.0]))


def test_costs_are_those_of_the_probabilities(heads: Discrete) -> None:
    raw = torch.randn(5, 4, 8, generator=seeded(1))
    p, values = heads.probabilities(raw), ROWS.expand(5, 4, 8)
    said = torch.where(values > 0, p, 1.0 - p)
    said[..., 3:] = torch.where(values > 0, p, 1.0)[..., 3:]
    torch.testing.assert_close(heads.costs(raw, values), -said.log(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("column", "to"), [(1, 1.0), (2, 0.0)], ids=["never up", "always up"])
def test_a_flag_in_a_state_never_seen_costs_fifty_nats(heads: Discrete, column: int, to: float) -> None:
    assert float(heads.costs(NOTHING, changed(column, to))[column]) == pytest.approx(UNSEEN)
    assert float(heads.costs(NOTHING, ROWS[0])[column]) == pytest.approx(0.0, abs=1e-6)


def test_a_category_never_seen_costs_fifty_nats(heads: Discrete) -> None:
    row = ROWS[0].clone()
    row[3:6] = torch.tensor([0.0, 0.0, 1.0])
    assert float(heads.costs(NOTHING, row)[5]) == pytest.approx(UNSEEN, abs=0.1)


def test_what_is_likeliest_costs_least(heads: Discrete) -> None:
    raw = 3.0 * torch.randn(50, 8, generator=seeded(1))
    likeliest = heads.likeliest(raw)
    least = heads.costs(raw, likeliest).sum(1)
    for seed in range(20):
        assert (heads.costs(raw, heads.draw(raw, seeded(seed))).sum(1) >= least - 1e-6).all()


def test_draws_have_the_probabilities_and_one_category_a_block(heads: Discrete) -> None:
    raw = torch.randn(8, generator=seeded(1))
    values = heads.draw(raw.expand(2, 5000, 8), seeded(2))
    assert values.shape == (2, 5000, 8)
    assert (values[..., 3:6].sum(-1) == 1).all()
    assert (values[..., 6:].sum(-1) == 1).all()
    torch.testing.assert_close(values.mean((0, 1)), heads.probabilities(raw), rtol=0, atol=0.02)


@pytest.mark.parametrize("widths", [[0], [2], [0, 3]], ids=["nothing", "flags alone", "a block alone"])
def test_some_kinds_may_be_missing(widths: list[int]) -> None:
    heads, k = Discrete(widths), sum(widths)
    values = drawn(torch.full((4, k), 0.5), widths, seeded(1))
    heads.count(values)
    assert heads.costs(torch.zeros(4, k), values).shape == heads.likeliest(torch.zeros(4, k)).shape == (4, k)
