"""A batch of values as they might come, for what is to withstand them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from consumers.batch import Partition, RawBatch

TIME_MS = 1_767_225_600_000


def batch_of(values: Sequence[bytes | None], *, first: int = 0) -> RawBatch:
    """Values of one partition from this offset on, a second apart."""
    n = len(values)
    return RawBatch(
        partitions=(Partition("machines", 0),),
        partition=np.zeros(n, np.int32),
        offsets=first + np.arange(n),
        timestamps=TIME_MS + 1000 * (first + np.arange(n)),
        keys=[None] * n,
        values=values,
        headers=[()] * n,
    )
