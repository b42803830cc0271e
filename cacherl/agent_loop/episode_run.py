"""One episode, from its prompt to its last sampled token (method §4).

`ids` is one append-only list: what the engine sampled goes in as it came, what is injected is rendered once, and it goes in only together
with the completion that follows it, so nothing ever stands after the last sampled token. A failure of engine or cache ends the episode as
`failed`: it is recorded, never scored, and takes no sibling with it.
"""

import asyncio
import logging
import time
from array import array
from dataclasses import dataclass

from cacherl.agent_loop.batching import EngineBatcher, LookupBatcher
from cacherl.agent_loop.calls import CallDesk
from cacherl.agent_loop.config import LoopConfig
from cacherl.engine import Completion, FinishReason, GenerationRequest, Sampling
from cacherl.episode import Episode, EpisodeCache, EpisodeCall, EpisodeStatus, EpisodeTurn, StopReason, TurnSeconds, violations
from cacherl.errors import AwayError, CacheRLError, EngineError
from cacherl.rendering import Renderer, Sampled, assistant_message, result_text
from cacherl.trajectory import Message, Role, Task

LEAST_LOGPROB = -1e30
log = logging.getLogger(__name__)


class LookupTimeoutError(AwayError):
    """A call took longer than its limit: the cache's fault or a live tool's, never the policy's."""

    slug, title = "lookup-timeout", "A call was not answered in time"


@dataclass(frozen=True)
class PreparedTask:
    """What the episodes of a group share."""

    task: Task
    group: int
    hash: str
    prompt: list[int]
    """ids_P, rendered once."""


@dataclass(frozen=True)
class Surroundings:
    """What the episodes of a run share."""

    config: LoopConfig
    renderer: Renderer
    engine: EngineBatcher
    lookups: LookupBatcher
    context_length: int
    cache: EpisodeCache


