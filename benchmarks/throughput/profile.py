"""Where the daemon's time goes, by wrapping methods of the product from outside: it has no hooks for this."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import wraps
from typing import Any
from unittest.mock import patch

from consumers.stream import Broker, Stream
from detector.partition import PartitionMemory
from detector.pipeline import Pipeline
from models.scorer import Scorer

STAGES: dict[str, tuple[type, str]] = {
    "decode": (Pipeline, "process"),
    "encode": (PartitionMemory, "see"),
    "score": (Scorer, "score"),
    "decide": (Pipeline, "judge"),
}
"""What a stage is: a method without the methods of other stages that it calls.

decode: also making dead letters and positions. encode: also windows and novelties. score: the models, whoever asks.
decide: calibration, levels, incidents, reasons and alerts. The stream's `poll` and `publish` are stages of their own:
waiting for the broker is in `poll`, in `publish` a transaction.
"""


class Profile:
    """Seconds by stage; every moment counts for the innermost stage that it falls into."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self.seconds = dict.fromkeys(("poll", *STAGES, "publish"), 0.0)
        self._clock = clock
        self._within: list[str] = []
        self._since = 0.0

    def timed(self, stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, whose time counts for the stage."""

        @wraps(function)
        def call(*arguments: Any, **named: Any) -> Any:
            self._charge()
            self._within.append(stage)
            try:
                return function(*arguments, **named)
            finally:
                self._charge()
                self._within.pop()

        return call

    def reset(self) -> None:
        """Counts from now on."""
        self.seconds = dict.fromkeys(self.seconds, 0.0)

    def _charge(self) -> None:
        now = self._clock()
        if self._within:
            self.seconds[self._within[-1]] += now - self._since
        self._since = now


@contextmanager
def profiled(broker: Broker) -> Iterator[Profile]:
    """Times `STAGES` and the broker's streams for as long as the context lasts."""
    profile, open_stream = Profile(), broker.stream

    def stream(*arguments: Any, **named: Any) -> Stream:
        opened = open_stream(*arguments, **named)
        for name in ("poll", "publish"):
            setattr(opened, name, profile.timed(name, getattr(opened, name)))
        return opened

    with ExitStack() as patches:
        patches.enter_context(patch.object(broker, "stream", stream))
        for stage, (owner, name) in STAGES.items():
            patches.enter_context(patch.object(owner, name, profile.timed(stage, getattr(owner, name))))
        yield profile


def per_record(spent: Mapping[str, float], records: int, seconds: float) -> dict[str, float]:
    """Microseconds a record of each stage, out of seconds; `other` is what none of them accounts for."""
    stages = {**spent, "other": seconds - sum(spent.values())}
    return {stage: round(1e6 * taken / records, 3) for stage, taken in stages.items()}
