"""Fits one bundle, read top to bottom."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import datetime

import numpy as np
import torch
from numpy.typing import NDArray

from consumers.batch import Columns
from detector.bundle import Bundle, DataWindow, Manifest, ModelRecord, Verdict, new_version, software_versions
from detector.calibration import Calibration, rows_needed, threshold
from detector.config import AlertSettings, DetectorSettings
from detector.errors import NotEnoughRows, SettingsError, TrainingError
from detector.features import FeatureEncoder
from detector.training_data import TrainingData
from detector.windows import EntityHistory
from models.base import FitReport, GenerativeModel, Progress, silent
from models.registry import build
from models.scorer import Device, Scorer, resolve_device

VALIDATION_SHARE = 0.1
"""Share of the fitted rows, the newest, that models use for early stopping and choices of size."""
TOLERATED_RATIO = 2.0
"""Realised over promised rate on held-back rows beyond which a version is not sound."""


def train(data: TrainingData, settings: DetectorSettings, *, created: datetime, progress: Progress = silent) -> Bundle:
    """A bundle fitted on the older records, calibrated on the newest, with a verdict on whether it is fit to serve.

    No row that calibrates is seen by the features' scales or by a model. Raises `TrainingError` where nothing sound can
    come of it.
    """
    require_device(settings.device)
    columns = data.columns
    fitted, calibrating = split_by_time(columns.time, settings.training.calibration_share)
    if len(calibrating) < (needed := rows_needed(settings.alerts.rate)):
        share = settings.training.calibration_share
        raise NotEnoughRows(
            f"{len(calibrating)} calibration rows cannot support alerts.rate {settings.alerts.rate:g}: "
            f"{needed} are needed, so {math.ceil(needed / share)} training records at "
            f"training.calibration_share {share:g}; the smallest rate for what is there is "
            f"{1 / (len(calibrating) + 1):.3g}."
        )
    encoder = FeatureEncoder.fit(
        columns.take(np.sort(fitted)),
        data.features,
        window=settings.window.length,
        time_zone=settings.training.timezone,
    )
    x = encode(encoder, columns, settings.window.max_entities)
    models, reports = fit_models(x[fitted], encoder, settings, progress)

    scores = Scorer(models, settings.device).score(x[calibrating])
    if not np.isfinite(scores).all():
        broken = [kind for kind, row in zip(models, scores, strict=True) if not np.isfinite(row).all()]
        raise TrainingError(f"Model {', '.join(broken)} gives scores that are not finite on calibration rows.")
    by_model = dict(zip(models, scores, strict=True))
    calibration = Calibration.fit(by_model)
    verdict = judge(by_model, settings.alerts.rate).model_copy(
        update={"warnings": never_quiet(columns, settings.alerts)}
    )

    records = [
        ModelRecord(kind=kind, arguments=models[kind].arguments, valid_score=report.valid_score, details=report.details)
        for kind, report in reports.items()
    ]
    manifest = Manifest(
        detector=settings.name,
        version=new_version(created, scores.tobytes()),
        created=created,
        entity=settings.stream.entity,
        timestamp=settings.stream.timestamp,
        rate=settings.alerts.rate,
        data=_window(data, settings, len(fitted)),
        verdict=verdict,
        models=records,
        layout=encoder.layout.to_json(),
        features=encoder.to_state()[0],
        software=software_versions(),
    )
    return Bundle(manifest, encoder, models, calibration)


def require_device(device: Device) -> None:
    """Raises `SettingsError` for a device that this machine does not have."""
    try:
        resolve_device(device)
    except ValueError as error:
        raise SettingsError(f"device: {error}") from error


def split_by_time(time: NDArray[np.int64], share: float) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Row numbers of the older records and of the newest `share` of them, both in order of time."""
    order = np.argsort(time, kind="stable")
    cut = len(order) - int(len(order) * share)
    return order[:cut], order[cut:]


