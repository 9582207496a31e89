"""Fits by several processes, as `torchrun` starts them: each computes the gradients of its part of every batch.

Rank 0 leads. It alone reads records, measures, judges and stores; where it comes to a model that is trained by gradient
it sends out the rows, and all ranks go through the same `fit`, in which `models.fitting.train` shares out batches. What
is in closed form it fits alone. So ranks cannot differ in what they read, and no more than one writes.
"""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from models.base import FitReport, GenerativeModel, Layout, Progress, silent
from models.ranks import reaching_others
from models.registry import build

MOST_RANKS = 64
"""A batch has 256 rows, of which causal models train on every fourth: each rank must have one of these."""
_LONGEST = timedelta(days=1)
"""That ranks wait for one another: rank 0 may read records for hours. One that has died is noticed at once."""


def started() -> int:
    """How many processes `torchrun` started; 1 without it. Raises `ValueError` where batches cannot be shared evenly
    among so many."""
    ranks = int(os.environ.get("WORLD_SIZE", "1"))
    if ranks not in (1 << power for power in range(MOST_RANKS.bit_length())):
        raise ValueError(f"torchrun started {ranks} processes. Expected a power of two, {MOST_RANKS} at most.")
    return ranks


@contextmanager
def leading(ranks: int) -> Iterator[None]:
    """Rank 0 of so many, for whom the others fit along until the block ends. Where it raises they are left to
    `torchrun`, which ends all ranks when one fails. Raises `RankLost` where one of them ends before."""
    if ranks == 1:
        yield
        return
    with _joined():
        yield
        _announce(None)


def help_to_fit() -> None:
    """Goes through the fits of rank 0 until that one is done. What comes of them is rank 0's to keep and to tell.

    Raises `RankLost` where rank 0 ends before.
    """
    with _joined():
        while (task := _heard()) is not None:
            model, x, valid, start = _received(task)
            with suppress(ValueError):  # all ranks raise it alike, and rank 0 tells
                model.fit(x, valid, seed=task["seed"], start=start)


def fit(
    model: GenerativeModel,
    x: Tensor,
    valid: Tensor,
    *,
    seed: int,
    start: GenerativeModel | None = None,
    device: torch.device,
    progress: Progress = silent,
) -> FitReport:
    """`model.fit`, with the help of the other ranks where there are some and gradients are to be shared. Each rank then
    works on its own `device` where that is a GPU, and on the CPU elsewhere; the model comes back on the CPU.

    Raises what `model.fit` raises, and `RankLost`.
    """
    if not (dist.is_initialized() and model.by_gradient):
        return model.fit(x, valid, seed=seed, start=start, progress=progress)
    at = torch.device(device.type if device.type == "cuda" else "cpu")  # the one of this rank: see `_joined`
    _announce(
        {
            "device": at.type,
            "seed": seed,
            "rows": [len(x), len(valid)],
            "model": _make(model),
            "start": None if start is None else _make(start),
        }
    )
    x, valid = x.to(at), valid.to(at)
    start = None if start is None else copy.deepcopy(start).to(at)  # it stays as it was
    _send(x, valid, start)
    report = model.to(at).fit(x, valid, seed=seed, start=start, progress=progress)
    model.cpu()
    return report


@contextmanager
def _joined() -> Iterator[None]:
    """The group of the processes that `torchrun` started: gloo for tensors on the CPU, NCCL for those on GPUs, each
    process on the one of its number."""
    if gpus := torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("cpu:gloo,cuda:nccl" if gpus else "gloo", timeout=_LONGEST)
    try:
        yield
    finally:
        dist.destroy_process_group()


def _make(model: GenerativeModel) -> dict[str, Any]:
    return {"kind": model.kind, "layout": model.layout.to_json(), "arguments": model.arguments}


def _made(make: dict[str, Any], device: str) -> GenerativeModel:
    return build(make["kind"], Layout.from_json(make["layout"]), make["arguments"]).to(device)


def _received(task: dict[str, Any]) -> tuple[GenerativeModel, Tensor, Tensor, GenerativeModel | None]:
    """The model to fit, the rows and the held-back ones, and the model to go on from."""
    device, model = task["device"], _made(task["model"], task["device"])
    shape = model.layout.window, model.layout.columns
    x, valid = (torch.empty(rows, *shape, device=device) for rows in task["rows"])
    start = None if task["start"] is None else _made(task["start"], device).eval()
    _send(x, valid, start)
    return model, x, valid, start


def _send(x: Tensor, valid: Tensor, start: GenerativeModel | None) -> None:
    """Fills them with what rank 0 has."""
    for tensor in (x, valid, *(() if start is None else start.state_dict().values())):
        with reaching_others():
            dist.broadcast(tensor, 0)


def _announce(task: dict[str, Any] | None) -> None:
    """Tells the helpers what is next; None is the end. JSON, as nothing that comes over a network is unpickled."""
    told = torch.frombuffer(bytearray(json.dumps(task).encode()), dtype=torch.uint8)
    for tensor in (torch.tensor(len(told)), told):
        with reaching_others():
            dist.broadcast(tensor, 0)


def _heard() -> dict[str, Any] | None:
    """What `_announce` told."""
    length = torch.tensor(0)
    with reaching_others():
        dist.broadcast(length, 0)
        told = torch.empty(int(length), dtype=torch.uint8)
        dist.broadcast(told, 0)
    task: dict[str, Any] | None = json.loads(told.numpy().tobytes())
    return task
