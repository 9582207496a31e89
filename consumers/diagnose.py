"""Why a broker cannot be reached.

kafka-python says `KafkaTimeoutError` to a wrong password, a wrong certificate and a dead port alike. The probe speaks
just enough of Kafka's protocol to tell them apart: request header version 1 (length, api key, api version, correlation
id, client id), ApiVersions version 0, Metadata version 1, SaslHandshake version 1, SaslAuthenticate version 0.
"""

from __future__ import annotations

import socket
import ssl
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedRWPair
from typing import NamedTuple
from urllib.parse import urlsplit

from kafka.net.sasl import get_sasl_mechanism

from consumers.errors import AuthenticationFailed, BrokerUnavailable, Stop, StreamError, TlsFailed
from consumers.security import sasl_arguments, tls_context
from consumers.settings import KafkaSettings, SecuritySettings
from consumers.text import printable

_METADATA, _SASL_HANDSHAKE, _API_VERSIONS, _SASL_AUTHENTICATE = 3, 17, 18, 36
_UNSUPPORTED_MECHANISM, _ILLEGAL_SASL_STATE = 33, 34
_LONGEST_PROBE_S = 10.0
_LARGEST_ANSWER = 1 << 20
_LONGEST_WORDS = 200


class _NotKafka(Exception):
    """The other side closed the connection or sent something that is no Kafka response."""


class _Address(NamedTuple):
    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


def diagnose(settings: KafkaSettings) -> StreamError | None:
    """Tries the bootstrap addresses in turn; None when one of them lets this user in, else what is wrong with them.

    Takes at most `request_timeout_s`, or 10 s where that is longer, for each step with each address.
    """
    problems: list[StreamError] = []
    for address in _addresses(settings.bootstrap):
        try:
            _probe(address, settings)
        except StreamError as error:
            problems.append(error)
        else:
            return None
    return next((problem for problem in problems if isinstance(problem, Stop)), problems[0])


def _addresses(bootstrap: str) -> list[_Address]:
    parts = [urlsplit(f"//{part.strip()}") for part in bootstrap.split(",")]
    try:
        return [_Address(part.hostname or "localhost", part.port or 9092) for part in parts]
    except ValueError as error:
        raise Stop(f"kafka.bootstrap is '{bootstrap}'. Expected host:port[,host:port].") from error


def _probe(address: _Address, settings: KafkaSettings) -> None:
    """Returns when the broker answers and lets this user in; raises what is wrong otherwise."""
    timeout_s = min(settings.request_timeout_s, _LONGEST_PROBE_S)
    context = tls_context(settings.security)
    try:
        with _connected(address, context, timeout_s) as stream:
            _ask_versions(stream)
            if settings.security.mechanism is not None:
                _authenticate(stream, address, settings.security)
                return
            welcome = _answers_requests(stream)
        if not welcome:
            with _connected(address, context, timeout_s) as stream:
                _, offered = _handshake(stream, "PLAIN")
            raise AuthenticationFailed(
                f"{address} wants SASL ({', '.join(offered)}): "
                "kafka.security.protocol must be sasl_plaintext or sasl_ssl"
            )
    except TimeoutError as error:
        message = f"{address} takes connections but gives no answer within {timeout_s:g} s"
        raise BrokerUnavailable(message) from error
    except ssl.SSLCertVerificationError as error:
        raise TlsFailed(f"{address} has a certificate that is not accepted: {error.verify_message}") from error
    except (OSError, struct.error, _NotKafka) as error:
        raise _unintelligible(address, settings.security, timeout_s, error) from error


@contextmanager
def _connected(address: _Address, context: ssl.SSLContext | None, timeout_s: float) -> Iterator[BufferedRWPair]:
    try:
        connection = socket.create_connection(address, timeout_s)
    except socket.gaierror as error:
        raise BrokerUnavailable(f"{address}: no such host: {error.strerror}") from error
    except OSError as error:
        raise BrokerUnavailable(f"{address}: no connection: {error.strerror or error}") from error
    with connection:
        if context is None:
            with connection.makefile("rwb") as stream:
                yield stream
        else:
            with (
                context.wrap_socket(connection, server_hostname=address.host) as wrapped,
                wrapped.makefile("rwb") as stream,
            ):
                yield stream


