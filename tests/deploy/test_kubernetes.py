from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from detector.commands.terminal import SHUTDOWN_S
from detector.config import DetectorSettings
from detector.loading import load
from detector.web.guard import PROBES

FOLDER = Path(__file__).parents[2] / "deploy" / "kubernetes"
KUSTOMIZED = sorted(path.parent for path in FOLDER.rglob("kustomization.yaml"))
RENDERED = ["base", "overlays/production", "overlays/gpu"]
CORE = ("v1", "apps/v1", "policy/v1", "networking.k8s.io/v1")
"""Versions of the kinds that every cluster knows."""
UNITS = {"Mi": 2**20, "Gi": 2**30}

needs_kubectl = pytest.mark.skipif(shutil.which("kubectl") is None, reason="there is no kubectl here")


def documents(text: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(text))


def written(folder: str) -> list[dict[str, Any]]:
    """What the manifests of a folder hold, as they stand there."""
    listed = yaml.safe_load((FOLDER / folder / "kustomization.yaml").read_text()).get("resources", [])
    return [document for name in listed for document in documents((FOLDER / folder / name).read_text())]


def rendered(folder: str) -> list[dict[str, Any]]:
    """What a cluster would be given."""
    done = subprocess.run(
        ["kubectl", "kustomize", str(FOLDER / folder)], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    return documents(done.stdout)


def the(kind: str, resources: list[dict[str, Any]]) -> dict[str, Any]:
    (found,) = [resource for resource in resources if resource["kind"] == kind]
    return found


def pod(resources: list[dict[str, Any]]) -> dict[str, Any]:
    spec: dict[str, Any] = the("StatefulSet", resources)["spec"]["template"]["spec"]
    return spec


def container(resources: list[dict[str, Any]]) -> dict[str, Any]:
    (found,) = pod(resources)["containers"]
    assert isinstance(found, dict)
    return found


def values_of(key: str, value: Any) -> Iterator[Any]:
    """What stands under a key, at any depth."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, below in inner:
        if name == key:
            yield below
        yield from values_of(key, below)


@pytest.fixture
def base() -> list[dict[str, Any]]:
    return written("base")


@pytest.fixture
def settings() -> DetectorSettings:
    return load(FOLDER / "base" / "offnominal.yaml", {})


@pytest.mark.parametrize("folder", KUSTOMIZED, ids=lambda path: str(path.relative_to(FOLDER)))
def test_all_that_is_listed_is_there_and_all_that_is_there_is_listed(folder: Path) -> None:
    kustomization = yaml.safe_load((folder / "kustomization.yaml").read_text())
    generated = [name for generator in kustomization.get("configMapGenerator", []) for name in generator["files"]]
    patches = [patch["path"] for patch in kustomization.get("patches", []) if "path" in patch]
    listed = {*kustomization.get("resources", []), *kustomization.get("components", []), *generated, *patches}
    assert all((folder / name).exists() for name in listed)
    assert {path.name for path in folder.glob("*.yaml")} == {name for name in listed if "/" not in name} | {
        "kustomization.yaml"
    }


def test_patches_name_what_the_base_has(base: list[dict[str, Any]]) -> None:
    there = {(resource["kind"], resource["metadata"]["name"]) for resource in base}
    for folder in KUSTOMIZED:
        for patch in yaml.safe_load((folder / "kustomization.yaml").read_text()).get("patches", []):
            if "path" in patch:
                aimed = yaml.safe_load((folder / patch["path"]).read_text())
                at = (aimed["kind"], aimed["metadata"]["name"])
                assert [it["name"] for it in aimed["spec"]["template"]["spec"]["containers"]] == [
                    container(base)["name"]
                ], "another name would be another container beside it"
            else:
                at = (patch["target"]["kind"], patch["target"]["name"])
            assert at in there


def test_kinds_that_every_cluster_knows_fit_its_schemas(base: list[dict[str, Any]]) -> None:
    assert {resource["apiVersion"] for resource in base} == set(CORE)
    valid(base)


def valid(resources: list[dict[str, Any]]) -> None:
    """Raises where the schemas of Kubernetes do not fit, or do not know a key."""
    text = yaml.safe_dump_all(resources)
    command = [sys.executable, "-m", "kubernetes_validate", "--strict", "-"]
    done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (done.stdout + done.stderr).count(" passed for resource ") == len(resources), done.stdout + done.stderr


@needs_kubectl
@pytest.mark.parametrize("folder", RENDERED)
def test_what_a_cluster_is_given_is_valid_and_in_one_namespace(folder: str) -> None:
    resources = rendered(folder)
    valid([resource for resource in resources if resource["apiVersion"] in CORE])
    namespace = the("Namespace", resources)["metadata"]["name"]
    assert {it["metadata"]["namespace"] for it in resources if it["kind"] != "Namespace"} == {namespace}


@needs_kubectl
@pytest.mark.parametrize("folder", RENDERED)
def test_whatever_selects_selects_the_replicas(folder: str) -> None:
    resources = rendered(folder)
    labels = the("StatefulSet", resources)["spec"]["template"]["metadata"]["labels"]
    selectors = [
        selector.get("matchLabels", selector)
        for key in ("selector", "podSelector", "labelSelector")
        for selector in values_of(key, resources)
    ]
    assert len(selectors) >= 6
    for selector in selectors:
        assert selector, "an empty one is everybody"
        assert selector.items() <= labels.items()


@needs_kubectl
def test_replicas_run_with_the_settings_of_their_manifests(settings: DetectorSettings) -> None:
    resources = rendered("overlays/production")
    made = the("ConfigMap", resources)
    (mounted,) = [volume["configMap"]["name"] for volume in pod(resources)["volumes"] if "configMap" in volume]
    assert mounted == made["metadata"]["name"]
    *_, path = container(resources)["args"]
    assert [Path(path).name] == list(made["data"])


def test_probes_ask_for_paths_that_answer_without_a_token(base: list[dict[str, Any]]) -> None:
    probes = {name: container(base)[name]["httpGet"] for name in ("startupProbe", "livenessProbe", "readinessProbe")}
    assert {name: probe["path"] for name, probe in probes.items()} == {
        "startupProbe": "/healthz",
        "livenessProbe": "/healthz",
        "readinessProbe": "/readyz",
    }
    assert {probe["path"] for probe in probes.values()} == set(PROBES)


def test_ports_are_the_daemons(base: list[dict[str, Any]], settings: DetectorSettings) -> None:
    (port,) = container(base)["ports"]
    (service,) = the("Service", base)["spec"]["ports"]
    assert port["containerPort"] == service["port"] == settings.web.port
    probed = [probe["port"] for probe in values_of("httpGet", container(base))]
    let_in = [entry["port"] for rule in the("NetworkPolicy", base)["spec"]["ingress"] for entry in rule["ports"]]
    assert {port["name"]} == {*probed, *let_in, service["targetPort"]}


def test_secrets_are_files_of_the_mounted_secret(base: list[dict[str, Any]], settings: DetectorSettings) -> None:
    mounts = {mount["name"]: Path(mount["mountPath"]) for mount in container(base)["volumeMounts"]}
    security = settings.kafka.security
    for path in (security.password_file, security.ca_file, settings.web.token_file):
        assert path is not None
        assert path.parent == mounts["secrets"]
    assert {volume["name"] for volume in pod(base)["volumes"]} == set(mounts)


def test_replicas_are_told_apart_by_the_name_that_they_keep(base: list[dict[str, Any]]) -> None:
    variables = {it["name"]: it for it in container(base)["env"]}
    field = variables["OFFNOMINAL__KAFKA__INSTANCE"]["valueFrom"]["fieldRef"]["fieldPath"]
    assert field == "metadata.name"
    assert the("StatefulSet", base)["spec"]["serviceName"] == the("Service", base)["metadata"]["name"]


def test_a_replica_has_the_time_to_leave_and_the_memory_to_train(
    base: list[dict[str, Any]], settings: DetectorSettings
) -> None:
    assert pod(base)["terminationGracePeriodSeconds"] > SHUTDOWN_S
    limit = container(base)["resources"]["limits"]["memory"]
    assert settings.training.max_memory + 1e9 < int(limit[:-2]) * UNITS[limit[-2:]]


def test_pods_meet_the_restricted_standard(base: list[dict[str, Any]]) -> None:
    labels = the("Namespace", base)["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
    assert pod(base)["securityContext"]["runAsNonRoot"] is True
    assert pod(base)["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    own = container(base)["securityContext"]
    assert own == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    dockerfile = (FOLDER.parents[1] / "Dockerfile").read_text()
    assert f"USER {pod(base)['securityContext']['runAsUser']}:" in dockerfile


def test_keda_follows_the_group_and_the_topic_of_the_settings(
    base: list[dict[str, Any]], settings: DetectorSettings
) -> None:
    component = written("components/keda")
    scaled, authentication = the("ScaledObject", component)["spec"], the("TriggerAuthentication", component)
    target = {"kind": scaled["scaleTargetRef"]["kind"], "name": scaled["scaleTargetRef"]["name"]}
    assert target["name"] == the(target["kind"], base)["metadata"]["name"]
    kafka, cpu = scaled["triggers"]
    assert (kafka["type"], cpu["type"], cpu["metricType"]) == ("kafka", "cpu", "Utilization")
    assert "cpu" in container(base)["resources"]["requests"], "a share of nothing is no share"
    told = kafka["metadata"]
    assert told["bootstrapServers"] == settings.kafka.bootstrap
    assert told["consumerGroup"] == settings.group
    assert [told["topic"]] == settings.stream.topics
    assert told["offsetResetPolicy"] == settings.kafka.start
    assert told["sasl"] == str(settings.kafka.security.mechanism).lower().replace("-", "_").replace("sha_", "sha")
    assert (told["tls"] == "enable") == settings.kafka.security.protocol.endswith("ssl")
    assert kafka["authenticationRef"]["name"] == authentication["metadata"]["name"]
    assert all(isinstance(value, str) for trigger in scaled["triggers"] for value in trigger["metadata"].values())
    assert 1 <= scaled["minReplicaCount"] < scaled["maxReplicaCount"]


def test_keda_alone_says_how_many_replicas_there_are() -> None:
    (patch,) = yaml.safe_load((FOLDER / "components" / "keda" / "kustomization.yaml").read_text())["patches"]
    assert yaml.safe_load(patch["patch"]) == [{"op": "remove", "path": "/spec/replicas"}]


def test_prometheus_shows_the_token_that_the_daemon_wants(
    base: list[dict[str, Any]], settings: DetectorSettings
) -> None:
    (endpoint,) = the("ServiceMonitor", written("components/monitoring"))["spec"]["endpoints"]
    (secret,) = [volume["secret"]["secretName"] for volume in pod(base)["volumes"] if "secret" in volume]
    assert settings.web.token_file is not None
    assert endpoint["authorization"]["credentials"] == {"name": secret, "key": settings.web.token_file.name}
    assert (endpoint["port"], endpoint["path"]) == ("web", "/metrics")


@needs_kubectl
def test_on_a_gpu_the_daemon_wants_it_and_is_given_one() -> None:
    resources = rendered("overlays/gpu")
    assert container(resources)["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert pod(resources)["nodeSelector"]
    assert {"name": "OFFNOMINAL__DEVICE", "value": "cuda"} in container(resources)["env"]
    assert container(resources)["image"].endswith("-cuda")
