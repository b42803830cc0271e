"""`augment`: trajectories in, the same trajectories with reasoning out, in order (method §2).

It streams: at most `concurrency` trajectories are in work, none is kept. An analytical text moves verbatim into `reasoning_content`;
every other assistant turn is asked of the teacher, refused where it knows the future, asked again, and then left empty. Everything else,
tool calls, results and errors, stays byte for byte. Traces are kept by content hash, so a run that is broken off costs nothing twice.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Sequence
from dataclasses import dataclass

from cacherl.thinking.classify import TurnKind, classify, thought_in
from cacherl.thinking.leaks import Leaks
from cacherl.thinking.teacher import Question, Teacher, Thought, keys
from cacherl.thinking.traces import Traces
from cacherl.trajectory import Message, Role, Trajectory

__all__ = ["AugmentCounts", "augment"]


@dataclass
class AugmentCounts:
    """What a run did. `turns = verbatim + generated + empty`."""

    trajectories: int = 0
    turns: int = 0
    verbatim: int = 0
    """Turns whose own text is their reasoning: teacher calls saved."""
    generated: int = 0
    """Turns with a trace by the teacher."""
    empty: int = 0
    """Turns without reasoning in the end."""
    reused: int = 0
    """Of the generated and empty ones: known from an earlier run."""
    asked: int = 0
    """Traces that the teacher wrote, refused ones included."""
    refused: int = 0
    """Traces that knew the future."""
    tokens_in: int = 0
    tokens_out: int = 0
    cost: float = 0.0

    @property
    def leak_rate(self) -> float:
        """Share of the written traces that were refused."""
        return self.refused / self.asked if self.asked else 0.0


async def augment(
    trajectories: Iterable[Trajectory] | AsyncIterable[Trajectory],
    teacher: Teacher,
    traces: Traces,
    *,
    counts: AugmentCounts | None = None,
    concurrency: int = 16,
    attempts: int = 2,
) -> AsyncIterator[Trajectory]:
    """Yields every trajectory with its reasoning. Raises what the teacher raises when it is away; what was written is kept."""
    counts = counts if counts is not None else AugmentCounts()
    if teacher.free:
        async for trajectory in _each(trajectories):
            yield await _augmented(trajectory, teacher, traces, counts, attempts)
        return
    working: deque[asyncio.Task[Trajectory]] = deque()
    try:
        async for trajectory in _each(trajectories):
            working.append(asyncio.create_task(_augmented(trajectory, teacher, traces, counts, attempts)))
            if len(working) >= concurrency:
                yield await working.popleft()
        while working:
            yield await working.popleft()
    finally:
        for task in working:
            task.cancel()
        await asyncio.gather(*working, return_exceptions=True)


async def _each(trajectories: Iterable[Trajectory] | AsyncIterable[Trajectory]) -> AsyncIterator[Trajectory]:
    if isinstance(trajectories, AsyncIterable):
        async for trajectory in trajectories:
            yield trajectory
    else:
        for trajectory in trajectories:
            yield trajectory


async def _augmented(trajectory: Trajectory, teacher: Teacher, traces: Traces, counts: AugmentCounts, attempts: int) -> Trajectory:
    messages = list(trajectory.messages)
    kinds: dict[int, TurnKind] = {}
    for i, message in enumerate(messages):
        if message.role is Role.ASSISTANT:
            counts.turns += 1
            own = _verbatim(messages, i)
            if own is None:
                kinds[i] = classify(trajectory.messages, i)
            else:
                counts.verbatim += 1
                messages[i] = own
    written = await _written(trajectory, kinds, teacher, traces, counts, attempts)
    for i, text in written.items():
        if text:
            messages[i] = messages[i].model_copy(update={"reasoning_content": text})
    filled = sum(bool(text) for text in written.values())
    counts.generated += filled
    counts.empty += len(written) - filled
    counts.trajectories += 1
    return trajectory.model_copy(update={"messages": messages})


def _verbatim(messages: Sequence[Message], at: int) -> Message | None:
    """The message with its own text as reasoning; None where it has none."""
    message = messages[at]
    if message.reasoning_content:
        return message
    tagged = thought_in(message.content or "")
    if tagged is not None and tagged[0].strip():
        return message.model_copy(update={"reasoning_content": tagged[0], "content": tagged[1]})
    if classify(messages, at) is TurnKind.ANALYTICAL:
        return message.model_copy(update={"reasoning_content": message.content, "content": ""})
    return None


async def _written(
    trajectory: Trajectory, kinds: dict[int, TurnKind], teacher: Teacher, traces: Traces, counts: AugmentCounts, attempts: int
) -> dict[int, str]:
    """The trace of each turn; empty where every attempt was refused."""
    hashes = {} if teacher.free else dict(zip(kinds, keys(trajectory, list(kinds), teacher.identity), strict=True))
    known = await traces.get(list(hashes.values())) if hashes else {}
    written = {i: known[key] for i, key in hashes.items() if key in known}
    counts.reused += len(written)
    leaks = Leaks(trajectory)
    open_turns = [i for i in kinds if i not in written]
    for attempt in range(attempts):
        if not open_turns:
            break
        questions = [_question(trajectory, i, kinds[i], attempt) for i in open_turns]
        thoughts = await teacher.think(questions)
        accepted = {i: t.text.strip() for i, t in zip(open_turns, thoughts, strict=True) if leaks.first(t.text, i) is None}
        _count(counts, thoughts, len(open_turns) - len(accepted))
        written |= accepted
        if hashes:
            await traces.put({hashes[i]: text for i, text in accepted.items()})
        open_turns = [i for i in open_turns if i not in written]
    if hashes and open_turns:
        await traces.put({hashes[i]: "" for i in open_turns})
    return written | dict.fromkeys(open_turns, "")


def _question(trajectory: Trajectory, at: int, kind: TurnKind, attempt: int) -> Question:
    return Question(kind, trajectory.messages[:at], trajectory.messages[at], trajectory.tools, attempt)


def _count(counts: AugmentCounts, thoughts: Sequence[Thought], refused: int) -> None:
    counts.asked += len(thoughts)
    counts.refused += refused
    for thought in thoughts:
        counts.tokens_in += thought.tokens_in
        counts.tokens_out += thought.tokens_out
        counts.cost += thought.cost
