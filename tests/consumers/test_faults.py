from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from consumers.batch import Partition, RawBatch, Schema
from consumers.decode import JsonDecoder
from consumers.faults import Fault, faults

SCHEMA = Schema(("cpu", "disk.read", r"a\.b"), ("route",), "machine", "ts")
FIRST, SECOND = Partition("t", 0), Partition("t", 1)


def found(
    values: Sequence[bytes | None], partition: Sequence[int] | None = None, first_ms: int = 5_000
) -> dict[Partition, list[Fault]]:
    n = len(values)
    batch = RawBatch(
        partitions=(FIRST, SECOND),
        partition=np.array(partition or [0] * n, np.int32),
        offsets=np.arange(100, 100 + n),
        timestamps=np.arange(first_ms, first_ms + n),
        keys=[None] * n,
        values=values,
        headers=[()] * n,
    )
    return faults(SCHEMA, batch, JsonDecoder(SCHEMA).decode(batch)[1])


@pytest.mark.parametrize(
    ("record", "path", "type_", "wanted"),
    [
        (b'{"cpu": "7"}', "cpu", "string", "number"),
        (b'{"cpu": [7]}', "cpu", "array", "number"),
        (b'{"cpu": {}}', "cpu", "object", "number"),
        (b'{"disk": 5}', "disk", "number", "object"),
        (b'{"disk": {"read": "x"}}', "disk.read", "string", "number"),
        (b'{"a.b": "x"}', r"a\.b", "string", "number"),
        (b'{"route": 1.5}', "route", "number", "text"),
        (b'{"machine": [], "cpu": 1}', "machine", "array", "text"),
        (b'{"ts": true}', "ts", "boolean", "time"),
    ],
)
def test_a_field_of_another_type_is_named_with_what_it_holds(record: bytes, path: str, type_: str, wanted: str) -> None:
    assert found([record]) == {FIRST: [Fault(100, 5_000, (path,), type_, wanted)]}


def test_a_record_without_an_entity_lacks_that_field() -> None:
    assert found([b'{"cpu": 1}']) == {FIRST: [Fault(100, 5_000, ("machine",), None, None)]}


def test_a_record_without_any_feature_lacks_all_of_them() -> None:
    assert found([b'{"machine": "a"}'])[FIRST][0].fields == ("cpu", "disk.read", r"a\.b", "route")


@pytest.mark.parametrize(
    "record", [None, b"", b"{", b"[]", b"7", b'{"cpu": 1e999}', b'{"machine": "a", "cpu": 1, "ts": -1}']
)
def test_what_is_not_due_to_a_field_is_no_fault(record: bytes | None) -> None:
    assert found([record]) == {}


def test_faults_come_by_partition_with_their_own_offset_and_time() -> None:
    bad = b'{"cpu": "x"}'
    told = found([bad, b'{"machine": "a", "cpu": 1}', bad, bad], [0, 0, 0, 1])
    assert {partition: [(fault.offset, fault.time) for fault in part] for partition, part in told.items()} == {
        FIRST: [(100, 5_000), (102, 5_002)],
        SECOND: [(103, 5_003)],
    }


@pytest.mark.parametrize("first_ms", [-1, 2**62])
def test_a_fault_without_a_time_of_the_calendar_has_none(first_ms: int) -> None:
    assert found([b'{"cpu": "x"}'], first_ms=first_ms)[FIRST][0].time == 0


def test_without_letters_there_are_no_faults() -> None:
    assert found([b'{"machine": "a", "cpu": 1}']) == {}
