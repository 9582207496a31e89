from __future__ import annotations

import json
import math
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

from detector import snapshot
from detector.errors import SnapshotError
from detector.partition import PartitionMemory, Service
from detector.pipeline import Pipeline
from detector.snapshot import State, pack, packed, to_columns, to_rows, unpack
from tests.detector.turmoil import KINDS, PLACE, Lived, batch, batches, calm, chosen, live, trained_for, turmoil

SHARE = 1.0


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("snapshot")


def pipeline(folder: Path, kind: str) -> Pipeline:
    return Pipeline(chosen(folder, kind), trained_for(folder, kind))


def service(folder: Path, kind: str, **changes: Any) -> Service:
    return Service.of(chosen(folder, kind, **changes), trained_for(folder, kind))


@cache
def undisturbed(folder: Path, kind: str, seed: int) -> Lived:
    return live(pipeline(folder, kind), batches(turmoil(seed), seed))


def restarted(memory: PartitionMemory, change: Callable[[State], State] = lambda it: it) -> PartitionMemory:
    """Goes on from its snapshot."""
    return PartitionMemory.restore(memory._service, SHARE, change(unpack(pack(memory.to_state()))))


def same(one: Lived, other: Lived) -> bool:
    """Whether the same was decided of every record, and the same told, field by field."""
    pairs = list(zip(one.outcomes, other.outcomes, strict=True))
    columns = ((getattr(a.decided, name), getattr(b.decided, name)) for a, b in pairs for name in a.decided._fields)
    return (
        one.told == other.told
        and all(a.tobytes() == b.tobytes() if a.dtype != object else a.tolist() == b.tolist() for a, b in columns)
        and all(a.refused == b.refused for a, b in pairs)
        and one.pipeline.evicted == other.pipeline.evicted
    )


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", ["entity", "confirmed", "rack", "all"])
def test_after_any_restart_all_is_as_it_would_have_been(folder: Path, kind: str, seed: int) -> None:
    expected = undisturbed(folder, kind, seed)
    found = live(pipeline(folder, kind), batches(turmoil(seed), seed), restarted)
    assert same(found, expected)
    assert pack(found.memory.to_state()) == pack(expected.memory.to_state())


def test_the_streams_have_all_that_a_partition_tells_of(folder: Path) -> None:
    told = [alert for kind in ("entity", "all") for seed in range(3) for alert in undisturbed(folder, kind, seed).told]
    alone = {alert["kind"] for alert in told if alert["members"] is None}
    assert alone >= {"opened", "escalated", "reminded", "amended", "resolved"}
    assert alone >= {"silence", "unseen_category", "field_missing", "field_type"}
    assert {alert["kind"] for alert in told if alert["members"]} >= {"opened", "reminded", "resolved", "silence"}
    assert undisturbed(folder, "entity", 0).pipeline.evicted > 10


@pytest.mark.parametrize(
    ("kind", "parts"),
    [
        ("entity", "entities"),
        ("entity", "entities.evicted"),
        ("rack", "segments"),
        ("entity", "history"),
        ("confirmed", "allowance"),
        ("entity", "levels"),
        ("entity", "incidents"),
        ("confirmed", "incidents.confirmation"),
        ("entity", "incidents.open"),
        ("entity", "incidents.alerted"),
        ("entity", "incidents.ended"),
        ("entity", "outbreaks"),
        ("entity", "outbreaks.clock"),
        ("rack", "outbreaks.traits"),
        ("all", "outbreaks.recent"),
        ("entity", "outbreaks.live"),
        ("entity", "outbreaks.openings"),
        ("entity", "novelty"),
        ("entity", "novelty.told"),
        ("entity", "novelty.missing"),
        ("entity", "novelty.type"),
        ("entity", "silence"),
        ("entity", "poison"),
        ("entity", "silent"),
        ("entity", "last_offset"),
        ("rack", "hushed"),
        ("entity", "averages"),
        ("entity", "excused reach"),
    ],
)
def test_no_part_of_it_can_be_left_out(folder: Path, kind: str, parts: str) -> None:
    blank = PartitionMemory(service(folder, kind), SHARE).to_state()

    def without(state: State) -> State:
        for part in parts.split():
            *way, last = part.split(".")
            place, nothing = state, blank
            for key in way:
                place, nothing = place[key], nothing[key]
            place[last] = nothing[last]
        return state

    def stays_the_same(seed: int) -> bool:
        stream = batches(turmoil(seed), seed)
        try:
            found = live(pipeline(folder, kind), stream, lambda memory: restarted(memory, without))
        except (SnapshotError, LookupError, ValueError):
            return False
        return same(found, undisturbed(folder, kind, seed))

    assert not all(stays_the_same(seed) for seed in range(3))


