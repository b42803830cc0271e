"""What a tool of the world is: a schema, a function over a town and a session's changes, and a way to guess its result.

`run` is total: it answers or raises `Refusal`, whose text the caller reads. It never touches the town. `guess` makes up a result of the
right shape without looking anything up: what a demonstrator writes who skips the call.
"""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

from cacherl.tool_spec import Function, ToolSpec
from demo.world.town import Changes, Town

Arguments = dict[str, Any]


class Refusal(Exception):
    """The tool cannot answer; the text is what the caller gets."""


@dataclass(frozen=True)
class Tool:
    """One tool."""

    name: str
    description: str
    parameters: dict[str, str]
    """Argument → JSON type; all are required."""
    run: Callable[[Town, Changes, Arguments], dict[str, Any]]
    guess: Callable[[Random, Arguments], dict[str, Any]]
    mutating: bool = False

    def spec(self) -> ToolSpec:
        """The tool in OpenAI function format. It says nothing about mutation: that is for the recordings to show."""
        return ToolSpec(
            type="function",
            function=Function(
                name=self.name,
                description=self.description,
                parameters={
                    "type": "object",
                    "properties": {name: {"type": kind} for name, kind in self.parameters.items()},
                    "required": list(self.parameters),
                },
            ),
        )

    def check(self, arguments: Arguments) -> None:
        """Refuses arguments that the schema does not allow.

        Raises:
            Refusal: an argument is missing, unknown or of the wrong type.
        """
        for name in arguments:
            if name not in self.parameters:
                raise Refusal(f"unknown argument {name}")
        for name, kind in self.parameters.items():
            if name not in arguments:
                raise Refusal(f"missing argument {name}")
            value = arguments[name]
            wanted = int if kind == "integer" else str
            if not isinstance(value, wanted) or isinstance(value, bool):
                raise Refusal(f"{name} must be of type {kind}")


def found(records: dict[str, Any], key: str, what: str) -> Any:
    """The record of that key.

    Raises:
        Refusal: there is none.
    """
    if key not in records:
        raise Refusal(f"no such {what}")
    return records[key]
