"""What every generative model must do."""

from __future__ import annotations

import copy
import json
import random
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from sklearn.datasets import load_breast_cancer  # type: ignore[import-untyped]  # scikit-learn ships no types
from sklearn.metrics import roc_auc_score  # type: ignore[import-untyped]  # scikit-learn ships no types
from torch import Tensor

from models.base import Block, Layout, seeded
from models.registry import KINDS, build
from tests.contracts.generative import (
    HEAT,
    MIXED,
    NUMERIC,
    TABLES,
    VARIANTS,
    ZONE,
    every_variant,
    fit,
    fitted,
    mixed_rows,
    numeric_rows,
    score,
)


def test_every_kind_is_on_the_list() -> None:
    assert {kind for kind, _ in VARIANTS.values()} == set(KINDS)


@every_variant
@pytest.mark.parametrize("layout", TABLES, ids=["numeric", "mixed"])
def test_scores_are_finite_float32_one_a_row(variant: str, layout: Layout) -> None:
    model, x = fitted(variant, layout), TABLES[layout](300, 3)
    scores = score(model, x)
    assert not model.training
    assert scores.shape == (300,)
    assert scores.dtype == torch.float32
    assert scores.isfinite().all()


@every_variant
def test_gradients_reach_every_parameter(variant: str) -> None:
    model = copy.deepcopy(fitted(variant, MIXED))
    if not list(model.parameters()):
        pytest.skip("not trained by gradient")
    torch.autograd.backward(model.score(mixed_rows(64, 3)).sum())
    lacking = [
        name for name, weight in model.named_parameters() if weight.grad is None or not weight.grad.abs().sum() > 0
    ]
    assert lacking == []


@every_variant
@pytest.mark.parametrize("layout", TABLES, ids=["numeric", "mixed"])
def test_a_batch_scores_as_its_records_do_one_by_one(variant: str, layout: Layout) -> None:
    model, x = fitted(variant, layout), TABLES[layout](20, 3)
    alone = torch.cat([score(model, x[i : i + 1]) for i in range(len(x))])
    torch.testing.assert_close(score(model, x), alone, rtol=1e-4, atol=1e-4)


@every_variant
@pytest.mark.parametrize("layout", TABLES, ids=["numeric", "mixed"])
def test_saved_and_loaded_it_is_the_same_model(variant: str, layout: Layout) -> None:
    model, x = fitted(variant, layout), TABLES[layout](50, 3)
    saved = safetensors.torch.save(model.state_dict())
    settings = json.loads(json.dumps({"layout": layout.to_json(), "arguments": model.arguments}))
    loaded = build(model.kind, Layout.from_json(settings["layout"]), settings["arguments"])
    loaded.load_state_dict(safetensors.torch.load(saved))
    loaded.eval()
    assert torch.equal(score(loaded, x), score(model, x))
    assert torch.equal(loaded.explain(x).share, model.explain(x).share)
    assert torch.equal(loaded.sample(9, seed=1), model.sample(9, seed=1))


@every_variant
def test_the_same_seed_gives_the_same_scores(variant: str) -> None:
    x = numeric_rows(100, 3)
    assert torch.equal(score(fit(variant, NUMERIC), x), score(fitted(variant, NUMERIC), x))


@every_variant
def test_input_is_left_as_it_was(variant: str) -> None:
    kind, arguments = VARIANTS[variant]
    x, valid, model = mixed_rows(400, 1), mixed_rows(100, 2), build(kind, MIXED, arguments)
    before = x.clone(), valid.clone()
    model.fit(x, valid, seed=0)
    model.fit(x, valid, seed=0, start=fitted(variant, MIXED))
    model.score(x)
    model.explain(x[:20])
    assert torch.equal(x, before[0])
    assert torch.equal(valid, before[1])


