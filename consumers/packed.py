"""Many byte strings in one buffer, so that compiled code can go over them without an object each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import overload

import numpy as np
from numpy.typing import NDArray

ABSENT = -1
"""The length of one that is null."""


class Packed(Sequence[bytes | None]):
    """A sequence of byte strings, each `data[start : start + length]`; null where its length is `ABSENT`."""

    __slots__ = ("data", "lengths", "starts")

    def __init__(self, data: NDArray[np.uint8], starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> None:
        self.data = data
        self.starts = starts
        self.lengths = lengths

    @classmethod
    def of(cls, values: Sequence[bytes | None]) -> Packed:
        """The values end to end; a sequence that is packed already as it is."""
        if isinstance(values, Packed):
            return values
        try:
            joined = b"".join(values)  # type: ignore[arg-type]  # a null raises
            lengths = np.fromiter(map(len, values), np.int64, len(values))  # type: ignore[arg-type]
        except TypeError:
            joined = b"".join([value or b"" for value in values])
            lengths = np.array([ABSENT if value is None else len(value) for value in values], np.int64)
        taken = np.maximum(lengths, 0)
        return cls(np.frombuffer(joined, np.uint8), np.cumsum(taken) - taken, lengths)

    @classmethod
    def concat(cls, parts: Sequence[Packed]) -> Packed:
        """All strings of the parts."""
        if len(parts) == 1:
            return parts[0]
        sizes = np.cumsum([0, *(len(part.data) for part in parts)]).tolist()
        return cls(
            np.concatenate([np.zeros(0, np.uint8), *(part.data for part in parts)]),
            np.concatenate(
                [np.zeros(0, np.int64), *(part.starts + size for part, size in zip(parts, sizes, strict=False))]
            ),
            np.concatenate([np.zeros(0, np.int64), *(part.lengths for part in parts)]),
        )

    def take(self, rows: NDArray[np.int64] | NDArray[np.bool_] | slice) -> Packed:
        """Those of the rows."""
        return Packed(self.data, self.starts[rows], self.lengths[rows])

    def __len__(self) -> int:
        return len(self.lengths)

    @overload
    def __getitem__(self, at: int) -> bytes | None: ...
    @overload
    def __getitem__(self, at: slice) -> Packed: ...
    def __getitem__(self, at: int | slice) -> bytes | Packed | None:
        if isinstance(at, slice):
            return self.take(at)
        start, length = int(self.starts[at]), int(self.lengths[at])
        return None if length == ABSENT else self.data[start : start + length].tobytes()

    def __iter__(self) -> Iterator[bytes | None]:
        if not len(self):
            return
        low = int(self.starts.min())
        data = self.data[low : int((self.starts + self.lengths).max(initial=low))].tobytes()
        for start, length in zip((self.starts - low).tolist(), self.lengths.tolist(), strict=True):
            yield None if length == ABSENT else data[start : start + length]
