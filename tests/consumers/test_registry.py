"""The schema registry: what it knows, what it does not, and what becomes of records when it cannot be asked."""

from __future__ import annotations

import base64
import io
import json
import socket
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import fastavro
import numpy as np
import pytest
from pydantic import SecretStr

from consumers import registry
from consumers.avro import AvroProgram
from consumers.batch import Partition, RawBatch, Schema
from consumers.binary import Unreadable, Wanted
from consumers.decode import DeadLetterReason
from consumers.decoding import RegistryDecoder, decoder
from consumers.errors import (
    AuthenticationFailed,
    BrokerUnavailable,
    NotAuthorised,
    Retry,
    Stop,
    StreamError,
    TlsFailed,
)
from consumers.registry import Registry
from consumers.settings import RegistrySettings
from tests.consumers.registries import Schemas, Server, answering, registry_server

PLAIN = {"type": "record", "name": "R", "fields": [{"name": "x", "type": "double"}]}
WANTED = Schema(numbers=("x",))


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with registry_server() as started:
        yield started


def raw_batch(values: Sequence[bytes | None]) -> RawBatch:
    n = len(values)
    return RawBatch(
        partitions=(Partition("machines", 0),),
        partition=np.zeros(n, np.int32),
        offsets=np.arange(n),
        timestamps=np.full(n, 1_700_000_000_000),
        keys=[None] * n,
        values=values,
        headers=[()] * n,
    )


def value(schema_id: int, schema: Any, record: Mapping[str, Any]) -> bytes:
    body = io.BytesIO()
    fastavro.schemaless_writer(body, fastavro.parse_schema(schema), record)
    return b"\0" + schema_id.to_bytes(4, "big") + body.getvalue()


def record(*fields: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "record", "name": "R", "fields": list(fields)}


def test_a_schema_comes_with_its_format_and_what_it_names_in_order(server: Server) -> None:
    inner = {"type": "record", "name": "a.Inner", "fields": [{"name": "b", "type": "double"}]}
    middle = {"type": "record", "name": "a.Middle", "fields": [{"name": "inner", "type": "a.Inner"}]}
    outer = record({"name": "middle", "type": "a.Middle"}, {"name": "inner", "type": "a.Inner"})
    to_inner = {"name": "a.Inner", "subject": "inner", "version": 1}
    server.register("inner", "AVRO", json.dumps(inner))
    server.register("middle", "AVRO", json.dumps(middle), [to_inner])
    to_middle = {"name": "a.Middle", "subject": "middle", "version": 1}
    schema_id = server.register("outer", "AVRO", json.dumps(outer), [to_middle, to_inner])

    found = Registry(server.settings).schema(schema_id)
    assert (found.format, json.loads(found.text)) == ("AVRO", outer)
    assert [*found.references] == ["a.Inner", "a.Middle"]

    columns, letters = decoder(Schema(numbers=("middle.inner.b",)), "avro", server.settings).decode(
        raw_batch([b"\0" + schema_id.to_bytes(4, "big") + np.array([2.5, 1.0]).tobytes()])
    )
    assert (columns.numbers["middle.inner.b"].tolist(), letters) == ([2.5], [])


def test_protobuf_files_of_references_are_imported(server: Server) -> None:
    server.register("shared.proto", "PROTOBUF", 'syntax = "proto3"; package shared; message Inner { double b = 1; }')
    text = 'syntax = "proto3"; import "shared.proto"; message R { shared.Inner inner = 1; }'
    reference = {"name": "shared.proto", "subject": "shared.proto", "version": 1}
    schema_id = server.register("outer.proto", "PROTOBUF", text, [reference])
    columns, letters = decoder(Schema(numbers=("inner.b",)), "protobuf", server.settings).decode(
        raw_batch([b"\0" + schema_id.to_bytes(4, "big") + b"\0\x0a\x09\x09" + bytes(6) + b"\xf8\x3f"])
    )
    assert (columns.numbers["inner.b"].tolist(), letters) == ([1.5], [])


