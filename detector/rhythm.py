"""The recursion behind silence: the rhythm of each entity, and when it has been broken.

The rhythm is the upper tail of ln(gap) over the gaps between the records of an entity: the (1 − β) quantile q and the
mean excess m over it, as peaks over a threshold (Pickands, Annals of Statistics 1975) that follow by stochastic
approximation (Robbins & Monro 1951). After a record the entity has until exp(q + m·(L − ln 1/β)) to report again, and
at least twice its largest recent gap. The level L, in nats, is fed back with what came of it (Gibbs & Candès, NeurIPS
2021): of all gaps, the promised share is told as silence and ends nevertheless.

Time is the clock of the partition: the greatest event time that two records in a row have come to, so that one wrong
time does not make everybody late. A step of more than `JUMP` is a clock set anew: no time has passed by it. Records of
an entity at one moment are one report.

When an entity runs out of time and most others are late too, or the partition has not been as quiet for long, the cause
is common: they are silent together, which is told once. It is over when half of them are back.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from consumers.compiled import compiled

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
"""Share of its time after which an entity is late: more than an even rhythm needs, as it has twice its gaps."""
QUIET = 4.0
"""Of its largest recent steps, the time without any record after which a partition is silent as a whole."""
BLOCK = 128
"""Slots looked through when one of them may be overdue."""
TOPIC = -1
"""In place of a slot: entities that are silent together."""

# What is remembered of an entity, of the partition, and how an entity stands.
DUE, SEEN, NUMBER, COUNT, Q, M, OFFSET, LARGEST, LONGEST, STANDING, ENTITY = range(11)
NOW, PREVIOUS, ELAPSED, RECORDS, NEXT, LAST, STEP, GONE, AWAY, GONE_SINCE, GONE_AT, PARTITION = range(12)
HEARD, SILENT, TOGETHER = range(3)


Found = list[tuple[int, int, int, int, int, int, int]]
"""Rows of `detector.silence.Silences`."""


class Memory(NamedTuple):
    """What is remembered: a row a slot (k, ENTITY), the partition (PARTITION,), and for each `BLOCK` slots a time (b,)
    before which none is overdue. Deadlines are put off with every record, these times only once they have come."""

    entities: NDArray[np.float64]
    partition: NDArray[np.float64]
    blocks: NDArray[np.float64]


@compiled
def hear(
    slots: NDArray[np.int64],
    fresh: NDArray[np.bool_],
    time_ms: NDArray[np.int64],
    rates: NDArray[np.float64],
    memory: Memory,
) -> Found:
    """Lives through records (n,) one by one: moves `memory`, returns what began and ended."""
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
            if at[slot, DUE] < came and _alone(at, partition, slot, came):
                found.append(_begun(row, slot, came, at, partition))
                stood = SILENT
            _learn(at, slot, math.log(came - since), stood != HEARD, rate, promise)
        at[slot, SEEN], at[slot, NUMBER], at[slot, STANDING] = came, partition[RECORDS], HEARD
        partition[RECORDS] += 1
        _breathe(partition)
        _give(memory, slot, came + _patience(at, slot, promise))
        if stood == SILENT and not forgotten:
            found.append(_silence(row, slot, row, since, came, 1, True, partition))
        if stood == TOGETHER:
            _one_less(found, row, partition[ELAPSED], promise, memory)
    return found


@compiled
def overdue(now: float, memory: Memory) -> Found:
    """What begins by `now`, of which the partition has heard nothing yet."""
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
def _breathe(partition: NDArray[np.float64]) -> None:
    """Follows the largest recent step between records of any entities; one counts for as long as 64 of its kind."""
    step = partition[ELAPSED] - partition[LAST]
    partition[STEP] = max(step, partition[STEP] - step / 64)
    partition[LAST] = partition[ELAPSED]


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
    elif _alone(at, partition, slot, now):
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
def _alone(at: NDArray[np.float64], partition: NDArray[np.float64], slot: int, now: float) -> bool:
    """Whether it is silent while others are not. Its block is asked first: a sample that costs little."""
    block = slot // BLOCK * BLOCK
    if now - partition[LAST] > QUIET * partition[STEP]:
        return _others(at, slot, now)[0] == 0
    for part, place in ((at[block : block + BLOCK], slot - block), (at, slot)):
        others, late = _others(part, place, now)
        if 2 * late <= others:
            return True
    return False


@compiled
def _others(at: NDArray[np.float64], but: int, now: float) -> tuple[int, int]:
    """Entities but one that are watched, or fell silent since that one was heard; how many of them are late."""
    others, late = 0, 0
    for slot in range(len(at)):
        watched = at[slot, DUE] < math.inf
        lately = at[slot, STANDING] == SILENT and at[slot, SEEN] + math.exp(at[slot, LONGEST]) > at[but, SEEN]
        if slot != but and (watched or lately):
            others += 1
            late += lately or _late(at, slot, now)
    return others, late


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
