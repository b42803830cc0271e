"""Sessions in a town: open, call, check. Pure of I/O; the same calls in the same town give the same answers, always.

`check` is the truth of the demo: the state that a session left must be the goal's state, and the answer must name the goal's values. No
reward term reads it. An answer longer than `ANSWER_LIMIT` fails: one that lists every code of the town names the right one, too.
"""

import json
import re
from dataclasses import dataclass
from typing import Any

from demo.world import accounts, calendar, handbook, orders
from demo.world.tool import Refusal, Tool
from demo.world.town import Changes, Town, town

ANSWER_LIMIT = 200
"""Characters of an answer at most."""

DOMAINS: dict[str, tuple[Tool, ...]] = {
    "orders": orders.TOOLS,
    "calendar": calendar.TOOLS,
    "accounts": accounts.TOOLS,
    "handbook": handbook.TOOLS,
}
TOOLS: dict[str, Tool] = {tool.name: tool for tools in DOMAINS.values() for tool in tools}


@dataclass(frozen=True)
class Goal:
    """What a task wants: the changes to the town that must stand at the end, and the values that the answer must name."""

    state: dict[str, Any]
    answer: tuple[str, ...]

    def plain(self) -> dict[str, Any]:
        """As JSON: `reference.goal` of a task."""
        return {"state": self.state, "answer": list(self.answer)}


@dataclass(frozen=True)
class Verdict:
    """Whether a goal was reached; `detail` says what is missing."""

    success: bool
    state: bool
    answer: bool
    detail: str


class Session:
    """One visit to a town. Starts from the town's records; keeps its own changes."""

    def __init__(self, scenario: str):
        self.town: Town = town(scenario)
        self.changes = Changes()

    def call(self, name: str, arguments: dict[str, Any]) -> tuple[str, bool]:
        """Runs one tool: (content, is_error). Content is JSON text; an error is `{"error": "..."}` and changes nothing."""
        tool = TOOLS.get(name)
        try:
            if tool is None:
                raise Refusal("unknown tool")
            tool.check(arguments)
            return json.dumps(tool.run(self.town, self.changes, arguments)), False
        except Refusal as refusal:
            return json.dumps({"error": str(refusal)}), True

    def check(self, goal: Goal, answer: str | None) -> Verdict:
        """Compares what the session did and said with a goal."""
        state = self.changes.plain() == Changes(**goal.state).plain()
        absent = [value for value in goal.answer if not names(answer or "", value)]
        said = not absent and len(answer or "") <= ANSWER_LIMIT
        detail = "; ".join(
            text
            for text in (
                "" if state else f"the state is {self.changes.plain()}, wanted {goal.state}",
                f"the answer lacks {', '.join(absent)}" if absent else "",
                "the answer is too long" if len(answer or "") > ANSWER_LIMIT else "",
            )
            if text
        )
        return Verdict(success=state and said, state=state, answer=said, detail=detail or "reached")


def names(answer: str, value: str) -> bool:
    """Whether `value` stands in `answer` as a word of its own: 12 is not named by 120."""
    return re.search(rf"(?<![\w.]){re.escape(value)}(?!\w|\.\d)", answer) is not None
