from __future__ import annotations

from detector.pacing import FIRST, GROWTH, Pace


def test_it_begins_small_and_grows_to_what_the_settings_allow() -> None:
    pace = Pace(16_384, longest_s=30)
    assert pace.records == FIRST
    sizes = []
    for _ in range(4):
        pace.took(pace.records, 0.1)
        sizes.append(pace.records)
    assert sizes == [GROWTH * FIRST, 16_384, 16_384, 16_384]


def test_a_slow_model_gets_batches_that_it_ends_in_time() -> None:
    pace = Pace(16_384, longest_s=30)
    pace.took(1_024, 300.0)
    assert pace.records == 102


def test_however_slow_a_record_at_a_time_goes_on() -> None:
    pace = Pace(16_384, longest_s=30)
    pace.took(1, 300.0)
    assert pace.records == 1


def test_an_empty_batch_says_nothing() -> None:
    pace = Pace(16_384, longest_s=30)
    pace.took(0, 300.0)
    assert pace.records == FIRST


def test_settings_below_the_first_batch_hold() -> None:
    assert Pace(10, longest_s=30).records == 10
