from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import timedelta
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis
from hypothesis import strategies as st
from numpy.typing import NDArray

from consumers.decode import JsonDecoder
from consumers.stream import Window
from detector.alerts import Alert
from detector.bundle import Bundle
from detector.entities import EntityTable, Visits
from detector.features import FeatureEncoder, fields
from detector.incidents import Again, Decided, Record
from detector.late import judged_again, told_again
from detector.pipeline import Outcome, Pipeline
from detector.windows import LATE, EntityHistory
from tests.detector.lateness import LATE_FOR, MINUTE, NAN, Feed, OneByOne, Row, columns, encoder, streams
from tests.detector.machines import TOPIC, broker_with, records, settings, trained


def seen_as(fitted: FeatureEncoder, windows: NDArray[np.float32]) -> list[list[int]]:
    """Windows of cpu alone, in its own units."""
    part = fitted.parts[0]
    return [[int(v) for v in window] for window in (windows[:, :, 0] * part.scale + part.centre).round().tolist()]


def at(*minutes: int, entity: str = "a") -> list[Row]:
    """Records of one entity, with the minute as cpu too."""
    return [Row(entity, minute, minute) for minute in minutes]


FITTED = {(window, changes): encoder(window, changes=changes) for window in (1, 2, 4) for changes in (False, True)}


def test_a_window_is_what_led_up_to_its_record_in_time() -> None:
    fitted = encoder(3)
    x, late = Feed(fitted).take(at(1, 2, 4, 3, 5))
    assert seen_as(fitted, x) == [[1, 1, 1], [1, 1, 2], [1, 2, 4], [1, 2, 3], [3, 4, 5]]
    assert late.rows.tolist() == [False, False, False, True, False]


def test_records_at_one_time_stand_as_they_came_and_none_is_late() -> None:
    fitted = encoder(3)
    x, late = Feed(fitted).take([Row("a", 5, 1), Row("a", 5, 2), Row("a", 4, 3), Row("a", 5, 4)])
    assert seen_as(fitted, x) == [[1, 1, 1], [1, 1, 2], [3, 3, 3], [1, 2, 4]]
    assert late.rows.tolist() == [False, False, True, False]


def test_records_that_a_late_one_leads_up_to_are_to_be_scored_again() -> None:
    fitted = encoder(3)
    feed = Feed(fitted)
    feed.take(at(1, 2, 4))
    _, late = feed.take(at(5, 6, 3))
    assert seen_as(fitted, late.x) == [[2, 3, 4], [3, 4, 5]]
    assert (late.cause.tolist(), late.offset.tolist()) == ([2, 2], [2, 3])


def test_a_late_record_changes_the_windows_of_its_own_entity_alone() -> None:
    _, late = Feed(encoder(2)).take([*at(1, 3), *at(1, 3, entity="b"), *at(2)])
    assert late.offset.tolist() == [1]


def test_changes_are_since_the_predecessor_in_time() -> None:
    fitted = encoder(1, changes=True)
    part = fitted.parts[2]
    x = Feed(fitted).take([Row("a", 1, 10.0), Row("a", 5, 50.0), Row("a", 2, 12.0), Row("a", 6, 51.0)])[0]
    assert (x[1:, 0, 2] * part.scale + part.centre).round(2).tolist() == [40.0, 2.0, 1.0]


def test_a_record_that_many_have_overtaken_still_has_its_whole_window() -> None:
    fitted = encoder(3)
    feed = Feed(fitted)
    feed.take([Row("a", minute, number) for number, minute in enumerate([*range(10), *range(11, 11 + LATE)])])
    assert seen_as(fitted, feed.take([Row("a", 10, 77)])[0]) == [[8, 9, 77]]


