"""Saying something of an alert: what a message of feedback is made of, and sending it."""

from __future__ import annotations

from contextlib import closing
from datetime import UTC, datetime

from consumers.stream import Broker
from detector.config import DetectorSettings
from detector.feedback import LONGEST_NAME, Feedback, Label, is_named, led_up, named, require_id, said, the_one


def voting(settings: DetectorSettings, instance: str) -> DetectorSettings:
    """The settings with a consumer group for those who give feedback: two with one instance name fence each other."""
    own = {"group": f"{settings.group}-feedback", "instance": instance}
    return settings.model_copy(update={"kafka": settings.kafka.model_copy(update=own)})


def give(broker: Broker, settings: DetectorSettings, begin: str, label: Label, text: str, author: str) -> Feedback:
    """Says something of the incident that has an alert, or an id of its own, that begins like that; or takes back what
    was said of it. It is in the feedback topic when this returns.

    Raises `SettingsError` where no incident is meant, or more than one. `broker` is of the settings `voting` gives.
    """
    require_id(begin)
    feedback = _feedback(broker, settings, begin, label, text, author)
    broker.create_topics({settings.feedback_topic: 1}, compacted=True)
    with closing(broker.stream([settings.feedback_topic])) as stream:
        stream.publish([feedback.message(settings.feedback_topic)], {})
    return feedback


def _feedback(broker: Broker, settings: DetectorSettings, begin: str, label: Label, text: str, author: str) -> Feedback:
    new = {"label": label, "author": author[:LONGEST_NAME], "text": text, "time": datetime.now(UTC)}
    if label == "retracted":
        return _said_before(broker, settings, begin).model_copy(update={**new, "records": []})
    alert, until = named(broker, settings, begin)
    records = led_up(broker, settings, alert) if label in ("false_alarm", "confirmed") else []
    return Feedback.model_validate({**new, "alert": alert, "until": until, "records": records})


def _said_before(broker: Broker, settings: DetectorSettings, begin: str) -> Feedback:
    """The alert may be gone by now; what was said of it is there as long as it counts."""
    words = said(broker, settings)
    found = [key for key, word in words.items() if word.label != "note" and is_named(word.alert, begin)]
    return words[the_one(begin, found, settings.feedback_topic)]
