"""The variants of generative models that both suites of the contract run on, and the rows they are fitted on. A new
kind is added to `VARIANTS`, and to nothing else."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from models.base import Block, FitReport, GenerativeModel, Layout, seeded
from models.registry import build

VAE = {"latent": 4, "hidden": [32, 16], "epochs": 25}
TRANSFORMER = {"width": 16, "heads": 2, "layers": 2, "epochs": 15}
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "ar": ("ar", {}),
    "flow-maf": ("flow", {"transform": "maf", "transforms": 2, "hidden": [32], "epochs": 20}),
    "flow-nsf": ("flow", {"transform": "nsf", "transforms": 1, "hidden": [32], "epochs": 15}),
    "gan": ("gan", {**VAE, "epochs": 40}),
    "gmm-full": ("gmm", {"components": None, "max_components": 4, "covariance": "full"}),
    "gmm-diag": ("gmm", {"components": 8, "max_components": 8, "covariance": "diag"}),
    "gmm-tied": ("gmm", {"components": 3, "max_components": 8, "covariance": "tied"}),
    "kernel": ("kernel", {"centres": 4000}),
    "autoencoder": ("autoencoder", VAE),
    "vae-nll": ("vae", {**VAE, "score": "nll"}),
    "vae-elbo": ("vae", {**VAE, "score": "elbo"}),
    "vae-reconstruction": ("vae", {**VAE, "score": "reconstruction"}),
    "tcn-gaussian": ("tcn", {"channels": 16, "output": "gaussian", "epochs": 20}),
    "tcn-mixture": ("tcn", {"channels": 16, "output": "mixture", "epochs": 20}),
    "transformer-gaussian": ("transformer", {**TRANSFORMER, "output": "gaussian"}),
    "transformer-mixture": ("transformer", {**TRANSFORMER, "output": "mixture"}),
}
every_variant = pytest.mark.parametrize("variant", VARIANTS)

NUMERIC = Layout((Block("load", "numeric", 2), Block("memory", "numeric"), Block("disk", "numeric", 3)), window=2)
MIXED = Layout(
    (Block("load", "numeric"), Block("failed", "binary"), Block("zone", "categorical", 4), Block("heat", "numeric"))
)
ZONE, UNSEEN, HEAT = slice(2, 6), 5, 6  # columns of MIXED; the last zone occurs in no record


def numeric_rows(n: int, seed: int) -> Tensor:
    """(n, 2, 6) of unit variance: six columns driven by two hidden walks, so that each follows from the others."""
    generator = seeded(seed)
    start = torch.randn(n, 1, 2, generator=generator)
    drift = torch.randn(n, 1, 2, generator=generator)
    walk = torch.cat([start, 0.9 * start + 0.19**0.5 * drift], dim=1)
    mixing = torch.tensor([[0.9, -0.4, 0.0, 0.7, 0.7, 0.3], [0.3, 0.9, 0.95, -0.7, 0.6, -0.9]])
    return walk @ mixing + 0.2 * torch.randn(n, 2, 6, generator=generator)


def mixed_rows(n: int, seed: int) -> Tensor:
    """(n, 1, 7): the zone sets the heat; a failure is rare, and comes with load."""
    generator = seeded(seed)
    zone = torch.multinomial(torch.tensor([0.6, 0.3, 0.1]), n, replacement=True, generator=generator)
    load = torch.randn(n, generator=generator)
    failed = (load + 0.3 * torch.randn(n, generator=generator) > 1.8).float()
    heat = (zone.float() - 0.5) * 1.4 + 0.2 * torch.randn(n, generator=generator)
    one_hot = torch.nn.functional.one_hot(zone, 4).float()
    return torch.cat([load[:, None], failed[:, None], one_hot, heat[:, None]], dim=1).unsqueeze(1)


def skewed_rows(n: int, seed: int) -> Tensor:
    """(n, 2, 6): numeric rows bent, so that no one Gaussian has their shape."""
    return ((0.6 * numeric_rows(n, seed)).exp() - 1.0) / 0.6


def rewired_rows(n: int, seed: int) -> Tensor:
    """(n, 2, 6): skewed rows that correlate in another way."""
    return skewed_rows(n, seed)[..., [1, 0, 3, 2, 5, 4]]


def renamed_rows(n: int, seed: int) -> Tensor:
    """(n, 1, 7): mixed rows whose first zone is gone, and that have one that mixed rows never do."""
    x = mixed_rows(n, seed)
    x[..., ZONE] = x[..., ZONE].roll(1, dims=-1)
    return x


TABLES: dict[Layout, Callable[[int, int], Tensor]] = {NUMERIC: numeric_rows, MIXED: mixed_rows}


def fit(variant: str, layout: Layout, seed: int = 0) -> GenerativeModel:
    kind, arguments = VARIANTS[variant]
    model = build(kind, layout, arguments)
    model.fit(TABLES[layout](2000, 1), TABLES[layout](500, 2), seed=seed)
    return model


@cache
def fitted(variant: str, layout: Layout) -> GenerativeModel:
    return fit(variant, layout)


def fit_on(
    variant: str, table: Callable[[int, int], Tensor], n: int = 2000, start: GenerativeModel | None = None
) -> tuple[GenerativeModel, FitReport]:
    """Fitted on rows that no start has seen."""
    kind, arguments = VARIANTS[variant]
    model = build(kind, MIXED if table in (mixed_rows, renamed_rows) else NUMERIC, arguments)
    return model, model.fit(table(n, 11), table(max(16, n // 4), 12), seed=0, start=start)


@cache
def fitted_on_skewed(variant: str) -> GenerativeModel:
    kind, arguments = VARIANTS[variant]
    model = build(kind, NUMERIC, arguments)
    model.fit(skewed_rows(2000, 1), skewed_rows(500, 2), seed=0)
    return model


def effort(report: FitReport) -> int:
    return int(report.details["steps" if "steps" in report.details else "iterations"])


def score(model: GenerativeModel, x: Tensor) -> Tensor:
    with torch.inference_mode():
        return model.score(x)
