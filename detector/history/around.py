"""The records of an entity around an incident, as the topic still holds them, and what its version expected there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from consumers.batch import Columns, Partition
from consumers.decoding import decoder
from consumers.errors import TopicMissing
from consumers.stream import Broker
from detector.alerts import Alert
from detector.averages import Averages
from detector.bundle import Bundle
from detector.config import DetectorSettings
from detector.entities import EntityTable
from detector.features import FeatureReason, fields
from detector.relevance import Relevance
from detector.windows import EntityHistory
from models.scorer import Scorer

BEFORE, AFTER = 150, 150
"""Records of the entity that are shown before the incident began, and from there on."""
WARM_UP = 64
"""More before these, of which nothing is shown: averages are to be where they were."""
REACH = 20_000
"""Offsets before the incident, and after it began, among which the records of the entity are looked for: a second or
so of reading and decoding."""
BAND = (0.005, 0.995)
"""What the records around that were no alarm strayed from what was expected, between these quantiles."""
FEWEST = 20
"""Records that a band is made of, at least."""


@dataclass(frozen=True, slots=True)
class Track:
    """One feature over n records: observed and expected in the field's own units, and where both are numbers the band
    (n,) each, if there is one."""

    name: str
    observed: Sequence[float | str | bool | None]
    expected: Sequence[float | str | bool | None]
    low: NDArray[np.float64] | None
    high: NDArray[np.float64] | None

    @property
    def numeric(self) -> bool:
        return any(isinstance(value, float) for value in (*self.observed, *self.expected))


class Surroundings(NamedTuple):
    """Records (n,) in order: event time (epoch milliseconds), offset, and −ln p as of training; beyond which an alarm
    was raised then (nats); the features asked for, and the names of the others."""

    time: NDArray[np.int64]
    offset: NDArray[np.int64]
    nats: NDArray[np.float64]
    threshold: float | None
    tracks: list[Track]
    others: list[str]


def surroundings(
    broker: Broker, settings: DetectorSettings, bundle: Bundle, alerts: Sequence[Alert], names: Sequence[str]
) -> Surroundings | None:
    """Of an incident by its alerts, with the features of these names; None where the topic holds nothing of it."""
    first = min(alerts, key=lambda alert: alert.source.offset)
    columns = _fetched(broker, settings, bundle, first)
    if columns is None:
        return None
    beginning = int(np.searchsorted(columns.offsets, first.source.offset))
    columns = columns.take(slice(max(0, beginning - BEFORE - WARM_UP), beginning + AFTER))
    shown = slice(min(WARM_UP, max(0, beginning - BEFORE)), None)
    scorer = Scorer(bundle.models, "cpu")
    x, scores, nats = _scored(settings, bundle, scorer, columns)
    columns, x, scores, nats = columns.take(shown), x[shown], scores[:, shown], nats[shown]
    threshold = _threshold(first)
    normal = np.ones(len(nats), np.bool_) if threshold is None else nats < threshold
    chosen = [feature.name for feature in bundle.encoder.features if feature.name in names]
    return Surroundings(
        time=columns.time,
        offset=columns.offsets,
        nats=nats,
        threshold=threshold,
        tracks=_tracks(bundle, scorer, columns, x, scores, normal, chosen),
        others=[feature.name for feature in bundle.encoder.features if feature.name not in names],
    )


def _fetched(broker: Broker, settings: DetectorSettings, bundle: Bundle, alert: Alert) -> Columns | None:
    """The records of the entity that the source of the alert is of, within reach; None where that is gone."""
    source, stream = alert.source, settings.stream
    schema = fields(bundle.encoder.features, stream.entity, stream.timestamp, settings.segment)
    decode = decoder(schema, stream.format, stream.registry).decode
    span = max(0, source.offset - REACH), source.offset + REACH
    try:
        found = [decode(batch)[0] for batch in broker.fetch({Partition(source.topic, source.partition): span})]
    except TopicMissing:
        return None
    whose = [columns.entity[columns.offsets == source.offset] for columns in found]
    if not any(len(it) for it in whose):
        return None
    entity = np.concatenate(whose)[0]
    return Columns.concat([columns.take(columns.entity == entity) for columns in found])


def _scored(
    settings: DetectorSettings, bundle: Bundle, scorer: Scorer, columns: Columns
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float64]]:
    """Records of one entity as the models see them (n, window, d), their scores (m, n), and −ln p (n,)."""
    calibration, visits = bundle.calibration, EntityTable(1).locate(columns.entity)
    x, _ = EntityHistory(bundle.encoder, settings.window.late_for).windows(columns, visits)
    x, scores = Relevance(bundle.encoder, scorer, calibration).judge(x, scorer.score(x))
    averages = Averages(calibration.usual).update(scores, visits)
    nats, _ = calibration.in_time(scores, calibration.by_model(scores), averages)
    return x, scores, nats


def _threshold(alert: Alert) -> float | None:
    """The level at which an alert was raised, on the scale of training: below the record in the proportion in which it
    was then. The level stretches nats, so their difference would come out far below 0 where a record is extreme."""
    if alert.static_p_value is None or not alert.score or alert.threshold is None:
        return None
    return -float(np.log(max(alert.static_p_value, np.finfo(float).tiny))) * alert.threshold / alert.score


def _tracks(
    bundle: Bundle,
    scorer: Scorer,
    columns: Columns,
    x: NDArray[np.float32],
    scores: NDArray[np.float32],
    normal: NDArray[np.bool_],
    names: Sequence[str],
) -> list[Track]:
    """What the most surprised model of all expected of each record."""
    encoder, by_model = bundle.encoder, bundle.calibration.by_model(scores)
    model = [*bundle.models][int(by_model.max(axis=1).argmax())]
    share, expected = scorer.explain(model, x)
    chosen = np.array([feature.name in names for feature in encoder.features])
    told = encoder.reasons(
        columns,
        x[:, -1],
        encoder.likeliest(expected),
        encoder.shares(columns, share),
        np.broadcast_to(chosen, (len(x), len(chosen))),
    )
    return [_track(name, [part for parts in told for part in parts if part.feature == name], normal) for name in names]


def _track(name: str, parts: Sequence[FeatureReason], normal: NDArray[np.bool_]) -> Track:
    observed, expected = [part.observed for part in parts], [part.expected for part in parts]
    low = high = None
    if all(value is None or isinstance(value, float) for value in (*observed, *expected)):
        seen, wanted = np.array(observed, np.float64), np.array(expected, np.float64)
        strayed = (seen - wanted)[normal]
        if np.isfinite(strayed).sum() >= FEWEST:
            least, most = np.nanquantile(strayed, BAND)
            low, high = wanted + min(0.0, least), wanted + max(0.0, most)
    return Track(name, observed, expected, low, high)
