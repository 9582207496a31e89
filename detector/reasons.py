"""Why a record is unlikely, and what would make it normal: the features that an alert names, and what was expected."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from consumers.batch import Columns
from detector.alerts import LONGEST_TEXT, Reason
from detector.calibration import Calibration
from detector.features import FeatureEncoder, FeatureReason
from models.scorer import Scorer

NEGLIGIBLE_SHARE = 0.01
"""Where naming features does not bring a record below the level, those with a smaller part are not named."""


class Told(NamedTuple):
    """The reasons, largest share first, and whether setting the features they name to what was expected, and nothing
    else, brings the record below the level."""

    reasons: list[Reason]
    makes_normal: bool


class Reasoner:
    """Names at most `most` features a record."""

    def __init__(self, encoder: FeatureEncoder, scorer: Scorer, calibration: Calibration, most: int) -> None:
        self._encoder = encoder
        self._scorer = scorer
        self._calibration = calibration
        self._most = most

    def reasons(
        self,
        columns: Columns,
        x: NDArray[np.float32],
        by_model: NDArray[np.float64],
        level: NDArray[np.float64],
    ) -> list[Told]:
        """Why each of n records, as the models saw them (n, window, d), is beyond its level (n,); each model finds it
        `by_model` (m, n) unlikely. All in nats of calibration.

        The most surprised model answers. Where what it expects does not bring the record below the level, because
        another model finds that unlikely too, that one is asked.
        """
        told = [Told([], False)] * len(x)
        for turn in np.argsort(-by_model, axis=0, kind="stable"):
            asking = ~np.array([answer.makes_normal for answer in told], np.bool_)
            for number, model in enumerate(self._calibration.scales):
                rows = np.flatnonzero(asking & (turn == number))
                for row, answer in zip(rows, self._told(model, columns.take(rows), x[rows], level[rows]), strict=True):
                    if answer.makes_normal or not told[row].reasons:
                        told[row] = answer
        return told

    def _told(self, model: str, columns: Columns, x: NDArray[np.float32], level: NDArray[np.float64]) -> list[Told]:
        if not len(x):
            return []
        share, expected = self._scorer.explain(model, x)
        shares, likeliest = self._encoder.shares(columns, share), self._encoder.likeliest(expected)
        named, normal = self._named(columns, x, likeliest, shares, level)
        reasons = self._encoder.reasons(columns, x[:, -1], likeliest, shares, named)
        return [
            Told([_reason(part) for part in parts], enough)
            for parts, enough in zip(reasons, normal.tolist(), strict=True)
        ]

    def _named(
        self,
        columns: Columns,
        x: NDArray[np.float32],
        likeliest: NDArray[np.float32],
        shares: NDArray[np.float64],
        level: NDArray[np.float64],
    ) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """The fewest of the weightiest features (n, features) that bring a record below its level when they are as
        expected, and whether they do (n,); where they do not, those that are not negligible."""
        weightiest = np.argsort(-shares, axis=1, kind="stable")[:, : self._most]
        named, mended = np.zeros(shares.shape, np.bool_), x.copy()
        beyond = np.arange(len(x))
        for feature in weightiest.T:
            named[beyond, feature[beyond]] = True
            mended[beyond, -1] = self._encoder.replaced(
                columns.take(beyond), x[beyond, -1], likeliest[beyond], named[beyond]
            )
            nats = self._calibration.nats(self._scorer.score(mended[beyond]))
            beyond = beyond[nats >= level[beyond]]
            if not len(beyond):
                break
        named[beyond] &= shares[beyond] >= NEGLIGIBLE_SHARE
        named[beyond, weightiest[beyond, 0]] = True
        normal = np.ones(len(x), np.bool_)
        normal[beyond] = False
        return named, normal


def _reason(part: FeatureReason) -> Reason:
    """As it is published: long texts are cut, and rounding does not take a share beyond 1."""
    observed, expected = (
        value[:LONGEST_TEXT] if isinstance(value, str) else value for value in (part.observed, part.expected)
    )
    return Reason(feature=part.feature, observed=observed, expected=expected, share=min(1.0, part.share))
