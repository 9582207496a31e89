from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from consumers.batch import Columns, Partition, Schema
from detector.config import FeatureKind, FeatureSettings
from detector.entities import EntityTable
from detector.errors import TrainingError
from detector.features import FeatureEncoder, FeatureReason, fields
from detector.parts import CLIP, MAX_RARE
from detector.windows import EntityHistory
from models.base import Block

NAN = float("nan")
MINUTE = 60_000


def columns(
    numbers: Mapping[str, Sequence[float]] | None = None,
    texts: Mapping[str, Sequence[str | None]] | None = None,
    *,
    time: Sequence[int] | None = None,
    entity: Sequence[str] | None = None,
    partition: Sequence[int] | None = None,
) -> Columns:
    n = len(next(iter([*(numbers or {}).values(), *(texts or {}).values(), *([time] if time else [])])))
    return Columns(
        row=np.arange(n),
        partitions=tuple(Partition("t", number) for number in range(max(partition or [0]) + 1)),
        partition=np.array(partition or [0] * n, dtype=np.int32),
        offsets=np.arange(n),
        time=np.array(time if time is not None else np.arange(n) * 1000, dtype=np.int64),
        entity=np.array(entity or [""] * n, dtype=object),
        numbers={name: np.array(values, dtype=np.float64) for name, values in (numbers or {}).items()},
        texts={name: np.array(values, dtype=object) for name, values in (texts or {}).items()},
    )


def feature(name: str, kind: FeatureKind = "numeric", transform: Any = None) -> FeatureSettings:
    return FeatureSettings(name=name, kind=kind, transform=transform)


def fit(data: Columns, *features: FeatureSettings, time_zone: str = "UTC") -> FeatureEncoder:
    return FeatureEncoder.fit(data, features, window=1, time_zone=time_zone)


def encoded(encoder: FeatureEncoder, data: Columns) -> NDArray[np.float32]:
    return EntityHistory(encoder, late_for=600.0).windows(data, EntityTable(100).locate(data.entity))[0][:, -1]


def reasons(
    encoder: FeatureEncoder,
    data: Columns,
    x: NDArray[np.float32],
    share: NDArray[np.float32],
    expected: NDArray[np.float32],
) -> list[list[FeatureReason]]:
    """All reasons of each record."""
    shares = encoder.shares(data, share)
    return encoder.reasons(data, x, encoder.likeliest(expected), shares, np.ones(shares.shape, np.bool_))


def reason(
    encoder: FeatureEncoder, data: Columns, expected: NDArray[np.float32], share: Sequence[float] | None = None
) -> list[FeatureReason]:
    """All reasons of a single record; shares are equal where none are given."""
    d = encoder.layout.columns
    shares = np.array([share if share is not None else [1 / d] * d], dtype=np.float32)
    return reasons(encoder, data, encoded(encoder, data), shares, expected.reshape(1, d))[0]


def test_a_normal_column_is_scaled_to_unit_variance() -> None:
    values = np.random.default_rng(0).normal(50.0, 7.0, 10_000)
    data = columns({"cpu": values.tolist()})
    x = encoded(fit(data, feature("cpu")), data)[:, 0]
    assert np.median(x) == pytest.approx(0.0, abs=1e-6)
    assert x.std() == pytest.approx(1.0, abs=0.03)


def test_a_heavy_tail_widens_the_scale() -> None:
    values = [0.0] * 97 + [1000.0] * 3
    encoder = fit(columns({"cpu": values}), feature("cpu"))
    assert encoder.parts[0].scale == pytest.approx(0.3 * np.std(values))


@pytest.mark.parametrize(("constant", "scale"), [(0.0, 1.0), (0.1, 1e-5), (-5e6, 500.0), (1e300, 1e296)])
def test_a_column_without_variance_is_scaled_by_its_size(constant: float, scale: float) -> None:
    data = columns({"cpu": [constant] * 1000})
    encoder = fit(data, feature("cpu"))
    assert encoder.parts[0].scale == pytest.approx(scale)
    assert not encoded(encoder, data).any()


def test_a_small_variance_on_a_large_offset_is_variance() -> None:
    data = columns({"cpu": (1e9 + np.random.default_rng(0).normal(size=1000)).tolist()})
    assert fit(data, feature("cpu")).parts[0].scale == pytest.approx(1.0, abs=0.1)


