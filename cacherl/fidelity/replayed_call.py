"""Recorded calls as a fidelity replay sees them: each with the calls before it, its key and its situation."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from cacherl.api.cache import HistoryItem
from cacherl.errors import DataError
from cacherl.fidelity.false_hit import Served
from cacherl.recordings import answered_calls
from cacherl.tier import CallOutcome, ToolResult
from cacherl.tool_call import ToolCall, exact_key
from cacherl.tool_spec import ToolSpec
from cacherl.trajectory import Trajectory

__all__ = ["ReplayedCall", "replayed_calls"]


@dataclass(frozen=True, slots=True)
class ReplayedCall:
    """One recorded call with its true result."""

    trajectory: str
    task: str
    scenario: str
    step: int
    """Its number among the answered calls of tools that the run had, as ingestion numbers them; -1 for a tool that it did not have."""
    call: ToolCall
    true: ToolResult
    history: tuple[HistoryItem, ...]
    """The calls before it that may have changed something, as they were recorded."""
    occurrence: int
    """How often this key came before in the trajectory."""
    asked: Served


def replayed_calls(trajectories: Iterable[Trajectory], specs: Mapping[str, ToolSpec]) -> Iterator[ReplayedCall]:
    """Every answered call, in order. `specs` are the cache's: their annotations say what is a read and never moves the state."""
    for trajectory in trajectories:
        yield from _calls(trajectory, specs)


def _calls(trajectory: Trajectory, specs: Mapping[str, ToolSpec]) -> Iterator[ReplayedCall]:
    offered = {spec.name for spec in trajectory.tools}
    history: tuple[HistoryItem, ...] = ()
    situation = hashlib.blake2b(trajectory.scenario.encode("utf-8", "surrogatepass"), digest_size=16)
    seen: dict[bytes, int] = {}
    step = 0
    for made, answer in answered_calls(trajectory.messages):
        call, spec = made.call, specs.get(made.function.name)
        had = not offered or call.name in offered
        key = _key(call, spec)
        if answer is not None:
            true = ToolResult(content=answer.content if answer.content is not None else "", is_error=answer.is_error)
            yield ReplayedCall(
                trajectory=trajectory.id,
                task=trajectory.task_id,
                scenario=trajectory.scenario,
                step=step if had else -1,
                call=call,
                true=true,
                history=history,
                occurrence=seen.get(key, 0),
                asked=Served(key, situation.digest()),
            )
            seen[key] = seen.get(key, 0) + 1
        else:
            true = ToolResult(content="", is_error=True)  # nobody knows whether it happened: as a miss
        step += answer is not None and had
        if had and (spec is None or spec.annotations.mutating is not False):
            outcome = CallOutcome.EXACT if answer is not None else CallOutcome.MISS
            history = (*history, HistoryItem(call=call, outcome=outcome, result=true))
            situation.update(key)


def _key(call: ToolCall, spec: ToolSpec | None) -> bytes:
    try:
        return exact_key(call.name, call.arguments, spec)
    except DataError:  # no canonical form: nothing equals it
        return hashlib.sha256(f"{call.name}\0{call.arguments!r}".encode("utf-8", "surrogatepass")).digest()
