from __future__ import annotations

import base64
import hmac
import io
import json
import logging
import socket
import sys
import traceback
from pathlib import Path
from typing import Any

import pytest

from detector.alerts import Alert, Reason
from detector.config_notify import ChannelSettings, NotifySettings
from detector.errors import NotSent, SettingsError
from detector.notifying.messages import Notification, compose
from detector.notifying.senders import routes, sender
from tests.detector.notifying.services import HANG, http_service, mailbox
from tests.detector.test_alerts import alert

KEY = "4110417104"
"""A part of every address here that must not be seen."""
PAGER = f"pagerduty://{KEY}a@{KEY}b?dedup=$incident&action=map"
SLACK = f"T1JJ3T3L2/A1BRTD4JD/TIiajkdnl{KEY}rIdevi7"


def channel(url: str, **more: Any) -> ChannelSettings:
    return ChannelSettings.model_validate({"url": url, "timeout": "5s", **more})


def message(*alerts: Alert) -> Notification:
    settings = channel("json://x")
    return compose(alerts or [alert()], settings.template, settings.group)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def refused(url: str, **more: Any) -> str:
    with pytest.raises(SettingsError) as caught:
        sender("hook", channel(url, **more))
    return str(caught.value)


def failure(url: str, **more: Any) -> str:
    with pytest.raises(NotSent) as caught:
        sender("hook", channel(url, **more)).send(message())
    assert KEY not in "".join(traceback.format_exception(caught.value))
    return str(caught.value)


def test_a_webhook_gets_the_alerts_as_they_were_published() -> None:
    with http_service() as service:
        sender("hook", channel(f"http://{service.host}/alerts/{KEY}?x=1", headers={"X-Team": "ops"})).send(message())
        (request,) = service.requests
    body = json.loads(request.body)
    assert request.path == f"/alerts/{KEY}?x=1"
    assert request.headers["x-team"] == "ops"
    assert request.headers["content-type"] == "application/json"
    assert request.headers["webhook-id"] == body["id"] == message().id
    assert body["title"] == message().title
    assert [Alert.model_validate(it) for it in body["alerts"]] == [alert()]


@pytest.mark.parametrize("secret", ["plain", "whsec_" + base64.b64encode(b"plain").decode()])
def test_a_webhook_is_signed_in_the_manner_of_standard_webhooks(secret: str) -> None:
    with http_service() as service:
        sender("hook", channel(f"http://{service.host}", signing_secret=secret)).send(message())
        (request,) = service.requests
    signed = f"{request.headers['webhook-id']}.{request.headers['webhook-timestamp']}.".encode() + request.body
    wanted = base64.b64encode(hmac.digest(b"plain", signed, "sha256")).decode()
    assert request.headers["webhook-signature"] == f"v1,{wanted}"


@pytest.mark.parametrize("scheme", ["http", "json"])
def test_a_service_that_fails_is_told_by_its_answer(scheme: str) -> None:
    with http_service(500, 302, 404) as service:
        url = f"{scheme}://{service.host}/{KEY}"
        assert "500" in failure(url)
        assert "302" in failure(url)
        assert "404" in failure(url)
        sender("hook", channel(url)).send(message())
        assert [request.path for request in service.requests] == [f"/{KEY}"] * 4


@pytest.mark.parametrize("scheme", ["http", "json"])
def test_a_service_that_hangs_fails_at_the_deadline(scheme: str) -> None:
    with http_service(HANG) as service:
        said = failure(f"{scheme}://{service.host}/{KEY}", timeout="200ms")
    assert "timed out" in said or "did not finish" in said


@pytest.mark.parametrize("scheme", ["http", "json", "mailto"])
def test_a_service_that_is_not_there_fails(scheme: str) -> None:
    assert failure(f"{scheme}://127.0.0.1:{free_port()}/{KEY}@example.org?from=me@example.org")


def test_a_mail_has_the_title_for_a_subject_and_a_part_for_each_alert() -> None:
    with mailbox() as box:
        url = f"mailto://127.0.0.1:{box.port}/ops@example.org?from=offnominal@example.org"
        sender("mail", channel(url)).send(message(alert(), alert(id="ab" * 16, entity="db-1", severity="minor")))
        (mail,) = box.mails
    assert mail["subject"] == "[critical] machines: 2 alerts on 2 entities"
    assert mail["to"] == "ops@example.org"
    text = mail.get_content()
    assert "critical: machine-1-6" in text
    assert "minor: db-1" in text


def test_a_mail_server_that_refuses_fails_without_saying_to_whom() -> None:
    with mailbox(refuse=1) as box:
        url = f"mailto://127.0.0.1:{box.port}/{KEY}@example.org?from=offnominal@example.org"
        assert failure(url)
        sender("mail", channel(url)).send(message())
        assert len(box.mails) == 1


@pytest.mark.parametrize(
    "hostile", ["x\r\nBcc: evil@example.org\r\n\r\nforged", "x\nSubject: forged", "x\0\x1b[2J\u202e"]
)
def test_no_record_adds_a_header_to_a_mail(hostile: str) -> None:
    told = alert(entity=hostile, reasons=[Reason(feature=hostile, observed=hostile, expected=hostile, share=1.0)])
    with mailbox() as box:
        url = f"mailto://127.0.0.1:{box.port}/ops@example.org?from=offnominal@example.org"
        sender("mail", channel(url)).send(message(told))
        (mail,) = box.mails
    assert mail["bcc"] is None
    assert mail.get_all("subject") == [message(told).title]
    assert all(line.isprintable() for line in mail.get_content().splitlines())


