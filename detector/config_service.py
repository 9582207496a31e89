"""Settings of the service around the detection: what is kept where, how much at once, who may look."""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path
from typing import Self

from pydantic import Field, SecretStr, model_validator

from consumers.settings import Settings
from detector.config_types import Duration, Topic


class DeadLetterSettings(Settings):
    """Where records go that cannot be scored."""

    topic: Topic | None = None
    """Topic of dead letters; `<alert topic>-dead-letters` where none is given."""
    max_bytes: int = Field(default=900_000, ge=1_000)
    """Larger values are cut to this size, and their SHA-256 is put in a header."""
    max_invalid_ratio: float | None = Field(default=0.5, gt=0.0, lt=1.0)
    """The daemon stops rather than divert a stream: where more than this share of the last 1,000 records of a partition
    cannot be scored; null for no limit."""
    max_consecutive: int | None = Field(default=1_000, ge=1)
    """It stops as well where more than so many records of a partition in a row cannot be scored; null for no limit."""


class StateSettings(Settings):
    """Snapshots of what the daemon remembers; after a crash or a move the log is replayed from the last one."""

    topic: Topic | None = None
    """Compacted topic that holds them; `offnominal-<name>-state` where none is given."""
    every: Duration = 30.0
    """A partition is written down after so long,"""
    records: int = Field(default=500_000, ge=1)
    """or after so many records, whichever comes first: no more than that is replayed."""
    max_bytes: int = Field(default=64_000_000, ge=1_000_000, le=200_000_000)
    """Largest snapshot of a partition, compressed. Beyond it the entities without an open incident that were not seen
    for longest are left out, and begin anew after a restart."""


class StoreSettings(Settings):
    """Where trained versions are kept."""

    url: str = "store"
    """A folder, or any fsspec URL."""
    poll: Duration = 10.0
    """How often a running daemon looks whether another version has become champion."""
    keep: int = Field(default=20, ge=2)
    """Versions that are kept, the newest; what serves, served before it, is pinned or on trial is never pruned."""


class FeedbackSettings(Settings):
    """What people say of alerts, and how long it counts."""

    topic: Topic | None = None
    """Compacted topic that holds it; `offnominal-<name>-feedback` where none is given."""
    counts_for: Duration = 2_592_000.0
    """A false alarm, or something known, keeps its like from being told for so long."""


class BatchSettings(Settings):
    """How many records are taken at once."""

    max_records: int = Field(default=65_536, ge=1)
    """Most records in a batch."""
    max_bytes: int = Field(default=64_000_000, ge=1_000_000)
    """Most bytes of records in a batch, and as many again on their way from the broker; one record may be larger."""
    max_wait: Duration = 0.2
    """Longest a record waits for others (seconds)."""


def is_loopback(host: str) -> bool:
    """Whether a host name or address means this machine, whoever asks: localhost, 127.0.0.0/8 and ::1."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


class WebSettings(Settings):
    """Health and metrics over HTTP."""

    host: str = "127.0.0.1"
    """Address to listen on."""
    port: int = Field(default=8686, ge=0, le=65535)
    """Port to listen on; 0 takes a free one and logs it."""
    enabled: bool = True
    """Whether to serve at all."""
    token: SecretStr | None = None
    """Must come with every request as `Authorization: Bearer`; wanted unless `host` is an address of this machine.
    Without it /healthz and /readyz tell no more than ok and phase."""
    token_file: Path | None = None
    """A file that holds the token, instead of `token`."""

    @model_validator(mode="after")
    def _guarded(self) -> Self:
        if self.token is not None and self.token_file is not None:
            raise ValueError("token and token_file are two tokens: give one")
        if self.enabled and not is_loopback(self.host) and self.token is None and self.token_file is None:
            raise ValueError(
                f"host '{self.host}' can be reached from other machines: give token (in the environment, "
                "OFFNOMINAL__WEB__TOKEN) or token_file, or set enabled: false"
            )
        return self


class HealthSettings(Settings):
    """When the daemon says that it is not well."""

    stalled_after: Duration = 120.0
    """A partition that has records to read and did not move for so long stands still."""
    max_lag: int | None = Field(default=None, ge=1)
    """More records than this to read, in all, and the daemon is not ready; unlimited where none is given."""
    max_model_age: Duration | None = None
    """A version older than this is too old; twice the time between scheduled trainings where there is a schedule."""
    watchdog: Duration = 300.0
    """The process is ended, with a trace of where it hung, when its loop has not turned for so long."""
