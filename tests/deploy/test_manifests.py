"""The manifests are tested code: they render, they fit the strict schemas, and what one object names in another is there."""

import importlib
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any, get_type_hints

import kubernetes_validate
import pytest
import yaml

import cacherl
from services.kit.migrate import COMPONENTS
from services.kit.serve import SERVICES

ROOT = Path(__file__).parents[2]
BASE = ROOT / "deploy/k8s/base"
INSTALL = ROOT / "deploy/k8s/install.yaml"
OLDEST, NEWEST = "1.31", "1.37"

Manifest = dict[str, Any]


@cache
def objects() -> list[Manifest]:
    return [document for document in yaml.safe_load_all(INSTALL.read_text()) if document]


def of_kind(kind: str) -> list[Manifest]:
    return [o for o in objects() if o["kind"] == kind]


def pods() -> list[tuple[str, Manifest]]:
    return [(o["metadata"]["name"], o["spec"]["template"]) for o in objects() if o["kind"] in ("Deployment", "Job")]


def containers() -> list[tuple[str, Manifest]]:
    return [(name, container) for name, pod in pods() for container in pod["spec"]["containers"]]


def selected(selector: Manifest) -> list[str]:
    def fits(labels: Manifest) -> bool:
        exact = all(labels.get(key) == value for key, value in (selector.get("matchLabels") or {}).items())
        return exact and all(labels.get(e["key"]) in e["values"] for e in selector.get("matchExpressions", []))

    return [name for name, pod in pods() if fits(pod["metadata"]["labels"])]


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="LOUD SKIP: no kubectl here; install.yaml cannot be held against its source")
def test_install_yaml_is_what_the_base_renders() -> None:
    rendered = subprocess.run(["kubectl", "kustomize", str(BASE)], capture_output=True, text=True, check=True, timeout=60).stdout
    assert rendered == INSTALL.read_text(), "run `make k8s`"


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
def test_every_object_fits_the_strict_schema(version: str) -> None:
    for document in objects():
        kubernetes_validate.validate(document, version, strict=True)


def test_every_selector_matches_a_pod() -> None:
    for service in of_kind("Service"):
        assert selected({"matchLabels": service["spec"]["selector"]}) == [service["metadata"]["name"]]
    for budget in of_kind("PodDisruptionBudget"):
        assert selected(budget["spec"]["selector"]) == [budget["metadata"]["name"]]
    for policy in of_kind("NetworkPolicy"):
        assert selected(policy["spec"]["podSelector"])
        for rule in policy["spec"].get("ingress", []):
            for peer in rule.get("from", []):
                assert "podSelector" not in peer or selected(peer["podSelector"]), policy["metadata"]["name"]


def test_services_and_probes_name_ports_that_exist() -> None:
    ports = {name: {p["name"]: p["containerPort"] for c in pod["spec"]["containers"] for p in c.get("ports", [])} for name, pod in pods()}
    for service in of_kind("Service"):
        name = service["metadata"]["name"]
        for port in service["spec"]["ports"]:
            assert ports[name][port["targetPort"]] == port["port"]
    for name, container in containers():
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            if probe in container:
                assert container[probe]["httpGet"]["port"] in ports[name]


def test_addresses_in_the_configuration_are_services() -> None:
    addresses = {f"http://{s['metadata']['name']}:{s['spec']['ports'][0]['port']}" for s in of_kind("Service")}
    (config,) = of_kind("ConfigMap")
    named = {value for key, value in config["data"].items() if key.endswith("_URL")}
    assert named
    assert named <= addresses
    assert "http://engine:8010" in config["data"]["CACHERL_ENGINES"]


def test_every_variable_is_a_setting() -> None:

    models = [get_type_hints(importlib.import_module(f"services.{name}.app").create)["settings"] for name in SERVICES]
    known = {f"CACHERL_{field.upper()}" for model in models for field in model.model_fields}
    (config,) = of_kind("ConfigMap")
    given = set(config["data"]) | {e["name"] for _, c in containers() for e in c.get("env", [])}
    assert {name.removesuffix("_FILE") for name in given if name.startswith("CACHERL_")} <= known


def test_secrets_and_config_that_pods_name_exist() -> None:
    (config,) = of_kind("ConfigMap")
    written = (ROOT / "scripts/secrets.sh").read_text()
    for _, container in containers():
        for source in container.get("envFrom", []):
            assert source["configMapRef"]["name"] == config["metadata"]["name"]
    paths = [v for v in config["data"].values() if v.startswith("/secrets/")]
    paths += [e["value"] for _, c in containers() for e in c.get("env", []) if e["value"].startswith("/secrets/")]
    for path in paths:
        assert path.removeprefix("/secrets/") in written


