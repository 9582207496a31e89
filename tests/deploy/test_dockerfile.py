from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

from detector.config_service import WebSettings

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
NOT_RUN = {"dev", "demo", "docs", "ray"}
"""Extras that no daemon wants: of people at work on the project, and of backtests over many machines."""


def test_hadolint_has_nothing_to_say() -> None:
    linter = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([linter, ROOT / "Dockerfile"], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_the_image_has_every_extra_that_a_setting_may_ask_for() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    (installed,) = re.findall(r"'\.\[([a-z0-9,]+)\]'", DOCKERFILE)
    assert set(installed.split(",")) >= set(extras) - NOT_RUN


def test_everything_that_is_copied_is_let_through_to_the_build() -> None:
    let_through = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = {
        name for line in re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, re.MULTILINE) for name in line.split()
    }
    assert copied == let_through
    assert all((ROOT / name).exists() for name in copied)


def test_the_daemon_is_asked_where_it_answers() -> None:
    port = WebSettings().port
    assert f"http://127.0.0.1:{port}/healthz" in DOCKERFILE
    assert f"EXPOSE {port}\n" in DOCKERFILE


def test_what_runs_is_not_root() -> None:
    (user,) = re.findall(r"^USER (\d+):\d+$", DOCKERFILE, re.MULTILINE)
    assert int(user) > 0
    assert f"--uid {user} " in DOCKERFILE
