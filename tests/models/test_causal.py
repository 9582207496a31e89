from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from models.base import Block, Layout, seeded
from models.causal import CausalModel
from models.causal_heads import Mixture
from models.registry import build

WINDOW = 18
"""Longer than what a temporal convolution sees."""
LAYOUT = Layout(
    (Block("zone", "categorical", 4), Block("load", "numeric", 2), Block("failed", "binary"), Block("heat", "numeric")),
    window=WINDOW,
)
KINDS: dict[str, dict[str, Any]] = {
    "tcn": {"channels": 16, "epochs": 40},
    "transformer": {"width": 16, "heads": 2, "layers": 2, "epochs": 40},
}
every_kind = pytest.mark.parametrize("kind", KINDS)
every_output = pytest.mark.parametrize("output", ["gaussian", "mixture"])


def rows(n: int, seed: int) -> Tensor:
    """(n, 18, 8): the zone steps round, load follows itself, heat is that of the record before turned over, and a
    failure comes two records after one in which heat was high."""
    generator = seeded(seed)
    zone = torch.randint(3, (n, 1), generator=generator) + torch.arange(WINDOW)
    load, noise = torch.randn(n, 2, generator=generator), torch.randn(n, WINDOW, 4, generator=generator)
    x = torch.zeros(n, WINDOW, 8)
    x[..., :4] = torch.nn.functional.one_hot(zone % 3, 4).float()
    for t in range(WINDOW):
        load = 0.9 * load + 0.19**0.5 * noise[:, t, :2]
        x[:, t, 4:6] = load
        x[:, t, 6] = (x[:, t - 2, 7] > 1.0) if t > 1 else 0.0
        x[:, t, 7] = (0.95 * -x[:, t - 1, 7] if t else 0.0) + 0.3 * noise[:, t, 2]
    return x


@cache
def fitted(kind: str, output: str) -> CausalModel:
    model = build(kind, LAYOUT, {**KINDS[kind], "output": output})
    model.fit(rows(1500, 1), rows(300, 2), seed=0)
    assert isinstance(model, CausalModel)
    return model


def surprises(model: CausalModel, x: Tensor) -> Tensor:
    with torch.inference_mode():
        return model.surprises(x)


@every_kind
@every_output
def test_what_comes_later_never_changes_a_surprise(kind: str, output: str) -> None:
    model, x = fitted(kind, output).precise(), rows(20, 3).double()
    usual = surprises(model, x)
    for changed in range(WINDOW):
        other = x.clone()
        other[:, changed] = rows(20, 4)[:, changed - 5]
        after = surprises(model, other)
        torch.testing.assert_close(after[:, :changed], usual[:, :changed])
        assert (after[:, changed] != usual[:, changed]).any()


@every_kind
@every_output
def test_the_score_is_the_surprise_of_the_newest_record(kind: str, output: str) -> None:
    model, x = fitted(kind, output).precise(), rows(50, 3).double()
    for length in (1, 2, 7, WINDOW):
        with torch.inference_mode():
            torch.testing.assert_close(model.score(x[:, :length]), surprises(model, x)[:, length - 1])


@every_output
def test_a_temporal_convolution_sees_fifteen_records_before(output: str) -> None:
    model, x = fitted("tcn", output).precise(), rows(50, 3).double()
    near, far = x.clone(), x.clone()
    near[:, -16], far[:, -17] = rows(50, 4)[:, 0], rows(50, 4)[:, 0]
    with torch.inference_mode():
        torch.testing.assert_close(model.score(far), model.score(x))
        assert (model.score(near) != model.score(x)).any()


@every_output
def test_a_transformer_sees_the_whole_window(output: str) -> None:
    model, x = fitted("transformer", output).precise(), rows(50, 3).double()
    far = x.clone()
    far[:, 0] = rows(50, 4)[:, 0]
    with torch.inference_mode():
        assert (model.score(far) != model.score(x)).any()


@every_kind
@every_output
def test_columns_of_every_kind_are_foreseen_from_the_records_before(kind: str, output: str) -> None:
    x = rows(300, 3)
    explained = fitted(kind, output).explain(x)
    zone, failed, heat = explained.expected[:, :4], explained.expected[:, 6], explained.expected[:, 7]
    assert (zone.argmax(1) == x[:, -1, :4].argmax(1)).all()
    assert ((failed > 0.5) == (x[:, -1, 6] > 0)).float().mean() > 0.95
    assert (heat - x[:, -1, 7]).std() < 0.4


