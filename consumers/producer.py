"""Sending records outside a group's transactions: the demo's telemetry, and whatever else a person asks to be sent."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

from kafka import KafkaProducer

from consumers.batch import Message
from consumers.connection import client_arguments, reaching
from consumers.settings import KafkaSettings


class Producer:
    """An idempotent producer; a context manager that flushes at its end."""

    def __init__(self, settings: KafkaSettings, *, client_id: str) -> None:
        self._settings = settings
        with reaching(settings, "connecting a producer"):
            self._producer: Any = KafkaProducer(
                **client_arguments(settings, client_id),
                acks="all",
                linger_ms=20,
                allow_auto_create_topics=False,
                metrics_enabled=False,
            )

    def send(self, message: Message) -> None:
        """Takes a message; it is on its way when this returns, and there when `flush` has."""
        self._producer.send(message.topic, message.value, message.key, headers=list(message.headers))

    def flush(self) -> None:
        """Returns when all that was sent is there."""
        self._producer.flush(timeout=self._settings.request_timeout_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._producer.close(timeout=self._settings.request_timeout_s if kind is None else 0)
