"""The recursion behind the level: it keeps the promised rate of alarms while the stream drifts.

A threshold fixed at training holds its rate only as long as the stream stays as it was. Three time scales keep it here:

1. The upper tail of the surprise u = −ln p of each segment is tracked, its (1 − β) quantile q and the mean excess m
   over it, so that −ln p is recalibrated as v = ln(1/β) + (u − q)/m. This follows drift, and day and night.
2. A feedback moves the level against the alarms that were raised, so that in the long run they come at the promised
   rate.
3. An excursion, a run of exceedances of q that does not depend on the rate, rolls 1 and 2 back to where they stood at
   its onset and freezes them: an incident teaches nothing. One that lasts is a new regime: it is told once, and
   followed.

Within an incident an alarm repeats only when the excess over the level has doubled, and that lift fades slowly after
it. So what the rate bounds is alarms; records elevated inside an incident are not bounded, and need not be.

1 is the peaks-over-threshold view of a tail (Pickands, Annals of Statistics 1975) with the stochastic quantile
recursion of Robbins & Monro (1951); 2 is online conformal inference (Gibbs & Candès, NeurIPS 2021) on a scale of nats;
the statistic of 3 is a CUSUM (Page, Biometrika 1954) of the exceedances.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from consumers.compiled import compiled
from detector.entities import Visits

TAIL = 0.05
"""β: share of the records beyond q."""
QUANTILE_STEP = 0.1
EXCESS_STEP = 0.05
EXCESS_RANGE = (0.2, 5.0)
"""Bounds of m, in nats: exponential tails of calibrated scores have 1."""
WINSOR = 3.0
"""An excess counts at most as so many times m, or the first records of an incident would stretch the tail."""
FEEDBACK_STEP = 0.8
"""Nats by which an alarm raises the level."""
OVERDRIVE = 1.1
"""The level sinks as if so many times the promised rate were wanted: alarms kept back by 3 are never made up for."""
LIFT = 3.0
"""Least nats by which a repeated alarm must exceed the one before."""
FADE = 30.0
"""A lift fades over 1/FADE of the records between two promised alarms."""
LONGEST_FADE = 128.0
"""Or over so many records where that is sooner: however rare alarms are to be, an attack like the last one is told."""
ALLOWANCE = 5.0
"""Nats beyond the level from which an alarm is hardly chance: it is not held against the level, as long as such alarms
are no more than promised."""
CREDITS = 5.0
"""Most alarms of that kind that can be saved up."""
RISE, EXCURSION = 0.4, 8.0
"""An exceedance adds 1 − RISE to the statistic of 3, any other record takes RISE; an excursion is at EXCURSION."""
REGIME = 800.0
"""So many more records beyond the q of the regimes known so far than within it, and it is a new regime."""
LONG_RUN = 2048.0
"""Records over which the average of q runs that tells a slow creep from a step: it has kept up with a creep."""
CALM = 512.0
"""Records without any exceedance after which q is set anew: it lies too high."""
RING, EVERY = 128, 4
"""Records kept to set q and m anew from, one in EVERY of the last RING · EVERY: as many as CALM, fewer than REGIME.
Writing is what costs here, where many segments take turns."""

_ROUNDING = 1e-9
"""Nats by which a p-value that equals a fixed level may be beyond it, by rounding."""

NEW_REGIME, SLOW_CREEP = 1, 2
"""Values of `Levelled.drift`."""

# Columns of a segment's state, and of an entity's.
Q, M, OFFSET, CREDIT, Q0, M0, OFFSET0, S, FROZEN, AGE, QUIET, SEEN, MEMBERS, SLOW, KNOWN, SEGMENT = range(16)
OWN_S, OUT, OWN_AGE, OPEN, LIFTED, HOME, ENTITY = range(7)


class Levelled(NamedTuple):
    """What the level says of n records, an array (n,) each."""

    nats: NDArray[np.float64]
    """−ln p as recalibrated."""
    level: NDArray[np.float64]
    """From how many of them on the record is an alarm."""
    static_level: NDArray[np.float64]
    """The same on the scale of −ln p as it came in."""
    scale: NDArray[np.float64]
    """m: how many nats as they came in are one as recalibrated; NaN where the record was passed over."""
    alarm: NDArray[np.bool_]
    elevated: NDArray[np.bool_]
    """Whether the record is beyond the level within an excursion."""
    drift: NDArray[np.uint8]
    """Whether a drift was recognised at it: 0, `NEW_REGIME` or `SLOW_CREEP`."""


class Memory(NamedTuple):
    """What is remembered, by slot: a row a segment (k, SEGMENT), its last records (k, RING), a row an entity
    (e, ENTITY)."""

    segments: NDArray[np.float64]
    rings: NDArray[np.float32]
    entities: NDArray[np.float64]


@compiled
def follow(
    u: NDArray[np.float64],
    rate: NDArray[np.float64],
    entity: Visits,
    segment: Visits,
    begins: NDArray[np.int64],
    starts: NDArray[np.float64],
    memory: Memory,
    tail: float,
    adapt: bool,
    found: Levelled,
) -> None:
    """The recursion over −ln p (n,) and the promised rates (n,), record by record; moves `memory`, writes `found`.

    A segment that is met for the first time begins with the row `begins` (n,) of `starts`. Without `adapt` the level
    stays where it is, and every record beyond it is an alarm. One long function, as it runs once a record: with its
    state in local variables it takes a third of the time.
    """
    at, rings, own = memory
    base, last_rate, promise = -math.log(tail), 0.0, 0.0
    for i in range(len(u)):
        g, e = segment.slot[i], entity.slot[i]
        if segment.fresh[i]:
            at[g] = starts[begins[i]]
        if entity.fresh[i]:
            _move_in(at, g, own, e)
        if not math.isfinite(u[i]):
            continue
        if rate[i] != last_rate:
            last_rate, promise = rate[i], -math.log(rate[i])
        q, m, offset, s, was_frozen = at[g, Q], at[g, M], at[g, OFFSET], at[g, S], at[g, FROZEN]
        own_s, out, is_open, lift = own[e, OWN_S], own[e, OUT], own[e, OPEN], own[e, LIFTED]
        if int(at[g, SEEN]) % EVERY == 0:
            rings[g, int(at[g, SEEN]) // EVERY % RING] = u[i]
        at[g, SEEN] += 1
        if s <= 0 and was_frozen == 0:
            at[g, Q0], at[g, M0], at[g, OFFSET0] = q, m, offset

        x, level = u[i] - q, max(base, offset + promise)
        v, step = base + x / m, (1 - RISE) if x > 0 else -RISE
        excess = v - level
        alarm = excess > lift if adapt else excess >= -_ROUNDING
        found.nats[i], found.level[i], found.alarm[i] = max(0.0, v), level, alarm
        found.static_level[i], found.scale[i] = q + m * (level - base), m

        # excursions: of the segment, whose onset is gone back to, and of the entity
        s, own_s = _clipped(s + step, 0.0, EXCURSION), _clipped(own_s + step, 0.0, EXCURSION)
        frozen, out = _within(was_frozen, s), _within(out, own_s)
        if adapt and frozen > was_frozen:
            q, m, offset = at[g, Q0], at[g, M0], at[g, OFFSET0]
        still = frozen > 0 or out > 0

        # the incident: an alarm within it must exceed the one before by far
        first = alarm and is_open == 0
        if alarm:
            is_open, lift = 1.0, max(lift + LIFT, 2 * excess)
        found.elevated[i] = alarm or (is_open > 0 and excess > 0)

        # the level: up at an alarm, down a little at every record; within an excursion only the first alarm counts
        if adapt:
            if still:
                counted = 1.0 if first else OVERDRIVE * rate[i]
            else:
                counted, credit = 1.0 if alarm else 0.0, at[g, CREDIT]
                if alarm and excess > ALLOWANCE and credit >= 1:
                    counted, credit = 0.0, credit - 1
                at[g, CREDIT] = min(CREDITS, credit + rate[i])
            offset = max(base - promise, offset + FEEDBACK_STEP * (counted - OVERDRIVE * rate[i]))

        # the tail
        if adapt and not still:
            if x > 0:
                m = _clipped(m + EXCESS_STEP * (min(x, WINSOR * m) - m), EXCESS_RANGE[0], EXCESS_RANGE[1])
            q += QUANTILE_STEP * ((1.0 if x > 0 else 0.0) - tail)
            at[g, SLOW] += (q - at[g, SLOW]) / LONG_RUN

        # ages of what is beyond the regimes known so far, of the entity's excursion alone and of the calm, in records
        # of each member
        each = 1.0 / max(1.0, at[g, MEMBERS])
        age, own_age, quiet = at[g, AGE], own[e, OWN_AGE], 0.0 if x > 0 else at[g, QUIET] + each
        aged = _clipped(age + (each if frozen > 0 or u[i] > at[g, KNOWN] else -each), 0.0, 2 * REGIME)
        own_aged = _clipped(own_age + (1.0 if out > 0 and frozen == 0 else -1.0), 0.0, 2 * REGIME)
        new_regime = age < REGIME <= aged
        if new_regime:
            crept = frozen == 0 and at[g, SLOW] - at[g, KNOWN] > (q - at[g, KNOWN]) / 2
            found.drift[i] = SLOW_CREEP if crept else NEW_REGIME
        elif at[g, MEMBERS] > 1 and own_age < REGIME <= own_aged:
            found.drift[i] = NEW_REGIME
        if own_s <= 0:
            is_open, lift = 0.0, lift * (1 - min(1.0, max(FADE * rate[i], 1 / LONGEST_FADE)))

        at[g, Q], at[g, M], at[g, OFFSET], at[g, S], at[g, FROZEN] = q, m, offset, s, frozen
        at[g, AGE], at[g, QUIET], own[e, OWN_AGE] = aged, quiet, own_aged
        own[e, OWN_S], own[e, OUT], own[e, OPEN], own[e, LIFTED] = own_s, out, is_open, lift
        if adapt and new_regime:
            _set_anew(at, g, rings, tail)
            at[g, KNOWN], at[g, AGE], own[e, :HOME] = max(at[g, KNOWN], at[g, Q]), 0.0, 0.0
        elif adapt and quiet >= CALM:
            _set_anew(at, g, rings, tail)


@compiled
def _move_in(at: NDArray[np.float64], g: int, own: NDArray[np.float64], e: int) -> None:
    """A slot's new entity: its segment gains a member, that of the one before loses one."""
    if own[e, HOME] > 0:
        at[int(own[e, HOME]) - 1, MEMBERS] -= 1
    own[e] = 0
    own[e, HOME] = g + 1
    at[g, MEMBERS] += 1


@compiled
def _clipped(value: float, least: float, most: float) -> float:
    return least if value < least else most if value > most else value


@compiled
def _within(before: float, statistic: float) -> float:
    """Whether an excursion is on: from the moment its statistic is full until it is used up."""
    return 1.0 if statistic >= EXCURSION else 0.0 if statistic <= 0 else before


@compiled
def _set_anew(at: NDArray[np.float64], g: int, rings: NDArray[np.float32], tail: float) -> None:
    """q and m out of the last records alone, at rest, with a level no higher than the promise asks."""
    recent = np.sort(rings[g, : min(RING, 1 + (int(at[g, SEEN]) - 1) // EVERY)])
    place = math.ceil((1 - tail) * len(recent)) - 1
    at[g, Q] = recent[place]
    above = recent[place + 1 :]
    at[g, M] = min(max(above.mean() - recent[place], EXCESS_RANGE[0]), EXCESS_RANGE[1]) if len(above) else 1.0
    at[g, OFFSET] = min(at[g, OFFSET], 0.0)
    at[g, SLOW] = at[g, Q]
    at[g, S] = at[g, FROZEN] = at[g, QUIET] = 0.0
