"""What becomes of the level when a stream changes for good, and when it is attacked.

    python -m benchmarks.drift --suite DIR [--json FILE]

Of every stream of the suite that is long enough (see `benchmarks.quality` for the format) the unlabelled test rows are
laid end to end. From row 1,000 on a random third of the features is moved by three standard deviations of the training
rows: for good (a shift), or for 500 rows (an attack). Only runs count in which a static split-conformal threshold sees
more than half of the moved rows. Each model of the product, rate 1 %, `SEEDS` choices of features. `displacement` is
how far the level has moved 100 records after an attack from where it was before, `undisturbed` how far it moves in that
time without one; in nats of calibration.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from numpy.typing import NDArray

from consumers.batch import Columns, Partition
from detector.bundle import Bundle
from detector.config import DetectorSettings
from detector.incidents import Decided
from detector.loading import parse
from detector.pipeline import Pipeline
from detector.training import train
from detector.training_data import TrainingData

RATE = 0.01
ONSET, ATTACK, RECOVERY, LEAST_AFTER = 1_000, 500, 2_000, 800
SIGMAS = 3.0
SEEDS = 2
SETTLED = 100
"""Records after an attack at which the level is looked at."""
MODELS = ("gmm", "vae")


@dataclass(frozen=True)
class Run:
    """One stream, model and choice of features."""

    stream: str
    model: str
    shift_drifts: int
    shift_in_band: bool
    shift_delay: int | None
    shift_alarms: int
    static_in_band: bool
    attack_found: bool
    attack_drifts: int
    attack_alarms: int
    displacement: float
    undisturbed: float


def main() -> None:
    """Runs everything and prints the result."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--suite", type=Path, required=True, help="folder of data sets")
    arguments.add_argument("--json", type=Path, help="also write all runs to this file")
    chosen = arguments.parse_args()
    runs = [run for path in sorted(chosen.suite.glob("*/*.npz")) for run in measured(path)]
    result = summary(runs)
    if chosen.json:
        chosen.json.write_text(json.dumps({"summary": result, "runs": [asdict(run) for run in runs]}, indent=2))
    print(json.dumps(result))  # noqa: T201 - the result


def summary(runs: list[Run]) -> dict[str, Any]:
    """Shares of runs, and quantiles over them."""
    displaced = [abs(run.displacement) for run in runs]
    return {
        "runs": len(runs),
        "streams": len({run.stream for run in runs}),
        "shift_back_in_band": _share(run.shift_in_band for run in runs),
        "shift_one_drift": _share(run.shift_drifts == 1 for run in runs),
        "shift_both": _share(run.shift_drifts == 1 and run.shift_in_band for run in runs),
        "shift_median_delay": float(np.median([run.shift_delay for run in runs if run.shift_delay is not None])),
        "shift_median_alarms": float(np.median([run.shift_alarms for run in runs])),
        "static_back_in_band": _share(run.static_in_band for run in runs),
        "attack_found": _share(run.attack_found for run in runs),
        "attack_drift": _share(run.attack_drifts > 0 for run in runs),
        "attack_median_alarms": float(np.median([run.attack_alarms for run in runs])),
        "displacement_median": float(np.median(displaced)),
        "displacement_within_half_a_nat": _share(value <= 0.5 for value in displaced),
        "undisturbed_median": float(np.median([abs(run.undisturbed) for run in runs])),
    }


def measured(path: Path) -> Iterator[Run]:
    """All runs of one data set; none where it is no stream, too short, or blind to the shift."""
    data = np.load(path)
    if "X_train" not in data or json.loads(str(data["meta"]))["kind"] != "ts":
        return
    training, rows = data["X_train"][data["y_train"] == 0], _normal(data["X_test"], data["y_test"])
    if len(rows) < ONSET + RECOVERY + LEAST_AFTER:
        return
    scale = training.std(axis=0)
    for model in MODELS:
        settings, bundle = trained(training, model)
        clean = decided(settings, bundle, rows)
        for seed in range(SEEDS if rows.shape[1] > 1 else 1):
            moved = SIGMAS * scale * _third(scale > 0, seed)
            shift, attack = rows.copy(), rows.copy()
            shift[ONSET:] += moved
            attack[ONSET : ONSET + ATTACK] += moved
            if (run := _run(path.stem, model, settings, bundle, clean, shift, attack)) is not None:
                yield run


