"""Records a second, processor time and memory of the process that reads them."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

SAMPLES = 10
_MB = 1e6


class _At(NamedTuple):
    records: int
    at: float
    cpu_s: float


class Meter:
    """Counts records up to `records`, from the end of the first batch to the end of the last.

    The first batch is left out wherever one is measured: joining a group, and what is done once, is not throughput.
    Memory is sampled at each tenth of the records.
    """

    def __init__(self, records: int, clock: Callable[[], float] = time.perf_counter) -> None:
        self._records = records
        self._clock = clock
        self._first: _At | None = None
        self._last = _At(0, 0.0, 0.0)
        self._rss_mb: list[float] = []

    def took(self, records: int) -> bool:
        """A batch has been done with; whether that was the last."""
        if records:
            self._last = _At(self._last.records + records, self._clock(), time.process_time())
            self._first = self._first or self._last
            due = min(self._last.records, self._records) * SAMPLES // self._records
            self._rss_mb += [rss_mb()] * (due - len(self._rss_mb))
        return self.done

    @property
    def done(self) -> bool:
        return self._last.records >= self._records

    @property
    def begun(self) -> bool:
        """Whether there are records after the first batch."""
        return self._first is not None and self._first is not self._last

    def figures(self) -> dict[str, Any]:
        """`records` counted, the `seconds` and `cpu_s` they took, and `rss_mb` at each tenth. Raises `ValueError` where
        all came in one batch: there is no rate."""
        if self._first is None or not self.begun:
            raise ValueError(f"{self._last.records} records came in one batch. Expected several: ask for more records.")
        return {
            "records": self._last.records - self._first.records,
            "seconds": self._last.at - self._first.at,
            "cpu_s": self._last.cpu_s - self._first.cpu_s,
            "rss_mb": [round(sample, 1) for sample in self._rss_mb],
        }


def rss_mb() -> float:
    """Memory of this process that is in RAM, in millions of bytes; of Linux."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    kilobytes = next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS:"))
    return int(kilobytes) * 1024 / _MB
