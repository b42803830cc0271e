"""NeMo-Gym rollouts (NVIDIA-NeMo/Gym): `responses_create_params`, a `response` whose output goes on where the input ends, and `reward`.

Items of OpenAI's Responses API become chat messages: what the assistant says, thinks and calls before the next result or user is one
message. Refused, by name: rows that are tasks and have no response, rollouts without a single tool result, items of other kinds (the
provider's own tools, references), and dialogues in which the simulated user called tools of its own: what those changed is in no message
of the agent's, so no later result of the agent's tools could be keyed rightly.

The label is the reward, except where the gym says that the rollout must not count (`mask_sample`: the user or a simulated tool failed).
The scenario is the environment that the record names, else the file; with it what the record's own world starts from, as a digest: tau2's
`initial_state`, or the scenario, policy and tools that a simulated world is made of.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

from cacherl.errors import DataError
from cacherl.importers.conversation import conversation
from cacherl.importers.fields import first_name, prompt_digest
from cacherl.importers.tools import tool_specs
from cacherl.tool_call import canonical, dump_canonical
from cacherl.trajectory import Outcome, Raw, Role, Trajectory

__all__ = ["NeMoGymImporter"]

_WORLD = ("customer_scenario", "policy", "tools")
"""Fields that a simulated world is made of."""
_TEXTS = ("input_text", "output_text", "text", "summary_text", "reasoning_text")


class NeMoGymImporter:
    """Reads rollouts of any of the gym's environments."""

    name: ClassVar[str] = "nemo_gym"

    def __init__(self, path: Path, scenario: str | None) -> None:
        self.path, self.scenario, self.notes = path, scenario, list[str]()
        self.stem = path.name.split(".json")[0]
        if scenario is None:
            self.notes.append(f"scenario {self.stem!r} where a record names no environment")

    @staticmethod
    def recognise(record: dict[str, Any]) -> str | None:
        """Why a record is in this format, or None."""
        return "records with responses_create_params" if "responses_create_params" in record else None

    def trajectory(self, record: dict[str, Any], line: int, repairs: list[str]) -> Trajectory:
        """The trajectory of a rollout; raises `DataError` for what it refuses."""
        asked, response = record.get("responses_create_params"), record.get("response")
        if not isinstance(response, dict):
            raise DataError("a task without a response", pointer="/response", slug="not-a-rollout")
        if not isinstance(asked, dict):
            raise DataError("no parameters", pointer="/responses_create_params", slug="not-a-rollout")
        _no_tool_of_the_users(record)
        messages = conversation(list(_chat(asked, response)), repairs)
        if not any(message.role is Role.TOOL for message in messages):
            raise DataError("no tool answered anything", pointer="/response/output", slug="no-tool-results")
        domain = first_name(record.get("config"), "domain")
        named = first_name(record.get("task"), "id") or first_name(record, "id", "task_id", "_ng_task_index")
        task = "-".join(part for part in (domain, named) if part) or prompt_digest(messages)
        trial = first_name(record, "_ng_rollout_index")
        return Trajectory(
            id=f"{self.stem}:{task}:{trial or line}",
            messages=messages,
            tools=list(tool_specs(asked.get("tools"), repairs)),
            scenario=self.scenario or self._scenario(record, domain),
            task_id=task,
            trial=trial,
            model=first_name(response, "model"),
            outcome=_outcome(record),
            raw=Raw(file=str(self.path), line=line),
        )

    def _scenario(self, record: dict[str, Any], domain: str | None) -> str:
        environment = first_name(record, "environment_name") or first_name(record.get("agent_ref"), "name") or self.stem
        start = _start(record)
        digest = hashlib.sha256(dump_canonical(canonical(start))).hexdigest()[:16] if start else None
        return "/".join(part for part in (environment, domain, digest) if part)


def _start(record: dict[str, Any]) -> Any:
    """What the record's own world starts from; nothing where all of the environment's records start alike."""
    if record.get("customer_scenario"):
        return {name: record.get(name) for name in _WORLD}
    task = record.get("task")
    return task.get("initial_state") if isinstance(task, dict) else None