def test_extreme_numbers_end_at_the_clip() -> None:
    encoder = fit(columns({"cpu": [1.0, 2.0, 3.0, 4.0]}), feature("cpu"))
    x = encoded(encoder, columns({"cpu": [1.7e308, -1.7e308, np.inf, -np.inf]}))
    assert x[:, 0].tolist() == [CLIP, -CLIP, CLIP, -CLIP]


@pytest.mark.parametrize(
    ("kind", "transform"),
    [("numeric", None), ("numeric", "log1p"), ("numeric", "diff"), ("counter", None), ("counter", "log1p")],
)
def test_training_on_extreme_numbers_gives_finite_columns(kind: FeatureKind, transform: str | None) -> None:
    data = columns({"cpu": [1.7e308, -1.7e308, 5e-324, 0.0, 1.0, np.inf, -np.inf, NAN, 1.7e308, 2.0, 1.0]})
    encoder = fit(data, feature("cpu", kind, transform))
    assert np.isfinite(encoder.parts[0].scale)
    assert np.isfinite(encoded(encoder, data)).all()


def test_log1p_is_odd_and_inverted_in_reasons() -> None:
    data = columns({"bytes": [-100.0, -1.0, 0.0, 1.0, 100.0]})
    encoder = fit(data, feature("bytes", transform="log1p"))
    x = encoded(encoder, data)[:, 0]
    np.testing.assert_array_equal(x, -x[::-1])
    for row, value in enumerate([-100.0, -1.0, 0.0, 1.0, 100.0]):
        found = reason(encoder, data.take(slice(row, row + 1)), np.array([x[row], 0.0], dtype=np.float32))[0]
        assert found.observed == value
        assert found.expected == pytest.approx(value, rel=1e-5)


def test_a_difference_is_to_the_previous_record_of_the_same_entity() -> None:
    data = columns({"level": [10.0, 100.0, 11.0, 103.0, 13.0]}, entity=["a", "b", "a", "b", "a"])
    encoder = fit(data, feature("level", transform="diff"))
    scale, centre = encoder.parts[0].scale, encoder.parts[0].centre
    assert centre == 2.0  # of 1, 3 and 2
    x = encoded(encoder, data)
    np.testing.assert_allclose(x[:, 0] * scale + centre, [2.0, 2.0, 1.0, 3.0, 2.0], rtol=1e-6)
    assert not x[:, 1].any()  # a first record has no difference, but nothing is missing in it


def test_training_does_not_mix_partitions() -> None:
    data = columns({"level": [0.0, 100.0, 1.0, 103.0, 2.0, 109.0, 118.0]}, partition=[0, 1, 0, 1, 0, 1, 1])
    assert fit(data, feature("level", transform="diff")).parts[0].centre == 3.0  # of 1, 1, 3, 6, 9


def test_a_counter_is_a_rate_and_a_reset_counts_from_zero() -> None:
    encoder = fit(columns({"requests": [0.0, 10.0, 30.0, 60.0]}), feature("requests", "counter"))
    scale, centre = encoder.parts[0].scale, encoder.parts[0].centre
    data = columns({"requests": [100.0, 140.0, 30.0, 50.0, 70.0]}, time=[0, 2000, 4000, 4000, 5000])
    x = encoded(encoder, data)[:, 0] * scale + centre
    np.testing.assert_allclose(x, [centre, 20.0, 15.0, centre, 20.0], rtol=1e-6)


def test_a_known_missing_field_is_imputed_and_marked() -> None:
    encoder = fit(columns({"cpu": [1.0, NAN, 3.0, 8.0]}), feature("cpu"))
    assert encoder.layout.blocks == (Block("cpu", "numeric"), Block("cpu", "binary"))
    np.testing.assert_array_equal(encoded(encoder, columns({"cpu": [NAN, 3.0]})), [[0.0, 1.0], [0.0, 0.0]])


def test_a_field_that_never_was_missing_is_told_of_in_the_shared_column() -> None:
    train = columns({"cpu": [1.0, 2.0], "ok": [1.0, 1.0], "disk": [1.0, NAN]})
    encoder = fit(train, feature("cpu"), feature("ok", "flag"), feature("disk"))
    assert [block.feature for block in encoder.layout.blocks] == ["cpu", "ok", "disk", "disk", "missing fields"]
    data = columns({"cpu": [NAN, 1.5, 1.5], "ok": [1.0, NAN, 1.0], "disk": [1.0, 1.0, NAN]})
    np.testing.assert_array_equal(encoded(encoder, data)[:, 3:], [[0, 1], [0, 1], [1, 0]])
    assert encoded(encoder, data)[1, 1] == 1.0  # imputed by the more frequent value


