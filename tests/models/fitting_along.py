"""What `torchrun` starts in `test_distributed`: fits one model of each kind, with the other processes or alone, and
writes what they score held-back rows with."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from safetensors.torch import save_file
from torch import Tensor

from models.base import GenerativeModel
from models.distributed import fit, help_to_fit, leading
from models.registry import build
from tests.contracts.generative import NUMERIC, VARIANTS, numeric_rows

KINDS = ("autoencoder", "vae-nll", "flow-maf", "tcn-gaussian", "transformer-gaussian", "gan")
EPOCHS = 3
"""Of 2,400 rows, 30 steps: with more of them a Transformer makes hundredths of a nat of the last digit of a weight."""
CPU = torch.device("cpu")


def fitted(variant: str) -> dict[str, Tensor]:
    """Scores of held-back rows by a model that was fitted, and by one that goes on from it."""
    kind, arguments = VARIANTS[variant]
    rows, valid, later = numeric_rows(2400, 1), numeric_rows(300, 2), numeric_rows(1200, 3)
    first, second = _fitted(kind, arguments, rows, valid), build(kind, NUMERIC, {**arguments, "epochs": EPOCHS})
    fit(second, later, valid, seed=7, start=first, device=CPU)
    return {variant: first.score(valid).detach(), f"{variant} tuned": second.score(valid).detach()}


def _fitted(kind: str, arguments: dict[str, Any], rows: Tensor, valid: Tensor) -> GenerativeModel:
    model = build(kind, NUMERIC, {**arguments, "epochs": EPOCHS})
    fit(model, rows, valid, seed=7, device=CPU)
    return model


def every_kind() -> dict[str, Tensor]:
    return {name: scores for variant in KINDS for name, scores in fitted(variant).items()}


def main(path: Path, *, lost: bool) -> None:
    if os.environ["RANK"] != "0":
        if lost:
            patch.object(torch.optim, "AdamW", side_effect=MemoryError("none is left")).start()
        help_to_fit()
        return
    with leading(int(os.environ["WORLD_SIZE"])):
        save_file(every_kind(), path)


if __name__ == "__main__":
    main(Path(sys.argv[1]), lost="lost" in sys.argv)
