from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from numpy.typing import NDArray

from consumers.batch import DeadLetter, Moved, Partition, RawBatch
from detector.config_service import DeadLetterSettings
from detector.poison import SPAN, Arrived, PoisonWatch, refusal

P = Partition("machines", 0)


def limits(ratio: float | None = None, consecutive: int | None = None) -> DeadLetterSettings:
    return DeadLetterSettings(max_invalid_ratio=ratio, max_consecutive=consecutive)


def arrived(invalid: Sequence[bool] | NDArray[np.bool_], start: int = 0) -> Arrived:
    """Records at every second offset; every third of the invalid ones is empty, the others malformed."""
    invalid = np.array(invalid, np.bool_)
    offsets = start + 2 * np.arange(len(invalid))
    bad = offsets[invalid].tolist()
    reasons = ["empty" if offset % 3 == 0 else "malformed" for offset in bad]
    return Arrived(offsets, invalid, reasons, [f"error at {offset}." for offset in bad])


def told(
    invalid: Sequence[bool] | NDArray[np.bool_], chosen: DeadLetterSettings, cuts: Sequence[int] = ()
) -> str | None:
    """The first that is told of records that come cut at these places."""
    watch, bounds = PoisonWatch(chosen), [0, *cuts, len(invalid)]
    parts = [arrived(invalid[start:stop], 2 * start) for start, stop in pairwise(bounds) if stop > start]
    return next(filter(None, map(watch.update, parts)), None)


def breach(invalid: NDArray[np.bool_], chosen: DeadLetterSettings) -> int | None:
    """The record at which there are too many, by counting at each."""
    run = 0
    for row, bad in enumerate(invalid.tolist()):
        run = run + 1 if bad else 0
        if chosen.max_consecutive is not None and run > chosen.max_consecutive:
            return row
        share = invalid[max(0, row + 1 - SPAN) : row + 1].sum() / SPAN
        judged = row + 1 == SPAN or (row + 1 > SPAN and bad)
        if judged and chosen.max_invalid_ratio is not None and share > chosen.max_invalid_ratio:
            return row
    return None


def test_a_run_as_long_as_the_limit_goes_through_and_one_more_does_not() -> None:
    assert told([True] * 5, limits(consecutive=5)) is None
    assert told([*[True] * 5, False, *[True] * 5], limits(consecutive=5)) is None
    assert told([False, *[True] * 6], limits(consecutive=5)) is not None


def test_a_share_at_the_limit_goes_through_and_more_does_not() -> None:
    half = np.arange(5_000) % 2 == 0
    assert told(half, limits(ratio=0.5)) is None
    more = half.copy()
    more[3_001] = True
    assert told(more, limits(ratio=0.5)) is not None


def test_there_is_no_verdict_on_a_share_before_a_thousand_records() -> None:
    assert told([True] * 999, limits(ratio=0.1)) is None
    assert told([*[True] * 999, False], limits(ratio=0.1)) is not None


def test_once_they_have_stopped_coming_it_is_too_late_to_stop_for_them() -> None:
    watch = PoisonWatch(limits(ratio=0.1))
    assert watch.update(arrived([True] * 1_000)) is not None
    assert watch.update(arrived([False] * 300, 2_000)) is None
    assert watch.update(arrived([False, True], 2_600)) is not None


def test_without_limits_anything_goes_through() -> None:
    assert told([True] * 10_000, limits()) is None


@pytest.mark.parametrize("seed", range(40))
def test_it_is_told_at_the_very_record_wherever_batches_end(seed: int) -> None:
    chance = np.random.default_rng(seed)
    shares = np.repeat(chance.choice([0.01, 0.3, 0.55, 0.97], 30), 120)
    invalid = chance.random(len(shares)) < shares
    chosen = limits(*[(0.5, None), (None, 60), (0.6, 150), (0.35, 1_000)][seed % 4])
    cuts = sorted(chance.integers(0, len(invalid), 12).tolist())
    row = breach(invalid, chosen)
    whole = told(invalid, chosen)
    assert whole == told(invalid, chosen, cuts) == told(invalid, chosen, range(1, len(invalid)))
    assert (whole is None) == (row is None)
    if row is not None:
        assert whole == told(invalid[: row + 1], chosen)
        assert told(invalid[:row], chosen) is None


