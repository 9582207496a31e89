"""What the API answers with. The dashboard shows this and nothing else; `docs/openapi.json` is generated from it."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from detector.alerts import Alert, AlertKind, Severity
from detector.bundle import DataWindow, Trial, Verdict
from detector.feedback import LONGEST_NAME, LONGEST_TEXT, Label
from detector.history.book import Summary
from detector.standings import State
from detector.trainings import Phase as TrainingPhase
from detector.trainings import Report, Request

Range = Literal["15m", "6h", "2d", "1w", "4w"]
Milliseconds = int
"""Epoch milliseconds of the stream's own time, unless it says otherwise."""


class _View(BaseModel):
    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True, ser_json_inf_nan="null")


class Now(_View):
    """How the detector fares at this moment; told live once a second."""

    at: datetime
    """By the clock of this machine."""
    phase: str
    ready: bool
    degraded: bool
    detail: str
    """What hinders it, or what it is at."""
    records_per_s: float
    """Taken by this replica, over the last seconds."""
    lag: int
    """Records to read, in the partitions of this replica."""
    open_incidents: int
    """Of the whole detector, as the alert topic tells."""
    promised_alarms: float
    """By this replica since it started, as are `alarms` and `records`."""
    alarms: int
    records: int
    dead_letters: int
    version: str
    """That serves; empty before there is one."""
    training: TrainingPhase | None
    """What a training of this replica is at."""
    clock: Milliseconds | None
    """The newest time of a record; None before the first."""
    revision: int
    """Grows with each alert and each label: what was asked before is out of date then."""


class BudgetView(_View):
    """What was promised."""

    text: str
    """As the settings say it."""
    rate: float
    """Alarms per record, at the traffic of training."""
    per_day: float | None
    """None where a rate was asked for."""


class Overview(_View):
    """What detector this is."""

    detector: str
    software: str
    topics: list[str]
    alert_topic: str
    feedback_topic: str
    entity: str | None
    """The field that names what a record is about."""
    features: list[str]
    budget: BudgetView | None
    """None before there is a version."""
    may_act: bool
    """Whether this caller may label, promote, pin, roll back and retrain."""
    acting_wants: str
    """What is missing where not."""
    since: datetime
    """When this replica started."""
    now: Now


class Series(_View):
    """Figures of this replica over the stream's own time, in bins (k,) that hold a record."""

    width_ms: int
    start: list[Milliseconds]
    records: list[float]
    promised: list[float]
    """Alarms that the budget allowed."""
    alarms: list[float]
    elevated: list[float]
    """Records beyond the level, in incidents or not."""
    level: list[float]
    """Mean of −ln of the p-value below which a record is an alarm (nats)."""
    peak: list[float]
    """Highest −ln p (nats)."""


class Pulse(_View):
    """How this replica fared, over its own time: the seconds (k,) of `start` in epoch milliseconds of this machine."""

    width_ms: int
    start: list[int]
    records_per_s: list[float]
    lag: list[float]


class IncidentRow(Summary):
    """An incident in a list."""

    label: Label | None
    """What people last said of it."""


