"""An episode: one rollout of the policy on one task, as one append-only list of token ids (method §4, contracts §4).

What is stored is `ids` and the spans that were sampled; every other position was injected. Mask and log-probs are derived, never stored,
so they cannot disagree with the spans. `violations` names every broken invariant; an episode with one is never trained on.
"""

import hashlib
from collections.abc import Iterator
from enum import StrEnum
from typing import Any, Literal

from pydantic import Field

from cacherl.engine import FinishReason, PolicyVersion, VersionSpan
from cacherl.tier import Agreement, CallOutcome, EntryRef, Preset, ToolResult
from cacherl.tool_call import ToolCall, dump_canonical
from cacherl.trajectory import Message
from cacherl.wire import Json, Time, Wire

SCHEMA = "cacherl.episode/1"


class StopReason(StrEnum):
    """Why an episode ended."""

    FINAL_ANSWER = "final_answer"
    """The policy answered without a call."""
    MAX_TURNS = "max_turns"
    MAX_TOKENS = "max_tokens"
    """The episode's token budget is used up, or a turn reached its length limit."""
    MAX_CALLS = "max_calls"
    CONTEXT_FULL = "context_full"
    """The engine's context has no room for another turn."""
    REPEATED_CALL = "repeated_call"
    """The same call too often in a row."""
    MALFORMED_LIMIT = "malformed_limit"
    """Too many calls in a row that could not be parsed."""
    TIMEOUT = "timeout"
    CANCELLED = "cancelled"
    INFRASTRUCTURE = "infrastructure"
    """Engine, cache or a live tool was away: never scored."""


class EpisodeStatus(StrEnum):
    """Whether an episode may be scored."""

    OK = "ok"
    FAILED = "failed"


class EpisodeCall(Wire):
    """One call of a turn and how it was answered."""

    span: tuple[int, int]
    """[start, end) of the call's sampled ids."""
    call: ToolCall | None
    """None where it could not be parsed."""
    outcome: CallOutcome
    similarity: float | None = None
    fidelity: float | None = None
    entry: EntryRef | None = None
    agreement: Agreement | None = None
    mutating: bool = False
    live: bool = False
    result: ToolResult


class TurnSeconds(Wire):
    """Where a turn's time went."""

    engine: float = 0.0
    tools: float = 0.0


class EpisodeTurn(Wire):
    """One generation: `[start, end)` of `ids` holds sampled ids only, one log-prob each."""

    start: int
    end: int
    logprobs: list[float]
    policy_version: PolicyVersion
    finish_reason: FinishReason
    versions: list[VersionSpan] = []
    calls: list[EpisodeCall] = []
    seconds: TurnSeconds = TurnSeconds()


class EpisodeCache(Wire):
    """What a run's lookups were pinned to."""

    name: str
    revision: int
    view: str
    as_of: Time


class Episode(Wire):
    """One line of an episodes file."""

    schema_: Literal["cacherl.episode/1"] = Field(default=SCHEMA, alias="schema")
    id: str
    rollout: str
    task: str
    """Content hash of the task."""
    task_id: str
    group: int
    index: int
    status: EpisodeStatus
    stop_reason: StopReason
    error: dict[str, Json] | None = None
    cache: EpisodeCache | None = None
    preset: Preset
    seed: int
    template: str
    tokenizer: str
    ids: list[int]
    prompt_length: int
    turns: list[EpisodeTurn]
    messages: list[Message]
    """The task's messages and what followed, as text."""
    hash: str = ""

    model_config = {**Wire.model_config, "populate_by_name": True, "serialize_by_alias": True}

    @property
    def calls(self) -> list[EpisodeCall]:
        """All calls in order."""
        return [call for turn in self.turns for call in turn.calls]

    @property
    def answer(self) -> str | None:
        """The text of the final answer, None where the episode ended otherwise."""
        if self.stop_reason is not StopReason.FINAL_ANSWER:
            return None
        return self.messages[-1].content or ""

    @property
    def scorable(self) -> bool:
        """Whether the reward may look at it: an infrastructure failure is never a reward."""
        return self.status is EpisodeStatus.OK and self.stop_reason not in (StopReason.CANCELLED, StopReason.INFRASTRUCTURE)

    def sealed(self) -> "Episode":
        """A copy whose `hash` is that of its content."""
        return self.model_copy(update={"hash": self.content_hash()})

    def content_hash(self) -> str:
        """sha256 of the canonical form without `id`, `rollout`, `hash` and every `seconds`."""
        body = self.model_dump(mode="json", by_alias=True, exclude={"id", "rollout", "hash"})
        for turn in body["turns"]:
            turn.pop("seconds")
        return hashlib.sha256(dump_canonical(body)).hexdigest()


def masks(episode: Episode) -> tuple[list[int], list[float]]:
    """(mask_T, logprobs_T): 1 and the log-prob at sampled positions, 0 and 0.0 at injected ones."""
    mask_T = [0] * len(episode.ids)
    logprobs_T = [0.0] * len(episode.ids)
    for turn in episode.turns:
        mask_T[turn.start : turn.end] = [1] * (turn.end - turn.start)
        logprobs_T[turn.start : turn.end] = turn.logprobs
    return mask_T, logprobs_T


class Violation(Wire):
    """A broken invariant of an episode."""

    episode: str
    invariant: str
    index: int | None = None
    detail: str = ""


def violations(episode: Episode) -> list[Violation]:
    """Every broken invariant of method §4; empty for a sound episode."""
    return [Violation(episode=episode.id, invariant=i, index=n, detail=d) for i, n, d in _broken(episode)]


def _broken(episode: Episode) -> Iterator[tuple[str, int | None, str]]:
    previous = episode.prompt_length
    total = len(episode.ids)
    if not 0 < episode.prompt_length <= total:
        yield "prompt-inside", None, f"prompt_length {episode.prompt_length} of {total} ids"
    for number, turn in enumerate(episode.turns):
        if not previous <= turn.start < turn.end <= total:
            yield "spans-ordered", number, f"[{turn.start}, {turn.end}) after {previous} of {total}"
        if turn.end - turn.start != len(turn.logprobs):
            yield "one-logprob-per-sampled-id", number, f"{turn.end - turn.start} ids, {len(turn.logprobs)} log-probs"
        if any(value > 1e-6 for value in turn.logprobs):
            yield "logprob-not-positive", number, f"{max(turn.logprobs)}"
        yield from _broken_calls(turn, number)
        previous = turn.end
    if episode.turns and episode.turns[-1].end != total:
        yield "nothing-after-last-sampled", None, f"{total - episode.turns[-1].end} ids after the last sampled one"
    if episode.hash and episode.hash != episode.content_hash():
        yield "hash", None, "the content does not have this hash"


def _broken_calls(turn: EpisodeTurn, number: int) -> Iterator[tuple[str, int | None, str]]:
    end = turn.start
    for call in turn.calls:
        if not end <= call.span[0] < call.span[1] <= turn.end:
            yield "call-inside-turn", number, f"{call.span} in [{turn.start}, {turn.end})"
        end = call.span[1]


def task_hash(task: Any) -> str:
    """Content hash of a task (or tool): sha256 of its sorted JSON."""
    return hashlib.sha256(dump_canonical(task.model_dump(mode="json"))).hexdigest()
