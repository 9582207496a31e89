"""Fits one bundle, read top to bottom."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import datetime

import numpy as np
import torch
from numpy.typing import NDArray

from consumers.batch import Columns
from detector.averages import Usual, averaged
from detector.budget import Budget
from detector.bundle import Bundle, DataWindow, Manifest, ModelRecord, Verdict, new_version, software_versions
from detector.calibration import Calibration, rows_needed
from detector.choice import Order, chosen, order_of
from detector.config import AlertSettings, DetectorSettings
from detector.entities import EntityTable, segments
from detector.errors import SettingsError, TrainingError
from detector.features import FeatureEncoder
from detector.level import CalibrationRows, Levels, Start
from detector.novelty_rules import NoveltyBaseline
from detector.proving.profile import profile
from detector.proving.surprise import encode
from detector.relevance import Relevance
from detector.rhythm import READY
from detector.training_data import TrainingData
from models.base import FitReport, GenerativeModel, Layout, Progress, silent
from models.distributed import fit
from models.registry import KINDS, build
from models.scorer import Device, Scorer, resolve_device

VALIDATION_SHARE = 0.1
"""Share of the fitted rows, the newest, that models use for early stopping and choices of size."""
STEADY, ENDING_SHARE = 0.95, 0.1
"""Share of the entities that must have reported in that share of the time at the end, for silence to be told."""
MOST_SEGMENTS = 20
"""Segments whose realised rate a verdict tells."""
TOLERATED_RATIO = 2.0
"""Realised over promised rate on held-back rows beyond which a version is not sound."""


def train(
    data: TrainingData,
    settings: DetectorSettings,
    *,
    created: datetime,
    start: Bundle | None = None,
    cleaned: Mapping[str, int] | None = None,
    progress: Progress = silent,
) -> Bundle:
    """A bundle fitted on the older records, calibrated on the newest, with a verdict on whether it is fit to serve.

    No row that calibrates is seen by the features' scales or by a model. Models go on from those of `start` where there
    is one; `cleaned` tells how many records were left out before, by reason. Raises `TrainingError` where nothing sound
    can come of it.
    """
    require_device(settings.device)
    columns = data.columns
    fitted, calibrating = split_by_time(columns.time, settings.training.calibration_share)
    if settings.segment and not any(map(bool, segments(columns, settings.segment).tolist())):
        raise TrainingError(f"calibration.by: none of {len(columns)} records has the field '{settings.segment}'.")
    encoder = FeatureEncoder.fit(
        columns.take(np.sort(fitted)), data.features, window=1, time_zone=settings.training.timezone
    )
    order = order_of(encode(encoder, columns, settings.window)[fitted, -1], columns.entity[fitted])
    untrained = _untrained(settings, order, encoder.layout)
    encoder = replace(encoder, window=max(model.layout.window for model in untrained.values()))
    x = encode(encoder, columns, settings.window)
    models, reports = fit_models(x[fitted], untrained, settings, start, progress)

    scorer = Scorer(models, settings.device)
    scores = scorer.score(x[calibrating])
    if not np.isfinite(scores).all():
        broken = [kind for kind, row in zip(models, scores, strict=True) if not np.isfinite(row).all()]
        raise TrainingError(f"Model {', '.join(broken)} gives scores that are not finite on calibration rows.")
    calibrated = columns.take(calibrating)
    usual = Usual.of(scores)
    averages = averaged(scores, calibrated.entity, usual) if order.there else None
    calibration = Calibration.fit(dict(zip(models, scores, strict=True)), averages)
    window = _window(data, settings, fitted)
    budget = window.budget(settings.alerts)
    _, relevant = Relevance(encoder, scorer, calibration).judge(x[calibrating], scores)
    averages = averaged(relevant, calibrated.entity, usual) if order.there else None
    rows = CalibrationRows.of(
        _in_time(calibration, relevant, averages), calibrated.entity, segments(calibrated, settings.calibration.by)
    )
    verdict = judge(models, relevant, averages, calibrated, settings, budget).model_copy(
        update={
            "rate_interval": calibration.interval(
                budget.rate, independent=rows.independent, seed=settings.training.seed
            )
        }
    )
    novelty = NoveltyBaseline.fit(encoder, columns.take(np.sort(fitted)), columns.take(np.sort(calibrating)))
    warnings = [
        *too_few_rows(verdict, len(calibrating), settings),
        *unfit_quiet(columns, settings.alerts, budget),
        *(novelty.warnings(budget.beside) if settings.alerts.novelty else []),
    ]

    records = [
        ModelRecord(
            kind=kind,
            arguments=models[kind].arguments,
            window=models[kind].layout.window,
            valid_score=report.valid_score,
            details=report.details,
        )
        for kind, report in reports.items()
    ]
    manifest = Manifest(
        detector=settings.name,
        version=new_version(created, scores.tobytes()),
        created=created,
        entity=settings.stream.entity,
        timestamp=settings.stream.timestamp,
        calibrated_by=settings.calibration.by,
        rate=budget.rate,
        data=window,
        verdict=verdict.model_copy(update={"warnings": warnings}),
        novelty=novelty,
        profile=profile(columns, encoder.features),
        trained_from=start.version if start else None,
        cleaned=dict(cleaned or {}),
        steady=steady(columns),
        models=records,
        choice=_choice(settings, order),
        layout=encoder.layout.to_json(),
        features=encoder.to_state()[0],
        software=software_versions(),
    )
    return Bundle(manifest, encoder, models, calibration, rows)


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


def _untrained(settings: DetectorSettings, order: Order, layout: Layout) -> dict[str, GenerativeModel]:
    """The models to fit by type, each with a window of its own where the settings name none: the record alone where
    what came before it tells nothing."""
    given, models = settings.window.length, dict[str, GenerativeModel]()
    for it in chosen(settings.models, order):
        natural = KINDS[it.type].natural_window(layout.columns) if order.there else 1
        window = natural if given is None else given
        models[it.type] = build(it.type, replace(layout, window=window), it.model_dump(exclude={"type"}))
    return models


def _choice(settings: DetectorSettings, order: Order) -> str:
    past = "averages of what models said lately count" if order.there else "what came before a record does not count"
    named = "models: auto" if settings.models == "auto" else "models by the settings"
    return f"{named}: {order}; {past}"


def fit_models(
    x: NDArray[np.float32],
    models: dict[str, GenerativeModel],
    settings: DetectorSettings,
    start: Bundle | None,
    progress: Progress,
) -> tuple[dict[str, GenerativeModel], dict[str, FitReport]]:
    """Fits each model on rows (n, window, d) in order of time, going on from that of `start`."""
    rows = torch.from_numpy(x)
    cut = len(rows) - max(1, int(VALIDATION_SHARE * len(rows)))
    seed, device = settings.training.seed, resolve_device(settings.device)
    reports: dict[str, FitReport] = {}
    for number, (kind, model) in enumerate(models.items()):

        def told(fraction: float, message: str, number: int = number, kind: str = kind) -> None:
            progress((number + fraction) / len(models), f"{kind}: {message}")

        own = rows[:, rows.shape[1] - model.layout.window :]
        begin = start.models.get(kind) if start else None
        try:
            reports[kind] = fit(model, own[:cut], own[cut:], seed=seed, start=begin, device=device, progress=told)
        except ValueError as error:
            raise TrainingError(f"Model {kind} cannot be fitted on {cut} rows: {error}") from error
    return models, reports


def _in_time(
    calibration: Calibration, scores: NDArray[np.float32], averages: NDArray[np.float64] | None
) -> NDArray[np.float64]:
    """−ln p (n,) of scores (m, n), with the averages at each where these count."""
    if averages is None:
        return calibration.nats(scores)
    return calibration.in_time(scores, calibration.by_model(scores), averages)[0]


def judge(
    models: Iterable[str],
    scores: NDArray[np.float32],
    averages: NDArray[np.float64] | None,
    columns: Columns,
    settings: DetectorSettings,
    budget: Budget,
) -> Verdict:
    """Calibrates on the older half of the calibration rows, of which `scores` (m, n) and averages are, and decides on
    the newer half as in service.

    Sound is at most `TOLERATED_RATIO` times the promised rate (two alarms are always allowed: they are within chance).
    """
    half, by = len(columns) // 2, settings.calibration.by
    before, after = (None, None) if averages is None else (averages[..., :half], averages[..., half:])
    older = Calibration.fit(dict(zip(models, scores[:, :half], strict=True)), before)
    past, present = columns.take(slice(None, half)), columns.take(slice(half, None))
    rows = CalibrationRows.of(_in_time(older, scores[:, :half], before), past.entity, segments(past, by))
    levels = Levels(Start.fit(rows, rate=budget.rate, adapt=settings.calibration.level == "online"))
    names, nats = segments(present, by), _in_time(older, scores[:, half:], after)
    entities, places = EntityTable(len(nats)).locate(present.entity), EntityTable(len(nats)).locate(names)
    alarms = levels.decide(nats, np.full(len(nats), budget.rate), entities, places, names).alarm
    realised = float(alarms.mean())
    reasons = []
    if alarms.sum() > max(2.0, TOLERATED_RATIO * budget.rate * len(nats)):
        reasons.append(
            f"{alarms.sum()} of {len(nats)} held-back rows are alarms: rate {realised:.3g}, promised "
            f"{budget.rate:.3g}. Expected at most {TOLERATED_RATIO:g} times the promised rate."
        )
    return Verdict(
        sound=not reasons,
        reasons=reasons,
        promised_rate=budget.rate,
        realised_rate=realised,
        held_back_rows=len(nats),
        by_segment=_by_segment(names, alarms, budget.rate),
        rate_interval=(0.0, 1.0),
    )


def too_few_rows(verdict: Verdict, rows: int, settings: DetectorSettings) -> list[str]:
    """A warning where calibration rows do not reach down to the promised rate."""
    rate, share = verdict.promised_rate, settings.training.calibration_share
    if rows >= (needed := rows_needed(rate)):
        return []
    low, high = verdict.rate_interval
    return [
        f"{rows} calibration rows do not reach down to rate {rate:.3g}: {needed} are needed, so "
        f"{math.ceil(needed / share)} training records at training.calibration_share {share:g}. The smallest rate for "
        f"what is there is {1 / (rows + 1):.3g}. Beyond it a fitted tail is relied on (at the promised rate anything "
        f"from {low:.2g} to {high:.2g} may come true) until the level has seen some {math.ceil(5 / rate)} records."
    ]


def unfit_quiet(columns: Columns, alerts: AlertSettings, budget: Budget) -> list[str]:
    """A warning where entities report so seldom that every record ends an incident, or so often that chance alone
    raises an alarm about every `quiet_for`: an incident would then hardly ever resolve, and hide the next one of its
    entity unless that is more severe.
    """
    span_s = (int(columns.time.max()) - int(columns.time.min())) / 1000
    per_entity = len(columns) / len(set(columns.entity.tolist()))
    if (interval_s := span_s / per_entity) >= alerts.quiet_for:
        return [
            f"An entity reports every {interval_s:.3g} s or so, and alerts.quiet_for is {alerts.quiet_for:g} s: its "
            f"incidents are over at its next record. Set alerts.quiet_for to {3 * interval_s:.0f}s or more."
        ]
    if span_s <= 0 or (apart_s := span_s / (budget.rate * per_entity)) >= 2 * alerts.quiet_for:
        return []
    return [
        f"An entity raises an alarm by chance every {apart_s:.3g} s or so, and alerts.quiet_for is "
        f"{alerts.quiet_for:g} s: its incidents will hardly ever resolve. Set alerts.quiet_for to "
        f"{max(1.0, apart_s / 4):.0f}s, or a smaller budget."
    ]


def steady(columns: Columns) -> bool:
    """Whether nearly all entities that reported often reported to the end."""
    _, entity, count = np.unique(columns.entity, return_inverse=True, return_counts=True)
    last = np.full(len(count), np.iinfo(np.int64).min)
    np.maximum.at(last, entity, columns.time)
    often = count > READY
    end = columns.time.max() - ENDING_SHARE * (columns.time.max() - columns.time.min())
    return bool(often.any() and (last[often] >= end).mean() >= STEADY)


def _by_segment(names: NDArray[np.object_], alarms: NDArray[np.bool_], rate: float) -> dict[str, float]:
    """Realised over promised rate of the `MOST_SEGMENTS` segments with the most rows."""
    found, numbers, rows = np.unique(names, return_inverse=True, return_counts=True)
    raised = np.bincount(numbers, weights=alarms)
    most = np.argsort(-rows, kind="stable")[:MOST_SEGMENTS]
    return {str(found[k]): round(float(raised[k] / (rate * rows[k])), 3) for k in most}


def _window(data: TrainingData, settings: DetectorSettings, fitted: NDArray[np.intp]) -> DataWindow:
    ends: dict[str, dict[int, int]] = {}
    for partition, end in data.ends.items():
        ends.setdefault(partition.topic, {})[partition.number] = end
    seen: dict[str, dict[int, int]] = {}
    for partition, rows in data.columns.by_partition() if ends else ():
        seen.setdefault(partition.topic, {})[partition.number] = rows.stop - rows.start
    time = data.columns.time
    return DataWindow(
        records=len(time),
        fitted=len(fitted),
        calibrated=len(time) - len(fitted),
        first_ms=int(time.min()),
        last_ms=int(time.max()),
        fitted_to_ms=int(time[fitted].max()),
        ends=ends,
        by_partition=seen,
        files=settings.training.files,
        dropped=dict(data.dropped),
    )
