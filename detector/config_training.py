"""Settings of how a version comes to be: what it is trained on, when, and what it has to show before it serves."""

from __future__ import annotations

from typing import Self

from croniter import CroniterError, croniter
from pydantic import Field, field_validator, model_validator

from consumers.settings import Settings
from detector.config_types import Duration
from detector.mute import TimeZone


class TrainingSettings(Settings):
    """Where training records come from, and when."""

    files: list[str] = []
    """Parquet, CSV or NDJSON files (globs) to train on, instead of the topics."""
    records: int | None = Field(default=None, ge=1)
    """Train on the last so many records of the topics; 100,000 where neither this nor `window` is given."""
    window: Duration | None = None
    """Train on the records of the last so much time instead."""
    calibration_share: float = Field(default=0.2, gt=0.0, lt=1.0)
    """Share of the training records, the newest, that no model sees: they calibrate its scores."""
    on_start: bool = False
    """Whether `run` trains first when the store holds no version."""
    min_records: int = Field(default=500, ge=50)
    """Fewest records to train on; with on_start, `run` waits for them."""
    max_records: int = Field(default=1_000_000, ge=1_000)
    """Most records held in memory to train on; of more, stretches spread evenly over the window are taken."""
    schedule: str | None = None
    """Cron expression of retraining, like `0 3 * * *`."""
    timezone: TimeZone = "UTC"
    """Time zone of the schedule."""
    jitter: Duration | None = None
    """A scheduled training begins by up to so much later, so that not all detectors begin at once."""
    on_drift: bool = True
    """Whether `run` retrains when the level tells of drift or creep."""
    drift_pause: Duration = 3600.0
    """Least time between two trainings on drift."""
    warm_start: bool = True
    """Whether models also go on from those in service; the better of both is taken."""
    transfer: str | None = None
    """Another detector in the same store that the first version goes on from, where there are few records."""
    timeout: Duration = 3600.0
    """Longest a training of the daemon's may take before it is ended, the time in the shadow not counted."""
    max_memory: int = Field(default=8_000_000_000, ge=1_000_000_000)
    """Bytes of data that the process of such a training may take."""
    seed: int = 0
    """Seed of everything random in a training."""

    @field_validator("schedule")
    @classmethod
    def _cron(cls, schedule: str | None) -> str | None:
        if schedule is None:
            return None
        expected = "Expected minute, hour, day, month, weekday of a time that comes, like 0 3 * * *"
        if schedule is not None and len(schedule.split()) not in (1, 5):  # one: @daily; six would have seconds
            raise ValueError(expected)
        try:
            if schedule is not None:
                croniter(schedule, 0.0).get_next()  # 31 February can be read, but never comes
        except CroniterError as error:
            raise ValueError(expected) from error
        return schedule

    @model_validator(mode="after")
    def _coherent(self) -> Self:
        if sum((bool(self.files), self.records is not None, self.window is not None)) > 1:
            raise ValueError("files, records and window exclude one another: give one")
        return self


class PromotionSettings(Settings):
    """What a version has to show before it serves, and for a while after."""

    shadow: int = Field(default=10_000, ge=0)
    """Live records that it judges beside the version in service, telling nobody; 0 promotes without."""
    wait: Duration = 86_400.0
    """Longest that takes; where too few records came to tell, the version in service stays."""
    watch: int = Field(default=50_000, ge=0)
    """Live records on which it is compared with its predecessor after it was promoted, and taken back where it breaks
    the budget and the other would not; 0 trusts it at once."""
