"""Unpacking compressed record batches without letting a few kilobytes fill the memory."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator
from gzip import GzipFile
from io import BytesIO

import snappy  # type: ignore[import-untyped]  # ships no types
from kafka import errors as kafka
from lz4.frame import LZ4FrameDecompressor  # type: ignore[import-untyped]  # ships no types
from zstandard import ZstdDecompressor, ZstdError

_XERIAL = b"\x82SNAPPY\x00"  # the blocked format of snappy-java: this, two versions, then blocks with their lengths
_XERIAL_HEADER = 16
_PIECE = 1 << 18  # bytes
_BROKEN = (OSError, EOFError, RuntimeError, ValueError, struct.error, zlib.error, ZstdError, snappy.UncompressError)


def inflate(codec: int, packed: bytes, limit: int) -> bytes:
    """Unpacks at most `limit` bytes; `codec` is the number of a record batch's attributes (1 gzip to 4 zstd).

    Raises kafka-python's `UnsupportedCodecError` for another number, and its `CorruptRecordError` where the bytes do
    not unpack, or would to more than `limit`; no more than that is ever held.
    """
    if codec not in _CODECS:
        raise kafka.UnsupportedCodecError(f"records are compressed with codec {codec}, expected 0 to {max(_CODECS)}")
    name, unpack = _CODECS[codec]
    try:
        unpacked = unpack(packed, limit)
    except _BROKEN as error:
        raise kafka.CorruptRecordError(f"records do not unpack with {name}: {error}") from error
    if len(unpacked) > limit:
        raise kafka.CorruptRecordError(f"{len(packed)} bytes of {name} unpack to more than {limit} bytes")
    return unpacked


def _gzip(packed: bytes, limit: int) -> bytes:
    return _pieces(GzipFile(fileobj=BytesIO(packed)).read, limit)


def _lz4(packed: bytes, limit: int) -> bytes:
    decompressor = LZ4FrameDecompressor()
    fed = iter([packed])
    unpacked = _pieces(lambda size: b"" if decompressor.eof else decompressor.decompress(next(fed, b""), size), limit)
    if not decompressor.eof and len(unpacked) <= limit:
        raise EOFError("the frame is cut off")
    return unpacked


def _zstd(packed: bytes, limit: int) -> bytes:
    return _pieces(ZstdDecompressor().stream_reader(packed, read_across_frames=True).read, limit)


def _pieces(read: Callable[[int], bytes], limit: int) -> bytes:
    """Up to one byte more than the limit. Readers reserve what they are asked for, and most batches are small."""
    pieces, left = [], limit + 1
    while left and (piece := read(min(left, _PIECE))):
        pieces.append(piece)
        left -= len(piece)
    return b"".join(pieces)


def _snappy(packed: bytes, limit: int) -> bytes:
    """Each block begins with the size that it unpacks to, which snappy holds it to."""
    blocks = list(_blocks(packed)) if packed.startswith(_XERIAL) else [packed]
    if sum(map(_declared, blocks)) > limit:
        raise ValueError(f"it declares more than {limit} bytes")
    return b"".join(map(snappy.decompress, blocks))


def _blocks(packed: bytes) -> Iterator[bytes]:
    at = _XERIAL_HEADER
    while at < len(packed):
        (size,) = struct.unpack_from(">I", packed, at)
        yield packed[at + 4 : at + 4 + size]
        at += 4 + size


def _declared(block: bytes) -> int:
    """The varint at the beginning: seven bits a byte, the lowest first, the last byte below 128."""
    size = 0
    for place, byte in enumerate(block[:5]):
        size |= (byte & 0x7F) << (7 * place)
        if byte < 0x80:
            return size
    raise ValueError("it declares no size")


_CODECS: dict[int, tuple[str, Callable[[bytes, int], bytes]]] = {
    1: ("gzip", _gzip),
    2: ("snappy", _snappy),
    3: ("lz4", _lz4),
    4: ("zstd", _zstd),
}
