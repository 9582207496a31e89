"""`offnominal generate`."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import polars as pl
import structlog
from rich.console import Console
from rich.table import Table

from consumers.batch import Columns, Message
from consumers.fields import split_path
from consumers.producer import Producer
from detector.bundle import Bundle
from detector.commands.terminal import connect, print_json, progress_shown
from detector.config import DetectorSettings
from detector.errors import SettingsError
from detector.fidelity import Fidelity, fidelity
from detector.files import FRAMES, LINES
from detector.generation import draw, generate, to_json, to_values
from detector.proving.surprise import encode
from detector.store import Store
from detector.training import split_by_time
from detector.training_data import gather

log = structlog.get_logger()

_LEAST_JUDGED = 2_000
"""Draws that are compared with real rows where fewer are asked for."""


def generate_records(
    settings: DetectorSettings,
    *,
    records: int,
    output: Path | None,
    topic: str | None,
    version: str | None,
    model: str | None,
    seed: int,
    as_json: bool,
) -> None:
    """Draws records from a version, the champion where none is named, writes them to a file or a topic where one is
    named, and prints how like real ones they are."""
    _require_place(settings, output, topic)
    store = Store(settings.store.url, settings.name)
    if (chosen := version or store.champion()) is None:
        raise SettingsError(f"The store {store.url} has no champion. Train first, or give --version.")
    bundle = store.load(chosen)
    bundle.require_fit(settings)
    kind = model or next(iter(bundle.models))
    columns = generate(bundle, records, seed, kind)
    if output is not None:
        write(output, to_values(bundle, columns))
    if topic is not None:
        publish(settings, topic, columns, to_json(to_values(bundle, columns)))
    found = judge(settings, bundle, kind, max(records, _LEAST_JUDGED * bundle.encoder.window), seed)
    if as_json:
        told = {"version": chosen, "model": kind, "records": records, "fidelity": found.model_dump()}
        print_json(json.dumps({**told, "warnings": found.warnings()}))
        return
    _show(found)
    for warning in found.warnings():
        log.warning(warning)


def judge(settings: DetectorSettings, bundle: Bundle, kind: str, records: int, seed: int) -> Fidelity:
    """Compares what so many records are made of with the records that `settings.training` names, held back and fitted
    ones apart as training does."""
    own = settings.model_copy(update={"features": list(bundle.encoder.features)})
    with progress_shown("reading real records") as progress:
        real = gather(own, connect(settings), now_ms=round(time.time() * 1000), progress=progress).columns
    window = bundle.manifest.data
    share = float(((real.time >= window.first_ms) & (real.time <= window.last_ms)).mean())
    if share < 0.5:
        log.warning("few real records are of the window trained on: copies of others go unnoticed", share=share)
    x = encode(bundle.encoder, real, settings.window)[:, -1]
    fitted, held_back = split_by_time(real.time, settings.training.calibration_share)
    drawn = draw(bundle, records, seed, kind)[:, -1]
    return fidelity(drawn, x[held_back], x[fitted], seed=seed)


def write(path: Path, values: dict[str, list[Any]]) -> None:
    """Values by path as NDJSON, or as Parquet or CSV, where a path is a column with dots in its name."""
    frame = pl.DataFrame({".".join(split_path(name)): column for name, column in values.items()})
    try:
        if path.suffix == ".parquet":
            frame.write_parquet(path)
        elif path.suffix == ".csv":
            frame.write_csv(path)
        else:
            path.write_bytes(b"".join(line + b"\n" for line in to_json(values)))
    except OSError as error:
        raise SettingsError(f"'{path}' cannot be written: {error.strerror or error}.") from error


def publish(settings: DetectorSettings, topic: str, columns: Columns, values: list[bytes]) -> None:
    """Sends JSON records to a topic that is there, each entity's to a partition of its own."""
    if not connect(settings).partitions([topic]):
        raise SettingsError(f"Topic '{topic}' is not on {settings.kafka.bootstrap}. Create it first.")
    with Producer(settings.kafka, client_id=f"offnominal-{settings.name}") as producer:
        for entity, value in zip(columns.entity.tolist(), values, strict=True):
            producer.send(Message(topic, entity.encode() or None, value))
        producer.flush()


def _require_place(settings: DetectorSettings, output: Path | None, topic: str | None) -> None:
    if output is not None and topic is not None:
        raise SettingsError(f"--output {output} and --topic {topic} exclude one another: give one.")
    known = (*FRAMES, *LINES)
    if output is not None and output.suffix not in known:
        raise SettingsError(f"--output {output} has an unknown suffix. Expected one of {', '.join(known)}.")
    own = (settings.alerts.topic, settings.dead_letter_topic, settings.state_topic, settings.feedback_topic)
    if topic in (*settings.stream.topics, *own):
        raise SettingsError(
            f"--topic {topic} is one of the detector's own, where generated records would pass for real."
        )


def _show(found: Fidelity) -> None:
    table = Table("", "generated", "real", title=f"{found.rows:,} rows beside as many held-back ones")
    real = found.expected.model_dump()
    for name, value in found.generated.model_dump().items():
        table.add_row(name.replace("_", " "), f"{value:.3g}", f"{real[name]:.3g}")
    Console().print(table)
