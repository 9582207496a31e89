"""What the detector finds, and whether it keeps its budget, on labelled data sets.

    python -m benchmarks.quality --suite FOLDER [--json FILE] [--models gmm,vae,gmm+vae] [--only NAME] [--jobs 2]

Detectors of libraries rank the same rows (see `benchmarks.quality.libraries`); what is not installed is named.

A suite is a folder of families, folders of npz files with `X_train`, `y_train`, `X_test`, `y_test` (rows in order of
time, 1 = anomalous) and `meta`, JSON whose `kind` is ts or tabular; other kinds are left out. Rows take the product's
own way: as JSON records, a minute apart, through a broker in memory, `gather`, `train`, `Stream.poll` and
`Pipeline.process`, at two rates over one trained version. Settings are the product's defaults; in tables, whose rows
have no order, a window of one record and a static level. Labels of test rows touch nothing but the figures.

Figures of a data set, each once with the suffix `_1pct` and once with `_01pct` for the promised rate: alarms on normal
rows and how many were expected, their ratio, and whether it is within the band; `elevated_ratio` the same for the rows
that the rate does not bound; events with an alarm (`events_found`) and with any elevated row (`events_touched`);
`median_delay` in rows from an event's start; alerts by kind. Beside them `static_`, the fixed level of split conformal
prediction on the same scores, and `oracle_`, the fixed threshold chosen with the labels at as many false alarms;
`oracle_most_events` is the most that any threshold finds with no more of them.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from statistics import fmean, median
from typing import Any, NamedTuple

os.environ.setdefault("OMP_NUM_THREADS", "1")

import msgspec
import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, roc_auc_score  # type: ignore[import-untyped]  # ships no types

from benchmarks.measures import AFTERMATH, Answer, Flags, decisions, events, normal_rows, vus_pr
from benchmarks.quality import comparison
from benchmarks.quality.comparison import compared
from benchmarks.quality.costs import measured
from benchmarks.quality.libraries import judged_by_libraries, missing
from consumers.memory import MemoryBroker
from detector.bundle import Bundle
from detector.config import DetectorSettings
from detector.loading import parse
from detector.pipeline import Outcome, Pipeline
from detector.training import train
from detector.training_data import gather

RATES = {"1pct": 0.01, "01pct": 0.001}
KINDS = {"ts": "streams", "tabular": "tables"}
LONG = 1000
"""Calibration rows from which the rate 0.001 is within what they can resolve."""
TOPIC = "rows"
START_MS = 1_767_225_600_000

Row = dict[str, Any]
TABLES: dict[str, Any] = {"calibration": {"level": "static"}}
"""Settings for rows without order."""


class DataSet(NamedTuple):
    """One data set as records to train on and records to score, n of these, with a label each (n,)."""

    name: str
    family: str
    kind: str
    features: list[str]
    training: list[bytes]
    test: list[bytes]
    labels: Flags


def main() -> None:
    """Runs everything; tables go to stderr, the summary of the first models is the last line of stdout."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--suite", type=Path, required=True, help="folder of families of data sets")
    arguments.add_argument("--json", type=Path, help="write all figures to this file")
    arguments.add_argument("--models", default="gmm", help="sets of models, like gmm,vae,gmm+vae")
    arguments.add_argument("--only", help="a family or a data set")
    arguments.add_argument("--jobs", type=int, default=2, help="data sets at a time")
    given = arguments.parse_args()
    models = given.models.split(",")
    chosen, left_out = choose(given.suite, given.only)
    found = measure(chosen, models, given.jobs)
    by_models = {name: collected([judged[name] for judged in found]) for name in models}
    for name, result in by_models.items():
        tell(name, result["summary"]["families"])
    beside = compared(found)
    comparison.tell(beside)
    for name, remedy in missing().items():
        sys.stderr.write(f"left out, not installed: {name} ({remedy})\n")
    if left_out:
        sys.stderr.write(f"left out, of another kind: {', '.join(left_out)}\n")
    first = by_models[models[0]]
    if given.json:
        libraries = {name: [judged[name] for judged in found] for name in found[0] if name not in models}
        everything = {
            "models": by_models,
            "left_out": left_out,
            "compared": beside,
            "libraries": libraries,
            "not_installed": missing(),
            **first,
        }
        given.json.write_text(json.dumps(everything, indent=1) + "\n", encoding="utf-8")
    told = {"models": models[0], **first["summary"], **({"json": str(given.json)} if given.json else {})}
    print(json.dumps(told))  # noqa: T201 - the result


def choose(suite: Path, only: str | None) -> tuple[list[Path], list[str]]:
    """Data sets of the suite, largest first so that none is waited for in the end, and the names of those left out."""
    paths = [path for path in suite.glob("*/*.npz") if only in (None, path.stem, path.parent.name)]
    if not paths:
        raise SystemExit(f"{suite} holds no data sets{f' of {only}' if only else ''}: expected <family>/<name>.npz")
    paths.sort(key=lambda path: (-path.stat().st_size, path))
    known = [path for path in paths if kind_of(path) in KINDS]
    return known, sorted(path.stem for path in paths if path not in known)


