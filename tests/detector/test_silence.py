from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from detector.entities import EntityTable
from detector.rhythm import JUMP
from detector.silence import READY, TOPIC, Silences, SilenceWatch
from detector.snapshot import pack, unpack

MINUTE, HOUR, DAY = 60_000, 3_600_000, 86_400_000
START = 1_800_000_000_000


class Told(NamedTuple):
    row: int
    slot: int
    last: int
    since_ms: int
    lasted_ms: int
    entities: int
    over: bool


class Partition:
    """A watch behind a table of entities, fed with (entity, time)."""

    def __init__(self, rate: float = 1e-3, max_entities: int = 1000) -> None:
        self.watch, self.rate, self.entities = SilenceWatch(), rate, EntityTable(max_entities)

    def feed(self, records: Sequence[tuple[str, int]]) -> list[Told]:
        if not records:
            return []
        visits = self.entities.locate(np.array([entity for entity, _ in records], dtype=object))
        times = np.array([time for _, time in records], dtype=np.int64)
        return told(self.watch.observe(visits.slot, visits.fresh, times, np.full(len(records), self.rate)))

    def idle(self, elapsed_ms: float) -> list[Told]:
        return told(self.watch.overdue(self.watch.clock_ms + elapsed_ms))

    def restart(self, entities: int | None = None) -> None:
        """Goes on from what was remembered, of so many entities in the first slots."""
        state = self.watch.to_state(np.arange(len(self.entities) if entities is None else entities))
        self.watch = SilenceWatch()
        self.watch.restore(unpack(pack(state)))


def told(silences: Silences) -> list[Told]:
    return [Told(*values) for values in zip(*(column.tolist() for column in silences), strict=True)]


def every(period: int, entity: str, start: int, stop: int) -> list[tuple[str, int]]:
    return [(entity, time) for time in range(start, stop, period)]


def merged(*streams: list[tuple[str, int]]) -> list[tuple[str, int]]:
    return sorted((record for stream in streams for record in stream), key=lambda record: record[1])


def rhythmic(gaps: NDArray[np.float64], entity: str = "a") -> list[tuple[str, int]]:
    return [(entity, int(time)) for time in START + np.cumsum(gaps)]