def _outcome(record: dict[str, Any]) -> Outcome:
    instance = record.get("instance_config")
    if isinstance(instance, dict) and instance.get("mask_sample"):
        return Outcome(source="nemo_gym: masked")
    reward = record.get("reward")
    if isinstance(reward, bool | int | float):
        return Outcome(label=float(reward), source="nemo_gym reward")
    return Outcome()


def _no_tool_of_the_users(record: dict[str, Any]) -> None:
    """Raises where a simulated user called tools, which only the gym's own record of the dialogue (`result`) shows."""
    result = record.get("result")
    said = result.get("messages") if isinstance(result, dict) else None
    for i, message in enumerate(said if isinstance(said, list) else ()):
        calls = message.get("tool_calls") if isinstance(message, dict) else None
        if any(isinstance(call, dict) and call.get("requestor") == "user" for call in calls or ()):
            raise DataError("the user called a tool", pointer=f"/result/messages/{i}", slug="user-called-tools")


def _chat(asked: dict[str, Any], response: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The messages of the dialogue in chat form."""
    if asked.get("instructions"):
        yield {"role": "system", "content": asked["instructions"]}
    turn = _Turn()
    for pointer, item in _items(asked, response):
        kind = item.get("type") or "message"
        if kind == "message" and item.get("role") != "assistant":
            yield from turn.ended()
            yield {"role": item.get("role"), "content": item.get("content")}
        elif kind == "function_call_output":
            yield from turn.ended()
            yield {"role": "tool", "tool_call_id": item.get("call_id"), "content": item.get("output"), "status": item.get("status")}
        elif kind == "message":
            yield from turn.said(_text(item.get("content"), pointer))
        elif kind == "reasoning":
            yield from turn.thought(_text(item.get("content") or item.get("summary"), pointer))
        elif kind == "function_call":
            turn.called(item)
        else:
            raise DataError(f"an item of the kind {kind!r}", pointer=f"{pointer}/type", slug="item-kind")
    yield from turn.ended()


def _items(asked: dict[str, Any], response: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """(pointer, item) of the input and of the output."""
    for place, raw in (("/responses_create_params/input", asked.get("input")), ("/response/output", response.get("output"))):
        items = [{"role": "user", "content": raw}] if isinstance(raw, str) else raw
        if not isinstance(items, list):
            raise DataError("no list of items", pointer=place, slug="no-messages")
        for i, item in enumerate(items):
            if not isinstance(item, dict):
                raise DataError("an item is not an object", pointer=f"{place}/{i}", slug="not-a-message")
            yield f"{place}/{i}", item


def _text(content: Any, pointer: str) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    parts = content if isinstance(content, list) else [content]
    texts = [part.get("text") for part in parts if isinstance(part, dict) and part.get("type") in _TEXTS]
    if len(texts) != len(parts) or not all(isinstance(text, str) for text in texts):
        raise DataError("content with parts that are not text", pointer=f"{pointer}/content", slug="content-not-text")
    return "".join(map(str, texts))


class _Turn:
    """What the assistant does until a result or somebody else comes: one message, or several where it speaks several times."""

    def __init__(self) -> None:
        self.content, self.thinking, self.calls = list[str](), list[str](), list[dict[str, Any]]()

    def said(self, text: str) -> Iterator[dict[str, Any]]:
        if self.content and not self.calls:
            yield from self.ended()
        self.content.append(text)

    def thought(self, text: str) -> Iterator[dict[str, Any]]:
        if self.content and not self.calls:
            yield from self.ended()
        self.thinking.append(text)

    def called(self, item: dict[str, Any]) -> None:
        function = {"name": item.get("name"), "arguments": item.get("arguments")}
        self.calls.append({"id": item.get("call_id"), "type": "function", "function": function})

    def ended(self) -> Iterator[dict[str, Any]]:
        if self.content or self.thinking or self.calls:
            thinking = "\n\n".join(text for text in self.thinking if text)
            yield {
                "role": "assistant",
                "content": "\n\n".join(self.content) or None,
                "reasoning_content": thinking or None,
                "tool_calls": self.calls,
            }
        self.content, self.thinking, self.calls = [], [], []
