"""The engine seam: token ids in, token ids and log-probs out, as they finish.

An engine takes a *batch* of generation requests and yields each completion when it is done, so that one slow episode never holds
the others. Nothing here is text: a prompt is ids, a completion is ids, and what was sampled is never tokenised again (method §4).
Every completion names the policy version that its tokens were sampled from; an engine never answers as a version that it does not hold.
"""

from collections.abc import AsyncIterator, Sequence
from enum import StrEnum
from typing import Protocol

from pydantic import BaseModel, ConfigDict, Field


class FinishReason(StrEnum):
    """Why a turn ended."""

    STOP = "stop"
    """The end-of-turn token was sampled; it is the last id of the completion."""
    LENGTH = "length"
    """The turn reached its `max_tokens`, or the engine's context is full."""
    ABORT = "abort"
    """The engine gave the request up (cancelled, weights changed); its tokens are kept, the episode is not scored."""


class PolicyVersion(BaseModel):
    """The weights that tokens are sampled from: a policy's name and its integer version."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(min_length=1, max_length=120, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    version: int = Field(ge=0)

    def __str__(self) -> str:
        return f"{self.name}@{self.version}"


class Sampling(BaseModel):
    """How one turn is sampled. Temperature 0 is greedy. Log-probs are of softmax(logits / temperature), before the ban of `min_tokens`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    temperature: float = Field(default=1.0, ge=0, le=10)
    top_p: float = Field(default=1.0, gt=0, le=1)
    max_tokens: int = Field(default=256, ge=1)
    """Tokens of this turn at most."""
    min_tokens: int = Field(default=0, ge=0)
    """The end-of-turn token is banned before this many tokens were sampled (method §4.6: at turn 0 only)."""
    seed: int | None = None
    """Seed of this request's draws; engines that cannot honour one say so in `EngineInfo.seeded`."""


class GenerationRequest(BaseModel):
    """One turn to generate."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str
    """Unique among the requests in flight; an engine keeps the KV rows of `episode` between its turns."""
    episode: str
    ids: list[int]
    """The whole prefix of the episode, ids_T; the next turn's prefix is always an extension of this one plus its completion."""
    sampling: Sampling


class VersionSpan(BaseModel):
    """From completion position `start` on, tokens were sampled from `version`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    start: int = Field(ge=0)
    version: int = Field(ge=0)


class Completion(BaseModel):
    """One generated turn: ids_N with one log-prob each. `ids` includes the end-of-turn token when it was sampled."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str
    ids: list[int]
    logprobs: list[float]
    finish_reason: FinishReason
    policy: PolicyVersion
    versions: list[VersionSpan] = []
    """Spans where weights changed inside the turn; empty where one version sampled all of it. `policy` is then the oldest."""


class EngineInfo(BaseModel):
    """What an engine is and holds."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: str
    """`embedded`, `sglang`, `scripted`."""
    policies: list[PolicyVersion]
    context_length: int
    vocabulary: int | None = None
    seeded: bool
    """Whether `Sampling.seed` is honoured."""


class Engine(Protocol):
    """What the rollout service asks of any engine. Errors: `cacherl.errors.EngineError` (away, refused), never a silent partial answer."""

    def generate(self, policy: PolicyVersion, requests: Sequence[GenerationRequest]) -> AsyncIterator[Completion]:
        """Yields one completion per request, in the order in which they finish. Closing the iterator aborts what is in flight."""
        ...

    async def load(self, policy: PolicyVersion, path: str, sha256: str) -> None:
        """Makes the engine hold `policy`: `path` is relative to the shared weights root; returns when it does, and its digest agreed."""
        ...

    async def forget(self, episodes: Sequence[str]) -> None:
        """Lets go of the KV rows of finished episodes. Unknown episodes are ignored."""
        ...

    async def info(self) -> EngineInfo:
        """What the engine is and which policy versions it holds."""
        ...

    async def close(self) -> None:
        """Closes connections. The engine itself goes on."""
        ...
