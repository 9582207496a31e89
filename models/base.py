"""The contract of every generative model: p(x) of normal data.

A new model is one file beside this one that subclasses `GenerativeModel`, a line in `models.registry`, a settings class
in `detector.config_models`, and a line in `VARIANTS` of `tests/contracts/generative.py`, by which it runs both suites
of the contract: `test_models.py` and, of going on from a fitted one, `test_fine_tuning.py`.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, NamedTuple, Self, TypeVar

import torch
from torch import Tensor, nn

Progress = Callable[[float, str], None]
"""Called now and then during a fit with the fraction done (0 to 1) and a short word on where it stands."""

BlockKind = Literal["numeric", "binary", "categorical"]


ORDINARY = 0.95
"""Share of the training rows that score no higher than what explanations take for normal. A larger one would leave too
much unexplained; a smaller one would have columns replaced of which only the combination is uncommon."""

_EXPLAINED_AT_ONCE = 64  # rows; each is tried with every column replaced


def silent(fraction: float, message: str) -> None:
    """A `Progress` that says nothing."""


@dataclass(frozen=True, slots=True)
class Block:
    """Neighbouring columns that belong to one feature: `width` numeric columns (scaled to about unit variance and
    clipped), one binary column (0 or 1), or a one-hot block of `width` categories.
    """

    feature: str
    kind: BlockKind
    width: int = 1


@dataclass(frozen=True, slots=True)
class Layout:
    """What the columns of x mean. x is float32 of shape (n, window, columns); x[:, -1] is the record itself, before it
    the records of its entity that led up to it (the oldest repeated where there are fewer than `window`).
    """

    blocks: tuple[Block, ...]
    window: int = 1

    @property
    def columns(self) -> int:
        return sum(block.width for block in self.blocks)

    def slices(self) -> list[tuple[Block, slice]]:
        """Each block with the columns it owns."""
        edges, start = [], 0
        for block in self.blocks:
            edges.append((block, slice(start, start + block.width)))
            start += block.width
        return edges

    def to_json(self) -> dict[str, Any]:
        return {"window": self.window, "blocks": [[b.feature, b.kind, b.width] for b in self.blocks]}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Layout:
        return cls(tuple(Block(feature, kind, width) for feature, kind, width in data["blocks"]), data["window"])


class Explanation(NamedTuple):
    """Why a record scored as it did. `share` (n, d) is non-negative and sums to 1 over a row; `expected` (n, d) is what
    the model would have found normal in each column of the record itself, in the units of x. d is `layout.columns`.
    """

    share: Tensor
    expected: Tensor


@dataclass(frozen=True, slots=True)
class FitReport:
    """What a fit did: mean score in nats of the rows it held back, and figures particular to the model."""

    valid_score: float
    details: dict[str, float | int | str] = field(default_factory=dict)


class GenerativeModel(nn.Module, ABC):
    """p(x) of normal data, learned by `fit`, asked by `score`.

    Everything learned is a parameter or buffer, so that `state_dict` is the whole model; everything needed to construct
    it again is in `layout` and `arguments` (JSON values, keyword arguments of the constructor). After `fit` a model is
    in eval mode. `score` and `explain` are deterministic, do not depend on what else is in the batch, and do not change
    their input.
    """

    kind: ClassVar[str]
    """The word for it in settings and manifests."""
    is_density: ClassVar[bool]
    """Whether `score` is an exact −log p(x), which integrates to 1 over numeric columns."""
    by_gradient: ClassVar[bool] = False
    """Whether `fit` is a training loop, in which several processes can share the batches (`models.distributed`)."""
    conditional: ClassVar[bool] = False
    """Whether `score` is of the record itself given those before it, not of the whole window."""
    window: ClassVar[int]
    """Records of its entity that it looks at, the newest included, where the settings say nothing."""
    sizes: ClassVar[tuple[str, ...]]
    """The arguments that a model shares with one that it goes on from; where it has None, it takes the other's."""

    def __init__(self, layout: Layout, **arguments: Any) -> None:
        super().__init__()
        self.layout = layout
        self.arguments = arguments

    @abstractmethod
    def fit(
        self,
        x: Tensor,
        valid: Tensor,
        *,
        seed: int,
        start: GenerativeModel | None = None,
        progress: Progress = silent,
    ) -> FitReport:
        """Learns from x (n, window, d); `valid` (m, window, d) comes later in time and is used for early stopping and
        choices of size; what is in closed form may learn from it too once these are made.

        With `start`, another model that was fitted, goes on from what that one knows, in fewer steps and from fewer
        rows, and leaves it as it was. x is then in its own units, which need not be those that `start` saw: a column's
        scale belongs to the rows.

        Same seed, same machine, same result. Raises `ValueError` naming the number of rows where they are too few, and
        by `require_compatible` where `start` is of another make.
        """

    @abstractmethod
    def score(self, x: Tensor) -> Tensor:
        """(n, window, d) -> (n,) float32, higher = more anomalous; nats where the class says it is a likelihood or a
        bound on one.
        """

    @classmethod
    def natural_window(cls, columns: int) -> int:
        """How many records it looks at where the settings say nothing and records have so many columns."""
        return cls.window

    @property
    def scored_columns(self) -> int:
        """Of how many columns `score` is the likelihood."""
        return self.layout.columns * (1 if self.conditional else self.layout.window)

    def explain(self, x: Tensor) -> Explanation:
        """Which columns of the record itself make it unlikely, and what was expected in their place: setting the
        columns with the largest shares to `expected` must bring the score down to those of normal rows, as far as that
        can be done without changing the records before.

        Works in float64, so that which column comes first does not depend on what else is in the batch.
        """
        model = self.precise()
        with torch.no_grad():
            parts = [model._explained(rows) for rows in torch.split(x.cpu().double(), _EXPLAINED_AT_ONCE)]
        return Explanation(*(torch.cat(column).to(x) for column in zip(*parts, strict=True)))

    def precise(self) -> Self:
        """In float64 on the CPU: itself where it is so already, else a copy."""
        learned = [tensor for tensor in self.state_dict().values() if tensor.is_floating_point()]
        there = all((tensor.dtype, tensor.device.type) == (torch.float64, "cpu") for tensor in learned)
        return self if there else copy.deepcopy(self).cpu().double()

    @abstractmethod
    def _explained(self, x: Tensor) -> Explanation:
        """`explain` for a few rows, of a model on the CPU in float64."""

    def embed(self, x: Tensor) -> Tensor:
        """(n, window, d) -> (n, k): where rows lie in what the model takes for the space behind them; the rows
        themselves, flattened, where it has none."""
        return x.flatten(1)

    @abstractmethod
    def sample(self, n: int, *, seed: int) -> Tensor:
        """n draws (n, window, d) from p(x), on the CPU."""


Model = TypeVar("Model", bound=GenerativeModel)


def require_compatible(model: Model, start: GenerativeModel) -> Model:
    """`start`, known to be of the class, window, blocks and sizes of `model`, so that this one can go on from it;
    features may have other names. Raises `ValueError` naming the first difference.
    """
    if not isinstance(start, type(model)):
        raise ValueError(f"The start is of kind '{start.kind}'. Expected '{model.kind}', to go on from it.")
    wanted, found = _make(model), _make(start)
    for what, value in wanted.items():
        if value is not None and found.get(what) != value:
            raise ValueError(f"The start has {what} {found.get(what, 'none')}. Expected {value}, to go on from it.")
    return start


def _make(model: GenerativeModel) -> dict[str, Any]:
    """What two models have to have in common, each part under its name."""
    blocks = {f"block {n}": f"{block.kind} of width {block.width}" for n, block in enumerate(model.layout.blocks, 1)}
    sizes = {name: model.arguments[name] for name in model.sizes}
    return {"window": model.layout.window, "number of blocks": len(blocks), **blocks, **sizes}


def seeded(seed: int) -> torch.Generator:
    """A CPU generator of its own: the global one is never touched."""
    return torch.Generator().manual_seed(seed)
