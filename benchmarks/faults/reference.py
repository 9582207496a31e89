"""The run that nothing disturbed: the topic as it is, through the product's own pipeline, without a broker in between.

The same records in the same partitions and offsets give the same alerts, wherever batches end; nothing of an alert
depends on a clock as long as silences are not told.
"""

from __future__ import annotations

from typing import NamedTuple

from benchmarks.faults.ledger import Place
from benchmarks.faults.traffic import SEQUENCE
from consumers.kafka_python import KafkaPythonBroker
from consumers.stream import Window
from detector.alerts import Alert
from detector.config import DetectorSettings
from detector.pipeline import Pipeline
from detector.store import Store


class Undisturbed(NamedTuple):
    """The alerts, and where the record of each number is."""

    alerts: list[Alert]
    sequences: dict[Place, int]


def undisturbed(settings: DetectorSettings) -> Undisturbed:
    """Reads the topic from its beginning, in the order of offsets, and has the champion judge it."""
    broker = KafkaPythonBroker(settings.kafka, group=settings.group, client_id="undisturbed")
    topics, store = settings.stream.topics, Store(settings.store.url, settings.name)
    bundle = store.load(store.champion() or "")
    pipeline = Pipeline(settings, bundle, partitions=sum(broker.partitions(topics).values()))
    run = Undisturbed([], {})
    for batch in broker.read(topics, Window()):
        run.alerts.extend(pipeline.process(batch).alerts)
        for row, headers in enumerate(batch.headers):
            partition, offset = batch.source(row)
            run.sequences[partition.number, offset] = int(dict(headers)[SEQUENCE])
    return run