def test_categories_have_a_column_each_and_unseen_values_their_own() -> None:
    encoder = fit(columns(texts={"route": ["b", "a", "b"]}), feature("route", "categorical"))
    assert encoder.layout.blocks == (Block("route", "categorical", 3),)
    x = encoded(encoder, columns(texts={"route": ["b", "a", "zebra", None]}))
    np.testing.assert_array_equal(x, np.eye(3)[[0, 1, 2, 2]])


def test_a_missing_category_has_a_column_where_training_had_it() -> None:
    encoder = fit(columns(texts={"route": ["a", None, "a"]}), feature("route", "categorical"))
    x = encoded(encoder, columns(texts={"route": ["a", "zebra", None]}))
    np.testing.assert_array_equal(x, np.eye(3))


def test_rare_categories_beyond_64_share_a_column() -> None:
    names: list[str | None] = [f"c{index:02}" for index in range(70)]
    encoder = fit(columns(texts={"route": names[:64] * 2 + names[64:]}), feature("route", "categorical"))
    assert encoder.layout.columns == 64 + 1 + 1
    x = encoded(encoder, columns(texts={"route": ["c63", "c64", "c69", "zebra"]}))
    assert x.argmax(axis=1).tolist() == [63, 64, 64, 65]


def many_routes(rare: int) -> FeatureEncoder:
    """Fitted on 64 frequent routes, f00 to f63, and as many rarer ones as told, r0 onwards."""
    names = [f"f{index:02}" for index in range(64)] * 2 + [f"r{index}" for index in range(rare)]
    return fit(columns(texts={"route": names}), feature("route", "categorical"))


def test_rare_categories_up_to_the_limit_are_told_from_values_never_seen() -> None:
    x = encoded(many_routes(MAX_RARE), columns(texts={"route": ["f63", f"r{MAX_RARE - 1}", "zebra", None]}))
    np.testing.assert_array_equal(x, np.eye(66)[[63, 64, 65, 65]])


def test_beyond_the_limit_of_rare_categories_every_infrequent_value_is_one_of_them() -> None:
    encoder = many_routes(MAX_RARE + 1)
    data = columns(texts={"route": ["f63", "r0", "zebra", None]})
    x = encoded(encoder, data)
    np.testing.assert_array_equal(x, np.eye(66)[[63, 64, 64, 65]])
    found = reason(encoder, data.take(slice(0, 1)), x[1])[0]
    assert (found.observed, found.expected) == ("f63", "other")


def test_rare_categories_beyond_the_limit_leave_the_state_small() -> None:
    encoder = many_routes(MAX_RARE + 1)
    state, arrays = encoder.to_state()
    written = json.dumps(state)
    assert len(written) < 2000
    assert FeatureEncoder.from_state(json.loads(written), arrays) == encoder


def test_categories_are_carried_over_when_the_limit_of_rare_ones_is_crossed() -> None:
    few, many = many_routes(2), many_routes(MAX_RARE + 1)  # f00 to f63, rarer, unseen
    data = columns(texts={"route": ["f63", "r0", "zebra"]})
    np.testing.assert_array_equal(many.carried(few, encoded(few, data)), encoded(many, data))
    missing = columns(texts={"route": ["f63", "r0", None]})
    np.testing.assert_array_equal(few.carried(many, encoded(many, missing)), encoded(few, missing))
    np.testing.assert_array_equal(many.carried(many, encoded(many, missing)), encoded(many, missing))


