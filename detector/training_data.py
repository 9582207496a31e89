"""Records to train on, out of files or out of the topics themselves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from typing import NamedTuple

from consumers.batch import Columns, Partition, RawBatch, Schema
from consumers.decoding import decoder
from consumers.stream import Broker, Window
from detector.config import DetectorSettings, FeatureSettings
from detector.errors import NotEnoughRows
from detector.features import fields
from detector.inference import SAMPLE_RECORDS, infer_features
from models.base import Progress, silent

DEFAULT_RECORDS = 100_000


class TrainingData(NamedTuple):
    """Decoded records, what features they have, where they end, and how many were left out by reason."""

    columns: Columns
    features: Sequence[FeatureSettings]
    ends: dict[Partition, int]
    dropped: Mapping[str, int]


def gather(settings: DetectorSettings, broker: Broker, *, now_ms: int, progress: Progress = silent) -> TrainingData:
    """The records that `settings.training` names. Raises `NotEnoughRows` where they are too few."""
    data = _from_files(settings) if settings.training.files else _from_topics(settings, broker, now_ms, progress)
    if len(data.columns) < settings.training.min_records:
        origin = ", ".join(settings.training.files or settings.stream.topics)
        raise NotEnoughRows(
            f"{len(data.columns)} usable records in {origin}{_left_out(data.dropped)}. "
            f"Expected at least training.min_records = {settings.training.min_records}."
        )
    return data


def training_window(settings: DetectorSettings, now_ms: int) -> Window:
    """The stretch of the topics to train on."""
    if settings.training.window is not None:
        return Window(since_ms=now_ms - round(settings.training.window * 1000))
    return Window(records=settings.training.records or DEFAULT_RECORDS)


def _from_files(settings: DetectorSettings) -> TrainingData:
    from detector.files import read_files, sample_files  # brings polars, which training on topics does without

    patterns = settings.training.files
    features = _features(settings, lambda: sample_files(patterns, SAMPLE_RECORDS))
    columns, dropped = read_files(patterns, _schema(settings, features))
    return TrainingData(columns, features, {}, {"unusable": dropped} if dropped else {})


def _from_topics(settings: DetectorSettings, broker: Broker, now_ms: int, progress: Progress) -> TrainingData:
    batches: list[RawBatch] = []
    window = training_window(settings, now_ms)
    for batch in broker.read(settings.stream.topics, window):
        batches.append(batch)
        read = sum(map(len, batches))
        progress(min(1.0, read / (window.records or read or 1)), f"{read:,} records read")
    if (found := sum(map(len, batches))) < settings.training.min_records:
        raise NotEnoughRows(
            f"Topics {', '.join(settings.stream.topics)} hold {found} records in the training window. "
            f"Expected at least training.min_records = {settings.training.min_records}."
        )
    features = _features(settings, lambda: list(islice((v for b in batches for v in b.values), SAMPLE_RECORDS)))
    decode = decoder(_schema(settings, features), settings.stream.format, settings.stream.registry).decode
    decoded = [decode(batch) for batch in batches]
    ends = {partition: end for batch in batches for partition, end in batch.ends.items()}
    dropped = Counter(str(letter.reason) for _, letters in decoded for letter in letters)
    return TrainingData(Columns.concat([columns for columns, _ in decoded]), features, ends, dropped)


def _schema(settings: DetectorSettings, features: Sequence[FeatureSettings]) -> Schema:
    return fields(features, settings.stream.entity, settings.stream.timestamp, settings.segment)


def _features(settings: DetectorSettings, sample: Callable[[], list[bytes | None]]) -> Sequence[FeatureSettings]:
    if settings.features != "auto":
        return settings.features
    return infer_features(sample(), settings.stream.entity, settings.stream.timestamp)


def _left_out(dropped: Mapping[str, int]) -> str:
    return f" (left out: {', '.join(f'{count} {reason}' for reason, count in dropped.items())})" if dropped else ""
