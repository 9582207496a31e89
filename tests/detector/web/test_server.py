from __future__ import annotations

import asyncio
import http.client
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from httpx import ASGITransport, AsyncClient, Response
from prometheus_client import CollectorRegistry, Counter

from detector.config_service import HealthSettings, WebSettings
from detector.errors import SettingsError
from detector.health import Health
from detector.loading import load, parse
from detector.reference import REQUIRED
from detector.web.guard import Guard
from detector.web.server import routes
from detector.web.serving import serving

TOKEN = "canary-6b1f0c"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
OPEN: dict[str, Any] = {}
LOCAL = {"token": TOKEN}
OUTSIDE = {"host": "0.0.0.0", "token": TOKEN}
PATHS = (
    "/metrics",
    "/api/openapi.json",
    "/api/overview",
    "/assets",
    "/healthz/",
    "/readyz/x",
    "/x//readyz",
    "/HEALTHZ",
)


@pytest.fixture
def health() -> Health:
    health = Health(HealthSettings())
    health.enter("waiting", "topic machines is not there yet")
    return health


def guarded(health: Health, **web: object) -> Guard:
    registry = CollectorRegistry()
    Counter("offnominal_records", "Records.", registry=registry).inc()
    return Guard(routes(health, registry), WebSettings.model_validate(web))


def get(
    health: Health, path: str, web: Mapping[str, object] = OPEN, *, host: str = "127.0.0.1:8686", **headers: str
) -> Response:
    transport = ASGITransport(guarded(health, **web), raise_app_exceptions=False)

    async def ask() -> Response:
        async with AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            raw = [(name.encode(), value.encode("latin-1")) for name, value in {"Host": host, **headers}.items()]
            return await client.get(path, headers=raw)

    return asyncio.run(ask())


def test_on_this_machine_without_a_token_everything_is_told(health: Health) -> None:
    answer = get(health, "/readyz")
    assert answer.status_code == 503
    told = answer.json()
    assert (told["ok"], told["phase"], told["degraded"]) == (False, "waiting", True)
    assert told["detail"] == "waiting: topic machines is not there yet"
    assert {"name": "store", "ok": True, "detail": "not watched yet"} in told["checks"]
    assert get(health, "/healthz").json() == {
        "ok": True,
        "phase": "waiting",
        "detail": "topic machines is not there yet",
    }
    assert "offnominal_records_total 1.0" in get(health, "/metrics").text


@pytest.mark.parametrize("web", [LOCAL, OUTSIDE])
def test_without_the_token_probes_are_told_two_words(health: Health, web: dict[str, Any]) -> None:
    assert get(health, "/readyz", web).json() == {"ok": False, "phase": "waiting"}
    assert get(health, "/readyz", web).status_code == 503
    assert get(health, "/healthz", web).json() == {"ok": True, "phase": "waiting"}
    assert get(health, "/healthz", web).status_code == 200


@pytest.mark.parametrize("web", [LOCAL, OUTSIDE])
@pytest.mark.parametrize("path", PATHS)
def test_everything_else_wants_the_token(health: Health, web: dict[str, Any], path: str) -> None:
    refused = get(health, path, web)
    assert refused.status_code == 401
    assert refused.headers["www-authenticate"].startswith("Bearer")
    assert get(health, path, web, **BEARER).status_code != 401


@pytest.mark.parametrize("web", [LOCAL, OUTSIDE])
def test_with_the_token_everything_is_told(health: Health, web: dict[str, Any]) -> None:
    assert get(health, "/readyz", web, **BEARER).json()["checks"]
    assert get(health, "/metrics", web, **BEARER).status_code == 200
    assert get(health, "/metrics", web, Authorization=f"bearer  {TOKEN}").status_code == 200


@pytest.mark.parametrize(
    "presented",
    [
        "",
        "Bearer",
        "Bearer ",
        f"Bearer {TOKEN}x",
        f"Bearer {TOKEN[:-1]}",
        f"Bearer {TOKEN.upper()}",
        f"Bearer {TOKEN} {TOKEN}",
        f"Basic {TOKEN}",
        TOKEN,
        "Bearer café",
    ],
)
def test_another_token_is_refused_and_tells_probes_no_more(health: Health, presented: str) -> None:
    presented = presented.encode().decode("latin-1")
    assert get(health, "/metrics", OUTSIDE, Authorization=presented).status_code == 401
    assert "checks" not in get(health, "/readyz", OUTSIDE, Authorization=presented).json()


def test_the_token_is_compared_in_constant_time(health: Health, monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[bytes, bytes]] = []

    def compare(found: bytes, wanted: bytes) -> bool:
        compared.append((found, wanted))
        return False

    monkeypatch.setattr("hmac.compare_digest", compare)
    assert get(health, "/metrics", OUTSIDE, **BEARER).status_code == 401
    assert compared == [(TOKEN.encode(), TOKEN.encode())]


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:8686", "127.0.0.1", "127.8.8.8:1", "[::1]:8686", "[::1]"])
def test_a_host_header_of_this_machine_is_served(health: Health, host: str) -> None:
    assert get(health, "/metrics", host=host).status_code == 200


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:8686", "127.0.0.1.evil.example", "localhost.evil.example", "192.168.0.1", "", "[::1",
     "evil.example@localhost", "localhost:80:80", "localhost#evil.example", "[evil]"],
)  # fmt: skip
@pytest.mark.parametrize("path", ["/metrics", "/readyz"])
def test_a_page_whose_name_resolves_to_this_machine_reads_nothing(health: Health, host: str, path: str) -> None:
    for web in (OPEN, LOCAL):
        refused = get(health, path, web, host=host, **BEARER)
        assert refused.status_code == 400
        assert "phase" not in refused.text


