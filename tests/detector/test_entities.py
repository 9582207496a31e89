from __future__ import annotations

from collections import OrderedDict
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from consumers.batch import Columns, Partition
from detector.entities import EntityTable, everybody, grown, of_slots, renumbered, segments
from detector.snapshot import pack, unpack


def names(text: str) -> NDArray[np.object_]:
    return np.array([*text], object)


def located(table: EntityTable, text: str) -> tuple[list[int], list[int]]:
    """The slots of these entities, one letter each, and the rows at which one is fresh."""
    visits = table.locate(names(text))
    return visits.slot.tolist(), np.flatnonzero(visits.fresh).tolist()


def test_an_entity_keeps_its_slot() -> None:
    table = EntityTable(10)
    assert located(table, "aba") == ([0, 1, 0], [0, 1])
    assert located(table, "cab") == ([2, 0, 1], [0])
    assert len(table) == 3


def test_the_entity_not_seen_for_longest_gives_way() -> None:
    table = EntityTable(2)
    assert located(table, "aba") == ([0, 1, 0], [0, 1])
    assert located(table, "cab") == ([1, 0, 1], [0, 2])
    assert (len(table), table.evicted) == (2, 2)


def test_a_slot_may_change_hands_within_a_batch() -> None:
    assert located(EntityTable(1), "aabaa") == ([0, 0, 0, 0, 0], [0, 2, 3])


def test_runs_and_predecessors_stay_within_an_entity() -> None:
    visits = EntityTable(2).locate(names("abacba"))
    assert visits.slot.tolist() == [0, 1, 0, 1, 0, 1]
    assert visits.order.tolist() == [0, 2, 4, 1, 3, 5]
    assert visits.before().tolist() == [-1, -1, 0, -1, -1, -1]
    assert visits.last().tolist() == [4, 5]


class OneByOne:
    """The same by the letter."""

    def __init__(self, max_entities: int) -> None:
        self.max_entities, self.slots = max_entities, OrderedDict[str, int]()

    def locate(self, name: str) -> tuple[int, bool]:
        fresh = name not in self.slots
        if fresh and len(self.slots) == self.max_entities:
            self.slots[name] = self.slots.popitem(last=False)[1]
        slot = self.slots.setdefault(name, len(self.slots))
        self.slots.move_to_end(name)
        return slot, fresh


def restarted(table: EntityTable, *slots: int) -> EntityTable:
    """Goes on from what was remembered, of these slots if any."""
    again = EntityTable(table._max_entities)
    again.restore(unpack(pack(table.to_state(np.array(slots or range(len(table)), np.int64)))))
    return again


def test_of_a_table_some_slots_go_on_in_their_order_and_the_others_are_forgotten() -> None:
    table = EntityTable(4)
    located(table, "abcdeab")
    assert table.order().tolist() == [3, 0, 1, 2]
    again = restarted(table, 0, 2, 3)
    assert [again.owner(slot) for slot in range(3)] == ["e", "b", "d"]
    assert again.order().tolist() == [2, 0, 1]
    assert again.evicted == table.evicted == 3
    assert located(again, "cef") == ([3, 0, 2], [0, 2])


def test_without_records_nobody_moves_in() -> None:
    table = EntityTable(2)
    assert located(table, "") == ([], [])
    assert not len(everybody(table, 0).slot)
    assert everybody(table, 1).fresh.all()


@settings(deadline=None)
@given(st.text("abcdef", min_size=1, max_size=40), st.lists(st.integers(1, 40)), st.integers(1, 7))
def test_slots_depend_neither_on_where_batches_end_nor_on_restarts(
    text: str, cuts: list[int], max_entities: int
) -> None:
    table, reference = EntityTable(max_entities), OneByOne(max_entities)
    edges = sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
    visits = []
    for start, stop in pairwise(edges):
        visits.append(table.locate(names(text[start:stop])))
        table = restarted(table)
    found = [(int(slot), bool(fresh)) for it in visits for slot, fresh in zip(it.slot, it.fresh, strict=True)]
    assert found == [reference.locate(name) for name in text]


def test_everybody_shares_one_slot_that_is_fresh_once() -> None:
    table = EntityTable(5)
    assert everybody(table, 3).fresh.tolist() == [True, False, False]
    again = everybody(table, 2)
    assert (again.slot.tolist(), again.fresh.tolist()) == ([0, 0], [False, False])


@pytest.mark.parametrize(("by", "expected"), [("entity", ["m1", "m2"]), ("all", ["", ""]), ("region", ["north", ""])])
def test_a_level_is_shared_by_entity_by_all_or_by_the_value_of_a_field(by: str, expected: list[str]) -> None:
    columns = Columns(
        row=np.arange(2),
        partitions=(Partition("t", 0),),
        partition=np.zeros(2, np.int32),
        offsets=np.arange(2),
        time=np.zeros(2, np.int64),
        entity=np.array(["m1", "m2"], object),
        numbers={},
        texts={"region": np.array(["north", None], object)},
    )
    assert segments(columns, by).tolist() == expected
    assert columns.texts["region"].tolist() == ["north", None]


def test_a_grown_array_keeps_what_it_held_and_doubles_at_least() -> None:
    array = np.arange(6).reshape(3, 2)
    assert grown(array, 3) is array
    larger = grown(array, 4)
    assert larger.shape == (6, 2)
    assert larger[:3].tolist() == array.tolist()
    assert not larger[3:].any()
    assert len(grown(array, 50)) == 50


def test_the_owner_of_a_slot_is_who_had_it_before_the_records_located_last() -> None:
    table = EntityTable(2)
    located(table, "ab")
    located(table, "cd")
    assert [table.owner(0), table.owner(1)] == ["a", "b"]
    located(table, "c")
    assert [table.owner(0), table.owner(1)] == ["c", "d"]
    located(table, "a")
    located(table, "")
    assert [table.owner(0), table.owner(1)] == ["c", "a"]


def test_what_is_remembered_by_slot_is_renumbered() -> None:
    slots = np.array([1, 3, 4])
    assert list(renumbered({4: "x", 2: "y", 1: "z", -1: "w", 9: "v"}, slots).items()) == [(2, "x"), (0, "z")]
    assert renumbered({}, slots) == {}
    assert of_slots(np.array([5, 6, 7]), slots).tolist() == [6, 0, 0]
