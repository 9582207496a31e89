"""Security settings reach kafka-python whole, and secrets stay out of what is printed."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaConsumer
from kafka.net.sasl import get_sasl_mechanism

from consumers.connection import client_arguments, consumer_arguments
from consumers.errors import AuthenticationFailed
from consumers.settings import KafkaSettings


def arguments(security: dict[str, Any] | None = None, **settings: Any) -> dict[str, Any]:
    given = {"bootstrap": "one:9092,two:9093", "security": security or {}, **settings}
    return client_arguments(KafkaSettings.model_validate(given), "me")


SCRAM = {"protocol": "sasl_ssl", "mechanism": "SCRAM-SHA-512", "username": "alice"}


def test_without_security_there_is_no_tls_and_no_sasl() -> None:
    given = arguments(request_timeout_s=7.0)
    assert given["bootstrap_servers"] == ["one:9092", "two:9093"]
    assert given["client_id"] == "me"
    assert given["request_timeout_ms"] == given["bootstrap_timeout_ms"] == 7_000
    assert given["security_protocol"] == "PLAINTEXT"
    assert given["ssl_context"] is None
    assert not [name for name in given if name.startswith("sasl")]


def test_every_argument_is_one_that_kafka_python_knows() -> None:
    settings = KafkaSettings.model_validate({"bootstrap": "one:9092", "security": {**SCRAM, "password": "secret"}})
    assert consumer_arguments(settings, "me").keys() <= KafkaConsumer.DEFAULT_CONFIG.keys()


@pytest.mark.parametrize("protocol", ["sasl_plaintext", "sasl_ssl"])
def test_user_and_password_reach_the_client(protocol: str) -> None:
    given = arguments({**SCRAM, "protocol": protocol, "password": "secret"})
    assert given["security_protocol"] == protocol.upper()
    assert given["sasl_mechanism"] == "SCRAM-SHA-512"
    assert given["sasl_plain_username"] == "alice"
    assert given["sasl_plain_password"] == "secret"
    assert isinstance(given["ssl_context"], ssl.SSLContext) == (protocol == "sasl_ssl")


def test_tls_checks_the_host_name_unless_told_otherwise() -> None:
    strict, lax = arguments({"protocol": "ssl"}), arguments({"protocol": "ssl", "check_hostname": False})
    assert strict["ssl_context"].check_hostname
    assert not lax["ssl_context"].check_hostname
    assert lax["ssl_context"].verify_mode == ssl.CERT_REQUIRED
    assert strict["ssl_context"].minimum_version == ssl.TLSVersion.TLSv1_2


def test_a_password_is_read_from_its_file(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("from file\n")
    assert arguments({**SCRAM, "password_file": tmp_path / "password"})["sasl_plain_password"] == "from file"


def test_a_password_file_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(AuthenticationFailed, match="password_file"):
        arguments({**SCRAM, "password_file": tmp_path / "missing"})


def test_a_token_is_read_anew_each_time(tmp_path: Path) -> None:
    token = tmp_path / "token"
    given = arguments({"protocol": "sasl_ssl", "mechanism": "OAUTHBEARER", "token_file": token})
    mechanism = get_sasl_mechanism("OAUTHBEARER")(**given)
    for text in ("first", "second"):
        token.write_text(text)
        assert f"Bearer {text}".encode() in mechanism.auth_bytes()


def test_secrets_are_masked_wherever_settings_or_arguments_are_shown(tmp_path: Path) -> None:
    security = {**SCRAM, "password": "hush", "key_password": "hush"}
    settings = KafkaSettings.model_validate({"bootstrap": "one", "security": security})
    assert "hush" not in f"{settings!r} {settings} {settings.model_dump_json()} {client_arguments(settings, 'me')}"
