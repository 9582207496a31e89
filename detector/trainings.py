"""Trainings that are asked for, under way and over: files beside the versions of a detector.

    <url>/<detector>/request.json                 the one that waits until a daemon takes it
    <url>/<detector>/under-way.json               the one that was taken, until there is a report of it
    <url>/<detector>/trainings/<time>-<id>.json   reports
    <url>/<detector>/lease.json                   who trains (`detector.lease`)

A request goes down these places in this order, and is in the next one before it leaves the last: whoever looks through
them in the same order finds it.
"""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from typing import Literal, Protocol, Self

import structlog
from pydantic import BaseModel, ConfigDict, Field

log = structlog.get_logger()

Reason = Literal["schedule", "drift", "demand", "start"]
Result = Literal["promoted", "refused", "failed", "timeout", "rolled back"]
Phase = Literal["training", "shadow", "watch"]

PHASES: tuple[Phase, ...] = ("training", "shadow", "watch")
EXIT_CODES: dict[Result, int] = {"promoted": 0, "failed": 1, "refused": 3, "timeout": 4, "rolled back": 5}
"""How a command that trains ends; 2 means settings to mend, as everywhere."""
KEPT_REPORTS = 200
"""Reports that are kept, the newest."""

_WAITING, _UNDER_WAY, _REPORTS = "request.json", "under-way.json", "trainings/"


class Room(Protocol):
    """A detector's folder in the store, as far as it is needed here. Names are relative to it; all raise `StoreError`
    where the store cannot be used."""

    def read_json(self, name: str) -> bytes | None:
        """The content; None where there is none of that name."""
        ...

    def write_json(self, name: str, content: bytes) -> None:
        """Whole content or none."""
        ...

    def remove(self, name: str) -> None: ...

    def names(self, prefix: str) -> list[str]: ...


class Request(BaseModel):
    """Somebody wants a training."""

    model_config = ConfigDict(frozen=True)

    id: str = Field(default_factory=lambda: uuid.uuid4().hex[:12], pattern=r"^[0-9A-Za-z-]{1,64}$")
    reason: Reason
    asked: datetime = Field(default_factory=lambda: datetime.now(UTC))
    note: str = ""


class Report(BaseModel):
    """How a training ended."""

    model_config = ConfigDict(frozen=True)

    id: str = Field(pattern=r"^[0-9A-Za-z-]{1,64}$")
    """Of the request."""
    reason: Reason
    started: datetime
    ended: datetime
    outcome: Result
    version: str | None = None
    reasons: list[str] = []
    """Why it was not promoted, or not left in service."""
    figures: dict[str, float] = {}

    @classmethod
    def of(cls, request: Request, started: datetime, outcome: Result, why: str, *, version: str | None = None) -> Self:
        """Of a training that ends now, for one reason."""
        ended = datetime.now(UTC)
        reasons = [why] if why else []
        return cls(
            id=request.id, reason=request.reason, started=started, ended=ended,
            outcome=outcome, version=version, reasons=reasons,
        )  # fmt: skip


class Course:
    """How far a training has come, by what it says of itself: `PHASE`, `PHASE VERSION`, or `alive`."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self.started = datetime.now(UTC)
        self.phase: Phase = "training"
        self.version: str | None = None

    def hear(self, line: str) -> bool:
        """Whether the line says anything; a phase it names has begun."""
        word, _, version = line.strip().partition(" ")
        for phase in PHASES:
            if word == phase:
                self.phase, self.version = phase, version or self.version
        return word in (*PHASES, "alive")

    def cut_short(self, outcome: Literal["failed", "timeout"], why: str) -> Report:
        """The report of a training that did not come to its end: one that is being watched has been promoted."""
        if self.phase == "watch":
            return self.promoted(f"the watch over it was cut short: {why}")
        return Report.of(self.request, self.started, outcome, why, version=self.version)

    def promoted(self, why: str) -> Report:
        """The report while its version is being watched."""
        return Report.of(self.request, self.started, "promoted", why, version=self.version)


class Trainings:
    """The requests and reports of one detector. Any replica or command asks; the one that trains does the rest."""

    def __init__(self, store: Room) -> None:
        self._store = store

    def ask(self, request: Request) -> Request:
        """The request that is answered in its place: another that waits already, or itself.

        One that was taken before, by its id, is not asked for again. Of two that ask in the same moment, one may be
        lost: the other is trained.
        """
        if (waiting := self.asked()) is not None:
            return waiting
        if not self._taken(request.id):
            self._store.write_json(_WAITING, request.model_dump_json().encode())
        return request

    def asked(self) -> Request | None:
        """The request that waits."""
        return self._slot(_WAITING)

    def under_way(self) -> Request | None:
        """The request that was taken, and of which there is no report."""
        return self._slot(_UNDER_WAY)

    def take(self, request: Request) -> None:
        """It is under way from now on, and waits no longer."""
        self._store.write_json(_UNDER_WAY, request.model_dump_json().encode())
        if (waiting := self.asked()) is not None and waiting.id == request.id:
            self._store.remove(_WAITING)

    def done(self, report: Report) -> None:
        """Files the report in place of an earlier one of the same training, which is not under way any longer."""
        name = self._name(report.id) or f"{_REPORTS}{report.started:%Y%m%dT%H%M%SZ}-{report.id}.json"
        self._store.write_json(name, report.model_dump_json().encode())
        if (request := self.under_way()) is not None and request.id == report.id:
            self._store.remove(_UNDER_WAY)
        for old in self._names()[:-KEPT_REPORTS]:
            self._store.remove(old)

    def reports(self, last: int) -> list[Report]:
        """The last so many, oldest first; what cannot be read is left out."""
        read = (self._read(name) for name in self._names()[-last:])
        return [report for report in read if report is not None]

    def report(self, id: str) -> Report | None:
        """Of the request with this id."""
        return None if (name := self._name(id)) is None else self._read(name)

    def last(self, reason: Reason) -> datetime | None:
        """When the last training for this reason began, or was asked for if it is under way; looks at a few only."""
        times = [report.started for report in self.reports(10) if report.reason == reason]
        if (request := self.under_way()) is not None and request.reason == reason:
            times.append(request.asked)
        return max(times, default=None)

    def _taken(self, id: str) -> bool:
        request = self.under_way()
        return (request is not None and request.id == id) or self._name(id) is not None

    def _names(self) -> list[str]:
        return sorted(self._store.names(_REPORTS))

    def _name(self, id: str) -> str | None:
        return next((name for name in self._names() if name.endswith(f"Z-{id}.json")), None)

    def _slot(self, name: str) -> Request | None:
        """What cannot be read is removed: it would keep others from asking."""
        if (content := self._store.read_json(name)) is None:
            return None
        try:
            return Request.model_validate_json(content)
        except ValueError as error:
            log.warning("a request for a training cannot be read and is removed", name=name, error=str(error))
            self._store.remove(name)
            return None

    def _read(self, name: str) -> Report | None:
        content = self._store.read_json(name)
        try:
            return None if content is None else Report.model_validate_json(content)
        except ValueError:
            return None
