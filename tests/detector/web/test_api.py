from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from httpx import ASGITransport, AsyncClient, Response
from starlette.types import ASGIApp

from consumers.memory import MemoryBroker
from detector.alerts import Alert, Reason
from detector.bundle import Bundle
from detector.config import DetectorSettings
from detector.config_service import WebSettings
from detector.daemon import Daemon
from detector.feedback import said
from detector.history.book import Book
from detector.history.recorder import Recorder
from detector.pipeline import Pipeline
from detector.store import Store
from detector.trainings import Trainings
from detector.web.actions import Actions
from detector.web.desk import Desk
from detector.web.guard import Guard
from detector.web.server import routes
from tests.detector.machines import ALERTS, START_MS, broker_with, records, settings
from tests.detector.test_alerts import TIME, alert
from tests.detector.test_pipeline import ATTACK, batch_of
from tests.detector.trainings_at_work import until

TOKEN = "canary-6b1f0c"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
VALUES: list[bytes | None] = [*records(2_400, seed=1, odd=ATTACK)]
ACTIONS = (
    f"/api/incidents/{'0a' * 16}/feedback",
    "/api/models/20260301T030000Z-4be1/promote",
    "/api/models/20260301T030000Z-4be1/pin",
    "/api/models/rollback",
    "/api/models/unpin",
    "/api/trainings",
)


class Stage(SimpleNamespace):
    """A daemon that has scored some records, with the API in front of it."""

    broker: MemoryBroker
    settings: DetectorSettings
    desk: Desk
    recorder: Recorder
    book: Book
    store: Store
    app: ASGIApp
    alerts: list[Alert]

    def get(self, path: str, **query: Any) -> Any:
        answer = self.ask("GET", path, params=query, headers=BEARER)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def post(self, path: str, body: object = None) -> Response:
        return self.ask("POST", path, json=body, headers=BEARER)

    def ask(self, method: str, path: str, **request: Any) -> Response:
        async def asked() -> Response:
            transport = ASGITransport(self.app, raise_app_exceptions=False)
            async with AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
                return await client.request(method, path, **request)

        return asyncio.run(asked())


