"""One trained version of a detector: features, models and calibration, saved and loaded whole.

A bundle is a set of named files: safetensors for arrays, JSON for the rest, and `manifest.json`, which holds the
SHA-256 of each of them. Nothing is ever unpickled. What does not match is refused with the reason.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version as installed
from typing import Annotated, Any, Literal, Self

import numpy as np
import safetensors.numpy
import safetensors.torch
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from consumers.batch import Partition
from detector import __version__
from detector.budget import Budget
from detector.calibration import Calibration
from detector.config import AlertSettings, DetectorSettings, WindowSettings
from detector.errors import BundleError
from detector.features import FeatureEncoder
from detector.level import CalibrationRows
from detector.novelty_rules import NoveltyBaseline
from detector.proving.profile import FieldProfile
from models.base import GenerativeModel, Layout
from models.registry import build

FORMAT = 3
MANIFEST = "manifest.json"
_SOFTWARE = ("torch", "numpy", "scikit-learn")
_MISFITS = (
    *(ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError),
    safetensors.SafetensorError,
)
"""What taking files apart raises where they do not hold what a manifest says."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")  # null would not be read again


class ModelRecord(_Part):
    """How one model is constructed again, and what its fit said."""

    kind: str
    arguments: dict[str, Any]
    window: int
    """Records that it looks at, the newest of the version's window."""
    valid_score: float
    details: dict[str, float | int | str]


class DataWindow(_Part):
    """The records a version was trained on: how many, their event times (epoch ms), and by topic and partition the next
    offset and how many of them came from there.
    """

    records: int
    fitted: int
    calibrated: int
    first_ms: int
    last_ms: int
    fitted_to_ms: int | None = None
    """The newest that models have seen; later ones calibrated."""
    ends: dict[str, dict[int, int]] = {}
    by_partition: dict[str, dict[int, int]] = {}
    files: list[str] = []
    dropped: dict[str, int] = {}

    def end_positions(self) -> dict[Partition, int]:
        """Where records begin that this version has not seen."""
        return _by_partition(self.ends)

    def records_by_partition(self) -> dict[Partition, int]:
        """How many records came from each partition; nothing where they came from files."""
        return _by_partition(self.by_partition)

    def budget(self, alerts: AlertSettings) -> Budget:
        """The budget of the settings at the traffic of these records."""
        return Budget.of(alerts, records=self.records, span_ms=self.last_ms - self.first_ms)


class Verdict(_Part):
    """Whether a version may serve: figures on held-back rows, the reasons against it, and what to know all the same."""

    sound: bool
    reasons: list[str]
    warnings: list[str] = []
    promised_rate: float
    realised_rate: float
    held_back_rows: int
    by_segment: dict[str, float] = {}
    """Realised over promised rate of the segments with the most held-back rows."""
    rate_interval: tuple[float, float]
    """What share of records may lie beyond the promised p-value in truth: the tail's uncertainty, nine in ten."""


class Trial(_Part):
    """What a version had to show after its training: on rows nobody had seen, on live records, and while it served."""

    stage: Literal["gate", "shadow", "watch"]
    passed: bool
    at: datetime
    against: str | None
    """The version it was compared with, if with any."""
    reasons: list[str]
    figures: dict[str, float]


class Manifest(_Part):
    """What a version is, readable without loading it."""

    format: int = FORMAT
    detector: str
    version: str
    created: datetime
    entity: str | None
    timestamp: str | None
    calibrated_by: str
    rate: float
    data: DataWindow
    verdict: Verdict
    trials: list[Trial] = []
    """Added one by one after the version was saved."""
    trained_from: str | None = None
    """The version whose models these went on from; None where they began anew."""
    cleaned: dict[str, int] = {}
    """Records that were left out of training, by reason."""
    novelty: NoveltyBaseline
    profile: dict[str, FieldProfile] = {}
    """What the numeric fields of the training records looked like."""
    steady: bool
    """Whether nearly all entities of the training records reported to the end: one that stops is then worth telling."""
    models: list[ModelRecord]
    choice: str
    """Why these models, where the settings left it open, and whether what came before a record counts."""
    layout: dict[str, Any]
    features: dict[str, Any]
    software: dict[str, str]
    sha256: dict[Annotated[str, Field(pattern=r"^[a-z0-9_-]+\.safetensors$")], str] = {}
    """Of each file by its name, which lies beside the manifest and nowhere else."""

    def to_json(self) -> bytes:
        return self.model_dump_json(indent=2).encode()


