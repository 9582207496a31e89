"""Silence: an entity that stops reporting is told at onset, by the rhythm that it had.

The rhythm of an entity is the upper tail of ln(gap) over the gaps between its records: the (1 − β) quantile q and the
mean excess m over it, as peaks over a threshold (Pickands, Annals of Statistics 1975) that follow by stochastic
approximation (Robbins & Monro 1951). After a record it has until exp(q + m·(L − ln 1/β)) to report again, and at least
twice its largest recent gap. The level L, in nats, is fed back with what came of it (Gibbs & Candès, NeurIPS 2021): of
all gaps, the promised share is told as silence and ends nevertheless.

Time is the clock of the partition: the greatest event time that two records in a row have come to, so that one wrong
time does not make everybody late. A step of more than `JUMP` is a clock set anew: no time has passed by it. Records of
an entity at one moment are one report.

When an entity runs out of time and most others are late too, the cause is common: they are silent together, which is
told once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from detector.compiled import compiled
from detector.entities import grown

READY = 20
"""Gaps from which on a rhythm is known."""
TAIL = 0.05
"""β: share of the gaps beyond exp(q)."""
BASE, LN_2 = -math.log(TAIL), math.log(2.0)
QUANTILE_STEP = 0.1
"""Of q, in units of m, which is the scale of ln(gap) here."""
EXCESS_STEP = 0.05
EXCESS_RANGE = (0.05, 1.0)
"""Bounds of m: gaps even to 5 %, and a tail so heavy that its mean is infinite."""
NORMAL_QUANTILE, NORMAL_EXCESS = 2.062, 0.524
"""q above the mean and m of a normal tail, in units of the mean excess over the mean: a rhythm begins with them."""
FADE = 1 / 64
"""The largest recent gap comes down to q by this share a gap."""
JUMP = 7 * 86_400_000.0
"""Milliseconds beyond which a step of the clock is not time that passed."""
LATE = 0.6
"""Share of its time after which an entity is late: more than an even rhythm ever needs, as it has twice its gaps."""
BLOCK = 128
"""Slots looked through when one of them may be overdue."""
TOPIC = -1
"""In place of a slot: entities that are silent together."""

# What is remembered of an entity, of the partition, and how an entity stands.
DUE, SEEN, NUMBER, COUNT, Q, M, OFFSET, LARGEST, LONGEST, STANDING, ENTITY = range(11)
NOW, PREVIOUS, ELAPSED, RECORDS, NEXT, GONE, AWAY, GONE_SINCE, GONE_AT, PARTITION = range(10)
HEARD, SILENT, TOGETHER = range(3)


Found = list[tuple[int, int, int, int, int, int, int]]
"""Rows of `Silences`."""


class Silences(NamedTuple):
    """Silences that began or ended, an array (k,) each, in the order in which they did."""

    row: NDArray[np.int64]
    """Record of the batch by which the clock passed the deadline, or that ended the silence; -1 without records."""
    slot: NDArray[np.int64]
    """Of the entity; `TOPIC` for most of the partition's entities at once."""
    last: NDArray[np.int64]
    """The entity's last record in this batch up to `row`, -1 where that came before it: slots may change hands."""
    since_ms: NDArray[np.int64]
    """When it was heard last, on the partition's clock."""
    lasted_ms: NDArray[np.int64]
    """How long ago that was at `row`."""
    entities: NDArray[np.int64]
    """How many fell silent together."""
    over: NDArray[np.bool_]
    """Whether it ended here, else it began."""


class Memory(NamedTuple):
    """What is remembered: a row a slot (k, ENTITY), the partition (PARTITION,), and for each `BLOCK` slots a time (b,)
    before which none is overdue. Deadlines are put off with every record, these times only once they have come."""

    entities: NDArray[np.float64]
    partition: NDArray[np.float64]
    blocks: NDArray[np.float64]


