"""How to reach a broker, as the user writes it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, model_validator


class Settings(BaseModel):
    """Root of every group of settings: unknown keys are refused, values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, hide_input_in_errors=True)


class SecuritySettings(Settings):
    """TLS and SASL.

    Secrets are given in the environment (`OFFNOMINAL__KAFKA__SECURITY__PASSWORD`) or as a file; they are masked
    wherever settings are shown.
    """

    protocol: Literal["plaintext", "ssl", "sasl_plaintext", "sasl_ssl"] = "plaintext"
    """Kafka's security.protocol."""
    ca_file: Path | None = None
    """Certificates of the authorities to trust (PEM); the system's where none is given."""
    certificate_file: Path | None = None
    """The client's own certificate (PEM), for mutual TLS."""
    key_file: Path | None = None
    """The key of the client's certificate (PEM)."""
    key_password: SecretStr | None = None
    """Password of the client's key."""
    check_hostname: bool = True
    """Whether the broker's certificate must name the host it was reached by."""
    mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"] | None = None
    """SASL mechanism."""
    username: str | None = None
    """SASL user."""
    password: SecretStr | None = None
    """SASL password."""
    password_file: Path | None = None
    """A file that holds the SASL password, instead of `password`."""
    token_file: Path | None = None
    """A file that holds the current OAUTHBEARER token; read again whenever the broker asks for one."""
    allow_plain_without_tls: bool = False
    """Permits PLAIN over an unencrypted connection, which shows the password to the network."""

    @model_validator(mode="after")
    def _coherent(self) -> Self:
        if self.protocol.startswith("sasl") != (self.mechanism is not None):
            raise ValueError(
                f"protocol is '{self.protocol}' and mechanism is '{self.mechanism}': "
                "SASL protocols want a mechanism, others none"
            )
        if self.mechanism == "PLAIN" and self.protocol == "sasl_plaintext" and not self.allow_plain_without_tls:
            raise ValueError(
                "mechanism PLAIN over sasl_plaintext shows the password to the network: "
                "use sasl_ssl, or set allow_plain_without_tls: true"
            )
        if self.mechanism == "OAUTHBEARER" and self.token_file is None:
            raise ValueError("mechanism OAUTHBEARER wants token_file")
        if self.mechanism in ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"):
            if self.username is None:
                raise ValueError(f"mechanism {self.mechanism} wants username")
            if (self.password is None) == (self.password_file is None):
                raise ValueError(f"mechanism {self.mechanism} wants one of password and password_file")
        if (self.certificate_file is None) != (self.key_file is None):
            raise ValueError("certificate_file and key_file go together")
        return self


class RegistrySettings(Settings):
    """A schema registry with Confluent's REST interface."""

    url: Annotated[str, Field(pattern=r"^https?://")]
    """Its address, `http://host:port`."""
    username: str | None = None
    """User, where it asks for one."""
    password: SecretStr | None = None
    """Password of the user."""
    ca_file: Path | None = None
    """Certificates of the authorities to trust (PEM); the system's where none is given."""


class KafkaSettings(Settings):
    """The broker, and this process's place in its consumer group."""

    bootstrap: Annotated[str, Field(min_length=1)]
    """Addresses of brokers to ask first, `host:port[,host:port]`."""
    client: Literal["kafka-python", "confluent-kafka"] = "kafka-python"
    """The library that speaks to the broker. confluent-kafka comes with the extra `fast`, and does the same."""
    group: str | None = None
    """Consumer group; `offnominal-<name>` where none is given. Replicas of one detector share it."""
    instance: str = "0"
    """Names this replica within the group: it keeps its partitions over a restart, and its transactions are told apart
    by it. Replicas must differ."""
    security: SecuritySettings = SecuritySettings()
    """TLS and SASL."""
    delivery: Literal["exactly_once", "at_least_once"] = "exactly_once"
    """Whether alerts, dead letters and positions are one transaction, or are produced first and committed after, where
    a crash between the two repeats alerts under the same id."""
    start: Literal["earliest", "latest"] = "latest"
    """Where a group without positions begins."""
    session_timeout_s: float = Field(default=45.0, ge=6.0, le=1800.0)
    """Silence after which the group gives this replica's partitions to others (seconds)."""
    max_poll_interval_s: float = Field(default=300.0, ge=10.0, le=86_400.0)
    """Longest time between two polls after which the group takes this replica for hung (seconds)."""
    request_timeout_s: float = Field(default=30.0, ge=1.0, le=600.0)
    """Deadline of one exchange with the broker (seconds)."""
