"""What entities are, as far as their records tell: the texts of their fields and the beginnings of their names, so that
what some of them have in common can be told from what all have."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import repeat
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from consumers.batch import Columns
from consumers.compiled import compiled
from detector.entities import Visits, grown, of_slots
from detector.snapshot import State

SHARED, LIFT, MOST_COMMON = 0.8, 2.0, 3
"""What is common, at least this share of the members has, and so many times the share of all others; so much is named
at most."""
REFRESH = 128
"""Of an entity's records one in so many is looked at for what the entity is, the first one among them."""
LONGEST_TEXT = 64
"""Characters beyond which a text is taken for nobody's common property."""
FEWEST_TEXTS = 256
"""Texts of a field that there is always room for."""
NAME = ""
"""In place of a field: how the names of entities begin."""
SEPARATORS = "-._/:"


class Common(NamedTuple):
    """A text of a field, or a beginning of names like `rack7-*` (field `NAME`), and the shares of the members and of
    all other entities that have it."""

    field: str
    value: str
    share: float
    elsewhere: float

    @property
    def likeness(self) -> float:
        """How little it tells the members from the others."""
        return self.elsewhere / self.share


class Traits:
    """What the entities of a partition are, by slot: their latest texts, and how their names begin."""

    def __init__(self) -> None:
        self._fields: dict[str, _Texts] = {}
        self._seen = np.zeros(0, np.uint8)
        self._inhabited = 0

    def lessons(self, visits: Visits, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """The rows to learn from, of n: these, and of each entity the first record and then one in `REFRESH`."""
        self._seen = grown(self._seen, int(visits.slot.max(initial=-1)) + 1)
        chosen = np.zeros(len(visits.slot), np.bool_)
        chosen[rows] = True
        _choose(visits.slot, visits.fresh, self._seen, chosen)
        return np.flatnonzero(chosen)

    def learn(self, columns: Columns, visits: Visits, rows: NDArray[np.int64]) -> None:
        """From these rows, in order; to learn the first of them twice does no harm."""
        slots, met = visits.slot[rows], rows[visits.fresh[rows]]
        self._inhabited = max(self._inhabited, int(slots.max(initial=-1)) + 1)
        self._fields = {name: self._fields.get(name, _Texts()) for name in (NAME, *columns.texts)}
        self._fields[NAME].put(visits.slot[met], [_beginning(name) for name in columns.entity[met]])
        for name, texts in columns.texts.items():
            self._fields[name].put(slots, texts[rows].tolist())

    def common(self, members: NDArray[np.int64]) -> tuple[Common, ...]:
        """What the entities in these slots have in common and most others have not, the most telling first."""
        outside = np.ones(self._inhabited, np.bool_)
        outside[members] = False
        others = np.flatnonzero(outside)
        if not len(others):
            return ()
        found = [list(texts.shared(name, members, others)) for name, texts in self._fields.items()]
        best = [min(shared, key=lambda it: (it.likeness, -len(it.value))) for shared in found if shared]
        return tuple(sorted(best, key=lambda it: it.likeness)[:MOST_COMMON])

    def to_state(self, slots: NDArray[np.int64]) -> State:
        """What the entities in these slots are."""
        kept = [texts.of_slots(slots) for texts in self._fields.values()]
        return {
            "fields": list(self._fields),
            "texts": [list(texts.numbers) for texts in kept],
            "of": np.array([texts.of for texts in kept], np.int32).reshape(len(kept), len(slots)),
            "seen": of_slots(self._seen, slots),
        }

    def restore(self, state: State) -> None:
        """Goes on where `to_state` stood."""
        self._seen, self._inhabited = state["seen"].copy(), len(state["seen"])
        self._fields = {
            name: _Texts({text: number for number, text in enumerate(texts)}, of.copy())
            for name, texts, of in zip(state["fields"], state["texts"], state["of"], strict=True)
        }


@dataclass(slots=True)
class _Texts:
    """The texts of one field, numbered, and the number that each slot's entity has; None is a text too."""

    numbers: dict[str | None, int] = field(default_factory=lambda: {None: 0})
    of: NDArray[np.int32] = field(default_factory=lambda: np.zeros(0, np.int32))

    def put(self, slots: NDArray[np.int64], texts: Sequence[str | None]) -> None:
        """The entities in these slots have these texts; of a slot that comes twice, the last."""
        self.of = grown(self.of, int(slots.max(initial=-1)) + 1)
        found = np.fromiter(map(self.numbers.get, texts, repeat(-1)), np.int32, len(slots))
        for place in np.flatnonzero(found < 0).tolist():
            found[place] = self._number(texts[place])
        self.of[slots] = found
        if len(self.numbers) > max(FEWEST_TEXTS, 2 * len(self.of)):
            kept = self.of_slots(np.arange(len(self.of)))
            self.numbers, self.of = kept.numbers, kept.of

    def of_slots(self, slots: NDArray[np.int64]) -> _Texts:
        """Those of the entities in these slots alone, numbered in alphabetical order."""
        of, texts = of_slots(self.of, slots), list(self.numbers)
        held = {None, *(texts[number] for number in np.unique(of).tolist())}
        numbers = {text: new for new, text in enumerate(sorted(held, key=lambda text: (text is not None, text or "")))}
        return _Texts(numbers, np.array([numbers.get(text, 0) for text in texts], np.int32)[of])

    def shared(self, name: str, members: NDArray[np.int64], others: NDArray[np.int64]) -> Iterator[Common]:
        """Texts, in `NAME` beginnings of any length, that are common to the members."""
        known = grown(self.of, int(max(members.max(), others.max())) + 1)
        inside, outside, texts = known[members], known[others], list(self.numbers)
        counts = Counter[str]()
        for number, count in enumerate(np.bincount(inside).tolist()):
            if count and (text := texts[number]) is not None:
                counts.update(dict.fromkeys(_beginnings(text) if name == NAME else [text], count))
        for value, count in counts.items():
            if (share := count / len(members)) < SHARED:
                continue
            alike = [number for text, number in self.numbers.items() if text and text.startswith(value)]
            elsewhere = float(np.isin(outside, alike if name == NAME else self.numbers[value]).mean())
            if share >= LIFT * elsewhere:
                yield Common(name, f"{value}*" if name == NAME else value, share, elsewhere)

    def _number(self, text: str | None) -> int:
        return 0 if text is None or len(text) > LONGEST_TEXT else self.numbers.setdefault(text, len(self.numbers))


def _beginning(name: str) -> str | None:
    """Up to the last separator; `rack7-` of `rack7-m3`."""
    return name[: 1 + max(map(name.rfind, SEPARATORS))] or None


def _beginnings(beginning: str) -> list[str]:
    return [beginning[: 1 + end] for end, character in enumerate(beginning) if character in SEPARATORS]


@compiled
def _choose(
    slot: NDArray[np.int64], fresh: NDArray[np.bool_], seen: NDArray[np.uint8], chosen: NDArray[np.bool_]
) -> None:
    """`seen` counts an entity's records since one was chosen."""
    for i in range(len(slot)):
        count = 0 if fresh[i] else seen[slot[i]]
        chosen[i] |= count == 0
        seen[slot[i]] = (count + 1) % REFRESH
