"""Records that are told of again, because a late one came before them and changed what led up to them.

The level is not rewound: they are judged by it as it was at the late record, and teach it nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from consumers.batch import Columns
from detector.alerts import severity_rank
from detector.incidents import Again, Decided


def told_again(causes: Columns, again: Sequence[Again]) -> Columns:
    """k records as they were, given the late ones that changed them, which are of the same entities."""
    records = [it.record for it in again]
    return replace(
        causes,
        offsets=np.array([record.offset for record in records], np.int64),
        time=np.array([record.time for record in records], np.int64),
        numbers={name: np.array([record.numbers[name] for record in records]) for name in causes.numbers},
        texts={name: np.array([record.texts[name] for record in records], object) for name in causes.texts},
    )


def judged_again(causes: Decided, nats: NDArray[np.float64], model: NDArray[np.object_]) -> Decided:
    """What is decided of k records, of which −ln p (k,) is known anew, and the most surprised model (k,), given what
    was decided of the late ones that changed them. They count once: none is an alarm."""
    seen, never = causes.level + (nats - causes.static_level) / causes.scale, np.zeros(len(nats), np.bool_)
    return causes._replace(
        static_nats=nats,
        nats=np.maximum(0.0, seen),
        alarm=never,
        elevated=never,
        drift=np.zeros(len(nats), np.uint8),
        model=model,
        rank=severity_rank(seen, causes.level),
    )
