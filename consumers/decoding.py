"""Records of each format to the same columns; those of a schema registry by the schema that each was written with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from consumers import binary
from consumers.batch import Columns, DeadLetter, RawBatch, Schema
from consumers.binary import Program, Unreadable, Wanted
from consumers.decode import ERROR_LENGTH, DeadLetterReason, JsonDecoder, settled
from consumers.errors import Stop
from consumers.packed import ABSENT, Packed
from consumers.settings import RegistrySettings
from consumers.text import printable

Format = Literal["json", "avro", "protobuf"]

HEADER = 5
"""Bytes before what a schema registry's client writes: a zero, and the schema's id with the highest byte first."""

_REASONS = {
    binary.TOO_DEEP: DeadLetterReason.TOO_DEEP,
    binary.OUT_OF_RANGE: DeadLetterReason.OUT_OF_RANGE,
    binary.WRONG_SHAPE: DeadLetterReason.WRONG_SHAPE,
    binary.MALFORMED: DeadLetterReason.MALFORMED,
}


class Decoder(Protocol):
    """Takes the fields of a schema out of records."""

    def decode(self, batch: RawBatch) -> tuple[Columns, list[DeadLetter]]:
        """Each record as a row of the columns or as a dead letter, both in the order of the batch.

        No bytes whatever make it raise. One that asks a schema registry raises `Retry` where that does not answer, and
        `Stop` where it lets nobody in.
        """


def decoder(schema: Schema, format: Format, registry: RegistrySettings | None) -> Decoder:
    """The decoder of a format; those of Avro and Protobuf want a registry.

    Raises `ValueError` for a schema that no record can fulfil, `Stop` where the libraries are not installed.
    """
    if format == "json":
        return JsonDecoder(schema)
    if registry is None:
        raise ValueError(f"format '{format}' wants a schema registry, got none")
    try:
        return _registered(schema, format, registry)
    except ImportError as error:
        raise Stop(f"stream.format is '{format}': {error}. Expected the extra: offnominal[registry].") from error


def _registered(schema: Schema, format: Format, settings: RegistrySettings) -> Decoder:
    from consumers.registry import Registry

    registry, wanted, read = Registry(settings), Wanted(schema), _reader(format)

    def program(schema_id: int) -> Program:
        registered = registry.schema(schema_id)
        if registered.format != format.upper():
            raise Unreadable(f"has the format {registered.format}, not {format.upper()}")
        return read(registered.text, registered.references, wanted)

    return RegistryDecoder(schema, wanted, program)


def _reader(format: Format) -> Callable[[str, Mapping[str, str], Wanted], Program]:
    if format == "avro":
        from consumers.avro import AvroProgram

        return AvroProgram
    from consumers.protobuf import ProtobufProgram

    return ProtobufProgram


class RegistryDecoder:
    """Takes the fields of a schema out of records that begin with the id of the schema that they were written with.

    `program` gives what reads records of an id; it raises `Unreadable` where none can be read, which is asked anew in
    the next batch, as a schema may come to the registry after its first record.
    """

    def __init__(self, schema: Schema, wanted: Wanted, program: Callable[[int], Program]) -> None:
        self._schema = schema
        self._wanted = wanted
        self._program = program
        self._programs: dict[int, Program] = {}

    def decode(self, batch: RawBatch) -> tuple[Columns, list[DeadLetter]]:
        """As `Decoder` says."""
        values = Packed.of(batch.values)
        ids, letters = _ids(values)
        fields = self._wanted.columns(self._wanted.nothing(len(values)), values.data, [])[0]
        for schema_id in np.unique(ids[ids >= 0]).tolist():
            rows = np.flatnonzero(ids == schema_id)
            letters += self._read(schema_id, rows, values, fields)
        return settled(self._schema, batch, fields, letters)

    def _read(
        self, schema_id: int, rows: NDArray[np.int64], values: Packed, fields: dict[str, NDArray[Any]]
    ) -> list[DeadLetter]:
        """Writes the records in these rows, all of one schema, into the columns, and gives those that are refused."""
        try:
            program = self._programs.get(schema_id) or self._program(schema_id)
        except Unreadable as unreadable:
            error = printable(f"Schema {schema_id} {unreadable}.", ERROR_LENGTH)
            return [DeadLetter(row, DeadLetterReason.UNKNOWN_SCHEMA, error) for row in rows.tolist()]
        self._programs[schema_id] = program
        found = program.scan(Packed(values.data, values.starts[rows] + HEADER, values.lengths[rows] - HEADER))
        bad = np.flatnonzero(found.status != binary.SOUND)
        letters = [self._refused(int(rows[at]), int(found.status[at]), schema_id, program) for at in bad.tolist()]
        found.lengths[:, bad] = ABSENT
        columns, broken = self._wanted.columns(found, values.data, program.names)
        for path, column in columns.items():
            fields[path][rows] = column
        error = f"A text of schema {schema_id} is not UTF-8."
        return letters + [DeadLetter(row, DeadLetterReason.NOT_UTF8, error) for row in rows[broken].tolist()]

    def _refused(self, row: int, status: int, schema_id: int, program: Program) -> DeadLetter:
        reason, detail = status & ((1 << binary.DETAIL) - 1), status >> binary.DETAIL
        error = f"The value does not follow its schema {schema_id}: it ends early, goes on after its end or is no such."
        if reason == binary.WRONG_SHAPE:
            error = program.refusals[detail]
        elif reason == binary.OUT_OF_RANGE:
            error = f"Field '{self._wanted.numbers[detail - binary.FIRST_NUMBER]}' is infinite. Expected a number."
        elif reason == binary.TOO_DEEP:
            error = f"The value, of schema {schema_id}, is nested too deep."
        return DeadLetter(row, _REASONS[reason], printable(error, ERROR_LENGTH))


def _ids(values: Packed) -> tuple[NDArray[np.int64], list[DeadLetter]]:
    """The schema's id of each value (n,), -1 where it has none, and letters for those."""
    ids = np.full(len(values), -1, np.int64)
    long = np.flatnonzero(values.lengths >= HEADER)
    framed = long[values.data[values.starts[long]] == 0]
    header = values.data[values.starts[framed, None] + np.arange(1, HEADER)].astype(np.int64)
    ids[framed] = header @ (1 << np.arange(24, -1, -8))
    letters = [
        DeadLetter(row, DeadLetterReason.MALFORMED, "The value has no header with the id of a schema.")
        if values.lengths[row] > 0
        else DeadLetter(row, DeadLetterReason.EMPTY, "The value is null or empty. Expected one with a schema's id.")
        for row in np.flatnonzero(ids < 0).tolist()
    ]
    return ids, letters
