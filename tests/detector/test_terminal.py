from __future__ import annotations

import pytest

from detector.commands.terminal import print_alert
from tests.detector.test_alerts import alert

UNLIKELY = {"p_value": None, "static_p_value": None, "level": None, "score": None, "threshold": None, "model": None}


def test_an_incident_is_shown_with_its_p_value_and_the_level(capsys: pytest.CaptureFixture[str]) -> None:
    print_alert(alert(), as_json=False)
    assert "machine-1-6 p 2.1e-07 (level 0.0001) 9c9c9c9c" in capsys.readouterr().out


def test_a_silence_is_shown_without_any_and_with_how_many_fell_silent(capsys: pytest.CaptureFixture[str]) -> None:
    print_alert(alert(kind="silence", entity="", members=7, reasons=[], **UNLIKELY), as_json=False)
    assert "- (7 entities) 9c9c9c9c" in capsys.readouterr().out
