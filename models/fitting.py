"""What fits have in common: which rows they accept and remember, and the one training loop of all models trained by
gradient."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

from models.base import ORDINARY, GenerativeModel, Layout, Progress, seeded
from models.ranks import Noise, Part, align, averaged

Loss = Callable[[Tensor, Noise, float], Tensor]
"""(batch, source of noise, share of the training done) -> mean loss of the batch; at share 1 the plain objective."""

_BATCH = 256
_MAX_STEPS = 1000
_WARM_UP = 0.3  # share of the steps in which the one-cycle rate rises
_DECAY = 1e-4
_LONGEST_GRADIENT = 1.0
_PATIENCE = 5  # looks without gain that end a training
_HELD_BACK = 4096  # rows of them that are looked at
_SCORED_AT_ONCE = 1024  # rows
_ENOUGH = 1000  # rows that need no others drawn beside them
_FAMILIAR = 0.8  # share of fewer rows that has to be ordinary to a model, for draws from it to join them


class _Plan(NamedTuple):
    """Share of the steps that are taken; the highest rate; in which part of the steps the inner layers are frozen; and
    after how many steps the held-back rows are looked at."""

    share: float
    peak_rate: float
    frozen: float
    look_every: int


_TRAINING = _Plan(share=1.0, peak_rate=1e-2, frozen=0.0, look_every=100)
# Half the steps: with a quarter, shifted rows come out 0.1 to 0.3 nats behind. Half the rate: caution, the full one was
# no worse where it was tried. The inner layers wait while the rate rises from the outer ones' first, coarse steps.
_TUNING = _Plan(share=0.5, peak_rate=5e-3, frozen=0.2, look_every=25)


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


def rehearsed(x: Tensor, start: GenerativeModel, *, seed: int) -> Tensor:
    """x, and where it has fewer than `_ENOUGH` rows, draws from `start` up to that number: few rows then move what was
    known, and do not replace it (generative replay: Shin et al., 2017). Where too few of them are as ordinary to
    `start` as its own draws are, what it knew is of another kind of data, and nothing is drawn.
    """
    if len(x) >= _ENOUGH:
        return x
    drawn = start.sample(_ENOUGH - len(x), seed=seed).to(x)
    ordinary = scored(start, x) <= scored(start, drawn).quantile(ORDINARY)
    return torch.cat([x, drawn]) if ordinary.float().mean() >= _FAMILIAR else x


def scored(model: GenerativeModel, x: Tensor) -> Tensor:
    """Scores (n,) of many rows, a few at a time."""
    with torch.no_grad():
        return torch.cat([model.score(rows) for rows in torch.split(x, _SCORED_AT_ONCE)])


def perceptron(widths: Sequence[int]) -> nn.Sequential:
    """Linear layers with SiLU between them, their weights unset, which leaves the global random state alone."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layers += [nn.SiLU(), nn.Linear(inputs, outputs, device="meta").to_empty(device=torch.get_default_device())]
    return nn.Sequential(*layers[1:])


def initialise(module: nn.Module, generator: torch.Generator) -> None:
    """Glorot weights and zero biases for every linear layer."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight, generator=generator)
            nn.init.zeros_(layer.bias)


def train(
    model: nn.Module,
    loss: Loss,
    x: Tensor,
    valid: Tensor,
    *,
    epochs: int,
    seed: int,
    outermost: Sequence[nn.Parameter] = (),
    progress: Progress,
) -> int:
    """AdamW under a one-cycle rate, ended early when held-back rows stop gaining; leaves the best weights in the model.
    Returns the number of steps taken.

    With `outermost`, parameters of a model that was trained before, tunes it: in fewer steps, at a lower rate, and
    first these alone, while the others stay as they are to the bit (gradual unfreezing: Howard and Ruder 2018, section
    3.3). The weights that it came with are the ones to beat.

    Where several ranks go through it together (`models.distributed`), each computes the gradients of its part of every
    batch, and all take the same steps; each looks at all held-back rows, a twentieth of the work of one process, as a
    loss may be more than a mean over rows.

    Raises `ValueError` when the loss or its gradient is no finite number any more.
    """
    plan, every = _TUNING if outermost else _TRAINING, list(model.parameters())
    noise, steps = (
        Noise(seeded(seed), Part.own()),
        math.ceil(plan.share * min(epochs * math.ceil(len(x) / _BATCH), _MAX_STEPS)),
    )
    optimiser = torch.optim.AdamW(every, lr=plan.peak_rate, weight_decay=_DECAY, fused=True)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimiser, plan.peak_rate, total_steps=steps, pct_start=_WARM_UP)
    valid = valid[torch.randperm(len(valid), generator=noise.generator)[:_HELD_BACK].to(valid.device)]
    align(model)
    best, kept, since = _held_back(loss, valid, seed) if outermost else math.inf, _copy(model), 0
    for step in range(1, steps + 1):
        batch = x[noise.part.of(torch.randint(len(x), (_BATCH,), generator=noise.generator)).to(x.device)]
        moved = every if step > plan.frozen * steps else outermost
        _require_finite(_descend(loss(batch, noise, 1.0 if outermost else step / steps), moved, optimiser), step, steps)
        rate.step()
        if step % plan.look_every == 0 or step == steps:
            current = _held_back(loss, valid, seed)
            _require_finite(current, step, steps)
            progress(step / steps, f"held-back loss {current:.3f}")
            best, kept, since = (current, _copy(model), 0) if current < best else (best, kept, since + 1)
            if since == _PATIENCE:
                break
    model.load_state_dict(kept)
    return step


def _descend(value: Tensor, moved: Sequence[nn.Parameter], optimiser: torch.optim.Optimizer) -> float:
    """One step of some parameters downhill: the others get no gradient, so no weight decay either. Returns the loss
    plus the length of its gradient, which is not finite where either is not."""
    optimiser.zero_grad()
    torch.autograd.backward(value, inputs=moved)
    value = averaged(value, moved)
    length = nn.utils.clip_grad_norm_(moved, _LONGEST_GRADIENT)
    optimiser.step()
    return float(value.detach() + length)


def _held_back(loss: Loss, valid: Tensor, seed: int) -> float:
    with torch.no_grad():
        return float(averaged(loss(valid, Noise(seeded(seed)), 1.0), ()))


def _require_finite(value: float, step: int, steps: int) -> None:
    if not math.isfinite(value):
        raise ValueError(f"Training diverged at step {step} of {steps}: the loss is {value}. Expected a finite number.")


def _copy(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}
