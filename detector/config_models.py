"""Settings of the models: one class a kind, told apart by `type`. The models are explained in `docs/models.md`."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from consumers.settings import Settings

Hidden = Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=1)]


class LinearAutoregressionSettings(Settings):
    """Linear autoregression: each column as it follows from the records before."""

    type: Literal["ar"]
    """Says that this is a linear autoregression."""


class GaussianMixtureSettings(Settings):
    """Gaussian mixture, fitted by expectation-maximisation."""

    type: Literal["gmm"]
    """Says that this is a Gaussian mixture."""
    components: int | None = Field(default=None, ge=1, le=256)
    """Number of components; chosen by withheld likelihood up to `max_components` where none is given."""
    max_components: int = Field(default=32, ge=1, le=256)
    """Largest number of components tried."""
    covariance: Literal["full", "diag", "tied"] = "full"
    """Shape of the covariances."""


class KernelMixtureSettings(Settings):
    """Kernel mixture: a small Gaussian around each of many training records."""

    type: Literal["kernel"]
    """Says that this is a kernel mixture."""
    centres: int = Field(default=4000, ge=16, le=100_000)
    """Most training records kept; the time to score grows with it."""


class AutoencoderSettings(Settings):
    """Autoencoder, scored by the likelihood of a record given its own code, and of the code."""

    type: Literal["autoencoder"]
    """Says that this is an autoencoder."""
    latent: int = Field(default=8, ge=1, le=1024)
    """Dimensions of the code."""
    hidden: Hidden = [64, 32]
    """Widths of the encoder's layers; the decoder mirrors them."""
    epochs: int = Field(default=100, ge=1)
    """Most passes over the training rows; training stops earlier when held-back rows stop gaining."""


class VariationalAutoencoderSettings(Settings):
    """Variational autoencoder, trained on the evidence lower bound."""

    type: Literal["vae"]
    """Says that this is a variational autoencoder."""
    latent: int = Field(default=8, ge=1, le=1024)
    """Dimensions of the latent space."""
    hidden: Hidden = [64, 32]
    """Widths of the encoder's layers; the decoder mirrors them."""
    score: Literal["nll", "elbo", "reconstruction"] = "nll"
    """nll: importance-weighted bound on the negative log-likelihood. elbo: the looser bound that training lowers.
    reconstruction: negative log-likelihood of the record given its own encoding."""
    epochs: int = Field(default=100, ge=1)
    """Most passes over the training rows; training stops earlier when held-back rows stop gaining."""


class NormalisingFlowSettings(Settings):
    """Normalising flow: an invertible network, with an exact likelihood."""

    type: Literal["flow"]
    """Says that this is a normalising flow."""
    transform: Literal["maf", "nsf"] = "maf"
    """maf: masked autoregressive flow. nsf: neural spline flow."""
    transforms: int = Field(default=3, ge=1, le=32)
    """Transformations one after another."""
    hidden: Hidden = [64, 64]
    """Widths of the layers of each."""
    epochs: int = Field(default=100, ge=1)
    """Most passes over the training rows; training stops earlier when held-back rows stop gaining."""


class AdversarialNetworkSettings(Settings):
    """Bidirectional generative adversarial network, scored by reconstruction; no likelihood."""

    type: Literal["gan"]
    """Says that this is a generative adversarial network."""
    latent: int = Field(default=8, ge=1, le=1024)
    """Dimensions of the latent space."""
    hidden: Hidden = [64, 64]
    """Widths of the layers of generator, encoder and critic."""
    epochs: int = Field(default=100, ge=1)
    """Most passes over the training rows."""


class TemporalConvolutionSettings(Settings):
    """Causal convolutions over the records before."""

    type: Literal["tcn"]
    """Says that this is a temporal convolution."""
    channels: int = Field(default=48, ge=1, le=1024)
    """Width of the layers."""
    output: Literal["gaussian", "mixture"] = "gaussian"
    """Distribution of each number given what came before: one Gaussian, or a mixture of three."""
    epochs: int = Field(default=100, ge=1)
    """Most passes over the training rows; training stops earlier when held-back rows stop gaining."""


class CausalTransformerSettings(Settings):
    """Causal Transformer over the records before."""

    type: Literal["transformer"]
    """Says that this is a Transformer."""
    width: int = Field(default=32, ge=2, le=1024)
    """Width of the layers."""
    heads: int = Field(default=4, ge=1, le=64)
    """Attention heads; the width is a multiple of them."""
    layers: int = Field(default=2, ge=1, le=32)
    """Layers of attention."""
    output: Literal["gaussian", "mixture"] = "gaussian"
    """Distribution of each number given what came before: one Gaussian, or a mixture of three."""
    epochs: int = Field(default=100, ge=1)
    """Most passes over the training rows; training stops earlier when held-back rows stop gaining."""

    @model_validator(mode="after")
    def _coherent(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of {self.heads} heads")
        return self


ModelSettings = Annotated[
    LinearAutoregressionSettings
    | GaussianMixtureSettings
    | KernelMixtureSettings
    | AutoencoderSettings
    | VariationalAutoencoderSettings
    | NormalisingFlowSettings
    | AdversarialNetworkSettings
    | TemporalConvolutionSettings
    | CausalTransformerSettings,
    Field(discriminator="type"),
]
