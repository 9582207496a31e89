"""What Prometheus scrapes, its rules and their tests, and the runbooks that alerts link to."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from detector.cli import app
from detector.config_service import WebSettings
from detector.reference import reference
from tests.detector.metric_names import SCRAPED, named

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "prometheus"
RUNBOOKS = (ROOT / "docs" / "runbooks.md").read_text(encoding="utf-8")
RULES: list[dict[str, Any]] = [
    rule for group in yaml.safe_load((FOLDER / "rules.yaml").read_text())["groups"] for rule in group["rules"]
]
ALERTS = {rule["alert"]: rule for rule in RULES if "alert" in rule}
TESTS: list[dict[str, Any]] = [
    case
    for file in sorted(FOLDER.glob("*.test.yaml"))
    for test in yaml.safe_load(file.read_text())["tests"]
    for case in test.get("alert_rule_test", [])
]


def section(alert: str) -> str:
    """What the runbooks say of an alert."""
    (found,) = re.findall(rf"^## {alert}\n(.*?)(?=^## |\Z)", RUNBOOKS, re.MULTILINE | re.DOTALL)
    return str(found)


def settings(values: dict[str, Any], above: str = "") -> set[str]:
    """Every key, `kafka.bootstrap`."""
    keys = {above + key for key in values}
    return keys.union(*(settings(it, f"{above}{key}.") for key, it in values.items() if isinstance(it, dict)))


def foreign(words: list[str]) -> set[str]:
    """Options of a command line that its command does not have. A command that there is not is a `KeyError`."""
    found: Any = typer.main.get_command(app)
    while hasattr(found, "commands"):
        found = found.commands[words.pop(0)]
    options = {option for parameter in found.params for option in (*parameter.opts, *parameter.secondary_opts)}
    return {word for word in words if word.startswith("-")} - options


@pytest.mark.skipif(shutil.which("promtool") is None, reason="Debian's package prometheus is not installed")
def test_promtool_finds_everything_sound_and_its_tests_pass() -> None:
    checked = subprocess.run([FOLDER / "check"], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert checked.stdout.count("SUCCESS") == 2 + len(list(FOLDER.glob("*.test.yaml")))


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.get("alert", rule.get("record")))
def test_a_rule_asks_for_metrics_that_there_are(rule: dict[str, Any]) -> None:
    assert named(rule["expr"] + str(rule.get("annotations"))) - SCRAPED == set()
    recorded = {other["record"] for other in RULES if "record" in other}
    assert set(re.findall(r"detector:\w+:\w+", rule["expr"])) <= recorded


@pytest.mark.parametrize("file", sorted(FOLDER.glob("*.test.yaml")), ids=lambda file: file.name)
def test_the_tests_of_rules_feed_them_what_a_daemon_exports(file: Path) -> None:
    series = [it["series"] for test in yaml.safe_load(file.read_text())["tests"] for it in test["input_series"]]
    assert {it.split("{")[0] for it in series} - SCRAPED == {"up"} & {it.split("{")[0] for it in series}


@pytest.mark.parametrize("alert", ALERTS)
def test_an_alert_says_how_urgent_it_is_and_links_to_its_runbook(alert: str) -> None:
    rule = ALERTS[alert]
    assert rule["annotations"].keys() == {"summary", "description", "runbook_url"}
    assert rule["annotations"]["runbook_url"] == "{{ $externalLabels.runbooks }}#" + alert.lower()
    assert section(alert).strip().startswith(f"*{rule['labels']['severity'].capitalize()}.* ")
    assert rule["labels"]["severity"] in ("critical", "warning")
    assert "**Look" in section(alert) or "look and do" in section(alert)
    assert "**Wake someone else:**" in section(alert)


@pytest.mark.parametrize("alert", ALERTS)
def test_an_alert_is_tested_to_fire_and_not_to(alert: str) -> None:
    fires = {bool(case.get("exp_alerts")) for case in TESTS if case["alertname"] == alert}
    assert fires == {True, False}


def test_there_is_a_runbook_for_every_alert_and_for_nothing_else() -> None:
    assert re.findall(r"^## (\w+)$", RUNBOOKS, re.MULTILINE) == [*ALERTS]
    assert set(re.findall(r"\(#(\w+)\)", RUNBOOKS)) <= {alert.lower() for alert in ALERTS}


def test_runbooks_name_metrics_that_there_are() -> None:
    assert named(RUNBOOKS) - SCRAPED == set()


def test_runbooks_name_commands_and_options_that_there_are() -> None:
    lines = re.findall(r"^offnominal ([^#\n]+)|`offnominal ([^`]+)`", RUNBOOKS, re.MULTILINE)
    assert len(lines) > 10
    for line in lines:
        assert foreign("".join(line).split()) == set(), line


def test_runbooks_name_settings_that_there_are() -> None:
    groups = settings(yaml.safe_load(reference()))
    told = set(re.findall(r"`([a-z_]+\.[a-z_.]+)`", RUNBOOKS))
    assert len(told) > 20
    assert told - groups == set()


def test_prometheus_scrapes_the_port_with_the_token_under_the_name_that_rules_know() -> None:
    configuration = yaml.safe_load((FOLDER / "prometheus.yml").read_text())
    (job,) = configuration["scrape_configs"]
    assert {job["job_name"]} == set(re.findall(r'job="(\w+)"', str(RULES)))
    assert [it["port"] for it in job["dns_sd_configs"]] == [WebSettings().port]
    assert "credentials_file" in job["authorization"]
    assert "runbooks" in configuration["global"]["external_labels"]
