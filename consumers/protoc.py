"""Message types of a .proto file, by Google's own compiler: registries hand out the text, and some nothing else."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory

import grpc_tools  # type: ignore[import-untyped]  # ships no types
from google.protobuf.descriptor import Descriptor  # type: ignore[import-untyped]  # ships no types
from google.protobuf.descriptor_pb2 import FileDescriptorSet  # type: ignore[import-untyped]  # ships no types
from google.protobuf.descriptor_pool import DescriptorPool  # type: ignore[import-untyped]  # ships no types

from consumers.binary import Unreadable
from consumers.errors import Retry, Stop

TIMEOUT_S = 60.0
"""Longest a compilation may take (seconds); it takes a tenth of one."""
_FILE = "record.proto"
_COMPILED = "descriptors"


def message_types(schema: str, references: Mapping[str, str]) -> Sequence[Descriptor]:
    """The types that the file declares outside of others, in its order; `references` are the files that it imports.

    The compiler runs in a process of its own, as its library changes how Python imports. It knows the files of
    `google/protobuf` itself. Raises `Unreadable` for a file that does not compile, `Retry` where it takes too long.
    """
    with _folder() as folder:
        for name, text in ((_FILE, schema), *references.items()):
            _write(folder, name, text)
        _compile(folder)
        files = FileDescriptorSet.FromString(Path(folder, _COMPILED).read_bytes()).file
    pool = DescriptorPool()
    for file in files:  # each after those that it imports
        pool.AddSerializedFile(file.SerializeToString())
    declared = pool.FindFileByName(_FILE)
    return [declared.message_types_by_name[message.name] for message in files[-1].message_type]


def _folder() -> TemporaryDirectory[str]:
    try:
        return TemporaryDirectory()
    except OSError as error:
        raise Stop(f"protoc needs a folder for temporary files: {error}") from error


def _write(folder: str, name: str, text: str) -> None:
    """Writes a file below the folder, once."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or path.parts[:1] == (_COMPILED,):
        raise Unreadable(f"imports '{name}'. Expected a relative path")
    try:
        Path(folder, path).parent.mkdir(parents=True, exist_ok=True)
        with Path(folder, path).open("x", encoding="utf-8") as file:
            file.write(text)
    except (OSError, ValueError) as error:  # a name that is taken or none, or text that is not Unicode
        raise Unreadable(f"imports '{name}', which cannot be written: {type(error).__name__}") from error


def _compile(folder: str) -> None:
    arguments = [f"--proto_path={folder}", "--include_imports", f"--descriptor_set_out={folder}/{_COMPILED}", _FILE]
    command = [sys.executable, "-P", "-m", f"{grpc_tools.__name__}.protoc", *arguments]
    try:
        done = subprocess.run(command, capture_output=True, timeout=TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise Retry(f"protoc gave no answer within {TIMEOUT_S:g} s") from error
    if done.returncode:
        raise Unreadable(f"does not compile: {done.stderr.decode(errors='replace')}")
