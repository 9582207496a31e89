"""TLS and SASL settings as what `ssl` and kafka-python take."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

from kafka.net.sasl.oauth import AbstractTokenProvider

from consumers.errors import AuthenticationFailed, TlsFailed
from consumers.settings import SecuritySettings


class Secret(str):
    """A password that shows itself as stars: kafka-python logs its arguments."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'**********'"


class TokenFile:
    """Gives kafka-python the OAUTHBEARER token that stands in a file at that moment."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def token(self) -> str:
        return read_secret(self._path, "token_file")

    def extensions(self) -> dict[str, str]:
        return {}


AbstractTokenProvider.register(TokenFile)


def read_secret(path: Path, setting: str) -> Secret:
    """The text of a file that holds a secret, without white space around it. Raises `AuthenticationFailed`."""
    try:
        return Secret(path.read_text(encoding="utf-8").strip())
    except (OSError, UnicodeDecodeError) as error:
        raise AuthenticationFailed(f"kafka.security.{setting} '{path}' cannot be read: {error}") from error


def tls_context(security: SecuritySettings) -> ssl.SSLContext | None:
    """The TLS side of the settings, or None without TLS. Raises `TlsFailed` when a file is missing or is no PEM."""
    if security.protocol not in ("ssl", "sasl_ssl"):
        return None
    try:
        context = ssl.create_default_context(cafile=security.ca_file)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.check_hostname = security.check_hostname
        if security.certificate_file is not None:
            # Without a password OpenSSL would ask the terminal for one, and wait.
            password = security.key_password.get_secret_value() if security.key_password else ""
            context.load_cert_chain(security.certificate_file, security.key_file, password)
    except OSError as error:
        files = [file for file in (security.ca_file, security.certificate_file, security.key_file) if file]
        raise TlsFailed(f"TLS files {', '.join(map(str, files))} cannot be used: {error}") from error
    return context


def sasl_arguments(security: SecuritySettings) -> dict[str, Any]:
    """kafka-python's SASL arguments; none without SASL."""
    if security.mechanism is None:
        return {}
    arguments: dict[str, Any] = {"sasl_mechanism": security.mechanism}
    if security.token_file is not None:
        arguments["sasl_oauth_token_provider"] = TokenFile(security.token_file)
    if security.username is not None:
        arguments["sasl_plain_username"] = security.username
    if security.password is not None:
        arguments["sasl_plain_password"] = Secret(security.password.get_secret_value())
    elif security.password_file is not None:
        arguments["sasl_plain_password"] = read_secret(security.password_file, "password_file")
    return arguments
