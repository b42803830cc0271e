"""The component that serves a cache over MCP: it renders on the base, fits the schemas, and its command is one that there is."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import typer
import yaml

from cacherl.cli.app import app

ROOT = Path(__file__).parents[2]
COMPONENT = ROOT / "deploy/k8s/components/mcp-proxy"
Manifest = dict[str, Any]


def objects() -> list[Manifest]:
    return [document for document in yaml.safe_load_all((COMPONENT / "mcp-proxy.yaml").read_text()) if document]


def deployed() -> Manifest:
    (deployment,) = [document for document in objects() if document["kind"] == "Deployment"]
    return deployment["spec"]["template"]["spec"]


def parses(command: list[str]) -> Manifest:
    """The options of a `cacherl …` command line. Errors: click's, for one that there is not."""
    parsed, (name, *words) = typer.main.get_command(app), command
    assert name == "cacherl"
    while children := getattr(parsed, "commands", None):
        parsed = children[words.pop(0)]
    with parsed.make_context("proxy", words) as context:
        return context.params


@pytest.mark.parametrize("version", ["1.31", "1.37"])
def test_every_object_fits_the_strict_schema(version: str) -> None:
    for document in objects():
        kubernetes_validate.validate(document, version, strict=True)


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="LOUD SKIP: no kubectl here; the component cannot be rendered on its base")
def test_it_renders_on_the_base(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "deploy/k8s", tmp_path / "k8s")
    overlay = tmp_path / "k8s/overlay"
    overlay.mkdir()
    (overlay / "kustomization.yaml").write_text("resources: [../base]\ncomponents: [../components/mcp-proxy]\n")
    rendered = subprocess.run(["kubectl", "kustomize", str(overlay)], capture_output=True, text=True, check=True, timeout=60).stdout
    named = {document["metadata"]["name"]: document for document in yaml.safe_load_all(rendered) if document["kind"] == "Deployment"}
    (container,) = named["mcp-proxy"]["spec"]["template"]["spec"]["containers"]
    assert container["image"] == "cacherl/service:0.1.0"
    assert container["envFrom"][0]["configMapRef"]["name"].startswith("mcp-proxy-")


def test_its_command_is_one_and_lets_nobody_in_without_a_key() -> None:
    (container,) = deployed()["containers"]
    literals = yaml.safe_load((COMPONENT / "kustomization.yaml").read_text())["configMapGenerator"][0]["literals"]
    values = dict(literal.split("=", 1) for literal in literals)
    command = [values[word[2:-1]] if word.startswith("$(") else word for word in container["command"]]
    options = parses(command)
    assert (options["mode"], options["host"], options["port"]) == ("replay", "0.0.0.0", container["ports"][0]["containerPort"])  # noqa: S104
    assert {"mcp-proxy", values["PROXY_ALLOWED_HOST"]} <= set(options["allowed_host"])
    assert not any(variable["name"].startswith("CACHERL_KEY") for variable in container["env"])


def test_its_pod_fits_the_restricted_profile_and_has_time_to_stop() -> None:
    pod = deployed()
    (container,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"]
    assert pod["automountServiceAccountToken"] is False
    context = container["securityContext"]
    assert context == {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}
    assert pod["terminationGracePeriodSeconds"] > container["lifecycle"]["preStop"]["sleep"]["seconds"] + 5


def test_compose_serves_it_likewise() -> None:
    service = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]["mcp-proxy"]
    options = parses(service["command"])
    assert (options["host"], options["port"], service["profiles"]) == ("0.0.0.0", 8005, ["mcp"])  # noqa: S104
    assert "CACHERL_KEY" not in service["environment"]


def test_the_image_has_the_extra() -> None:
    assert (ROOT / "Dockerfile").read_text().count(",mcp") == 2
