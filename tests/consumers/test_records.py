"""Runs of records joined, and the share that each partition has in the last N records."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as some

from consumers.batch import Partition
from consumers.headers import Headers
from consumers.packed import Packed
from consumers.records import Run, tail, to_batch

spans = some.dictionaries(
    some.builds(Partition, some.just("t"), some.integers(0, 20)),
    some.tuples(some.integers(0, 100), some.integers(0, 100)).map(lambda pair: (pair[0], pair[0] + pair[1])),
)


@given(spans, some.integers(0, 500))
def test_shares_add_up_to_what_was_asked_for_or_to_all_there_is(
    spans: dict[Partition, tuple[int, int]], records: int
) -> None:
    shares = {partition: spans[partition][1] - start for partition, start in tail(spans, records).items()}
    assert shares.keys() == spans.keys()
    assert sum(shares.values()) == min(records, sum(end - first for first, end in spans.values()))


@given(spans, some.integers(0, 500))
def test_a_partition_gives_less_than_another_only_when_it_has_no_more(
    spans: dict[Partition, tuple[int, int]], records: int
) -> None:
    starts = tail(spans, records)
    shares = {partition: spans[partition][1] - starts[partition] for partition in spans}
    for partition, (first, _) in spans.items():
        assert starts[partition] >= first
        assert starts[partition] == first or shares[partition] >= max(shares.values()) - 1


def test_a_batch_of_nothing_is_empty() -> None:
    batch = to_batch({Partition("t", 0): Run.of([])}, ends={})
    assert (len(batch), batch.partitions, batch.offsets.tolist()) == (0, (), [])


def test_runs_follow_each_other_whatever_their_columns_are_held_in() -> None:
    lists = Run(np.array([1]), np.array([10]), [b"k"], [None], [[("a", b"1")]])
    packed = Run(np.array([2]), np.array([20]), Packed.of([None]), Packed.of([b"v"]), Headers(Packed.of([b"\2\2b\1"])))
    joined = Run.concat([lists, packed])
    assert (joined.offsets.tolist(), joined.timestamps.tolist()) == ([1, 2], [10, 20])
    assert (list(joined.keys), list(joined.values)) == ([b"k", None], [None, b"v"])
    assert list(joined.headers) == [[("a", b"1")], [("b", b"")]]


def test_no_runs_are_an_empty_run() -> None:
    assert [len(column) for column in Run.concat([])] == [0] * 5
