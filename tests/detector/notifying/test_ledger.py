from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumers.batch import Position
from detector.notifying.ledger import LONGEST_NOTE, Ledger


def test_the_position_is_the_first_alert_that_is_not_settled() -> None:
    ledger = Ledger(Position(10))
    for offset in (10, 11, 12, 14):
        ledger.take_in(offset)
    assert ledger.position() == Position(10)
    ledger.settle(10)
    assert ledger.position() == Position(11)
    ledger.settle(12)
    ledger.settle(14)
    assert ledger.position() == Position(11, "1-3")
    ledger.settle(11)
    assert ledger.position() == Position(15)


@given(st.lists(st.tuples(st.integers(1, 3), st.booleans()), max_size=60), st.integers(0, 60))
def test_what_is_settled_is_known_after_a_restart_and_nothing_else(alerts: list[tuple[int, bool]], again: int) -> None:
    """However many of them are read again before the next restart."""
    offset, ledger, settled = 5, Ledger(Position(5)), dict[int, bool]()
    for gap, is_settled in alerts:
        offset += gap
        settled[offset] = is_settled
        ledger.take_in(offset)
        if is_settled:
            ledger.settle(offset)
    for _ in range(2):
        position = ledger.position()
        ledger = Ledger(position)
        for offset in [offset for offset in settled if offset >= position.offset][:again]:
            assert ledger.is_settled(offset) == settled[offset]
            (ledger.settle if settled[offset] else ledger.take_in)(offset)
    assert all(settled[offset] for offset in settled if offset < ledger.position().offset)


def test_a_note_that_would_be_too_long_loses_its_end() -> None:
    ledger = Ledger(Position(0))
    for offset in range(5_000):
        ledger.take_in(offset)
        if offset % 2:
            ledger.settle(offset)
    position = ledger.position()
    assert LONGEST_NOTE - 20 < len(position.snapshot) <= LONGEST_NOTE
    again = Ledger(position)
    assert [again.is_settled(offset) for offset in range(6)] == [False, True] * 3
    assert not again.is_settled(4_999)


@pytest.mark.parametrize("note", ["snapshot-7", "1", "1-", "3-1", "0-99999999999999999", "1-2,x", "1-2" * 2_000])
def test_a_note_of_somebody_else_means_nothing(note: str) -> None:
    ledger = Ledger(Position(7, note))
    assert not any(ledger.is_settled(offset) for offset in range(20))
    assert ledger.position() == Position(7)
