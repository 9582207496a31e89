"""Records drawn from a version's models: normal traffic as they know it.

A model knows an entity's past as far back as its window. With a window of one record any record may follow any other,
and as many entities as there were in training take turns. With a longer one each window drawn is all that is told of
its entity: two of them put together would have a seam that no model has seen.
"""

from __future__ import annotations

import math
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from consumers.batch import Columns, Partition
from consumers.fields import split_path
from detector.bundle import Bundle, Manifest
from detector.errors import SettingsError
from detector.features import FeatureEncoder, fields
from detector.parts import Calendar, remembered

GENERATED = Partition("generated", 0)
"""Where generated records are, as far as a pipeline knows."""
_MINUTE_MS = 60_000
_LEAST_MINUTES, _MOST_MINUTES = 7 * 1440, 366 * 1440
"""Of the stretch in which the moments lie that calendars ask for: all that they tell apart comes within a week."""


def generate(bundle: Bundle, n: int, seed: int, model: str | None = None) -> Columns:
    """n records in order of time, drawn from the model of that kind, the version's first where none is named.

    With a window of w records an entity's first w - 1 only lead up to its last, which alone has a window that was
    drawn. Raises `SettingsError` for a model that the version does not have.
    """
    return to_columns(bundle, draw(bundle, n, seed, model), seed).take(slice(n))


