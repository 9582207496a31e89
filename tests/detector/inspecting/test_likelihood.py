from __future__ import annotations

import math
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor

from detector.inspecting.likelihood import Likelihood, Spread, block_bits, likelihood
from detector.inspecting.observed import observe
from detector.training_data import gather
from models.base import Block, Explanation, FitReport, GenerativeModel, Layout
from tests.detector.machines import START_MS, broker_with, records, settings, trained

LAYOUT = Layout((Block("x", "numeric", 2), Block("up", "binary"), Block("zone", "categorical", 3)), window=2)
ZONES = torch.tensor([0.7, 0.2, 0.1])


class Known(GenerativeModel):
    """Two numbers of unit variance and correlation `tie`, a flag set in one of four records, one of three zones. The
    record before costs what it likes, as it does where a score is over the whole window."""

    kind: ClassVar[str] = "known"
    is_density: ClassVar[bool] = True
    window: ClassVar[int] = 2
    sizes: ClassVar[tuple[str, ...]] = ()

    tie: Tensor

    def __init__(self, tie: float) -> None:
        super().__init__(LAYOUT)
        self.register_buffer("tie", torch.tensor(tie))

    def score(self, x: Tensor) -> Tensor:
        one, other, up, zone = x[:, -1, 0], x[:, -1, 1], x[:, -1, 2], x[:, -1, 3:]
        left = 1 - self.tie**2
        numbers = 0.5 * (one.square() + (other - self.tie * one).square() / left + left.log()) + math.log(2 * math.pi)
        flag = -torch.where(up > 0.5, torch.tensor(0.25), torch.tensor(0.75)).log()
        return numbers + flag - (zone @ ZONES).log() + 100.0 * x[:, 0].abs().sum(1)

    def fit(self, *_: object, **__: object) -> FitReport:
        raise NotImplementedError

    def _explained(self, x: Tensor) -> Explanation:
        raise NotImplementedError

    def sample(self, n: int, *, seed: int) -> Tensor:
        raise NotImplementedError


def rows(*numbers: tuple[float, float]) -> Tensor:
    """Records with these numbers, not up, in the last zone."""
    x = torch.ones(len(numbers), 2, 6)
    x[:, -1] = torch.tensor([[*pair, 0.0, 0.0, 0.0, 1.0] for pair in numbers])
    return x


def conditional(one: float, other: float, tie: float) -> float:
    """−log₂ of the density of `one` given `other`."""
    left = 1 - tie**2
    return 0.5 * ((one - tie * other) ** 2 / left + math.log(2 * math.pi * left)) / math.log(2)


@pytest.mark.parametrize("tie", [0.0, 0.9, 0.999])
def test_a_numbers_bits_are_its_conditional_density_given_the_rest(tie: float) -> None:
    pairs = [(0.3, 0.3), (-1.2, -1.1), (2.0, 1.9)]
    (_, bits), *_ = block_bits(Known(tie), rows(*pairs))
    expected = [conditional(one, other, tie) + conditional(other, one, tie) for one, other in pairs]
    assert bits.tolist() == pytest.approx(expected, rel=2e-3, abs=0.02)


def test_a_number_far_from_where_it_belongs_is_priced_by_where_that_is() -> None:
    (_, bits), *_ = block_bits(Known(0.999), rows((15.0, 0.0)))
    expected = conditional(15.0, 0.0, 0.999) + conditional(0.0, 15.0, 0.999)
    assert bits.item() == pytest.approx(expected, rel=1e-3)


def test_bits_of_flags_and_categories_are_those_of_their_frequencies() -> None:
    found = {block.feature: bits for block, bits in block_bits(Known(0.5), rows((0.0, 0.0)))}
    assert found["up"].item() == pytest.approx(-math.log2(0.75), abs=1e-4)
    assert found["zone"].item() == pytest.approx(-math.log2(0.1), abs=1e-4)


def test_bits_are_scores_of_densities_in_powers_of_two_with_the_level_among_them(tmp_path: Path) -> None:
    bundle, chosen = trained(tmp_path), settings(tmp_path)
    seen = observe(bundle, gather(chosen, broker_with(records(3_000)), now_ms=START_MS).columns, chosen)
    found = likelihood(bundle, "gmm", seen)
    calibration = found.stretches["calibration"]
    own = seen.scores[0][seen.stretches["calibration"]] / math.log(2)
    assert found.unit == "bits"
    assert calibration.mean == pytest.approx(float(own.mean()), rel=1e-4)
    assert calibration.quartiles == pytest.approx(np.quantile(own, [0.25, 0.5, 0.75]).tolist(), rel=1e-4)
    assert (own >= found.level).mean() == pytest.approx(bundle.manifest.rate, abs=0.01)
    assert found.stretches["fitted"].tail == pytest.approx(0.05, abs=0.005)
    assert found.warnings() == []
    assert {it.feature for it in found.features} == {"cpu", "load", "missing fields"}


def test_records_that_are_markedly_less_likely_than_the_fitted_ones_are_told() -> None:
    spread = Spread(rows=100, mean=1.0, quartiles=(0.0, 1.0, 2.0), tail=0.4)
    fitted = spread.model_copy(update={"tail": 0.05})
    found = Likelihood(unit="bits", level=5.0, stretches={"fitted": fitted, "calibration": spread}, features=[])
    assert "40% of the calibration records score beyond all but 5%" in found.warnings()[0]
    calm = found.model_copy(update={"stretches": {"fitted": fitted, "calibration": fitted}})
    assert calm.warnings() == []
