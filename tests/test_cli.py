"""The command line as a user runs it: a process of its own against a real broker."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pytest

from consumers.batch import Message
from consumers.kafka_python import KafkaPythonBroker
from consumers.producer import Producer
from consumers.settings import KafkaSettings
from tests.detector.machines import records

OFFNOMINAL = [sys.executable, "-m", "detector"]
DEADLINE_S = 60


def offnominal(*arguments: str | Path, timeout_s: float = DEADLINE_S) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*OFFNOMINAL, *map(str, arguments)],
        env={**os.environ, "COLUMNS": "160"},
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )


@contextmanager
def running(*arguments: str | Path) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [*OFFNOMINAL, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def lines_until(stream: IO[str] | None, event: str) -> list[dict[str, object]]:
    """Log lines up to the first with this event."""
    assert stream is not None
    seen = []
    for line in stream:
        seen.append(json.loads(line))
        if seen[-1]["event"] == event:
            return seen
    raise AssertionError(f"'{event}' was never logged: {seen}")


def send(bootstrap: str, topic: str, values: list[bytes]) -> None:
    with Producer(KafkaSettings(bootstrap=bootstrap), client_id="tests") as producer:
        for value in values:
            producer.send(Message(topic, b"key", value))


@pytest.fixture
def topic(bootstrap: str, unique: str) -> str:
    """A topic with 3,000 records."""
    broker = KafkaPythonBroker(KafkaSettings(bootstrap=bootstrap), group=unique, client_id="tests")
    broker.create_topics({unique: 1})
    send(bootstrap, unique, records(3_000))
    return unique


@pytest.fixture
def config(bootstrap: str, topic: str, tmp_path: Path) -> Path:
    """A settings file that `init` wrote, with a store and a web port of its own."""
    path = tmp_path / "offnominal.yaml"
    written = offnominal("init", topic, "--bootstrap", bootstrap, "--output", path)
    assert written.returncode == 0, written.stderr
    with path.open("a", encoding="utf-8") as file:
        file.write(f"\nstore: {{url: {tmp_path / 'store'}, poll: 100ms}}\nweb: {{port: {free_port()}}}\n")
    return path


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port


def port_of(config: Path) -> str:
    return config.read_text().split("web: {port: ")[1].split("}")[0]


def get(config: Path, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port_of(config)}{path}", timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_help_imports_no_heavy_library() -> None:
    code = (
        "import sys; sys.argv = ['offnominal', '--help']\n"
        "from detector.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print(sorted({'torch', 'kafka', 'numba', 'numpy', 'pydantic', 'rich', 'sklearn'} & set(sys.modules)))"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.splitlines()[-1] == "[]"
    assert "demo" in shown.stdout


def test_a_wrong_setting_is_told_in_a_line_and_exits_with_2(tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text("name: x\nkafka: {bootstrap: 127.0.0.1:1}\nstream: {topic: a}\nalerts: {topic: b}\n")
    for command in ("train", "run", "alerts"):
        refused = offnominal(command, "-c", path)
        assert refused.returncode == 2
        assert "stream.topic: no such setting. Did you mean 'topics'?" in refused.stderr
        assert "Traceback" not in refused.stderr


def test_a_dead_broker_is_told_in_a_line(tmp_path: Path) -> None:
    path = tmp_path / "dead.yaml"
    path.write_text(
        f"name: x\nkafka: {{bootstrap: '127.0.0.1:{free_port()}'}}\nstream: {{topics: [a]}}\n"
        f"features: [cpu]\nalerts: {{topic: b}}\nstore: {{url: {tmp_path / 'store'}}}\n"
    )
    refused = offnominal("train", "-c", path)
    assert refused.returncode == 1
    assert "refused" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_check_names_what_is_missing_and_then_ticks_everything(config: Path, topic: str) -> None:
    before = {check["name"]: check for check in json.loads(offnominal("check", "-c", config, "--json").stdout)}
    assert before["broker"]["ok"]
    assert before["topics to read"]["ok"]
    assert "creates it" in before["topics to write"]["detail"]
    assert not before["model"]["ok"]
    assert "offnominal train" in before["model"]["remedy"]
    assert offnominal("train", "-c", config).returncode == 0
    after = {check["name"]: check["ok"] for check in json.loads(offnominal("check", "-c", config, "--json").stdout)}
    assert after == dict.fromkeys(after, True)


def test_init_train_run_and_follow_as_the_readme_says(config: Path, bootstrap: str, topic: str) -> None:
    trained = offnominal("train", "-c", config, "--json")
    assert trained.returncode == 0, trained.stderr
    version = json.loads(trained.stdout)["version"]
    (listed,) = json.loads(offnominal("models", "list", "-c", config, "--json").stdout)
    assert (listed["version"], listed["champion"]) == (version, True)

    with running("run", "-c", config) as daemon:
        lines_until(daemon.stderr, "partitions")
        send(bootstrap, topic, records(900, start=3_000, odd={3_250: {"cpu": 9.0}}))
        with running("alerts", "-c", config, "--json") as follower:
            assert follower.stdout is not None
            found = [json.loads(follower.stdout.readline()) for _ in range(2)]
        assert get(config, "/readyz")[0] == 200
        assert get(config, "/healthz")[0] == 200
        assert "offnominal_records_total" in get(config, "/metrics")[1]
        daemon.send_signal(signal.SIGTERM)
        _, rest = daemon.communicate(timeout=DEADLINE_S)
        assert daemon.returncode == 0
        assert json.loads(rest.splitlines()[-1])["event"] == "stopped"
    assert {alert["version"] for alert in found} == {version}

    followed = offnominal("alerts", "-c", config, "--json", "--last", "1000", "--no-follow").stdout.splitlines()
    assert 3_250 in {json.loads(line)["source"]["offset"] for line in followed}


def test_a_dry_run_prints_alerts_and_publishes_nothing(config: Path, bootstrap: str, topic: str) -> None:
    assert offnominal("train", "-c", config).returncode == 0
    config.write_text(config.read_text().replace("kafka:", "kafka:\n  start: earliest", 1))
    send(bootstrap, topic, records(300, start=3_000, odd={3_250: {"cpu": 9.0}}))
    with running("run", "-c", config, "--dry-run") as daemon:
        assert daemon.stdout is not None
        assert json.loads(daemon.stdout.readline())["kind"] == "opened"
        daemon.send_signal(signal.SIGTERM)
        daemon.communicate(timeout=DEADLINE_S)
        assert daemon.returncode == 0
    broker = KafkaPythonBroker(KafkaSettings(bootstrap=bootstrap), group="x", client_id="tests")
    assert broker.partitions([f"{topic}-alerts"]) == {}


def test_a_version_trained_meanwhile_is_taken_by_the_running_daemon(config: Path, bootstrap: str, topic: str) -> None:
    trained = offnominal("train", "-c", config, "--json")
    first = json.loads(trained.stdout)["version"]
    with running("run", "-c", config) as daemon:
        lines_until(daemon.stderr, "partitions")
        second = json.loads(offnominal("train", "-c", config, "--json").stdout)["version"]
        seen = lines_until(daemon.stderr, "another version serves")
    assert seen[-1]["version"] == second != first
    assert first in offnominal("models", "rollback", "-c", config).stdout


def test_the_demo_prints_its_figures_as_one_json_object_last(tmp_path: Path) -> None:
    report = tmp_path / "report.html"
    shown = offnominal("demo", "--seconds", "1", "--json", "--report", report, timeout_s=240)
    assert shown.returncode == 0, shown.stderr
    figures = json.loads(shown.stdout.splitlines()[-1])
    assert figures["records"] == figures["scored"] == 23_703
    assert figures["dead_letters"] == 0
    assert (figures["events"], figures["promised_per_day"]) == (26, 12)
    assert 6 <= figures["false_alarms_per_day"] <= 24
    assert figures["events_found"] >= 22
    assert figures["realised_rate"] <= 0.02
    page = report.read_text(encoding="utf-8")
    assert "data:image/png;base64" in page
    assert "http://" not in page
    assert "https://" not in page
