"""Recorded calls of a trajectory, as the lines that the cache API takes."""

import hashlib
from collections.abc import Iterable, Iterator

from cacherl.api.cache import EntryLine, HistoryItem
from cacherl.tier import CallOutcome, ToolResult
from cacherl.tool_call import exact_key
from cacherl.trajectory import Role, Trajectory


def entry_lines(trajectory: Trajectory) -> Iterator[EntryLine]:
    """One line per answered call, in order, each with the calls before it. A call without a result is left out."""
    answers = {m.tool_call_id: m for m in trajectory.messages if m.role is Role.TOOL}
    history: list[HistoryItem] = []
    step = 0
    for message in trajectory.messages:
        for made in message.tool_calls:
            answer = answers.get(made.id)
            if answer is None:
                continue
            result = ToolResult(content=answer.content, is_error=answer.is_error)
            yield EntryLine(
                call=made.call,
                result=result,
                scenario=trajectory.scenario,
                history=list(history),
                source=trajectory.id,
                step=step,
                task=trajectory.task_id,
            )
            history.append(HistoryItem(call=made.call, outcome=CallOutcome.EXACT, result=result))
            step += 1


def without_share(lines: Iterable[EntryLine], share: float, seed: int) -> Iterator[EntryLine]:
    """Leaves out a fixed `share` of the distinct calls of each scenario, every recording of such a call: a cache that lacks them."""
    for line in lines:
        key = exact_key(line.call.name, line.call.arguments)
        digest = hashlib.sha256(f"{seed}/{line.scenario}/".encode() + key).digest()
        if int.from_bytes(digest[:8], "big") / 2**64 >= share:
            yield line
