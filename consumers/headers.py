"""Headers of many records as they stand in their record batches, decoded when somebody asks for them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import overload

from kafka.record.util import decode_varint

from consumers.batch import Header
from consumers.packed import Packed


class Headers(Sequence[Sequence[Header]]):
    """The headers of each record, of what `sections` holds: the well-formed end of a record of Kafka's format 2.

    That is a count, then a name and a content for each, a length before either; all numbers are zigzag varints.
    Few records are asked for their headers, so most are never decoded. A name that is not UTF-8 is kept as backslash
    escapes; a header without content has b"".
    """

    __slots__ = ("sections",)

    def __init__(self, sections: Packed) -> None:
        self.sections = sections

    @classmethod
    def concat(cls, parts: Sequence[Headers]) -> Headers:
        """The headers of all parts."""
        return cls(Packed.concat([part.sections for part in parts]))

    def __len__(self) -> int:
        return len(self.sections)

    @overload
    def __getitem__(self, at: int) -> list[Header]: ...
    @overload
    def __getitem__(self, at: slice) -> Headers: ...
    def __getitem__(self, at: int | slice) -> list[Header] | Headers:
        if isinstance(at, slice):
            return Headers(self.sections[at])
        return _decoded(self.sections[at] or b"\0")

    def __iter__(self) -> Iterator[list[Header]]:
        return (_decoded(section or b"\0") for section in self.sections)


def _decoded(section: bytes) -> list[Header]:
    count, at = decode_varint(section)
    headers = []
    for _ in range(count):
        name, at = _string(section, at)
        content, at = _string(section, at)
        headers.append((name.decode("utf-8", "backslashreplace"), content))
    return headers


def _string(section: bytes, at: int) -> tuple[bytes, int]:
    length, at = decode_varint(section, at)
    end = at + max(length, 0)
    return section[at:end], end