@pytest.mark.parametrize("schema_id", [0, 999_999, 2**31 - 1, 2**31, 2**32 - 1])
def test_a_record_of_an_unknown_schema_is_a_dead_letter_and_its_neighbours_are_read(
    server: Server, schema_id: int
) -> None:
    known = server.register("plain", "AVRO", json.dumps(PLAIN))
    values = [value(known, PLAIN, {"x": 1.0}), value(schema_id, PLAIN, {"x": 2.0}), value(known, PLAIN, {"x": 3.0})]
    columns, letters = decoder(WANTED, "avro", server.settings).decode(raw_batch(values))
    assert columns.numbers["x"].tolist() == [1.0, 3.0]
    assert [(letter.row, letter.reason) for letter in letters] == [(1, DeadLetterReason.UNKNOWN_SCHEMA)]
    assert str(schema_id) in letters[0].error


@pytest.mark.parametrize("content", [b"\1\0\0\0\1" + bytes(8), b"\0\0\0\0", b"{}"])
def test_a_value_without_the_header_is_malformed(server: Server, content: bytes) -> None:
    _, letters = decoder(WANTED, "avro", server.settings).decode(raw_batch([content]))
    assert [letter.reason for letter in letters] == [DeadLetterReason.MALFORMED]


def test_a_schema_of_another_format_is_unknown(server: Server) -> None:
    schema_id = server.register("plain", "AVRO", json.dumps(PLAIN))
    _, letters = decoder(WANTED, "protobuf", server.settings).decode(raw_batch([value(schema_id, PLAIN, {"x": 1.0})]))
    assert [letter.reason for letter in letters] == [DeadLetterReason.UNKNOWN_SCHEMA]
    assert "format AVRO" in letters[0].error


def test_records_of_many_schemas_in_one_batch_are_each_read_by_their_own(server: Server) -> None:
    number, text = {"name": "x", "type": "double"}, {"name": "s", "type": "string"}
    versions: list[tuple[Any, Any]] = [
        (record(number), {"x": 1.0}),
        (record(text, number), {"s": "a", "x": 2.0}),
        (record(text), {"s": "b"}),
        (record({"name": "load", "type": "double", "aliases": ["x"]}, text), {"load": 4.0, "s": "c"}),
        (record({"name": "x", "type": ["null", "int"]}, text), {"x": 5, "s": "d"}),
        (record(text, {"name": "x", "type": "string"}), {"s": "e", "x": "6"}),
    ]
    ids = [server.register(f"evolving-{index}", "AVRO", json.dumps(it)) for index, (it, _) in enumerate(versions)]
    values = [value(schema_id, *version) for schema_id, version in zip(ids, versions, strict=True)] * 3
    columns, letters = decoder(Schema(numbers=("x",), texts=("s",)), "avro", server.settings).decode(raw_batch(values))
    assert columns.row.tolist() == [row for row in range(18) if row % 6 != 5]
    assert repr(columns.numbers["x"].tolist()) == repr([1.0, 2.0, float("nan"), 4.0, 5.0] * 3)
    assert columns.texts["s"].tolist() == [None, "a", "b", "c", "d"] * 3
    assert [(letter.row, letter.reason) for letter in letters] == [(row, "wrong_shape") for row in (5, 11, 17)]


def test_a_schema_is_asked_for_once_and_an_unknown_one_again_in_the_next_batch() -> None:
    schemas, seen = Schemas(), list[Mapping[str, str]]()
    with answering(schemas.answer, seen) as server:
        reader, batch = decoder(WANTED, "avro", server.settings), raw_batch([value(1, PLAIN, {"x": 1.0})] * 5)
        assert len(reader.decode(batch)[1]) == 5
        assert len(seen) == 1
        server.register("plain", "AVRO", json.dumps(PLAIN))
        assert len(reader.decode(batch)[0]) == 5
        assert len(reader.decode(batch)[0]) == 5
        assert len(seen) == 3


def test_what_reads_a_schema_is_made_once() -> None:
    made, wanted = list[int](), Wanted(WANTED)

    def program(schema_id: int) -> AvroProgram:
        made.append(schema_id)
        return AvroProgram(json.dumps(PLAIN), {}, wanted)

    reader = RegistryDecoder(WANTED, wanted, program)
    for _ in range(2):
        assert len(reader.decode(raw_batch([value(7, PLAIN, {"x": 1.0}), value(8, PLAIN, {"x": 1.0})]))[0]) == 2
    assert made == [7, 8]


