"""What fits have in common: which rows they accept, and the one training loop of all models trained by gradient."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from models.base import GenerativeModel, Layout, Progress, seeded

Loss = Callable[[Tensor, torch.Generator, float], Tensor]
"""(batch, source of noise, share of the training done) -> mean loss of the batch; at share 1 the plain objective."""

_BATCH = 256
_MAX_STEPS = 1000
_PEAK_RATE = 1e-2
_WARM_UP = 0.3  # share of the steps in which the one-cycle rate rises
_DECAY = 1e-4
_LONGEST_GRADIENT = 1.0
_LOOK_EVERY = 100  # steps between two looks at the held-back rows
_PATIENCE = 5  # looks without gain that end a training
_HELD_BACK = 4096  # rows of them that are looked at
_SCORED_AT_ONCE = 1024  # rows


def check_rows(layout: Layout, x: Tensor, valid: Tensor, *, needed: int) -> None:
    """Raises `ValueError` where x has fewer than `needed` rows or `valid` none, or where shapes or values are wrong."""
    for name, rows, least in (("training", x, needed), ("held-back", valid, 1)):
        if rows.ndim != 3 or rows.shape[1:] != (layout.window, layout.columns):
            raise ValueError(
                f"The {name} rows have shape {tuple(rows.shape)}. Expected (rows, {layout.window}, {layout.columns})."
            )
        if len(rows) < least:
            raise ValueError(f"Too few {name} rows: {len(rows)}. Expected at least {least}.")
        broken = int((~rows.isfinite()).flatten(1).any(1).sum())
        if broken:
            raise ValueError(f"{broken} of {len(rows)} {name} rows hold NaN or infinity. Expected finite numbers.")


def scored(model: GenerativeModel, x: Tensor) -> Tensor:
    """Scores (n,) of many rows, a few at a time."""
    with torch.no_grad():
        return torch.cat([model.score(rows) for rows in torch.split(x, _SCORED_AT_ONCE)])


def initialise(module: nn.Module, generator: torch.Generator) -> None:
    """Glorot weights and zero biases for every linear layer."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight, generator=generator)
            nn.init.zeros_(layer.bias)


def train(model: nn.Module, loss: Loss, x: Tensor, valid: Tensor, *, epochs: int, seed: int, progress: Progress) -> int:
    """AdamW under a one-cycle rate, ended early when held-back rows stop gaining; leaves the best weights in the model.
    Returns the number of steps taken.

    Raises `ValueError` when the loss or its gradient is no finite number any more.
    """
    noise, steps = seeded(seed), min(epochs * math.ceil(len(x) / _BATCH), _MAX_STEPS)
    optimiser = torch.optim.AdamW(model.parameters(), lr=_PEAK_RATE, weight_decay=_DECAY, fused=True)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimiser, _PEAK_RATE, total_steps=steps, pct_start=_WARM_UP)
    valid = valid[torch.randperm(len(valid), generator=noise)[:_HELD_BACK].to(valid.device)]
    best, kept, since = math.inf, _copy(model), 0
    for step in range(1, steps + 1):
        batch = x[torch.randint(len(x), (_BATCH,), generator=noise).to(x.device)]
        _require_finite(_descend(loss(batch, noise, step / steps), optimiser), step, steps)
        rate.step()
        if step % _LOOK_EVERY == 0 or step == steps:
            with torch.no_grad():
                current = float(loss(valid, seeded(seed), 1.0))
            _require_finite(current, step, steps)
            progress(step / steps, f"held-back loss {current:.3f}")
            best, kept, since = (current, _copy(model), 0) if current < best else (best, kept, since + 1)
            if since == _PATIENCE:
                break
    model.load_state_dict(kept)
    return step


def _descend(value: Tensor, optimiser: torch.optim.Optimizer) -> float:
    """One step downhill; the loss plus the length of its gradient, which is not finite where either is not."""
    optimiser.zero_grad()
    torch.autograd.backward(value)
    parameters = optimiser.param_groups[0]["params"]
    length = nn.utils.clip_grad_norm_(parameters, _LONGEST_GRADIENT)
    optimiser.step()
    return float(value.detach() + length)


def _require_finite(value: float, step: int, steps: int) -> None:
    if not math.isfinite(value):
        raise ValueError(f"Training diverged at step {step} of {steps}: the loss is {value}. Expected a finite number.")


def _copy(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}