def test_a_record_older_than_all_that_are_remembered_stands_alone_and_is_forgotten() -> None:
    fitted = encoder(3)
    feed = Feed(fitted)
    feed.take([Row("a", 100 + i // 2, 100 + i) for i in range(30)])
    x, late = feed.take([Row("a", 107, 7)])
    assert seen_as(fitted, x) == [[7, 7, 7]]
    assert late.rows.all()
    assert not len(late.x)
    assert seen_as(fitted, feed.take([Row("a", 107, 8)])[0]) == [[8, 8, 8]]


@pytest.mark.parametrize(("overtaken", "again"), [(LATE, 2), (LATE + 1, 0)])
def test_a_record_that_too_many_have_overtaken_changes_nothing(overtaken: int, again: int) -> None:
    feed = Feed(encoder(3))
    feed.take(at(*range(30)))
    assert len(feed.take(at(29 - overtaken))[1].x) == again


def test_one_time_from_the_far_future_makes_nothing_after_it_late_and_leads_up_to_nothing() -> None:
    fitted = encoder(3)
    x, late = Feed(fitted).take([*at(1, 2), Row("a", 10**9, 77), *at(3, 4, 5)])
    assert seen_as(fitted, x[2:]) == [[1, 2, 77], [1, 2, 3], [2, 3, 4], [3, 4, 5]]
    assert not late.rows.any()


def test_a_clock_set_back_starts_afresh() -> None:
    fitted = encoder(3)
    x, late = Feed(fitted).take(at(501, 502, 503, 41, 42, 43))
    assert seen_as(fitted, x[3:]) == [[41, 41, 41], [41, 41, 42], [41, 42, 43]]
    assert not late.rows.any()


@pytest.mark.parametrize(("behind", "late"), [(LATE_FOR, True), (LATE_FOR + 1, False)])
def test_a_record_is_late_up_to_the_time_that_is_set(behind: int, late: bool) -> None:
    assert Feed(encoder(2)).take(at(100, 100 - behind))[1].rows[1] == late


def test_an_entity_is_not_late_for_the_one_that_had_its_place() -> None:
    fitted = encoder(2)
    x, late = Feed(fitted, max_entities=1).take([*at(5, 6), *at(1, entity="b"), *at(4)])
    assert seen_as(fitted, x) == [[5, 5], [5, 6], [1, 1], [4, 4]]
    assert not late.rows.any()


def test_another_version_takes_over_the_order_of_time_in_its_own_scale() -> None:
    old, new = encoder(3), encoder(3, centre=50.0)
    feed = Feed(old)
    feed.take(at(1, 2, 4))
    feed.history.adopt(new)
    x, late = feed.take(at(3))
    assert seen_as(new, x) == [[1, 2, 3]]
    assert seen_as(new, late.x) == [[2, 3, 4]]


def test_rows_of_a_version_with_another_window_are_in_no_window_but_their_times_count() -> None:
    old, new = encoder(2), encoder(3)
    feed = Feed(old)
    feed.take(at(1, 2, 4))
    feed.history.adopt(new)
    x, late = feed.take(at(3, 5, 6))
    assert seen_as(new, x) == [[3, 3, 3], [5, 5, 5], [5, 5, 6]]
    assert late.rows.tolist() == [True, False, False]
    assert not len(late.x)


def test_nothing_is_kept_of_who_was_forgotten() -> None:
    feed = Feed(encoder(3), max_entities=1)
    feed.take([*at(1, 2, 3), *at(4, entity="b")])
    state = feed.history.to_state(np.array([0]))
    assert state["known"].tolist() == [1]
    assert not any(state[name][0, 1:].any() for name in ("time", "offset", "rows"))


def test_some_entities_go_on_with_what_was_remembered_of_them() -> None:
    fitted = encoder(3)
    feed, whole = Feed(fitted), EntityHistory(fitted, LATE_FOR * 60)
    first = [row for at_ in (1, 2, 4) for entity in "abc" for row in at(at_, entity=entity)]
    feed.take(first)
    whole.windows(columns(first), EntityTable(10).locate(columns(first).entity))
    part = EntityHistory(fitted, LATE_FOR * 60)
    part.restore(feed.history.to_state(np.array([0, 2])))
    late = columns([*at(3, entity="c"), *at(5, entity="a")], len(first))
    nobody = np.zeros(2, np.bool_)
    expected = whole.windows(late, Visits(np.array([2, 0]), nobody, np.array([1, 0]), nobody))
    found = part.windows(late, Visits(np.array([1, 0]), nobody, np.array([1, 0]), nobody))
    np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_array_equal(found[1].x, expected[1].x)
    assert len(found[1].x) == 1


cpus = st.sampled_from([NAN, 0.0, 1.0, -2.5, 70.0, 1.7e308])


@hypothesis(deadline=None)
@given(streams(cpu=cpus), st.lists(st.integers(0, 60)), st.sampled_from([*FITTED]), st.integers(1, 3))
def test_any_split_into_batches_and_any_restart_give_what_one_record_at_a_time_gives(
    rows: list[Row], cuts: list[int], kind: tuple[int, bool], max_entities: int
) -> None:
    feed, expected = Feed(FITTED[kind], max_entities), OneByOne(FITTED[kind], max_entities)
    edges = sorted({0, len(rows), *(cut for cut in cuts if cut < len(rows))})
    found = []
    for start, stop in pairwise(edges):
        found.append(feed.take(rows[start:stop]))
        feed.restart()
    for row in rows:
        expected.take(row)
    np.testing.assert_array_equal(np.concatenate([x for x, _ in found]), np.stack(expected.windows))
    assert [late for _, part in found for late in part.rows.tolist()] == expected.late
    again = [
        (start + cause, offset)
        for (_, late), start in zip(found, edges, strict=False)
        for cause, offset in zip(late.cause.tolist(), late.offset.tolist(), strict=True)
    ]
    assert again == expected.again
    for window, right in zip([window for _, late in found for window in late.x], expected.again_windows, strict=True):
        np.testing.assert_array_equal(window, right)


def test_what_is_scored_again_is_judged_by_the_level_as_it_was_at_the_late_record() -> None:
    causes = Decided(
        static_nats=np.array([3.0, 3.0, np.nan]),
        nats=np.array([2.0, 2.0, 0.0]),
        level=np.array([6.0, 6.0, 0.0]),
        static_level=np.array([10.0, 10.0, 0.0]),
        scale=np.array([2.0, 2.0, np.nan]),
        alarm=np.array([True, False, False]),
        elevated=np.array([True, False, False]),
        drift=np.ones(3, np.uint8),
        model=np.array(["gmm"] * 3, object),
        rank=np.zeros(3, np.int64),
    )
    found = judged_again(causes, np.array([16.0, -20.0, 5.0]), np.array(["vae"] * 3, object))
    assert found.nats.tolist() == pytest.approx([9.0, 0.0, NAN], nan_ok=True)
    assert (found.static_nats.tolist(), found.model.tolist()) == ([16.0, -20.0, 5.0], ["vae"] * 3)
    assert (found.level.tolist(), found.rank[0]) == ([6.0, 6.0, 0.0], 1)
    assert not (found.alarm | found.elevated | found.drift.astype(np.bool_)).any()


def test_what_is_told_again_has_the_fields_that_it_was_told_with() -> None:
    again = Again(
        Record(50, 4 * MINUTE, {"cpu": 9.0, "sent": 9.0, "level": NAN}, {"route": None}),
        np.empty((0, 0), np.float32),
        100,
    )
    found = told_again(columns([Row("a", 3, 2.0)], 100), [again])
    assert (found.offsets.tolist(), (found.time // MINUTE).tolist(), found.entity.tolist()) == ([50], [4], ["a"])
    assert (found.numbers["cpu"].tolist(), found.texts["route"].tolist()) == ([9.0], [None])


ODD = {number: {"cpu": 5.0, "load": 10.0} for number in range(120, 132, 3)}
"""Machine m0 is far off at its records 40 to 43."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("late")


@pytest.fixture(scope="module")
def bundle(folder: Path) -> Bundle:
    return trained(folder)


def stream(*delayed: tuple[int, int], odd: Mapping[int, Mapping[str, object]] = ODD) -> list[bytes]:
    """400 records; each of the pairs takes what is at one place then to another."""
    values = records(400, seed=1, odd=odd)
    for place, to in delayed:
        values.insert(to, values.pop(place))
    return values


def judged(folder: Path, bundle: Bundle, values: list[bytes], size: int = 10_000) -> list[Outcome]:
    (batch,) = broker_with(values).read([TOPIC], Window())
    data, _ = JsonDecoder(fields(bundle.encoder.features, "machine", "ts")).decode(batch)
    pipeline = Pipeline(settings(folder), bundle)
    return [pipeline.judge(data.take(slice(start, start + size))) for start in range(0, len(data), size)]


def told_of(outcomes: list[Outcome]) -> list[Alert]:
    """The alerts of the incident of the machine that is far off."""
    found = [alert for outcome in outcomes for alert in outcome.alerts]
    opening = next(alert for alert in found if alert.kind == "opened" and alert.source.offset >= 117)
    return [alert for alert in found if alert.incident == opening.incident]


def test_an_amended_alert_says_what_the_alert_would_have_said_of_records_in_order(folder: Path, bundle: Bundle) -> None:
    opened, *_ = told_of(judged(folder, bundle, stream()))
    wrong, amended, *_ = told_of(judged(folder, bundle, stream((117, 121))))
    assert (wrong.kind, amended.kind) == ("opened", "amended")
    assert (amended.source, amended.time, amended.entity) == (wrong.source, wrong.time, "m0")
    right, before, after = (-math.log(alert.static_p_value or 1.0) for alert in (opened, wrong, amended))
    assert after == pytest.approx(right, abs=1e-3)
    assert abs(before - right) > 0.01
    assert [(it.feature, it.observed) for it in amended.reasons] == [(it.feature, it.observed) for it in opened.reasons]


def test_a_late_record_that_moves_the_opening_back_belongs_to_the_same_incident(folder: Path, bundle: Bundle) -> None:
    opened, *amended = told_of(judged(folder, bundle, stream((117, 121), odd={117: ODD[120], **ODD})))
    assert [alert.kind for alert in amended[:2]] == ["amended", "amended"]
    assert [alert.source.offset for alert in amended[:2]] == [121, opened.source.offset]
    assert {alert.opened for alert in amended} == {opened.opened - timedelta(minutes=1)}


def test_each_amendment_has_an_id_of_its_own(folder: Path, bundle: Bundle) -> None:
    found = told_of(judged(folder, bundle, stream((114, 122), (116, 122))))
    assert [alert.kind for alert in found].count("amended") >= 2
    assert len({alert.id for alert in found}) == len(found)


@pytest.mark.parametrize("size", [1, 7, 60])
def test_amendments_do_not_depend_on_where_batches_end(folder: Path, bundle: Bundle, size: int) -> None:
    values = stream((117, 121), (123, 128))
    whole, parts = told_of(judged(folder, bundle, values)), told_of(judged(folder, bundle, values, size))
    assert "amended" in {alert.kind for alert in whole}
    assert [alert.id for alert in parts] == [alert.id for alert in whole]
    for one, other in zip(parts, whole, strict=True):
        assert one.score == pytest.approx(other.score, rel=1e-4)
        assert [reason.feature for reason in one.reasons] == [reason.feature for reason in other.reasons]


def test_records_that_are_scored_again_count_once(folder: Path, bundle: Bundle) -> None:
    (outcome,) = judged(folder, bundle, stream((117, 121)))
    assert len(outcome.columns) == len(outcome.promised) == len(outcome.decided.nats) == 400
    assert outcome.columns.offsets.tolist() == [*range(400)]


def test_the_level_tells_how_it_came_from_one_scale_to_the_other(folder: Path, bundle: Bundle) -> None:
    (outcome,) = judged(folder, bundle, stream())
    again = judged_again(outcome.decided, outcome.decided.static_nats, outcome.decided.model)
    np.testing.assert_allclose(again.nats, outcome.decided.nats, rtol=1e-9, atol=1e-9)
