"""Compressed record batches unpack to what was packed, or to an error, and never to more than the limit."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as some
from kafka import codec as packing
from kafka.errors import CorruptRecordError, KafkaError, UnsupportedCodecError

from consumers.inflation import inflate

LIMIT = 100_000
PACK: dict[str, tuple[int, Callable[[bytes], bytes]]] = {
    "gzip": (1, packing.gzip_encode),
    "snappy": (2, lambda plain: packing.snappy_encode(plain, xerial_compatible=False)),
    "snappy in blocks": (2, packing.snappy_encode),
    "lz4": (3, packing.lz4_encode),
    "zstd": (4, packing.zstd_encode),
}
every_codec = pytest.mark.parametrize(("codec", "pack"), PACK.values(), ids=PACK)


@every_codec
@pytest.mark.parametrize("size", [0, 1, 40_000, LIMIT])
def test_what_was_packed_comes_out(codec: int, pack: Callable[[bytes], bytes], size: int) -> None:
    plain = bytes(number % 251 for number in range(size))
    assert inflate(codec, pack(plain), LIMIT) == plain


@every_codec
@pytest.mark.parametrize("size", [LIMIT + 1, 30 * LIMIT])
def test_more_than_the_limit_is_refused(codec: int, pack: Callable[[bytes], bytes], size: int) -> None:
    with pytest.raises(CorruptRecordError, match=f"more than {LIMIT} bytes"):
        inflate(codec, pack(bytes(size)), LIMIT)


@pytest.mark.parametrize("codec", [1, 2, 3, 4])
def test_what_was_never_packed_is_refused(codec: int) -> None:
    with pytest.raises(CorruptRecordError, match="do not unpack"):
        inflate(codec, b"\xffnothing that anything packed", LIMIT)


@pytest.mark.parametrize("name", ["gzip", "snappy", "snappy in blocks", "lz4"])
def test_what_is_cut_off_is_refused(name: str) -> None:
    codec, pack = PACK[name]
    with pytest.raises(CorruptRecordError, match="do not unpack"):
        inflate(codec, pack(bytes(range(250)) * 100)[:-9], LIMIT)


def test_snappy_that_unpacks_to_more_than_it_declares_is_refused() -> None:
    packed = packing.snappy_encode(bytes(1_000), xerial_compatible=False)
    with pytest.raises(CorruptRecordError, match="do not unpack with snappy"):
        inflate(2, b"\x05" + packed[2:], LIMIT)


def test_gzip_of_several_members_comes_out_whole() -> None:
    assert inflate(1, gzip.compress(b"one") + gzip.compress(b"two"), LIMIT) == b"onetwo"


def test_an_unknown_codec_is_named() -> None:
    with pytest.raises(UnsupportedCodecError, match="codec 7, expected 0 to 4"):
        inflate(7, b"", LIMIT)


@given(some.integers(0, 7), some.binary(max_size=200), some.sampled_from([b"", b"\x82SNAPPY\x00", b"\x1f\x8b\x08"]))
def test_garbage_raises_errors_of_kafka_python_or_stays_within_the_limit(codec: int, body: bytes, head: bytes) -> None:
    with suppress(KafkaError):
        assert len(inflate(codec, head + body, LIMIT)) <= LIMIT