def test_calendar_features_go_by_the_clock_of_the_time_zone() -> None:
    winter, summer = 1_767_225_600_000, 1_782_864_000_000  # 2026-01-01 (Thursday) and 2026-07-01 (Wednesday), 00:00 UTC
    data = columns(time=[winter + 23 * 60 * MINUTE + 30 * MINUTE, summer + 12 * 60 * MINUTE])
    encoder = fit(data, feature("hour", "calendar"), feature("weekday", "calendar"), time_zone="Europe/Berlin")
    assert encoder.layout.blocks == (Block("hour", "numeric", 2), Block("weekday", "numeric", 2))
    angles = 2 * np.pi * np.array([0.5 / 24, 14 / 24])
    x = encoded(encoder, data)
    np.testing.assert_allclose(x[:, :2], np.stack([np.sin(angles), np.cos(angles)], axis=1), atol=1e-6)
    found = reasons(encoder, data, x, np.full((2, 4), 0.25, np.float32), x[::-1])
    assert [(r.feature, r.observed, r.expected) for r in found[0]] == [
        ("hour", 0.5, 14.0),
        ("weekday", "Friday", "Wednesday"),
    ]


@pytest.mark.parametrize(
    ("kind", "transform", "data"),
    [
        ("numeric", None, columns({"f": [NAN, NAN]})),
        ("numeric", None, columns({"f": [np.inf, NAN]})),
        ("numeric", "diff", columns({"f": [1.0, 2.0]}, entity=["a", "b"])),
        ("counter", None, columns({"f": [1.0, 2.0]}, time=[5, 5])),
        ("flag", None, columns({"f": [NAN, NAN]})),
        ("categorical", None, columns(texts={"f": [None, None]})),
    ],
)
def test_a_feature_without_values_is_refused_by_name(kind: FeatureKind, transform: str | None, data: Columns) -> None:
    with pytest.raises(TrainingError, match=r"'f' \(\w+\) has no usable value in 2 training records"):
        fit(data, feature("f", kind, transform))


def mixed() -> tuple[Columns, FeatureEncoder]:
    data = columns(
        {"cpu": [1.0, 2.0, 3.0, 9.0], "ok": [1.0, 1.0, 0.0, 1.0], "disk": [5.0, NAN, 7.0, 6.0], "sent": [1, 2, 4, 9]},
        {"route": ["a", "b", "a", "a"]},
    )
    features = [feature("cpu"), feature("ok", "flag"), feature("disk"), feature("sent", "counter")]
    return data, fit(data, *features, feature("route", "categorical"), feature("hour", "calendar"))


def test_the_fields_to_decode_are_known_before_and_after_fitting() -> None:
    _, encoder = mixed()
    schema = Schema(("cpu", "ok", "disk", "sent"), ("route",), "host", "ts")
    assert fields(encoder.features, "host", "ts") == schema


def test_an_encoder_comes_back_whole_from_its_state() -> None:
    data, encoder = mixed()
    state, arrays = encoder.to_state()
    again = FeatureEncoder.from_state(json.loads(json.dumps(state)), arrays)
    assert again == encoder
    np.testing.assert_array_equal(encoded(again, data), encoded(encoder, data))


def test_encoding_leaves_its_input_untouched() -> None:
    data, encoder = mixed()
    before = {name: column.copy() for name, column in data.numbers.items()}
    encoded(encoder, data)
    for name, column in before.items():
        np.testing.assert_array_equal(data.numbers[name], column)


def test_reasons_are_in_the_users_units_and_sum_to_one() -> None:
    data, encoder = mixed()
    x, d = encoded(encoder, data), encoder.layout.columns
    share = np.random.default_rng(0).dirichlet(np.ones(d), len(data)).astype(np.float32)
    told = reasons(encoder, data, x, share, x[[1, 2, 0, 2]])
    for row, found in enumerate(told):
        assert {reason.feature for reason in found} == {"cpu", "ok", "disk", "sent", "route", "hour"}
        assert sum(reason.share for reason in found) == pytest.approx(1.0, abs=1e-6)
        assert [r.share for r in found] == sorted((r.share for r in found), reverse=True)
        by_name = {reason.feature: reason for reason in found}
        assert by_name["cpu"].observed == data.numbers["cpu"][row]
        assert by_name["ok"].observed is bool(data.numbers["ok"][row])
        assert by_name["route"].observed == data.texts["route"][row]
    first = {r.feature: r for r in told[0]}
    assert first["cpu"].expected == pytest.approx(2.0)
    assert first["ok"].expected is True
    assert first["route"].expected == "b"
    assert first["disk"].expected is None  # the model expected it to be missing


