"""Models by the word for them."""

from __future__ import annotations

import pytest

from models.base import Block, Layout
from models.gmm import GaussianMixture
from models.registry import build

LAYOUT = Layout((Block("load", "numeric"),))


def test_a_kind_is_built_with_its_arguments() -> None:
    model = build("gmm", LAYOUT, {"components": 2, "max_components": 8, "covariance": "diag"})
    assert isinstance(model, GaussianMixture)
    assert model.layout == LAYOUT
    assert model.arguments == {"components": 2, "max_components": 8, "covariance": "diag"}


def test_a_kind_that_there_is_not_is_refused_by_name() -> None:
    known = "ar, autoencoder, flow, gan, gmm, kernel, tcn, transformer, vae"
    with pytest.raises(ValueError, match=rf"of kind 'forest'\. Expected one of {known}"):
        build("forest", LAYOUT, {})
