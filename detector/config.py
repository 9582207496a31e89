"""All settings of one detector, declared: what each key is for, its default, and what it may hold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal, Self

from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from consumers.fields import join_path, split_path
from consumers.settings import KafkaSettings, RegistrySettings, Settings
from detector.config_models import ModelSettings
from detector.config_notify import NotifySettings
from detector.config_service import (
    BatchSettings,
    DeadLetterSettings,
    FeedbackSettings,
    HealthSettings,
    StateSettings,
    StoreSettings,
    WebSettings,
)
from detector.config_training import PromotionSettings, TrainingSettings
from detector.config_types import Duration, FalseAlarms, FieldPath, Topic
from detector.mute import Mute

FeatureKind = Literal["numeric", "counter", "categorical", "flag", "calendar"]


def _form(features: object) -> str:
    return "list" if isinstance(features, list) else "auto"


class StreamSettings(Settings):
    """The records to watch."""

    topics: Annotated[list[Topic], Field(min_length=1)]
    """Topics to read."""
    entity: FieldPath | None = None
    """Field that names what a record is about (a machine, a user): each has its own windows and incidents.
    Without it the whole topic is one."""
    timestamp: FieldPath | None = None
    """Field with the time of the event: epoch number or ISO 8601.
    Without it, or where a record lacks it, the broker's timestamp counts."""
    format: Literal["json", "avro", "protobuf"] = "json"
    """How values are written. Avro and Protobuf come with the schema registry's header of five or more bytes, and with
    the extra `registry`."""
    registry: RegistrySettings | None = None
    """Where the schemas of Avro and Protobuf are."""

    @model_validator(mode="after")
    def _coherent(self) -> Self:
        if (self.format == "json") != (self.registry is None):
            wanted = "no registry" if self.format == "json" else "registry.url"
            raise ValueError(f"format is '{self.format}': expected {wanted} beside it")
        return self


class FeatureSettings(Settings):
    """One field of a record and how a model sees it. In the file, a bare name means a numeric feature."""

    name: FieldPath
    """Path of the field; `a.b` is field b of object a, `a\\.b` the field a.b.
    For calendar features `hour` or `weekday` of the event's time."""
    kind: FeatureKind = "numeric"
    """numeric; counter (ever growing, turned into a rate per second, resets handled); categorical; flag (true or
    false); calendar."""
    transform: Literal["log1p", "diff"] | None = None
    """log1p: sign(x)·ln(1+|x|), for numbers over many magnitudes. diff: change since the entity's previous record."""
    direction: Literal["up", "down", "both"] = "both"
    """Which deviations from what is expected count: up (more than expected), down, or both."""
    minimum_deviation: float | None = Field(default=None, ge=0.0, allow_inf_nan=False)
    """Smaller deviations from what is expected do not count; in the units of `observed` and `expected` in alerts."""

    @model_validator(mode="after")
    def _coherent(self) -> Self:
        if self.kind not in ("numeric", "counter") and (self.direction != "both" or self.minimum_deviation is not None):
            raise ValueError(f"feature '{self.name}' of kind {self.kind} takes no direction and no minimum_deviation")
        if self.kind == "calendar" and self.name not in ("hour", "weekday"):
            raise ValueError(f"calendar feature '{self.name}': name is one of hour, weekday")
        if self.transform and self.kind not in ("numeric", "counter"):
            raise ValueError(f"feature '{self.name}' of kind {self.kind} takes no transform, got '{self.transform}'")
        if self.transform == "diff" and self.kind == "counter":
            raise ValueError(
                f"feature '{self.name}' of kind counter is a difference already: leave out transform: diff"
            )
        return self


class WindowSettings(Settings):
    """How much of an entity's past a model sees."""

    length: int | None = Field(default=None, ge=1, le=256)
    """Records of one entity that are scored together: the newest and length - 1 before it. Where none is given, as many
    as each model looks at by nature, and the newest alone where records have no order."""
    max_entities: int = Field(default=100_000, ge=1)
    """Entities remembered per partition; beyond it the one not seen for longest is forgotten."""
    late_for: Duration = 600.0
    """A record up to so much behind its entity's newest is put in its place; one farther behind is taken as a clock set
    back."""