def test_only_chosen_features_are_reasons_weightiest_first() -> None:
    data, encoder = mixed()
    shares = np.tile([0.1, 0.2, 0.3, 0.0, 0.1, 0.3], (4, 1))
    chosen = np.tile([True, False, True, False, True, False], (4, 1))
    x = encoded(encoder, data)
    found = encoder.reasons(data, x, x, shares, chosen)
    assert [[part.feature for part in parts] for parts in found] == [["disk", "cpu", "route"]] * 4


def test_a_number_beyond_the_clip_is_told_as_reported() -> None:
    encoder = fit(columns({"cpu": [1.0, 2.0, 3.0]}), feature("cpu"))
    assert reason(encoder, columns({"cpu": [1e12]}), np.zeros(2, dtype=np.float32))[0].observed == 1e12


def test_a_change_is_told_as_it_was_scored() -> None:
    encoder = fit(columns({"sent": [0.0, 10.0, 30.0, 60.0]}), feature("sent", "counter"))
    data = columns({"sent": [0.0, 25.0]})
    share, expected = np.full((2, 2), 0.5, np.float32), np.zeros((2, 2), np.float32)
    found = reasons(encoder, data, encoded(encoder, data), share, expected)
    assert found[1][0].observed == pytest.approx(25.0)
    assert found[1][0].expected == pytest.approx(20.0)


def test_an_unseen_category_is_told_by_its_value() -> None:
    encoder = fit(columns(texts={"route": ["a", "b", "a"]}), feature("route", "categorical"))
    expected = np.array([0.5, 0.2, 0.9], dtype=np.float32)  # "unseen" is no answer to what was expected
    share = [0.25, 0.25, 0.5]
    assert reason(encoder, columns(texts={"route": ["zebra"]}), expected, share) == [
        FeatureReason("route", "zebra", "a", 1.0)
    ]


def test_the_share_of_missing_fields_goes_to_those_that_are_missing() -> None:
    encoder = fit(
        columns({"a": [1.0, 2.0], "b": [3.0, 3.0], "c": [5.0, 6.0]}), feature("a"), feature("b"), feature("c")
    )
    data, expected = columns({"a": [1.0], "b": [NAN], "c": [NAN]}), np.zeros(4, dtype=np.float32)
    assert reason(encoder, data, expected, [0.125, 0.0, 0.125, 0.75]) == [
        FeatureReason("c", None, 5.5, 0.5),
        FeatureReason("b", None, 3.0, 0.375),
        FeatureReason("a", 1.0, 1.5, 0.125),
    ]


def test_shares_sum_to_one_when_no_missing_field_explains_the_shared_column() -> None:
    encoder = fit(columns({"a": [1.0, 2.0], "b": [3.0, NAN]}), feature("a"), feature("b"))
    found = reason(encoder, columns({"a": [1.0], "b": [NAN]}), np.zeros(4, np.float32), [0.0, 0.25, 0.25, 0.5])
    assert {r.feature: r.share for r in found} == {"a": 0.5, "b": 0.5}


def test_columns_of_a_record_do_not_depend_on_how_memory_is_laid_out() -> None:
    values = np.random.default_rng(0).lognormal(3.0, 4.0, (201, 3))
    data = columns({"a": values[:, 0].tolist()})
    strided = Columns(**{name: getattr(data, name) for name in data.__slots__} | {"numbers": {"a": values[:, 0]}})
    encoder = fit(data, feature("a", transform="log1p"))
    alone = [encoded(encoder, data.take(slice(row, row + 1))) for row in range(len(data))]
    np.testing.assert_array_equal(encoded(encoder, strided), np.concatenate(alone))


def test_the_likeliest_record_reports_what_is_told_as_expected() -> None:
    data, encoder = mixed()
    d = encoder.layout.columns
    expected = np.random.default_rng(0).normal(0.4, 0.6, (200, d)).astype(np.float32)
    likeliest = encoder.likeliest(expected)
    told = reasons(
        encoder, data.take(np.zeros(200, np.intp)), likeliest, np.full((200, d), 1 / d, np.float32), expected
    )
    by_name: list[dict[str, Any]] = [{part.feature: part.expected for part in parts} for parts in told]
    reported = columns(
        {name: [NAN if row[name] is None else row[name] for row in by_name] for name in ("cpu", "ok", "disk")},
        {"route": [row["route"] for row in by_name]},
    )
    numbers = {**reported.numbers, "sent": np.zeros(200)}
    again = encoded(
        encoder, Columns(**{name: getattr(reported, name) for name in reported.__slots__} | {"numbers": numbers})
    )
    there = [index for index, block in enumerate(_owners(encoder)) if block in ("cpu", "ok", "disk", "route")]
    np.testing.assert_allclose(again[:, there], likeliest[:, there], atol=1e-5)
    np.testing.assert_array_equal(encoder.likeliest(likeliest), likeliest)
    assert {row["disk"] is None for row in by_name} == {True, False}


