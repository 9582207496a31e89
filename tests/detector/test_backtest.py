from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from structlog.testing import capture_logs

from consumers.memory import MemoryBroker
from consumers.stream import Window
from detector.alerts import ENDING
from detector.backtest import Backtest, BacktestFigures, backtest
from detector.backtest_report import write_report
from detector.bundle import Bundle
from detector.commands.backtest import over, print_backtest, under
from detector.config import DetectorSettings
from detector.errors import NotEnoughRows, SettingsError
from detector.pipeline import Pipeline
from detector.replay import replay
from detector.store import Store
from tests.detector.machines import ALERTS, START_MS, TOPIC, broker_with, records, settings, trained

OPTIONS: dict[str, Any] = {
    **dict.fromkeys(("records", "since", "version", "train_share", "ray", "report")),
    "files": (),
    "budgets": (),
    "as_json": False,
}
NOW = datetime(2026, 3, 1, tzinfo=UTC)
FIRST = 3_000
"""Number of the first record that the champion has not seen."""
ATTACK: dict[int, Mapping[str, object]] = {
    n: {"cpu": 5.0, "load": 10.0} for n in range(FIRST + 3_000, FIRST + 3_012, 3)
}
"""Machine m0 is far off at four records in a row."""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return trained(tmp_path_factory.mktemp("backtest"))


@pytest.fixture
def folder(tmp_path: Path, bundle: Bundle) -> Path:
    """A folder with the champion in its store."""
    store = Store(str(tmp_path / "store"), "machines")
    store.save(bundle)
    store.promote(bundle.version)
    return tmp_path


def chosen_for(folder: Path) -> DetectorSettings:
    return settings(folder, training={"min_records": 300})


def newer(n: int = 6_000, **changes: Any) -> list[bytes]:
    return records(n, start=FIRST, **changes)


def backtested(broker: MemoryBroker, chosen: DetectorSettings, *budgets: str, **options: Any) -> Backtest:
    judged = [under(chosen, budget) for budget in budgets] or [chosen]
    return backtest(judged, replay(judged[0], broker, now=NOW, **options))


def test_the_same_records_give_the_same_result_twice(folder: Path) -> None:
    chosen, broker = chosen_for(folder), broker_with(newer(odd=ATTACK))
    assert backtested(broker, chosen).figures == backtested(broker, chosen).figures


def test_incidents_are_those_of_the_daemons_pipeline(folder: Path, bundle: Bundle) -> None:
    chosen, broker = chosen_for(folder), broker_with(newer(odd=ATTACK))
    (batch,) = broker.read([TOPIC], Window())
    alerts = Pipeline(chosen, bundle).process(batch).alerts
    (found,) = backtested(broker, chosen).figures.budgets
    opened = {alert.incident: alert for alert in alerts if alert.kind == "opened"}
    told = {alert.incident: alert for alert in alerts if alert.kind not in ENDING}
    ended = {alert.incident: alert.time for alert in alerts if alert.kind in ENDING}
    assert {incident.incident for incident in found.listed} == opened.keys()
    for incident in found.listed:
        assert incident.opened == opened[incident.incident].time
        assert incident.resolved == ended.get(incident.incident)
        assert incident.reasons == told[incident.incident].reasons[:3]


