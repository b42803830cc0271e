"""For users' tests and ours: a tiny tokenizer, and an engine and a cache without weights or a database.

`ScriptedEngine` and `InMemoryToolCache` fit the protocols that the agent loop runs on, and keep the real ones' promises: ids and log-probs
agree, a policy version is answered for only when it is held, a write is never answered from a recording made before another write.
"""

import asyncio
import json
import random
from collections import Counter, defaultdict
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from cacherl import tool_formats
from cacherl.api.cache import LookupItem, LookupItemAnswer
from cacherl.engine import Completion, EngineInfo, FinishReason, GenerationRequest, PolicyVersion
from cacherl.episode import Episode, EpisodeCall, EpisodeStatus, EpisodeTurn, StopReason, task_hash
from cacherl.errors import ConflictError
from cacherl.rendering import Renderer, result_text
from cacherl.state import State, advance, scoped
from cacherl.tier import Agreement, CallOutcome, EntryRef, LookupResult, ToolResult
from cacherl.tool_cache import CachePins
from cacherl.tool_call import ToolCall, exact_key
from cacherl.tool_spec import ToolSpec
from cacherl.trajectory import Message, Reference, Role, Task, Trajectory
from cacherl.wire import Json

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
MARKS = ("<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>", "<tools>", "</tools>")
CORPUS = (
    '{"type": "function", "function": {"name": "orders.find", "description": "Find the orders of a customer by name.", "parameters": '
    '{"type": "object", "properties": {"customer": {"type": "string"}, "limit": {"type": "integer"}}, "required": ["customer"]}}}',
    '{"name": "weather", "arguments": {"city": "Oslo", "day": "monday"}}',
    "system user assistant # Tools Call these functions as needed: Write each call as <name> <object>",
    "The user asks for the order, so the tool must be called with the name that the user gave. The answer is in the result.",
    '{"error": "not found"} {"id": "A12", "total": 40, "currency": "EUR"} unknown tool; available tools:',
)


POLICY = PolicyVersion(name="scripted", version=0)
VIEW = "viw_memory"
Said = str | list[int]
"""What a script says: text (its end-of-turn token is added, control strings count as such) or the exact ids."""
Script = Callable[[GenerationRequest, int], Said]
"""From a request and the number of the episode's turn to what the policy says."""


def tiny_tokenizer(path: Path | str, *, vocabulary: int = 512) -> Path:
    """Writes a byte-level BPE tokenizer of at most `vocabulary` ids with the qwen template to a folder; always the same bytes."""
    folder = Path(path)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary - len(SPECIAL) - len(MARKS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.add_tokens([AddedToken(text, special=True, normalized=False) for text in SPECIAL])
    tokenizer.add_tokens([AddedToken(text, special=False, normalized=False) for text in MARKS])
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "clean_up_tokenization_spaces": False,
        "padding_side": "left",
    }
    eos = [tokenizer.token_to_id("<|im_end|>"), tokenizer.token_to_id("<|endoftext|>")]
    (folder / "tokenizer_config.json").write_bytes(orjson.dumps(config, option=orjson.OPT_INDENT_2))
    (folder / "generation_config.json").write_bytes(orjson.dumps({"eos_token_id": eos, "pad_token_id": eos[1]}))
    (folder / "chat_template.jinja").write_text(tool_formats.template("qwen"), encoding="utf-8")
    return folder