def _unintelligible(address: _Address, security: SecuritySettings, timeout_s: float, error: Exception) -> StreamError:
    """Whether the other side spoke TLS where we did not, or the reverse; what is not certain may pass: try again."""
    tls = security.protocol in ("ssl", "sasl_ssl")
    other = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    other.check_hostname, other.verify_mode = False, ssl.CERT_NONE
    try:
        with _connected(address, None if tls else other, timeout_s) as stream:
            _ask_versions(stream)
    except (OSError, struct.error, _NotKafka, StreamError) as second:
        if isinstance(error, ssl.SSLError) and not isinstance(error, ssl.SSLEOFError):
            return _broken_tls(address, security, error.reason or str(error))
        if isinstance(second, ssl.SSLError) and "CERTIFICATE_REQUIRED" in (second.reason or ""):
            return TlsFailed(f"{address} speaks TLS and wants a client's certificate")
        return BrokerUnavailable(f"{address} does not answer like a Kafka broker: {error}")
    if tls:
        return TlsFailed(f"{address} speaks no TLS: kafka.security.protocol must be plaintext or sasl_plaintext")
    return TlsFailed(f"{address} speaks TLS: kafka.security.protocol must be ssl or sasl_ssl")


def _broken_tls(address: _Address, security: SecuritySettings, reason: str) -> TlsFailed:
    """An alert about a certificate is about ours: the broker's is for us to judge."""
    if "_ALERT_" not in reason or not ("CERTIFICATE" in reason or "UNKNOWN_CA" in reason):
        return TlsFailed(f"{address}: TLS failed: {reason}")
    if security.certificate_file is None:
        return TlsFailed(f"{address} wants a client's certificate: kafka.security.certificate_file ({reason})")
    return TlsFailed(f"{address} does not accept the client's certificate '{security.certificate_file}' ({reason})")


def _ask_versions(stream: BufferedRWPair) -> None:
    _exchange(stream, _API_VERSIONS, 0, b"")


def _answers_requests(stream: BufferedRWPair) -> bool:
    """Whether the broker answers a question about no topic: one that wants SASL closes the connection instead."""
    try:
        _exchange(stream, _METADATA, 1, struct.pack(">i", 0))
    except (ConnectionError, ssl.SSLEOFError, _NotKafka):
        return False
    return True


def _authenticate(stream: BufferedRWPair, address: _Address, security: SecuritySettings) -> None:
    arguments = sasl_arguments(security)
    name = arguments["sasl_mechanism"]
    code, offered = _handshake(stream, name)
    if code == _ILLEGAL_SASL_STATE:
        raise AuthenticationFailed(f"{address} has no SASL: kafka.security.protocol must be plaintext or ssl")
    if code == _UNSUPPORTED_MECHANISM:
        raise AuthenticationFailed(f"{address} offers SASL mechanisms {', '.join(offered)}, not {name}")
    mechanism = get_sasl_mechanism(name)(host=address.host, **arguments)
    try:
        while not mechanism.is_done():
            mechanism.receive(_give_token(stream, mechanism.auth_bytes()))
    except ValueError as error:
        who = f"user '{security.username}'" if security.username else f"the token in '{security.token_file}'"
        raise AuthenticationFailed(f"{address} refuses {who} by {name}: {error}") from error


def _give_token(stream: BufferedRWPair, token: bytes) -> bytes:
    """One SaslAuthenticate exchange. Raises `ValueError` with the broker's reason when it refuses."""
    answer = _exchange(stream, _SASL_AUTHENTICATE, 0, struct.pack(">i", len(token)) + token)
    code, length = struct.unpack_from(">hh", answer)
    message, rest = answer[4 : 4 + max(length, 0)], answer[4 + max(length, 0) :]
    if code != 0:
        raise ValueError(_words(message) or f"error {code}")
    return rest[4:]


def _handshake(stream: BufferedRWPair, mechanism: str) -> tuple[int, list[str]]:
    """The broker's error code and the SASL mechanisms it offers."""
    answer = _exchange(stream, _SASL_HANDSHAKE, 1, _text(mechanism))
    code, count = struct.unpack_from(">hi", answer)
    offered, at = [], 6
    for _ in range(count):
        (length,) = struct.unpack_from(">h", answer, at)
        offered.append(_words(answer[at + 2 : at + 2 + length]))
        at += 2 + length
    return code, offered


def _exchange(stream: BufferedRWPair, api_key: int, version: int, body: bytes) -> bytes:
    """One request, and the response after its correlation id. Raises `_NotKafka`."""
    request = struct.pack(">hhi", api_key, version, 0) + _text("offnominal-probe") + body
    stream.write(struct.pack(">i", len(request)) + request)
    stream.flush()
    (length,) = struct.unpack(">i", _read(stream, 4))
    if not 6 <= length <= _LARGEST_ANSWER:
        raise _NotKafka(f"its answer begins with {struct.pack('>i', length).hex(' ')}, which is no length")
    return _read(stream, length)[4:]


def _read(stream: BufferedRWPair, size: int) -> bytes:
    data = stream.read(size)
    if len(data) < size:
        raise _NotKafka("it closed the connection")
    return data


def _words(said: bytes) -> str:
    return printable(said.decode(errors="replace"), _LONGEST_WORDS)


def _text(text: str) -> bytes:
    return struct.pack(">h", len(text)) + text.encode()
