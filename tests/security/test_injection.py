"""Text out of records, files and brokers is shown as text: it forges no line, moves no cursor, and is no markup."""

from __future__ import annotations

import io
import json
import logging
import sys
from collections.abc import Iterator
from html.parser import HTMLParser

import pytest
import structlog
import yaml

from consumers.batch import Schema
from consumers.decode import JsonDecoder
from consumers.errors import BrokerUnavailable
from consumers.text import printable
from detector import cli, logs
from detector.alerts import Alert, Reason
from detector.commands.terminal import print_alert
from detector.html_report import name, page, table, why
from detector.inference import infer, render
from detector.loading import parse
from tests.detector.test_alerts import alert
from tests.security.hostile import batch_of

FORGERIES = {
    "line break": 'x\n{"event": "forged"}',
    "carriage return": "x\rforged",
    "colour": "x\x1b[2J\x1b[31mforged",
    "C1 control": "x\x9b2Jforged",
    "next line": "x\x85forged",
    "line separator": "x\u2028forged",
    "paragraph separator": "x\u2029forged",
    "direction": "x\u202eforged\u2066",
    "backspace": "x\x08\x08forged",
    "bell and title": "x\x1b]0;forged\x07",
    "nul": "x\x00forged",
    "surrogate": "x\ud800forged",
}
every_forgery = pytest.mark.parametrize("text", FORGERIES.values(), ids=FORGERIES.keys())


def is_harmless(shown: str) -> bool:
    """Whether the lines of a text are those of `"\\n"` alone and nothing in them does anything."""
    return all(line.isprintable() for line in shown.split("\n"))


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[io.StringIO]:
    """What is logged; as on a terminal without colours where the parameter says so."""

    class Stream(io.StringIO):
        def isatty(self) -> bool:
            return bool(getattr(request, "param", False))

    root = logging.getLogger()
    handlers, level, hook = root.handlers[:], root.level, sys.excepthook
    monkeypatch.setattr(sys, "stderr", stream := Stream())
    structlog.reset_defaults()
    logs.configure()
    yield stream
    structlog.reset_defaults()
    root.handlers[:], sys.excepthook = handlers, hook
    root.setLevel(level)


def said(text: str, stream: io.StringIO) -> str:
    """What the log makes of a text wherever it may stand: in an event, a value, a list, an error, another's message."""
    root = logging.getLogger()  # of whose handlers pytest's would report the text, where a lone surrogate is too much
    root.handlers[:] = [it for it in root.handlers if type(it) is logging.StreamHandler]
    log = structlog.get_logger()
    log.warning("not an alert", source=text, topics=[text], counts={text: 1})
    log.warning(text)
    try:
        raise ValueError(text)
    except ValueError as error:
        log.exception("failed", error=str(error))
    logging.getLogger("uvicorn.error").error("cannot serve %s", text)
    return stream.getvalue()


@every_forgery
def test_a_log_line_of_json_holds_one_event_whatever_is_in_it(logged: io.StringIO, text: str) -> None:
    found = said(text, logged).removesuffix("\n").split("\n")
    assert all(line.isascii() and line.isprintable() for line in found)
    assert [json.loads(line)["event"] for line in found][:1] == ["not an alert"]
    assert len(found) == 4


@pytest.mark.parametrize("logged", [True], indirect=True)
@every_forgery
def test_on_a_terminal_no_text_looks_like_a_line_of_the_log(logged: io.StringIO, text: str) -> None:
    for line in strip_colours(said(text, logged)).removesuffix("\n").split("\n"):
        assert line.isprintable()
        assert line[:4].isdigit() or line.startswith("  "), line  # a time, or a traceback


def strip_colours(shown: str) -> str:
    """Without the colours that structlog itself sets, each a word of SGR between ESC[ and m."""
    colours = structlog.dev.ConsoleRenderer.get_default_level_styles().values()
    for own in {*colours, "\x1b[0m", "\x1b[1m", "\x1b[2m", "\x1b[34m", "\x1b[35m", "\x1b[36m", "\x1b[32m", "\x1b[31m"}:
        shown = shown.replace(own, "")
    return shown


def secretive() -> None:
    password = "canary"
    raise RuntimeError(f"failed with {len(password)} letters")


