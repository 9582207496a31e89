"""What `offnominal notify` exports of itself, over HTTP."""

from __future__ import annotations

from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Gauge
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

Result = Literal["sent", "failed", "given_up"]


class Deliveries:
    """Counts by channel; labels are names out of the settings."""

    def __init__(self, detector: str) -> None:
        self.registry = CollectorRegistry()
        self._detector = detector
        self._count = Counter(
            "offnominal_notifications",
            "Messages by what became of them. failed: tried again; given_up: see the log, nobody was told.",
            ("detector", "channel", "result"),
            registry=self.registry,
        )
        self._waiting = Gauge(
            "offnominal_notify_waiting_alerts",
            "Alerts that are held back or could not be sent yet. Growing outside quiet hours: see the log.",
            ("detector", "channel"),
            registry=self.registry,
        )

    def count(self, channel: str, result: Result) -> None:
        self._count.labels(self._detector, channel, result).inc()

    def waiting(self, channel: str, alerts: int) -> None:
        self._waiting.labels(self._detector, channel).set(alerts)


def application(deliveries: Deliveries) -> Starlette:
    """/metrics, and /healthz, which answers as long as the process is there: it ends where a channel cannot go on."""

    def metrics(_: Request) -> Response:
        return Response(generate_latest(deliveries.registry), media_type=CONTENT_TYPE_LATEST)

    def healthz(_: Request) -> Response:
        return JSONResponse({"ok": True})

    return Starlette(routes=[Route("/metrics", metrics), Route("/healthz", healthz)])
