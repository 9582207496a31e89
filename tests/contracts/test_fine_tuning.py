"""What every generative model must do that goes on from a fitted one."""

from __future__ import annotations

import pytest
import safetensors.torch
import torch

from models.base import Block, Layout
from models.registry import KINDS, build
from tests.contracts.generative import (
    MIXED,
    NUMERIC,
    TABLES,
    VARIANTS,
    ZONE,
    effort,
    every_variant,
    fit_on,
    fitted,
    fitted_on_skewed,
    mixed_rows,
    numeric_rows,
    renamed_rows,
    rewired_rows,
    score,
    skewed_rows,
)


def missed(variant: str, otherwise: float) -> float:
    """Nats by which a start must score rows worse that are unlike its own, for there to be something to learn. Models
    of a record given the past price each column alone, so that less of a change shows in them."""
    return 2.0 if KINDS[VARIANTS[variant][0]].conditional else otherwise


@every_variant
def test_rows_of_the_same_kind_take_fewer_steps_from_a_start_and_score_as_well(variant: str) -> None:
    (cold, from_nothing), held_back = fit_on(variant, skewed_rows), skewed_rows(2000, 13)
    warm, from_start = fit_on(variant, skewed_rows, start=fitted_on_skewed(variant))
    assert effort(from_start) < effort(from_nothing)
    assert score(warm, held_back).mean() < score(cold, held_back).mean() + 0.3


@every_variant
def test_rows_that_correlate_in_another_way_score_nearly_as_well_from_a_start(variant: str) -> None:
    (cold, _), held_back, start = fit_on(variant, rewired_rows), rewired_rows(2000, 13), fitted_on_skewed(variant)
    warm, _ = fit_on(variant, rewired_rows, start=start)
    assert score(start, held_back).mean() > score(cold, held_back).mean() + missed(variant, otherwise=10)
    assert score(warm, held_back).mean() < score(cold, held_back).mean() + 0.5


@every_variant
@pytest.mark.parametrize("layout", TABLES, ids=["numeric", "mixed"])
def test_few_rows_teach_more_with_a_start(variant: str, layout: Layout) -> None:
    (cold, _), held_back = fit_on(variant, TABLES[layout], 60), TABLES[layout](2000, 13)
    start = fitted(variant, layout)
    warm, _ = fit_on(variant, TABLES[layout], 60, start=start)
    half_a_nat_better = score(cold, held_back).mean() - 0.5
    as_good_as_many_rows = score(start, held_back).mean() + 0.3  # a simple model leaves less than half a nat to gain
    assert score(warm, held_back).mean() < torch.maximum(half_a_nat_better, as_good_as_many_rows)


@every_variant
def test_what_a_start_never_saw_is_normal_once_rows_have_it(variant: str) -> None:
    (cold, _), held_back, start = fit_on(variant, renamed_rows), renamed_rows(2000, 13), fitted(variant, MIXED)
    warm, _ = fit_on(variant, renamed_rows, start=start)
    gone = held_back.clone()
    gone[..., ZONE] = torch.tensor([1.0, 0.0, 0.0, 0.0])
    assert score(start, held_back).mean() > score(cold, held_back).mean() + missed(variant, otherwise=5)
    assert score(warm, held_back).mean() < score(cold, held_back).mean() + 1.0
    assert score(warm, gone).min() > score(warm, held_back).max() + 10


@every_variant
def test_a_start_is_left_as_it_was(variant: str) -> None:
    start = fitted(variant, MIXED)
    before, arguments = {name: it.clone() for name, it in start.state_dict().items()}, dict(start.arguments)
    fit_on(variant, renamed_rows, 60, start=start)
    fit_on(variant, renamed_rows, 1000, start=start)
    assert all(torch.equal(tensor, before[name]) for name, tensor in start.state_dict().items())
    assert start.arguments == arguments
    assert not start.training


@every_variant
@pytest.mark.parametrize("n", [60, 1000])  # with draws from the start beside them, and without
def test_from_a_start_saved_and_loaded_the_same_seed_gives_the_same_scores(variant: str, n: int) -> None:
    start, x = fitted(variant, MIXED), mixed_rows(100, 3)
    loaded = build(start.kind, MIXED, start.arguments)
    loaded.load_state_dict(safetensors.torch.load(safetensors.torch.save(start.state_dict())))
    model, _ = fit_on(variant, mixed_rows, n, start=start)
    assert torch.equal(score(fit_on(variant, mixed_rows, n, start=loaded.eval())[0], x), score(model, x))
    saved = safetensors.torch.save(model.state_dict())
    again = build(model.kind, MIXED, model.arguments)
    again.load_state_dict(safetensors.torch.load(saved))
    assert torch.equal(score(again.eval(), x), score(model, x))
    assert not model.training


@every_variant
def test_a_start_may_name_features_otherwise(variant: str) -> None:
    kind, arguments = VARIANTS[variant]
    renamed = Layout(tuple(Block(f"other {block.feature}", block.kind, block.width) for block in MIXED.blocks))
    model = build(kind, renamed, arguments)
    model.fit(mixed_rows(400, 11), mixed_rows(100, 12), seed=0, start=fitted(variant, MIXED))
    assert model.layout == renamed
    assert torch.equal(
        score(model, mixed_rows(9, 3)),
        score(fit_on(variant, mixed_rows, 400, fitted(variant, MIXED))[0], mixed_rows(9, 3)),
    )


@every_variant
@pytest.mark.parametrize(
    ("layout", "message"),
    [
        (Layout(NUMERIC.blocks, window=3), "window 2. Expected 3"),
        (Layout(NUMERIC.blocks[:2], window=2), "number of blocks 3. Expected 2"),
        (Layout((*NUMERIC.blocks[:2], Block("disk", "numeric", 4)), window=2), "block 3 numeric of width 3.*width 4"),
        (Layout((*NUMERIC.blocks[:2], Block("disk", "categorical", 3)), window=2), "block 3 numeric.*categorical"),
    ],
    ids=["window", "number of blocks", "width", "kind"],
)
def test_a_start_of_another_layout_is_refused_by_the_first_difference(
    variant: str, layout: Layout, message: str
) -> None:
    kind, arguments = VARIANTS[variant]
    x = torch.zeros(60, layout.window, layout.columns)
    with pytest.raises(ValueError, match=message):
        build(kind, layout, arguments).fit(x, x, seed=0, start=fitted(variant, NUMERIC))


@every_variant
def test_a_start_of_another_kind_is_refused(variant: str) -> None:
    kind, arguments = VARIANTS[variant]
    other = next(name for name, (it, _) in VARIANTS.items() if it != kind)
    x = numeric_rows(60, 1)
    with pytest.raises(ValueError, match=f"kind '{VARIANTS[other][0]}'. Expected '{kind}'"):
        build(kind, NUMERIC, arguments).fit(x, x, seed=0, start=fitted(other, NUMERIC))
