"""Records from a seed: normal ones, anomalies of several kinds, and poison with the reason that it has to be given."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from consumers.batch import Header
from consumers.decode import MOST_ENTITY_CHARACTERS, DeadLetterReason

FEATURES = ("a", "b", "c", "d")
CATEGORY, ENTITY, TIMESTAMP = "state", "machine", "ts"
SEQUENCE = "sequence"
"""Header that holds a record's number in the ledger, which no poison takes away."""
EPISODES = 1 / 150
"""Share of records at which an anomaly begins."""
POISON = 0.01
STORM = 0.4
"""Shares of records that are poison: always, and in a storm."""
OVERSIZE = 0.02
"""Share of poison that is nearly as large as a broker takes."""
_FIRST_MS = 1_767_225_600_000
_STATES = ("idle", "busy", "busy", "busy")
_MIXING = np.array([[1.0, 2.0, -1.0, 0.5], [0.3, 0.0, 0.0, 0.0], [0.0, 0.3, 0.2, 0.0], [0.0, 0.0, 0.3, 1.0]])
_BLOCK = 4096


class Record(NamedTuple):
    """One to send; `poison` is the reason that its dead letter must name, None where it is to be scored."""

    partition: int
    key: bytes
    value: bytes | None
    headers: tuple[Header, ...]
    poison: DeadLetterReason | None


class Traffic:
    """An endless stream of machines that report in turn, one second apart; a machine has one partition.

    `partitions` may grow; a `storm` of so many records more holds poison by `STORM`.
    """

    def __init__(self, seed: int, partitions: int, *, machines: int = 24, quiet: bool = False) -> None:
        self.partitions = partitions
        self._machines = machines
        self.storm = 0
        self._quiet = quiet
        self._chance = random.Random(seed)
        self._noise = _noise(seed)
        self._episodes: dict[int, Iterator[dict[str, Any]]] = {}
        self._number = 0

    def __iter__(self) -> Traffic:
        return self

    def __next__(self) -> Record:
        number, machine = divmod(self._number, self._machines)
        headers: tuple[Header, ...] = ((SEQUENCE, b"%d" % self._number),)
        self._number += 1
        fields = self._normal(machine, _FIRST_MS + 1000 * number)
        self.storm = max(0, self.storm - 1)
        poison = None
        if self._quiet:
            value: bytes | None = _json(fields)
        elif self._chance.random() < (STORM if self.storm else POISON):
            oversize = self._chance.random() < OVERSIZE
            value, poison = (_oversize if oversize else self._chance.choice(POISONS))(fields)
        else:
            value = _json(self._disturbed(machine, fields))
            if self._chance.random() < POISON:
                headers = (*headers, ("odd", b"\xff\xfe"))
        return Record(machine % self.partitions, fields[ENTITY].encode(), value, headers, poison)

    def _normal(self, machine: int, time: int) -> dict[str, Any]:
        numbers = dict(zip(FEATURES, next(self._noise), strict=True))
        return {ENTITY: f"m{machine}", TIMESTAMP: time, **numbers, CATEGORY: self._chance.choice(_STATES)}

    def _disturbed(self, machine: int, fields: dict[str, Any]) -> dict[str, Any]:
        """The record as the machine's present episode changes it, if there is one."""
        if machine not in self._episodes and self._chance.random() < EPISODES:
            self._episodes[machine] = self._chance.choice(_ANOMALIES)(self._chance)
        change = next(self._episodes.get(machine, iter(())), None)
        if change is None:
            self._episodes.pop(machine, None)
            return fields
        changed = {**fields, **{name: value for name, value in change.items() if not callable(value)}}
        changed |= {name: value(fields[name]) for name, value in change.items() if callable(value)}
        return {name: value for name, value in changed.items() if value is not ...}


def normal_values(seed: int, n: int) -> list[bytes]:
    """n normal records as JSON, to train on; they end where any other traffic begins, in event time."""
    traffic = Traffic(seed, 1, quiet=True)
    values = [json.loads(record.value or b"") for record, _ in zip(traffic, range(n), strict=False)]
    span = values[-1][TIMESTAMP] - _FIRST_MS + 1000
    return [_json({**fields, TIMESTAMP: fields[TIMESTAMP] - span}) for fields in values]


