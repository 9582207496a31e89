from __future__ import annotations

from pathlib import Path

from detector.commands.check import checks


def test_a_calendar_that_run_would_refuse_is_no_tick(tmp_path: Path) -> None:
    config = tmp_path / "machines.yaml"
    config.write_text(
        "name: machines\nkafka: {bootstrap: '127.0.0.1:1'}\nstream: {topics: [machines]}\n"
        f"alerts: {{topic: alerts, mute: [{{calendar: {tmp_path / 'none.ics'}}}]}}\n"
        f"store: {{url: {tmp_path / 'store'}}}\n"
    )
    (mutes,) = (check for check in checks(config) if check.name == "mutes")
    assert not mutes.ok
    assert "none.ics' cannot be read" in mutes.detail