def kind_of(path: Path) -> str:
    """What kind of data the file says it holds."""
    with np.load(path) as arrays:
        return str(json.loads(str(arrays["meta"]))["kind"])


def measure(paths: Sequence[Path], models: Sequence[str], jobs: int) -> list[dict[str, Row]]:
    """Figures of each data set by models, in the order of families and names."""
    found = []
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        for number, judged in enumerate(pool.map(partial(judge, models=models), paths), 1):
            found.append(judged)
            sys.stderr.write(f"{number} of {len(paths)}: {judged[models[0]]['name']}\n")
    return sorted(found, key=lambda judged: (judged[models[0]]["family"], judged[models[0]]["name"]))


def judge(path: Path, models: Sequence[str]) -> dict[str, Row]:
    """Figures of one data set with each of these models, and by the libraries."""
    data = load(path)
    return {**{name: row(data, *answers(data, name)) for name in models}, **judged_by_libraries(path)}


def load(path: Path) -> DataSet:
    """Reads a data set; training rows that are labelled anomalous are left out, and leave a gap in time."""
    with np.load(path) as arrays:
        train_rows, test_rows = arrays["X_train"], arrays["X_test"]
        normal, labels = arrays["y_train"] == 0, arrays["y_test"] == 1
    features = [f"f{number}" for number in range(train_rows.shape[1])]
    times = np.arange(len(train_rows) + len(test_rows))
    return DataSet(
        name=path.stem,
        family=path.parent.name,
        kind=kind_of(path),
        features=features,
        training=records(train_rows[normal], times[: len(train_rows)][normal], features),
        test=records(test_rows, times[len(train_rows) :], features),
        labels=labels,
    )


def records(rows: NDArray[np.floating], minutes: NDArray[np.intp], features: Sequence[str]) -> list[bytes]:
    """Rows (n, d) as JSON records; numbers that are not finite become null."""
    encode = msgspec.json.Encoder().encode
    times = (START_MS + 60_000 * minutes).tolist()
    return [
        encode({"ts": time, **dict(zip(features, values, strict=True))})
        for time, values in zip(times, rows.tolist(), strict=True)
    ]


def answers(data: DataSet, models: str) -> tuple[Bundle, dict[str, Answer], Row]:
    """A version trained on the training rows, what it says of the test rows at each rate, and what that took."""
    broker = MemoryBroker()
    broker.create_topics({TOPIC: 1})
    for record in data.training:
        broker.append(TOPIC, record)
    settings = {name: settings_for(data, models, rate) for name, rate in RATES.items()}
    first = next(iter(settings.values()))
    training = gather(first, broker, now_ms=0)
    with measured() as fitting:
        bundle = train(training, first, created=datetime.fromtimestamp(START_MS / 1000, UTC))
    for record in data.test:
        broker.append(TOPIC, record)
    with measured() as scoring:
        said = scored(broker, bundle, settings, len(data.test))
    rate = len(data.test) / scoring.seconds
    return bundle, said, {"fit_s": fitting.seconds, "fit_peak_mb": fitting.peak_mb, "rows_per_s": rate}


def settings_for(data: DataSet, models: str, rate: float) -> DetectorSettings:
    """The product's defaults, but for what the data set dictates."""
    return parse(
        {
            "name": "quality",
            "kafka": {"bootstrap": "127.0.0.1:1"},
            "stream": {"topics": [TOPIC], "timestamp": "ts"},
            "features": data.features,
            "models": "auto" if models == "auto" else models.split("+"),
            "training": {"records": len(data.training), "min_records": min(len(data.training), 500)},
            "alerts": {"topic": "alerts", "rate": rate},
            **(TABLES if data.kind == "tabular" else {}),
        }
    )


def scored(broker: MemoryBroker, bundle: Bundle, settings: Mapping[str, DetectorSettings], n: int) -> dict[str, Answer]:
    """What pipelines of these settings say of the n rows after those of training, all of them on the same batches."""
    begin = bundle.manifest.data.end_positions()
    pipelines = {name: Pipeline(chosen, bundle) for name, chosen in settings.items()}
    outcomes: dict[str, list[Outcome]] = {name: [] for name in settings}
    most = next(iter(settings.values())).batch.max_records
    with closing(broker.stream([TOPIC], begin)) as stream:
        while len(batch := stream.poll(most, 0.0)):
            for name, pipeline in pipelines.items():
                outcomes[name].append(pipeline.process(batch))
            stream.publish([], batch.positions())
    return {name: answer(said, sum(begin.values()), n) for name, said in outcomes.items()}


