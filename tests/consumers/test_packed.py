"""Packed strings are the strings they were made of, however they are put together and taken apart."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as some

from consumers.packed import Packed

strings = some.lists(some.none() | some.binary(max_size=20), max_size=20)


@given(strings)
def test_strings_come_back_in_order_and_by_place(values: list[bytes | None]) -> None:
    packed = Packed.of(values)
    assert len(packed) == len(values)
    assert list(packed) == values
    assert [packed[at] for at in range(-len(values), len(values))] == values + values


@given(strings, some.data())
def test_rows_are_taken_as_from_a_list(values: list[bytes | None], draw: some.DataObject) -> None:
    packed = Packed.of(values)
    cut = draw.draw(some.slices(len(values)))
    chosen = draw.draw(some.lists(some.integers(0, len(values) - 1))) if values else []
    assert list(packed[cut]) == values[cut]
    assert list(packed.take(np.array(chosen, np.int64))) == [values[at] for at in chosen]


@settings(deadline=None)  # copying is compiled at its first call
@given(some.lists(strings, max_size=4))
def test_parts_follow_each_other(parts: list[list[bytes | None]]) -> None:
    assert list(Packed.concat([Packed.of(part) for part in parts])) == [value for part in parts for value in part]


@given(strings, some.lists(some.slices(20), min_size=2, max_size=4))
def test_parts_of_one_buffer_stay_in_it(values: list[bytes | None], cuts: list[slice]) -> None:
    packed = Packed.of(values)
    joined = Packed.concat([packed[cut] for cut in cuts])
    assert joined.data is packed.data
    assert list(joined) == [value for cut in cuts for value in values[cut]]


def test_what_is_joined_holds_its_strings_and_nothing_else() -> None:
    one, other = Packed.of([b"a" * 1_000, b"b", None]), Packed.of([b"c", b"d" * 1_000])
    joined = Packed.concat([one[1:], other[:1]])
    assert (list(joined), joined.data.tobytes()) == ([b"b", None, b"c"], b"bc")
