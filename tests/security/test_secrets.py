"""No secret is shown: not in what commands say, not in what they keep, not in what is wrong with the settings."""

from __future__ import annotations

import os
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from consumers.errors import StreamError
from consumers.kafka_python import KafkaPythonBroker
from consumers.security import TokenFile
from detector.commands import run
from detector.config import DetectorSettings
from detector.errors import OffnominalError
from detector.loading import ENVIRONMENT_PREFIX, groups_in, load
from tests.detector.machines import records

CANARY = "4110417104"
"""Part of every secret; a number, as some passwords are."""
SECRETS = {
    "KAFKA__SECURITY__PASSWORD": f"{CANARY}-password",
    "KAFKA__SECURITY__KEY_PASSWORD": f"{CANARY}-key",
    "WEB__TOKEN": f"{CANARY}-web",
    "NOTIFY__WEB__TOKEN": f"{CANARY}-notify",
    "NOTIFY__CHANNELS__HOOK__URL": f"http://127.0.0.1:1/{CANARY}",
    "NOTIFY__CHANNELS__HOOK__SIGNING_SECRET": f"{CANARY}-signing",
    "NOTIFY__CHANNELS__HOOK__HEADERS__AUTHORIZATION": f"Bearer {CANARY}",
    "NOTIFY__CHANNELS__CHAT__URL": f"json://127.0.0.1:1/{CANARY}",
}
ENVIRONMENT = {ENVIRONMENT_PREFIX + key: value for key, value in SECRETS.items()}
SETTINGS = """\
name: machines
kafka:
  bootstrap: 127.0.0.1:1
  request_timeout_s: 1
  security: {{protocol: sasl_plaintext, mechanism: SCRAM-SHA-512, username: alice}}
stream: {{topics: [machines], entity: machine, timestamp: ts}}
features: [cpu, load]
training: {{files: [{files}]}}
alerts: {{topic: machine-alerts, rate: 0.01}}
store: {{url: {store}}}
web: {{port: 0}}
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    (tmp_path / "past.ndjson").write_bytes(b"\n".join(records(2_000)))
    path = tmp_path / "offnominal.yaml"
    path.write_text(SETTINGS.format(files=tmp_path / "past.ndjson", store=tmp_path / "store"))
    return path


ONE_AFTER_ANOTHER = """
import shlex, sys
from detector.cli import main
for line in sys.stdin:
    sys.argv = ["offnominal", *shlex.split(line)]
    try:
        main()
    except SystemExit as end:
        print("exit", end.code)
