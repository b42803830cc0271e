"""What log formats have in common without saying so: fields that name things, and the task of runs that name none."""

import hashlib
from typing import Any

import orjson

from cacherl.trajectory import Message, Role

__all__ = ["first_name", "prompt_digest"]


def first_name(record: Any, *names: str) -> str | None:
    """The first of these fields of an object that is a text or an integer, as text."""
    for name in names if isinstance(record, dict) else ():
        value = record.get(name)
        if isinstance(value, str | int) and not isinstance(value, bool) and value != "":
            return str(value)
    return None


def prompt_digest(messages: list[Message]) -> str:
    """A task id made of the messages before the assistant's first, so that runs of one prompt form one task."""
    prompt = []
    for message in messages:
        if message.role is Role.ASSISTANT:
            break
        prompt.append([message.role, message.content])
    return "prompt-" + hashlib.sha256(orjson.dumps(prompt)).hexdigest()[:16]
