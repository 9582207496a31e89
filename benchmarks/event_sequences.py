"""How well sessions of events are told apart by the likelihood of each event given those before it.

    python -m benchmarks.event_sequences --suite FOLDER [--models transformer,tcn]

Reads FOLDER/event_sequence/hdfs_sessions.npz: log keys of HDFS blocks, a session a block, session i being
`tokens[offsets[i]:offsets[i + 1]]`, with a label for each session of the test half. A record is an event and has one
categorical feature; the models look at ten. Sessions of the training half are normal and in the order of the log: the
first 64 % are fitted, the next 16 % held back for early stopping, and the last 20 % set the threshold.

A session's score is the largest (`max`) or the mean (`mean`) −log p of its events: a single wrong step, or a course
that is odd throughout. Beside the models stand a Markov chain of order 1 and an isolation forest on how often each
event occurs in the session. Figures of each: the AUROC, and precision, recall, F1 and the false alarms among normal
sessions at the threshold that 1 % of the held-back sessions exceed. Test labels touch nothing but the figures.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("OMP_NUM_THREADS", "1")

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.ensemble import IsolationForest  # type: ignore[import-untyped]  # ships no types
from sklearn.metrics import roc_auc_score  # type: ignore[import-untyped]  # ships no types
from torch import Tensor

from benchmarks.measures import Flags, Scores
from benchmarks.quality import run
from consumers.memory import MemoryBroker
from detector.config import DetectorSettings
from detector.loading import parse
from detector.training import train
from detector.training_data import gather
from models.base import Block, Layout
from models.fitting import scored
from models.registry import build

WINDOW = 10
"""Events that a model looks at, the customary number on this data (DeepLog: Du et al., 2017)."""
RATE = 0.01
"""Share of the held-back sessions that may exceed the threshold."""
FITTED, EARLY = 0.64, 0.8
"""Shares of the training sessions where the fitted ones end, and those held back for early stopping."""

MODELS: dict[str, dict[str, Any]] = {
    "transformer": {"width": 32, "heads": 4, "layers": 2, "output": "gaussian", "epochs": 100},
    "tcn": {"channels": 48, "output": "gaussian", "epochs": 100},
}
"""The product's defaults."""
SERVED = ("auto", "transformer")
"""What the settings say of the models in the product's own way."""

Figures = dict[str, float]


class Sessions(NamedTuple):
    """Events (n,) of sessions one after another, and where each begins and the last ends (s + 1,)."""

    events: NDArray[np.int64]
    offsets: NDArray[np.int64]

    def between(self, begin: int, end: int) -> Sessions:
        first, last = self.offsets[begin], self.offsets[end]
        return Sessions(self.events[first:last], self.offsets[begin : end + 1] - first)

    def starts(self) -> NDArray[np.int64]:
        """(n,): where the session of each event begins."""
        return np.repeat(self.offsets[:-1], np.diff(self.offsets))


class Suite(NamedTuple):
    """Sessions by their part, the labels of the tested ones, and how many events there are, the last one being all that
    no fitted session has."""

    fitted: Sessions
    early: Sessions
    held_back: Sessions
    tested: Sessions
    labels: Flags
    kinds: int