def test_an_attack_is_listed_with_entity_severity_and_reasons(folder: Path) -> None:
    (found,) = backtested(broker_with(newer(odd=ATTACK)), chosen_for(folder)).figures.budgets
    at = datetime.fromtimestamp((START_MS + (FIRST + 3_000) // 3 * 60_000) / 1000, UTC)
    (incident,) = [incident for incident in found.listed if incident.opened == at]
    assert (incident.entity, incident.severity) == ("m0", "critical")
    assert {reason.feature for reason in incident.reasons} <= {"cpu", "load"}
    assert incident.resolved is not None
    assert incident.seconds >= 300


def test_counts_agree_with_each_other(folder: Path) -> None:
    figures = backtested(broker_with([*newer(odd=ATTACK), b"broken"]), chosen_for(folder)).figures
    (found,) = figures.budgets
    assert figures.records == sum(it.records for it in found.by_segment) == 6_000
    assert found.alarms == sum(it.alarms for it in found.by_segment) == round(found.realised_rate * 6_000)
    assert found.incidents == sum(found.by_severity.values()) == sum(it.incidents for it in found.entities)
    assert sum(it.share for it in found.entities) == pytest.approx(1)
    assert figures.dead_letters == {"malformed": 1}
    assert figures.days == pytest.approx(2_000 / 1_440, rel=0.02)
    assert found.incidents_per_day == pytest.approx(found.incidents / figures.days)


def test_a_looser_budget_has_at_least_as_many_alarms_and_incidents(folder: Path) -> None:
    strict, loose = backtested(broker_with(newer(odd=ATTACK)), chosen_for(folder), "0.001", "0.05").figures.budgets
    assert strict.alarms < loose.alarms
    assert strict.incidents <= loose.incidents
    assert (strict.budget, loose.budget) == ("0.001", "0.05")


def test_a_budget_a_day_is_promised_as_asked(folder: Path) -> None:
    (found,) = backtested(broker_with(newer()), chosen_for(folder), "30/day").figures.budgets
    assert found.promised_per_day == pytest.approx(30, rel=0.2)
    assert found.budget == "30/day"


def test_a_file_of_the_topics_records_gives_the_same_incidents(folder: Path) -> None:
    values = newer(odd=ATTACK)
    (folder / "past.ndjson").write_bytes(b"\n".join(values))
    of_file = over(chosen_for(folder), files=[str(folder / "past.ndjson")])
    (one,) = backtested(broker_with([]), of_file, "20/day").figures.budgets
    (other,) = backtested(broker_with(values), chosen_for(folder), "20/day").figures.budgets
    assert one.incidents > 0
    named = {"incident"}
    assert [it.model_dump(exclude=named) for it in one.listed] == [it.model_dump(exclude=named) for it in other.listed]


def test_files_are_one_stream_in_order_of_time_however_records_are_spread_over_them(folder: Path) -> None:
    values = newer(odd=ATTACK)
    (folder / "whole.ndjson").write_bytes(b"\n".join(values))
    for number in range(3):
        (folder / f"part-{2 - number}.ndjson").write_bytes(b"\n".join(values[number::3]))
    whole = backtested(broker_with([]), over(chosen_for(folder), files=[str(folder / "whole.ndjson")]))
    parts = backtested(broker_with([]), over(chosen_for(folder), files=[str(folder / "part-*.ndjson")]))
    assert [it.opened for it in parts.figures.budgets[0].listed] == [
        it.opened for it in whole.figures.budgets[0].listed
    ]


@pytest.mark.parametrize("size", [7, 500, 100_000])
def test_figures_do_not_depend_on_where_stretches_end(folder: Path, size: int) -> None:
    (folder / "past.ndjson").write_bytes(b"\n".join(newer(1_500)))
    of_file = over(chosen_for(folder), files=[str(folder / "past.ndjson")])
    cut = of_file.model_copy(update={"batch": of_file.batch.model_copy(update={"max_records": size})})
    one, whole = (backtested(broker_with([]), chosen, "0.05") for chosen in (cut, of_file))
    assert _rounded(one.figures.model_dump()) == _rounded(whole.figures.model_dump())
    np.testing.assert_array_equal(one.timelines[0].alarms, whole.timelines[0].alarms)


def test_nothing_is_published_or_committed(folder: Path) -> None:
    broker = broker_with(newer(odd=ATTACK))
    backtested(broker, chosen_for(folder))
    assert not broker.log.groups
    assert not list(broker.read([ALERTS], Window()))
    assert Store(str(folder / "store"), "machines").versions() == [Store(str(folder / "store"), "machines").champion()]


def test_an_empty_store_is_made_up_for_by_training_on_the_older_half(tmp_path: Path) -> None:
    broker = broker_with(records(3_000))
    figures = backtested(broker, chosen_for(tmp_path)).figures
    assert figures.trained_here
    assert (figures.records, figures.trained_on) == (1_500, 0)
    assert figures.first >= datetime.fromtimestamp((START_MS + 500 * 60_000) / 1000, UTC)
    assert Store(str(tmp_path / "store"), "machines").versions() == []


def test_a_share_to_train_on_takes_the_place_of_the_champion(folder: Path, bundle: Bundle) -> None:
    figures = backtested(broker_with(records(3_000)), chosen_for(folder), train_share=0.8).figures
    assert figures.version != bundle.version
    assert figures.records == 600


def test_too_few_records_to_train_on_are_refused_with_the_number_wanted(tmp_path: Path) -> None:
    with pytest.raises(NotEnoughRows, match=r"200 of 400 records .*min_records = 300"):
        backtested(broker_with(records(400)), chosen_for(tmp_path))


def test_records_that_the_version_was_trained_on_are_told(folder: Path) -> None:
    broker = broker_with([*records(3_000), *newer(300)])
    figures = backtested(broker, over(chosen_for(folder), records=1_300)).figures
    assert (figures.records, figures.trained_on) == (1_300, 1_000)
    assert "1,000 of these 1,300 records" in figures.warnings[0]


def test_no_records_are_refused_with_what_was_left_out(folder: Path) -> None:
    with pytest.raises(NotEnoughRows, match="malformed"):
        backtested(broker_with([b"broken"]), chosen_for(folder))


@pytest.mark.parametrize("budget", ["0.5", "3/fortnight", "none"])
def test_a_budget_that_is_none_is_refused_by_name(folder: Path, budget: str) -> None:
    with pytest.raises(SettingsError, match=f"--budget {budget}"):
        under(chosen_for(folder), budget)


def test_a_hostile_name_is_shown_and_not_run(folder: Path) -> None:
    name = '<script>alert("$\\frac{")</script>\x1b[31m世'
    odd = {number: {**fields, "machine": name} for number, fields in ATTACK.items()}
    found = backtested(broker_with(newer(odd=odd)), chosen_for(folder))
    assert name in {incident.entity for incident in found.figures.budgets[0].listed}
    write_report(folder / "report.html", found)
    text = (folder / "report.html").read_text(encoding="utf-8")
    assert "<script" not in text
    assert "&lt;script&gt;" in text
    assert json.loads(found.figures.model_dump_json())["budgets"][0]["incidents"]


def test_the_command_prints_the_result_as_json(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("detector.commands.backtest.connect", lambda _: broker_with(newer(odd=ATTACK)))
    with capture_logs():
        print_backtest(chosen_for(folder), **{**OPTIONS, "budgets": ["3/day", "0.01"], "as_json": True})
    figures = BacktestFigures.model_validate_json(capsys.readouterr().out)
    assert [budget.budget for budget in figures.budgets] == ["3/day", "0.01"]
    assert figures.records == 6_000


def test_the_table_fits_a_terminal_and_shows_hostile_names_as_text(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    odd = {number: {**fields, "machine": "[red]x[/]\x1b[31m"} for number, fields in ATTACK.items()}
    monkeypatch.setattr("detector.commands.backtest.connect", lambda _: broker_with(newer(odd=odd)))
    with capture_logs():
        print_backtest(chosen_for(folder), **{**OPTIONS, "budgets": ["3/day", "0.001", "0.01"]})
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= 80
    assert "[red]x[/]" in shown
    assert "\x1b" not in shown


def test_a_version_and_a_share_to_train_on_exclude_one_another(folder: Path) -> None:
    with pytest.raises(SettingsError, match=r"--version v and --train-share 0.5"):
        print_backtest(chosen_for(folder), **{**OPTIONS, "version": "v", "train_share": 0.5})


def test_records_are_named_in_one_way_only(folder: Path) -> None:
    with pytest.raises(SettingsError, match="give one"):
        over(chosen_for(folder), records=100, since="7d")


def test_a_report_that_cannot_be_written_is_refused_by_name(folder: Path) -> None:
    found = backtested(broker_with(newer(300)), chosen_for(folder))
    with pytest.raises(SettingsError, match=r"--report .*nowhere"):
        write_report(folder / "nowhere" / "report.html", found)


def test_a_report_holds_all_it_needs(folder: Path) -> None:
    write_report(
        folder / "report.html", backtested(broker_with(newer(odd=ATTACK)), chosen_for(folder), "0.01", "3/day")
    )
    text = (folder / "report.html").read_text(encoding="utf-8")
    assert "http" not in text.replace('http-equiv="Content-Security-Policy"', "")
    assert text.count("data:image/png;base64,") == 2
    assert "Under 3/day" in text


def _rounded(value: object) -> object:
    """Sums of floats depend on their order in the last digits."""
    if isinstance(value, Mapping):
        return {key: _rounded(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_rounded(part) for part in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value