@pytest.fixture
def stage(tmp_path: Path, champion: Bundle, other: Bundle, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    monkeypatch.setattr("detector.following.LOOK_AGAIN_S", 0.001)
    chosen, broker = settings(tmp_path, web={"token": TOKEN}), broker_with(VALUES)
    store = Store(chosen.store.url, chosen.name)
    for bundle in (other, champion):
        store.save(bundle)
        store.promote(bundle.version)
    daemon = Daemon(chosen, broker)
    daemon.serving = champion.manifest
    batch = batch_of(VALUES)
    outcome = Pipeline(chosen, champion).process(batch)
    daemon.recorder.observe(batch, outcome)
    for it in outcome.alerts:
        broker.append(ALERTS, it.message(ALERTS).value)
    app = routes(daemon.health, daemon.metrics.registry)
    with Book(broker, chosen) as book:
        desk = Desk(chosen, daemon, book, broker)
        voter = MemoryBroker(group="offnominal-machines-feedback", log=broker.log)
        app.state.desk, app.state.actions = desk, Actions(chosen, desk, voter)
        until(lambda: len(book.incidents()) > 0)
        yield Stage(
            broker=broker,
            desk=desk,
            recorder=daemon.recorder,
            settings=chosen,
            book=book,
            store=store,
            app=Guard(app, chosen.web),
            alerts=outcome.alerts,
        )


def attack(stage: Stage) -> str:
    return next(it.incident for it in stage.alerts if it.kind == "opened" and it.source.offset in ATTACK)


def tell(stage: Stage, *alerts: Alert) -> None:
    before = len(stage.book.incidents())
    for it in alerts:
        stage.broker.append(ALERTS, it.message(ALERTS).value)
    until(lambda: len(stage.book.incidents()) == before + len({it.incident for it in alerts}))


def many(*changes: dict[str, Any]) -> list[Alert]:
    return [alert(incident=f"{number:032x}", id=f"{number:032x}", **it) for number, it in enumerate(changes)]


def names(answer: Any) -> list[str]:
    return [it["entity"] for it in answer["incidents"]]


def test_the_overview_says_what_was_promised_and_who_may_act(stage: Stage) -> None:
    told = stage.get("/api/overview")
    assert (told["detector"], told["entity"], told["features"]) == ("machines", "machine", ["cpu", "load"])
    assert told["budget"] == {"text": "1.000% of the records", "rate": 0.01, "per_day": None}
    assert told["may_act"]
    assert told["now"]["records"] == len(VALUES)
    assert told["now"]["clock"] == START_MS + 799 * 60_000 + 1_000
    assert told["now"]["open_incidents"] == sum(
        it["resolved"] is None for it in stage.get("/api/incidents")["incidents"]
    )


def test_series_add_up_to_the_totals(stage: Stage) -> None:
    told, now = stage.get("/api/series", range="2d"), stage.get("/api/overview")["now"]
    assert sum(told["records"]) == now["records"] == len(VALUES)
    assert sum(told["alarms"]) == now["alarms"]
    assert sum(told["promised"]) == pytest.approx(now["promised_alarms"])
    assert {len(column) for column in told.values() if isinstance(column, list)} == {len(told["start"])}


def test_a_part_of_the_series_can_be_asked_for(stage: Stage) -> None:
    told = stage.get("/api/series", begin=START_MS, end=START_MS + 60 * 60_000)
    assert sum(told["records"]) == 180


@pytest.mark.parametrize("query", [{"begin": -1}, {"end": 10**19}, {"range": "9y"}, {"begin": "now"}])
def test_times_that_are_none_are_refused(stage: Stage, query: dict[str, object]) -> None:
    assert stage.ask("GET", "/api/series", params=query, headers=BEARER).status_code == 422


def test_the_pulse_has_no_gaps(stage: Stage) -> None:
    stage.recorder.clock = lambda: time.time() + 2  # the second under way does not count
    told = stage.get("/api/pulse", range="15m")
    assert len(told["start"]) == 900
    assert sum(told["records_per_s"]) == len(VALUES)


def test_incidents_are_those_that_were_told_the_latest_first(stage: Stage) -> None:
    told = stage.get("/api/incidents")
    assert {it["incident"] for it in told["incidents"]} == {it.incident for it in stage.alerts}
    latest = [it["latest"] for it in told["incidents"]]
    assert latest == sorted(latest, reverse=True)


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ({"entity": "WEB"}, ["web-2", "web-1"]),
        ({"severity": "major", "entity": "-"}, ["db-1", "web-2"]),
        ({"kind": "silence", "entity": "-"}, ["web-2"]),
        ({"open": "false", "entity": "-"}, ["db-1"]),
        ({"begin": round((TIME + timedelta(hours=2)).timestamp() * 1000), "open": "false", "entity": "-"}, ["db-1"]),
        ({"end": round((TIME + timedelta(hours=1)).timestamp() * 1000), "entity": "-"}, ["web-1"]),
        ({"label": "none", "entity": "-", "limit": "2"}, ["db-1", "web-2"]),
        ({"entity": "-", "offset": "2"}, ["web-1"]),
        ({"entity": "nobody"}, []),
    ],
)  # fmt: skip
def test_incidents_are_asked_for_by_what_they_are(stage: Stage, query: dict[str, str], found: list[str]) -> None:
    hour = timedelta(hours=1)
    tell(
        stage,
        *many(
            {"entity": "web-1", "severity": "minor"},
            {"entity": "web-2", "severity": "major", "kind": "silence", "time": TIME + hour, "opened": TIME + hour},
            {"entity": "db-1", "kind": "creep", "time": TIME + 2 * hour, "opened": TIME + 2 * hour},
        ),
    )
    assert names(stage.get("/api/incidents", **query)) == found


def test_lanes_put_those_in_trouble_first_and_hold_the_same_incidents(stage: Stage) -> None:
    tell(
        stage,
        *many(
            {"entity": "over", "kind": "creep", "severity": "critical"},
            {"entity": "calm", "kind": "creep", "severity": "minor"},
            {"entity": "open", "severity": "minor"},
        ),
    )
    told = stage.get("/api/lanes", end=round((TIME + timedelta(days=1)).timestamp() * 1000))
    assert [it["entity"] for it in told["lanes"]] == ["open", "over", "calm"]
    assert told["lanes"][0]["spans"][0]["end"] is None
    assert told["end"] - told["begin"] == 7 * 86_400_000
    assert told["total"] == 3


def test_one_incident_is_told_whole(stage: Stage) -> None:
    told = stage.get(f"/api/incidents/{attack(stage)}")
    assert told["alerts"][0]["kind"] == "opened"
    assert told["row"]["reasons"][0]["feature"] in ("cpu", "load")
    assert sum(it["share"] for it in told["row"]["reasons"]) <= 1.0 + 1e-9


