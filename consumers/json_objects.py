"""JSON records through msgspec: its structs say what a record means, and what is wrong with one."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from operator import attrgetter
from types import NoneType
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from consumers.fields import MOST_TEXT_CHARACTERS, milliseconds, number_column, split_path

CHUNK = 512
"""Records taken apart at a time: few enough that their objects stay in the processor's cache until they are gathered,
which measures 1.3 (8 fields) to 1.5 (38 fields) times as fast as a batch of 16,384 at once."""


def _texts(values: Sequence[Any]) -> NDArray[np.object_]:
    if not set(map(type, values)) <= {str, NoneType}:
        values = [
            value if value is None else str(value).lower() if isinstance(value, int) else value for value in values
        ]
    if max(map(len, filter(None, values)), default=0) > MOST_TEXT_CHARACTERS:
        values = [value and value[:MOST_TEXT_CHARACTERS] for value in values]
    return np.array(values, dtype=object)


class Role(NamedTuple):
    """What a field is wanted as: its word in messages, what msgspec accepts, what stands for none, and its column."""

    name: str
    accepts: Any
    missing: float | None
    column: Callable[[Sequence[Any]], NDArray[Any]]


NUMBER = Role("number", float | bool | None, math.nan, number_column)
TEXT = Role("text", str | int | bool | None, None, _texts)
TIME = Role("time", float | str | None, math.nan, milliseconds)


class Leaf(NamedTuple):
    """A wanted field."""

    path: str
    role: Role


Tree = dict[str, "Leaf | Tree"]
"""Wanted fields, and the objects that have some, by name."""


def tree_of(roles: dict[str, Role]) -> Tree:
    """Wanted fields by path. Raises `ValueError` for a field within a field."""
    root: Tree = {}
    for path, role in roles.items():
        *outer, last = split_path(path)
        node: Leaf | Tree = root
        for name in outer:
            node = node.setdefault(name, {}) if isinstance(node, dict) else node
        if not isinstance(node, dict) or last in node:
            raise ValueError(
                f"field '{path}' is within another one, or another one within it: expected only one of them"
            )
        node[last] = Leaf(path, role)
    return root


class ObjectDecoder:
    """Takes the fields of a tree out of records, an object a record."""

    def __init__(self, tree: Tree) -> None:
        self._root = _object(tree)
        self._decode = msgspec.json.Decoder(self._root.struct).decode

    def decode(self, values: Sequence[bytes | None]) -> tuple[dict[str, NDArray[Any]], list[tuple[int, Exception]]]:
        """One column a path of the records that can be decoded, and the others with what was wrong with them."""
        refused: list[tuple[int, Exception]] = []
        pieces = [self._chunk(values, start, refused) for start in range(0, len(values) or 1, CHUNK)]
        return {path: np.concatenate([piece[path] for piece in pieces]) for path in pieces[0]}, refused

    def _chunk(
        self, values: Sequence[bytes | None], start: int, refused: list[tuple[int, Exception]]
    ) -> dict[str, NDArray[Any]]:
        """msgspec does not check the strings of fields it skips, so what is not UTF-8 is emptied first, for it to
        refuse."""
        checked = [
            value if value and (value.isascii() or _is_utf8(value)) else b"" for value in values[start : start + CHUNK]
        ]
        remaining, records, before = iter(checked), list[msgspec.Struct](), len(refused)
        while len(records) + len(refused) - before < len(checked):
            try:
                records.extend(map(self._decode, remaining))  # on an error, what came before it stays in the list
            except (ValueError, RecursionError) as error:
                refused.append((start + len(records) + len(refused) - before, error))
        columns: dict[str, NDArray[Any]] = {}
        _gather(self._root, records, columns)
        return columns


class _Object(NamedTuple):
    """The struct that takes an object, and how to get at its fields and at the objects within it."""

    struct: type[msgspec.Struct]
    leaves: list[tuple[attrgetter[Any], Leaf]]
    objects: list[tuple[attrgetter[Any], _Object]]


def _object(tree: Tree) -> _Object:
    fields, renames, leaves, objects = [], {}, [], []
    for number, (name, child) in enumerate(tree.items()):
        attribute = f"f{number}"
        renames[attribute] = name
        if isinstance(child, Leaf):
            fields.append((attribute, child.role.accepts, child.role.missing))
            leaves.append((attrgetter(attribute), child))
        else:
            inner = _object(child)
            fields.append((attribute, inner.struct | None, None))
            objects.append((attrgetter(attribute), inner))
    return _Object(msgspec.defstruct("Record", fields, rename=renames, gc=False), leaves, objects)


def _gather(node: _Object, records: Sequence[msgspec.Struct], columns: dict[str, NDArray[Any]]) -> None:
    for get, leaf in node.leaves:
        columns[leaf.path] = leaf.role.column(list(map(get, records)))
    for get, inner in node.objects:
        absent = inner.struct()
        _gather(inner, [child or absent for child in map(get, records)], columns)


def _is_utf8(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True