def test_a_pod_sees_only_the_secrets_that_it_names() -> None:
    (config,) = of_kind("ConfigMap")
    for name, pod in pods():
        (container,) = pod["spec"]["containers"]
        values = [e["value"] for e in container.get("env", [])] + (list(config["data"].values()) if "envFrom" in container else [])
        named = {value.removeprefix("/secrets/") for value in values if value.startswith("/secrets/")}
        mounted = {item["path"]: item["key"] for v in pod["spec"]["volumes"] if "secret" in v for item in v["secret"]["items"]}
        assert mounted == {secret: secret for secret in named}, name


@pytest.mark.parametrize(("name", "pod"), pods(), ids=[name for name, _ in pods()])
def test_pods_fit_the_restricted_profile(name: str, pod: Manifest) -> None:
    spec = pod["spec"]
    assert spec["securityContext"]["runAsNonRoot"]
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert spec["automountServiceAccountToken"] is False
    assert spec["serviceAccountName"] in {s["metadata"]["name"] for s in of_kind("ServiceAccount")}
    for container in [*spec.get("initContainers", []), *spec["containers"]]:
        context = container["securityContext"]
        assert context["readOnlyRootFilesystem"]
        assert not context["allowPrivilegeEscalation"]
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert "memory" in container["resources"]["limits"]
        assert "cpu" in container["resources"]["requests"]
        assert not container["image"].endswith(":latest")
        assert ":" in container["image"]
    for volume in spec["volumes"]:
        if "persistentVolumeClaim" in volume:
            assert volume["persistentVolumeClaim"]["claimName"] in {c["metadata"]["name"] for c in of_kind("PersistentVolumeClaim")}


def test_a_pod_has_time_to_stop() -> None:
    for name, pod in pods():
        for container in pod["spec"]["containers"]:
            pause = container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
            assert pod["spec"].get("terminationGracePeriodSeconds", 30) > pause, name


def test_the_migration_job_carries_the_release() -> None:
    (job,) = of_kind("Job")
    assert job["metadata"]["name"] == "migrate-" + cacherl.__version__.replace(".", "-")
    assert set(COMPONENTS) == {"kit", "cache_api", "rollout", "reward", "trainer"}


def test_the_engine_finds_its_weights_folder_on_a_new_volume() -> None:
    engine = dict(pods())["engine"]["spec"]
    (container,) = engine["containers"]
    folder = container["command"][container["command"].index("--weights-root") + 1]
    assert ["mkdir", "-p", folder] in [first["command"] for first in engine["initContainers"]]
    assert f"install -d -o 10001 -g 10001 /shared {folder}" in (ROOT / "Dockerfile").read_text()


def test_secret_files_are_readable_inside_and_closed_outside(tmp_path: Path) -> None:
    folder = tmp_path / "secrets"
    folder.mkdir(mode=0o755)
    for _ in range(2):  # the second time the files exist already, and stay
        subprocess.run([str(ROOT / "scripts/secrets.sh"), str(folder)], check=True, capture_output=True, timeout=20)
    files = {path.name: path for path in folder.iterdir()}
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    assert {Path(secret["file"]).name for secret in compose["secrets"].values()} <= set(files)
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in files.values()} == {0o444}
    assert files["password_app"].read_text() in files["database_url"].read_text()


def test_compose_and_kubernetes_agree() -> None:
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    (config,) = of_kind("ConfigMap")
    for name, container in containers():
        key = "migrate" if name.startswith("migrate-") else name
        assert compose["services"][key]["command"] == container["command"]
    for name, pod in pods():
        if grace := pod["spec"].get("terminationGracePeriodSeconds"):
            assert compose["services"][name]["stop_grace_period"] == f"{grace}s", name
    environment = compose["services"]["cache-api"]["environment"]
    shared = set(environment) & set(config["data"])
    assert {k for k in shared if k.endswith("_URL")} == {k for k in config["data"] if k.endswith("_URL")}
    assert all(environment[k] == config["data"][k] for k in shared if k.endswith("_URL"))


def test_compose_fits_its_schema() -> None:
    checked = subprocess.run(
        ["check-jsonschema", "--builtin-schema", "vendor.compose-spec", str(ROOT / "docker-compose.yml")],
        capture_output=True,
        text=True,
        env={"PATH": str(Path(sys.executable).parent)},
        timeout=60,
        check=False,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_compose_containers_are_hardened() -> None:
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    for name, service in services.items():
        if name not in ("postgres", "sglang"):
            assert service["read_only"], name
            assert service["cap_drop"] == ["ALL"], name
            assert service["security_opt"] == ["no-new-privileges:true"], name
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:"), f"{name} listens beyond loopback"
