from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from consumers.batch import Columns, Partition, RawBatch
from consumers.decode import JsonDecoder
from consumers.faults import Fault, faults
from detector import novelty as module
from detector.config import FeatureSettings
from detector.features import FeatureEncoder, fields
from detector.lapses import BURST, Moment, Trouble
from detector.novelty import Finding, Novelty
from detector.novelty_rules import NoveltyBaseline, NoveltyRules
from detector.parts import Previous
from detector.snapshot import pack, unpack

FEATURES = (
    FeatureSettings(name="hour", kind="calendar"),
    FeatureSettings(name="cpu"),
    FeatureSettings(name="heat"),
    FeatureSettings(name="route", kind="categorical"),
    FeatureSettings(name="spare", kind="flag"),
    FeatureSettings(name="zone", kind="categorical"),
)
RATE = 0.003
NAN = float("nan")
Record = dict[str, Any]
"""Fields that are not as usual; `fault` makes it a faulty record."""
MISTYPED = {"fault": (("cpu",), "string", "number")}
NO_FEATURES = {"fault": (("cpu", "heat", "route", "spare", "zone"), None, None)}
NO_ENTITY = {"fault": (("machine",), None, None)}


def columns(records: Sequence[Record], start: int = 0) -> Columns:
    """Those of the records that are not faulty; offsets count from `start`, and time is a second a record."""
    offsets = [start + place for place, record in enumerate(records) if "fault" not in record]
    sound = [record for record in records if "fault" not in record]
    n = len(sound)

    def field(name: str, usual: object, kind: type) -> NDArray[Any]:
        return np.array([record.get(name, usual) for record in sound], dtype=kind)

    return Columns(
        row=np.arange(n),
        partitions=(Partition("t", 0),),
        partition=np.zeros(n, np.int32),
        offsets=np.array(offsets, np.int64),
        time=np.array(offsets, np.int64) * 1000,
        entity=np.array([f"m{offset % 3}" for offset in offsets], object),
        numbers={
            "cpu": field("cpu", 0.5, float),
            "heat": field("heat", 20.0, float),
            "spare": field("spare", 0, float),
        },
        texts={"route": field("route", "/", object), "zone": field("zone", "north", object)},
    )


def faulty(records: Sequence[Record], start: int = 0) -> list[Fault]:
    return [
        Fault(start + place, 1000 * (start + place), *record["fault"])
        for place, record in enumerate(records)
        if "fault" in record
    ]


def training(n: int, **changed: Sequence[object]) -> Columns:
    """Records of which `spare` is missing every third time, route and zone change in turn, and numbers are noise."""
    noise = np.random.default_rng(0).normal(size=(n, 2))
    routes, zones = ("/", "/", "/", "/login"), ("north", "south", None)
    return columns(
        [
            {
                "cpu": noise[row, 0],
                "heat": noise[row, 1],
                "route": routes[row % 4],
                "spare": 1.0 if row % 3 else NAN,
                "zone": zones[row % 3],
                **{name: values[row] for name, values in changed.items() if values[row] is not ...},
            }
            for row in range(n)
        ]
    )


def fitted(fit: Columns, later: Columns, rate: float = RATE) -> tuple[FeatureEncoder, NoveltyRules]:
    encoder = FeatureEncoder.fit(fit, FEATURES, window=1)
    baseline = NoveltyBaseline.fit(encoder, fit, later)
    again = NoveltyBaseline.model_validate_json(baseline.model_dump_json())
    return encoder, NoveltyRules(encoder, again, rate=rate, entity="machine")


@cache
def usual() -> tuple[FeatureEncoder, NoveltyRules]:
    return fitted(training(3_000), training(1_000))


@cache
def generous() -> tuple[FeatureEncoder, NoveltyRules]:
    """With room for a finding of each kind in 50 records."""
    return fitted(training(3_000), training(1_000), rate=0.06)