def test_earlier_incidents_with_the_same_reasons_in_the_same_direction_are_similar(stage: Stage) -> None:
    def why(cpu: float) -> list[Reason]:
        return [Reason(feature="cpu", observed=cpu, expected=0.5, share=0.9)]

    tell(
        stage,
        *many(
            {"entity": "same", "opened": TIME - timedelta(hours=2), "reasons": why(0.8)},
            {"entity": "other way", "opened": TIME - timedelta(hours=1), "reasons": why(0.1)},
            {"entity": "now", "reasons": why(0.9)},
            {"entity": "later", "opened": TIME + timedelta(hours=1), "reasons": why(0.9)},
        ),
    )
    similar = stage.get(f"/api/incidents/{2:032x}")["similar"]
    alike = [it["incident"]["entity"] for it in similar if it["incident"]["version"] == alert().version]
    assert alike == ["same"]
    assert next(it["likeness"] for it in similar if it["incident"]["entity"] == "same") == pytest.approx(0.9)


def test_the_records_around_come_with_what_was_expected(stage: Stage) -> None:
    told = stage.get(f"/api/incidents/{attack(stage)}/around")
    assert len(told["time"]) == len(told["nats"]) == len(told["features"][0]["observed"]) > 100
    assert told["features"][0]["share"] is not None
    chosen = stage.get(f"/api/incidents/{attack(stage)}/around", feature=["load"])
    assert [it["name"] for it in chosen["features"]] == ["load"]


def test_where_the_version_is_gone_the_champion_is_asked(stage: Stage) -> None:
    gone = [
        it.model_copy(update={"incident": "0b" * 16, "version": "20200101T000000Z-0000"}) for it in stage.alerts[:1]
    ]
    tell(stage, *gone)
    told = stage.get(f"/api/incidents/{'0b' * 16}/around")
    assert told["version"] == stage.store.champion()
    assert "20200101T000000Z-0000 is gone" in told["detail"]


def test_where_the_records_are_gone_it_is_said(stage: Stage) -> None:
    tell(stage, *many({}))
    told = stage.get(f"/api/incidents/{0:032x}/around")
    assert told["time"] == []
    assert "no longer holds" in told["detail"]


def test_versions_come_with_what_became_of_them(stage: Stage) -> None:
    told = stage.get("/api/models")
    assert told["champion"] == stage.store.champion()
    assert [it["state"] for it in told["versions"] if it["version"] == told["champion"]] == ["serves"]
    assert all(it["verdict"]["held_back_rows"] > 0 for it in told["versions"])


def test_health_says_what_readyz_says(stage: Stage) -> None:
    told, ready = stage.get("/api/health"), stage.ask("GET", "/readyz", headers=BEARER).json()
    assert (told["ready"], told["checks"]) == (ready["ok"], ready["checks"])
    assert told["dead_letter_topic"] == "machine-alerts-dead-letters"


@pytest.mark.parametrize("label", ["false_alarm", "confirmed", "known", "retracted"])
def test_a_label_goes_through_the_feedback_topic(stage: Stage, label: str) -> None:
    path = f"/api/incidents/{attack(stage)}"
    if label == "retracted":
        assert stage.post(f"{path}/feedback", {"label": "known"}).status_code == 200
    answer = stage.post(f"{path}/feedback", {"label": label, "author": "ada", "text": "a test"})
    assert (answer.status_code, answer.json()["label"]) == (200, label)
    word = said(stage.broker, stage.settings)[attack(stage)]
    assert (word.label, word.author, word.text) == (label, "ada", "a test")
    shown = None if label == "retracted" else label
    until(lambda: stage.get(path)["row"]["label"] == shown)


def test_what_cannot_be_said_is_refused_in_words(stage: Stage) -> None:
    nowhere = stage.post(f"/api/incidents/{'0c' * 16}/feedback", {"label": "known"})
    assert (nowhere.status_code, "is not among the latest" in nowhere.json()["detail"]) == (404, True)
    assert stage.post(f"/api/incidents/{attack(stage)}/feedback", {"label": "note"}).status_code == 422
    assert stage.post(f"/api/incidents/{attack(stage)}/feedback", {"label": "odd"}).status_code == 422
    assert stage.post("/api/incidents/../models/feedback", {"label": "known"}).status_code in (404, 405)