def _noise(seed: int) -> Iterator[list[float]]:
    chance = np.random.default_rng(seed)
    while True:
        yield from (chance.normal(size=(_BLOCK, len(_MIXING))) @ _MIXING).round(4).tolist()


def _burst(chance: random.Random) -> Iterator[dict[str, Any]]:
    names = chance.sample(FEATURES, 2)
    yield from ({name: lambda x: round(x + 9, 4) for name in names} for _ in range(chance.randint(2, 8)))


def _shift(chance: random.Random) -> Iterator[dict[str, Any]]:
    name = chance.choice(FEATURES)
    yield from ({name: lambda x: round(x + 4, 4)} for _ in range(60))


def _late(chance: random.Random) -> Iterator[dict[str, Any]]:
    """Some records that come late, and a deviation that they come into the middle of."""
    for _ in range(chance.randint(1, 4)):
        behind = chance.randint(1_500, 30_000)
        yield {TIMESTAMP: lambda ms, behind=behind: ms - behind, "b": lambda x: round(x - 7, 4)}
        yield {}


def _wrong_clock(chance: random.Random) -> Iterator[dict[str, Any]]:
    ahead = chance.choice((3_600_000, 315_360_000_000))
    yield {TIMESTAMP: lambda ms: ms + ahead}


def _new_category(chance: random.Random) -> Iterator[dict[str, Any]]:
    yield from ({CATEGORY: f"error-{chance.randint(1, 30)}"} for _ in range(chance.randint(1, 5)))


def _lost_field(chance: random.Random) -> Iterator[dict[str, Any]]:
    name = chance.choice(FEATURES)
    yield from ({name: ...} for _ in range(chance.randint(5, 40)))


_ANOMALIES = (_burst, _burst, _shift, _late, _late, _wrong_clock, _new_category, _lost_field)


def _json(fields: dict[str, Any]) -> bytes:
    return json.dumps(fields).encode()


def _raw(fields: dict[str, Any], name: str, text: bytes) -> bytes:
    """The record with a field that reads `text`, JSON or not."""
    return _json({**fields, name: "HERE"}).replace(b'"HERE"', text)


def _oversize(_: dict[str, Any]) -> tuple[bytes | None, DeadLetterReason]:
    return b"x" * 1_000_000, DeadLetterReason.MALFORMED


Poison = Callable[[dict[str, Any]], tuple[bytes | None, DeadLetterReason]]
POISONS: tuple[Poison, ...] = (
    lambda _: (None, DeadLetterReason.EMPTY),
    lambda _: (b"", DeadLetterReason.EMPTY),
    lambda fields: (_raw(fields, CATEGORY, b'"\xff"'), DeadLetterReason.NOT_UTF8),
    lambda fields: (_raw(fields, "unused", b'"\xc0\xaf"'), DeadLetterReason.NOT_UTF8),
    lambda fields: (_json(fields)[:-3], DeadLetterReason.MALFORMED),
    lambda fields: (_raw(fields, "a", b"NaN"), DeadLetterReason.MALFORMED),
    lambda _: (b"[1, 2]", DeadLetterReason.WRONG_SHAPE),
    lambda fields: (_json({**fields, "b": "7"}), DeadLetterReason.WRONG_SHAPE),
    lambda fields: (_raw(fields, "unused", b"[" * 4000 + b"]" * 4000), DeadLetterReason.TOO_DEEP),
    lambda fields: (_raw(fields, "c", b"1e999"), DeadLetterReason.OUT_OF_RANGE),
    lambda fields: (_raw(fields, "d", b"9" * 5000), DeadLetterReason.OUT_OF_RANGE),
    lambda fields: (_json({**fields, ENTITY: None}), DeadLetterReason.MISSING_ENTITY),
    lambda fields: (_json({**fields, ENTITY: "m" * (MOST_ENTITY_CHARACTERS + 1)}), DeadLetterReason.ENTITY_TOO_LONG),
    lambda fields: (_json({**fields, TIMESTAMP: -1}), DeadLetterReason.BAD_TIMESTAMP),
    lambda fields: (_json({ENTITY: fields[ENTITY], TIMESTAMP: fields[TIMESTAMP]}), DeadLetterReason.NO_FEATURES),
)
"""Each makes of a normal record one that cannot be scored."""