class CalibrationSettings(Settings):
    """What counts as unlikely, and for whom."""

    by: FieldPath = "entity"
    """Whose records share a level: `entity` (each has its own), `all` (one for everybody, where an entity has few
    records), or a field of the records, each value of which has its own."""
    level: Literal["online", "static"] = "online"
    """online: the level follows drift, and keeps the promised rate. static: it stays where training put it."""


class ConfirmSettings(Settings):
    """How many records it takes to open an incident."""

    records: int = Field(default=1, ge=1, le=64)
    """An incident opens when so many records of an entity"""
    of: int = Field(default=1, ge=1, le=64)
    """out of its last so many are beyond the level."""

    @model_validator(mode="after")
    def _coherent(self) -> Self:
        if self.records > self.of:
            raise ValueError(f"{self.records} records of {self.of}: records must not exceed of")
        return self


class TogetherSettings(Settings):
    """When incidents of many entities are told as one."""

    entities: int = Field(default=5, ge=2)
    """Fewest entities of a partition that open incidents together;"""
    within: Duration = 120.0
    """they do within so long, and are more than the promised rate explains."""


class AlertSettings(Settings):
    """The budget, and what becomes of records beyond it."""

    topic: Topic
    """Topic that alerts are published to."""
    false_alarms: FalseAlarms | None = None
    """False alarms that are bearable, in all: `3/day`, or so many an `hour`, a `week`, a `month`."""
    rate: float | None = Field(default=None, gt=0.0, le=0.2)
    """The same as a share of all records, in place of `false_alarms`; 0.001 where neither is given."""
    confirm: ConfirmSettings = ConfirmSettings()
    """How many records it takes to open an incident; one where nothing is said."""
    quiet_for: Duration = 300.0
    """An incident is resolved when its entity has reported for so long without crossing the level."""
    cooldown: Duration | None = None
    """After an incident was resolved, its entity opens no other for so long."""
    together: TogetherSettings = TogetherSettings()
    """When incidents of many entities are told as one."""
    remind_after: Duration | None = None
    """While an incident goes on, it is told again after so long."""
    mute: list[Mute] = []
    """Times at which no alert is told: weekly hours, or events of a calendar file."""
    silence: bool | Literal["auto"] = "auto"
    """Whether an entity that stops reporting is told; auto: where nearly all entities of the training records reported
    to the end."""
    novelty: bool = True
    """Whether new categories, and fields that are gone or have another type, are told, each as a kind of its own."""
    max_reasons: int = Field(default=5, ge=1, le=100)
    """Most features named in an alert."""

    @model_validator(mode="after")
    def _one_budget(self) -> Self:
        if self.rate is not None and self.false_alarms is not None:
            raise ValueError(f"false_alarms {self.false_alarms} and rate {self.rate:g} are two budgets: give one")
        return self