def answer(outcomes: Sequence[Outcome], start: int, n: int) -> Answer:
    """The outcomes of all batches as one, for n records from offset `start` on."""
    said = Answer(
        *(np.zeros(n), np.zeros(n), np.zeros(n, bool), np.zeros(n, bool)),
        *(Counter(), sum(len(o.dead_letters) for o in outcomes)),
    )
    for outcome in outcomes:
        rows, decided = outcome.columns.offsets - start, outcome.decided
        said.ranking[rows] = outcome.ranking
        said.static_nats[rows], said.alarm[rows], said.elevated[rows] = (
            decided.static_nats,
            decided.alarm,
            decided.elevated,
        )
        said.alerts.update(alert.kind for alert in outcome.alerts)
    return said


def row(data: DataSet, bundle: Bundle, said: Mapping[str, Answer], took: Row) -> Row:
    """All figures of one data set. Rows of a table have no neighbours, so each anomalous one is an event."""
    labels, kind = data.labels, KINDS[data.kind]
    found = events(labels) if kind == "streams" else np.flatnonzero(labels)[:, None] + np.arange(2)
    normal = normal_rows(labels, found, AFTERMATH if kind == "streams" else 0)
    scores = next(iter(said.values())).ranking
    both = bool(labels.any() and not labels.all())
    figures: Row = {
        "name": data.name,
        "family": data.family,
        "kind": kind,
        "rows": len(labels),
        "calibration_rows": bundle.manifest.data.calibrated,
        "long": bundle.manifest.data.calibrated >= LONG,
        "dead_letters": next(iter(said.values())).dead_letters,
        "events": len(found),
        "auroc": float(roc_auc_score(labels, scores)) if both else None,
        "average_precision": float(average_precision_score(labels, scores)) if both else None,
        **took,
    }
    if kind == "streams":
        figures["vus_pr"] = vus_pr(labels, scores) if both else None
    for suffix, answer in said.items():
        at_rate = decisions(answer, RATES[suffix], found, normal)
        figures |= {f"{name}_{suffix}": value for name, value in at_rate.items()}
    return figures


def collected(rows: Sequence[Row]) -> Row:
    """The figures of all data sets by kind, and their summary, which is over streams but for the families'."""
    streams = [row for row in rows if row["kind"] == "streams"]
    tables = [row for row in rows if row["kind"] == "tables"]
    long = [row for row in streams if row["long"]]
    families = sorted({row["family"] for row in rows})
    summary = {
        "in_band_1pct_long": over(fmean, long, "in_band_1pct"),
        "in_band_1pct_all": over(fmean, streams, "in_band_1pct"),
        "median_ratio_1pct": over(median, streams, "realised_ratio_1pct"),
        "in_band_01pct_long": over(fmean, long, "in_band_01pct"),
        "median_ratio_01pct": over(median, streams, "realised_ratio_01pct"),
        "events_found_1pct": over(sum, streams, "events_found_1pct"),
        "events_found_1pct_oracle": over(sum, streams, "oracle_events_found_1pct"),
        "events_found_1pct_oracle_most": over(sum, streams, "oracle_most_events_1pct"),
        "static_in_band_1pct_long": over(fmean, long, "static_in_band_1pct"),
        "static_in_band_1pct_all": over(fmean, streams, "static_in_band_1pct"),
        "families": {family: summarised([row for row in rows if row["family"] == family]) for family in families},
    }
    return {"streams": streams, "tables": tables, "summary": summary}


def summarised(rows: Sequence[Row]) -> Row:
    """The figures of a family: means of rankings, sums of events, and the median of the data sets' median delays."""
    return {
        "data_sets": len(rows),
        "vus_pr": over(fmean, rows, "vus_pr"),
        "auroc": over(fmean, rows, "auroc"),
        "average_precision": over(fmean, rows, "average_precision"),
        "in_band_1pct": over(fmean, rows, "in_band_1pct"),
        "events": over(sum, rows, "events"),
        "events_found_1pct": over(sum, rows, "events_found_1pct"),
        "events_found_1pct_oracle": over(sum, rows, "oracle_events_found_1pct"),
        "median_delay": over(median, rows, "median_delay_1pct"),
    }


def over(statistic: Callable[[list[float]], float], rows: Sequence[Row], name: str) -> float | None:
    """A statistic of one figure over the data sets that have it; None where none has."""
    values = [row[name] for row in rows if row.get(name) is not None]
    return round(statistic(values), 4) if values else None


def tell(models: str, families: Mapping[str, Row]) -> None:
    """The families as a table on stderr."""
    names = ["data_sets", "vus_pr", "auroc", "in_band_1pct", "events", "events_found_1pct", "median_delay"]
    lines = [f"{models:22}" + "".join(f"{name:>19}" for name in names)]
    for family, figures in families.items():
        cells = ("-" if figures[name] is None else figures[name] for name in names)
        lines.append(f"{family:22}" + "".join(f"{cell:>19}" for cell in cells))
    sys.stderr.write("\n".join(lines) + "\n")