@pytest.mark.parametrize("seed", range(8))
def test_a_state_goes_on_as_if_nothing_had_been(seed: int) -> None:
    chance = np.random.default_rng(seed)
    invalid = chance.random(3_000) < np.repeat([0.3, 0.9, 0.2], 1_000)
    chosen = limits(0.6, 30)
    at = int(chance.integers(1, 3_000))
    whole, before = PoisonWatch(chosen), PoisonWatch(chosen)
    for watch in (whole, before):
        watch.update(arrived(invalid[:at]))
    after = PoisonWatch(chosen)
    after.restore(before.to_state())
    rest = arrived([*invalid[at:], *[True] * 40], 2 * at)
    assert after.update(rest) == whole.update(rest) is not None
    ends = [{**watch.to_state(), "recent": watch.to_state()["recent"].tolist()} for watch in (whole, after)]
    assert ends[0] == ends[1]


@pytest.mark.parametrize("part", ["recent", "run", "began", "error"])
def test_every_part_of_the_state_counts(part: str) -> None:
    chosen, first = limits(0.5, 700), arrived([False, *[True] * 649])
    rest = arrived([*[False] * 350, *[True] * 900] if part in ("recent", "error") else [True] * 60, 1_300)
    watch, nothing = PoisonWatch(chosen), PoisonWatch(chosen).to_state()
    watch.update(first)
    changed = PoisonWatch(chosen)
    changed.restore({**watch.to_state(), part: nothing[part]})
    assert changed.update(rest) != watch.update(rest)


def test_a_run_is_told_with_its_offsets_its_reason_and_what_to_do() -> None:
    wrong = told([*[False] * 10, *[True] * 40], limits(consecutive=20), cuts=[15]) or ""
    assert "21 records in a row, offsets 20 to 60, cannot be scored" in wrong
    assert "at most dead_letters.max_consecutive = 20" in wrong
    assert "most frequent reason is malformed (14 of the last 31 records)" in wrong
    assert "newest error: error at 60." in wrong
    assert "raise dead_letters.max_consecutive for a while, or set it to null" in wrong


def test_a_share_is_told_with_its_count_and_its_setting() -> None:
    wrong = told([*[True] * 501, *[False] * 499], limits(ratio=0.5), cuts=[600]) or ""
    assert "501 of the last 1,000 records, up to offset 1998, cannot be scored" in wrong
    assert "at most dead_letters.max_invalid_ratio = 0.5" in wrong
    assert "newest error: error at 1000." in wrong


def batch(n: int, *, moved: dict[Partition, Moved] | None = None) -> RawBatch:
    """n records of each of two partitions, from offset 100 on."""
    return RawBatch(
        partitions=(P, Partition("machines", 1)),
        partition=np.repeat(np.arange(2, dtype=np.int32), n),
        offsets=np.tile(np.arange(100, 100 + n), 2),
        timestamps=np.zeros(2 * n, np.int64),
        keys=[None] * 2 * n,
        values=[b""] * 2 * n,
        headers=[()] * 2 * n,
        moved=moved or {},
    )


def test_partitions_are_counted_apart_whatever_the_order_of_the_letters() -> None:
    watches = {Partition("machines", number): PoisonWatch(limits(consecutive=3)) for number in range(2)}
    three_each = [DeadLetter(row, "empty", "nothing") for row in (12, 0, 2, 10, 1, 11)]
    assert refusal(batch(10), three_each, watches.__getitem__) is None
    assert watches[P].to_state()["run"] == 0
    four = [DeadLetter(row, "empty", "nothing") for row in range(16, 20)]
    wrong = refusal(batch(10), four, watches.__getitem__) or ""
    assert wrong.startswith("machines[1]: 4 records in a row, offsets 106 to 109,")
    assert "machines[0]" not in wrong


def test_a_batch_that_could_not_be_decoded_counts_as_one_record_in_its_place() -> None:
    moved = {P: Moved(102, 104, "undecodable"), Partition("machines", 1): Moved(0, 100, "retention")}
    came = batch(6, moved=moved)
    came = came.take(~((came.partition == 0) & (came.offsets >= 102) & (came.offsets < 104)))
    came = replace(came, moved=moved)
    letters = [DeadLetter(row, "empty", "nothing") for row in (1, 2)]
    watches = {Partition("machines", number): PoisonWatch(limits(consecutive=2)) for number in range(2)}
    wrong = refusal(came, letters, watches.__getitem__) or ""
    assert "3 records in a row, offsets 101 to 104," in wrong
    assert watches[Partition("machines", 1)].to_state()["run"] == 0


def test_a_stream_of_which_nothing_can_be_decoded_is_refused_too() -> None:
    watch = PoisonWatch(limits(consecutive=2))
    nothing = batch(0)
    wrong = [
        refusal(replace(nothing, moved={P: Moved(at, at + 50, "undecodable")}), [], lambda _: watch)
        for at in (0, 50, 100)
    ]
    assert wrong[:2] == [None, None]
    assert "3 records in a row, offsets 0 to 100," in (wrong[2] or "")
    assert "undecodable" in (wrong[2] or "")
