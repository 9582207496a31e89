"""The table that a mixture is fitted on."""

from __future__ import annotations

import numpy as np
import torch

from models.base import Block, Layout
from models.em import standardised


def test_draws_of_a_mixture_that_leave_a_flag_below_zero_are_no_harm() -> None:
    x = torch.full((60, 1, 1), -0.1, dtype=torch.float64)
    table = standardised(x, Layout((Block("failed", "binary"),)))
    assert np.isfinite(table.rows).all()
    assert float(table.mean) == 0.5 / 61
