"""`offnominal alerts`."""

from __future__ import annotations

import threading

import structlog
from pydantic import ValidationError

from consumers.stream import Window
from detector.alerts import Alert
from detector.commands.terminal import connect, print_alert, stopped_by_signals
from detector.config import DetectorSettings

log = structlog.get_logger()


def follow_alerts(settings: DetectorSettings, *, as_json: bool, last: int, follow: bool) -> None:
    """Prints alerts as they come."""
    stopping = threading.Event()
    with stopped_by_signals(stopping.set):
        for batch in connect(settings).read([settings.alerts.topic], Window(records=last), follow=follow):
            for row, value in enumerate(batch.values):
                try:
                    alert = Alert.model_validate_json(value or b"")
                except ValidationError:
                    log.warning("not an alert", source=f"{batch.source(row)[0]}@{batch.source(row)[1]}")
                    continue
                print_alert(alert, as_json=as_json)
            if stopping.is_set():
                return
