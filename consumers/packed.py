"""Many byte strings in one buffer, so that compiled code can go over them without an object each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import overload

import numpy as np
from numpy.typing import NDArray

from consumers.compiled import compiled

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
        return cls(np.frombuffer(joined, np.uint8), _end_to_end(lengths), lengths)

    @classmethod
    def concat(cls, parts: Sequence[Packed]) -> Packed:
        """All strings of the parts: in the buffer that the parts share, else in one that holds them and no more."""
        if len(parts) < 2:
            return parts[0] if parts else cls.of([])
        lengths = np.concatenate([part.lengths for part in parts])
        if all(part.data is parts[0].data for part in parts):
            return cls(parts[0].data, np.concatenate([part.starts for part in parts]), lengths)
        starts = _end_to_end(lengths)
        data = np.empty(np.maximum(lengths, 0).sum(), np.uint8)
        row = 0
        for part in parts:
            _copy(part.data, part.starts, part.lengths, data, starts[row : row + len(part)])
            row += len(part)
        return cls(data, starts, lengths)

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
        start, length = self.starts.item(at), self.lengths.item(at)
        return None if length == ABSENT else self.data[start : start + length].tobytes()

    def __iter__(self) -> Iterator[bytes | None]:
        if not len(self):
            return
        low = int(self.starts.min())
        data = self.data[low : int((self.starts + self.lengths).max(initial=low))].tobytes()
        for start, length in zip((self.starts - low).tolist(), self.lengths.tolist(), strict=True):
            yield None if length == ABSENT else data[start : start + length]


def _end_to_end(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where each string of these lengths (n,) starts when one follows the other."""
    taken = np.maximum(lengths, 0)
    return np.asarray(np.cumsum(taken) - taken, np.int64)


@compiled
def _copy(
    data: NDArray[np.uint8],
    starts: NDArray[np.int64],
    lengths: NDArray[np.int64],
    to: NDArray[np.uint8],
    begins: NDArray[np.int64],
) -> None:
    """Each string to its place in `to`. Unsigned, for an index that might be negative is looked at byte by byte."""
    for row in range(len(starts)):
        start, begin = np.uint64(starts[row]), np.uint64(begins[row])
        for at in range(np.uint64(max(lengths[row], 0))):
            to[begin + at] = data[start + at]