@every_variant
def test_global_random_state_is_left_as_it_was(variant: str) -> None:
    (kind, arguments), start = VARIANTS[variant], fitted(variant, MIXED)
    legacy = np.random.mtrand._rand  # the state behind np.random.seed
    torch_state, numpy_state, python_state = torch.get_rng_state(), str(legacy.get_state()), random.getstate()
    model = build(kind, MIXED, arguments)
    model.fit(mixed_rows(400, 1), mixed_rows(100, 2), seed=5)
    model.fit(mixed_rows(400, 1), mixed_rows(100, 2), seed=5, start=start)
    model.score(mixed_rows(9, 3))
    model.explain(mixed_rows(9, 3))
    model.sample(9, seed=1)
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert str(legacy.get_state()) == numpy_state
    assert random.getstate() == python_state


@every_variant
def test_a_density_integrates_to_one(variant: str) -> None:
    kind, arguments = VARIANTS[variant]
    if not KINDS[kind].is_density:
        pytest.skip("scores of this kind are no density")
    angle = 6.283 * torch.rand(800, 1, 1, generator=seeded(1))
    ring = torch.cat([angle.cos(), 3 * angle.sin()], -1) + 0.3 * torch.randn(800, 1, 2, generator=seeded(2))
    model = build(kind, Layout((Block("position", "numeric", 2),)), arguments)
    model.fit(ring[:600], ring[600:], seed=0)
    axis = torch.arange(-8.0, 8.0, 0.05)
    grid = torch.cartesian_prod(axis, axis).unsqueeze(1)
    assert float(score(model, grid).double().neg().exp().sum() * 0.05**2) == pytest.approx(1.0, abs=0.01)


@every_variant
def test_samples_have_the_moments_of_the_training_rows(variant: str) -> None:
    drawn, rows = fitted(variant, NUMERIC).sample(4000, seed=1).flatten(1), numeric_rows(2000, 1).flatten(1)
    torch.testing.assert_close(drawn.mean(0), rows.mean(0), rtol=0, atol=0.15)
    torch.testing.assert_close(drawn.T.cov(), rows.T.cov(), rtol=0, atol=0.4)


@every_variant
def test_samples_have_the_frequencies_of_the_training_rows(variant: str) -> None:
    drawn, rows = fitted(variant, MIXED).sample(4000, seed=1)[:, -1], mixed_rows(2000, 1)[:, -1]
    torch.testing.assert_close(drawn[:, 1:6].mean(0), rows[:, 1:6].mean(0), rtol=0, atol=0.06)
    torch.testing.assert_close(drawn[:, ZONE].sum(1), torch.ones(4000))


@every_variant
def test_samples_depend_on_the_seed_alone(variant: str) -> None:
    model = fitted(variant, MIXED)
    assert torch.equal(model.sample(50, seed=1), model.sample(50, seed=1))
    assert not torch.equal(model.sample(50, seed=1), model.sample(50, seed=2))
    assert model.sample(50, seed=1).shape == (50, 1, 7)


@every_variant
def test_malignant_tissue_is_less_likely_than_benign(variant: str) -> None:
    data = load_breast_cancer()
    benign = np.random.default_rng(0).permutation(data.data[data.target == 1])
    mean, deviation = benign[:250].mean(0), benign[:250].std(0)

    def scaled(rows: np.ndarray[Any, np.dtype[np.float64]]) -> Tensor:
        return torch.tensor((rows - mean) / deviation, dtype=torch.float32).clamp(-20, 20).unsqueeze(1)

    kind, arguments = VARIANTS[variant]
    model = build(kind, Layout((Block("tissue", "numeric", 30),)), arguments)
    model.fit(scaled(benign[:200]), scaled(benign[200:250]), seed=0)
    scores = score(model, torch.cat([scaled(benign[250:]), scaled(data.data[data.target == 0])]))
    assert roc_auc_score([0] * 107 + [1] * 212, scores) > 0.9