class Watch:
    """A novelty fed with records; numbers them on, and collects fields and offsets of rows that lack them."""

    def __init__(self, trained: tuple[FeatureEncoder, NoveltyRules] | None = None) -> None:
        self.encoder, rules = trained or usual()
        self.novelty = Novelty(rules)
        self.next = 0
        self.gone: list[tuple[str, int]] = []

    def feed(self, records: Sequence[Record]) -> list[Finding]:
        part = columns(records, self.next)
        x = self.encoder.encode(part, Previous({}, part.time))
        found = self.novelty.update(part, x, faulty(records, self.next))
        self.next += len(records)
        self.gone += [(field, offset) for field, rows in found.gone.items() for offset in part.offsets[rows].tolist()]
        return found.findings


def told(findings: Sequence[Finding]) -> list[tuple[str, str, object, int]]:
    """Kind (with `over` where it is), field, what was observed, and offset."""
    return [(f.kind + (" over" if f.resolved else ""), f.field, f.observed, f.at.offset) for f in findings]


def test_usual_records_tell_nothing() -> None:
    assert Watch().feed([{}, {"route": "/login"}, {"zone": None}, {"spare": NAN}] * 100) == []


def test_a_new_category_is_told_once_with_its_entity_and_what_is_usual() -> None:
    found = Watch().feed([{}, {"route": "/admin"}, {}, {"route": "/admin"}])
    assert found == [Finding("unseen_category", False, "route", "/admin", "/", "m1", Moment(1, 1000), Moment(1, 1000))]


def test_the_same_word_in_two_features_is_new_twice() -> None:
    assert told(Watch().feed([{"route": "x"}, {"zone": "x"}])) == [
        ("unseen_category", "route", "x", 0),
        ("unseen_category", "zone", "x", 1),
    ]


def test_a_category_that_only_calibration_records_have_is_not_new() -> None:
    later = [... if row % 100 else "/late" for row in range(1_000)]
    assert Watch(fitted(training(3_000), training(1_000, route=later))).feed([{"route": "/late"}]) == []


def test_a_missing_category_is_not_a_new_one() -> None:
    assert Watch().feed([{}, {"route": None}, {}]) == []


def test_a_feature_that_is_ever_new_is_not_watched_and_training_says_so() -> None:
    ids = [f"id-{row}" for row in range(3_000)]
    encoder, rules = fitted(training(3_000, route=ids), training(1_000))
    baseline = NoveltyBaseline.fit(encoder, training(3_000, route=ids), training(1_000))
    assert baseline.watched(RATE) == ["zone"]
    (warning,) = baseline.warnings(RATE)
    assert "'route'" in warning
    assert told(Watch((encoder, rules)).feed([{"route": "other"}, {"zone": "other"}])) == [
        ("unseen_category", "zone", "other", 1)
    ]


def test_new_values_are_expected_by_the_share_of_values_seen_once() -> None:
    routes = [f"once-{row}" if row < 30 else ... for row in range(3_000)]
    fit, later = training(3_000, route=routes), training(1_000)
    baseline = NoveltyBaseline.fit(FeatureEncoder.fit(fit, FEATURES, window=1), fit, later)
    assert baseline.new_values == {"route": 30 / 4_000, "zone": 0.0}


def test_new_values_are_expected_by_first_sights_in_calibration_where_those_are_more() -> None:
    routes = [f"release-{row // 250}" for row in range(1_000)]
    fit, later = training(3_000), training(1_000, route=routes)
    baseline = NoveltyBaseline.fit(FeatureEncoder.fit(fit, FEATURES, window=1), fit, later)
    assert baseline.new_values == {"route": 4 / 1_000, "zone": 0.0}


def test_of_more_categories_than_are_kept_none_is_new() -> None:
    many = [f"value-{row}" for row in range(10_100)]
    fit = training(10_100, route=many)
    baseline = NoveltyBaseline.fit(FeatureEncoder.fit(fit, FEATURES, window=1), fit, training(100, route=["x"] * 100))
    assert (baseline.new_values["route"], baseline.late["route"]) == (1.0, ())