MARKUP = "<script>forged()</script> <!channel> <@U1> @everyone [x](http://forged.example) ${version} $why {0}"


@pytest.mark.parametrize("format_", ["html", "markdown", "text"])
def test_markup_out_of_records_is_text_whatever_the_format(format_: str) -> None:
    with http_service() as service:
        sender("hook", channel(f"json://{service.host}/?format={format_}")).send(message(alert(entity=MARKUP)))
        body = json.loads(service.requests[0].body)
    shown = body["title"] + body["message"]
    assert not any(mark in shown for mark in ("<script", "<!channel", "<@", "@everyone", "]("))
    assert "${version}" in shown  # a value is no template


def test_slack_is_known_by_either_address() -> None:
    for url in (f"slack://{SLACK}", f"https://hooks.slack.com/services/{SLACK}"):
        assert sender("slack", channel(url)).service == "Slack"


@pytest.mark.parametrize(
    ("url", "service"),
    [
        (PAGER, "Pager Duty"),
        ("opsgenie://a1234567890123456789012345678901234/?alias=$incident&action=map", "Opsgenie"),
        ("workflows://prod-1.example.com/abc123/sig456", "Power Automate / Workflows (for MSTeams)"),
        ("mailtos://me:secret@example.org", "E-Mail"),
        ("https://example.org/alerts", "webhook"),
    ],
)
def test_the_addresses_of_the_document_are_understood(url: str, service: str) -> None:
    assert sender("it", channel(url)).service == service


def test_an_incident_is_opened_and_closed_under_its_own_id(monkeypatch: pytest.MonkeyPatch) -> None:
    with http_service() as service:
        from apprise.plugins import pagerduty

        monkeypatch.setitem(pagerduty.PAGERDUTY_API_LOOKUP, "us", f"http://{service.host}/v2/enqueue")
        pager = sender("pager", channel(PAGER))
        assert pager.per_incident
        pager.send(message())
        pager.send(message(alert(kind="resolved", reasons=[])))
        opened, closed = (json.loads(request.body) for request in service.requests)
    assert (opened["event_action"], opened["dedup_key"]) == ("trigger", alert().incident)
    assert (closed["event_action"], closed["dedup_key"]) == ("resolve", alert().incident)
    assert opened["payload"]["severity"] == "critical"
    assert "machine-1-6 not normal" in opened["payload"]["summary"]


def test_an_incident_of_another_shape_changes_nothing_else_in_the_address() -> None:
    with http_service() as service:
        forged = alert(incident="x&method=PUT/../admin")
        sender("hook", channel(f"json://{service.host}/?:key=$incident")).send(message(forged))
        (request,) = service.requests
    assert json.loads(request.body)["key"] == forged.incident


@pytest.mark.parametrize("scheme", ["dbus", "gnome", "syslog", "macosx", "windows", "glib", "SYSLOG"])
def test_what_nobody_would_see_is_refused(scheme: str) -> None:
    assert "shows it on this machine alone" in refused(f"{scheme}://{KEY}")


@pytest.mark.parametrize(
    ("url", "words"),
    [
        (f"nonsense://{KEY}", "none that apprise understands"),
        (f"pagerduty://{KEY}", "none that apprise understands"),
        (KEY, "none that apprise understands"),
        ("", "holds no address"),
        (f"json://x {KEY}", "holds no address"),
        (f"http://user:{KEY}@127.0.0.1/", "a password belongs in headers"),
        (f"http://127.0.0.1:{KEY}/", "not understood"),
        (f"http:///{KEY}", "expected http(s)://host"),
        (f"file:///etc/passwd?{KEY}", "none that apprise understands"),
    ],
)
def test_an_address_that_means_nothing_is_told_without_it(
    url: str, words: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    logged = io.StringIO()
    monkeypatch.setattr(logging.getLogger(), "handlers", [logging.StreamHandler(logged)])
    told = refused(url)
    assert "notify.channels.hook" in told
    assert words in told
    assert KEY not in told + logged.getvalue() + "".join(capfd.readouterr())


def test_what_goes_with_webhooks_alone_is_refused_elsewhere() -> None:
    assert "are a webhook's, and Slack is none" in refused(f"slack://{SLACK}", headers={"X": KEY})
    assert "'X' is not one line" in refused("http://127.0.0.1/", headers={"X": f"{KEY}\r\nY: 1"})
    assert "expected base64 after whsec_" in refused("http://127.0.0.1/", signing_secret=f"whsec_{KEY}!")


def test_an_address_may_stand_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "hook").write_text("https://example.org/alerts\n")
    found = ChannelSettings(url_file=tmp_path / "hook")
    assert sender("hook", found).service == "webhook"
    with pytest.raises(SettingsError, match=r"hook.url_file '.*none' cannot be read: No such file"):
        sender("hook", ChannelSettings(url_file=tmp_path / "none"))


def test_without_apprise_a_webhook_works_and_the_rest_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "apprise", None)
    assert sender("hook", channel("https://example.org/")).service == "webhook"
    assert "install offnominal[notify]" in refused(f"slack://{SLACK}")


def test_a_fallback_is_the_second_way_of_a_channel() -> None:
    channels = {"pager": {"url": PAGER, "fallback": "hook"}, "hook": {"url": "https://example.org"}}
    found = routes(NotifySettings.model_validate({"channels": channels}))
    assert {name: [way.service for way in ways] for name, ways in found.items()} == {
        "pager": ["Pager Duty", "webhook"],
        "hook": ["webhook"],
    }
