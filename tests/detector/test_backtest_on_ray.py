from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

if find_spec("ray") is None:
    pytest.skip("the extra `ray` is not installed", allow_module_level=True)

from detector.backtest_on_ray import backtest_on_ray, partition_of  # isort: skip  # says where Ray listens

import ray

from consumers.batch import Columns, Partition
from detector.backtest import Backtest, BudgetFigures, backtest
from detector.bundle import Bundle
from detector.commands.backtest import over, print_backtest, under
from detector.config import DetectorSettings
from detector.errors import SettingsError
from detector.features import fields
from detector.files import read_files
from detector.replay import FILES, Replay, cut, for_files, merged, replay
from detector.store import Store
from tests.detector.machines import broker_with, records, settings, trained

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray"),  # its own use of its own settings
    pytest.mark.xdist_group("ray"),  # one cluster
]
PARTITIONS = 4
FIRST = 3_000
ODD = {n: {"cpu": 5.0, "load": 10.0} for at in (3_000, 4_501) for n in range(FIRST + at, FIRST + at + 12, 3)}


@pytest.fixture(scope="session")
def cluster() -> Iterator[None]:
    """Two workers, reached from this machine alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_worker_niceness", "0")  # by default workers give way to all else on a busy machine
        ray.init(
            num_cpus=2,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            object_store_memory=100 << 20,
        )
        yield
        ray.shutdown()


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return trained(tmp_path_factory.mktemp("backtest"))


@pytest.fixture
def past(tmp_path: Path, bundle: Bundle) -> DetectorSettings:
    """Settings for three files that share out the same time, with a line that is no record; the champion is stored."""
    store = Store(str(tmp_path / "store"), "machines")
    store.save(bundle)
    store.promote(bundle.version)
    values = [*records(6_000, start=FIRST, odd=ODD), b"broken"]
    for number in range(3):
        (tmp_path / f"part-{2 - number}.ndjson").write_bytes(b"\n".join(values[number::3]))
    return over(settings(tmp_path, training={"min_records": 300}), files=[str(tmp_path / "part-*.ndjson")])


def by_one_process(budgets: list[DetectorSettings], bundle: Bundle, partitions: int) -> Backtest:
    """The same files as the same partitions, through one pipeline a budget, in order of time."""
    settings, *_ = budgets
    columns, unusable = read_files(
        settings.training.files, fields(bundle.encoder.features, settings.stream.entity, settings.stream.timestamp)
    )
    columns = merged(columns)
    partition = np.array([partition_of(entity, partitions) for entity in columns.entity.tolist()], np.int32)
    spread = replace(
        columns,
        partitions=tuple(Partition(FILES.topic, number) for number in range(partitions)),
        partition=partition,
        offsets=np.array([int((partition[:row] == partition[row]).sum()) for row in range(len(partition))]),
    )
    seen = Counter(partition.tolist())
    stretches = (it._replace(records=together(it.records)) for it in cut(spread, {"unusable": unusable}, settings))
    return backtest(budgets, Replay(for_files(bundle, seen), stretches, len(seen), trained_here=False))


def together(columns: Any) -> Columns:
    """Records of a partition one after the other, as the pipeline wants them."""
    found: Columns = columns.take(np.argsort(columns.partition, kind="stable"))
    return found


def told(found: Backtest) -> Any:
    """The figures, but for the last digits of what was summed up in another order."""
    return json.loads(found.figures.model_dump_json(), parse_float=lambda text: float(f"{float(text):.9g}"))


def test_incidents_and_rates_are_those_of_one_process(past: DetectorSettings, bundle: Bundle, cluster: None) -> None:
    budgets = [under(past, "20/day"), under(past, "0.01")]
    found = backtest_on_ray(budgets, PARTITIONS, version=None)
    alone = by_one_process(budgets, bundle, PARTITIONS)
    assert all(it.incidents > 0 for it in found.figures.budgets)
    assert found.figures.records == 6_000
    assert found.figures.dead_letters == {"unusable": 1}
    assert told(found) == told(alone)
    np.testing.assert_array_equal(found.timelines[0].start, alone.timelines[0].start)
    np.testing.assert_allclose(found.timelines[0].level, alone.timelines[0].level)
    np.testing.assert_array_equal(found.timelines[0].alarms, alone.timelines[0].alarms)


def test_under_a_rate_incidents_of_entities_are_those_without_ray(past: DetectorSettings, cluster: None) -> None:
    chosen = past.model_copy(update={"alerts": past.alerts.model_copy(update={"silence": False})})
    (found,) = backtest_on_ray([chosen], PARTITIONS, version=None).figures.budgets
    plain = replay(chosen, broker_with([]), now=datetime(2026, 3, 1, tzinfo=UTC))
    (alone,) = backtest([chosen], plain).figures.budgets
    named = {"incident"}  # made of partition and offset
    assert alone.incidents > 0
    assert [it.model_dump(exclude=named) for it in found.listed] == [
        it.model_dump(exclude=named) for it in alone.listed
    ]
    assert (found.alarms, found.elevated, found.by_segment) == (alone.alarms, alone.elevated, alone.by_segment)


def nameless(found: BudgetFigures) -> list[Any]:
    """Incidents but for their names, which are made of partition and offset."""
    incidents = [it.model_dump(mode="json", exclude={"incident"}) for it in found.listed]
    return sorted(incidents, key=lambda it: (it["opened"], it["entity"]))


def test_a_file_that_cannot_be_read_is_told_as_without_ray(past: DetectorSettings, cluster: None) -> None:
    damaged = Path(past.training.files[0]).with_name("past.parquet")
    damaged.write_bytes(b"no parquet")
    with pytest.raises(SettingsError, match=r"past.parquet' cannot be read as .parquet"):
        backtest_on_ray([over(past, files=[str(damaged)])], PARTITIONS, version=None)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"training": {"min_records": 300}}, "--ray goes over files"),
        ({"calibration": {"by": "all"}}, "calibration.by is 'all'"),
        ({"stream": {"topics": ["machines"], "timestamp": "ts"}}, "stream.entity is None"),
        ({"stream": {"topics": ["machines"], "entity": "machine"}}, "stream.timestamp None"),
    ],
)
def test_what_cannot_be_shared_out_by_entity_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    chosen = settings(tmp_path, **{"training": {"files": ["past.ndjson"]}, **changes})
    with pytest.raises(SettingsError, match=message):
        backtest_on_ray([chosen], PARTITIONS, version=None)


def test_workers_want_a_version_out_of_the_store(tmp_path: Path) -> None:
    chosen = settings(tmp_path, training={"files": ["past.ndjson"]})
    with pytest.raises(SettingsError, match="the store holds no version of 'machines'"):
        backtest_on_ray([chosen], PARTITIONS, version=None)


def test_to_train_on_a_share_is_refused(past: DetectorSettings) -> None:
    options = dict.fromkeys(("records", "since", "version", "report"))
    with pytest.raises(SettingsError, match="--ray 4 judges by a version out of the store"):
        print_backtest(past, files=(), budgets=(), train_share=0.5, ray=PARTITIONS, as_json=False, **options)