@dataclass(frozen=True, slots=True)
class Bundle:
    """A version, ready to score."""

    manifest: Manifest
    encoder: FeatureEncoder
    models: Mapping[str, GenerativeModel]
    calibration: Calibration
    rows: CalibrationRows

    @property
    def version(self) -> str:
        return self.manifest.version

    def require_fit(self, settings: DetectorSettings) -> None:
        """Raises `BundleError` where the settings ask for something else than this version was trained for."""
        made, asked = self.manifest, settings.stream
        told = (
            ("stream.entity", made.entity, asked.entity),
            ("stream.timestamp", made.timestamp, asked.timestamp),
            ("calibration.by", made.calibrated_by, settings.calibration.by),
            *([("window.length", self.encoder.window, length)] if (length := settings.window.length) else []),
            *([("models", sorted(self.models), models)] if (models := settings.chosen) else []),
        )
        differences = [f"{key} {was!r}, not {now!r}" for key, was, now in told if was != now]
        if settings.features != "auto" and tuple(settings.features) != self.encoder.features:
            names = ", ".join(feature.name for feature in self.encoder.features)
            differences.append(f"other features or kinds of them ({names})")
        if differences:
            raise BundleError(f"Version {self.version} was trained for {'; '.join(differences)}. Train again.")

    def to_files(self) -> dict[str, bytes]:
        """The bundle as named files, the manifest last."""
        files = {
            "features.safetensors": _arrays(self.encoder.to_state()[1]),
            "calibration.safetensors": _arrays(self.calibration.to_arrays()),
            "level.safetensors": _arrays(self.rows.to_arrays()),
        }
        for kind, model in self.models.items():
            tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
            files[f"model-{kind}.safetensors"] = safetensors.torch.save(tensors)
        digests = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
        manifest = self.manifest.model_copy(update={"sha256": digests})
        return {**files, MANIFEST: manifest.to_json()}

    @classmethod
    def from_files(cls, files: Mapping[str, bytes]) -> Self:
        """The bundle that `to_files` took apart. Raises `BundleError` naming the file and what is wrong with it."""
        manifest = read_manifest(files.get(MANIFEST, b""))
        for name, digest in manifest.sha256.items():
            if name not in files:
                raise BundleError(f"Version {manifest.version}: file '{name}' is missing.")
            if (found := hashlib.sha256(files[name]).hexdigest()) != digest:
                raise BundleError(f"Version {manifest.version}: file '{name}' has SHA-256 {found}. Expected {digest}.")
        try:
            return cls._assemble(manifest, files)
        except _MISFITS as error:
            raise BundleError(f"Version {manifest.version} does not fit together: {error}") from error

    @classmethod
    def _assemble(cls, manifest: Manifest, files: Mapping[str, bytes]) -> Self:
        WindowSettings(length=manifest.features["window"])
        encoder = FeatureEncoder.from_state(manifest.features, safetensors.numpy.load(files["features.safetensors"]))
        layout = Layout.from_json(manifest.layout)
        if layout != encoder.layout:
            raise ValueError("features and models disagree on the columns")
        if too_long := [it.kind for it in manifest.models if not 1 <= it.window <= layout.window]:
            raise ValueError(f"model '{too_long[0]}' looks at more records than the window has, or at none")
        models = {
            record.kind: _model(
                record,
                replace(layout, window=record.window),
                safetensors.torch.load(files[f"model-{record.kind}.safetensors"]),
            )
            for record in manifest.models
        }
        calibration = Calibration.from_arrays(safetensors.numpy.load(files["calibration.safetensors"]), list(models))
        rows = CalibrationRows.from_arrays(safetensors.numpy.load(files["level.safetensors"]))
        _require_indices(rows)
        return cls(manifest, encoder, models, calibration, rows)


def read_manifest(content: bytes) -> Manifest:
    """Parses a manifest. Raises `BundleError` where it is none, or of a format that this release cannot read."""
    try:
        data = json.loads(content)
        if isinstance(data, dict) and data.get("format") != FORMAT:
            raise BundleError(f"Manifest has format {data.get('format')!r}. This release reads format {FORMAT}.")
        return Manifest.model_validate(data)
    except (ValueError, RecursionError) as error:
        raise BundleError(f"Manifest cannot be read: {error}") from error


def _model(record: ModelRecord, layout: Layout, tensors: dict[str, torch.Tensor]) -> GenerativeModel:
    """The model with these tensors. What the manifest declares takes no memory unless the file holds as much."""
    with torch.device("meta"):
        declared = build(record.kind, layout, record.arguments).state_dict()
    if {name: it.shape for name, it in declared.items()} != {name: it.shape for name, it in tensors.items()}:
        raise ValueError(f"model '{record.kind}' is declared with other shapes than its file holds")
    model = build(record.kind, layout, record.arguments)
    model.load_state_dict(tensors)
    return model.eval()


def _require_indices(rows: CalibrationRows) -> None:
    """Raises `ValueError` unless entities and segments are numbers of rows and names: compiled code trusts them."""
    for what, numbers, most in ("entity", rows.entity, len(rows.nats)), ("segment", rows.segment, len(rows.names)):
        if numbers.shape != rows.nats.shape or numbers.dtype != np.int32:
            raise ValueError(f"calibration rows are {rows.nats.shape}, their {what} {numbers.shape} {numbers.dtype}")
        if len(numbers) and not 0 <= numbers.min() <= numbers.max() < most:
            raise ValueError(
                f"calibration rows have {what} {numbers.min()} to {numbers.max()}. Expected 0 to {most - 1}."
            )


def _by_partition(numbers: Mapping[str, Mapping[int, int]]) -> dict[Partition, int]:
    return {Partition(topic, number): value for topic, parts in numbers.items() for number, value in parts.items()}


def new_version(moment: datetime, fingerprint: bytes) -> str:
    """Name of a version: when it was made, and four digits that tell apart what was made in the same second."""
    return f"{moment.astimezone(UTC):%Y%m%dT%H%M%SZ}-{hashlib.sha256(fingerprint).hexdigest()[:4]}"


def software_versions() -> dict[str, str]:
    """What a version was made with."""
    return {"offnominal": __version__, "python": platform.python_version()} | {
        name: installed(name) for name in _SOFTWARE
    }


def _arrays(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    return safetensors.numpy.save({name: np.ascontiguousarray(array) for name, array in arrays.items()})