def test_features_are_watched_together_only_as_far_as_the_budget_goes() -> None:
    baseline = NoveltyBaseline(missing={}, evidence={}, new_values={"a": 6e-4, "b": 5e-4, "c": 0.0}, late={})
    assert baseline.watched(RATE) == ["c", "b"]


def test_a_flood_of_new_categories_stays_within_the_budget() -> None:
    n = 20_000
    assert len(Watch().feed([{"route": f"new-{row}"} for row in range(n)])) <= BURST + n * RATE / 3


def test_a_category_without_room_is_told_when_there_is_some() -> None:
    watch = Watch()
    assert len(watch.feed([{"route": f"new-{row}"} for row in range(8)])) == BURST
    found = watch.feed([{"route": "new-7"}] * 2_000)
    assert [(f.observed, f.at.offset) for f in found] == [("new-7", 1_000)]


def test_the_category_told_first_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_TOLD", 2)
    watch = Watch()
    assert len(watch.feed([{"route": "a"}, {"route": "b"}, {"route": "a"}])) == 2
    found = watch.feed([{"route": "c"}, {"route": "b"}, {"route": "a"}])
    assert [finding.observed for finding in found] == ["c", "a"]


def test_long_categories_take_little_to_remember() -> None:
    watch = Watch()
    long = "x" * 100_000
    assert len(watch.feed([{"route": long}, {"route": long + "y"}, {"route": long}])) == 2
    assert len(json.dumps(watch.novelty.to_state())) < 1_000


def test_a_lost_field_is_told_once_and_its_return_too() -> None:
    found = Watch().feed([{}] * 50 + [{"cpu": NAN}] * 5_000 + [{}] * 5_000)
    assert [(f.kind, f.resolved, f.field, f.observed, f.entity) for f in found] == [
        ("field_missing", False, "cpu", None, ""),
        ("field_missing", True, "cpu", None, ""),
    ]
    lost, back = found
    assert 50 < lost.at.offset < 56
    assert 5_050 < back.at.offset < 5_070
    assert back.opened == lost.opened == lost.at
    assert lost.expected == pytest.approx(0.0, abs=0.1)


@pytest.mark.parametrize(("field", "expected"), [("route", "/"), ("zone", "north")])
def test_a_lost_category_is_told(field: str, expected: str) -> None:
    (lost,) = Watch().feed([{field: None}] * 100)
    assert (lost.kind, lost.field, lost.expected) == ("field_missing", field, expected)


def test_a_record_or_two_without_a_field_are_no_loss() -> None:
    assert Watch().feed(([{"cpu": NAN}] * 2 + [{}] * 20) * 20) == []


def test_a_field_that_most_records_have_lost_is_told_though_some_have_it() -> None:
    found = Watch().feed([{"cpu": NAN}, {"cpu": NAN}, {"cpu": NAN}, {}] * 500)
    assert [(f.kind, f.field) for f in found] == [("field_missing", "cpu")]


def test_a_field_that_often_is_missing_is_told_when_it_always_is() -> None:
    watch = Watch()
    assert watch.feed([{"spare": NAN}, {}, {}] * 1_000) == []
    assert told(watch.feed([{"spare": NAN}] * 100))[0][:2] == ("field_missing", "spare")


def test_stretches_without_a_field_as_long_as_in_training_are_no_loss() -> None:
    stretches = [NAN if row % 300 < 40 else 1.0 for row in range(3_000)]
    watch = Watch(fitted(training(3_000, heat=stretches), training(1_000)))
    assert watch.feed(([{"heat": NAN}] * 40 + [{}] * 260) * 10) == []
    assert [f.field for f in watch.feed([{"heat": NAN}] * 200)] == ["heat"]


def test_a_field_that_one_topic_never_has_is_no_loss_there() -> None:
    without = replace(training(100, heat=[NAN] * 100), partitions=(Partition("u", 0),))
    watch = Watch(fitted(Columns.concat([training(3_000), without]), training(1_000)))
    assert watch.feed([{"heat": NAN}] * 20_000) == []


