"""The best version that can be made of the records there are now, and what speaks against it.

gather ─► fields as they were? ─► out with incidents, labelled and unlikely records ─► fit anew, and from the version in
service ─► gate ─► the better one. What comes of it is in no store yet, and serves nobody (`detector.retraining`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import NamedTuple

import numpy as np
import structlog
from pydantic import ValidationError

from consumers.batch import Columns
from consumers.decoding import decoder
from consumers.errors import TopicMissing
from consumers.stream import Broker, Window
from detector.alerts import Alert
from detector.bundle import Bundle
from detector.config import DetectorSettings
from detector.errors import BundleError, NotEnoughRows, TrainingError
from detector.features import fields
from detector.feedback import Labelled, labelled
from detector.proving.cleaning import CONTAMINATED, SUSPECT, Cleaned, Spans, clean, incident_spans
from detector.proving.gate import Judgement, compare
from detector.proving.profile import faults, profile
from detector.proving.surprise import Surprise
from detector.store import Store
from detector.training import split_by_time, train
from detector.training_data import PASSED_OVER, TrainingData, gather
from models.base import Progress, silent

log = structlog.get_logger()

UNUSABLE = 0.1
"""Share of the records in the training window that may be unusable."""
MOST_NAMED = 5
"""Faults that an error names."""
LEAST_RECENT = 100
"""Records to compare two versions on."""
ALERTS = 200_000
"""Most alerts that are looked at for incidents, the newest."""


class Candidate(NamedTuple):
    """A version that was trained, and what the gate says of it."""

    bundle: Bundle
    gate: Judgement


def challenger(
    settings: DetectorSettings, broker: Broker, store: Store, *, created: datetime, progress: Progress = silent
) -> tuple[Candidate, Bundle | None]:
    """The better of the versions that can be made of the records now, judged against the champion, and that one.

    Raises `TrainingError` where the records are not fit to train on, and what reading and storing raise.
    """
    champion = _champion(settings, store)
    data = gather(settings, broker, now_ms=round(created.timestamp() * 1000), progress=progress)
    labels, cleaned = list[Labelled](), Cleaned(data.columns, {}, 0.0, 0.0)
    if champion is not None:  # before it nothing was told, and nobody could judge
        _require_usable(data)
        labels = labelled(broker, settings)
        cleaned = _cleaned(settings, broker, data, labels, champion)
    data = data._replace(columns=cleaned.columns)
    starts = [None, *_starts(settings, store, champion)]
    candidates = list(_candidates(data, settings, created, starts, cleaned, labels, champion, progress))
    return min(candidates, key=_rank), champion


def _champion(settings: DetectorSettings, store: Store) -> Bundle | None:
    """The version in service, as long as it serves the settings: one of others cannot be compared with."""
    if (version := store.champion()) is None:
        return None
    try:
        bundle = store.load(version)
        bundle.require_fit(settings)
    except BundleError as error:
        log.warning("the version in service is no yardstick", reason=str(error))
        return None
    return bundle


def _require_usable(data: TrainingData) -> None:
    dropped = {reason: count for reason, count in data.dropped.items() if reason != PASSED_OVER}
    if (share := sum(dropped.values()) / (sum(dropped.values()) + len(data.columns))) > UNUSABLE:
        told = ", ".join(f"{count} {reason}" for reason, count in dropped.items())
        raise TrainingError(f"{share:.1%} of the records are unusable ({told}). Expected at most {UNUSABLE:.0%}.")


def _cleaned(
    settings: DetectorSettings,
    broker: Broker,
    data: TrainingData,
    labels: Sequence[Labelled],
    champion: Bundle,
) -> Cleaned:
    """The records that are fit to train on. Raises `TrainingError` where they show a fault, or are contaminated."""
    if found := faults(champion.manifest.profile, profile(data.columns, champion.encoder.features)):
        raise TrainingError(
            f"the records are not as they were: {_named(found)}. Where that is so for good, train a version with "
            "`offnominal train` and promote it."
        )
    spans = _spans(settings, broker, labels)
    cleaned = clean(data.columns, spans, Surprise(champion, settings).nats(data.columns))
    if cleaned.contamination > CONTAMINATED:
        raise TrainingError(
            f"{cleaned.contamination:.1%} of the records are less likely than {SUSPECT:g} to version "
            f"{champion.version}, scattered among others: they look contaminated. Expected at most {CONTAMINATED:.0%}."
        )
    if len(cleaned.columns) < settings.training.min_records:
        raise NotEnoughRows(
            f"{len(cleaned.columns)} records are left to train on ({cleaned.left_out}). "
            f"Expected at least training.min_records = {settings.training.min_records}."
        )
    return cleaned


def _spans(settings: DetectorSettings, broker: Broker, labels: Sequence[Labelled]) -> Spans:
    """When entities were inside incidents, by their alerts and by what people said of them."""
    by_label = {label: {it.incident for it in labels if it.label == label} for label in ("false_alarm", "confirmed")}
    spans = incident_spans(_alerts(settings, broker), normal=by_label["false_alarm"], abnormal=by_label["confirmed"])
    for confirmed in (it for it in labels if it.label == "confirmed"):
        spans.setdefault(confirmed.entity, []).append((confirmed.begin_ms, confirmed.end_ms))
    return spans


def _named(found: Sequence[str]) -> str:
    more = f" (and {len(found) - MOST_NAMED} more)" if len(found) > MOST_NAMED else ""
    return "; ".join(found[:MOST_NAMED]) + more


def _alerts(settings: DetectorSettings, broker: Broker) -> Iterator[Alert]:
    try:
        for batch in broker.read([settings.alerts.topic], Window(records=ALERTS)):
            for value in batch.values:
                try:
                    yield Alert.model_validate_json(value or b"")
                except ValidationError:
                    continue
    except TopicMissing:
        return


def _starts(settings: DetectorSettings, store: Store, champion: Bundle | None) -> Iterator[Bundle]:
    """Versions that models may go on from."""
    if champion is not None:
        if settings.training.warm_start:
            yield champion
    elif (other := settings.training.transfer) is not None:
        library = Store(settings.store.url, other)
        if (version := library.champion()) is None:
            raise TrainingError(f"training.transfer: the store holds no version of '{other}'.")
        yield library.load(version)


def _candidates(
    data: TrainingData,
    settings: DetectorSettings,
    created: datetime,
    starts: Sequence[Bundle | None],
    cleaned: Cleaned,
    labels: Sequence[Labelled],
    champion: Bundle | None,
    progress: Progress,
) -> Iterator[Candidate]:
    """A version for each start that models can go on from."""
    _, calibrating = split_by_time(data.columns.time, settings.training.calibration_share)
    recent = _recent(data.columns.take(np.sort(calibrating)), champion)
    for start in starts:
        try:
            bundle = train(data, settings, created=created, start=start, cleaned=cleaned.left_out, progress=progress)
        except TrainingError as error:
            if start is None or settings.training.transfer:
                raise
            log.warning("models cannot go on from the version in service", reason=str(error))
            continue
        yield Candidate(bundle, _gate(bundle, champion, recent, settings, cleaned, labels))


def _recent(calibrating: Columns, champion: Bundle | None) -> Columns:
    """Records that neither version was fitted on. Raises `TrainingError` where the champion has seen nearly all."""
    seen_ms = champion.manifest.data.fitted_to_ms if champion else None
    recent = calibrating if seen_ms is None else calibrating.take(calibrating.time > seen_ms)
    if champion and len(recent) < LEAST_RECENT:
        raise TrainingError(
            f"{len(recent)} of the {len(calibrating)} records that calibrate are newer than what version "
            f"{champion.version} was fitted on. Expected at least {LEAST_RECENT} to compare the two on."
        )
    return recent


def _gate(
    bundle: Bundle,
    champion: Bundle | None,
    recent: Columns,
    settings: DetectorSettings,
    cleaned: Cleaned,
    labels: Sequence[Labelled],
) -> Judgement:
    verdict = bundle.manifest.verdict
    figures = {
        "promised rate": verdict.promised_rate,
        "realised rate": verdict.realised_rate,
        "contamination": round(cleaned.contamination, 5),
        "changed": round(cleaned.changed, 5),
        **{f"left out {reason}": count for reason, count in cleaned.left_out.items()},
    }
    if champion is None:
        return Judgement(list(verdict.reasons), figures)
    examples = _examples(bundle, settings, labels)
    told = compare(bundle, champion, recent, settings, changed=cleaned.changed > 0, examples=examples)
    return Judgement([*verdict.reasons, *told.reasons], figures | told.figures)


def _examples(bundle: Bundle, settings: DetectorSettings, labels: Sequence[Labelled]) -> list[Columns]:
    """The records of confirmed incidents, as far as they were kept and can still be decoded."""
    schema = fields(bundle.encoder.features, settings.stream.entity, settings.stream.timestamp, settings.segment)
    decode = decoder(schema, settings.stream.format, settings.stream.registry).decode
    decoded = (decode(it.records)[0] for it in labels if it.label == "confirmed" and len(it.records))
    return [columns for columns in decoded if len(columns)]


def _rank(candidate: Candidate) -> tuple[int, float]:
    """Fewest reasons against it, then the likeliest held-back rows: all see them through the same features."""
    return len(candidate.gate.reasons), sum(model.valid_score for model in candidate.bundle.manifest.models)