def encode(encoder: FeatureEncoder, columns: Columns, max_entities: int) -> NDArray[np.float32]:
    """What a model sees of each row, (n, window, d): each partition goes through a history of its own, as it does in
    service.
    """
    parts = [EntityHistory(encoder, max_entities).windows(columns.take(rows)) for _, rows in columns.by_partition()]
    return np.concatenate(parts)


def fit_models(
    x: NDArray[np.float32], encoder: FeatureEncoder, settings: DetectorSettings, progress: Progress
) -> tuple[dict[str, GenerativeModel], dict[str, FitReport]]:
    """Fits each model of the settings on rows (n, window, d) in order of time."""
    rows = torch.from_numpy(x)
    cut = len(rows) - max(1, int(VALIDATION_SHARE * len(rows)))
    models: dict[str, GenerativeModel] = {}
    reports: dict[str, FitReport] = {}
    for number, chosen in enumerate(settings.models):
        model = build(chosen.type, encoder.layout, chosen.model_dump(exclude={"type"}))

        def told(fraction: float, message: str, number: int = number, kind: str = chosen.type) -> None:
            progress((number + fraction) / len(settings.models), f"{kind}: {message}")

        try:
            reports[chosen.type] = model.fit(rows[:cut], rows[cut:], seed=settings.training.seed, progress=told)
        except ValueError as error:
            raise TrainingError(f"Model {chosen.type} cannot be fitted on {cut} rows: {error}") from error
        models[chosen.type] = model
    return models, reports


def judge(scores: Mapping[str, NDArray[np.float32]], rate: float) -> Verdict:
    """Calibrates on the older half of the calibration rows and counts on the newer half how many cross the level.

    Sound is at most `TOLERATED_RATIO` times the promised rate (two rows are always allowed: they are within chance).
    """
    half = len(next(iter(scores.values()))) // 2
    older = Calibration.fit({kind: row[:half] for kind, row in scores.items()})
    _, nats = older.nats(np.stack([row[half:] for row in scores.values()]))
    crossings = int((nats >= threshold(rate)).sum())
    realised = crossings / len(nats)
    reasons = []
    if crossings > max(2.0, TOLERATED_RATIO * rate * len(nats)):
        reasons.append(
            f"{crossings} of {len(nats)} held-back rows cross the level: rate {realised:.3g}, promised {rate:g}. "
            f"Expected at most {TOLERATED_RATIO:g} times the promised rate."
        )
    return Verdict(
        sound=not reasons, reasons=reasons, promised_rate=rate, realised_rate=realised, held_back_rows=len(nats)
    )


def never_quiet(columns: Columns, alerts: AlertSettings) -> list[str]:
    """A warning where entities report so often that chance alone crosses the level about every `quiet_for`.

    An incident would then hardly ever resolve, and hide the next one of its entity unless that is more severe.
    """
    span_s = (int(columns.time.max()) - int(columns.time.min())) / 1000
    per_entity = len(columns) / len(set(columns.entity.tolist()))
    if span_s <= 0 or (apart_s := span_s / (alerts.rate * per_entity)) >= 2 * alerts.quiet_for:
        return []
    return [
        f"An entity crosses the level by chance every {apart_s:.3g} s or so, and alerts.quiet_for is "
        f"{alerts.quiet_for:g} s: its incidents will hardly ever resolve. Set alerts.quiet_for to "
        f"{max(1.0, apart_s / 4):.0f}s, or a smaller alerts.rate."
    ]


def _window(data: TrainingData, settings: DetectorSettings, fitted: int) -> DataWindow:
    ends: dict[str, dict[int, int]] = {}
    for partition, end in data.ends.items():
        ends.setdefault(partition.topic, {})[partition.number] = end
    time = data.columns.time
    return DataWindow(
        records=len(time),
        fitted=fitted,
        calibrated=len(time) - fitted,
        first_ms=int(time.min()),
        last_ms=int(time.max()),
        ends=ends,
        files=settings.training.files,
        dropped=dict(data.dropped),
    )
