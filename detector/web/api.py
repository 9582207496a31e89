"""The API: every view and every action at an address of its own, described by OpenAPI."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Depends, FastAPI, HTTPException, Path, Query, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool

from consumers.errors import StreamError
from detector.errors import BundleError, OffnominalError, SettingsError, StoreError
from detector.web.actions import Actions
from detector.web.desk import ACTING_WANTS, Desk, UnknownIncident
from detector.web.views import (
    Around,
    Done,
    HealthView,
    Incidents,
    IncidentView,
    Lanes,
    Models,
    Now,
    Opinion,
    Overview,
    Pulse,
    Range,
    SayIt,
    Series,
    Which,
)

LATEST = 2**53
"""The largest number that JavaScript counts to."""
TICK_S = 1.0
"""How often `/api/live` tells how the detector fares (seconds)."""
STATUS: dict[type[Exception], int] = {
    UnknownIncident: 404,
    SettingsError: 422,
    BundleError: 409,
    StoreError: 409,
    OffnominalError: 500,
    StreamError: 503,
}
"""What an error answers with: the nearest class counts."""


def _desk(request: Request) -> Desk:
    desk: Desk = request.app.state.desk
    return desk


def _actions(request: Request) -> Actions:
    if not request.state.may_act:
        raise HTTPException(403, ACTING_WANTS)
    actions: Actions = request.app.state.actions
    return actions


FromDesk = Annotated[Desk, Depends(_desk)]
Acting = Annotated[Actions, Depends(_actions)]
Named = Annotated[str, Path(pattern=r"^[0-9a-f]{32}$", description="The id of the incident.")]
Version = Annotated[str, Path(pattern=r"^[0-9]{8}T[0-9]{6}Z-[0-9a-f]{4}$")]
Moment = Annotated[int | None, Query(ge=0, le=LATEST, description="Epoch milliseconds.")]
Filter = Annotated[Which, Query()]

look = APIRouter(prefix="/api", tags=["look"])
"""What may be looked at; `app.state.desk` answers."""
act = APIRouter(prefix="/api", tags=["act"], responses={403: {"description": "The token was not presented."}})
"""What may be done, by whoever presents the token; `app.state.actions` does it."""


@look.get("/overview", response_model=Overview)
def overview(desk: FromDesk, request: Request) -> Response:
    """What detector this is, and how it fares."""
    return _json(desk.overview(may_act=request.state.may_act))


@look.get(
    "/live", response_class=StreamingResponse, responses={200: {"content": {"text/event-stream": {}}, "model": Now}}
)
def live(desk: FromDesk) -> StreamingResponse:
    """Server-sent events named `now`, one a second: how the detector fares."""
    return StreamingResponse(_events(desk), media_type="text/event-stream")


@look.get("/series", response_model=Series)
def series(desk: FromDesk, range: Range = "1w", begin: Moment = None, end: Moment = None) -> Response:
    """Figures over the stream's own time: the last so long, or between two times (epoch milliseconds)."""
    return _json(desk.series(range, begin, end))


@look.get("/pulse", response_model=Pulse)
def pulse(desk: FromDesk, range: Range = "15m") -> Response:
    """Figures over the time of this machine."""
    return _json(desk.pulse(range))


@look.get("/lanes", response_model=Lanes)
def lanes(desk: FromDesk, which: Filter) -> Response:
    """Entities to which something happened."""
    return _json(desk.lanes(which))


@look.get("/incidents", response_model=Incidents)
def incidents(desk: FromDesk, which: Filter) -> Response:
    """Incidents, that with the latest alert first."""
    return _json(desk.incidents(which))


@look.get("/incidents/{incident}", response_model=IncidentView)
def incident(desk: FromDesk, incident: Named) -> Response:
    """Everything told of one incident."""
    return _json(desk.incident(incident))


@look.get("/incidents/{incident}/around", response_model=Around)
def around(desk: FromDesk, incident: Named, feature: Annotated[list[str], Query(max_length=50)] = []) -> Response:  # noqa: B006
    """The records around it, and what was expected of these features, or of those that the alert names."""
    return _json(desk.around(incident, feature))


@look.get("/models", response_model=Models)
def models(desk: FromDesk) -> Response:
    """Versions and trainings."""
    return _json(desk.models())


@look.get("/health", response_model=HealthView)
def health(desk: FromDesk) -> Response:
    """Whether the detector itself is well."""
    return _json(desk.health())


@act.post("/incidents/{incident}/feedback")
def say(actions: Acting, incident: Named, what: SayIt) -> Opinion:
    """Labels an incident; it counts within seconds."""
    return actions.say(incident, what)


@act.post("/models/{version}/promote")
def promote(actions: Acting, version: Version) -> Done:
    """Makes a version champion."""
    return actions.promote(version)


@act.post("/models/{version}/pin")
def pin(actions: Acting, version: Version) -> Done:
    """Makes a version champion until a person says otherwise."""
    return actions.pin(version)


@act.post("/models/unpin")
def unpin(actions: Acting) -> Done:
    """Lets the champion be replaced by itself again."""
    return actions.unpin()


@act.post("/models/rollback")
def rollback(actions: Acting) -> Done:
    """Makes the previous champion serve again."""
    return actions.roll_back()


@act.post("/trainings")
def train(actions: Acting) -> Done:
    """Asks for a training."""
    return actions.retrain()


def tell_errors(app: FastAPI) -> None:
    """Answers with what went wrong, in the words of the error."""

    def told(_request: Request, error: Exception) -> JSONResponse:
        status = next(STATUS[kind] for kind in type(error).__mro__ if kind in STATUS)
        return JSONResponse({"detail": str(error)}, status)

    for kind in STATUS:
        app.add_exception_handler(kind, told)


def _json(view: BaseModel) -> Response:
    """As it is: what the daemon itself made needs no checking."""
    return Response(view.model_dump_json(), media_type="application/json")


async def _events(desk: Desk) -> AsyncIterator[str]:
    while not desk.ending.is_set():
        view = await run_in_threadpool(desk.now)
        yield f"event: now\ndata: {view.model_dump_json()}\n\n"
        await asyncio.sleep(TICK_S)