class ScriptedEngine:
    """An `Engine` that says what a script says, within the limits it is given: `max_tokens` cuts, `min_tokens` bans the end of a turn."""

    def __init__(
        self,
        renderer: Renderer,
        script: Script | Sequence[Said],
        *,
        policies: Iterable[PolicyVersion] = (POLICY,),
        context_length: int = 8192,
        seconds: float = 0.0,
    ) -> None:
        """`script`: a function, or what every episode's turns say in order (the last one again and again)."""
        self._renderer = renderer
        self._script: Script = script if callable(script) else _in_order(script)
        self._policies = list(policies)
        self._context_length, self._seconds = context_length, seconds
        self._turns: Counter[str] = Counter()
        self.batches: list[int] = []
        """Size of every batch that came."""
        self.requests: list[GenerationRequest] = []
        self.forgotten: list[str] = []
        self.aborted = 0
        """Batches that were closed before their end."""

    async def generate(self, policy: PolicyVersion, requests: Sequence[GenerationRequest]) -> AsyncGenerator[Completion]:
        """Yields completions in the order of the requests. ConflictError for a policy that it does not hold."""
        if policy not in self._policies:
            raise ConflictError(f"this engine does not hold {policy}", slug="policy-not-held")
        self.batches.append(len(requests))
        self.requests += requests
        try:
            for request in requests:
                if self._seconds:
                    await asyncio.sleep(self._seconds)
                turn = self._turns[request.episode]
                self._turns[request.episode] += 1
                yield self._completion(policy, request, self._script(request, turn))
        except GeneratorExit:
            self.aborted += 1
            raise
        except asyncio.CancelledError:
            self.aborted += 1
            raise

    def _completion(self, policy: PolicyVersion, request: GenerationRequest, said: Said) -> Completion:
        ids = [*self._renderer.vocabulary.encode(said), self._renderer.end_id] if isinstance(said, str) else list(said)
        least = request.sampling.min_tokens
        if len(ids) <= least and ids and ids[-1] in self._renderer.end_of_turn:
            ids = [*ids[:-1], *self._renderer.vocabulary.encode(" and")[:1] * (least - len(ids) + 1), ids[-1]]
        room = min(request.sampling.max_tokens, self._context_length - len(request.ids))
        ids = ids[:room]
        draws = random.Random(request.sampling.seed)
        return Completion(
            id=request.id,
            ids=ids,
            logprobs=[-draws.expovariate(1.0) for _ in ids],
            finish_reason=FinishReason.STOP if ids and ids[-1] in self._renderer.end_of_turn else FinishReason.LENGTH,
            policy=policy,
        )

    async def load(self, policy: PolicyVersion, path: str, sha256: str) -> None:
        """Holds it from now on."""
        if policy not in self._policies:
            self._policies.append(policy)

    async def forget(self, episodes: Sequence[str]) -> None:
        """Notes them."""
        self.forgotten += episodes

    async def info(self) -> EngineInfo:
        """What it holds."""
        return EngineInfo(
            kind="scripted",
            policies=self._policies,
            context_length=self._context_length,
            vocabulary=self._renderer.vocabulary.size,
            seeded=True,
        )

    async def close(self) -> None:
        """Nothing to close."""


def _in_order(said: Sequence[Said]) -> Script:
    return lambda _, turn: said[min(turn, len(said) - 1)]