class SilenceWatch:
    """The rhythms of the entities of one partition. What comes of a sequence of records does not depend on how it is
    cut into batches."""

    def __init__(self) -> None:
        partition = np.zeros(PARTITION)
        partition[[NOW, PREVIOUS, NEXT]] = -np.inf, -np.inf, np.inf
        self._memory = Memory(np.zeros((0, ENTITY)), partition, np.zeros(0))

    @property
    def ready(self) -> int:
        """Entities whose rhythm is known; the others are not watched yet."""
        return int((self._memory.entities[:, COUNT] >= READY).sum())

    @property
    def silent(self) -> int:
        """Entities that are silent now."""
        return int((self._memory.entities[:, STANDING] != HEARD).sum())

    @property
    def clock_ms(self) -> float:
        """The partition's clock; -inf before its first record."""
        return float(self._memory.partition[NOW])

    def observe(
        self,
        slot: NDArray[np.int64],
        fresh: NDArray[np.bool_],
        time_ms: NDArray[np.int64],
        rate: NDArray[np.float64],
    ) -> Silences:
        """Takes in records in offset order: the slot (n,) of the entity of each, whether it is met there for the first
        time (n,), its event time (n,), and the share (n,) of gaps that may be told as silence though they end."""
        self._make_room(int(slot.max(initial=0)) + 1)
        return _silences(_hear(slot, fresh, time_ms, rate, self._memory))

    def overdue(self, now_ms: float) -> Silences:
        """Silences that begin by `now_ms` though no record came; that is on the partition's clock: `clock_ms` and the
        time since the last record. The clock itself goes on by records alone."""
        elapsed = self._memory.partition[ELAPSED] + max(0.0, now_ms - self.clock_ms)
        return _silences(_overdue(elapsed, self._memory))

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Everything remembered, by name."""
        return self._memory._asdict()

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> SilenceWatch:
        """A watch that goes on where `to_arrays` stood."""
        watch = cls()
        watch._memory = Memory(**{name: arrays[name].copy() for name in Memory._fields})
        return watch

    def _make_room(self, slots: int) -> None:
        entities, partition, blocks = self._memory
        larger = grown(entities, slots)
        larger[len(entities) :, DUE] = np.inf
        self._memory = Memory(
            larger, partition, np.append(blocks, np.full(-(-len(larger) // BLOCK) - len(blocks), np.inf))
        )


def _silences(found: Found) -> Silences:
    row, slot, last, since, lasted, entities, over = np.array(found, np.int64).reshape(-1, len(Silences._fields)).T
    return Silences(row, slot, last, since, lasted, entities, over.astype(np.bool_))


@compiled
def _hear(
    slots: NDArray[np.int64],
    fresh: NDArray[np.bool_],
    time_ms: NDArray[np.int64],
    rates: NDArray[np.float64],
    memory: Memory,
) -> Found:
    """The records one by one."""
    at, partition, _ = memory
    found, rate, promise = _nothing(), 0.0, 0.0
    for row in range(len(slots)):
        if rates[row] != rate:
            rate, promise = rates[row], -math.log(rates[row])
        slot, forgotten = slots[row], fresh[row]
        came = _advance(partition, float(time_ms[row]))
        if partition[NEXT] < partition[ELAPSED]:
            _tell(found, row, partition[ELAPSED], memory)
        stood, since = at[slot, STANDING], at[slot, SEEN]
        if forgotten:
            at[slot, :] = 0.0
            at[slot, LARGEST] = -math.inf
        elif came > since:
            if at[slot, DUE] < came and _alone(at, slot, came):
                found.append(_begun(row, slot, came, at, partition))
                stood = SILENT
            _learn(at, slot, math.log(came - since), stood != HEARD, rate, promise)
        at[slot, SEEN], at[slot, NUMBER], at[slot, STANDING] = came, partition[RECORDS], HEARD
        partition[RECORDS] += 1
        _give(memory, slot, came + _patience(at, slot, promise))
        if stood == SILENT and not forgotten:
            found.append(_silence(row, slot, row, since, came, 1, True, partition))
        if stood == TOGETHER:
            _one_less(found, row, came, promise, memory)
    return found


@compiled
def _overdue(now: float, memory: Memory) -> Found:
    found = _nothing()
    _tell(found, -1, now, memory)
    return found


@compiled
def _nothing() -> Found:
    return [(0, 0, 0, 0, 0, 0, 0) for _ in range(0)]


@compiled
def _silence(
    row: int, slot: int, last: int, since: float, now: float, entities: int, over: bool, partition: NDArray[np.float64]
) -> tuple[int, int, int, int, int, int, int]:
    heard = partition[NOW] - partition[ELAPSED] + since
    return (row, slot, last, int(heard), int(now - since), entities, int(over))


@compiled
def _begun(
    row: int, slot: int, now: float, at: NDArray[np.float64], partition: NDArray[np.float64]
) -> tuple[int, int, int, int, int, int, int]:
    last = max(-1, int(at[slot, NUMBER] - partition[RECORDS]) + row)
    return _silence(row, slot, last, at[slot, SEEN], now, 1, False, partition)


@compiled
def _advance(partition: NDArray[np.float64], time: float) -> float:
    """Moves the clock to where two records in a row have come; when this one came, which holds for its entity alone."""
    agreed = min(time, partition[PREVIOUS])
    partition[PREVIOUS] = time
    step = agreed - partition[NOW]
    if step > 0 or step < -JUMP:
        partition[NOW] = agreed
    if 0 < step <= JUMP:
        partition[ELAPSED] += step
    ahead = time - partition[NOW]
    return float(partition[ELAPSED] + (ahead if 0 < ahead <= JUMP else 0.0))


@compiled
def _learn(at: NDArray[np.float64], slot: int, u: float, told: bool, rate: float, promise: float) -> None:
    """Of a gap, u is ln. It counts at most as the time that the entity had, so that a long silence stretches the rhythm
    no further."""
    known, q, m = at[slot, COUNT] + 1, at[slot, Q], at[slot, M]
    at[slot, COUNT] = known
    if known <= READY:
        q += (u - q) / known
        m += (2 * max(0.0, u - q) - m) / known
        if known == READY:
            q, m = q + NORMAL_QUANTILE * m, min(max(NORMAL_EXCESS * m, EXCESS_RANGE[0]), EXCESS_RANGE[1])
        at[slot, Q], at[slot, M], at[slot, LARGEST] = q, m, max(at[slot, LARGEST], u)
        return
    u = min(u, at[slot, LONGEST])
    x = u - q
    at[slot, OFFSET] = max(BASE - promise, at[slot, OFFSET] + (1.0 if told else 0.0) - rate)
    at[slot, Q] = q + QUANTILE_STEP * m * ((1.0 if x > 0 else 0.0) - TAIL)
    if x > 0:
        at[slot, M] = min(max(m + EXCESS_STEP * (x - m), EXCESS_RANGE[0]), EXCESS_RANGE[1])
    at[slot, LARGEST] = max(u, at[slot, LARGEST] + FADE * (at[slot, Q] - at[slot, LARGEST]))


@compiled
def _patience(at: NDArray[np.float64], slot: int, promise: float) -> float:
    """Milliseconds within which the entity must report again; inf while its rhythm is not known."""
    if at[slot, COUNT] < READY:
        return math.inf
    beyond = max(0.0, at[slot, OFFSET] + promise - BASE)
    at[slot, LONGEST] = max(at[slot, Q] + at[slot, M] * beyond, at[slot, LARGEST] + LN_2)
    return math.exp(at[slot, LONGEST])


@compiled
def _give(memory: Memory, slot: int, deadline: float) -> None:
    at, partition, blocks = memory
    at[slot, DUE] = deadline
    blocks[slot // BLOCK] = min(blocks[slot // BLOCK], deadline)
    partition[NEXT] = min(partition[NEXT], deadline)


@compiled
def _tell(found: Found, row: int, now: float, memory: Memory) -> None:
    """Adds what is overdue at `row`."""
    at, partition, blocks = memory
    partition[NEXT] = math.inf
    for block in range(len(blocks)):
        if blocks[block] < now:
            blocks[block] = math.inf
            for slot in range(block * BLOCK, min((block + 1) * BLOCK, len(at))):
                if at[slot, DUE] < now:
                    _fall_silent(found, row, slot, now, memory)
                blocks[block] = min(blocks[block], at[slot, DUE])
        partition[NEXT] = min(partition[NEXT], blocks[block])


@compiled
def _fall_silent(found: Found, row: int, slot: int, now: float, memory: Memory) -> None:
    """One that was not heard since others fell silent together is one of them."""
    at, partition, _ = memory
    if partition[AWAY] > 0 and at[slot, SEEN] <= partition[GONE_AT]:
        _set_apart(at, partition, slot)
    elif _alone(at, slot, now):
        found.append(_begun(row, slot, now, at, partition))
        at[slot, STANDING], at[slot, DUE] = SILENT, math.inf
    else:
        first, since = partition[AWAY] == 0, 0.0
        for other in range(len(at)):
            if _late(at, other, now):
                since = max(since, at[other, SEEN])
                _set_apart(at, partition, other)
        partition[GONE_AT] = now
        if first:
            partition[GONE_SINCE] = since
            found.append(_silence(row, TOPIC, -1, since, now, int(partition[GONE]), False, partition))


@compiled
def _set_apart(at: NDArray[np.float64], partition: NDArray[np.float64], slot: int) -> None:
    at[slot, STANDING], at[slot, DUE] = TOGETHER, math.inf
    partition[GONE] += 1
    partition[AWAY] += 1


@compiled
def _alone(at: NDArray[np.float64], slot: int, now: float) -> bool:
    """Whether most others are not late. The block is asked first: it is a sample that costs little."""
    block = slot // BLOCK * BLOCK
    return not _most_are_late(at[block : block + BLOCK], slot - block, now) or not _most_are_late(at, slot, now)


@compiled
def _most_are_late(at: NDArray[np.float64], but: int, now: float) -> bool:
    """Of the entities but one that are watched, or have fallen silent since that one was heard."""
    others, late = 0, 0
    for slot in range(len(at)):
        if slot != but:
            if at[slot, DUE] < math.inf:
                others += 1
                late += _late(at, slot, now)
            elif at[slot, STANDING] == SILENT and at[slot, SEEN] + math.exp(at[slot, LONGEST]) > at[but, SEEN]:
                others += 1
                late += 1
    return 2 * late > others


@compiled
def _late(at: NDArray[np.float64], slot: int, now: float) -> bool:
    return bool(now - at[slot, SEEN] > LATE * (at[slot, DUE] - at[slot, SEEN]))


@compiled
def _one_less(found: Found, row: int, now: float, promise: float, memory: Memory) -> None:
    """One of those that were silent together is back, or forgotten. Once most are, the others have their whole time
    again; then each is silent on its own."""
    at, partition, _ = memory
    partition[AWAY] -= 1
    if 2 * partition[AWAY] > partition[GONE]:
        return
    found.append(_silence(row, TOPIC, -1, partition[GONE_SINCE], now, int(partition[GONE]), True, partition))
    partition[GONE] = partition[AWAY] = 0.0
    for slot in range(len(at)):
        if at[slot, STANDING] == TOGETHER:
            at[slot, STANDING], at[slot, SEEN] = HEARD, now
            _give(memory, slot, now + _patience(at, slot, promise))