@pytest.mark.parametrize("share", [0.0, 0.02, 0.1, 0.4])
def test_chance_takes_no_more_than_the_budget(share: float) -> None:
    n, chance = 200_000, np.random.default_rng(1)
    gaps = np.where(chance.random(20_000) < share, NAN, 1.0).tolist()
    watch = Watch(fitted(training(20_000, heat=gaps), training(1_000)))
    found = watch.feed([{"heat": NAN} if gap else {} for gap in (chance.random(n) < share).tolist()])
    assert sum(not finding.resolved for finding in found) <= n * RATE / 3


def test_fields_share_the_budget_of_their_losses() -> None:
    assert usual()[1].test(Trouble("cpu")).limit == pytest.approx(math.log(6 * 3 / RATE))


def test_fields_lost_at_the_same_record_are_told_at_the_same_record() -> None:
    watch = Watch()
    lost = watch.feed([{"cpu": NAN, "heat": NAN, "route": None}] * 100)
    assert {finding.field for finding in lost} == {"cpu", "heat", "route"}
    assert len({finding.opened for finding in lost}) == 1


def test_a_loss_without_room_is_told_as_soon_as_there_is_some() -> None:
    watch = Watch()
    losses = sum(([{"cpu": NAN}] * 30 + [{}] * 60 for _ in range(8)), list[Record]())
    assert sum(not finding.resolved for finding in watch.feed(losses)) == BURST
    (waited,) = watch.feed([{"heat": NAN}] * 5_000)
    assert (waited.field, waited.resolved) == ("heat", False)
    assert 1_000 <= waited.at.offset < 1_100
    assert min(offset for field, offset in watch.gone if field == "heat") == waited.at.offset


def test_a_loss_that_was_not_told_does_not_tell_of_its_return() -> None:
    watch = Watch()
    losses = watch.feed(sum(([{"cpu": NAN}] * 30 + [{}] * 60 for _ in range(8)), list[Record]()))
    assert sum(finding.resolved for finding in losses) == BURST


def test_a_stream_without_any_feature_left_has_lost_them_all() -> None:
    found = Watch().feed([{}] * 50 + [NO_FEATURES] * 500)
    assert {(f.kind, f.field) for f in found} == {
        ("field_missing", name) for name in ("cpu", "heat", "route", "spare", "zone")
    }


def test_a_stream_without_entities_has_lost_that_field() -> None:
    found = Watch().feed([{}] * 50 + [NO_ENTITY] * 500)
    assert [(f.kind, f.field, f.expected) for f in found] == [("field_missing", "machine", None)]


def test_a_field_of_another_type_is_told_at_its_first_record_and_once() -> None:
    found = Watch().feed([{}] * 7 + [MISTYPED] * 5_000)
    assert found == [Finding("field_type", False, "cpu", "string", "number", "", Moment(7, 7_000), Moment(7, 7_000))]


def test_a_topic_whose_numbers_turn_into_strings_raises_one_finding() -> None:
    n, schema = 2_000, fields(FEATURES, "machine", None)
    numbers = [str(row) if row >= 1_000 else row for row in range(n)]
    batch = RawBatch(
        partitions=(Partition("t", 0),),
        partition=np.zeros(n, np.int32),
        offsets=np.arange(n),
        timestamps=np.arange(n),
        keys=[None] * n,
        values=[json.dumps({"machine": "m", "cpu": cpu, "route": "/"}).encode() for cpu in numbers],
        headers=[()] * n,
    )
    encoder, rules = usual()
    part, letters = JsonDecoder(schema).decode(batch)
    (wrong,) = faults(schema, batch, letters).values()
    found = Novelty(rules).update(part, encoder.encode(part, Previous({}, part.time)), wrong).findings
    assert told([finding for finding in found if finding.field == "cpu"]) == [("field_type", "cpu", "string", 1_000)]


