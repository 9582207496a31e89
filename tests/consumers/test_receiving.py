"""What a socket has comes at once."""

from __future__ import annotations

import socket

from consumers.receiving import _Socket


def test_all_that_is_there_is_received_however_little_is_asked_for() -> None:
    here, there = socket.socketpair()
    with here, there:
        there.sendall(b"x" * 50_000)
        assert _Socket(here).recv(4096) == b"x" * 50_000
        assert _Socket(here).fileno() == here.fileno()