def test_from_outside_any_host_header_is_served(health: Health) -> None:
    assert get(health, "/metrics", OUTSIDE, host="detector.example:8686", **BEARER).status_code == 200


@pytest.mark.parametrize("path", ["/readyz", "/metrics", "/nowhere"])
@pytest.mark.parametrize("host", ["127.0.0.1", "evil.example"])
def test_browsers_are_told_to_be_careful_whatever_the_answer(health: Health, path: str, host: str) -> None:
    for web, headers in ((OPEN, {}), (LOCAL, {}), (LOCAL, BEARER)):
        answer = get(health, path, web, host=host, **headers)
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["content-security-policy"].startswith("default-src 'none'")


def test_an_error_inside_is_not_shown(health: Health, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "ready", lambda: 1 / 0)
    answer = get(health, "/readyz")
    assert answer.status_code == 500
    assert "ZeroDivision" not in answer.text
    assert answer.headers["cache-control"] == "no-store"


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.7", "detector.example", "", "127.1", "localhost.example"])
def test_a_host_that_others_reach_wants_a_token(host: str) -> None:
    with pytest.raises(SettingsError, match="can be reached from other machines: give token"):
        parse({**REQUIRED, "web": {"host": host}})
    for guard in ({"token": TOKEN}, {"token_file": "/secret"}, {"enabled": False}):
        assert parse({**REQUIRED, "web": {"host": host, **guard}}).web.host == host


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "localhost", "::1"])
def test_an_address_of_this_machine_wants_none(host: str) -> None:
    assert parse({**REQUIRED, "web": {"host": host}}).web.token is None


def test_a_token_is_given_once() -> None:
    with pytest.raises(SettingsError, match="token and token_file are two tokens"):
        parse({**REQUIRED, "web": {"token": TOKEN, "token_file": "/secret"}})


def test_the_token_may_come_from_a_file_or_the_environment(health: Health, tmp_path: Path) -> None:
    secret, config = tmp_path / "token", tmp_path / "offnominal.yaml"
    secret.write_text(f"{TOKEN}\n")
    assert get(health, "/metrics", {"token_file": secret}, **BEARER).status_code == 200
    config.write_text("name: m\nkafka: {bootstrap: b}\nstream: {topics: [a]}\nalerts: {topic: c}\n")
    environment = {"OFFNOMINAL__WEB__HOST": "0.0.0.0", "OFFNOMINAL__WEB__TOKEN": TOKEN}
    web = load(config, environment).web
    assert web.token is not None
    assert web.token.get_secret_value() == TOKEN


@pytest.mark.parametrize("content", [b"", b" \n", b"two words", b"\xff\xfe"])
def test_a_file_or_a_setting_without_a_token_is_refused(health: Health, tmp_path: Path, content: bytes) -> None:
    secret = tmp_path / "token"
    secret.write_bytes(content)
    with pytest.raises(SettingsError, match=r"web\.token_file '.*token'"):
        guarded(health, token_file=secret)
    if content.isascii():
        with pytest.raises(SettingsError, match=r"web\.token holds no token"):
            guarded(health, token=content.decode())


def test_a_token_file_that_is_not_there_is_named(health: Health, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="gone' cannot be read: No such file"):
        guarded(health, token_file=tmp_path / "gone")


def test_the_token_is_in_no_answer_repr_error_or_log(health: Health, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    app = guarded(health, **OUTSIDE)
    answers = [get(health, path, OUTSIDE, **headers) for path in PATHS for headers in (OPEN, BEARER)]
    wrong = {"host": "0.0.0.0", "token": TOKEN, "token_file": "/x", "port": -1}
    with pytest.raises(SettingsError) as refused:
        parse({**REQUIRED, "web": wrong})
    with pytest.raises(SettingsError) as blank:
        guarded(health, token=f"{TOKEN} {TOKEN}")
    shown = [repr(app), repr(vars(app)["_app"]), str(WebSettings.model_validate(OUTSIDE)), str(refused.value)]
    shown += [str(blank.value), caplog.text, WebSettings.model_validate(OUTSIDE).model_dump_json()]
    shown += [text for answer in answers for text in (answer.text, str(answer.headers))]
    assert not [text for text in shown if TOKEN in text]


@pytest.fixture(params=["127.0.0.1", "localhost", "::1"])
def address(request: pytest.FixtureRequest, health: Health) -> Iterator[str]:
    settings = {"host": request.param, "port": 0, "token": TOKEN}
    try:
        with serving(guarded(health, **settings), WebSettings.model_validate(settings)) as address:
            yield address
    except SettingsError as error:
        if request.param != "::1":
            raise
        pytest.skip(f"no IPv6 here: {error}")


def test_it_serves_over_http_and_does_not_say_what_with(address: str) -> None:
    connection = http.client.HTTPConnection(address.removeprefix("http://"), timeout=10)
    connection.request("GET", "/readyz", headers=BEARER)
    answer = connection.getresponse()
    assert answer.status == 503
    assert b"topic machines is not there yet" in answer.read()
    assert answer.getheader("server") is None
    connection.close()


def test_a_port_that_is_taken_is_told(health: Health) -> None:
    with serving(guarded(health), WebSettings(port=0)) as address:
        taken = WebSettings(port=int(address.rsplit(":", 1)[1]))
        with (
            pytest.raises(SettingsError, match=r"web: cannot listen on 127\.0\.0\.1:\d+: "),
            serving(guarded(health), taken),
        ):
            pass
