"""How many records to take at once: as many as the settings allow, as long as that takes no dangerous time."""

from __future__ import annotations

FIRST = 1_024
"""Records in the first batch, when it is not known yet how long one takes."""
GROWTH = 4
"""The next batch is at most so many times as large."""


class Pace:
    """Keeps a batch under `longest_s` seconds: who polls too seldom is taken for hung, and loses its partitions."""

    def __init__(self, most: int, longest_s: float) -> None:
        self._most = most
        self._longest_s = longest_s
        self.records = min(most, FIRST)

    def took(self, records: int, seconds: float) -> None:
        """A batch of so many records was processed in that time."""
        if records:
            within = records * self._longest_s / max(seconds, 1e-6)
            self.records = int(max(1, min(self._most, GROWTH * self.records, within)))
