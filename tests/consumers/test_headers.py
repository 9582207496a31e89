"""Headers are decoded one record at a time, and are then what a list of them would be."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as some
from kafka.record.util import encode_varint

from consumers.headers import Headers
from consumers.packed import Packed

Record = list[tuple[str, bytes]]
some_records = some.lists(some.lists(some.tuples(some.text(max_size=5), some.binary(max_size=90)), max_size=3))


def packed(records: list[Record]) -> Headers:
    return Headers(Packed.of([section(record) for record in records]))


def section(record: Record) -> bytes:
    written = bytearray()
    encode_varint(len(record), written.append)
    for name, content in record:
        for part in (name.encode(), content):
            encode_varint(len(part), written.append)
            written.extend(part)
    return bytes(written)


@given(some_records)
def test_headers_are_those_of_each_record(records: list[Record]) -> None:
    headers = packed(records)
    assert list(headers) == records
    assert [headers[at] for at in range(-len(records), len(records))] == records + records


@settings(deadline=None)  # copying is compiled at its first call
@given(some.lists(some_records, max_size=3), some.slices(5))
def test_they_are_joined_and_cut_as_lists_are(parts: list[list[Record]], cut: slice) -> None:
    whole = [record for part in parts for record in part]
    joined = Headers.concat([packed(part) for part in parts])
    assert (len(joined), list(joined), list(joined[cut])) == (len(whole), whole, whole[cut])


def test_a_header_without_content_is_empty_and_a_name_that_is_not_utf_8_is_escaped() -> None:
    assert list(Headers(Packed.of([b"\4\2\xe9\1\2a\2b"]))) == [[(r"\xe9", b""), ("a", b"b")]]