class DetectorSettings(Settings):
    """One detector: a stream, what to look at, and how many false alarms are bearable."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
    """Names the detector in alerts, the store and the consumer group."""
    kafka: KafkaSettings
    """The broker."""
    stream: StreamSettings
    """The records to watch."""
    features: Annotated[
        Annotated[Literal["auto"], Tag("auto")] | Annotated[list[FeatureSettings], Field(min_length=1), Tag("list")],
        Discriminator(_form),
    ] = "auto"
    """What a model sees of a record; `auto` infers names and kinds from the training records."""
    window: WindowSettings = WindowSettings()
    """How much of an entity's past a model sees."""
    models: Annotated[
        Annotated[Literal["auto"], Tag("auto")] | Annotated[list[ModelSettings], Field(min_length=1), Tag("list")],
        Discriminator(_form),
    ] = "auto"
    """Models to fit; with several, their calibrated scores combine to one decision under one budget. In the file a bare
    word means a model with its defaults; `auto` looks whether records have an order, and takes what is best then."""
    training: TrainingSettings = TrainingSettings()
    """Where training records come from, and when."""
    calibration: CalibrationSettings = CalibrationSettings()
    """What counts as unlikely, and for whom."""
    alerts: AlertSettings
    """The budget, and what becomes of records beyond it."""
    dead_letters: DeadLetterSettings = DeadLetterSettings()
    """Where records go that cannot be scored."""
    store: StoreSettings = StoreSettings()
    """Where trained versions are kept."""
    promotion: PromotionSettings = PromotionSettings()
    """What a version has to show before it serves, and for a while after."""
    feedback: FeedbackSettings = FeedbackSettings()
    """What people say of alerts, and how long it counts."""
    batch: BatchSettings = BatchSettings()
    """How many records are taken at once."""
    state: StateSettings = StateSettings()
    """Snapshots of what the daemon remembers."""
    health: HealthSettings = HealthSettings()
    """When the daemon says that it is not well."""
    web: WebSettings = WebSettings()
    """Health and metrics over HTTP."""
    notify: NotifySettings = NotifySettings()
    """Where `offnominal notify` sends alerts to."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where models run; auto takes a GPU where there is one."""

    @field_validator("features", mode="before")
    @classmethod
    def _bare_names(cls, features: object) -> object:
        if isinstance(features, list):
            return [{"name": feature} if isinstance(feature, str) else feature for feature in features]
        if features != "auto":
            raise ValueError("Expected auto or a list of fields")
        return features

    @field_validator("models", mode="before")
    @classmethod
    def _bare_types(cls, models: object) -> object:
        if isinstance(models, list):
            return [{"type": model} if isinstance(model, str) else model for model in models]
        if models != "auto":
            raise ValueError("Expected auto or a list of models")
        return models

    @model_validator(mode="after")
    def _coherent(self) -> Self:
        if isinstance(self.features, list):
            self._check_fields(self.features)
        elif self.stream.format != "json":
            raise ValueError(f"features: auto looks into JSON and stream.format is '{self.stream.format}': name them")
        waits = 4 * self.kafka.request_timeout_s
        if self.health.watchdog < waits:
            raise ValueError(
                f"health.watchdog is {self.health.watchdog:g} s: expected at least {waits:g} s, four times "
                "kafka.request_timeout_s, as a batch may have to wait for the broker so long"
            )
        types = [] if self.models == "auto" else [model.type for model in self.models]
        if repeated := sorted({type_ for type_ in types if types.count(type_) > 1}):
            raise ValueError(f"models hold {', '.join(repeated)} more than once")
        written = (self.alerts.topic, self.dead_letter_topic, self.state_topic, self.feedback_topic)
        topics = (*set(self.stream.topics), *written)
        if len(set(topics)) < len(topics):
            raise ValueError("topics of records, alerts, dead letters, state and feedback must differ")
        return self

    def _check_fields(self, features: Sequence[FeatureSettings]) -> None:
        """Each field has one role, and none lies within another."""
        names = [feature.name for feature in features]
        if repeated := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"features name {', '.join(repeated)} more than once")
        kinds = {feature.name: feature.kind for feature in features if feature.kind != "calendar"}
        if self.stream.timestamp in kinds:
            raise ValueError(f"field '{self.stream.timestamp}' is stream.timestamp: it cannot be a feature")
        if self.stream.entity in kinds and kinds[self.stream.entity] != "categorical":
            raise ValueError(f"field '{self.stream.entity}' is stream.entity: as a feature it must be categorical")
        if self.stream.entity is not None and self.stream.entity == self.stream.timestamp:
            raise ValueError(f"field '{self.stream.entity}' is both stream.entity and stream.timestamp")
        if self.segment in kinds and kinds[self.segment] != "categorical":
            raise ValueError(f"field '{self.segment}' is calibration.by: as a feature it must be categorical")
        used = (*kinds, self.stream.entity, self.stream.timestamp, self.segment)
        paths = {tuple(split_path(path)) for path in used if path}
        if within := sorted(path for path in paths for end in range(1, len(path)) if path[:end] in paths):
            raise ValueError(f"field '{join_path(within[0])}' lies within another one that is used: leave one out")

    @property
    def chosen(self) -> list[str] | None:
        """The models by type in alphabetical order, where they are named."""
        return None if self.models == "auto" else sorted(model.type for model in self.models)

    @property
    def segment(self) -> str | None:
        """The field whose values have levels of their own; None where that is the entity, or nothing."""
        return None if self.calibration.by in ("entity", "all") else self.calibration.by

    @property
    def group(self) -> str:
        return self.kafka.group or f"offnominal-{self.name}"

    @property
    def dead_letter_topic(self) -> str:
        return self.dead_letters.topic or f"{self.alerts.topic}-dead-letters"

    @property
    def state_topic(self) -> str:
        return self.state.topic or f"offnominal-{self.name}-state"

    @property
    def feedback_topic(self) -> str:
        return self.feedback.topic or f"offnominal-{self.name}-feedback"