def test_another_version_takes_over_after_a_restart_as_it_would_have(folder: Path) -> None:
    values, other = turmoil(0), trained_for(folder, "entity", seed=7)
    lived = []
    for between in (lambda memory: memory, restarted):
        serving = pipeline(folder, "entity")
        before = live(serving, batches(values[:900], 0), between)
        serving.adopt(other)
        after = live(serving, batches(values[900:], 0))
        lived.append(Lived([*before.outcomes, *after.outcomes], serving))
    assert same(*lived)


def test_an_outage_that_was_told_before_a_restart_is_over_after_it(folder: Path) -> None:
    values, lived = turmoil(0), []
    for between in (lambda memory: memory, restarted):
        serving = pipeline(folder, "entity")
        live(serving, batches(values[:900], 0))
        serving._memories[PLACE] = between(serving._memories[PLACE])
        lived.append(live(serving, iter([batch(values[900:], 900)])))
    assert same(*lived)
    assert ("resolved", 4) in [(alert["kind"], alert["members"]) for alert in lived[1].told]


def test_a_state_shares_nothing_with_the_memory_that_goes_on(folder: Path) -> None:
    memory = live(pipeline(folder, "entity"), batches(turmoil(0)[:900], 0)).memory
    kept = memory.to_state()
    before = pack(kept)
    for take in (memory, PartitionMemory.restore(memory._service, SHARE, kept)):
        serving = pipeline(folder, "entity")
        serving._memories[PLACE] = take
        live(serving, batches(turmoil(0)[900:], 0))
        assert pack(kept) == before


def test_what_no_partition_has_remembered_yet_can_be_restored_too(folder: Path) -> None:
    empty = restarted(PartitionMemory(service(folder, "all"), SHARE))
    serving = pipeline(folder, "all")
    serving._memories[PLACE] = empty
    assert same(live(serving, batches(turmoil(0), 0)), undisturbed(folder, "all", 0))


@pytest.mark.parametrize(
    ("kind", "changes", "said"),
    [
        ("all", {"calibration": {"by": "rack"}}, "calibration.by 'all', not 'rack'"),
        ("entity", {"calibration": {"level": "static"}}, "calibration.level 'online', not 'static at a rate of 0.002'"),
        (
            "entity",
            {"alerts": {**KINDS["entity"]["alerts"], "together": {"within": "3m"}}},
            "alerts.together.within '120.0 s', not '180.0 s'",
        ),
    ],
)
def test_settings_under_which_it_meant_something_else_are_named(
    folder: Path, kind: str, changes: dict[str, Any], said: str
) -> None:
    state = undisturbed(folder, kind, 0).memory.to_state()
    with pytest.raises(SnapshotError, match=said):
        PartitionMemory.restore(service(folder, kind, **changes), SHARE, state)


def test_another_version_must_not_restore_it(folder: Path) -> None:
    memory = undisturbed(folder, "entity", 0).memory
    other = Service.of(chosen(folder, "entity"), trained_for(folder, "entity", seed=7))
    with pytest.raises(SnapshotError, match=f"version '{memory.version}', not '{other.bundle.version}'"):
        PartitionMemory.restore(other, SHARE, memory.to_state())


@pytest.mark.parametrize(
    "alerts", [{"confirm": {"records": 2, "of": 4}}, {"quiet_for": "9m"}, {"together": {"entities": 7, "within": "2m"}}]
)
def test_other_settings_may_change_while_a_partition_rests(folder: Path, alerts: dict[str, Any]) -> None:
    memory = undisturbed(folder, "entity", 0).memory
    changes = {"alerts": {**KINDS["entity"]["alerts"], **alerts}, "window": {"late_for": "1m"}}
    again = PartitionMemory.restore(service(folder, "entity", **changes), SHARE, memory.to_state())
    assert again.incidents.open == memory.incidents.open


def test_of_more_entities_than_there_is_room_for_now_the_last_are_taken(folder: Path) -> None:
    memory = live(pipeline(folder, "rack"), batches(turmoil(0)[:900], 0)).memory
    smaller = chosen(folder, "rack", window={"length": 3, "max_entities": 2})
    serving = Pipeline(smaller, trained_for(folder, "rack"))
    serving._memories[PLACE] = again = PartitionMemory.restore(serving._service, SHARE, memory.to_state())
    assert (len(memory.entities), len(again.entities), len(again._segments)) == (9, 2, 2)
    assert len(live(serving, batches(turmoil(0)[900:], 0)).memory.entities) == 2


@pytest.mark.parametrize("broken", ["history", "levels", "outbreaks"])
def test_a_state_that_does_not_fit_together_is_refused(folder: Path, broken: str) -> None:
    memory = undisturbed(folder, "entity", 0).memory
    state = memory.to_state()
    del state[broken]
    with pytest.raises(SnapshotError, match=f"does not fit together.*{broken}"):
        PartitionMemory.restore(memory._service, SHARE, state)


