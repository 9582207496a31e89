"""A handful of faults on running daemons: nothing is lost, nothing doubled, and no alert differs.

On Apache Kafka where OFFNOMINAL_TEST_KAFKA_START names a script that starts it (as `benchmarks.brokers.START`) or
OFFNOMINAL_TEST_BOOTSTRAP a broker; else on the embedded one, which cannot show all of it. `python -m benchmarks.faults`
injects them by the hundred.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from benchmarks.faults.kinds import KINDS
from benchmarks.faults.play import play, table
from benchmarks.faults.stage import Stage, staged
from consumers.embedded import embedded_broker

SCENES = {
    "daemon killed": ("kill_after_poll", "kill_after_produce", "kill_before_commit", "kill_after_commit"),
    "daemon asked to leave": ("terminate_in_batch", "poison_storm", "promote_damaged"),
    "replicas at odds": ("kill_while_restoring", "twin", "lose_replica"),
    "broker in trouble": ("freeze_broker_at_commit", "kill_broker"),
}


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with ExitStack() as cleanup:
        folder = tmp_path_factory.mktemp("faults")
        start, bootstrap = (os.environ.get(f"OFFNOMINAL_TEST_{name}") for name in ("KAFKA_START", "BOOTSTRAP"))
        if start:
            yield cleanup.enter_context(staged(folder, start=Path(start)))
        elif bootstrap:
            yield cleanup.enter_context(staged(folder, bootstrap=bootstrap))
        else:
            address = cleanup.enter_context(embedded_broker())
            yield cleanup.enter_context(staged(folder, bootstrap=address, replicas=1))


@pytest.mark.xdist_group("faults")  # one broker
@pytest.mark.parametrize("name", SCENES)
def test_every_record_has_one_outcome_and_every_alert_is_the_one_of_an_undisturbed_run(stage: Stage, name: str) -> None:
    """What the broker at hand cannot show is left out, by its name and need."""
    can = {"apache"} if stage.replicas > 1 else set()
    can |= {"broker"} if stage.kafka else set()
    kinds = [KINDS[kind] for kind in SCENES[name] if KINDS[kind].needs <= can]
    if not kinds:
        pytest.skip(f"{', '.join(SCENES[name])} want {', '.join({'apache', 'broker'} - can)}")
    played = play(stage, name.replace(" ", "_"), kinds, seed=1)
    assert played.verdict.records > 1_000
    assert played.verdict.alerts > 10
    assert played.clean, table([played])
