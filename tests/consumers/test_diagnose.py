"""Each way a broker can be out of reach has its own error. The servers here speak as little as that takes."""

from __future__ import annotations

import socket
import ssl
import struct
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from threading import Thread
from typing import Any, NamedTuple

import pytest

from consumers.diagnose import diagnose
from consumers.errors import AuthenticationFailed, BrokerUnavailable, Stop, StreamError, TlsFailed
from consumers.settings import KafkaSettings

Answer = Callable[[int, bytes], bytes | None]
"""From a request's api key and body to the response's; None closes the connection."""

API_VERSIONS, METADATA, SASL_HANDSHAKE, SASL_AUTHENTICATE = 18, 3, 17, 36
EMPTY = struct.pack(">hi", 0, 0)


@contextmanager
def server(answer: Answer, context: ssl.SSLContext | None = None) -> Iterator[int]:
    """Listens on a free port and answers requests, one connection at a time."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with suppress(OSError), connection:
                    wrapped = context.wrap_socket(connection, server_side=True) if context else connection
                    with wrapped, wrapped.makefile("rwb") as stream:
                        talk(stream, answer)

        thread = Thread(target=serve, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(10)


def talk(stream: Any, answer: Answer) -> None:
    while len(size := stream.read(4)) == 4:
        (length,) = struct.unpack(">i", size)
        if not 0 < length < 10_000:  # a TLS greeting, say
            return
        request = stream.read(length)
        key, _, correlation, name = struct.unpack_from(">hhih", request)
        body = answer(key, request[10 + name :])
        if body is None:
            return
        stream.write(struct.pack(">ii", 4 + len(body), correlation) + body)
        stream.flush()


def kafka(key: int, body: bytes) -> bytes | None:
    """A broker without SASL."""
    return struct.pack(">hi", 34, 0) if key == SASL_HANDSHAKE else EMPTY


def sasl(key: int, body: bytes) -> bytes | None:
    """A broker that takes alice's password `right` by PLAIN, and no request before it."""
    if key == API_VERSIONS:
        return EMPTY
    if key == SASL_HANDSHAKE:
        offered = struct.pack(">ih", 1, 5) + b"PLAIN"
        return struct.pack(">h", 0 if body[2:] == b"PLAIN" else 33) + offered
    if key == SASL_AUTHENTICATE:
        if body[4:] == b"alice\0alice\0right":
            return struct.pack(">hhi", 0, -1, 0)
        reason = b"no such user or password"
        return struct.pack(">hh", 58, len(reason)) + reason + struct.pack(">i", 0)
    return None


