from __future__ import annotations

import getpass
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from consumers.memory import MemoryBroker
from detector.bundle import Bundle
from detector.commands import feedback as command
from detector.commands.feedback import give_feedback, list_feedback
from detector.config import DetectorSettings
from detector.errors import SettingsError
from detector.feedback import said
from detector.feedback_effects import Opinions
from detector.pipeline import Pipeline
from tests.detector.machines import ALERTS, TOPIC, broker_with, records, settings
from tests.detector.opinions import raised
from tests.detector.test_alerts import alert
from tests.detector.test_pipeline import ATTACK, batch_of

ESC = "\N{ESCAPE}"
UNLIKELY = {"p_value": None, "static_p_value": None, "level": None, "score": None, "threshold": None, "model": None}


@pytest.fixture
def chosen(tmp_path: Path) -> DetectorSettings:
    return settings(tmp_path)


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch) -> MemoryBroker:
    """Holds 400 records with an attack among them."""
    found = broker_with(records(400, seed=1, odd=ATTACK))
    found.append(ALERTS, alert().message(ALERTS).value)
    monkeypatch.setattr(command, "connect", lambda settings: MemoryBroker(group=settings.group, log=found.log))
    return found


def give(chosen: DetectorSettings, begin: str, label: str, text: str = "") -> None:
    give_feedback(chosen, begin, label, text=text, author="ada", as_json=False)


def test_an_alert_that_was_told_is_judged_with_the_records_that_led_up_to_it(
    chosen: DetectorSettings, broker: MemoryBroker, champion: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    outcome = Pipeline(chosen, champion).process(batch_of([*records(400, seed=1, odd=ATTACK)]))
    for message in outcome.messages:
        broker.append(ALERTS, message.value)
    attack = next(it for it in outcome.alerts if it.kind == "opened" and it.source.offset == 120)
    before = datetime.now(UTC)
    give(chosen, attack.id[:8], "false-alarm", "a load test")
    (feedback,) = said(broker, chosen).values()
    assert (feedback.label, feedback.author, feedback.text) == ("false_alarm", "ada", "a load test")
    assert (feedback.alert.incident, feedback.alert.source.topic) == (attack.incident, TOPIC)
    assert feedback.alert.reasons
    assert [it.offset for it in feedback.records][-1] == feedback.alert.source.offset
    assert len(feedback.records) == 2
    assert before <= feedback.time <= datetime.now(UTC)
    assert feedback.until == max(it.time for it in outcome.alerts if it.incident == attack.incident)
    assert raised(Opinions([feedback], 60.0), "m0", feedback.time) > 0
    assert "false_alarm m0" in capsys.readouterr().out
    for label in ("retract", "known"):
        give(chosen, attack.id[:8], label)
        (feedback,) = said(broker, chosen).values()
        assert feedback.records == []


def test_it_is_taken_back_after_the_alert_is_gone(
    chosen: DetectorSettings, broker: MemoryBroker, capsys: pytest.CaptureFixture[str]
) -> None:
    give(chosen, "9c9c9c", "known")
    give(chosen, "9c9c9c", "note", "see above")
    broker.delete_topic(ALERTS)
    give(chosen, "0f0f0f", "retract")
    assert sorted(it.label for it in said(broker, chosen).values()) == ["note", "retracted"]
    assert capsys.readouterr().out.endswith("retracted machine-1-6 9c9c9c9c by ada (changes no decision)\n")


def test_what_was_never_said_cannot_be_taken_back(chosen: DetectorSettings, broker: MemoryBroker) -> None:
    give(chosen, "9c9c9c", "note", "looks odd")
    with pytest.raises(SettingsError, match="'9c9c9c' is in topic 'offnominal-machines-feedback' neither"):
        give(chosen, "9c9c9c", "retract")


def test_the_list_says_who_said_what_and_until_when_it_counts(
    chosen: DetectorSettings, broker: MemoryBroker, capsys: pytest.CaptureFixture[str]
) -> None:
    broker.append(ALERTS, alert(id="aa" * 16, incident="bb" * 16, entity="m2").message(ALERTS).value)
    give(chosen, "9c9c9c", "false-alarm", "a [bold]load test" + ESC)
    give(chosen, "bbbbbb", "confirmed")
    shown = capsys.readouterr().out
    list_feedback(chosen, as_json=False)
    assert capsys.readouterr().out == shown
    first, second = shown.splitlines()
    until = next(iter(said(broker, chosen).values())).time + timedelta(days=30)
    assert "false_alarm machine-1-6 9c9c9c9c by ada: a [bold]load test\N{REPLACEMENT CHARACTER}" in first
    assert first.endswith(f"(counts until {until:%Y-%m-%d %H:%M:%S})")
    assert second.endswith("confirmed m2 bbbbbbbb by ada (an example for training, with 0 records)")


def test_for_a_script_it_is_the_message_without_the_records(
    chosen: DetectorSettings, broker: MemoryBroker, capsys: pytest.CaptureFixture[str]
) -> None:
    give_feedback(chosen, "9c9c9c", "known", text="", author="ada", as_json=True)
    list_feedback(chosen, as_json=True)
    given, listed = capsys.readouterr().out.splitlines()
    (feedback,) = said(broker, chosen).values()
    assert json.loads(given) == json.loads(listed) == json.loads(feedback.model_dump_json(exclude={"records"}))


def test_before_anybody_says_anything_the_list_says_so(
    chosen: DetectorSettings, broker: MemoryBroker, capsys: pytest.CaptureFixture[str]
) -> None:
    list_feedback(chosen, as_json=False)
    assert capsys.readouterr().out == "Nobody has said anything in offnominal-machines-feedback.\n"


def test_a_false_alarm_of_a_kind_without_a_level_says_that_it_changes_nothing(
    chosen: DetectorSettings, broker: MemoryBroker, capsys: pytest.CaptureFixture[str]
) -> None:
    broker.append(ALERTS, alert(id="aa" * 16, incident="bb" * 16, kind="silence", **UNLIKELY).message(ALERTS).value)
    give(chosen, "aaaaaa", "false-alarm")
    assert "(changes no decision)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("begin", "label", "text", "wanted"),
    [
        (
            "9c9c9c",
            "wrong",
            "",
            "LABEL 'wrong' is not known. Expected one of false-alarm, confirmed, known, note, retr",
        ),
        ("9c9c9", "known", "", "ALERT '9c9c9' is no id. Expected 6 to 32 of the digits 0-9a-f"),
        ("machine", "known", "", "ALERT 'machine' is no id"),
        ("123456", "known", "", "'123456' is in topic 'machine-alerts' neither"),
        ("9c9c9c", "note", "", "A note wants --text"),
        ("9c9c9c", "note", "x" * 2_001, "--text has 2,001 characters. Expected at most 2,000"),
    ],
)
def test_what_makes_no_sense_is_refused_and_nothing_is_said(
    chosen: DetectorSettings, broker: MemoryBroker, begin: str, label: str, text: str, wanted: str
) -> None:
    with pytest.raises(SettingsError, match=wanted):
        give(chosen, begin, label, text)
    assert said(broker, chosen) == {}


def test_the_author_is_the_user_where_none_is_named(
    chosen: DetectorSettings, broker: MemoryBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nobody() -> str:
        raise KeyError("getpwuid(): uid not found: 1000")

    for user, author in ((lambda: "grace", "grace"), (nobody, "unknown")):
        monkeypatch.setattr(getpass, "getuser", user)
        give_feedback(chosen, "9c9c9c", "known", text="", author=None, as_json=False)
        (feedback,) = said(broker, chosen).values()
        assert feedback.author == author