"""


def test_no_command_says_a_secret_and_no_version_keeps_one(config: Path, tmp_path: Path) -> None:
    past = tmp_path / "past.ndjson"
    commands = (
        "train",
        "check",
        "check --json",
        "models list",
        "alerts",
        "notify --test",
        f"backtest --json --files '{past}'",
    )
    done = subprocess.run(
        [sys.executable, "-c", ONE_AFTER_ANOTHER],
        input="\n".join(f"{command} -c '{config}'" for command in commands),
        env={**os.environ, **ENVIRONMENT},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    exits = [line for line in done.stdout.splitlines() if line.startswith("exit")]
    assert exits == ["exit 0", "exit 1", "exit 1", "exit 0", "exit 1", "exit 1", "exit 0"], done.stderr
    kept = [path for path in (tmp_path / "store").rglob("*") if path.is_file()]
    assert len(kept) > 3
    assert CANARY not in done.stdout + done.stderr
    assert [path for path in kept if CANARY.encode() in path.read_bytes()] == []


def test_settings_show_stars_however_they_are_shown(config: Path) -> None:
    settings = load(config, ENVIRONMENT)
    assert settings.kafka.security.password is not None
    assert settings.kafka.security.password.get_secret_value() == f"{CANARY}-password"
    shown = f"{settings} {settings!r} {settings.model_dump()} {settings.model_dump_json()} {settings.model_copy()!r}"
    assert CANARY not in shown
    assert "**********" in shown


def test_what_goes_wrong_with_the_broker_shows_no_secret(config: Path) -> None:
    settings = load(config, ENVIRONMENT)
    with pytest.raises(StreamError) as refused:
        KafkaPythonBroker(settings.kafka, group="tests", client_id="tests").partitions(["machines"])
    assert CANARY not in "".join(traceback.format_exception(refused.value))


def test_a_trainings_process_is_told_of_the_settings_file_alone(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []

    class Daemon:
        def __init__(self, _settings: object, _broker: object, *, training_command: list[str], **_more: object) -> None:
            told.extend(training_command)
            raise OffnominalError("told enough")

    monkeypatch.setattr(run, "Daemon", Daemon)
    with pytest.raises(OffnominalError, match="told enough"):
        run.run_daemon(load(config, ENVIRONMENT), config)
    assert told == [sys.executable, "-m", "detector", "retrain", "--child", "--config", str(config)]


def test_a_token_and_its_provider_show_nothing(tmp_path: Path) -> None:
    (tmp_path / "token").write_text(CANARY)
    provider = TokenFile(tmp_path / "token")
    assert str.__str__(provider.token()) == CANARY
    assert CANARY not in f"{provider!r} {provider.token()!r} {[provider.token()]}"


Wrong = Callable[[dict[str, Any]], object]
WRONG: dict[str, Wrong] = {
    "a number for a password": lambda it: it["kafka"]["security"].update(password=int(CANARY)),
    "a list for a password": lambda it: it["kafka"]["security"].update(password=[CANARY]),
    "a map for a password": lambda it: it["kafka"]["security"].update(password={"is": CANARY}),
    "a password twice": lambda it: it["kafka"]["security"].update(password=CANARY, password_file="x"),
    "a password without a user": lambda it: it["kafka"].update(security={"mechanism": "PLAIN", "password": CANARY}),
    "a password under another key": lambda it: it["kafka"]["security"].update(pasword=CANARY),
    "a password beside a wrong protocol": lambda it: it["kafka"]["security"].update(protocol="tls", password=CANARY),
    "a token of another type": lambda it: it.update(web={"token": [CANARY], "port": "x"}),
    "a text for the group": lambda it: it["kafka"].update(security=f"password={CANARY}"),
    "a number for an address": lambda it: it.update(notify={"channels": {"hook": {"url": int(CANARY)}}}),
    "an address in place of a channel": lambda it: it.update(notify={"channels": {"hook": f"json://{CANARY}"}}),
    "an address in place of all channels": lambda it: it.update(notify={"channels": f"json://{CANARY}"}),
    "a text for headers": lambda it: it.update(notify={"channels": {"hook": {"url": "x", "headers": CANARY}}}),
    "an address twice": lambda it: it.update(notify={"channels": {"hook": {"url": CANARY, "url_file": "x"}}}),
    "a list for the group": lambda it: it["kafka"].update(security=[CANARY]),
}


@pytest.mark.parametrize("what", WRONG)
def test_wrong_settings_are_told_without_what_is_secret_in_them(config: Path, what: str) -> None:
    data = yaml.safe_load(config.read_text())
    WRONG[what](data)
    config.write_text(yaml.safe_dump(data))
    with pytest.raises(OffnominalError) as refused:
        load(config, {})
    assert CANARY not in "".join(traceback.format_exception(refused.value))


@pytest.mark.parametrize(
    "text", [f"name: [{CANARY}", f"kafka: {{password: {CANARY}}}}}", f"\t{CANARY}: x", f"? {CANARY}\n\0"]
)
def test_a_file_that_is_no_yaml_is_not_quoted(tmp_path: Path, text: str) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text(text)
    with pytest.raises(OffnominalError) as refused:
        load(path, {})
    assert CANARY not in "".join(traceback.format_exception(refused.value))


def test_a_variable_that_is_no_yaml_is_not_quoted(config: Path) -> None:
    for variable in ("KAFKA__SECURITY", "WEB"):
        with pytest.raises(OffnominalError) as refused:
            load(config, {ENVIRONMENT_PREFIX + variable: f"{{token: {CANARY}"})
        assert CANARY not in "".join(traceback.format_exception(refused.value))


def test_the_settings_that_hold_secrets_are_all_masked() -> None:
    """A new setting whose name sounds like a secret must be one, or the name of a file."""

    def walk(group: Any, path: str) -> list[str]:
        found = []
        for key, info in group.model_fields.items():
            inner = groups_in(info.annotation)
            found += [line for one in inner for line in walk(one, f"{path}{key}.")]
            if not inner and any(word in key for word in ("password", "token", "secret")) and not key.endswith("_file"):
                found.append(f"{path}{key}: {info.annotation}")
        return found

    found = walk(DetectorSettings, "")
    assert len(found) >= 3
    assert [line for line in found if "SecretStr" not in line] == []
