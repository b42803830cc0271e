"""The OpenAPI documents are the contract: a change shows as a diff of docs/openapi."""

import re
from pathlib import Path

import pytest

from cacherl.errors import PROBLEM_URN
from services.kit.openapi import document, text
from services.kit.serve import SERVICES

ROOT = Path(__file__).parents[2]
METHODS = ("get", "put", "post", "delete", "patch")


@pytest.mark.parametrize("service", SERVICES)
def test_the_snapshot_is_what_the_code_says(service: str) -> None:
    snapshot = ROOT / "docs/openapi" / f"{service}.json"
    assert text(service) == snapshot.read_text(encoding="utf-8"), "run `make openapi` and look at the diff"


@pytest.mark.parametrize("service", SERVICES)
def test_every_operation_needs_a_key_and_declares_its_problems(service: str) -> None:
    for path, operations in document(service)["paths"].items():
        for method in METHODS:
            if path.startswith("/v1") and method in operations:
                operation = operations[method]
                assert operation.get("security"), f"{method} {path} is open"
                assert operation.get("summary"), f"{method} {path} has no summary"
                problems = [r for code, r in operation["responses"].items() if code[0] in "45"]
                assert any("application/problem+json" in r.get("content", {}) for r in problems), f"{method} {path}"


def test_every_problem_is_explained() -> None:
    page = (ROOT / "docs/problems.md").read_text(encoding="utf-8")
    explained = set(re.findall(r"^### ([a-z-]+)$", page, re.MULTILINE))
    sources = [path.read_text(encoding="utf-8") for folder in ("cacherl", "services") for path in (ROOT / folder).rglob("*.py")]
    slugs = {slug for source in sources for slug in re.findall(r'slug="([a-z-]+)"', source)}
    slugs |= {slug for source in sources for slug in re.findall(r'slug, title(?:, status)? = "([a-z-]+)"', source)}
    assert slugs - explained == set(), f"explain them in docs/problems.md ({PROBLEM_URN}<slug>)"
    assert explained - slugs == set(), "docs/problems.md explains what no code says"
