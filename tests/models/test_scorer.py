"""Arrays in, arrays out, whatever the size of the batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from models.base import Block, Layout, seeded
from models.gmm import GaussianMixture
from models.scorer import Scorer, _buckets, resolve_device
from models.vae import VariationalAutoencoder

LAYOUT = Layout((Block("load", "numeric", 3),), window=2)


def rows(n: int) -> NDArray[np.float32]:
    return torch.randn(n, 2, 3, generator=seeded(1)).numpy()


@pytest.fixture(scope="module")
def scorer() -> Scorer:
    x = torch.from_numpy(rows(400))
    mixture = GaussianMixture(LAYOUT, components=3, max_components=3, covariance="full")
    autoencoder = VariationalAutoencoder(LAYOUT, latent=2, hidden=[16], score="nll", epochs=5)
    for model in (mixture, autoencoder):
        model.fit(x[:300], x[300:], seed=0)
    return Scorer({"mixture": mixture, "autoencoder": autoencoder}, "cpu")


@pytest.mark.parametrize("n", [0, 1, 16, 17, 1023, 1024, 1025, 9000])
def test_scores_are_those_of_the_models_for_any_number_of_rows(scorer: Scorer, n: int) -> None:
    x = rows(n)
    scores = scorer.score(x)
    assert scores.shape == (2, n)
    assert scores.dtype == np.float32
    for own, model in zip(scores, scorer._models.values(), strict=True):
        with torch.inference_mode():
            np.testing.assert_allclose(own, model.score(torch.from_numpy(x)).numpy(), rtol=1e-5, atol=1e-5)


def test_a_record_scores_the_same_in_whatever_batch_it_comes(scorer: Scorer) -> None:
    x = rows(5000)
    whole = scorer.score(x)
    for start, stop in ((0, 1), (7, 300), (4000, 5000)):
        np.testing.assert_allclose(scorer.score(x[start:stop]), whole[:, start:stop], rtol=1e-6, atol=1e-6)


def test_arrays_need_be_neither_writable_nor_contiguous(scorer: Scorer) -> None:
    x = rows(40)
    x.flags.writeable = False
    np.testing.assert_array_equal(scorer.score(x[::2]), scorer.score(x[::2].copy()))


def test_explanations_are_arrays_of_one_value_a_column(scorer: Scorer) -> None:
    share, expected = scorer.explain("autoencoder", rows(5))
    assert share.shape == expected.shape == (5, 3)
    np.testing.assert_allclose(share.sum(1), 1.0, rtol=1e-5)


def test_no_records_have_no_explanation(scorer: Scorer) -> None:
    for name in ("mixture", "autoencoder"):
        assert scorer.explain(name, rows(0))[0].shape == (0, 3)


@pytest.mark.parametrize("n", [0, 1, 100, 4096, 4097, 20_000])
@pytest.mark.parametrize("width", [1, 76, 9728, 10**7])
def test_buckets_hold_all_rows_in_few_sizes(n: int, width: int) -> None:
    buckets = _buckets(n, width, 4096)
    assert n <= sum(buckets) < 2 * max(n, 16)
    assert len(set(buckets)) <= 2
    assert all(size.bit_count() == 1 and 16 <= size <= 4096 for size in buckets)


def test_the_processor_is_always_there() -> None:
    assert resolve_device("cpu") == torch.device("cpu")
    assert resolve_device("auto").type in ("cuda", "mps", "cpu")


def test_a_device_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match=r"Device 'cuda' was asked for.*Present: .*cpu"):
        resolve_device("cuda")
