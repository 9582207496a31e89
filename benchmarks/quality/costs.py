"""What a piece of work costs: seconds on the wall clock, and memory at its peak."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_RESET_PEAK = "5"  # to clear_refs, see proc(5)
_KB = 1024


@dataclass(slots=True)
class Cost:
    """Of work that is done: the peak is what the resident memory of the process rose by at the most, in MB. Memory that
    was freed before and that the allocator kept is not counted again, so that small work beside large may cost 0; nor
    is a GPU's."""

    seconds: float = 0.0
    peak_mb: float = 0.0


@contextmanager
def measured() -> Iterator[Cost]:
    """Fills the cost in at its end. Linux alone can forget a peak, so that it is exact and needs no process of its own.

    Of two at a time in one process, the inner one makes the outer one forget: do one after another.
    """
    cost = Cost()
    gc.collect()
    Path("/proc/self/clear_refs").write_text(_RESET_PEAK)
    before, since = _resident_kb("VmRSS"), time.perf_counter()
    yield cost
    cost.seconds = time.perf_counter() - since
    cost.peak_mb = max(0, _resident_kb("VmHWM") - before) / _KB


def _resident_kb(name: str) -> int:
    """VmRSS is what there is now, VmHWM the most there was."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith(f"{name}:"))