@pytest.mark.parametrize("logged", [True, False], indirect=True)
def test_a_traceback_shows_no_variables(logged: io.StringIO) -> None:
    try:
        secretive()
    except RuntimeError:
        structlog.get_logger().exception("failed")
        logging.getLogger("uvicorn.error").exception("failed")
    assert "failed with 6 letters" in logged.getvalue()
    assert "canary" not in logged.getvalue().replace('password = "canary"', "")


def test_an_error_that_nobody_expected_is_a_line_of_the_log(logged: io.StringIO) -> None:
    error = ValueError("x\n\x1b[31mforged")
    sys.excepthook(ValueError, error, None)
    (line,) = logged.getvalue().splitlines()
    assert json.loads(line)["event"] == "unexpected error"
    assert line.isprintable()


@every_forgery
def test_a_dead_letters_error_is_one_plain_line(text: str) -> None:
    field = "".join(letter for letter in text if letter > "\x1f" and letter not in '\ud800"')
    decoder = JsonDecoder(Schema(numbers=(field,), entity="machine"))
    for value in ({"machine": "m", field: text}, {"machine": "m" * 600, field: 1}, {"machine": "m", text + "x": {}}):
        _, (letter,) = decoder.decode(batch_of([json.dumps(value).encode()]))
        assert letter.error.isprintable()
        assert len(letter.error) <= 200


@every_forgery
def test_an_alert_on_the_terminal_keeps_to_its_lines(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    reasons = [Reason(feature=text, observed=text, expected=text, share=1.0)]
    print_alert(alert(entity=text, segment=text, reasons=reasons), as_json=False)
    shown = capsys.readouterr().out
    assert is_harmless(shown)
    assert len(shown.splitlines()) == 2


@every_forgery
def test_an_alert_as_json_is_one_plain_line(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    told = alert(entity=text.replace("\ud800", ""), reasons=[])
    print_alert(told, as_json=True)
    (line,) = capsys.readouterr().out.removesuffix("\n").split("\n")
    assert line.isprintable()
    assert Alert.model_validate_json(line) == told


@every_forgery
def test_an_error_that_ends_a_command_is_told_in_plain_lines(
    text: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse() -> None:
        raise BrokerUnavailable(f"the broker says {text}")

    monkeypatch.setattr(cli, "app", refuse)
    with pytest.raises(SystemExit):
        cli.main()
    assert is_harmless(capsys.readouterr().err)


def test_markup_of_the_terminal_is_shown_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    print_alert(alert(entity="[red]m1[/red]", reasons=[]), as_json=False)
    assert "[red]m1[/red]" in capsys.readouterr().out


class _Elements(HTMLParser):
    def __init__(self, document: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(document)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


@pytest.mark.parametrize(
    "text", ["<script>forged()</script>", "<img src=x onerror=forged()>", '"><b onclick="x">', "&lt;b&gt;"]
)
def test_a_report_shows_markup_as_text_and_lets_nothing_run(text: str) -> None:
    reasons = [Reason(feature=text, observed=text, expected=text, share=1.0)]
    document = page(text, table([text], [[name(text), why(reasons)]]))
    elements = _Elements(document).found
    assert not {"script", "img"} & {tag for tag, _ in elements}
    assert not [attribute for _, attributes in elements for attribute in attributes if attribute.startswith("on")]
    (policy,) = (it["content"] for _, it in elements if it.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert policy.startswith("default-src 'none';")
    assert "script-src" not in policy


@every_forgery
def test_a_settings_file_of_what_was_seen_says_nothing_else(text: str) -> None:
    rows = [
        {"cpu": row * 7 % 11, "load": row % 5, text.encode(errors="replace").decode(): row % 3} for row in range(50)
    ]
    written = render(
        infer([json.dumps(row).encode() for row in rows]),
        name="x", bootstrap="localhost:9092", topic="x", false_alarms="3/day",
    )  # fmt: skip
    assert is_harmless(written)
    assert yaml.safe_load(written).keys() == {"name", "kafka", "stream", "features", "alerts"}
    parse(yaml.safe_load(written))


def test_printable_text_is_left_as_it_is_up_to_its_length() -> None:
    assert printable("größer [b] \N{SNOWMAN}", 100) == "größer [b] \N{SNOWMAN}"
    assert printable("abc", 2) == "ab"
