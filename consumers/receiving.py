"""kafka-python's client, receiving much at a time.

It receives 4 kB a call. Each call gives the interpreter's lock away, and where another thread computes, the lock comes
back after `sys.getswitchinterval()` only: 5 ms for 4 kB, though a megabyte may be there. kafka-python has no setting
for it, so its sockets are given another `recv`.
"""

from __future__ import annotations

from typing import Any

from kafka.net.compat import KafkaNetClient
from kafka.net.manager import KafkaConnectionManager
from kafka.net.selector import NetworkSelector

_AT_ONCE = 1 << 20  # bytes


def client(**config: Any) -> KafkaNetClient:
    """A client for the argument `kafka_client` of kafka-python's consumer."""
    net = NetworkSelector(**config)
    return KafkaNetClient(net, _Manager(net, **config), **config)


class _Manager(KafkaConnectionManager):  # type: ignore[misc]  # ships no types
    async def _build_transport(self, *args: Any, **options: Any) -> Any:
        transport = await super()._build_transport(*args, **options)
        transport._sock = _Socket(transport._sock)
        return transport


class _Socket:
    """A socket that gives all it has up to `_AT_ONCE`, however little it is asked for."""

    def __init__(self, sock: Any) -> None:
        self._sock = sock

    def recv(self, _: int) -> bytes:
        received: bytes = self._sock.recv(_AT_ONCE)
        return received

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)
