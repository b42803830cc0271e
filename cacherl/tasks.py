"""Trajectories become tasks: what the agent was asked, with which tools, and what a right episode looks like (method §5, References).

One task per task id. Its messages are those before the assistant's first; of a dialogue that is the user's first word, and the reference
ends where the user speaks again, for the policy never hears it. The reference comes from a trajectory that is labelled true, else from an
unlabelled one (the metadata says so), never from a flawed one. Among several the way that most of them went wins (the same calls answered
without error, in order), then the fewest failed calls, then the first: a lucky short cut is no reference where it is rare. Its calls are
those that were answered without error; its answer is the last thing that the assistant said in it.

`facts` are the answer's literals that come from tool results and that the question does not already name: a right answer repeats them
whatever its wording. Where there are none, facts are null.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from cacherl.literals import as_literal, fields, number_forms, parsed, position, stands_in
from cacherl.tool_call import ToolCall, exact_key
from cacherl.trajectory import Fact, Message, Reference, Role, Task, Trajectory

__all__ = ["facts_of", "split", "tasks_from"]

MAX_FACTS = 16


@dataclass
class _Way:
    """Runs of a task that made the same calls: how many, and the one with the fewest failures."""

    best: Trajectory
    failures: int
    runs: int = 1


@dataclass
class _Runs:
    """What is kept of a task's trajectories: one whole for every way that they went."""

    first: Trajectory
    ids: list[str] = field(default_factory=list)
    ways: dict[tuple[bool, bytes], _Way] = field(default_factory=dict)
    """By (labelled, digest of the calls)."""

    def add(self, trajectory: Trajectory) -> None:
        self.ids.append(trajectory.id)
        if trajectory.outcome.label is not None and not trajectory.outcome.accepted:
            return
        heard = _heard(trajectory.messages)
        failures = sum(m.is_error for m in heard)
        calls = b"".join(exact_key(call.name, call.arguments) for call in _answered(heard))
        way = self.ways.setdefault((trajectory.outcome.accepted, hashlib.sha256(calls).digest()), _Way(trajectory, failures, 0))
        way.runs += 1
        if failures < way.failures:
            way.best, way.failures = trajectory, failures

    def reference(self) -> Trajectory | None:
        if not self.ways:
            return None
        return self.ways[max(self.ways, key=lambda way: (way[0], self.ways[way].runs, -self.ways[way].failures))].best


def tasks_from(trajectories: Iterable[Trajectory], *, exclude_own: bool = False) -> Iterator[Task]:
    """One task per task id, in the order of their first trajectory. With `exclude_own` no recording of its own answers it."""
    by_task: dict[str, _Runs] = {}
    for trajectory in trajectories:
        by_task.setdefault(trajectory.task_id, _Runs(trajectory)).add(trajectory)
    for task_id, runs in by_task.items():
        task = _task(task_id, runs, exclude_own)
        if task is not None:
            yield task


def split(tasks: Sequence[Task], share: float, seed: int) -> tuple[list[Task], list[Task]]:
    """(kept, held out), by the hash of seed and task id: a task's side does not depend on the others.

    Only where luck would leave a side empty does one task change it (two tasks or more, 0 < share < 1).
    """
    points = {task.id: _point(task.id, seed) for task in tasks}
    held = {name for name, point in points.items() if point < share}
    if 0 < share < 1 and len(points) > 1:
        held = held or {min(points, key=points.__getitem__)}
        if len(held) == len(points):
            held.remove(max(points, key=points.__getitem__))
    return [t for t in tasks if t.id not in held], [t for t in tasks if t.id in held]


def facts_of(answer: str, messages: Sequence[Message]) -> list[Fact] | None:
    """The answer's literals that stand in results among `messages` and not in what the user or system said; null where there are none."""
    said = "\n".join(m.content or "" for m in messages if m.role in (Role.USER, Role.SYSTEM)).casefold()
    folded, found = answer.casefold(), dict[str, int]()
    for message in messages:
        if message.role is Role.TOOL and not message.is_error:
            for _, value in fields(parsed(message.content or "")):
                literal = as_literal(value)
                at = _where(literal, folded) if literal else None
                if literal and at is not None and not _named(literal, said):
                    found.setdefault(literal, at)
    widest = [v for v in found if not any(v != other and stands_in(v, other.casefold()) for other in found)]
    facts = [Fact(value=v, aliases=number_forms(v)) for v in sorted(widest, key=lambda v: (found[v], v))]
    return facts[:MAX_FACTS] or None


def _where(literal: str, folded: str) -> int | None:
    """Where prose states a literal, in any of its writings."""
    places = (position(form, folded) for form in (literal, *number_forms(literal)))
    return next((at for at in places if at is not None), None)


def _named(literal: str, said: str) -> bool:
    return _where(literal, said) is not None


def _point(task_id: str, seed: int) -> float:
    return int.from_bytes(hashlib.sha256(f"{seed}|{task_id}".encode()).digest()[:8], "big") / 2**64


def _heard(messages: Sequence[Message]) -> list[Message]:
    """The messages up to where the user speaks again."""
    begun = False
    for i, message in enumerate(messages):
        if begun and message.role is Role.USER:
            return list(messages[:i])
        begun = begun or message.role is Role.ASSISTANT
    return list(messages)


def _task(task_id: str, runs: _Runs, exclude_own: bool) -> Task | None:
    best = runs.reference()
    source = best or runs.first
    prompt = _prompt(source.messages)
    if not prompt:
        return None
    marked = "none" if best is None else "accepted" if best.outcome.accepted else "unlabelled"
    metadata: dict[str, Any] = {"reference": marked, "trajectories": len(runs.ids)}
    if best is not None:
        metadata["reference_source"] = best.id
    if len(_heard(source.messages)) < len(source.messages):
        metadata["dialogue"] = True
    return Task(
        id=task_id,
        messages=prompt,
        tools=source.tools,
        scenario=source.scenario,
        exclude_sources=runs.ids if exclude_own else [],
        reference=_reference(best) if best is not None else None,
        metadata=metadata,
    )


def _prompt(messages: Sequence[Message]) -> list[Message]:
    end = next((i for i, m in enumerate(messages) if m.role is Role.ASSISTANT), len(messages))
    return list(messages[:end])


def _reference(trajectory: Trajectory) -> Reference:
    heard = _heard(trajectory.messages)
    last = next((m for m in reversed(heard) if m.role is Role.ASSISTANT), None)
    answer = last.content if last is not None and not last.tool_calls and (last.content or "").strip() else None
    return Reference(answer=answer, calls=_answered(heard), facts=facts_of(answer, heard) if answer else None)


def _answered(heard: Sequence[Message]) -> list[ToolCall]:
    """The calls that were answered without error, without their ids."""
    answered = {m.tool_call_id for m in heard if m.role is Role.TOOL and not m.is_error}
    return [ToolCall(name=c.function.name, arguments=c.function.arguments) for m in heard for c in m.tool_calls if c.id in answered]