def trained(rows: NDArray[np.float32], model: str) -> tuple[DetectorSettings, Bundle]:
    """The product's defaults, fitted on these rows."""
    settings = parse(
        {
            "name": "drift",
            "kafka": {"bootstrap": "127.0.0.1:1"},
            "stream": {"topics": ["rows"]},
            "features": [f"f{column}" for column in range(rows.shape[1])],
            "models": [{"type": model}],
            "alerts": {"topic": "alerts", "rate": RATE},
        }
    )
    features = () if settings.features == "auto" else settings.features
    data = TrainingData(columns_of(rows), features, {}, {})
    return settings, train(data, settings, created=datetime(2026, 1, 1, tzinfo=UTC))


def decided(settings: DetectorSettings, bundle: Bundle, rows: NDArray[np.float32]) -> Decided:
    """What the product decides of these rows."""
    return Pipeline(settings, bundle).judge(columns_of(rows)).decided


def columns_of(rows: NDArray[np.float32]) -> Columns:
    """Rows (n, d) as records a minute apart."""
    n = len(rows)
    return Columns(
        row=np.arange(n),
        partitions=(Partition("rows", 0),),
        partition=np.zeros(n, np.int32),
        offsets=np.arange(n),
        time=1_767_225_600_000 + np.arange(n) * 60_000,
        entity=np.full(n, "", object),
        numbers={f"f{column}": rows[:, column].astype(np.float64) for column in range(rows.shape[1])},
        texts={},
    )


def _run(
    stream: str,
    model: str,
    settings: DetectorSettings,
    bundle: Bundle,
    clean: Decided,
    shift: NDArray[np.float32],
    attack: NDArray[np.float32],
) -> Run | None:
    said = decided(settings, bundle, shift)
    seen = said.static_nats >= -np.log(RATE)
    if seen[ONSET:].mean() <= 0.5:
        return None
    drifts = ONSET + np.flatnonzero(said.drift[ONSET : ONSET + RECOVERY])
    after, nearby = slice(ONSET + RECOVERY, None), slice(ONSET, ONSET + RECOVERY // 2)
    attacked = decided(settings, bundle, attack)
    within, settled = slice(ONSET, ONSET + ATTACK), ONSET + ATTACK + SETTLED
    return Run(
        stream=stream,
        model=model,
        shift_drifts=len(drifts),
        shift_in_band=_in_band(said.alarm[after]),
        shift_delay=int(drifts[0]) - ONSET if len(drifts) else None,
        shift_alarms=int(said.alarm[ONSET : ONSET + RECOVERY].sum()),
        static_in_band=_in_band(seen[after]),
        attack_found=bool(attacked.alarm[within].any()),
        attack_drifts=int(np.count_nonzero(attacked.drift[nearby]) - np.count_nonzero(clean.drift[nearby])),
        attack_alarms=int(attacked.alarm[within].sum()),
        displacement=float(attacked.static_level[settled] - attacked.static_level[ONSET - 1]),
        undisturbed=float(clean.static_level[settled] - clean.static_level[ONSET - 1]),
    )


def _normal(rows: NDArray[np.float32], labels: NDArray[np.integer]) -> NDArray[np.float32]:
    """Rows without label, and without the sixteen after each event."""
    near = np.convolve(labels != 0, np.ones(17), mode="full")[: len(labels)] > 0
    kept: NDArray[np.float32] = rows[~near]
    return kept


def _third(usable: NDArray[np.bool_], seed: int) -> NDArray[np.bool_]:
    """A random third of the features that vary at all."""
    candidates = np.flatnonzero(usable)
    chosen = np.random.default_rng(seed).choice(candidates, max(1, round(len(candidates) / 3)), replace=False)
    return np.isin(np.arange(len(usable)), chosen)


def _in_band(alarms: NDArray[np.bool_]) -> bool:
    expected = RATE * len(alarms)
    return bool(0.5 <= alarms.sum() / expected <= 2) or (expected < 2 and not alarms.any())


def _share(flags: Iterable[bool]) -> float:
    values = list(flags)
    return round(float(np.mean(values)), 4)


if __name__ == "__main__":
    main()