@every_variant
@pytest.mark.parametrize("layout", TABLES, ids=["numeric", "mixed"])
def test_records_twenty_deviations_out_are_finite_and_beyond_every_normal_one(variant: str, layout: Layout) -> None:
    model, x = fitted(variant, layout), TABLES[layout](500, 3)
    numeric = torch.cat([torch.full((b.width,), float(b.kind == "numeric")) for b in layout.blocks])
    away = 20.0 * torch.randn(200, *x.shape[1:], generator=seeded(4)).sign()
    out = torch.where(numeric > 0, away, x[:200])
    scores = score(model, out)
    assert scores.isfinite().all()
    assert scores.min() > score(model, x).max()
    assert model.explain(out[:20]).share.isfinite().all()


@every_variant
def test_a_category_never_seen_is_beyond_every_normal_record(variant: str) -> None:
    model, x = fitted(variant, MIXED), mixed_rows(500, 3)
    unseen = x.clone()
    unseen[:, :, ZONE] = torch.tensor([0.0, 0.0, 0.0, 1.0])
    scores = score(model, unseen)
    assert scores.isfinite().all()
    assert scores.min() > score(model, x).max() + 10
    assert (model.explain(unseen[:50]).share[:, ZONE].sum(1) > 0.8).all()


@every_variant
def test_the_records_before_count(variant: str) -> None:
    model, x = fitted(variant, NUMERIC), numeric_rows(500, 3)
    jumped = x.clone()
    jumped[:, 0] = x.roll(1, dims=0)[:, 0]  # another record's past
    assert score(model, jumped).median() > score(model, x).quantile(0.75)


@every_variant
@pytest.mark.parametrize("layout", TABLES, ids=["numeric", "mixed"])
def test_shares_are_parts_of_one(variant: str, layout: Layout) -> None:
    explanation = fitted(variant, layout).explain(TABLES[layout](60, 3))
    assert explanation.share.shape == explanation.expected.shape == (60, layout.columns)
    assert (explanation.share >= 0).all()
    assert explanation.expected.isfinite().all()
    torch.testing.assert_close(explanation.share.sum(1), torch.ones(60))


@every_variant
@pytest.mark.parametrize("corrupted", [1, 2, 3])
def test_columns_with_the_largest_shares_set_to_what_was_expected_make_a_record_normal(
    variant: str, corrupted: int
) -> None:
    model, normal = fitted(variant, NUMERIC), numeric_rows(100, 3)
    columns = torch.rand(100, 6, generator=seeded(5)).argsort(1)[:, :corrupted]
    x = normal.clone()
    x[:, -1] = normal[:, -1].scatter_add(1, columns, 6.0 * torch.randn(100, corrupted, generator=seeded(6)).sign())
    share, expected = model.explain(x)
    largest = share.argsort(1, descending=True)[:, :3]
    mended = x.clone()
    mended[:, -1] = x[:, -1].scatter(1, largest, expected.gather(1, largest))
    ordinary, typical = score(model, normal).quantile(0.99), score(model, normal).median()
    assert (score(model, x) > ordinary).float().mean() > 0.9
    assert (score(model, mended) <= ordinary).float().mean() > 0.9
    assert score(model, mended).median() < typical + 5.0


@every_variant
def test_features_with_the_largest_shares_set_to_what_was_expected_make_a_record_normal(variant: str) -> None:
    model, normal = fitted(variant, MIXED), mixed_rows(200, 3)
    x = normal.clone()
    x[:, :, ZONE] = torch.tensor([0.0, 0.0, 0.0, 1.0])
    x[:, :, 0] += 8.0
    share, expected = model.explain(x)
    expected[:, 1].round_()
    expected[:, ZONE] = torch.nn.functional.one_hot(expected[:, ZONE].argmax(1), 4).float()
    feature = torch.tensor([0, 1, 2, 2, 2, 2, 3])
    by_feature = torch.zeros(200, 4).index_add(1, feature, share)
    named = torch.zeros(200, 4).scatter(1, by_feature.topk(3).indices, 1.0)[:, feature] > 0
    mended = x.clone()
    mended[:, -1] = torch.where(named, expected, x[:, -1])
    assert (by_feature[:, 0] + by_feature[:, 2]).min() > 0.8
    assert (score(model, mended) <= score(model, normal).quantile(0.99)).float().mean() > 0.9


