from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from consumers.batch import Columns, Partition
from detector.config import FeatureSettings
from detector.entities import EntityTable, Visits
from detector.features import FeatureEncoder
from detector.parts import Previous
from detector.windows import EntityHistory

NAN = float("nan")
NOBODY = Visits(np.zeros(0, np.int64), np.zeros(0, np.bool_), np.zeros(0, np.int64), np.zeros(0, np.bool_))
PLAIN = (FeatureSettings(name="cpu"),)
ALL = (
    FeatureSettings(name="cpu", transform="log1p"),
    FeatureSettings(name="level", transform="diff"),
    FeatureSettings(name="sent", kind="counter"),
    FeatureSettings(name="route", kind="categorical"),
    FeatureSettings(name="hour", kind="calendar"),
)
Record = tuple[str, int, float, float, float, str | None]
"""Entity, time, cpu, level, sent, route."""


def columns(records: Sequence[Record]) -> Columns:
    n = len(records)
    entity, time, cpu, level, sent, route = zip(*records, strict=True) if records else ((),) * 6
    return Columns(
        row=np.arange(n),
        partitions=(Partition("t", 0),),
        partition=np.zeros(n, dtype=np.int32),
        offsets=np.arange(n),
        time=np.array(time, dtype=np.int64),
        entity=np.array(entity, dtype=object),
        numbers={
            name: np.array(values, dtype=np.float64)
            for name, values in {"cpu": cpu, "level": level, "sent": sent}.items()
        },
        texts={"route": np.array(route, dtype=object)},
    )


def cpus(*records: tuple[str, float]) -> Columns:
    return columns([(entity, 0, cpu, cpu, cpu, "a") for entity, cpu in records])


def encoder(features: Sequence[FeatureSettings] = PLAIN, window: int = 3, *, centre: float = 0.0) -> FeatureEncoder:
    """Of plain cpu it is (cpu - centre) / scale, then a mark column."""
    values = centre + np.random.default_rng(0).normal(0.0, 3.0, (40, 3)).cumsum(axis=0)
    train: list[Record] = [("x", 60_000 * i, a, b, c, "ab"[i % 2]) for i, (a, b, c) in enumerate(values.tolist())]
    return FeatureEncoder.fit(columns(train), features, window=window)


class Remembered:
    """The history of one partition and the table of its entities."""

    def __init__(self, fitted: FeatureEncoder, max_entities: int = 10) -> None:
        self.table = EntityTable(max_entities)
        self._history = EntityHistory(fitted, late_for=600.0)
        self.adopt = self._history.adopt

    def windows(self, data: Columns) -> NDArray[np.float32]:
        return self._history.windows(data, self.table.locate(data.entity) if len(data) else NOBODY)[0]


def raw(history: Remembered, fitted: FeatureEncoder, data: Columns) -> list[list[float]]:
    """Windows of the first feature in its own units, rounded."""
    part = fitted.parts[0]
    values = history.windows(data)[:, :, 0] * part.scale + part.centre
    return [[float(value) for value in window] for window in values.round(3)]


def test_a_window_leads_up_to_its_record_and_repeats_the_oldest_row_where_it_is_short() -> None:
    fitted = encoder()
    history = Remembered(fitted)
    assert raw(history, fitted, cpus(("a", 1), ("b", 5), ("a", 2))) == [[1, 1, 1], [5, 5, 5], [1, 1, 2]]
    assert raw(history, fitted, cpus(("a", 3), ("a", 4), ("b", 6))) == [[1, 2, 3], [2, 3, 4], [5, 5, 6]]
    assert len(history.table) == 2


def test_the_entity_not_seen_for_longest_is_forgotten_and_starts_afresh() -> None:
    fitted = encoder()
    history = Remembered(fitted, 2)
    raw(history, fitted, cpus(("a", 1), ("b", 2), ("a", 3)))
    assert raw(history, fitted, cpus(("c", 4), ("a", 5), ("b", 6))) == [[4, 4, 4], [1, 3, 5], [6, 6, 6]]
    assert history.table.evicted == 2
    assert len(history.table) == 2