def main() -> None:
    """Runs everything; progress goes to stderr, the figures are the last line of stdout."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--suite", type=Path, required=True, help="folder that holds event_sequence")
    arguments.add_argument("--models", default=",".join(MODELS), help="kinds of causal models")
    given = arguments.parse_args()
    suite = load(given.suite / "event_sequence" / "hdfs_sessions.npz")
    told: dict[str, Any] = {"markov": by_event(suite, *markov(suite)), "counts": by_counts(suite)}
    for kind in given.models.split(","):
        began = time.perf_counter()
        told[kind] = by_event(suite, *likelihood(suite, kind))
        sys.stderr.write(f"{kind}: {time.perf_counter() - began:.0f} s\n")
    told["product"] = {models: by_event(suite, *in_service(suite, models)) for models in SERVED}
    sessions = {"sessions": len(suite.labels), "abnormal": int(suite.labels.sum())}
    print(json.dumps({**sessions, **told}))  # noqa: T201 - the result


def load(path: Path) -> Suite:
    """Reads the sessions and numbers their events."""
    with np.load(path) as arrays:
        train = Sessions(arrays["train_tokens"].astype(np.int64), arrays["train_offsets"].astype(np.int64))
        test = Sessions(arrays["test_tokens"].astype(np.int64), arrays["test_offsets"].astype(np.int64))
        labels = arrays["y_test"] == 1
    count = len(train.offsets) - 1
    edges = [0, int(FITTED * count), int(EARLY * count), count]
    parts = [train.between(begin, end) for begin, end in pairwise(edges)]
    known = np.unique(parts[0].events)
    fitted, early, held_back, tested = (numbered(part, known) for part in (*parts, test))
    return Suite(fitted, early, held_back, tested, labels, len(known) + 1)


def numbered(sessions: Sessions, known: NDArray[np.int64]) -> Sessions:
    """Events as their place in `known`, others as the number after the last."""
    place = np.searchsorted(known, sessions.events)
    there = np.append(known, -1)[place] == sessions.events
    return Sessions(np.where(there, place, len(known)), sessions.offsets)


def likelihood(suite: Suite, kind: str) -> tuple[Scores, Scores]:
    """−log p in nats by a model of each held-back and each tested event."""
    layout = Layout((Block("event", "categorical", suite.kinds),), window=WINDOW)
    fitted, early, *judged = (windows(part, suite.kinds) for part in suite[:4])
    model = build(kind, layout, MODELS[kind])
    model.fit(fitted, early, seed=0)
    held_back, tested = (scored(model, x).double().numpy() for x in judged)
    return held_back, tested


def windows(sessions: Sessions, kinds: int) -> Tensor:
    """(n, window, kinds): of each event, one-hot, and those before it in its session, the first repeated."""
    places = np.arange(len(sessions.events))[:, None] + np.arange(1 - WINDOW, 1)
    events = sessions.events[np.maximum(places, sessions.starts()[:, None])]
    return torch.nn.functional.one_hot(torch.from_numpy(events), kinds).float()


def in_service(suite: Suite, models: str) -> tuple[Scores, Scores]:
    """−log p in nats of each held-back and each tested event, as the product gives it."""
    values, known = records(suite[:4]), len(suite.fitted.events) + len(suite.early.events)
    settings, broker = settings_for(models, known), MemoryBroker()
    broker.create_topics({run.TOPIC: 1})
    for value in values[:known]:
        broker.append(run.TOPIC, value)
    created = datetime.fromtimestamp(run.START_MS / 1000, UTC)
    bundle = train(gather(settings, broker, now_ms=0), settings, created=created)
    sys.stderr.write(f"{bundle.manifest.choice}\n")
    for value in values[known:]:
        broker.append(run.TOPIC, value)
    said = run.scored(broker, bundle, {models: settings}, len(values) - known)[models]
    held_back, tested = np.split(said.static_nats, [len(suite.held_back.events)])
    return held_back, tested


def records(parts: Sequence[Sessions]) -> list[bytes]:
    """Events as JSON records, one a second, a session after the other."""
    encode = msgspec.json.Encoder().encode
    sessions = np.cumsum(np.concatenate([np.isin(np.arange(len(part.events)), part.offsets) for part in parts]))
    events = np.concatenate([part.events for part in parts])
    return [
        encode({"session": f"blk_{session}", "event": f"E{event}", "ts": run.START_MS + 1000 * number})
        for number, (session, event) in enumerate(zip(sessions.tolist(), events.tolist(), strict=True))
    ]


def settings_for(models: str, rows: int) -> DetectorSettings:
    """The product's defaults, with one level for all sessions, as each has few records."""
    return parse(
        {
            "name": "sessions",
            "kafka": {"bootstrap": "127.0.0.1:1"},
            "stream": {"topics": [run.TOPIC], "entity": "session", "timestamp": "ts"},
            "features": [{"name": "event", "kind": "categorical"}],
            "models": "auto" if models == "auto" else [models],
            "training": {"records": rows, "min_records": min(rows, 500)},
            "calibration": {"by": "all"},
            "alerts": {"topic": "alerts"},
        }
    )


def markov(suite: Suite) -> tuple[Scores, Scores]:
    """−log p in nats of each held-back and each tested event given the one before, by counts with one added to each."""
    counts = np.ones((suite.kinds + 1, suite.kinds))  # the last row: of first events
    np.add.at(counts, (before(suite.fitted, suite.kinds), suite.fitted.events), 1.0)
    costs = -np.log(counts / counts.sum(1, keepdims=True))
    held_back, tested = (costs[before(part, suite.kinds), part.events] for part in (suite.held_back, suite.tested))
    return held_back, tested


def before(sessions: Sessions, first: int) -> NDArray[np.int64]:
    """(n,): the event before each, or `first` where there is none."""
    previous = np.roll(sessions.events, 1)
    previous[sessions.offsets[:-1]] = first
    return previous


def by_event(suite: Suite, held_back: Scores, tested: Scores) -> dict[str, Figures]:
    """Figures by what each event costs."""
    normal, begun = suite.held_back.offsets, suite.tested.offsets
    return {
        "max": judged(largest(held_back, normal), largest(tested, begun), suite.labels),
        "mean": judged(mean(held_back, normal), mean(tested, begun), suite.labels),
    }


def largest(costs: Scores, offsets: NDArray[np.int64]) -> Scores:
    """(s,): of each session."""
    return np.asarray(np.maximum.reduceat(costs, offsets[:-1]))


def mean(costs: Scores, offsets: NDArray[np.int64]) -> Scores:
    """(s,): of each session."""
    return np.asarray(np.add.reduceat(costs, offsets[:-1]) / np.diff(offsets))


def by_counts(suite: Suite) -> Figures:
    """Figures of an isolation forest on how often each event occurs in a session."""
    fitted, held_back, tested = (
        occurrences(part, suite.kinds) for part in (suite.fitted, suite.held_back, suite.tested)
    )
    forest = IsolationForest(random_state=0).fit(fitted)
    return judged(-forest.score_samples(held_back), -forest.score_samples(tested), suite.labels)


def occurrences(sessions: Sessions, kinds: int) -> NDArray[np.float64]:
    """(s, kinds)"""
    lengths = np.diff(sessions.offsets)
    cells = np.repeat(np.arange(len(lengths)), lengths) * kinds + sessions.events
    return np.bincount(cells, minlength=len(lengths) * kinds).reshape(-1, kinds).astype(np.float64)


def judged(held_back: Scores, tested: Scores, labels: Flags) -> Figures:
    """What scores of sessions are worth."""
    alarm = tested > np.quantile(held_back, 1 - RATE, method="higher")
    hits, raised = int((alarm & labels).sum()), int(alarm.sum())
    precision, recall = hits / max(raised, 1), hits / int(labels.sum())
    figures = {
        "auroc": float(roc_auc_score(labels, tested)),
        "precision": precision,
        "recall": recall,
        "f1": 2 * hits / (raised + int(labels.sum())),
        "false_alarms": float(alarm[~labels].mean()),
    }
    return {name: round(value, 4) for name, value in figures.items()}


if __name__ == "__main__":
    main()
