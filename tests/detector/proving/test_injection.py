from __future__ import annotations

import numpy as np
import pytest

from detector.proving.injection import EACH, KINDS, inject
from tests.detector.proving.test_profile import columns

FIELDS = ["cpu", "disk", "load"]


@pytest.mark.parametrize("kind", KINDS)
def test_only_the_records_that_are_named_are_changed(kind: str) -> None:
    before = columns()
    after, rows = inject(before, FIELDS, kind, apart=2, seed=0)
    others = np.setdiff1d(np.arange(len(before)), rows)
    assert len(rows) == EACH
    for field in FIELDS:
        np.testing.assert_array_equal(after.numbers[field][others], before.numbers[field][others])
    changed = np.any([after.numbers[field][rows] != before.numbers[field][rows] for field in FIELDS], axis=0)
    assert changed.mean() > 0.9


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_seed_gives_the_same_anomalies_and_another_one_others(kind: str) -> None:
    first, again, other = (inject(columns(), FIELDS, kind, apart=2, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first[1], again[1])
    np.testing.assert_array_equal(first[0].numbers["cpu"], again[0].numbers["cpu"])
    assert not np.array_equal(first[0].numbers["cpu"], other[0].numbers["cpu"])


def test_no_anomaly_lies_in_the_window_of_another_one_of_its_entity() -> None:
    _, rows = inject(columns(), FIELDS, "spike", apart=3, seed=0)
    assert np.diff(rows).min() > 3


def test_a_spike_moves_one_field() -> None:
    after, rows = inject(columns(), FIELDS, "spike", apart=2, seed=0)
    moved = sum((after.numbers[field][rows] != columns().numbers[field][rows]).astype(int) for field in FIELDS)
    assert (moved == 1).all()