def test_an_entity_forgotten_and_met_again_within_a_batch_starts_afresh() -> None:
    fitted = encoder()
    history = Remembered(fitted, 1)
    assert raw(history, fitted, cpus(("a", 1), ("a", 2), ("b", 3), ("a", 4), ("a", 5))) == [
        [1, 1, 1], [1, 1, 2], [3, 3, 3], [4, 4, 4], [4, 4, 5],
    ]  # fmt: skip
    assert history.table.evicted == 2


def test_an_empty_batch_gives_no_windows_and_changes_nothing() -> None:
    fitted = encoder()
    history = Remembered(fitted, 5)
    raw(history, fitted, cpus(("a", 1)))
    assert history.windows(columns([])).shape == (0, 3, fitted.layout.columns)
    assert raw(history, fitted, cpus(("a", 2))) == [[1, 1, 2]]


def test_memory_of_many_entities_survives_growing() -> None:
    fitted = encoder(window=2)
    history = Remembered(fitted, 1000)
    for size in (1, 10, 300, 1000):
        raw(history, fitted, cpus(*((f"e{i}", i % 7) for i in range(size))))
    assert raw(history, fitted, cpus(("e0", 9), ("e9", 9), ("e999", 9))) == [[0, 9], [2, 9], [5, 9]]
    assert (len(history.table), history.table.evicted) == (1000, 0)


class OneByOne:
    """The same by the letter: record after record, lists and a dictionary."""

    def __init__(self, fitted: FeatureEncoder, max_entities: int) -> None:
        self.fitted, self.max_entities, self.evicted = fitted, max_entities, 0
        self.entities: OrderedDict[str, tuple[list[NDArray[np.float32]], Record]] = OrderedDict()

    def window(self, record: Record) -> NDArray[np.float32]:
        if record[0] not in self.entities and len(self.entities) == self.max_entities:
            self.entities.popitem(last=False)
            self.evicted += 1
        rows, before = self.entities.pop(record[0], ([], ("", 0, NAN, NAN, NAN, None)))
        previous = Previous({"level": np.array([before[3]]), "sent": np.array([before[4]])}, np.array([before[1]]))
        rows = [*rows, self.fitted.encode(columns([record]), previous)[0]][-self.fitted.window :]
        self.entities[record[0]] = rows, record
        return np.stack([rows[0]] * (self.fitted.window - len(rows)) + rows)


number = st.sampled_from([NAN, 0.0, 1.0, -2.5, 7.0, 1e4, 1.7e308])
record = st.tuples(
    st.sampled_from("abcde"), st.integers(0, 5).map(lambda s: s * 700), number, number, number,
    st.sampled_from(["a", "b", "z", None]),
)  # fmt: skip
ENCODERS = {window: encoder(ALL, window) for window in (1, 2, 4)}


@settings(deadline=None)
@given(st.lists(record, min_size=1, max_size=40), st.lists(st.integers(0, 40)), st.sampled_from([1, 2, 4]), st.data())
def test_what_comes_of_a_stream_does_not_depend_on_where_batches_end(
    records: list[Record], cuts: list[int], window: int, data: st.DataObject
) -> None:
    records.sort(key=lambda record: record[1])
    max_entities = data.draw(st.integers(1, 6))
    history, reference = Remembered(ENCODERS[window], max_entities), OneByOne(ENCODERS[window], max_entities)
    edges = sorted({0, len(records), *(cut for cut in cuts if cut < len(records))})
    found = np.concatenate([history.windows(columns(records[start:stop])) for start, stop in pairwise(edges)])
    np.testing.assert_array_equal(found, np.stack([reference.window(record) for record in records]))
    assert (history.table.evicted, len(history.table)) == (reference.evicted, len(reference.entities))