def test_another_version_is_promoted_rolled_back_pinned_and_unpinned(stage: Stage, other: Bundle) -> None:
    first = stage.store.champion()
    assert other.version in stage.post(f"/api/models/{other.version}/promote").json()["detail"]
    assert stage.store.champion() == stage.get("/api/models")["champion"] == other.version
    assert stage.post("/api/models/rollback").status_code == 200
    assert stage.store.champion() == first
    assert stage.post(f"/api/models/{other.version}/pin").status_code == 200
    assert stage.get("/api/models")["pinned"] == other.version
    assert stage.post("/api/models/unpin").status_code == 200
    assert stage.get("/api/models")["pinned"] is None


def test_a_version_that_is_not_there_is_not_promoted(stage: Stage) -> None:
    before = stage.store.champion()
    answer = stage.post("/api/models/20200101T000000Z-0000/promote")
    assert (answer.status_code, stage.store.champion()) == (409, before)
    assert "20200101T000000Z-0000" in answer.json()["detail"]


def test_a_training_is_asked_for(stage: Stage) -> None:
    assert stage.post("/api/trainings").status_code == 200
    asked = Trainings(stage.store).asked()
    assert asked is not None
    assert asked.reason == "demand"
    assert stage.get("/api/models")["waiting"]["id"] == asked.id


@pytest.mark.parametrize("path", ACTIONS)
def test_nobody_acts_where_the_settings_hold_no_token(stage: Stage, path: str) -> None:
    open_to_look = Guard(stage.app._app, WebSettings())  # type: ignore[attr-defined]  # the application within
    stage.app = open_to_look
    assert stage.ask("GET", "/api/overview").json()["may_act"] is False
    for headers in ({}, BEARER):
        answer = stage.ask("POST", path, json={"label": "known"}, headers=headers)
        assert (answer.status_code, "want a token" in answer.json()["detail"]) == (403, True)


@pytest.mark.parametrize("path", ACTIONS)
def test_nobody_acts_without_presenting_the_token(stage: Stage, path: str) -> None:
    assert stage.ask("POST", path, json={"label": "known"}).status_code == 401
    assert stage.ask("POST", path, json={"label": "known"}, headers={"Authorization": "Bearer no"}).status_code == 401


def test_the_shell_is_served_to_anybody_and_loads_nothing_from_elsewhere(stage: Stage) -> None:
    page = stage.ask("GET", "/")
    assert (page.status_code, page.headers["content-type"].partition(";")[0]) == (200, "text/html")
    assert "http" not in page.text.replace("http-equiv", "").replace("http://www.w3.org/2000/svg", "")
    assert stage.ask("GET", "/assets/app.js").status_code == 200
    for path in ("/assets/../server.py", "/assets/%2e%2e/server.py", "/assets/..%2fserver.py", "/assets//etc/passwd"):
        assert stage.ask("GET", path).status_code in (401, 404)


def test_live_tells_how_the_detector_fares_until_the_server_ends(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("detector.web.api.TICK_S", 0.0)
    ticks = iter([1_800_000_000.0] * 2)

    def clock() -> float:
        if (now := next(ticks, None)) is None:
            stage.desk.ending.set()
        return now or 1_800_000_000.0

    stage.recorder.clock = clock
    events = stage.ask("GET", "/api/live", headers=BEARER).text.split("\n\n")[:-1]
    assert len(events) == 3
    assert all(event.startswith("event: now\ndata: ") for event in events)
    assert json.loads(events[0].partition("data: ")[2])["records"] == len(VALUES)


def test_what_is_large_is_compressed_and_a_stream_is_not(stage: Stage) -> None:
    assert stage.ask("GET", "/assets/app.js").headers["content-encoding"] == "gzip"
    assert stage.ask("GET", "/api/incidents", headers=BEARER).headers["content-encoding"] == "gzip"
    stage.desk.ending.set()
    assert "content-encoding" not in stage.ask("GET", "/api/live", headers=BEARER).headers


def test_every_answer_is_json_that_a_browser_reads(stage: Stage) -> None:
    wild = [Reason(feature="cpu", observed=math.inf, expected=math.nan, share=1.0)]
    tell(stage, *many({"reasons": wild, "entity": "<img src=x onerror=alert(1)>\x00‮"}))
    told = stage.ask("GET", f"/api/incidents/{0:032x}", headers=BEARER)
    assert told.headers["content-type"] == "application/json"
    row = json.loads(told.text, parse_constant=lambda text: pytest.fail(f"{text} is no JSON"))["row"]
    assert row["entity"] == "<img src=x onerror=alert(1)>\x00‮"
    assert row["reasons"][0]["observed"] is None
