"""What answers at the broker's address may be anything: it is told for what it is, and its words do nothing."""

from __future__ import annotations

import os
import pty
import random
import signal
import struct
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from consumers.errors import AuthenticationFailed, StreamError, TlsFailed
from tests.consumers.test_diagnose import API_VERSIONS, EMPTY, SASL_AUTHENTICATE, SASL_HANDSHAKE, found, plain, server
from tests.security.certificates import Authority

FORGED = "no such user\n\x1b[31m\x9b2J\u202e2026-01-01 forged".encode()


def text(content: bytes) -> bytes:
    return struct.pack(">h", len(content)) + content


def test_a_refusal_in_forged_words_is_one_plain_line() -> None:
    def refusing(key: int, body: bytes) -> bytes | None:
        if key == SASL_AUTHENTICATE:
            return struct.pack(">h", 58) + text(FORGED * 100) + struct.pack(">i", 0)
        return EMPTY

    with server(refusing) as port:
        error = found(port, **plain("canary"))
    assert isinstance(error, AuthenticationFailed)
    assert str(error).isprintable()
    assert len(str(error)) < 400
    assert "canary" not in str(error)


def test_mechanisms_of_forged_names_are_one_plain_line() -> None:
    def offering(key: int, body: bytes) -> bytes | None:
        return struct.pack(">hi", 33, 1) + text(FORGED) if key == SASL_HANDSHAKE else EMPTY

    with server(offering) as port:
        error = found(port, **plain("canary"))
    assert isinstance(error, AuthenticationFailed)
    assert str(error).isprintable()


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-512"])
def test_answers_of_noise_are_told_as_what_the_broker_said_or_did_not(mechanism: str) -> None:
    chance = random.Random(1)

    def noise(key: int, body: bytes) -> bytes | None:
        if key == API_VERSIONS or (key == SASL_HANDSHAKE and chance.random() < 0.7):
            return EMPTY
        return struct.pack(">h", chance.choice((0, 0, 33, 58))) + chance.randbytes(chance.randrange(40))

    with server(noise) as port:
        errors = [found(port, **plain("canary", mechanism=mechanism)) for _ in range(60)]
    assert all(error is None or isinstance(error, StreamError) for error in errors)
    assert all(str(error).isprintable() for error in errors)


@pytest.fixture
def locked(tmp_path: Path) -> dict[str, Any]:
    """A certificate of ours with a key that has a password, as settings."""
    Authority(tmp_path, "ca").sign(tmp_path, "client")
    lock = ["openssl", "pkey", "-in", "client.key", "-aes256", "-passout", "pass:canary", "-out", "locked.key"]
    subprocess.run(lock, cwd=tmp_path, check=True, capture_output=True)
    files = {"certificate_file": tmp_path / "client.pem", "key_file": tmp_path / "locked.key"}
    return {"protocol": "ssl", **files}


def test_a_locked_key_wants_its_password_and_shows_it_nowhere(locked: dict[str, Any]) -> None:
    for wrong in ({}, {"key_password": "canary-2"}):
        error = found("127.0.0.1:1", **locked, **wrong)
        assert isinstance(error, TlsFailed)
        assert "locked.key" in str(error)
        assert "canary" not in str(error)
    assert not isinstance(found("127.0.0.1:1", **locked, key_password="canary"), TlsFailed)


def test_a_locked_key_without_its_password_asks_no_terminal(locked: dict[str, Any]) -> None:
    code = f"""
from consumers.security import tls_context
from consumers.settings import SecuritySettings
tls_context(SecuritySettings.model_validate({ {key: str(value) for key, value in locked.items()} }))
"""
    process, terminal = pty.fork()
    if process == 0:
        os.execv(sys.executable, [sys.executable, "-c", code])
    said = b""
    with suppress(OSError):  # the end of what a terminal says
        while b"phrase" not in said:
            said += os.read(terminal, 4096)
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    os.close(terminal)
    assert b"TlsFailed" in said