def test_a_field_has_its_type_again_after_a_hundred_scored_records() -> None:
    watch = Watch()
    watch.feed([MISTYPED])
    assert watch.feed([{}] * 99) == []
    assert told(watch.feed([{}, {}])) == [("field_type over", "cpu", "string", 100)]


def test_a_field_of_two_types_by_turns_is_told_once() -> None:
    assert len(Watch().feed([MISTYPED, {}, {}] * 1_000)) == 1


def test_each_type_of_a_field_is_told() -> None:
    found = Watch().feed([MISTYPED, {"fault": (("cpu",), "object", "number")}, {"fault": (("ts",), "array", "time")}])
    assert told(found) == [
        ("field_type", "cpu", "string", 0),
        ("field_type", "cpu", "object", 1),
        ("field_type", "ts", "array", 2),
    ]


def test_rows_that_lack_a_field_are_known_from_where_it_was_told() -> None:
    watch = Watch()
    (lost,) = watch.feed([{"cpu": NAN}] * 20)
    watch.feed([{"cpu": NAN}, {}, {"cpu": NAN, "heat": NAN}])
    assert watch.gone == [("cpu", offset) for offset in (*range(lost.at.offset, 21), 22)]


def test_another_version_keeps_what_is_told_and_open() -> None:
    watch = Watch()
    watch.feed([{"route": "new", "cpu": NAN}] * 50 + [MISTYPED])
    watch.novelty.adopt(fitted(training(2_000), training(500))[1])
    assert watch.feed([{"route": "new", "cpu": NAN}] * 50) == []
    assert [f.kind for f in watch.feed([{}] * 200) if f.resolved] == ["field_missing", "field_type"]


def test_another_version_that_does_not_have_a_field_forgets_it() -> None:
    watch = Watch()
    watch.feed([{"heat": NAN}] * 50)
    fit, features = training(2_000), tuple(feature for feature in FEATURES if feature.name != "heat")
    watch.encoder = FeatureEncoder.fit(fit, features, window=1)
    baseline = NoveltyBaseline.fit(watch.encoder, fit, training(500))
    watch.novelty.adopt(NoveltyRules(watch.encoder, baseline, rate=RATE, entity="machine"))
    assert watch.feed([{}] * 500) == []


def test_a_batch_without_records_tells_nothing() -> None:
    assert Watch().feed([]) == []


ODD: tuple[Record, ...] = (
    *({"cpu": NAN}, {"cpu": NAN, "heat": NAN}, {"spare": NAN}, {"route": None}, {"zone": None}),
    *({"route": "a"}, {"route": "b"}, {"zone": "a"}, {"route": "b", "zone": "c"}),
    *(MISTYPED, NO_FEATURES, NO_ENTITY, {"fault": (("cpu",), "array", "number")}),
)
stretches = st.lists(
    st.tuples(st.sampled_from(({}, *ODD)), st.sampled_from((1, 2, 5, 20, 150))), min_size=1, max_size=25
).map(lambda runs: [record for record, length in runs for _ in range(length)])


@pytest.mark.parametrize("most_told", [1, 3, 1_000])
@settings(deadline=None)
@given(records=stretches, cuts=st.lists(st.integers(0, 800), max_size=6))
def test_any_cut_into_batches_and_any_pause_tells_the_same(
    most_told: int, records: list[Record], cuts: list[int]
) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(module, "MOST_TOLD", most_told)
        whole, parts = Watch(generous()), Watch(generous())
        expected, found = whole.feed(records), list[Finding]()
        for start, stop in pairwise(sorted({0, len(records), *(cut for cut in cuts if cut < len(records))})):
            found += parts.feed(records[start:stop])
            state = unpack(pack(parts.novelty.to_state()))
            parts.novelty = Novelty(generous()[1])
            parts.novelty.restore(state)
    assert found == expected
    assert sorted(parts.gone) == sorted(whole.gone)
    assert parts.novelty.to_state() == whole.novelty.to_state()