class InMemoryToolCache:
    """A `ToolCache` over recordings in memory: exact or miss, by scenario, scoped state, tool and canonical arguments (method §3.3)."""

    def __init__(self, tools: Iterable[ToolSpec] = (), *, name: str = "memory") -> None:
        self.pins = CachePins(name=name, revision=1, view=VIEW, as_of=datetime(2026, 1, 1, tzinfo=UTC))
        self.tools: dict[str, ToolSpec] = {tool.name: tool for tool in tools}
        self.items: list[LookupItem] = []
        """Every item that was asked for."""
        self._entries: defaultdict[tuple[str, bytes, bytes], list[tuple[ToolResult, EntryRef]]] = defaultdict(list)

    @classmethod
    def from_triples(
        cls, triples: Iterable[tuple[str, Mapping[str, Json], Json]], *, tools: Iterable[ToolSpec] = (), scenario: str = "s"
    ) -> "InMemoryToolCache":
        """From (tool, arguments, result content); tools without a spec are taken as read-only."""
        recorded = list(triples)
        specs = {name: tool(name, mutating=False) for name, _, _ in recorded} | {spec.name: spec for spec in tools}
        cache = cls(specs.values())
        for number, (name, arguments, content) in enumerate(recorded):
            call = ToolCall(name=name, arguments=dict(arguments))
            cache.record(call, ToolResult(content=content), scenario=scenario, source="triples", step=number)
        return cache

    @classmethod
    def from_trajectories(cls, trajectories: Iterable[Trajectory]) -> "InMemoryToolCache":
        """From demonstrations: every answered call with the state it was made in."""
        cache = cls()
        for one in trajectories:
            cache.tools |= {spec.name: spec for spec in one.tools}
            state = State.start(VIEW)
            results = {message.tool_call_id: message for message in one.messages if message.role is Role.TOOL}
            calls = [made for message in one.messages for made in message.tool_calls if made.id in results]
            for step, made in enumerate(calls):
                answer = results[made.id]
                result = ToolResult(content=answer.content, is_error=answer.is_error)
                state = cache.record(made.call, result, scenario=one.scenario, state=state, source=one.id, step=step)
        return cache

    def record(
        self, call: ToolCall, result: ToolResult, *, scenario: str, state: State | None = None, source: str = "recorded", step: int = 0
    ) -> State:
        """Records one call made in `state` (None: the start); gives the state after it."""
        before = state or State.start(VIEW)
        digest = scoped(before, call, self.tools.get(call.name))
        if digest is not None:
            key = (scenario, digest, exact_key(call.name, call.arguments, self.tools.get(call.name)))
            self._entries[key].append((result, EntryRef(id=f"ent_{source}_{step}", source=source, step=step)))
        return advance(before, call, self.tools.get(call.name), CallOutcome.EXACT, result)

    async def lookup(self, items: Sequence[LookupItem]) -> list[LookupItemAnswer]:
        """One answer per item; state and history are both understood."""
        self.items += items
        return [self._answer(item) for item in items]

    def _answer(self, item: LookupItem) -> LookupItemAnswer:
        state = State.parse(item.state, VIEW)
        for past in item.history or ():
            state = advance(state, past.call, self.tools.get(past.call.name), past.outcome, past.result)
        results: list[LookupResult] = []
        for call in item.calls:
            results.append(self._result(item, state, call))
            state = advance(state, call, self.tools.get(call.name), results[-1].outcome, results[-1].result)
        return LookupItemAnswer(state=state.token, results=results)

    def _result(self, item: LookupItem, state: State, call: ToolCall) -> LookupResult:
        spec = self.tools.get(call.name)
        mutating = spec is None or spec.annotations.mutating is not False
        digest = scoped(state, call, spec)
        found = self._entries.get((item.scenario, digest, exact_key(call.name, call.arguments, spec)), []) if digest is not None else []
        found = [one for one in found if one[1].source not in item.exclude_sources]
        if not found:
            message = ToolResult(content=f"No recorded result for this call of {call.name}.", is_error=True)
            return LookupResult(outcome=CallOutcome.MISS, result=message, mutating=mutating)
        result, entry = found[0]
        agreement = Agreement(scenario=True, state=True, schema=True)
        return LookupResult(
            outcome=CallOutcome.EXACT, result=result, similarity=1.0, fidelity=1.0, entry=entry, agreement=agreement, mutating=mutating
        )


def tool(name: str, *arguments: str, mutating: bool | None = None, description: str = "") -> ToolSpec:
    """A tool whose arguments are required strings."""
    return ToolSpec.model_validate(
        {
            "function": {
                "name": name,
                "description": description or f"The tool {name}.",
                "parameters": {
                    "type": "object",
                    "properties": {argument: {"type": "string"} for argument in arguments},
                    "required": list(arguments),
                },
            },
            "annotations": {"mutating": mutating},
        }
    )


