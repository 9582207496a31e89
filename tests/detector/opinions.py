"""What people say of alerts, for tests."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

import numpy as np

from detector.alerts import Alert
from detector.feedback import Feedback, Label
from detector.feedback_effects import Opinions
from detector.recursion import Levelled

DAY_S = 86_400.0


def word(alert: Alert, label: Label = "false_alarm", *, at: datetime | None = None) -> Feedback:
    """Said of an alert as soon as it was told, or at another time."""
    return Feedback(label=label, author="ada", time=at or alert.time, alert=alert, until=alert.time)


def words(alerts: Iterable[Alert], label: Label = "false_alarm", *, at: datetime | None = None) -> list[Feedback]:
    return [word(alert, label, at=at) for alert in alerts]


def raised(opinions: Opinions, segment: str, at: datetime) -> float:
    """Nats by which the level of a segment is raised then."""
    one = np.ones(1)
    said = Levelled(one, 0 * one, 0 * one, one, one < 0, one < 0, np.zeros(1, np.uint8))
    time = np.array([round(at.timestamp() * 1000)])
    opinions.doubt(np.array([segment], object), time, said, lambda rows: [])
    return float(said.level[0])
