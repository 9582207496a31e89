from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from detector.cli import app
from detector.commands.terminal import SHUTDOWN_S
from detector.config_service import HealthSettings
from detector.loading import ENVIRONMENT_PREFIX, parse
from detector.reference import REQUIRED
from detector.sd_notify import LOOK_S, STARTING_US

FOLDER = Path(__file__).parents[2] / "deploy" / "systemd"
UNIT = FOLDER / "offnominal@.service"
MOST_EXPOSED = 2.0

needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd here")


def options(path: Path) -> dict[str, list[str]]:
    """The values of each option in the order they are given; an option may be given again."""
    found = dict[str, list[str]]()
    for line in path.read_text(encoding="utf-8").splitlines():
        name, is_one, value = line.partition("=")
        if is_one and not line.startswith("#"):
            found.setdefault(name, []).append(value)
    return found


def only(name: str) -> str:
    (value,) = options(UNIT)[name]
    return value


def analyzed(*arguments: str) -> str:
    done = subprocess.run(["systemd-analyze", *arguments], capture_output=True, text=True, timeout=60, check=False)
    return done.stdout + done.stderr


@needs_systemd
def test_little_is_exposed() -> None:
    said = analyzed("security", "--offline=true", "--no-pager", str(UNIT))
    exposure = re.search(r"Overall exposure level for \S+: ([\d.]+)", said)
    assert exposure is not None, said
    assert float(exposure[1]) <= MOST_EXPOSED


@needs_systemd
def test_systemd_finds_nothing_to_mend_in_the_unit_with_its_secrets(tmp_path: Path) -> None:
    installed = tmp_path / UNIT.name  # as it would be, but for a program that is there
    installed.write_text(UNIT.read_text().replace("/opt/offnominal/bin/offnominal", sys.executable))
    drop_in = tmp_path / f"{UNIT.name}.d" / "secrets.conf"
    drop_in.parent.mkdir()
    shutil.copy(FOLDER / "secrets.conf", drop_in)
    assert analyzed("verify", "--man=no", str(installed)) == ""


def test_the_command_is_one_that_there_is() -> None:
    _, command, *arguments = shlex.split(only("ExecStart"))
    help_of = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "200", "NO_COLOR": "1"})
    assert help_of.exit_code == 0
    assert arguments == ["--config", "/etc/offnominal/%i.yaml"]
    assert arguments[0] in help_of.output


def test_deadlines_leave_the_daemon_the_time_it_takes() -> None:
    assert only("Type") == "notify"
    assert float(only("TimeoutStopSec")) > SHUTDOWN_S
    assert float(only("TimeoutStartSec")) > LOOK_S, "the first word has to come before the deadline that it puts off"
    assert STARTING_US / 1e6 > 2 * LOOK_S
    assert LOOK_S < float(only("WatchdogSec")) < HealthSettings().watchdog


def test_a_training_gets_no_signal_of_its_own() -> None:
    assert only("KillMode") == "mixed"


def test_what_trainings_ask_of_the_system_is_let_through() -> None:
    allowed, denied, again = options(UNIT)["SystemCallFilter"]
    assert allowed == "@system-service"
    assert "@resources" in denied
    assert again == "setpriority", "os.nice"
    assert "MemoryDenyWriteExecute" not in options(UNIT), "numba makes machine code"


def test_versions_and_compiled_code_have_a_place_that_can_be_written() -> None:
    assert only("ProtectSystem") == "strict"
    assert only("WorkingDirectory") == f"/var/lib/{only('StateDirectory')}"
    assert f"NUMBA_CACHE_DIR=/var/cache/{only('CacheDirectory')}" in only("Environment").split()


def test_the_user_is_the_one_that_is_made() -> None:
    kind, name, *_ = (FOLDER / "offnominal.sysusers.conf").read_text().splitlines()[-1].split()
    assert (kind, name) == ("u", only("User"))


def test_secrets_reach_settings_that_there_are() -> None:
    found = options(FOLDER / "secrets.conf")
    credentials = {f"%d/{value.partition(':')[0]}" for value in found["LoadCredential"]}
    environment = dict(value.split("=") for value in found["Environment"])
    assert set(environment.values()) == credentials
    settings = parse(
        {
            **REQUIRED,
            "kafka": {
                "bootstrap": "kafka:9093",
                "security": {
                    "protocol": "sasl_ssl",
                    "mechanism": "SCRAM-SHA-512",
                    "username": "offnominal",
                    "password_file": environment[f"{ENVIRONMENT_PREFIX}KAFKA__SECURITY__PASSWORD_FILE"],
                },
            },
            "web": {"host": "0.0.0.0", "token_file": environment[f"{ENVIRONMENT_PREFIX}WEB__TOKEN_FILE"]},
        }
    )
    assert settings.web.token_file == Path("%d/web-token")
