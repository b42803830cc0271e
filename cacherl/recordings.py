"""Recorded calls of a trajectory: which message answers which call, and the calls as the lines that the cache API takes."""

from collections.abc import Iterator, Sequence

from cacherl.api.cache import EntryLine, HistoryItem
from cacherl.tier import CallOutcome, ToolResult
from cacherl.trajectory import Message, MessageToolCall, Role, Trajectory


def answered_calls(messages: Sequence[Message]) -> list[tuple[MessageToolCall, Message | None]]:
    """The calls of a conversation in order, each with the tool message that answers it: by id, or by position where ids are absent."""
    found: list[tuple[MessageToolCall, Message | None]] = []
    waiting: list[int] = []
    for message in messages:
        if message.role is Role.ASSISTANT:
            waiting = list(range(len(found), len(found) + len(message.tool_calls)))
            found += [(made, None) for made in message.tool_calls]
        elif message.role is Role.TOOL and waiting:
            index = next((i for i in waiting if message.tool_call_id is not None and found[i][0].id == message.tool_call_id), None)
            if index is None and (message.tool_call_id is None or found[waiting[0]][0].id is None):
                index = waiting[0]
            if index is not None:
                waiting.remove(index)
                found[index] = (found[index][0], message)
    return found


def entry_lines(trajectory: Trajectory) -> Iterator[EntryLine]:
    """One line per answered call, in order, each with the calls before it. A call without a result is left out."""
    history: list[HistoryItem] = []
    for step, (made, answer) in enumerate(pair for pair in answered_calls(trajectory.messages) if pair[1] is not None):
        assert answer is not None
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