class Which(BaseModel):
    """Which incidents are asked for: those that meet all of what is given."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    begin: Milliseconds | None = None
    """Not over before."""
    end: Milliseconds | None = None
    """Begun before."""
    entity: str = Field(default="", max_length=LONGEST_NAME)
    """Text that occurs in the entity, in capitals or not."""
    severity: Severity = "minor"
    """At least."""
    kind: AlertKind | None = None
    label: Label | Literal["none"] | None = None
    """none: nobody has said anything."""
    open: bool | None = None
    limit: int = Field(default=100, ge=1, le=2_000)
    offset: int = Field(default=0, ge=0)


class Incidents(_View):
    """A page of incidents, the newest first."""

    total: int
    """Before paging."""
    incidents: list[IncidentRow]


class Span(_View):
    """An incident in a lane."""

    incident: str
    kind: AlertKind
    severity: Severity
    begin: Milliseconds
    end: Milliseconds | None
    """None where it goes on."""
    label: Label | None


class Lane(_View):
    """One entity, and what happened to it."""

    entity: str
    severity: Severity
    """The highest."""
    open: bool
    spans: list[Span]


class Lanes(_View):
    """Entities to which something happened: those in trouble first, then the worst, then the latest."""

    begin: Milliseconds
    end: Milliseconds
    total: int
    """Before paging."""
    lanes: list[Lane]


class Opinion(_View):
    """What somebody said."""

    label: Label
    author: str
    text: str
    time: datetime


class Similar(_View):
    """An earlier incident with the same reasons."""

    likeness: float = Field(ge=0, le=1)
    """The part of the reasons that both share, each in the same direction."""
    incident: IncidentRow


class IncidentView(_View):
    """Everything told of one incident."""

    row: IncidentRow
    alerts: list[Alert]
    """In the order in which they were published."""
    opinions: list[Opinion]
    similar: list[Similar]


class FeatureTrack(_View):
    """One feature around an incident, in its own units, over the records (n,) of `Around.time`."""

    name: str
    share: float | None
    """Its part in the incident, where it is a reason."""
    numeric: bool
    observed: list[float | str | bool | None]
    expected: list[float | str | bool | None]
    low: list[float | None] | None
    high: list[float | None] | None
    """The band: what was expected, and as far from it as 99 in 100 of the records around that were no alarm;
    None where it is not numeric, or there are too few of them."""


class Around(_View):
    """The records of the entity around an incident, as the topic still holds them, and what was expected."""

    version: str
    """The version that was asked."""
    time: list[Milliseconds]
    offset: list[int]
    nats: list[float]
    """−ln p of each record by itself."""
    threshold: float | None
    """Beyond which the first record of the incident was an alarm (nats)."""
    features: list[FeatureTrack]
    others: list[str]
    """Features that may be asked for besides."""
    detail: str
    """Why there is nothing, or less than one would expect; else empty."""


class ModelView(_View):
    """One model of a version."""

    kind: str
    window: int
    valid_score: float
    """Mean negative log-likelihood, or error, of rows not fitted."""


class VersionView(_View):
    """One trained version."""

    version: str
    state: State
    created: datetime | None
    """None, as all that follows, where it cannot be read."""
    models: list[ModelView]
    choice: str
    data: DataWindow | None
    verdict: Verdict | None
    trials: list[Trial]
    trained_from: str | None
    cleaned: dict[str, int]
    against: list[str]


class Models(_View):
    """All versions, the newest first, and the trainings."""

    champion: str | None
    pinned: str | None
    versions: list[VersionView]
    drift: list[IncidentRow]
    """Drift and creep told lately, the newest first."""
    under_way: Request | None
    waiting: Request | None
    phase: TrainingPhase | None
    reports: list[Report]
    """The newest first."""
    schedule: str | None
    timezone: str
    next_training: datetime | None


class CheckView(_View):
    """One thing looked at, and what was found."""

    name: str
    ok: bool
    detail: str


class PartitionView(_View):
    """A partition of this replica."""

    topic: str
    partition: int
    lag: int
    stalled_s: float


class DeadLetterView(_View):
    """A record that could not be scored."""

    topic: str
    partition: int
    offset: int
    reason: str
    error: str


class HealthView(_View):
    """Whether the detector itself is well."""

    ready: bool
    degraded: bool
    phase: str
    detail: str
    checks: list[CheckView]
    partitions: list[PartitionView]
    dead_letters: dict[str, int]
    """By reason, of this replica since it started."""
    latest_dead_letters: list[DeadLetterView]
    dead_letter_topic: str
    entities: int
    store: str
    store_errors: int
    model_age_s: float | None
    schedule: str | None
    timezone: str
    next_training: datetime | None


class SayIt(_View):
    """What to say of an incident."""

    label: Label
    text: str = Field(default="", max_length=LONGEST_TEXT)
    author: str = Field(default="dashboard", min_length=1, max_length=LONGEST_NAME)


class Done(_View):
    """What an action came to."""

    detail: str