class Certificates(NamedTuple):
    authority: Path
    other_authority: Path
    server: ssl.SSLContext


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """A server's certificate for 127.0.0.1, the authority that signed it, and another that signed nothing."""
    folder = tmp_path_factory.mktemp("certificates")

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    for name in ("ca", "other"):
        openssl("req", "-x509", *key, "-keyout", f"{name}.key", "-out", f"{name}.pem", "-subj", f"/CN={name}")
    openssl("req", *key, "-keyout", "server.key", "-out", "server.csr", "-subj", "/CN=server")
    (folder / "names").write_text("subjectAltName=IP:127.0.0.1\n")
    openssl(
        *("x509", "-req", "-in", "server.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial"),
        *("-days", "2", "-extfile", "names", "-out", "server.pem"),
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.pem", folder / "server.key")
    return Certificates(folder / "ca.pem", folder / "other.pem", context)


@pytest.fixture
def unused_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def found(bootstrap: int | str, **security: Any) -> StreamError | None:
    address = f"127.0.0.1:{bootstrap}" if isinstance(bootstrap, int) else bootstrap
    settings = KafkaSettings.model_validate({"bootstrap": address, "request_timeout_s": 5.0, "security": security})
    return diagnose(settings)


def plain(password: str, **more: Any) -> dict[str, Any]:
    return {
        "protocol": "sasl_plaintext",
        "mechanism": "PLAIN",
        "username": "alice",
        "password": password,
        "allow_plain_without_tls": True,
        **more,
    }


def test_a_broker_that_answers_is_fine() -> None:
    with server(kafka) as port:
        assert found(port) is None


def test_a_dead_port_is_named(unused_port: int) -> None:
    error = found(unused_port)
    assert isinstance(error, BrokerUnavailable)
    assert f"127.0.0.1:{unused_port}: no connection: Connection refused" in str(error)


def test_a_host_without_an_address_is_named() -> None:
    error = found("nowhere.invalid:9092")
    assert isinstance(error, BrokerUnavailable)
    assert "nowhere.invalid:9092: no such host" in str(error)


def test_one_live_address_is_enough(unused_port: int) -> None:
    with server(kafka) as port:
        assert found(f"127.0.0.1:{unused_port}, 127.0.0.1:{port}") is None


def test_of_several_failures_the_one_that_no_retry_helps_is_told(unused_port: int) -> None:
    with server(kafka) as port:
        assert isinstance(found(f"127.0.0.1:{unused_port},127.0.0.1:{port}", protocol="ssl"), TlsFailed)


def test_an_address_without_a_proper_port_is_refused() -> None:
    with pytest.raises(Stop, match="Expected host:port"):
        found("localhost:ninety")


def test_a_silent_broker_is_unavailable() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        error = diagnose(KafkaSettings(bootstrap=address, request_timeout_s=1.0))
    assert isinstance(error, BrokerUnavailable)
    assert "gives no answer within 1 s" in str(error)


def test_a_port_that_speaks_something_else_is_unavailable() -> None:
    with server(lambda key, body: None) as port:
        error = found(port)
    assert isinstance(error, BrokerUnavailable)
    assert "does not answer like a Kafka broker" in str(error)


def test_a_trusted_certificate_is_accepted(certificates: Certificates) -> None:
    with server(kafka, certificates.server) as port:
        assert found(port, protocol="ssl", ca_file=certificates.authority) is None


def test_a_certificate_of_another_authority_is_refused(certificates: Certificates) -> None:
    with server(kafka, certificates.server) as port:
        error = found(port, protocol="ssl", ca_file=certificates.other_authority)
    assert isinstance(error, TlsFailed)
    assert "certificate that is not accepted: unable to get local issuer certificate" in str(error)


def test_a_certificate_for_another_host_is_refused_unless_told_otherwise(certificates: Certificates) -> None:
    with server(kafka, certificates.server) as port:
        error = found(f"localhost:{port}", protocol="ssl", ca_file=certificates.authority)
        unchecked = found(f"localhost:{port}", protocol="ssl", ca_file=certificates.authority, check_hostname=False)
    assert isinstance(error, TlsFailed)
    assert "localhost" in str(error)
    assert unchecked is None


def test_tls_to_a_plaintext_port_says_so(certificates: Certificates) -> None:
    with server(kafka) as port:
        error = found(port, protocol="ssl", ca_file=certificates.authority)
    assert isinstance(error, TlsFailed)
    assert "speaks no TLS" in str(error)


def test_plaintext_to_a_tls_port_says_so(certificates: Certificates) -> None:
    with server(kafka, certificates.server) as port:
        error = found(port)
    assert isinstance(error, TlsFailed)
    assert "speaks TLS: kafka.security.protocol must be ssl or sasl_ssl" in str(error)


def test_a_missing_authority_file_is_named(tmp_path: Path) -> None:
    error = found("127.0.0.1:1", protocol="ssl", ca_file=tmp_path / "missing.pem")
    assert isinstance(error, TlsFailed)
    assert "missing.pem" in str(error)


def test_the_right_password_is_accepted(certificates: Certificates) -> None:
    with ExitStack() as servers:
        open_, closed = (servers.enter_context(server(sasl, context)) for context in (None, certificates.server))
        assert found(open_, **plain("right")) is None
        assert found(closed, **plain("right", protocol="sasl_ssl", ca_file=certificates.authority)) is None


def test_a_wrong_password_is_told_in_the_brokers_words() -> None:
    with server(sasl) as port:
        error = found(port, **plain("wrong"))
    assert isinstance(error, AuthenticationFailed)
    assert "refuses user 'alice' by PLAIN: no such user or password" in str(error)
    assert "wrong" not in str(error)


def test_a_mechanism_that_is_not_offered_is_told_with_those_that_are() -> None:
    with server(sasl) as port:
        error = found(port, **plain("right", mechanism="SCRAM-SHA-512"))
    assert isinstance(error, AuthenticationFailed)
    assert "offers SASL mechanisms PLAIN, not SCRAM-SHA-512" in str(error)


def test_a_broker_that_wants_sasl_says_so_to_one_without() -> None:
    with server(sasl) as port:
        error = found(port)
    assert isinstance(error, AuthenticationFailed)
    assert "wants SASL (PLAIN)" in str(error)


def test_a_broker_without_sasl_says_so_to_one_with() -> None:
    with server(kafka) as port:
        error = found(port, **plain("right"))
    assert isinstance(error, AuthenticationFailed)
    assert "has no SASL" in str(error)