def task(question: str = "What is it?", *, tools: Sequence[ToolSpec] = (), answer: str | None = None, **fields: Any) -> Task:
    """A task with one user message."""
    reference = Reference(answer=answer) if answer is not None else None
    return Task.model_validate(
        {"id": "t", "messages": [Message(role=Role.USER, content=question)], "tools": list(tools), "scenario": "s", "reference": reference}
        | fields
    )


def trajectory(
    *calls: tuple[str, Mapping[str, Json], str], tools: Sequence[ToolSpec] = (), answer: str = "Done.", **fields: Any
) -> Trajectory:
    """A demonstration that makes (tool, arguments, result) calls one after the other, then answers."""
    messages: list[dict[str, Any]] = [{"role": "user", "content": "Do it."}]
    for number, (name, arguments, result) in enumerate(calls):
        made = {"id": f"call_{number}", "function": {"name": name, "arguments": dict(arguments)}}
        messages.append({"role": "assistant", "tool_calls": [made]})
        messages.append({"role": "tool", "content": result, "tool_call_id": made["id"], "name": name})
    messages.append({"role": "assistant", "content": answer})
    return Trajectory.model_validate({"id": "trj", "messages": messages, "tools": list(tools), "scenario": "s", "task_id": "t"} | fields)


def answered(name: str, arguments: Mapping[str, Json], content: Json = "ok", **fields: Any) -> EpisodeCall:
    """A call of an episode and its answer: exact unless `outcome` says otherwise. Its span is set by `episode`."""
    call = ToolCall(name=name, arguments=dict(arguments))
    given = {"span": (0, 1), "call": call, "outcome": CallOutcome.EXACT, "fidelity": 1.0, "result": ToolResult(content=content)}
    return EpisodeCall.model_validate(given | fields)


def episode(*calls: EpisodeCall, answer: str = "Done.", solves: Task | None = None, **fields: Any) -> Episode:
    """A sound episode without a tokenizer: one turn for each call, then the answer; its ids mean nothing."""
    solved = solves or task()
    ids, turns, messages = [1, 2, 3], [], list(solved.messages)
    for call in (*calls, None):
        start = len(ids)
        ids += [10, 11, 12, 13]
        made = [call.model_copy(update={"span": (start + 1, start + 3)})] if call is not None else []
        stamp = {"policy_version": POLICY, "finish_reason": FinishReason.STOP, "logprobs": [-0.5] * 4}
        turns.append(EpisodeTurn.model_validate(stamp | {"start": start, "end": len(ids), "calls": made}))
        messages += _messages(call, answer)
        ids += [5, 6] if call is not None else []
    body = {
        "id": "eps_0", "rollout": "rol_0", "task": task_hash(solved), "task_id": solved.id, "group": 0, "index": 0,
        "status": EpisodeStatus.OK, "stop_reason": StopReason.FINAL_ANSWER, "preset": "robust", "seed": 0,
        "template": "t", "tokenizer": "t", "ids": ids, "prompt_length": 3, "turns": turns, "messages": messages,
    }  # fmt: skip
    return Episode.model_validate(body | fields).sealed()


def _messages(call: EpisodeCall | None, answer: str) -> list[Message]:
    """What an episode's text says of one turn."""
    if call is None:
        return [Message(role=Role.ASSISTANT, content=answer)]
    made = [{"function": {"name": call.call.name, "arguments": call.call.arguments}}] if call.call is not None else []
    said = Message.model_validate({"role": Role.ASSISTANT, "content": "", "tool_calls": made})
    return [said, Message(role=Role.TOOL, content=result_text(call.result.content), is_error=call.result.is_error)]


def call_text(name: str, arguments: Mapping[str, Json]) -> str:
    """A call as a policy of the qwen format writes it."""
    return "<tool_call>\n" + json.dumps({"name": name, "arguments": dict(arguments)}, ensure_ascii=False) + "\n</tool_call>"