def draw(bundle: Bundle, n: int, seed: int, model: str | None = None) -> NDArray[np.float32]:
    """What `generate` makes n records of, (windows, window, d): draws, each the nearest that records can be. There are
    a few more than it takes where entities are to have equally many."""
    kind = model or next(iter(bundle.models))
    if kind not in bundle.models:
        known = ", ".join(bundle.models)
        raise SettingsError(f"Version {bundle.version} has no model '{kind}'. Expected one of {known}.")
    window = bundle.models[kind].layout.window
    windows = -(-n // window)
    entities = _entities(bundle, windows, window)
    x = bundle.models[kind].sample(-(-windows // entities) * entities, seed=seed).numpy()
    return bundle.encoder.likeliest(x.reshape(-1, x.shape[-1])).reshape(x.shape)


def to_columns(bundle: Bundle, x: NDArray[np.float32], seed: int) -> Columns:
    """Windows (windows, window, d) as records in order of time, from where the training records end and as far apart as
    they are.

    Where calendars are among the features, a window ends at a moment that has the hour and weekday drawn. What is
    scored by its change adds up along an entity's records, beginning at 0.
    """
    (windows, window, d), encoder, manifest = x.shape, bundle.encoder, bundle.manifest
    entities, apart_ms = _entities(bundle, windows, window), _apart_ms(manifest)
    step_ms = apart_ms * _population(bundle)
    ends = _ends(encoder, x[:, -1], manifest.data.last_ms, window * apart_ms, np.random.default_rng(seed))
    order = np.argsort(ends, kind="stable")
    if manifest.entity is None:  # all records are of one, so one window ends before the next one begins
        begun = np.arange(windows) * window * step_ms
        ends[order] = np.maximum.accumulate(ends[order] - begun) + begun
    time = np.rint(ends[order, None] - step_ms * np.arange(window)[::-1]).astype(np.int64)

    turns = windows // entities
    time = time.reshape(turns, entities, window).swapaxes(0, 1).reshape(entities, turns * window)
    x = x[order].reshape(turns, entities, window, d).swapaxes(0, 1).reshape(-1, d)
    values = {name: column.reshape(time.shape) for name, column in encoder.decode(x).items()}
    for feature in encoder.features:
        if feature.name in remembered([feature]):
            elapsed_s = np.diff(time, axis=1) / 1000.0
            changes = values[feature.name]
            values[feature.name] = _added_up(
                np.maximum(changes[:, 1:], 0.0) * elapsed_s if feature.kind == "counter" else changes[:, 1:],
                np.isnan(changes),
            )
    return _columns(bundle, time, values)


def to_values(bundle: Bundle, columns: Columns) -> dict[str, list[Any]]:
    """By the path of each field its values, None where it is missing; times in ISO 8601, as small epoch numbers are
    ambiguous."""
    manifest, features = bundle.manifest, bundle.encoder.features
    iso = np.datetime_as_string(columns.time.astype("datetime64[ms]"), unit="ms", timezone="UTC")
    flags = {feature.name for feature in features if feature.kind == "flag"}
    told = {name: column.tolist() for name, column in columns.texts.items()}
    for name, numbers in columns.numbers.items():
        column = (numbers != 0.0 if name in flags else numbers).astype(object)
        column[np.isnan(numbers)] = None
        told[name] = column.tolist()
    values = {manifest.entity: columns.entity.tolist()} if manifest.entity else {}
    values |= {manifest.timestamp: iso.tolist()} if manifest.timestamp else {}
    in_order = dict.fromkeys([*(feature.name for feature in features), *told])
    return values | {name: told[name] for name in in_order if name in told}


def to_json(values: dict[str, list[Any]]) -> list[bytes]:
    """One JSON object a record: a path is objects within objects, and a missing field is left out."""
    paths = [split_path(path) for path in values]
    return [msgspec.json.encode(_nested(paths, row)) for row in zip(*values.values(), strict=True)]


def _nested(paths: list[list[str]], row: tuple[Any, ...]) -> dict[str, Any]:
    record: dict[str, Any] = {}
    for names, value in zip(paths, row, strict=True):
        if value is not None:
            node = record
            for name in names[:-1]:
                node = node.setdefault(name, {})
            node[names[-1]] = value
    return record


def _entities(bundle: Bundle, windows: int, window: int) -> int:
    """Whose windows of that length so many are."""
    if bundle.manifest.entity is None:
        return 1
    return windows if window > 1 else min(windows, _population(bundle))


def _population(bundle: Bundle) -> int:
    """Entities among the records that calibrated."""
    return 1 if bundle.manifest.entity is None else len(np.unique(bundle.rows.entity))


def _apart_ms(manifest: Manifest) -> float:
    """From one training record to the next, on the average, whoever they are of."""
    return (manifest.data.last_ms - manifest.data.first_ms) / max(1, manifest.data.records - 1)


def _ends(
    encoder: FeatureEncoder, last: NDArray[np.float32], begin_ms: int, apart_ms: float, chance: np.random.Generator
) -> NDArray[np.float64]:
    """Epoch milliseconds (n,) at which windows with the last records (n, d) end: one after the other, or where there
    are calendars at a random one of the moments at which these say what was drawn."""
    n, calendars = len(last), [part for part in encoder.parts if isinstance(part, Calendar)]
    if not calendars:
        return begin_ms + apart_ms * np.arange(1, n + 1, dtype=np.float64)
    stretch = min(max(math.ceil(n * apart_ms / _MINUTE_MS), _LEAST_MINUTES), _MOST_MINUTES)
    minutes = -(-begin_ms // _MINUTE_MS) * _MINUTE_MS + _MINUTE_MS * np.arange(stretch)
    drawn, periods = encoder.decode(last), [part.period for part in calendars]
    there = np.ravel_multi_index([part.at(minutes) for part in calendars], periods)
    wanted = np.ravel_multi_index([drawn[part.name] for part in calendars], periods)
    order = np.argsort(there, kind="stable")
    first, behind = (np.searchsorted(there[order], wanted, side=side) for side in ("left", "right"))
    chosen = first + (chance.random(n) * (behind - first)).astype(np.int64)
    chosen = order[np.minimum(chosen, stretch - 1)]  # where a clock was set forward, the next moment there is
    return minutes[chosen] + _MINUTE_MS * chance.random(n)


def _added_up(increases: NDArray[np.float64], missing: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Increases (entities, n - 1) from record to record -> values (entities, n)."""
    values = np.zeros(missing.shape)
    np.cumsum(np.nan_to_num(increases), axis=1, out=values[:, 1:])
    return np.where(missing, np.nan, values)


def _columns(bundle: Bundle, time: NDArray[np.int64], values: dict[str, NDArray[Any]]) -> Columns:
    """Values and times (entities, n) as records in order of time."""
    manifest, n = bundle.manifest, time.size
    segment = None if manifest.calibrated_by in ("entity", "all") else manifest.calibrated_by
    schema = fields(bundle.encoder.features, manifest.entity, manifest.timestamp, segment)
    nothing = np.full(time.shape, None, object)
    order = np.argsort(time, axis=None, kind="stable")
    texts = {name: values.get(name, nothing).reshape(n)[order] for name in schema.texts}
    names = np.array([f"generated-{number}" if manifest.entity else "" for number in range(len(time))], object)
    return Columns(
        row=np.arange(n),
        partitions=(GENERATED,),
        partition=np.zeros(n, np.int32),
        offsets=np.arange(n),
        time=time.reshape(n)[order],
        entity=texts.get(manifest.entity or "", np.repeat(names, time.shape[1])[order]),
        numbers={name: values[name].reshape(n)[order] for name in schema.numbers},
        texts=texts,
    )
