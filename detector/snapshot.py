"""What a partition remembers, as bytes: a snapshot, from which it goes on as if nothing had been in between.

Each component with memory gives what it remembers as a `State`, a copy, and takes it back. Its leaves are arrays and
JSON values; nothing is ever unpickled. Packed, arrays are safetensors by dotted path and the rest is one JSON text,
compressed as one Zstandard frame (RFC 8878) with a checksum, behind the name and the number of the format.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import safetensors.numpy
import zstandard
from numpy.typing import NDArray

from detector.errors import SnapshotError

if TYPE_CHECKING:
    from detector.partition import PartitionMemory

State = dict[str, Any]
"""Nested dictionaries, the keys of which are identifiers, of arrays and JSON values."""

NAME, FORMAT = b"offnominal memory ", 2
LEVEL = 1
"""Of compression: encoded rows are mostly noise, on which higher ones gain nothing."""
MOST_INFLATED = 1 << 32
"""Bytes that a snapshot has at most before it is compressed; more are neither written nor inflated."""
MARGIN = 0.95
"""Where a snapshot is too large, this part of the room is aimed at: entities differ in size."""

REST = "."
_KINDS: dict[type, type[np.generic]] = {bool: np.bool_, int: np.int64, float: np.float64}


def pack(state: State) -> bytes:
    """The state as bytes. Raises `ValueError` for a key that is no identifier."""
    return _compressed(_joined(state))


def unpack(packed: bytes) -> State:
    """What `pack` took apart; the arrays are read-only. Raises `SnapshotError` for anything else, and for what would
    inflate to more than `MOST_INFLATED` bytes."""
    head = NAME + bytes([FORMAT])
    if not packed.startswith(NAME):
        raise SnapshotError(f"{len(packed):,} bytes that begin with {packed[: len(NAME)]!r} are no snapshot.")
    if not packed.startswith(head):
        raise SnapshotError(f"Snapshot has format {[*packed[len(NAME) : len(head)]]}. This release reads [{FORMAT}].")
    try:
        return _parted(_inflated(memoryview(packed)[len(head) :]))
    except (
        *(zstandard.ZstdError, safetensors.SafetensorError),
        *(KeyError, ValueError, TypeError, MemoryError, RecursionError),
    ) as error:
        raise SnapshotError(f"Snapshot of {len(packed):,} bytes is damaged: {error}") from error


def packed(memory: PartitionMemory, max_bytes: int) -> tuple[bytes, int]:
    """What a partition remembers in at most `max_bytes`, and how many entities had to be left out for that.

    The most dispensable are: those without an open incident that were not seen for longest. They begin anew. Raises
    `SnapshotError` where not even a snapshot without any entity is small enough.
    """
    dispensable = memory.dispensable()
    kept = len(dispensable)
    while True:
        left_out = len(dispensable) - kept
        inflated = _joined(memory.to_state(np.sort(dispensable[left_out:])))
        found = _compressed(inflated)
        excess = max(len(found) / max_bytes, len(inflated) / MOST_INFLATED)
        if excess <= 1:
            return found, left_out
        if not kept:
            raise SnapshotError(
                f"Snapshot without any entity has {len(found):,} bytes. Expected {max_bytes:,} at most."
            )
        kept = min(kept - 1, int(MARGIN * kept / excess))


def to_columns(names: Sequence[str], rows: Iterable[Sequence[Any]]) -> State:
    """Rows of values as one column a name: an array where all are numbers of one kind, else a list."""
    columns = zip(*rows, strict=True)
    return {name: _column(next(columns, ())) for name in names}


def to_rows(names: Sequence[str], state: State) -> Iterator[tuple[Any, ...]]:
    """What `to_columns` took apart."""
    columns = [state[name] for name in names]
    return zip(*(it.tolist() if isinstance(it, np.ndarray) else it for it in columns), strict=True)


def _column(values: Sequence[Any]) -> NDArray[Any] | list[Any]:
    kinds = {*map(type, values)}
    kind = _KINDS.get(kinds.pop()) if len(kinds) == 1 else None
    return list(values) if kind is None else np.array(values, kind)


def _joined(state: State) -> bytes:
    arrays: dict[str, NDArray[Any]] = {}
    rest = json.dumps(_set_apart(state, "", arrays)).encode()
    arrays[REST] = np.frombuffer(rest, np.uint8)
    return safetensors.numpy.save(arrays)


def _set_apart(state: State, path: str, arrays: dict[str, NDArray[Any]]) -> State:
    """What of a state is JSON; adds the arrays by their path."""
    rest: State = {}
    for key, value in state.items():
        if not (isinstance(key, str) and key.isidentifier()):
            raise ValueError(f"Key {path}{key!r} of a state. Expected an identifier.")
        if isinstance(value, np.ndarray):
            arrays[path + key] = np.ascontiguousarray(value)
        else:
            rest[key] = _set_apart(value, f"{path}{key}.", arrays) if isinstance(value, dict) else value
    return rest


def _parted(joined: bytes) -> State:
    arrays = safetensors.numpy.load(joined)
    state: State = json.loads(arrays.pop(REST).tobytes())
    for path, array in arrays.items():
        place = state
        *way, last = path.split(".")
        for key in way:
            place = place[key]
        place[last] = array
    return state


def _compressed(inflated: bytes) -> bytes:
    frame = zstandard.ZstdCompressor(level=LEVEL, write_checksum=True, write_content_size=True).compress(inflated)
    return NAME + bytes([FORMAT]) + frame


def _inflated(frame: memoryview) -> bytes:
    size = zstandard.get_frame_parameters(frame).content_size
    if size > MOST_INFLATED:  # or unknown, which is the greatest number there is
        raise ValueError(f"{size:,} bytes when inflated. Expected {MOST_INFLATED:,} at most.")
    return zstandard.ZstdDecompressor().decompress(frame, allow_extra_data=False)