def fleet(size: int, stop: int, *, start: int = START, members: Iterable[int] | None = None) -> list[tuple[str, int]]:
    """So many entities, or some of them, that report every minute, one after the other."""
    numbers = range(size) if members is None else members
    return merged(*(every(MINUTE, f"e{n}", start + n * MINUTE // size, stop) for n in numbers))


def test_an_entity_that_stops_is_told_once_while_the_others_go_on() -> None:
    stop = START + 2 * HOUR
    records = merged(
        every(MINUTE, "a", START, stop), every(MINUTE, "b", START + 20_000, stop + 3 * HOUR),
        every(MINUTE, "c", START + 40_000, stop + 3 * HOUR),
    )  # fmt: skip
    (silence,) = Partition().feed(records)
    assert (silence.slot, silence.entities, silence.over) == (0, 1, False)
    assert records[silence.last] == ("a", stop - MINUTE)
    assert abs(silence.since_ms - (stop - MINUTE)) <= 20_000  # the clock follows a record behind
    assert 2 * MINUTE < silence.lasted_ms < 3 * MINUTE
    assert abs(records[silence.row][1] - (silence.since_ms + silence.lasted_ms)) <= 20_000


def test_a_silence_is_over_with_the_next_record_of_the_entity() -> None:
    stop = START + 2 * HOUR
    partition = Partition()
    partition.feed(merged(every(MINUTE, "a", START, stop), every(MINUTE, "b", START + 1, stop + HOUR)))
    assert partition.watch.silent == 1
    (over,) = partition.feed([("b", stop + HOUR), ("a", stop + HOUR), ("b", stop + HOUR + MINUTE)])
    assert (over.row, over.slot, over.over) == (1, 0, True)
    assert abs(over.lasted_ms - HOUR - MINUTE) <= MINUTE
    assert partition.watch.silent == 0


def test_an_even_rhythm_is_never_a_silence() -> None:
    assert Partition().feed(fleet(5, START + 2 * DAY)) == []


def test_nothing_is_told_of_an_entity_whose_rhythm_is_not_known() -> None:
    others = every(MINUTE, "b", START + 1, START + DAY)
    partition = Partition()
    assert partition.feed(merged(every(MINUTE, "a", START, START + READY * MINUTE), others)) == []
    assert partition.watch.ready == 1
    known = Partition()
    assert len(known.feed(merged(every(MINUTE, "a", START, START + (READY + 2) * MINUTE), others))) == 1
    assert known.watch.ready == 2


def test_records_at_one_moment_are_one_report() -> None:
    burst = [(entity, time) for entity, time in every(MINUTE, "a", START, START + READY * MINUTE) for _ in range(9)]
    partition = Partition()
    partition.feed(merged(burst, every(MINUTE, "b", START + 1, START + DAY)))
    assert partition.watch.ready == 1


def test_a_topic_of_one_entity_is_told_when_the_time_is_handed_in() -> None:
    partition = Partition()
    partition.feed(every(MINUTE, "a", START, START + 2 * HOUR))
    assert partition.idle(MINUTE) == []
    (silence,) = partition.idle(5 * MINUTE)
    assert (silence.row, silence.slot, silence.last, silence.entities, silence.over) == (-1, 0, -1, 1, False)
    assert (silence.since_ms, silence.lasted_ms) == (
        START + 2 * HOUR - MINUTE,
        4 * MINUTE,
    )  # the clock: a record behind
    assert partition.idle(HOUR) == []
    (over,) = partition.feed([("a", START + 3 * HOUR)])
    assert (over.slot, over.lasted_ms, over.over) == (0, HOUR + MINUTE, True)


def test_a_topic_of_one_entity_is_told_of_its_past_by_the_record_that_ends_it() -> None:
    begun, over = Partition().feed(
        [*every(MINUTE, "a", START, START + HOUR), *every(MINUTE, "a", START + 3 * HOUR, START + 4 * HOUR)]
    )
    assert (begun.row, begun.last, begun.lasted_ms, begun.over) == (60, 59, 2 * HOUR + MINUTE, False)
    assert over == begun._replace(last=60, over=True)


def test_when_most_entities_stop_it_is_told_once_of_all() -> None:
    stop = START + 2 * HOUR
    partition = Partition()
    found = partition.feed(merged(fleet(100, stop), fleet(100, stop + HOUR, start=stop, members=range(0, 100, 10))))
    (silence,) = found
    assert (silence.slot, silence.over) == (TOPIC, False)
    assert 80 <= silence.entities <= 90
    assert silence.lasted_ms < 3 * MINUTE


def test_when_the_topic_stops_it_is_told_once_however_uneven_its_entities_are() -> None:
    rng = np.random.default_rng(5)
    records = merged(*(rhythmic(MINUTE * np.exp(1.5 * rng.normal(size=100)), f"e{n}") for n in range(200)))
    partition = Partition()
    partition.feed(records[: len(records) // 2])
    found = [each for second in range(0, 7200, 10) for each in partition.idle(second * 1000)]
    assert [(each.slot, each.over) for each in found] == [(TOPIC, False)]


def test_when_most_uneven_entities_stop_the_first_are_told_by_themselves_the_rest_together() -> None:
    rng = np.random.default_rng(6)
    stop = START + 150 * MINUTE
    streams = [rhythmic(MINUTE * rng.exponential(size=400), f"e{n}") for n in range(100)]
    kept = [[each for each in part if n < 20 or each[1] < stop] for n, part in enumerate(streams)]
    records = merged(*kept)
    begun = [each for each in Partition().feed(records) if not each.over and records[each.row][1] >= stop]
    assert sum(each.slot == TOPIC for each in begun) == 1
    assert len(begun) < 60


def test_during_a_common_silence_another_one_that_stops_is_told_by_itself() -> None:
    stop, later = START + 2 * HOUR, START + 4 * HOUR
    records = merged(
        fleet(20, stop), fleet(20, later, start=stop, members=range(7)),
        fleet(20, later + HOUR, start=later, members=range(1, 7)),
    )  # fmt: skip
    found = Partition().feed(records)
    assert [(each.slot, each.over) for each in found] == [(TOPIC, False), (0, False)]


def test_after_a_common_silence_the_one_that_stays_away_is_told_by_itself() -> None:
    stop, again = START + 2 * HOUR, START + 4 * HOUR
    partition = Partition()
    assert partition.feed(fleet(50, stop)) == []
    (silence,) = partition.idle(HOUR)
    assert (silence.slot, silence.entities) == (TOPIC, 50)
    found = partition.feed(fleet(50, again + HOUR, start=again, members=range(1, 50)))
    topic, alone = [each for each in found if each.slot == TOPIC], [each for each in found if each.slot != TOPIC]
    assert [each.over for each in topic] == [True]
    assert [(each.slot, each.over) for each in alone] == [(0, False)]
    assert found.index(topic[0]) < found.index(alone[0])


def test_a_stop_of_the_topic_is_found_in_its_past_too() -> None:
    stop, again = START + 2 * HOUR, START + 4 * HOUR
    found = Partition().feed(merged(fleet(20, stop), fleet(20, again + HOUR, start=again)))
    assert [(each.slot, each.over) for each in found] == [(TOPIC, False), (TOPIC, True)]
    assert all(each.lasted_ms > HOUR for each in found)


def test_when_few_of_many_stop_each_is_told() -> None:
    stop = START + 2 * HOUR
    found = Partition().feed(merged(fleet(100, stop), fleet(100, stop + HOUR, start=stop, members=range(10, 100))))
    assert sorted(each.slot for each in found) == list(range(10))


@pytest.mark.parametrize("wrong", [START + 5 * HOUR, 2**63 - 1, -(2**63), START - 30 * DAY])
def test_one_wrong_time_makes_nobody_late_and_does_not_stop_the_clock(wrong: int) -> None:
    stop = START + 3 * HOUR
    records = merged(every(MINUTE, "a", START, stop), fleet(10, stop + HOUR, members=range(1, 10)))
    for place in (0, len(records) // 2):
        (silence,) = Partition().feed([*records[:place], ("e5", wrong), *records[place:]])
        assert silence.slot == records_slot(records, "a", place)


def records_slot(records: list[tuple[str, int]], entity: str, place: int) -> int:
    names = list(dict.fromkeys((["e5"] if place == 0 else []) + [name for name, _ in records]))
    return names.index(entity)


def test_a_clock_set_anew_is_not_time_that_passed() -> None:
    stop = START + 2 * HOUR
    for step in (int(2 * JUMP), -int(2 * JUMP)):
        later = [(entity, time + step) for entity, time in fleet(10, stop + HOUR, start=stop, members=range(1, 10))]
        found = Partition().feed([*fleet(10, stop), *later])
        assert [(each.slot, each.over) for each in found] == [(0, False)]  # e0 did stop


def test_an_entity_whose_own_clock_is_behind_is_not_late() -> None:
    behind = [("a", time - 5 * HOUR) for _, time in every(MINUTE, "a", START, START + 5 * HOUR)]
    records = fleet(10, START + 5 * HOUR)
    ours = [part for pair in zip(records[::10], behind, strict=False) for part in pair]
    others = [record for n, record in enumerate(records) if n % 10]
    mixed = [record for n in range(len(behind)) for record in (*ours[2 * n : 2 * n + 2], *others[9 * n : 9 * n + 9])]
    assert Partition().feed(mixed) == []


def test_another_rhythm_costs_few_silences_until_it_is_known() -> None:
    rng = np.random.default_rng(0)
    gaps = MINUTE * np.exp(0.05 * rng.normal(size=2000))
    gaps[1000:] *= 10
    partition = Partition()
    begun = [each for each in partition.feed(rhythmic(gaps)) if not each.over]
    assert 1 <= len(begun) <= 4
    assert partition.watch.silent == 0


@pytest.mark.parametrize(
    ("spread", "rate", "low", "high"), [(1.5, 0.01, 0.6, 1.3), (0.5, 0.01, 0.02, 1.3), (0.05, 0.01, 0.0, 0.0)]
)
def test_of_all_gaps_no_more_than_the_promised_share_is_told_as_silence(
    spread: float, rate: float, low: float, high: float
) -> None:
    rng = np.random.default_rng(1)
    streams = [rhythmic(MINUTE * np.exp(spread * rng.normal(size=4000)), f"e{n}") for n in range(8)]
    found = Partition(rate).feed(merged(*streams))
    realised = sum(each.over for each in found if each.slot != TOPIC) / (8 * 4000)
    assert low * rate <= realised <= high * rate


def test_pauses_that_no_rhythm_foresees_are_learned_from_what_came_of_them() -> None:
    rng = np.random.default_rng(4)
    gaps = 1000 * rng.exponential(size=20_000)
    gaps[rng.random(len(gaps)) < 0.03] = HOUR
    found = Partition(0.001).feed(rhythmic(gaps))
    assert sum(each.over for each in found) <= 2 * 0.001 * len(gaps)


def test_a_lower_rate_waits_longer() -> None:
    gaps = MINUTE * np.exp(1.5 * np.random.default_rng(2).normal(size=3000))
    waits = []
    for rate in (0.05, 0.001):
        partition = Partition(rate)
        partition.feed(rhythmic(gaps))
        waits.append(next(minutes for minutes in range(1000) if partition.idle(minutes * MINUTE)))
    assert 2 < waits[0] < waits[1] < 500


def test_one_long_silence_does_not_blunt_the_watch() -> None:
    rng = np.random.default_rng(3)
    gaps = MINUTE * np.exp(0.1 * rng.normal(size=400))
    gaps[200] = 3 * DAY
    partition = Partition()
    partition.feed(rhythmic(gaps))
    assert partition.idle(4 * MINUTE)


def test_a_slot_that_changed_hands_says_whose_silence_it_was() -> None:
    stop = START + HOUR
    partition = Partition(max_entities=2)
    records = [
        *merged(every(MINUTE, "a", START, stop), every(MINUTE, "b", START + 1, stop + HOUR)),
        ("new", stop + HOUR),
    ]
    (silence,) = partition.feed(records)
    assert records[silence.last] == ("a", stop - MINUTE)
    assert silence.slot == 0
    assert partition.watch.ready == 1
    assert partition.watch.silent == 0


def test_before_the_first_records_nothing_is_overdue() -> None:
    partition = Partition()
    assert partition.idle(DAY) == []
    partition.feed([("a", START)])
    assert partition.idle(DAY) == []
    assert (partition.watch.ready, partition.watch.silent) == (0, 0)


def test_memory_of_many_entities_survives_growing() -> None:
    many = [(f"e{n}", START + minute * MINUTE + n) for minute in range(READY + 5) for n in range(700)]
    partition = Partition()
    partition.feed([("first", START), ("second", START + 1)])
    assert partition.feed(many) == []
    assert partition.watch.ready == 700


gap = st.sampled_from([0, 1, 700, 1000, 1100, 5000, 90_000, HOUR, 10 * DAY, -1000, -10 * DAY])
record = st.tuples(st.sampled_from("aaaabbbc") | st.sampled_from("defgh"), gap)


def stream(steps: list[tuple[str, int]]) -> list[tuple[str, int]]:
    """A regular beginning, so that rhythms are known, then anything."""
    calm = [(entity, START + 1000 * n) for n in range(READY + 4) for entity in "abc"]
    times = calm[-1][1] + np.cumsum([step for _, step in steps])
    return [*calm, *((entity, int(time)) for (entity, _), time in zip(steps, times, strict=True))]


@settings(deadline=None)
@given(st.lists(record, max_size=120), st.lists(st.integers(0, 200)), st.integers(1, 6))
def test_what_comes_of_a_stream_does_not_depend_on_where_batches_end(
    steps: list[tuple[str, int]], cuts: list[int], max_entities: int
) -> None:
    records = stream(steps)
    whole, parted, restored = (Partition(0.01, max_entities) for _ in range(3))
    expected, calm = whole.feed(records), fleet(4, records[-1][1] + HOUR, start=records[-1][1])
    after, later = whole.idle(HOUR), whole.feed(calm)
    edges = sorted({0, len(records), *(cut for cut in cuts if cut < len(records))})
    for partition in (parted, restored):
        found = []
        for start, stop in pairwise(edges):
            part = partition.feed(records[start:stop])
            found += [each._replace(row=each.row + start) for each in part]
            if partition is restored:
                partition.restart()
        assert [each._replace(last=0) for each in found] == [each._replace(last=0) for each in expected]
        assert partition.idle(HOUR) == after
        assert partition.feed(calm) == later


def test_what_is_remembered_is_taken_apart_and_put_together_whole() -> None:
    records = fleet(30, START + HOUR)
    partition = Partition()
    partition.feed(records)
    kept, (again, once_more) = partition.watch.to_state(np.arange(30)), (SilenceWatch(), SilenceWatch())
    again.restore(kept)
    now = partition.watch.clock_ms + HOUR
    assert told(again.overdue(now)) == told(partition.watch.overdue(now)) != []
    once_more.restore(kept)
    assert told(once_more.overdue(now)) != []  # what was taken apart is not shared


def test_of_those_silent_together_who_is_left_out_does_not_count() -> None:
    records = fleet(10, START + HOUR)
    partition = Partition()
    partition.feed(records)
    (outage,) = partition.idle(HOUR)
    assert (outage.slot, outage.entities) == (TOPIC, 10)
    partition.restart(4)
    back = merged(*(every(MINUTE, f"e{n}", START + 2 * HOUR, START + 2 * HOUR + 1) for n in range(4)))
    assert [(each.slot, each.entities, each.over) for each in partition.feed(back)] == [(TOPIC, 4, True)]


def test_an_outage_is_over_with_the_last_of_those_who_were_part_of_it() -> None:
    partition = Partition()
    partition.feed(fleet(10, START + HOUR))
    partition.idle(HOUR)
    partition.restart(0)
    partition.entities = EntityTable(1000)
    later = START + 2 * HOUR
    partition.feed(fleet(10, later + HOUR, start=later))
    assert [(each.slot, each.entities) for each in partition.idle(HOUR)] == [(TOPIC, 10)]
