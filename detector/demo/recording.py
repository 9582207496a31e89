"""The recording that the demo plays: five weeks of one server, a record a minute, the second half labelled."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import as_file, files

import msgspec
import numpy as np
import polars as pl
from numpy.typing import NDArray

MACHINE = "machine-3-3"
START_MS = 1_767_225_600_000
"""Event time of the first record, 2026-01-01T00:00Z; the recording itself carries no dates."""
STEP_MS = 60_000


@dataclass(frozen=True, slots=True)
class Recording:
    """Telemetry (n, metrics) and its labels (n,), 1 inside an event.

    The first half is normal operation, to learn from.
    """

    metrics: tuple[str, ...]
    values: NDArray[np.float64]
    labels: NDArray[np.uint8]

    @property
    def half(self) -> int:
        """Rows in the first half."""
        return len(self.values) // 2

    def records(self, start: int, stop: int) -> list[bytes]:
        """Rows as JSON records, as an agent on the server would send them."""
        rows = self.values[start:stop].tolist()
        return [
            msgspec.json.encode(
                {"machine": MACHINE, "time": START_MS + row * STEP_MS, **dict(zip(self.metrics, values, strict=True))}
            )
            for row, values in enumerate(rows, start)
        ]

    def events(self) -> list[tuple[int, int]]:
        """First row and the row after the last of each labelled event."""
        edges = np.flatnonzero(np.diff(self.labels, prepend=0, append=0))
        return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))


def load_recording() -> Recording:
    """The recording shipped with the package (Server Machine Dataset, MIT licence)."""
    with as_file(files("detector.demo") / f"{MACHINE}.parquet") as path:
        frame = pl.read_parquet(path)
    metrics = tuple(name for name in frame.columns if name != "label")
    return Recording(metrics, frame.select(metrics).to_numpy() / 1e6, frame["label"].to_numpy())
