"""Which calls are replayed where there are very many: whole tasks, in the order of their hashes, the same order for every tool."""

import hashlib
from collections.abc import Iterable

MAX_CALLS = 5_000
"""Calls of a tool that are replayed, but for those that complete the last task."""


def draw_order(task: str) -> bytes:
    """The place of a task in the draw."""
    return hashlib.sha256(task.encode("utf-8", "surrogatepass")).digest()[:8]


def drawn_tasks(calls_of: Iterable[tuple[str, int]], most: int = MAX_CALLS) -> tuple[list[str], bytes | None]:
    """(the tasks that are replayed, the last one's place where others were left out), from (task, its calls)."""
    tasks: list[str] = []
    total = 0
    ordered = sorted((draw_order(task), task, calls) for task, calls in calls_of)
    for _, task, calls in ordered:
        if tasks and total + calls > most:
            return tasks, draw_order(tasks[-1])
        tasks.append(task)
        total += calls
    return tasks, None
