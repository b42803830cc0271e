"""Messages in OpenAI chat form, as logs hold them, to `Message`: strict, and every repair has a name.

Repaired (the meaning is certain): empty arguments, arguments as an object or encoded twice, content that is JSON instead of text, missing
or repeated call ids, results whose id differs but whose place or tool name tells the call. Refused: arguments that are no JSON object, a
result without a call, unknown roles, content that is not text, nothing that the assistant did. After import every call id is unique in
its trajectory and every result names its call.
"""

from collections.abc import Iterable
from typing import Any

import pydantic_core

from cacherl.errors import DataError
from cacherl.importers.failed import failed
from cacherl.importers.records import parse_json
from cacherl.trajectory import CalledFunction, Message, MessageToolCall, Role

__all__ = ["arguments_of", "conversation"]

_ROLES = {role.value: role for role in Role} | {"developer": Role.SYSTEM}


def conversation(raw: Any, repairs: list[str]) -> list[Message]:
    """The messages. Adds the slug of each repair to `repairs`; raises `DataError` with a slug for what it refuses."""
    if not isinstance(raw, list) or not raw:
        raise DataError("no list of messages", pointer="/messages", slug="no-messages")
    pairing = _Pairing(repairs)
    messages = [_message(item, f"/messages/{i}", pairing, repairs) for i, item in enumerate(raw)]
    if not any(m.role is Role.ASSISTANT for m in messages):
        raise DataError("the assistant did nothing", pointer="/messages", slug="no-assistant-turn")
    return messages


def arguments_of(value: Any, pointer: str, repairs: list[str]) -> dict[str, Any]:
    """The arguments object of a call."""
    if isinstance(value, dict):
        repairs.append("arguments-as-object")
        return value
    if value is None or (isinstance(value, str) and not value.strip()):
        repairs.append("empty-arguments")
        return {}
    try:
        parsed = parse_json(value) if isinstance(value, str) else value
        if isinstance(parsed, str):
            parsed = parse_json(parsed)
            repairs.append("arguments-encoded-twice")
    except ValueError:
        raise DataError(f"arguments are not JSON: {str(value)[:80]!r}", pointer=pointer, slug="arguments-not-json") from None
    if not isinstance(parsed, dict):
        raise DataError(f"arguments are not an object: {str(value)[:80]!r}", pointer=pointer, slug="arguments-not-an-object")
    return parsed


class _Pairing:
    """Which call a result belongs to; makes call ids unique."""

    def __init__(self, repairs: list[str]) -> None:
        self.repairs, self.used, self.pending = repairs, set[str](), list[tuple[str | None, MessageToolCall]]()

    def opened(self, calls: Iterable[tuple[str | None, CalledFunction]]) -> list[MessageToolCall]:
        """The calls of one assistant message, with ids of their own."""
        self.pending = [(logged, MessageToolCall(id=self._fresh(logged), function=function)) for logged, function in calls]
        return [call for _, call in self.pending]

    def answered(self, logged: str | None, name: str | None, pointer: str) -> MessageToolCall:
        """The call that a result with this logged id and tool name answers."""
        for i, (identity, call) in enumerate(self.pending):
            if logged is not None and identity == logged:
                del self.pending[i]
                return call
        for i, (_, call) in enumerate(self.pending):
            if name is None or name == call.function.name:
                self.repairs.append("missing-call-id" if logged is None else "call-id-mismatch")
                del self.pending[i]
                return call
        raise DataError(f"a result answers no call (id {logged!r}, tool {name!r})", pointer=pointer, slug="result-without-call")

    def _fresh(self, logged: str | None) -> str:
        if logged is None:
            self.repairs.append("missing-call-id")
        elif logged in self.used:
            self.repairs.append("repeated-call-id")
        elif logged not in self.used:
            self.used.add(logged)
            return logged
        number = len(self.used)
        while f"call_{number}" in self.used:
            number += 1
        self.used.add(f"call_{number}")
        return f"call_{number}"


def _message(item: Any, pointer: str, pairing: _Pairing, repairs: list[str]) -> Message:
    if not isinstance(item, dict):
        raise DataError("a message is not an object", pointer=pointer, slug="not-a-message")
    role = _ROLES.get(str(item.get("role")))
    if role is None:
        raise DataError(f"unknown role {item.get('role')!r}", pointer=f"{pointer}/role", slug="unknown-role")
    content = _text(item.get("content"), f"{pointer}/content", repairs)
    if role is Role.TOOL:
        name = item.get("name") if isinstance(item.get("name"), str) else None
        call = pairing.answered(_id(item.get("tool_call_id")), name, pointer)
        error = failed(item, content or "")
        return Message(role=role, content=content or "", tool_call_id=call.id, name=call.function.name, is_error=error)
    if role is not Role.ASSISTANT:
        return Message(role=role, content=content)
    if item.get("function_call"):
        raise DataError("`function_call`, the form before `tool_calls`", pointer=f"{pointer}/function_call", slug="function-call-form")
    calls = pairing.opened(_calls(item.get("tool_calls"), f"{pointer}/tool_calls", repairs))
    thinking = item.get("reasoning_content", item.get("reasoning"))
    return Message(role=role, content=content, reasoning_content=thinking if isinstance(thinking, str) else None, tool_calls=calls)


def _calls(raw: Any, pointer: str, repairs: list[str]) -> list[tuple[str | None, CalledFunction]]:
    calls = []
    if raw is not None and not isinstance(raw, list):
        raise DataError("`tool_calls` is not a list", pointer=pointer, slug="not-a-call")
    for i, item in enumerate(raw or ()):
        function = item.get("function") if isinstance(item, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str) or not function["name"]:
            raise DataError("a tool call without a function name", pointer=f"{pointer}/{i}", slug="not-a-call")
        arguments = arguments_of(function.get("arguments"), f"{pointer}/{i}/function/arguments", repairs)
        calls.append((_id(item.get("id")), CalledFunction(name=function["name"], arguments=arguments)))
    return calls


def _id(value: Any) -> str | None:
    return str(value) if isinstance(value, str | int) and not isinstance(value, bool) and value != "" else None


def _text(content: Any, pointer: str, repairs: list[str]) -> str | None:
    """Text, text parts joined, or JSON written as text."""
    if content is None or isinstance(content, str):
        return content
    if isinstance(content, list) and content and all(isinstance(part, dict) and "type" in part for part in content):
        texts = [part.get("text") for part in content if part["type"] in ("text", "input_text", "output_text")]
        if len(texts) != len(content) or not all(isinstance(text, str) for text in texts):
            raise DataError("content with parts that are not text", pointer=pointer, slug="content-not-text")
        return "".join(str(text) for text in texts)
    repairs.append("content-as-json")
    return pydantic_core.to_json(content).decode()