def _owners(encoder: FeatureEncoder) -> list[str]:
    """The feature of each column."""
    return [block.feature for block in encoder.layout.blocks for _ in range(block.width)]


def test_a_likeliest_time_is_a_minute_of_the_day() -> None:
    data = columns(time=[0, 3_600_000])
    encoder = fit(data, feature("hour", "calendar"))
    near = encoded(encoder, data) * np.float32(0.3) + np.float32(1e-3)
    np.testing.assert_allclose(encoder.likeliest(near), encoded(encoder, columns(time=[60_000, 3_660_000])), atol=1e-6)


def test_chosen_features_are_replaced_with_their_marks_and_others_left() -> None:
    data, encoder = mixed()
    x = encoded(encoder, data)
    other, owners, chosen = x[::-1], np.array(_owners(encoder)), np.zeros((4, 6), np.bool_)
    chosen[0, [0, 4]] = chosen[1, 2] = True
    replaced = encoder.replaced(data, x, other, chosen)
    np.testing.assert_array_equal(replaced[2:], x[2:])
    for row, names in ((0, ["cpu", "route"]), (1, ["disk"])):
        np.testing.assert_array_equal(replaced[row], np.where(np.isin(owners, names), other[row], x[row]))


def test_a_shared_mark_stays_until_the_last_missing_field_is_replaced() -> None:
    encoder = fit(columns({"a": [1.0, 2.0], "b": [3.0, 4.0], "c": [5.0, 6.0]}), *map(feature, "abc"))
    data = columns({"a": [NAN] * 4, "b": [NAN] * 4, "c": [5.0] * 4})
    x = encoded(encoder, data)
    chosen = np.array([[False, False, True], [True, False, True], [False, True, False], [True, True, False]])
    assert encoder.replaced(data, x, np.zeros_like(x), chosen)[:, -1].tolist() == [1.0, 1.0, 1.0, 0.0]


@pytest.mark.parametrize(
    ("direction", "minimum", "counting"),
    [
        ("both", None, [-30.0, -5.0, 0.0, 5.0, 30.0]),
        ("up", None, [0.0, 5.0, 30.0]),
        ("down", None, [-30.0, -5.0, 0.0]),
        ("both", 6.0, [-30.0, 30.0]),
        ("up", 5.0, [5.0, 30.0]),
    ],
)
@pytest.mark.parametrize("transform", [None, "log1p"])
def test_deviations_count_by_direction_and_size_in_the_users_units(
    direction: Any, minimum: float | None, counting: list[float], transform: Any
) -> None:
    settings = FeatureSettings(name="cpu", transform=transform, direction=direction, minimum_deviation=minimum)
    encoder = fit(columns({"cpu": np.linspace(40.0, 160.0, 500).tolist()}), settings)
    away = np.array([-30.0, -5.0, 0.0, 5.0, 30.0])
    observed, expected = (columns({"cpu": (64.0 + by).tolist()}) for by in (away * 1.00001, 0.0 * away))
    counts = encoder.counts(encoded(encoder, observed), encoded(encoder, expected))
    assert away[counts[:, 0]].tolist() == counting
    assert counts[:, 1:].all()
    assert encoder.restricted.tolist() == ([] if direction == "both" and minimum is None else [0])


@pytest.mark.parametrize("transform", [None, "log1p"])
def test_a_deviation_of_the_minimum_is_told_from_a_smaller_one_where_the_feature_hardly_ever_moves(
    transform: Any,
) -> None:
    settings = FeatureSettings(name="cpu", transform=transform, minimum_deviation=50.0)
    encoder = fit(columns({"cpu": [100.0] * 500}), settings)
    x = encoded(encoder, columns({"cpu": [149.9, 150.1, 50.1, 49.9, 1e9, 100.0]}))
    assert encoder.counts(x, np.zeros_like(x))[:, 0].tolist() == [False, True, False, True, True, False]


