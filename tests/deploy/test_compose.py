from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from consumers.kafka_python import KafkaPythonBroker
from consumers.settings import KafkaSettings
from consumers.stream import Window
from deploy.compose import producer
from detector.commands.terminal import SHUTDOWN_S
from detector.config import DetectorSettings
from detector.demo.recording import Recording, load_recording
from detector.loading import load

FOLDER = Path(__file__).parents[2] / "deploy" / "compose"
OURS = "offnominal:latest"


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((FOLDER / "compose.yaml").read_text())
    return loaded


@pytest.fixture(scope="module")
def services(compose: dict[str, Any]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = compose["services"]
    return found


@pytest.fixture
def settings() -> DetectorSettings:
    return load(FOLDER / "offnominal.yaml", {})


def test_it_fits_the_specification() -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    done = subprocess.run([*command, FOLDER / "compose.yaml"], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_service_may_do_little(services: dict[str, dict[str, Any]]) -> None:
    for name, service in services.items():
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service.get("read_only", False) or name == "kafka", f"{name}: only the broker's image writes to its root"


def test_images_of_others_are_pinned(services: dict[str, dict[str, Any]]) -> None:
    for service in services.values():
        name, _, tag = service["image"].partition(":")
        assert service["image"] == OURS or (tag and tag != "latest"), name


def test_nothing_can_be_reached_from_other_machines(services: dict[str, dict[str, Any]]) -> None:
    published = [port for service in services.values() for port in service.get("ports", ())]
    assert published
    assert all(port.startswith("127.0.0.1:") for port in published)


def test_every_service_says_whether_it_is_well(services: dict[str, dict[str, Any]]) -> None:
    assert {name for name, service in services.items() if "healthcheck" not in service} == {"offnominal"}, "the image's"


def test_what_is_mounted_is_there(compose: dict[str, Any], services: dict[str, dict[str, Any]]) -> None:
    for name, service in services.items():
        for mount in service.get("volumes", ()):
            source, target, *_ = mount.split(":")
            assert target.startswith("/")
            assert (FOLDER / source).exists() if source.startswith(".") else source in compose["volumes"], (name, mount)
        assert set(service.get("secrets", ())) <= set(compose["secrets"])


def test_secrets_are_files_that_are_never_committed(compose: dict[str, Any]) -> None:
    ignored = (FOLDER / ".gitignore").read_text().split()
    for secret in compose["secrets"].values():
        assert f"{Path(secret['file']).parts[0]}/" in ignored


def test_the_daemon_and_prometheus_read_the_same_token(
    services: dict[str, dict[str, Any]], settings: DetectorSettings
) -> None:
    scraping = yaml.safe_load((FOLDER.parent / "prometheus" / "prometheus.yml").read_text())
    (job,) = [job for job in scraping["scrape_configs"] if job["job_name"] == "offnominal"]
    assert settings.web.token_file == Path("/run/secrets/web-token")
    assert job["authorization"]["credentials_file"] == str(settings.web.token_file)
    assert "web-token" in services["offnominal"]["secrets"]
    assert "web-token" in services["prometheus"]["secrets"]
    assert str(settings.web.port) in services["offnominal"]["ports"][0]


def test_the_daemon_reads_its_broker_and_writes_where_it_may(
    services: dict[str, dict[str, Any]], settings: DetectorSettings
) -> None:
    listeners = services["kafka"]["environment"]["KAFKA_ADVERTISED_LISTENERS"]
    assert f"INSIDE://{settings.kafka.bootstrap}" in listeners.split(",")
    mounted = [mount.split(":")[1] for mount in services["offnominal"]["volumes"]]
    assert any(settings.store.url.startswith(f"{target}/") for target in mounted)
    assert float(services["offnominal"]["stop_grace_period"].removesuffix("s")) > SHUTDOWN_S


def test_the_first_version_waits_for_the_normal_half(settings: DetectorSettings) -> None:
    half = load_recording().half
    assert 0.8 * half < settings.training.min_records < half
    assert settings.training.on_start


def test_the_recording_is_played_into_the_topic(
    bootstrap: str, unique: str, settings: DetectorSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = load_recording()
    short = Recording(whole.metrics, whole.values[:60], whole.labels[:60])
    monkeypatch.setattr(producer, "load_recording", lambda: short)
    kafka = KafkaSettings(bootstrap=bootstrap)
    stream = settings.stream.model_copy(update={"topics": [unique]})
    producer.play(settings.model_copy(update={"kafka": kafka, "stream": stream}), pace_s=0.0)
    broker = KafkaPythonBroker(kafka, group=unique, client_id=unique)
    assert broker.partitions([unique]) == {unique: producer.PARTITIONS}
    values = [value for batch in broker.read([unique], Window()) for value in batch.values]
    assert values == short.records(0, 60)
