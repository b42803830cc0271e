"""What the live world says: its goal check, and what its tools answer to the calls that a cache answered.

The server is a name in the service's configuration. Nothing here is called while a policy is trained.
"""

from collections.abc import Sequence
from typing import Any

import httpx2
from pydantic import TypeAdapter

from cacherl.episode import Episode, EpisodeCall
from cacherl.errors import LiveToolError, NotFoundError
from cacherl.evaluation import Served
from cacherl.tier import CallOutcome, Tier, ToolResult
from cacherl.tool_call import canonical, dump_canonical
from cacherl.trajectory import Task
from cacherl.wire import Json, Wire

RESULTS = TypeAdapter(list[ToolResult])
HITS = (CallOutcome.EXACT, CallOutcome.FUZZY, CallOutcome.BEST_EFFORT)


class Verdict(Wire):
    """The goal check."""

    success: bool
    state: bool
    answer: bool
    detail: str = ""


class LiveWorld:
    """One live tool server. Errors: `LiveToolError` where it is away or answers something else."""

    def __init__(self, servers: dict[str, str], name: str) -> None:
        if name not in servers:
            raise NotFoundError(f"there is no live server {name} in the trainer's configuration", slug="no-such-live-server")
        self.name = name
        self._http = httpx2.Client(base_url=servers[name], timeout=httpx2.Timeout(30.0, connect=5.0), trust_env=False)

    def close(self) -> None:
        """Closes the connection."""
        self._http.close()

    def succeeded(self, episode: Episode, task: Task) -> bool:
        """Whether a live episode reached the task's goal, in the session that it left."""
        session = f"{episode.rollout}.{episode.group}.{episode.index}"
        return self._check(session, episode, task)

    def replayed(self, episode: Episode, task: Task, served: dict[str, Served]) -> bool:
        """Makes a cached episode's calls again in a fresh session: whether they reach the goal; hits that differ are counted by tier."""
        session = f"replay.{episode.rollout}.{episode.group}.{episode.index}"
        made = [call for call in episode.calls if call.call is not None and call.outcome is not CallOutcome.UNKNOWN_TOOL]
        for call, truth in zip(made, self._calls(session, task.scenario, made), strict=True):
            if call.outcome in HITS:
                row = served.setdefault(str(Tier(call.outcome.value)), Served())
                row.calls += 1
                row.false_hits += not same(call.result, truth)
        success = self._check(session, episode, task)
        self._post("DELETE", f"/sessions/{session}", None)
        return success

    def _check(self, session: str, episode: Episode, task: Task) -> bool:
        goal = task.reference.goal if task.reference is not None else None
        if goal is None:
            raise LiveToolError(f"the task {task.id} has no goal to check", slug="no-goal")
        self._post("POST", "/sessions", {"session": session, "scenario": task.scenario})
        found = self._post("POST", f"/sessions/{session}/check", {"goal": goal, "answer": episode.answer})
        return Verdict.model_validate_json(found).success

    def _calls(self, session: str, scenario: str, calls: Sequence[EpisodeCall]) -> list[ToolResult]:
        if not calls:
            return []
        items = [
            {"session": session, "scenario": scenario, "name": call.call.name, "arguments": call.call.arguments}
            for call in calls
            if call.call is not None
        ]
        body = TypeAdapter(Any).validate_json(self._post("POST", "/calls", {"items": items}))
        return RESULTS.validate_python(body["results"] if isinstance(body, dict) else body)

    def _post(self, method: str, path: str, body: dict[str, Json] | dict[str, Any] | None) -> bytes:
        try:
            answer = self._http.request(method, path, json=body)
        except httpx2.TransportError as error:
            raise LiveToolError(f"the live server {self.name} does not answer ({type(error).__name__})") from error
        if answer.status_code >= 400:
            raise LiveToolError(f"the live server {self.name} answered {answer.status_code} to {method} {path}")
        return answer.content


def same(served: ToolResult, truth: ToolResult) -> bool:
    """Whether two results say the same after normalisation."""
    return served.is_error == truth.is_error and _normal(served.content) == _normal(truth.content)


def _normal(content: Any) -> bytes:
    if isinstance(content, str):
        try:
            content = TypeAdapter(Any).validate_json(content)
        except ValueError:
            content = content.strip()
    return dump_canonical(canonical(content))
