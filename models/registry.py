"""The kinds of model there are, by the word for them in settings and manifests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from models.ar import LinearAutoregression
from models.autoencoder import Autoencoder
from models.base import GenerativeModel, Layout
from models.flow import NormalisingFlow
from models.gan import AdversarialNetwork
from models.gmm import GaussianMixture
from models.kernel import KernelMixture
from models.tcn import TemporalConvolution
from models.transformer import CausalTransformer
from models.vae import VariationalAutoencoder

KINDS: Mapping[str, type[GenerativeModel]] = {
    model.kind: model
    for model in (
        LinearAutoregression,
        Autoencoder,
        AdversarialNetwork,
        GaussianMixture,
        KernelMixture,
        NormalisingFlow,
        VariationalAutoencoder,
        TemporalConvolution,
        CausalTransformer,
    )
}


def build(kind: str, layout: Layout, arguments: Mapping[str, Any]) -> GenerativeModel:
    """A model that awaits `fit`, or the state dict that was saved with these arguments. Raises `ValueError` where no
    model is of that kind."""
    if kind not in KINDS:
        raise ValueError(f"No model is of kind '{kind}'. Expected one of {', '.join(sorted(KINDS))}.")
    return KINDS[kind](layout, **arguments)