def test_rhythms_are_not_carried_over_a_time_in_which_nobody_listened(folder: Path) -> None:
    memory = live(pipeline(folder, "entity"), batches(turmoil(0)[:900], 0)).memory
    deaf = service(folder, "entity", alerts={**KINDS["entity"]["alerts"], "silence": False})
    again = PartitionMemory.restore(deaf, SHARE, memory.to_state())
    assert memory._silence.ready > again._silence.ready == 0
    memory.adopt(deaf, SHARE)
    assert memory._silence.ready == 0


MACHINES, TROUBLED = 150, 12


@cache
def crowd(folder: Path) -> tuple[Pipeline, list[bytes]]:
    """Behind many machines that reported for ten minutes, the first of them in trouble at last, and the next minute."""
    records = calm(5, 11, MACHINES)
    for number, record in enumerate(records):
        if number >= 8 * MACHINES and number % MACHINES < TROUBLED:
            record |= {"cpu": 9.0, "load": 90.0}
    values = [json.dumps(record).encode() for record in records]
    serving = pipeline(folder, "crowd")
    serving.process(batch(values[: 10 * MACHINES], 0))
    return serving, values[10 * MACHINES :]


def owners(memory: PartitionMemory) -> list[str]:
    return [memory.entities.owner(slot) for slot in range(len(memory.entities))]


def bounded(folder: Path, part: float) -> tuple[PartitionMemory, int]:
    """Out of a snapshot of the crowd in so large a part of the bytes, and how many were left out."""
    memory = crowd(folder)[0]._memories[PLACE]
    max_bytes = int(part * len(pack(memory.to_state())))
    found, left_out = packed(memory, max_bytes)
    assert len(found) <= max_bytes
    return PartitionMemory.restore(memory._service, SHARE, unpack(found)), left_out


def test_where_all_fit_none_is_left_out(folder: Path) -> None:
    again, left_out = bounded(folder, 1.0)
    assert (left_out, owners(again)) == (0, owners(crowd(folder)[0]._memories[PLACE]))


def test_who_is_troubled_stays_and_who_was_not_seen_for_longest_is_left_out(folder: Path) -> None:
    memory = crowd(folder)[0]._memories[PLACE]
    names, troubled = owners(memory), {incident.entity for incident in memory.incidents.open}
    calm_ones = [name for name in names if name not in troubled]
    again, left_out = bounded(folder, 0.5)
    assert 0.3 * MACHINES < left_out < 0.7 * MACHINES
    assert [name for name in owners(again) if name not in troubled] == calm_ones[left_out:]
    assert {incident.entity for incident in again.incidents.open} == troubled >= {*names[:TROUBLED]}
    assert len(again.outbreaks) == 1
    assert len(again.outbreaks.slots) == len(memory.outbreaks.slots) >= TROUBLED


def test_where_not_even_they_fit_those_seen_last_stay(folder: Path) -> None:
    memory = crowd(folder)[0]._memories[PLACE]
    troubled = [name for name in owners(memory) if name in {incident.entity for incident in memory.incidents.open}]
    again, _ = bounded(folder, 0.06)
    assert owners(again) == troubled[len(troubled) - len(again.entities) :]
    assert 0 < len(again.entities) < len(troubled)


def test_no_room_for_anything_is_an_error(folder: Path) -> None:
    with pytest.raises(SnapshotError, match=r"without any entity has [\d,]+ bytes. Expected 500 at most"):
        packed(crowd(folder)[0]._memories[PLACE], 500)


