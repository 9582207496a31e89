from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from benchmarks.faults.kinds import KINDS
from benchmarks.faults.ledger import Ledger, Letter, Verdict, differing, judge
from benchmarks.faults.play import Played, summarise, table
from benchmarks.faults.traffic import CATEGORY, ENTITY, FEATURES, POISONS, TIMESTAMP, Record, Traffic, normal_values
from benchmarks.faults.victim import Plan, Saboteur, struck
from consumers.batch import RawBatch, Schema
from consumers.decode import JsonDecoder
from consumers.memory import MemoryBroker
from consumers.stream import Window
from detector.alerts import Alert, Source

SCHEMA = Schema(numbers=FEATURES, texts=(CATEGORY,), entity=ENTITY, timestamp=TIMESTAMP)


def ledger(poison: Sequence[tuple[int, str]] = ()) -> Ledger:
    """Ten records in each of two partitions; those at the offsets in partition 1 that are given are poison."""
    kept, reasons = Ledger(), dict(poison)
    for offset in range(10):
        kept.acknowledged(0, offset, 2 * offset, None)
        kept.acknowledged(1, offset, 2 * offset + 1, reasons.get(offset))
    return kept


def alert(identifier: str, **changes: Any) -> Alert:
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    values: dict[str, Any] = {
        "id": identifier,
        "incident": "i",
        "kind": "opened",
        "detector": "faults",
        "entity": "m1",
        "segment": "m1",
        "time": moment,
        "opened": moment,
        "severity": "minor",
        "p_value": 1e-3,
        "static_p_value": 1e-3,
        "level": 1e-2,
        "score": 6.9,
        "threshold": 4.6,
        "records": 1,
        "model": "gmm",
        "version": "v",
        "reasons": [{"feature": "a", "observed": 1.0, "expected": 0.5, "share": 1.0}],
        "makes_normal": True,
        "source": Source(topic="t", partition=0, offset=1),
    }
    return Alert.model_validate({**values, **changes})


ALL = {0: 10, 1: 10}


def test_a_run_with_one_outcome_for_each_record_is_clean() -> None:
    verdict = judge(ledger([(3, "empty")]), ALL, [Letter((1, 3), "empty")], [alert("x")], [alert("x")])
    assert verdict == Verdict(records=20, alerts=1)


def test_records_beyond_the_committed_positions_are_lost() -> None:
    assert judge(ledger(), {0: 7}, [], [], []).lost == 3 + 10


@pytest.mark.parametrize(
    "letters",
    [[], [Letter((1, 3), "malformed")], [Letter((1, 3), "empty"), Letter((0, 3), "empty")]],
    ids=["missing", "of another reason", "of a good record"],
)
def test_a_dead_letter_that_is_not_the_one_due_is_a_loss(letters: list[Letter]) -> None:
    assert judge(ledger([(3, "empty")]), ALL, letters, [], []).lost == 1


def test_outcomes_that_are_there_again_are_doubled() -> None:
    letters = [Letter((1, 3), "empty")] * 3
    verdict = judge(ledger([(3, "empty")]), ALL, letters, [alert("x"), alert("x"), alert("y")], None)
    assert (verdict.lost, verdict.doubled, verdict.different) == (0, 3, 0)


def test_alerts_that_are_missing_or_too_many_or_have_another_field_are_different() -> None:
    found = [alert("same"), alert("extra"), alert("changed", severity="major")]
    undisturbed = [alert("same"), alert("missing"), alert("changed")]
    verdict = judge(ledger(), ALL, [], found, undisturbed)
    assert (verdict.different, verdict.lost, verdict.doubled) == (3, 0, 0)
    assert len(verdict.evidence) == 3


def test_floats_may_differ_as_rounding_makes_them_and_no_more_wherever_they_are() -> None:
    one = alert("x").model_dump()
    nearly = alert("x", score=6.9 * (1 + 5e-5)).model_dump()
    reasons = [{"feature": "a", "observed": 1.0, "expected": 0.501, "share": 1.0}]
    assert differing(one, nearly) == []
    assert differing(one, alert("x", score=6.91, reasons=reasons).model_dump()) == ["score", "reasons"]
    assert differing(one, alert("x", p_value=None).model_dump()) == ["p_value"]


def test_no_dead_letter_is_due_of_records_that_were_deleted_unread() -> None:
    kept = ledger([(3, "empty"), (8, "empty")])
    kept.excuse(1, range(2, 6))
    assert kept.due_letters(ALL) == {(1, 8): "empty"}


def test_the_ledger_knows_where_each_record_is() -> None:
    assert ledger().sequences()[1, 4] == 9
    assert ledger().ends() == ALL


