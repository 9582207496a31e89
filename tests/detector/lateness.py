"""Records that come late, and what a partition ought to remember of them, by the letter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from consumers.batch import Columns, Partition
from detector.config import FeatureSettings
from detector.entities import EntityTable
from detector.features import FeatureEncoder
from detector.parts import Previous
from detector.snapshot import pack, unpack
from detector.windows import LATE, EntityHistory, Late

MINUTE = 60_000
LATE_FOR = 10
"""Minutes."""
NAN = float("nan")


class Row(NamedTuple):
    """A record; `mark` is `.` below the level, `+` elevated, `!` an alarm."""

    entity: str
    minute: int
    cpu: float = 0.0
    mark: str = "."
    rank: int = 0


def columns(rows: Sequence[Row], start: int = 0) -> Columns:
    n = len(rows)
    return Columns(
        row=np.arange(n),
        partitions=(Partition("t", 0),),
        partition=np.zeros(n, np.int32),
        offsets=np.arange(start, start + n),
        time=np.array([row.minute * MINUTE for row in rows], np.int64),
        entity=np.array([row.entity for row in rows], object),
        numbers={name: np.array([row.cpu for row in rows]) for name in ("cpu", "sent", "level")},
        texts={"route": np.array([f"r{row.cpu:.0f}" for row in rows], object)},
    )


def encoder(window: int, *, changes: bool = False, centre: float = 0.0) -> FeatureEncoder:
    """Of cpu as it is, a counter and a difference; or of cpu alone."""
    features = [FeatureSettings(name="cpu")]
    if changes:
        features += [FeatureSettings(name="sent", kind="counter"), FeatureSettings(name="level", transform="diff")]
    values = centre + np.random.default_rng(0).normal(0.0, 30.0, 50)
    return FeatureEncoder.fit(columns([Row("x", i, v) for i, v in enumerate(values.tolist())]), features, window=window)


class Feed:
    """The history of one partition and the table of its entities."""

    def __init__(self, fitted: FeatureEncoder, max_entities: int = 10) -> None:
        self.table = EntityTable(max_entities)
        self.history = EntityHistory(fitted, LATE_FOR * 60)
        self.seen = 0

    def take(self, rows: Sequence[Row]) -> tuple[NDArray[np.float32], Late]:
        data = columns(rows, self.seen)
        self.seen += len(rows)
        return self.history.windows(data, self.table.locate(data.entity))

    def restart(self) -> None:
        """Goes on from what was remembered."""
        state = unpack(pack(self.history.to_state(np.arange(len(self.table)))))
        self.history = EntityHistory(self.history._encoder, LATE_FOR * 60)
        self.history.restore(state)


class Known(NamedTuple):
    minute: int
    offset: int
    row: NDArray[np.float32]
    record: Row


@dataclass
class OneByOne:
    """The same by the letter: record after record, lists and a dictionary."""

    fitted: FeatureEncoder
    max_entities: int
    entities: dict[str, list[Known]] = field(default_factory=dict)
    windows: list[NDArray[np.float32]] = field(default_factory=list)
    late: list[bool] = field(default_factory=list)
    again: list[tuple[int, int]] = field(default_factory=list)
    again_windows: list[NDArray[np.float32]] = field(default_factory=list)

    def take(self, record: Row) -> None:
        if record.entity not in self.entities and len(self.entities) == self.max_entities:
            del self.entities[next(iter(self.entities))]
        line = self.entities.pop(record.entity, [])
        newest = line[-1].minute if line else record.minute
        led = [known for known in line if known.minute <= record.minute]
        after = [known for known in line if known.minute > record.minute]
        if newest - record.minute > LATE_FOR:
            after = []
        offset = len(self.windows)
        line = [*led, Known(record.minute, offset, self._encoded(record, led), record), *after]
        self.windows.append(self._window(line, len(led)))
        self.late.append(bool(after))
        for place in range(len(led) + 1, min(len(led) + self.fitted.window, len(line))) if len(after) <= LATE else ():
            self.again.append((offset, line[place].offset))
            self.again_windows.append(self._window(line, place))
        self.entities[record.entity] = line[-(self.fitted.window - 1 + LATE) :]

    def _encoded(self, record: Row, led: list[Known]) -> NDArray[np.float32]:
        cpu = np.array([led[-1].record.cpu if led else NAN])
        time = np.array([led[-1].minute * MINUTE if led else 0])
        row: NDArray[np.float32] = self.fitted.encode(columns([record]), Previous({"sent": cpu, "level": cpu}, time))[0]
        return row

    def _window(self, line: list[Known], place: int) -> NDArray[np.float32]:
        rows = [known.row for known in line[: place + 1]][-self.fitted.window :]
        return np.stack([rows[0]] * (self.fitted.window - len(rows)) + rows)


WRONG_CLOCKS = [10**6, -(10**6)]
"""Minutes."""


@st.composite
def streams(draw: st.DrawFn, /, **fields: st.SearchStrategy[Any]) -> list[Row]:
    """About two records a minute, of which some are late, some more than is let pass, and a few have a wrong clock."""
    delay = st.sampled_from([0, 0, 0, 0, 1, 2, 5, 9, LATE_FOR + 1, *WRONG_CLOCKS])
    rows = st.fixed_dictionaries({"entity": st.sampled_from("aaaaab"), "minute": delay, **fields})
    drawn = draw(st.lists(rows, min_size=1, max_size=60))
    return [Row(**{**row, "minute": number // 2 - row["minute"]}) for number, row in enumerate(drawn)]
