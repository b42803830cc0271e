"""Requests made from a service's own OpenAPI document, right ones and wrong ones: whatever comes, the answer is no server error."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import Case, GenerationMode
from schemathesis.errors import SerializationNotPossible
from schemathesis.schemas import APIOperation

TIMEOUT_S = 20.0
PROBLEM = "application/problem+json"
Known = Mapping[str, str]
"""Path parameters of things that are there: half of the requests ask for those, so that they get past the first look-up."""


@dataclass
class Fuzzed:
    """What was asked and what was wrong with the answers."""

    away: bool = False
    """Whether something that the service needs is away on purpose: 503 with a problem document is then the right answer."""
    requests: int = 0
    statuses: dict[int, int] = field(default_factory=dict)
    operations: set[str] = field(default_factory=set)
    faults: list[str] = field(default_factory=list)

    def take(self, case: Case, headers: Mapping[str, str]) -> None:
        """Sends a case and notes a server error, or a refusal that is no problem document."""
        answer = case.call(headers=dict(headers), timeout=TIMEOUT_S)
        self.requests += 1
        self.operations.add(case.operation.label)
        self.statuses[answer.status_code] = self.statuses.get(answer.status_code, 0) + 1
        kind = answer.headers.get("content-type", [""])[0]
        if answer.status_code >= 500 and not (self.away and answer.status_code == 503 and kind.startswith(PROBLEM)):
            self.faults.append(f"{answer.status_code} {case.as_curl_command()[:600]}\n{answer.text[:300]}")
        elif answer.status_code >= 400 and not kind.startswith(PROBLEM):
            self.faults.append(f"{answer.status_code} without a problem ({kind}) {case.as_curl_command()[:600]}")


@schemathesis.serializer("application/x-ndjson", "application/zstd", "application/octet-stream")
def as_bytes(_: Any, value: Any) -> Any:
    """A body that is bytes."""
    return value if isinstance(value, bytes) else str(value).encode("utf-8", "surrogatepass")


def fuzz(
    url: str, headers: Mapping[str, str], known: Known, *, examples: int, skip: Callable[[APIOperation], bool], away: bool = False
) -> Fuzzed:
    """`examples` right and as many wrong requests for each operation of the document at `url`; always the same ones."""
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
    found = Fuzzed(away)
    for result in schema.get_all_operations():
        operation = result.ok()
        if skip(operation):
            continue
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
            _one(operation, mode, found, headers, known, examples)
    return found


def _one(operation: APIOperation, mode: GenerationMode, found: Fuzzed, headers: Mapping[str, str], known: Known, examples: int) -> None:
    turn = 0

    quick = {"deadline": None, "database": None, "phases": [Phase.generate], "suppress_health_check": list(HealthCheck)}

    @seed(20260614)
    @settings(max_examples=examples, **quick)
    @given(case=operation.as_strategy(generation_mode=mode))
    def ask(case: Case) -> None:
        nonlocal turn
        turn += 1
        if turn % 2:
            for name in case.path_parameters:
                if name in known:
                    case.path_parameters[name] = known[name]
        found.take(case, headers)

    try:
        ask()
    except (Unsatisfiable, SerializationNotPossible):
        return  # nothing wrong can be made of an operation without parameters