def batch_of(values: Sequence[bytes | None]) -> RawBatch:
    broker = MemoryBroker()
    broker.create_topics({"t": 1})
    for value in values:
        broker.append("t", value)
    return next(iter(broker.read(["t"], Window())))


def records(seed: int, n: int) -> list[Record]:
    return list(islice(Traffic(seed, 6), n))


def test_traffic_is_the_same_for_a_seed() -> None:
    assert records(1, 500) == records(1, 500)
    assert records(1, 500) != records(2, 500)


def test_exactly_the_poison_of_the_traffic_is_refused_and_for_the_reason_it_names() -> None:
    traffic = Traffic(3, 6)
    traffic.storm = 2_000
    sent = list(islice(traffic, 4_000))
    _, letters = JsonDecoder(SCHEMA).decode(batch_of([record.value for record in sent]))
    assert {letter.row: letter.reason for letter in letters} == {
        row: record.poison for row, record in enumerate(sent) if record.poison is not None
    }
    assert len({letter.reason for letter in letters}) >= 9


def test_each_poison_is_refused_for_the_reason_it_names() -> None:
    fields = json.loads(normal_values(0, 1)[0])
    for number, poison in enumerate(POISONS):
        value, reason = poison(fields)
        _, letters = JsonDecoder(SCHEMA).decode(batch_of([value]))
        assert [letter.reason for letter in letters] == [reason], number


def test_a_machine_stays_in_its_partition() -> None:
    partitions: dict[bytes, set[int]] = {}
    for record in records(0, 1_000):
        partitions.setdefault(record.key, set()).add(record.partition)
    assert len(partitions) == 24
    assert {len(numbers) for numbers in partitions.values()} == {1}


def test_training_records_end_where_traffic_begins() -> None:
    first = next(iter(Traffic(0, 6, quiet=True)))
    last = json.loads(normal_values(0, 100)[-1])
    assert json.loads(first.value or b"")[TIMESTAMP] - last[TIMESTAMP] == 1_000


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    return tmp_path / "0.plan"


def test_a_plan_strikes_once_at_the_call_of_the_point_that_it_names(plan: Path) -> None:
    saboteur, prepared = Saboteur(plan), list[int]()
    saboteur.at("committed")
    Plan("committed", 2, "sleep").write(plan)
    saboteur.at("polled")
    saboteur.at("committed", lambda: prepared.append(1))
    assert plan.exists()
    saboteur.at("committed", lambda: prepared.append(2))
    assert struck(plan).exists()
    assert not plan.exists()
    struck(plan).unlink()
    saboteur.at("committed", lambda: prepared.append(3))
    assert prepared == [2]
    assert not struck(plan).exists()


def test_a_second_plan_is_counted_from_when_it_is_there(plan: Path) -> None:
    saboteur = Saboteur(plan)
    for _ in range(2):
        Plan("polled", 2, "sleep").write(plan)
        saboteur.at("polled")
        assert plan.exists()
        saboteur.at("polled")
        assert not plan.exists()
        struck(plan).unlink()


def test_the_result_sums_up_and_sets_recoveries_after_a_kill_against_what_the_group_needs() -> None:
    plays = [
        Played("kill_anywhere", True, Verdict(records=10, lost=1), [2.0, 4.0]),
        Played("kill_after_poll", True, Verdict(records=10, doubled=2), [6.0]),
        Played("restart_broker", True, Verdict(records=5, different=3), [50.0], ["slow"]),
    ]
    result = summarise(plays, {"restarted": 1.0, "replaced": 8.0}, seed=1, replicas=2)
    assert {key: result[key] for key in ("faults", "records", "lost", "doubled", "different", "remarks")} == {
        "faults": 4,
        "records": 25,
        "lost": 1,
        "doubled": 2,
        "different": 3,
        "remarks": 1,
    }
    assert (result["recover_ratio"], result["recover_ratio_restarted"]) == (0.5, 4.0)
    assert result["kinds"]["kill_anywhere"]["recover_s"] == {"median": 3.0, "max": 4.0}


def test_the_table_has_a_line_for_each_kind_and_its_evidence_below() -> None:
    verdict = Verdict(records=10, lost=1, evidence=["no dead letter of (1, 3)"])
    lines = table([Played("kill_anywhere", True, verdict, [2.0]), Played("swap_champion", False)]).splitlines()
    assert [line.split()[0] for line in lines] == ["kind", "kill_anywhere", "no", "swap_champion"]


def test_kinds_that_end_the_broker_want_one_of_our_own() -> None:
    named = {name for name in KINDS if "broker" in name}
    assert named == {name for name, kind in KINDS.items() if "broker" in kind.needs}
