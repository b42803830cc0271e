"""Recorded calls of a trajectory, as the lines that the cache API takes."""

from collections.abc import Iterator

from cacherl.api.cache import EntryLine, HistoryItem
from cacherl.tier import CallOutcome, ToolResult
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