def test_a_version_with_the_same_features_takes_remembered_rows_over_in_its_own_scale() -> None:
    old, new = encoder(), encoder(centre=5.0)
    assert old.parts[0].centre != new.parts[0].centre
    history = Remembered(old)
    raw(history, old, cpus(("a", 1), ("a", 2), ("b", 7)))
    history.adopt(new)
    assert raw(history, new, cpus(("a", 3), ("b", 8))) == [[1, 2, 3], [7, 7, 8]]


@pytest.mark.parametrize("window", [1, 3])
def test_adopting_an_equal_version_changes_next_to_nothing(window: int) -> None:
    fitted, again = encoder(ALL, window), encoder(ALL, window)
    records: list[Record] = [
        ("ab"[i % 2], i * 900, i * 1.5, i**1.5, i * 2.0, ["a", "b", None][i % 3]) for i in range(9)
    ]
    history, undisturbed = Remembered(fitted), Remembered(fitted, 10)
    for part in (history, undisturbed):
        part.windows(columns(records[:6]))
    history.adopt(again)
    rest = columns(records[6:])
    np.testing.assert_allclose(history.windows(rest), undisturbed.windows(rest), rtol=1e-5, atol=1e-6)


def test_remembered_categories_and_marks_find_their_column_in_another_version() -> None:
    features = (FeatureSettings(name="cpu"), FeatureSettings(name="route", kind="categorical"))

    def fit(*records: tuple[float, str | None]) -> FeatureEncoder:
        return FeatureEncoder.fit(columns([("x", 0, cpu, 0, 0, route) for cpu, route in records]), features, window=2)

    old = fit((1.0, "a"), (NAN, "b"), (2.0, "b"), (3.0, None))  # cpu, mark | b, a, unseen, missing
    new = fit((1.0, "c"), (2.0, "a"), (3.0, "a"))  # cpu | a, c, unseen | missing fields
    history = Remembered(old)
    seen: list[Record] = [(str(i), 0, cpu, 0, 0, route) for i, (cpu, route) in enumerate(
        [(2.0, "a"), (2.0, "b"), (2.0, "zebra"), (2.0, None), (NAN, "a")]
    )]  # fmt: skip
    history.windows(columns(seen))
    history.adopt(new)
    remembered = history.windows(columns(seen))[:, 0]
    np.testing.assert_array_equal(remembered[:, 1:4], np.eye(3)[[0, 2, 2, 2, 0]])
    np.testing.assert_array_equal(remembered[:, 4], [0, 0, 0, 0, 1])


def test_a_remembered_shared_mark_stays_in_the_shared_column() -> None:
    def remembered_mark(train: float) -> float:
        history = Remembered(old)
        history.windows(cpus(("a", NAN)))
        history.adopt(FeatureEncoder.fit(cpus(("x", 1.0), ("x", train)), PLAIN, window=2))
        return float(history.windows(cpus(("a", 1.0)))[0, 0, 1])

    old = FeatureEncoder.fit(cpus(("x", 1.0), ("x", 2.0)), PLAIN, window=2)
    assert remembered_mark(3.0) == 1.0
    assert remembered_mark(NAN) == 0.0  # the new version marks the field itself; whose the shared mark was is not known


def test_a_version_with_other_features_starts_windows_afresh_and_keeps_last_values() -> None:
    level = FeatureSettings(name="level", transform="diff")
    old, new = encoder((FeatureSettings(name="cpu"), level)), encoder((level,))
    history = Remembered(old)
    history.windows(cpus(("a", 1), ("a", 2)))
    history.adopt(new)
    assert raw(history, new, cpus(("a", 5))) == [[3, 3, 3]]
    assert raw(history, new, cpus(("a", 6))) == [[3, 3, 1]]


def test_a_version_with_another_window_starts_windows_afresh() -> None:
    old, new = encoder(window=1), encoder(window=2)
    history = Remembered(old)
    raw(history, old, cpus(("a", 1)))
    history.adopt(new)
    assert raw(history, new, cpus(("a", 2), ("a", 3))) == [[2, 2], [2, 3]]