NUMBERS = st.lists(st.none() | st.integers(-1_000, 1_000).map(float) | st.floats(-1e6, 1e6), min_size=1, max_size=20)


@settings(deadline=None)
@given(values=NUMBERS, transform=st.sampled_from([None, "log1p"]))
def test_decoding_gives_numbers_and_missing_fields_back(values: list[float | None], transform: str | None) -> None:
    given_ = np.array([NAN, 1.0] + [NAN if value is None else value for value in values])
    data = columns({"bytes": given_.tolist()})
    encoder = fit(data, feature("bytes", transform=transform))
    found = encoder.decode(encoded(encoder, data))["bytes"]
    bearable = 1e-5 * encoder.parts[0].scale * (1.0 + np.abs(given_) if transform else 1.0) + 1e-9
    assert (np.isnan(found) == np.isnan(given_)).all()
    assert np.nan_to_num(np.abs(found - given_) <= bearable, nan=1.0)[~np.isnan(given_)].all()


@settings(deadline=None)
@given(values=st.lists(st.sampled_from(["GET", "PUT", "a b", None]), max_size=30), flags=st.lists(st.booleans()))
def test_decoding_gives_categories_and_flags_back(values: list[str | None], flags: list[bool]) -> None:
    texts = ["GET", None, *values]
    numbers = [float(flag) for flag in (*flags, *([True] * len(texts)))][: len(texts)]
    data = columns({"up": [NAN, *numbers[1:]]}, {"method": texts})
    encoder = fit(data, feature("up", "flag"), feature("method", "categorical"))
    found = encoder.decode(encoded(encoder, data))
    assert found["method"].tolist() == texts
    assert np.isnan(found["up"][0])
    assert found["up"][1:].tolist() == numbers[1:]


def test_decoding_a_rarer_category_gives_one_that_is_encoded_alike() -> None:
    names = [f"c{number:03d}" for number in range(70) for _ in range(70 - number)]
    data = columns(texts={"zone": names})
    encoder = fit(data, feature("zone", "categorical"))
    x = encoded(encoder, columns(texts={"zone": ["c069"]}))
    assert encoder.decode(x)["zone"].tolist() == ["c064"]
    np.testing.assert_array_equal(encoded(encoder, columns(texts={"zone": ["c064"]})), x)
    many = fit(columns(texts={"zone": [f"c{n}" for n in range(MAX_RARE + 100)]}), feature("zone", "categorical"))
    x = encoded(many, columns(texts={"zone": ["anything"]}))
    np.testing.assert_array_equal(encoded(many, columns(texts={"zone": many.decode(x)["zone"].tolist()})), x)


def test_decoding_never_gives_a_category_that_was_not_seen() -> None:
    encoder = fit(columns(texts={"method": ["GET", "PUT", "GET"]}), feature("method", "categorical"))
    assert encoder.decode(np.array([[0.1, 0.2, 0.7]], np.float32))["method"].tolist() == ["PUT"]


def test_decoding_changes_gives_rates_and_differences() -> None:
    data = columns({"sent": [0.0, 5.0, 25.0, 5.0], "level": [1.0, 3.0, 2.0, 9.0]})
    encoder = fit(data, feature("sent", "counter"), feature("level", transform="diff"))
    found = encoder.decode(encoded(encoder, data))
    np.testing.assert_allclose(found["sent"], [5.0, 5.0, 20.0, 5.0], rtol=1e-6)  # the first is not known: the usual one
    np.testing.assert_allclose(found["level"], [2.0, 2.0, -1.0, 7.0], rtol=1e-6)


def test_decoding_calendars_gives_minutes_and_days() -> None:
    data = columns(time=[1_772_323_260_000, 1_772_323_260_000 + 86_400_000 + 90 * MINUTE])
    encoder = fit(data, feature("hour", "calendar"), feature("weekday", "calendar"), time_zone="Europe/Berlin")
    found = encoder.decode(encoded(encoder, data))
    assert (found["hour"].tolist(), found["weekday"].tolist()) == ([61, 151], [6, 0])


def test_what_is_beyond_what_records_can_have_is_decoded_as_the_nearest_they_can() -> None:
    encoder = fit(columns({"cpu": [1.0, 2.0, 3.0, 4.0]}), feature("cpu"))
    found = encoder.decode(np.array([[1e6, 0.0], [CLIP, 0.0]], np.float32))["cpu"]
    assert found[0] == found[1]