def test_nothing_is_decided_while_the_registry_cannot_be_asked() -> None:
    schemas = Schemas()
    answers = iter([(503, {"error_code": 50003, "message": "leader unknown"})])
    with answering(lambda *request: next(answers, None) or schemas.answer(*request)) as server:
        schemas.answer("POST", "/subjects/plain/versions", {"schema": json.dumps(PLAIN)})
        reader, batch = decoder(WANTED, "avro", server.settings), raw_batch([value(1, PLAIN, {"x": 1.0}), b"junk"])
        with pytest.raises(Retry, match="leader unknown"):
            reader.decode(batch)
        columns, letters = reader.decode(batch)
        assert (len(columns), len(letters)) == (1, 1)


@pytest.mark.parametrize(
    ("answer", "reaction"),
    [
        ((401, {"error_code": 40101, "message": "Unauthorized"}), AuthenticationFailed),
        ((403, {"error_code": 40301, "message": "Forbidden"}), NotAuthorised),
        ((404, b"<html>no such page</html>"), Stop),
        ((404, {"error_code": 404, "message": "HTTP 404 Not Found"}), Stop),
        ((429, {"error_code": 42901, "message": "Too many"}), Retry),
        ((500, b""), Retry),
        ((200, b"<html>a proxy</html>"), Retry),
        ((200, []), Retry),
        ((200, {"schema": "{}", "references": [{"name": "a"}]}), Retry),
    ],
)
def test_what_a_registry_answers_decides_what_is_done(answer: tuple[int, Any], reaction: type[StreamError]) -> None:
    with answering(lambda *_: answer) as server, pytest.raises(reaction, match=r"schema registry http.*: schema 7"):
        Registry(server.settings).schema(7)


def test_a_registry_that_is_not_there_is_tried_again() -> None:
    with socket.create_server(("127.0.0.1", 0)) as held:
        port = held.getsockname()[1]
    with pytest.raises(BrokerUnavailable):
        Registry(RegistrySettings(url=f"http://127.0.0.1:{port}")).schema(7)


def test_a_registry_that_does_not_answer_is_given_up_on_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "TIMEOUT_S", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as deaf, pytest.raises(Retry, match="ReadTimeout"):
        Registry(RegistrySettings(url=f"http://127.0.0.1:{deaf.getsockname()[1]}")).schema(7)


def test_the_user_is_told_to_the_registry_and_the_password_to_nobody_else() -> None:
    seen = list[Mapping[str, str]]()
    with answering(lambda *_: (401, {"error_code": 40101, "message": "no"}), seen) as server:
        settings = RegistrySettings(url=server.url, username="me", password=SecretStr("pass:word"))
        with pytest.raises(AuthenticationFailed) as told:
            Registry(settings).schema(7)
        with pytest.raises(AuthenticationFailed) as told_by_url:
            Registry(RegistrySettings(url=server.url.replace("//", "//me:secret@"))).schema(7)
    assert base64.b64decode(seen[0]["Authorization"].removeprefix("Basic ")) == b"me:pass:word"
    assert "pass:word" not in str(told.value)
    assert "secret" not in str(told_by_url.value)


def test_a_file_of_authorities_that_cannot_be_used_stops() -> None:
    with pytest.raises(TlsFailed, match=r"stream.registry.ca_file '/nowhere.pem'"):
        Registry(RegistrySettings(url="https://127.0.0.1:1", ca_file=Path("/nowhere.pem")))


def test_schemas_that_name_one_another_without_end_are_unreadable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "MOST_REFERENCES", 5)

    def answer(method: str, path: str, body: Any) -> tuple[int, Any]:
        level = int(path.split("?")[0].rsplit("/", 1)[1]) + 1
        return 200, {
            "subject": "s", "version": level - 1, "id": level, "schema": "{}",
            "references": [{"name": f"n{level}", "subject": "s", "version": level}],
        }  # fmt: skip

    with answering(answer) as server, pytest.raises(Unreadable, match="more than 5"):
        Registry(server.settings).schema(1)