class EpisodeRun:
    """Plays one episode."""

    def __init__(self, around: Surroundings, prepared: PreparedTask, index: int) -> None:
        self._around, self._prepared, self._index = around, prepared, index
        self.id = around.config.new_id()
        self._ids = list(prepared.prompt)
        self._turns: list[EpisodeTurn] = []
        self._messages = list(prepared.task.messages)
        self._glue: list[int] = []
        self._glue_messages: list[Message] = []
        self._thinking_injected = False
        self._status = EpisodeStatus.OK
        self._error: CacheRLError | None = None
        self._desk = CallDesk(around.config, around.renderer, around.lookups, prepared.task, prepared.group, index)

    async def play(self, cancelled: asyncio.Event) -> Episode:
        """The finished episode, whatever happened; raises only where somebody else cancels the task."""
        stop: StopReason
        try:
            async with asyncio.timeout(self._around.config.limits.episode_seconds):
                stop = await self._play()
        except asyncio.CancelledError:
            if not cancelled.is_set():
                raise
            stop = self._fail(StopReason.CANCELLED, CacheRLError("the rollout was cancelled", slug="cancelled"))
        except TimeoutError:
            stop = self._fail(StopReason.TIMEOUT, AwayError("the episode's time ran out while engine or cache worked", slug="timeout"))
        except LookupTimeoutError as error:
            stop = self._fail(StopReason.TIMEOUT, error)
        except CacheRLError as error:
            stop = self._fail(StopReason.INFRASTRUCTURE, error)
        except Exception as error:
            log.exception("an episode ended by an unexpected error")
            stop = self._fail(StopReason.INFRASTRUCTURE, CacheRLError(f"an unexpected {type(error).__name__}; the log has it"))
        finally:
            self._around.engine.finished(self.id)
        return self._episode(stop)

    def _fail(self, stop: StopReason, error: CacheRLError) -> StopReason:
        """Infrastructure and cancellation: never scored."""
        self._status, self._error = EpisodeStatus.FAILED, error
        return stop

    async def _play(self) -> StopReason:
        while True:
            full = self._full()
            if full is not None:
                return full
            started = time.perf_counter()
            completion = await self._around.engine.generate(self._request())
            _demand_sound(completion)
            stop = await self._take(completion, time.perf_counter() - started)
            if stop is not None:
                return stop

    # -- room ---------------------------------------------------------------------------------------------------------------------------

    @property
    def _budget(self) -> int:
        """Tokens that the episode may still grow by."""
        return self._around.config.limits.max_tokens - (len(self._ids) + len(self._glue) - len(self._prepared.prompt))

    @property
    def _context(self) -> int:
        """Tokens that the engine still has room for."""
        return self._around.context_length - len(self._ids) - len(self._glue)

    def _full(self) -> StopReason | None:
        if not self._turns and self._context < 1:
            detail = f"the prompt has {len(self._ids)} tokens, the engine's context {self._around.context_length}"
            return self._fail(StopReason.CONTEXT_FULL, CacheRLError(detail, slug="prompt-too-long"))
        if self._budget < 1:
            return StopReason.MAX_TOKENS
        return StopReason.CONTEXT_FULL if self._context < 1 else None

    def _request(self) -> GenerationRequest:
        config, number = self._around.config, len(self._turns)
        most = min(config.sampling.max_tokens, self._budget, self._context)
        sampling = Sampling(
            temperature=config.sampling.temperature,
            top_p=config.sampling.top_p,
            max_tokens=most,
            min_tokens=min(config.sampling.min_tokens_first_turn, most) if number == 0 else 0,
            seed=config.turn_seed(self._prepared.task.id, self._index, number),
        )
        return GenerationRequest.model_construct(id=f"{self.id}.{number}", episode=self.id, ids=self._ids + self._glue, sampling=sampling)

    # -- a turn -------------------------------------------------------------------------------------------------------------------------

    async def _take(self, completion: Completion, seconds: float) -> StopReason | None:
        """Appends a completion, answers its calls and prepares what is injected next; a reason where the episode ends here."""
        if not completion.ids:
            raise EngineError("the engine gave a request up before its first token", slug="aborted")
        completion, sampled = self._until_first_call(completion, self._parse(completion.ids))
        truncated = self._truncated(completion)
        turn = self._append(completion, sampled, seconds)
        if completion.finish_reason is FinishReason.ABORT:
            raise EngineError("the engine gave the turn up", slug="aborted")
        if truncated is not None:
            return truncated
        if not sampled.parsed.calls:
            return StopReason.FINAL_ANSWER
        started = time.perf_counter()
        calls = await self._answer(sampled, turn.start)
        self._turns[-1] = turn.model_copy(
            update={"calls": calls, "seconds": TurnSeconds(engine=seconds, tools=time.perf_counter() - started)}
        )
        return self._limit(len(calls) < len(sampled.parsed.calls)) or self._prepare_next(calls, completion.ids[-1])

    def _parse(self, ids: list[int]) -> Sampled:
        return self._around.renderer.parse(ids, thinking_injected=self._thinking_injected)

    def _until_first_call(self, completion: Completion, sampled: Sampled) -> tuple[Completion, Sampled]:
        """Where `min_tokens` kept the first turn going after a call had closed, what follows the call goes: ids and log-probs together."""
        least = self._around.config.sampling.min_tokens_first_turn if not self._turns else 0
        for call, (_, end) in zip(sampled.parsed.calls, sampled.spans, strict=True):
            if call.closed and end < least and completion.ids[end:] and completion.ids[end] not in self._around.renderer.end_of_turn:
                kept = completion.model_copy(
                    update={
                        "ids": completion.ids[:end],
                        "logprobs": completion.logprobs[:end],
                        "finish_reason": FinishReason.STOP,
                        "versions": [span for span in completion.versions if span.start < end],
                    }
                )
                return kept, self._parse(kept.ids)
            if call.closed:
                break
        return completion, sampled

    def _truncated(self, completion: Completion) -> StopReason | None:
        """The reason where a turn ended by its length: only the engine's room, not ours, is `context_full`."""
        if completion.finish_reason is not FinishReason.LENGTH:
            return None
        ours = min(self._around.config.sampling.max_tokens, self._budget)
        return StopReason.MAX_TOKENS if len(completion.ids) >= ours else StopReason.CONTEXT_FULL

    def _append(self, completion: Completion, sampled: Sampled, seconds: float) -> EpisodeTurn:
        self._ids += self._glue
        self._messages += self._glue_messages
        start = len(self._ids)
        self._ids += completion.ids
        self._messages.append(assistant_message(sampled.parsed))
        turn = EpisodeTurn(
            start=start,
            end=len(self._ids),
            logprobs=array("f", completion.logprobs).tolist(),  # as they are stored: four bytes each
            policy_version=completion.policy,
            finish_reason=completion.finish_reason,
            versions=completion.versions,
            seconds=TurnSeconds(engine=seconds),
        )
        self._turns.append(turn)
        self._glue, self._glue_messages = [], []
        return turn

    async def _answer(self, sampled: Sampled, offset: int) -> list[EpisodeCall]:
        limits = self._around.config.limits
        allowed = max(0, limits.max_calls - self._desk.total)
        try:
            async with asyncio.timeout(limits.call_seconds * max(1, min(allowed, len(sampled.parsed.calls)))):
                return await self._desk.answer(sampled, offset, allowed)
        except TimeoutError:
            raise LookupTimeoutError(f"the cache did not answer within {limits.call_seconds} s a call") from None

    def _limit(self, more_calls_than_allowed: bool) -> StopReason | None:
        limits, desk = self._around.config.limits, self._desk
        if desk.longest_malformed_run >= limits.malformed_calls:
            return StopReason.MALFORMED_LIMIT
        if desk.longest_repeat >= limits.repeated_calls:
            return StopReason.REPEATED_CALL
        if more_calls_than_allowed:
            return StopReason.MAX_CALLS
        return StopReason.MAX_TURNS if len(self._turns) >= limits.max_turns else None

    def _prepare_next(self, calls: list[EpisodeCall], last_id: int) -> StopReason | None:
        """Renders the results and the next generation prompt; they go in with the next completion."""
        renderer, config = self._around.renderer, self._around.config
        self._glue_messages = [_tool_message(call) for call in calls]
        self._name_calls(calls)
        self._glue = renderer.injected(self._glue_messages, end_turn=last_id not in renderer.end_of_turn)
        closed = config.thinking == "after_tool" or (config.thinking == "on_budget" and self._budget < config.sampling.max_tokens)
        self._thinking_injected = closed
        if closed:
            self._glue += renderer.close_thinking()
        return None

    def _name_calls(self, calls: list[EpisodeCall]) -> None:
        """Gives the assistant message's calls the ids under which their results follow."""
        ids = iter(call.call.id for call in calls if call.call is not None)
        message = self._messages[-1]
        named = [one.model_copy(update={"id": next(ids, None)}) for one in message.tool_calls]
        self._messages[-1] = message.model_copy(update={"tool_calls": named})

    # -- the end ------------------------------------------------------------------------------------------------------------------------

    def _episode(self, stop: StopReason) -> Episode:
        config, renderer = self._around.config, self._around.renderer
        episode = Episode(
            id=self.id,
            rollout=config.rollout,
            task=self._prepared.hash,
            task_id=self._prepared.task.id,
            group=self._prepared.group,
            index=self._index,
            status=self._status,
            stop_reason=stop,
            error=self._error.problem() if self._error is not None else None,
            cache=self._around.cache,
            preset=config.preset,
            seed=config.seed,
            template=renderer.template_hash,
            tokenizer=renderer.tokenizer_hash,
            ids=self._ids,
            prompt_length=len(self._prepared.prompt),
            turns=self._turns,
            messages=self._messages,
        )
        broken = violations(episode)
        assert not broken, broken
        return episode.sealed()


def _tool_message(call: EpisodeCall) -> Message:
    named = call.call
    return Message(
        role=Role.TOOL,
        content=result_text(call.result.content),
        tool_call_id=named.id if named is not None else None,
        name=named.name if named is not None else None,
        is_error=call.result.is_error,
    )


def _demand_sound(completion: Completion) -> None:
    """What the engine must never get wrong, because it would be trained on."""
    if len(completion.ids) != len(completion.logprobs):
        raise EngineError(f"{len(completion.ids)} ids came with {len(completion.logprobs)} log-probs", slug="broken-completion")
    if not all(LEAST_LOGPROB <= value <= 1e-6 for value in completion.logprobs):
        raise EngineError("a log-prob is positive or not finite", slug="broken-completion")
    if any(number < 0 for number in completion.ids):
        raise EngineError("an id is negative", slug="broken-completion")
