"""The false-alarm budget in the user's words, and the rate per record that keeps it.

`rate` is a rate already. `false_alarms: 3/day` is divided by the traffic: what training saw at first, then what each
partition sees, averaged over about a day, so that a day of ten times the traffic has no more alarms, and night and day
share one rate. Every partition keeps its own part of the budget, so the parts add up however replicas share them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from consumers.batch import Partition
from consumers.compiled import compiled
from detector.snapshot import State

if TYPE_CHECKING:
    from detector.config import AlertSettings

DAY_MS = 86_400_000.0
DEFAULT_RATE = 0.001
RATES = (1e-7, 0.2)
"""Rates per record that a budget may come to."""
BESIDE = 0.1
"""Part of the budget that alerts of a kind beside likelihood may come to, on top of it."""
EVEN_SHARE = 0.1
"""Part of the budget that goes to all partitions alike, for traffic that training did not see; the rest goes by the
traffic that it saw."""
MEMORY_MS = DAY_MS / 2
"""Time constant of the decay by which traffic is averaged: records are half a day old in the mean, as in a window of a
day."""
NEAR_MS, NEAR = 3_600_000.0, 10.0
"""A record that is so far from its partition's clock, or so many times the usual time between two records, does not
move it: its own clock may be wrong."""
GAP = 10
"""So many of them in a row ahead, and there was a gap; as many behind as a usual day has, and the clock was wrong."""
STEP = 0.01
"""Traffic must have changed by this share for the rate to follow: a rate that stays is cheaper."""
TRAFFIC_RANGE = 100.0
"""Traffic beyond so many times what training saw, or below that part of it, is taken for that."""

_PER_DAY = {"hour": 24.0, "day": 1.0, "week": 1 / 7, "month": 1 / 30}


def per_day(false_alarms: str) -> float:
    """`3/day`, `1/week` and the like as alarms a day. Raises `ValueError` for anything else."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*/\s*(hour|day|week|month)\s*", false_alarms)
    if match is None or float(match[1]) <= 0:
        raise ValueError(f"Expected a number above 0 and one of {', '.join(_PER_DAY)}, like 3/day")
    return float(match[1]) * _PER_DAY[match[2]]


class Budget(NamedTuple):
    """Alarms per record that are promised at the traffic of training, and alarms a day where that was asked."""

    rate: float
    per_day: float | None
    records_per_day: float

    @classmethod
    def of(cls, alerts: AlertSettings, *, records: int, span_ms: float) -> Budget:
        """The budget of the settings, for traffic of so many records in that time."""
        traffic = records * DAY_MS / max(span_ms, 1.0)
        if alerts.false_alarms is None:
            return cls(DEFAULT_RATE if alerts.rate is None else alerts.rate, None, traffic)
        daily = per_day(alerts.false_alarms)
        return cls(float(np.clip(daily / traffic, *RATES)), daily, traffic)

    @property
    def beside(self) -> float:
        """Alerts per record that each kind of alert beside likelihood may have: silences, and novelties."""
        return BESIDE * self.rate

    def share(self, partition: Partition, seen: Mapping[Partition, int], partitions: int) -> float:
        """The partition's part of the budget, out of the training records of each partition and how many there are."""
        total = sum(seen.values())
        if not total:
            return 1 / max(1, partitions)
        return (1 - EVEN_SHARE) * seen.get(partition, 0) / total + EVEN_SHARE / max(partitions, len(seen))


class Allowance:
    """The rate promised at each record of one partition. Depends on the records alone, not on where batches end."""

    def __init__(self, budget: Budget, share: float) -> None:
        usual = share * budget.records_per_day
        self._state = np.array([math.inf, usual, math.inf, usual])
        self.allot(budget, share)

    def allot(self, budget: Budget, share: float) -> None:
        """Another version, or another share: what is known of the traffic stays."""
        self._budget = budget
        self._daily = None if budget.per_day is None else share * budget.per_day
        self._usual = share * budget.records_per_day

    def rates(self, time: NDArray[np.int64]) -> NDArray[np.float64]:
        """Promised alarms per record (n,), for event times (n,) in epoch milliseconds in offset order."""
        rates = np.full(len(time), self._budget.rate)
        if self._daily is not None:
            _divide(time, self._state, self._daily, self._usual, rates)
            np.clip(rates, *RATES, out=rates)
        return rates

    def to_state(self) -> State:
        """What is known of the traffic."""
        return {"traffic": self._state.copy()}

    def restore(self, state: State) -> None:
        """Goes on where `to_state` stood."""
        self._state = state["traffic"].copy()


@compiled
def _divide(
    time: NDArray[np.int64], state: NDArray[np.float64], daily: float, usual: float, rates: NDArray[np.float64]
) -> None:
    """Traffic as an exponentially decaying count. `state` is the clock (ms), the records a day, how many records in a
    row were far from the clock, and the records a day that the rate goes by, which follow in steps of `STEP`."""
    near, longest = max(NEAR_MS, NEAR * DAY_MS / usual), max(DAY_MS, NEAR * DAY_MS / usual)
    least, most = usual / TRAFFIC_RANGE, usual * TRAFFIC_RANGE
    clock, traffic, far, told = state
    for i in range(len(time)):
        ahead = time[i] - clock
        far = far + 1 if abs(ahead) > near else 0.0
        wrong = far > (GAP if ahead > 0 else usual)
        step = min(max(ahead, 0.0), longest) if wrong or far == 0 else 0.0
        clock, far = (float(time[i]), 0.0) if wrong else (clock + step, far)
        traffic = min(max(traffic * math.exp(-step / MEMORY_MS) + DAY_MS / MEMORY_MS, least), most)
        told = traffic if abs(traffic - told) > STEP * told else told
        rates[i] = daily / told
    state[0], state[1], state[2], state[3] = clock, traffic, far, told
