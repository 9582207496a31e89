"""The loops that one would write instead: kafka-python, json, and a detector out of a library.

    python -m benchmarks.throughput.loops LIBRARY BOOTSTRAP TOPIC RECORDS

Poll, decode, score, compare with a threshold, produce alerts and flush, commit. They see each record by itself, keep no
budget, and repeat alerts after a crash. The threshold lets as many training records through as the detector's budget.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from kafka import KafkaConsumer, KafkaProducer
from numpy.typing import NDArray

from benchmarks.stage import MIXTURE, VAE, unique
from benchmarks.throughput.meter import Meter
from benchmarks.workload import ANOMALOUS, ENTITY, FEATURES, training

BATCH = 10_000
LONGEST_S = 10.0

Records = Sequence[dict[str, Any]]
Score = Callable[[Records], NDArray[np.float64]]
"""Scores (n,) of decoded records, the higher the more anomalous."""


def scikit_learn(known: Records) -> Score:
    """A mixture of as many components as the detector's."""
    from sklearn.mixture import GaussianMixture  # type: ignore[import-untyped]  # ships no types

    mixture = GaussianMixture(MIXTURE["components"], random_state=0).fit(_matrix(known))
    return lambda records: -np.asarray(mixture.score_samples(_matrix(records)), np.float64)


def pyod(known: Records) -> Score:
    """PyOD's variational autoencoder with the sizes of the detector's, scored in batches; one at a time by default."""
    from pyod.models.vae import VAE as Autoencoder

    model = Autoencoder(
        epoch_num=VAE["epochs"],
        latent_dim=VAE["latent"],
        encoder_neuron_list=VAE["hidden"],
        decoder_neuron_list=VAE["hidden"][::-1],
        batch_size=256,
        verbose=0,
    ).fit(_matrix(known))
    return lambda records: np.asarray(model.decision_function(_matrix(records), batch_size=BATCH), np.float64)


def river(known: Records) -> Score:
    """Half-space trees, which learn from every record that they have scored."""
    from river.anomaly import HalfSpaceTrees
    from river.preprocessing import MinMaxScaler

    model = MinMaxScaler() | HalfSpaceTrees(seed=0)

    def score(records: Records) -> NDArray[np.float64]:
        scores = np.empty(len(records))
        for row, record in enumerate(records):
            seen = {name: record[name] for name in FEATURES}
            scores[row] = model.score_one(seen)
            model.learn_one(seen)
        return scores

    score(known)
    return score


LIBRARIES: dict[str, Callable[[Records], Score]] = {"scikit-learn": scikit_learn, "pyod": pyod, "river": river}


def fitted(library: str) -> tuple[Score, float]:
    """A detector that knows the training records, and its threshold."""
    known = [json.loads(value) for value in training()]
    score = LIBRARIES[library](known)
    return score, float(np.quantile(score(known), 1 - ANOMALOUS))


def loop(score: Score, threshold: float, bootstrap: str, topic: str, meter: Meter) -> int:
    """Reads until the meter is satisfied, or for `LONGEST_S` from the first records on. Gives how many alerts it sent
    to the topic `<topic>-alerts`."""
    group, alerts, deadline = unique(topic), 0, float("inf")
    consumer = KafkaConsumer(
        topic,
        bootstrap_servers=bootstrap,
        group_id=group,
        auto_offset_reset="earliest",
        enable_auto_commit=False,
        metrics_enabled=False,
    )
    producer = KafkaProducer(bootstrap_servers=bootstrap, metrics_enabled=False)
    try:
        while not meter.done and time.monotonic() < deadline:
            for records in consumer.poll(1000, BATCH).values():
                deadline = min(deadline, time.monotonic() + LONGEST_S)
                decoded = [json.loads(record.value) for record in records]
                for row in np.flatnonzero(score(decoded) > threshold).tolist():
                    alerts += 1
                    producer.send(f"{topic}-alerts", records[row].value, decoded[row][ENTITY].encode())
                producer.flush()
                consumer.commit()
                meter.took(len(records))
    finally:
        producer.close(timeout=5)
        consumer.close(autocommit=False)
    return alerts


def _matrix(records: Records) -> NDArray[np.float64]:
    return np.array([[record[name] for name in FEATURES] for record in records])


if __name__ == "__main__":
    counted, (scorer, limit) = Meter(int(sys.argv[4])), fitted(sys.argv[1])
    sent = loop(scorer, limit, sys.argv[2], sys.argv[3], counted)
    print(json.dumps({**counted.figures(), "alerts": sent}))  # noqa: T201 - the result
