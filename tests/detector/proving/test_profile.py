from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from consumers.batch import Columns, Partition
from detector.config import FeatureSettings
from detector.proving.profile import faults, profile

FEATURES = [FeatureSettings(name=name) for name in ("cpu", "disk", "load")]
N = 2_000


def columns(seed: int = 0, **changed: np.ndarray) -> Columns:
    chance = np.random.default_rng(seed)
    numbers = {"cpu": chance.normal(0.5, 0.1, N), "disk": chance.gamma(2.0, 50.0, N), "load": chance.normal(3, 1, N)}
    return Columns(
        row=np.arange(N),
        partitions=(Partition("machines", 0),),
        partition=np.zeros(N, np.int32),
        offsets=np.arange(N),
        time=60_000 * np.arange(N),
        entity=np.full(N, "m1", object),
        numbers={**numbers, **changed},
        texts={},
    )


def found(**changed: np.ndarray) -> list[str]:
    return faults(profile(columns(), FEATURES), profile(columns(1, **changed), FEATURES))


def test_records_of_the_same_stream_show_no_fault() -> None:
    assert found() == []


@pytest.mark.parametrize("move", [lambda cpu: cpu + 0.3, lambda cpu: 3 * cpu, lambda cpu: cpu - 2.0])
def test_a_field_that_has_merely_moved_shows_none_either(move: Callable[[np.ndarray], np.ndarray]) -> None:
    assert found(cpu=move(columns(1).numbers["cpu"])) == []


def test_a_field_that_is_gone_is_named() -> None:
    (fault,) = found(cpu=np.full(N, np.nan))
    assert fault == "field 'cpu' is missing in 100% of the records, was in 0.0%"


def test_a_field_that_froze_is_named() -> None:
    assert found(load=np.full(N, 3.5)) == ["field 'load' is 3.5 in all records, and varied"]


def test_a_field_that_never_varied_may_stay_as_it_is() -> None:
    still = columns(load=np.full(N, 3.5))
    assert faults(profile(still, FEATURES), profile(still, FEATURES)) == []


@pytest.mark.parametrize("factor", [1000.0, 0.001])
def test_a_field_in_another_unit_is_named_with_the_factor(factor: float) -> None:
    (fault,) = found(disk=factor * columns(1).numbers["disk"])
    assert fault.startswith("field 'disk' is about ")
    assert float(fault.split()[4].replace(",", "")) == pytest.approx(factor, rel=0.1)


def test_exchanged_fields_are_named_as_a_pair() -> None:
    later = columns(1).numbers
    assert found(cpu=later["load"], load=later["cpu"]) == ["fields 'cpu' and 'load' look exchanged"]