@every_variant
@pytest.mark.parametrize("layout", TABLES, ids=["numeric", "mixed"])
def test_an_explanation_does_not_depend_on_the_batch(variant: str, layout: Layout) -> None:
    model, x = fitted(variant, layout), TABLES[layout](200, 3)
    x[:, -1, 0] += 7.0
    whole = model.explain(x)
    for rows in (slice(0, 0), slice(5, 6), slice(60, 131)):
        for part, all_ in zip(model.explain(x[rows]), whole, strict=True):
            torch.testing.assert_close(part, all_[rows], rtol=1e-4, atol=1e-5)


@every_variant
def test_a_category_that_does_not_go_with_the_rest_is_named(variant: str) -> None:
    model = fitted(variant, MIXED)
    if model.conditional:
        pytest.skip("its columns are independent given the records before, and here none are")
    x = mixed_rows(400, 3)
    x = x[x[:, -1, 2] == 1]  # of the first zone
    x[:, :, ZONE] = torch.tensor([0.0, 1.0, 0.0, 0.0])
    x[:, :, 0] = 0.0
    share, expected = model.explain(x)
    named = share[:, ZONE].sum(1) + share[:, HEAT]
    assert named.median() > 0.8
    by_heat, by_zone = share[:, HEAT] > 0.5, share[:, ZONE].sum(1) > 0.5
    assert (expected[by_heat, HEAT] > x[by_heat, -1, HEAT]).all()
    assert (expected[by_zone, 2] > expected[by_zone, 3]).all()


@every_variant
@pytest.mark.parametrize(
    ("x", "valid", "message"),
    [
        (numeric_rows(3, 1), numeric_rows(9, 2), "Too few training rows: 3"),
        (numeric_rows(99, 1), numeric_rows(0, 2), "Too few held-back rows: 0"),
        (numeric_rows(99, 1)[:, :1], numeric_rows(9, 2), r"shape \(99, 1, 6\)"),
        (numeric_rows(99, 1).index_fill(0, torch.tensor([4]), torch.nan), numeric_rows(9, 2), "1 of 99 training rows"),
    ],
    ids=["too few rows", "nothing held back", "wrong window", "not a number"],
)
def test_rows_that_nothing_can_be_learned_from_are_refused(
    variant: str, x: Tensor, valid: Tensor, message: str
) -> None:
    kind, arguments = VARIANTS[variant]
    with pytest.raises(ValueError, match=message):
        build(kind, NUMERIC, arguments).fit(x, valid, seed=0)


@every_variant
@pytest.mark.parametrize("warm", [False, True], ids=["from nothing", "from a start"])
def test_progress_rises_to_one(variant: str, warm: bool) -> None:
    kind, arguments = VARIANTS[variant]
    told: list[float] = []
    model, start = build(kind, MIXED, arguments), fitted(variant, MIXED) if warm else None
    report = model.fit(
        mixed_rows(400, 1), mixed_rows(100, 2), seed=0, start=start, progress=lambda share, _: told.append(share)
    )
    assert told == sorted(told)
    assert told[-1] == 1.0
    assert report.valid_score == pytest.approx(float(score(model, mixed_rows(100, 2)).mean()), rel=1e-4)


@every_variant
def test_columns_that_never_change_do_no_harm(variant: str) -> None:
    kind, arguments = VARIANTS[variant]
    x = torch.zeros(200, 1, 3)
    model = build(kind, Layout((Block("idle", "numeric", 3),)), arguments)
    model.fit(x[:150], x[150:], seed=0)
    assert score(model, torch.eye(3).unsqueeze(1)).min() > score(model, x).max() + 10
