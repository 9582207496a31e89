"""What several processes make of a fit: its time with 1, 2, ... of them, and how far scores are from those of one.

    python -m benchmarks.distributed [--models vae,tcn] [--ranks 1,2] [--json FILE]

The demo's recording, a real server's 38 metrics: the first half is fitted on by `torchrun` and so many processes of one
thread each on this machine, the second half scored. With fewer cores than processes, or busy ones, times tell nothing
of what machines of their own would take; the differences do not depend on that.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from numpy.typing import NDArray

from benchmarks.budget import columns_of, evenly
from detector.config import DetectorSettings
from detector.demo.recording import MACHINE, load_recording
from detector.features import FeatureEncoder
from detector.loading import parse
from detector.proving.surprise import encode
from detector.training import fit_models
from models.base import silent
from models.distributed import help_to_fit, leading
from models.registry import KINDS, build
from models.scorer import Scorer

DEFAULT = ",".join(kind for kind, model in KINDS.items() if model.by_gradient)
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1"]


def main() -> None:
    """Starts the processes, and prints the result."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--models", default=DEFAULT, help="kinds of model")
    arguments.add_argument("--ranks", default="1,2", help="numbers of processes, 1 first")
    arguments.add_argument("--json", type=Path, help="also write the result to this file")
    arguments.add_argument("--into", type=Path, help=argparse.SUPPRESS)
    given = arguments.parse_args()
    if given.into is not None:
        rank(given.models.split(","), given.into)
        return
    runs = {int(ranks): together(int(ranks), given.models) for ranks in given.ranks.split(",")}
    result = {"cores": os.cpu_count(), "load_before": os.getloadavg()[2], "models": compared(runs)}
    if given.json:
        given.json.write_text(json.dumps(result, indent=2))
    print(json.dumps(result))  # noqa: T201 - the result


def together(ranks: int, models: str) -> dict[str, NDArray[np.float64]]:
    """Of each kind the seconds that a fit took, before scores of the second half (n,)."""
    with tempfile.TemporaryDirectory() as folder:
        into = Path(folder) / "scores.npz"
        command = ["-m", "benchmarks.distributed", "--models", models, "--into", str(into)]
        subprocess.run([*TORCHRUN, "--nproc-per-node", str(ranks), *command], check=True, stdout=sys.stderr)
        with np.load(into) as found:
            return dict(found)


def rank(models: list[str], into: Path) -> None:
    """One of the processes: fits as rank 0, or helps to."""
    if os.environ["RANK"] != "0":
        help_to_fit()
        return
    with leading(int(os.environ["WORLD_SIZE"])):
        found: dict[str, Any] = {kind: np.array(fitted(kind)) for kind in models}
        np.savez(into, **found)


def fitted(kind: str) -> list[float]:
    """Seconds, then scores."""
    settings, recording = settings_of(kind), load_recording()
    features = () if settings.features == "auto" else settings.features
    times = evenly(1, 1)(recording.half, len(recording.values) - recording.half)
    known, live = (columns_of(recording, times, rows) for rows in (slice(recording.half), slice(recording.half, None)))
    layout = FeatureEncoder.fit(known, features, window=1, time_zone=settings.training.timezone).layout
    window = KINDS[kind].natural_window(layout.columns)
    encoder = FeatureEncoder.fit(known, features, window=window, time_zone=settings.training.timezone)
    (chosen,) = [] if settings.models == "auto" else settings.models
    models = {kind: build(kind, encoder.layout, chosen.model_dump(exclude={"type"}))}
    x = encode(encoder, known, settings.window)
    started = time.perf_counter()
    fit_models(x, models, settings, None, silent)
    seconds = time.perf_counter() - started
    return [seconds, *Scorer(models, "cpu").score(encode(encoder, live, settings.window))[0].tolist()]


def settings_of(kind: str) -> DetectorSettings:
    return parse(
        {
            "name": MACHINE,
            "kafka": {"bootstrap": "127.0.0.1:1"},
            "stream": {"topics": ["rows"]},
            "features": list(load_recording().metrics),
            "models": [kind],
            "alerts": {"topic": "alerts"},
        }
    )


def compared(runs: dict[int, dict[str, NDArray[np.float64]]]) -> dict[str, dict[str, Any]]:
    """Of each kind: seconds by number of processes, and how far scores are from those of one process, in nats."""
    alone, result = runs[1], dict[str, dict[str, Any]]()
    for kind, (_, *scores) in alone.items():
        apart = {ranks: np.abs(found[kind][1:] - scores) for ranks, found in runs.items() if ranks > 1}
        result[kind] = {
            "fit_s": {ranks: round(float(found[kind][0]), 1) for ranks, found in runs.items()},
            "score_deviation": float(f"{np.std(scores):.3g}"),
            "median_difference": {ranks: float(f"{np.median(it):.2g}") for ranks, it in apart.items()},
            "p99_difference": {ranks: float(f"{np.quantile(it, 0.99):.2g}") for ranks, it in apart.items()},
        }
    return result


if __name__ == "__main__":
    main()