def test_no_more_is_packed_than_would_be_inflated(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = crowd(folder)[0]._memories[PLACE]
    monkeypatch.setattr(snapshot, "MOST_INFLATED", 60_000)
    found, left_out = packed(memory, 10**9)
    assert left_out > 0
    assert unpack(found)["version"] == memory.version


def test_those_who_are_not_left_out_go_on_as_they_would_have(folder: Path) -> None:
    whole, values = crowd(folder)
    again, _ = bounded(folder, 0.5)
    part, names = pipeline(folder, "crowd"), owners(again)
    part._memories[PLACE] = again
    known = [value for value in values if json.loads(value)["machine"] in names]
    found, expected = (each.process(batch(known, 10 * MACHINES)) for each in (part, restored(whole)))
    for name, column in found.decided._asdict().items():
        np.testing.assert_array_equal(column, getattr(expected.decided, name))
    assert [alert.id for alert in found.alerts] == [alert.id for alert in expected.alerts]
    assert len(part.process(batch(values, 11 * MACHINES)).columns) == len(values)


def restored(serving: Pipeline) -> Pipeline:
    """One that goes on where this one is."""
    other = serving.beside(serving.bundle)
    other._memories[PLACE] = restarted(serving._memories[PLACE])
    return other


values = st.one_of(
    *(st.none(), st.booleans(), st.integers(), st.floats(), st.text()),
    st.lists(st.one_of(st.integers(), st.floats(), st.text(), st.none())),
    st.sampled_from(
        [
            np.array([0.1, math.nan, -math.inf, 5e-324]),
            np.array([2**64 - 1], np.uint64),
            np.zeros((0, 3), np.int16),
            np.arange(12, dtype=np.float32).reshape(3, 4)[:, ::2],
            np.array([True, False]),
        ]
    ),
)
states = st.recursive(
    st.dictionaries(st.from_regex(r"[a-z_]{1,4}", fullmatch=True), values, max_size=4),
    lambda inner: st.dictionaries(st.from_regex(r"[a-z_]{1,4}", fullmatch=True), st.one_of(values, inner), max_size=4),
    max_leaves=10,
)


@settings(max_examples=50)
@given(states)
def test_what_is_unpacked_is_what_was_packed(state: State) -> None:
    assert_same(unpack(pack(state)), state)


def assert_same(found: Any, expected: Any) -> None:
    assert type(found) is type(expected)
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            assert_same(found[key], value)
    elif isinstance(expected, np.ndarray):
        assert (found.dtype, found.shape, found.tobytes()) == (expected.dtype, expected.shape, expected.tobytes())
    else:
        assert repr(found) == repr(expected)


@pytest.mark.parametrize("key", [3, "a.b", "", None])
def test_a_key_that_would_not_come_back_is_refused(key: Any) -> None:
    with pytest.raises(ValueError, match="Expected an identifier"):
        pack({"within": {key: 1}})


ROWS = [(1, "a", 0.5, None), (2**62, "b", math.inf, "x")]


@pytest.mark.parametrize("rows", [ROWS, ROWS[:1], []])
def test_rows_come_back_from_their_columns(rows: list[tuple[Any, ...]]) -> None:
    names = ("number", "name", "share", "text")
    assert [*to_rows(names, unpack(pack(to_columns(names, rows))))] == rows


SMALL = pack({"numbers": np.arange(40.0), "names": ["a", "b"], "part": {"bits": np.ones(3, np.uint64)}})


@given(st.integers(0, 8 * len(SMALL) - 1))
def test_a_bit_that_is_wrong_is_noticed_or_does_no_harm(bit: int) -> None:
    damaged = bytearray(SMALL)
    damaged[bit // 8] ^= 1 << bit % 8
    try:
        found = unpack(bytes(damaged))
    except SnapshotError:
        return
    assert_same(found, unpack(SMALL))  # Zstandard has a bit that means nothing


@given(st.integers(0, len(SMALL) - 1))
def test_a_snapshot_that_breaks_off_is_noticed(length: int) -> None:
    with pytest.raises(SnapshotError):
        unpack(SMALL[:length])


def framed(content: bytes) -> bytes:
    return snapshot._compressed(content)


@pytest.mark.parametrize(
    "foreign",
    [
        b"",
        b"\x80\x04K\x01.",
        SMALL + b"more",
        framed(b""),
        framed(b"{}"),
        framed(save({"numbers": np.zeros(3)})),
        framed(save({".": np.frombuffer(b"[" * 100_000, np.uint8)})),
        framed(save({".": np.frombuffer(b"[1]", np.uint8), "a": np.zeros(3)})),
        framed(save({".": np.frombuffer(b"{}", np.uint8), "a.b": np.zeros(3)})),
        SMALL[: len(snapshot.NAME) + 1] + zstandard.ZstdCompressor(write_content_size=False).compress(b"{}"),
    ],
    ids=["nothing", "pickle", "longer", "empty", "text", "no JSON", "deep", "a list", "no place", "of unknown size"],
)
def test_what_is_no_snapshot_is_refused(foreign: bytes) -> None:
    with pytest.raises(SnapshotError):
        unpack(foreign)


def test_another_format_is_told() -> None:
    other = SMALL.replace(snapshot.NAME + b"\x02", snapshot.NAME + b"\x03")
    with pytest.raises(SnapshotError, match=r"format \[3\]. This release reads \[2\]"):
        unpack(other)


def test_nothing_is_inflated_beyond_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = pack({"zeros": np.zeros(10**6)})
    assert len(bomb) < 10_000
    monkeypatch.setattr(snapshot, "MOST_INFLATED", 10**6)
    with pytest.raises(SnapshotError, match=r"8,000,\d+ bytes when inflated. Expected 1,000,000 at most"):
        unpack(bomb)
