"""The kinds of model there are, by the word for them in settings and manifests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from models.base import GenerativeModel, Layout
from models.gmm import GaussianMixture
from models.vae import VariationalAutoencoder

KINDS: Mapping[str, type[GenerativeModel]] = {model.kind: model for model in (GaussianMixture, VariationalAutoencoder)}


def build(kind: str, layout: Layout, arguments: Mapping[str, Any]) -> GenerativeModel:
    """A model that awaits `fit`, or the state dict that was saved with these arguments. Raises `ValueError` where no
    model is of that kind."""
    if kind not in KINDS:
        raise ValueError(f"No model is of kind '{kind}'. Expected one of {', '.join(sorted(KINDS))}.")
    return KINDS[kind](layout, **arguments)
