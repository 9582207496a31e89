from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from consumers.batch import Columns
from detector.bundle import Bundle
from detector.errors import NotEnoughRows
from detector.inspecting.observed import observe, some
from detector.inspection import Inspection, inspect
from detector.training_data import gather
from tests.detector.machines import START_MS, broker_with, records, settings, trained

VAE = {"type": "vae", "latent": 1, "hidden": [8], "epochs": 10}
FAR = {number: {"cpu": 3.0, "load": 0.0} for number in range(3_100, 3_112)}


def columns_of(folder: Path, values: list[bytes]) -> Columns:
    chosen = settings(folder, training={"records": 10_000, "min_records": 50})
    return gather(chosen, broker_with(values), now_ms=START_MS).columns


def seen(folder: Path, bundle: Bundle, values: list[bytes], **changes: Any) -> Inspection:
    return inspect(bundle, columns_of(folder, values), settings(folder, **changes))


@pytest.fixture(scope="module")
def later(champion: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Inspection:
    """The records that the champion was trained on, and some after them, of which twelve are far off."""
    values = [*records(3_000), *records(600, start=3_000, odd=FAR)]
    return seen(tmp_path_factory.mktemp("later"), champion, values)


def test_records_are_told_apart_by_what_they_were_to_the_version(later: Inspection, champion: Bundle) -> None:
    data = champion.manifest.data
    assert later.figures.stretches == {"fitted": data.fitted, "calibration": data.calibrated, "recent": 600}


def test_an_older_manifest_has_the_same_stretches_by_the_shares_of_its_records(
    later: Inspection, champion: Bundle, tmp_path: Path
) -> None:
    data = champion.manifest.data.model_copy(update={"fitted_to_ms": None})
    older = replace(champion, manifest=champion.manifest.model_copy(update={"data": data}))
    found = observe(older, columns_of(tmp_path, records(3_000)), settings(tmp_path))
    assert {name: len(rows) for name, rows in found.stretches.items()} == {"fitted": 2_400, "calibration": 600}


def test_records_that_no_model_has_seen_are_needed(champion: Bundle, tmp_path: Path) -> None:
    with pytest.raises(NotEnoughRows, match=r"Of 600 records too few are later .* Expected at least 100: give --rec"):
        seen(tmp_path, champion, records(600))


def test_recent_records_alone_will_do(champion: Bundle, tmp_path: Path) -> None:
    found = seen(tmp_path, champion, records(900, start=3_000)).figures
    assert found.stretches == {"recent": 900}
    model = found.models["gmm"]
    assert model.fidelity is None
    assert model.likelihood.stretches["recent"].tail is None
    assert {it.expected for it in model.features} == {None}


def test_a_model_of_the_right_family_is_calibrated_and_nothing_is_wrong_with_it(
    champion: Bundle, tmp_path: Path
) -> None:
    found = seen(tmp_path, champion, records(3_000)).figures
    model = found.models["gmm"]
    assert {it.verdict for it in model.features} == {"calibrated"}
    assert all(abs(pair.observed - pair.generated) < 0.05 for pair in model.correlations)
    assert model.latent.samples_outside == pytest.approx(0.01, abs=0.01)
    assert found.warnings == []


def test_records_beyond_the_level_are_counted_by_severity_and_lie_outside(later: Inspection) -> None:
    assert later.figures.elevated["critical"] >= 12
    points = later.views["gmm"].latent
    critical = points.incidents[points.severity == 2]
    assert len(critical) == later.figures.elevated["critical"]
    assert np.abs(critical).max() > 2 * np.abs(points.normal).max()


def test_a_stream_that_changed_is_told_with_the_feature(champion: Bundle, tmp_path: Path) -> None:
    warm = {n: {"cpu": 0.8 + 0.001 * (n % 50), "load": 1.65} for n in range(3_000, 5_000)}
    found = seen(tmp_path, champion, [*records(3_000), *records(2_000, start=3_000, odd=warm)]).figures
    told = "\n".join(found.warnings)
    assert "gmm: 100% of the recent records score beyond all but 5% of the fitted ones" in told
    assert "2 of 2 features are no longer as they were when it was fitted" in told


def test_each_model_is_looked_at_in_its_own_unit_and_space(tmp_path: Path) -> None:
    bundle = trained(tmp_path, models=[{"type": "gmm", "components": 1}, VAE])
    found = seen(tmp_path, bundle, records(3_000), models=[{"type": "gmm", "components": 1}, VAE]).figures
    gmm, vae = found.models["gmm"], found.models["vae"]
    assert (gmm.likelihood.unit, vae.likelihood.unit) == ("bits", "score")
    assert gmm.likelihood.features
    assert not vae.likelihood.features
    assert (gmm.latent.dimensions, vae.latent.dimensions) == (2 * bundle.encoder.layout.columns, 1)


def test_the_same_records_give_the_same_figures(champion: Bundle, tmp_path: Path, later: Inspection) -> None:
    again = seen(tmp_path, champion, [*records(3_000), *records(600, start=3_000, odd=FAR)])
    assert again.figures == later.figures


def test_some_rows_are_spread_over_all() -> None:
    assert some(np.arange(100), 5).tolist() == [0, 24, 49, 74, 99]
    assert some(np.arange(3), 5).tolist() == [0, 1, 2]