@every_kind
@every_output
def test_a_step_out_of_turn_is_named(kind: str, output: str) -> None:
    model, x = fitted(kind, output), rows(200, 3)
    wrong = x.clone()
    wrong[:, -1, :3] = x[:, -1, :3].roll(1, dims=1)
    with torch.inference_mode():
        assert (model.score(wrong) > model.score(x) + 3).float().mean() > 0.95
    assert model.explain(wrong).share[:, :4].sum(1).median() > 0.7


@every_kind
@every_output
def test_samples_follow_one_another_as_records_do(kind: str, output: str) -> None:
    drawn, x = fitted(kind, output).sample(1000, seed=1), rows(1500, 1)
    assert (drawn[:, 1:, :3].argmax(2) == (drawn[:, :-1, :3].argmax(2) + 1) % 3).float().mean() > 0.95
    for later in (6, 17):  # records that were drawn
        torch.testing.assert_close(drawn[:, later].mean(0), x[:, later].mean(0), rtol=0, atol=0.15)
        pair = torch.stack([drawn[:, later, 7], drawn[:, later - 1, 7]])
        assert float(pair.corrcoef()[0, 1]) < -0.85
        torch.testing.assert_close(drawn[:, later, 4:6].std(0), x[:, later, 4:6].std(0), rtol=0.2, atol=0)


def test_samples_begin_from_records_with_the_moments_of_single_ones() -> None:
    drawn, records = fitted("tcn", "gaussian")._starts(4000, seeded(1))[:, 0], rows(1500, 1)[:, -1]
    torch.testing.assert_close(drawn.mean(0), records.mean(0), rtol=0, atol=0.1)
    torch.testing.assert_close(drawn[:, [4, 5, 7]].T.cov(), records[:, [4, 5, 7]].T.cov(), rtol=0, atol=0.1)
    assert (drawn[:, :4].sum(1) == 1).all()


@every_kind
def test_no_training_row_travels_with_it(kind: str) -> None:
    saved = torch.cat([tensor.flatten() for tensor in fitted(kind, "gaussian").state_dict().values()])
    assert not torch.isin(rows(1500, 1)[..., 4:6], saved).all(-1).any()  # one number alone may be there by chance


def test_training_starts_from_a_linear_autoregression() -> None:
    model = build("tcn", LAYOUT, {**KINDS["tcn"], "output": "gaussian", "epochs": 1})
    assert isinstance(model, CausalModel)
    x = rows(1500, 1)
    model.fit(x, rows(300, 2), seed=0)
    torch.testing.assert_close(model.deviation, torch.tensor([0.436, 0.436, 0.3]), rtol=0.1, atol=0)


def test_a_mixture_prices_two_levels_and_not_what_lies_between() -> None:
    x = torch.randn(2000, 1, 1, generator=seeded(1)) * 0.1 + torch.randint(2, (2000, 1, 1), generator=seeded(2)) * 2.0
    model = build("tcn", Layout((Block("level", "numeric"),)), {"channels": 8, "epochs": 100, "output": "mixture"})
    model.fit(x[:1600] - 1, x[1600:] - 1, seed=0)
    with torch.inference_mode():
        low, middle, high = model.score(torch.tensor([-1.0, 0.0, 1.0]).view(3, 1, 1)).tolist()
    assert max(low, high) < 0.0
    assert middle > 4.0


def test_the_likeliest_value_of_a_mixture_is_a_mode() -> None:
    head = Mixture(1)
    raw = torch.tensor([[0.0, 1.0, -9.0, -2.0, 3.0, 0.0, -1.0, -1.0, 0.0]])  # weights, means, log-deviations
    assert float(head.likeliest(raw)) == 3.0


def test_heads_that_do_not_share_the_width_are_refused() -> None:
    arguments = {"width": 16, "heads": 3, "layers": 1, "output": "gaussian", "epochs": 1}
    with pytest.raises(ValueError, match="Width 16 is not a multiple of 3 heads"):
        build("transformer", LAYOUT, arguments)
