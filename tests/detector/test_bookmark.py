from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumers.batch import Partition
from detector.bookmark import Bookmark


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 50)), unique=True))
def test_places_come_back_as_they_were_given(places: list[tuple[int, int]]) -> None:
    bookmark = Bookmark(at=5, version="v").moved_to(7, "w", [(Partition("state", number), at) for number, at in places])
    assert Bookmark.read(str(bookmark)) == bookmark
    assert bookmark.places() == places


def test_chunks_in_a_row_take_no_room() -> None:
    bookmark = Bookmark(at=5, version="v").moved_to(7, "w", [(Partition("state", 0), at) for at in range(100, 300)])
    assert len(str(bookmark)) < 80


def test_slots_take_turns() -> None:
    first = Bookmark(at=0, version="v")
    second = first.moved_to(1, "v", [])
    assert {first.slot, second.slot} == {0, 1}
    assert second.moved_to(2, "v", []).slot == first.slot


@pytest.mark.parametrize("text", ["", "{}", "null", "7", '{"at":"x","version":"v"}', '{"at":1', "\x00"])
def test_what_is_no_bookmark_reads_as_none(text: str) -> None:
    assert Bookmark.read(text) is None
