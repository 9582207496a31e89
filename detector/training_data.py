"""Records to train on, out of files or out of the topics themselves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain, count, islice
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
STRETCHES = 16
"""Where there are more records than are to be held in memory, they are held in at least so many stretches."""
PASSED_OVER = "passed over"
"""Records of the window that were read, but not kept, as there were more than `training.max_records`."""


class TrainingData(NamedTuple):
    """Decoded records, what features they have, where they end, and how many were left out by reason: those that cannot
    be scored, and those passed over (`PASSED_OVER`) for want of memory."""

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
    from detector.files import read_one_by_one, sample_files  # brings polars, which training on topics does without

    patterns = settings.training.files
    features = _features(settings, lambda: sample_files(patterns, SAMPLE_RECORDS))
    stretches, unusable = _Stretches(settings.training.max_records), 0
    for columns, dropped in read_one_by_one(patterns, _schema(settings, features)):
        stretches.add(columns)
        unusable += dropped
    return TrainingData(
        Columns.concat(stretches.kept), features, {}, Counter(unusable=unusable) + stretches.passed_over
    )


def _from_topics(settings: DetectorSettings, broker: Broker, now_ms: int, progress: Progress) -> TrainingData:
    window, read = training_window(settings, now_ms), 0
    stretches, ends, dropped = _Stretches(settings.training.max_records), dict[Partition, int](), Counter[str]()
    batches = broker.read(settings.stream.topics, window)
    first = _sample(batches)
    if (found := sum(map(len, first))) < settings.training.min_records and found < SAMPLE_RECORDS:
        raise NotEnoughRows(
            f"Topics {', '.join(settings.stream.topics)} hold {found} records in the training window. "
            f"Expected at least training.min_records = {settings.training.min_records}."
        )
    features = _features(settings, lambda: list(islice((v for b in first for v in b.values), SAMPLE_RECORDS)))
    decode = decoder(_schema(settings, features), settings.stream.format, settings.stream.registry).decode
    for batch in chain(first, batches):
        columns, letters = decode(batch)
        stretches.add(columns)
        ends |= batch.ends
        dropped.update(str(letter.reason) for letter in letters)
        read += len(batch)
        progress(min(1.0, read / (window.records or read or 1)), f"{read:,} records read")
    return TrainingData(Columns.concat(stretches.kept), features, ends, dropped + stretches.passed_over)


class _Stretches:
    """Records in the order in which they were read, at most so many. Where there are more, of the older three quarters
    every second stretch is kept, or every fourth, and so on; the newest are kept whole, as they calibrate. What follows
    one another stays together, as windows need it."""

    def __init__(self, most: int) -> None:
        self.passed_over = Counter[str]()
        self._most, self._size = most, max(1, most // STRETCHES)
        self._numbered: list[tuple[int, Columns]] = []
        self._number = count()
        self._every = 1

    @property
    def kept(self) -> list[Columns]:
        return [columns for _, columns in self._numbered]

    def add(self, columns: Columns) -> None:
        """Takes in the next records."""
        for start in range(0, len(columns), self._size):
            self._numbered.append((next(self._number), columns.take(slice(start, start + self._size))))
            while sum(map(len, self.kept)) > self._most:
                self._thin()

    def _thin(self) -> None:
        newest = len(self._numbered) * 3 // 4
        gone = [columns for number, columns in self._numbered[:newest] if number % self._every]
        if not gone:
            self._every *= 2
            return
        self.passed_over[PASSED_OVER] += sum(map(len, gone))
        older = [(number, columns) for number, columns in self._numbered[:newest] if number % self._every == 0]
        self._numbered = older + self._numbered[newest:]


def _sample(batches: Iterator[RawBatch]) -> list[RawBatch]:
    """The first batches, with enough records to tell features by, as far as there are so many."""
    first: list[RawBatch] = []
    while sum(map(len, first)) < SAMPLE_RECORDS and (batch := next(batches, None)) is not None:
        first.append(batch)
    return first


def _schema(settings: DetectorSettings, features: Sequence[FeatureSettings]) -> Schema:
    return fields(features, settings.stream.entity, settings.stream.timestamp, settings.segment)


def _features(settings: DetectorSettings, sample: Callable[[], list[bytes | None]]) -> Sequence[FeatureSettings]:
    if settings.features != "auto":
        return settings.features
    return infer_features(sample(), settings.stream.entity, settings.stream.timestamp)


def _left_out(dropped: Mapping[str, int]) -> str:
    return f" (left out: {', '.join(f'{count} {reason}' for reason, count in dropped.items())})" if dropped else ""
