"""Plays the recording of `offnominal demo` into the topic of a settings file: a server where there is none yet.

    python producer.py SETTINGS

The first half at once, to learn from, then a record each tenth of a second: a minute of the recording each.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from consumers.batch import Message
from consumers.producer import Producer
from detector.commands.terminal import connect
from detector.config import DetectorSettings
from detector.demo.recording import MACHINE, load_recording
from detector.loading import load

PACE_S = 0.1
"""Between two records; the second half so takes forty minutes."""
PARTITIONS = 6
"""Of the topic, where it is not there yet. There is one machine, and so records in one of them."""


def play(settings: DetectorSettings, pace_s: float = PACE_S) -> None:
    """Returns when the recording is over. Raises `consumers.errors.Retry` where the broker cannot be reached."""
    topic, recording = settings.stream.topics[0], load_recording()
    connect(settings).create_topics({topic: PARTITIONS})
    records = recording.records(0, len(recording.values))
    with Producer(settings.kafka, client_id="offnominal-producer") as producer:
        for record in records[: recording.half]:
            producer.send(Message(topic, MACHINE.encode(), record))
        producer.flush()
        for record in records[recording.half :]:
            producer.send(Message(topic, MACHINE.encode(), record))
            producer.flush()
            time.sleep(pace_s)


if __name__ == "__main__":
    play(load(Path(sys.argv[1])))
