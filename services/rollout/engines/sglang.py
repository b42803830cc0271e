"""The client of an SGLang worker: one `/generate` request a turn, many at once, ids in and ids out.

Differences that it evens out: an id beyond the vocabulary would end the worker, so ids are checked here; the worker's log-probs of the
first `min_tokens` ids are after the ban of the end-of-turn id, so those are asked for again without it; weights may change inside a turn,
so every answer's spans are read. Seeds are honoured by a worker in deterministic mode only (`EngineInfo.seeded`).
"""

import asyncio
import secrets
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from cacherl.engine import Completion, EngineInfo, FinishReason, GenerationRequest, PolicyVersion, VersionSpan
from cacherl.errors import ConflictError, EngineError
from services.rollout.engines.directory import PolicyFacts, below, read_facts
from services.rollout.engines.transport import Transport
from services.rollout.engines.weight_sync import CALL_SECONDS, WeightSync, parse_label

CONNECTIONS = 512


@dataclass(frozen=True)
class Worker:
    """Settings of the worker that do not change while it runs."""

    context: int | None
    input_limit: int | None
    """Ids of a prefix at most: a few less than the context, so the last few of it are never reached."""
    deterministic: bool


class SGLangEngine:
    """A worker at `url`; policy paths are below `weights_root`, which the worker sees under the same absolute path."""

    def __init__(self, url: str, weights_root: Path) -> None:
        self._root = weights_root
        self._http = Transport(url, CONNECTIONS, aiohttp.ClientTimeout(total=None, sock_connect=10))
        self._sync = WeightSync(self._http)
        self._worker: Worker | None = None
        self._facts: dict[str, PolicyFacts] = {}

    async def generate(self, policy: PolicyVersion, requests: Sequence[GenerationRequest]) -> AsyncGenerator[Completion, None]:
        """Yields completions as the worker finishes them. Closing the iterator aborts the rest, by their ids.

        Raises:
            ConflictError: The worker does not hold `policy`.
            EngineError: Away, or it refused; completions yielded before stay valid.
        """
        if not requests:
            return
        held = await self._sync.held()
        if held.policy != policy:
            raise ConflictError(f"{policy} is not held by the worker at {self._http.url} (it holds {held.label})", slug="policy-not-held")
        facts, worker = await self._facts_of(held.path), await self._settings()
        check_requests(requests, facts.vocabulary)
        marks = {request.id: f"{request.id}:{secrets.token_hex(8)}" for request in requests}
        tasks = {asyncio.create_task(self._turn(policy, item, marks[item.id], facts, worker)): marks[item.id] for item in requests}
        try:
            for finished in asyncio.as_completed(tasks):
                yield await finished
        finally:
            await self._abort({task: mark for task, mark in tasks.items() if not task.done()})
            for task in tasks:
                if task.done() and not task.cancelled():
                    task.exception()  # its siblings' failure was raised already; this one is not to be logged as forgotten

    async def load(self, policy: PolicyVersion, path: str, sha256: str) -> None:
        """Makes the worker hold `policy` in place of what it holds. Requests in flight go on under the new weights, and say so."""
        await self._sync.load(policy, below(self._root, path), sha256)

    async def forget(self, episodes: Sequence[str]) -> None:
        """Nothing to do: the worker's prefix cache drops what was unused for longest."""

    async def info(self) -> EngineInfo:
        """What the worker holds."""
        held, worker = await self._sync.held(), await self._settings()
        facts = await self._facts_of(held.path)
        return EngineInfo(
            kind="sglang",
            policies=[held.policy] if held.policy else [],
            context_length=min(facts.context, worker.context or facts.context),
            vocabulary=facts.vocabulary,
            seeded=worker.deterministic,
        )

    async def close(self) -> None:
        """Closes the connections."""
        await self._http.close()

    async def _turn(self, policy: PolicyVersion, request: GenerationRequest, mark: str, facts: PolicyFacts, worker: Worker) -> Completion:
        """One turn, from request to completion."""
        if len(request.ids) > min(worker.input_limit or facts.context, facts.context - 1):
            return Completion(id=request.id, ids=[], logprobs=[], finish_reason=FinishReason.LENGTH, policy=policy)
        body = turn_body(request, mark, facts, worker)
        answer = await self._http.json("POST", "/generate", body)
        completion = read_answer(request.id, policy.name, answer)
        if request.sampling.min_tokens and completion.ids:
            completion = await self._unban(request, completion, worker)
        return completion

    async def _unban(self, request: GenerationRequest, completion: Completion, worker: Worker) -> Completion:
        """Puts the log-probs before the ban where the worker gave those after it: asks for the same ids' once more, without the ban.

        Weights that changed in between cannot be asked any more: the turn then counts as aborted.
        """
        count = min(request.sampling.min_tokens, len(completion.ids))
        sampling = {"max_new_tokens": 1, "temperature": request.sampling.temperature}

        async def ask(position: int) -> tuple[float, str]:
            ids, token = request.ids + completion.ids[:position], completion.ids[position]
            if worker.input_limit is not None and len(ids) > worker.input_limit:
                return completion.logprobs[position], "context full"
            body = {"input_ids": ids, "sampling_params": sampling, "return_logprob": True, "token_ids_logprob": [token]}
            meta = (await self._http.json("POST", "/generate", body))["meta_info"]
            return float(meta["output_token_ids_logprobs"][0][0][0]), str(meta["weight_version"])

        answers = await asyncio.gather(*(ask(position) for position in range(count)))
        change = {"logprobs": [logprob for logprob, _ in answers] + completion.logprobs[count:]}
        if completion.versions or any(label != str(completion.policy) for _, label in answers):
            return completion.model_copy(update={"finish_reason": FinishReason.ABORT})
        return completion.model_copy(update=change)

    async def _abort(self, pending: dict[asyncio.Task[Completion], str]) -> None:
        """Gives up turns: at the worker by id, then here."""
        if not pending:
            return
        try:
            calls = (self._http.text("POST", "/abort_request", {"rid": mark}, seconds=CALL_SECONDS) for mark in pending.values())
            await asyncio.gather(*calls, return_exceptions=True)
        finally:
            for task in pending:
                task.cancel()
            await asyncio.gather(*pending, return_exceptions=True)

    async def _settings(self) -> Worker:
        if self._worker is None:
            server = await self._http.json("GET", "/server_info", seconds=CALL_SECONDS)
            self._worker = Worker(
                context=server.get("context_length"),
                input_limit=server.get("max_req_input_len"),
                deterministic=bool(server.get("enable_deterministic_inference")),
            )
        return self._worker

    async def _facts_of(self, path: str) -> PolicyFacts:
        if path not in self._facts:
            self._facts[path] = await asyncio.to_thread(read_facts, Path(path))
        return self._facts[path]


def check_requests(requests: Sequence[GenerationRequest], vocabulary: int) -> None:
    """Refuses a batch that would harm the worker.

    Raises:
        EngineError: An empty prefix, an id outside of the vocabulary, two requests of one id.
    """
    for request in requests:
        if not request.ids:
            raise EngineError(f"request {request.id}: the prefix is empty", slug="invalid-input")
        if min(request.ids) < 0 or max(request.ids) >= vocabulary:
            raise EngineError(f"request {request.id}: an id is outside of the vocabulary [0, {vocabulary})", slug="invalid-input")
    if len({request.id for request in requests}) != len(requests):
        raise EngineError("two requests of the batch have one id", slug="invalid-input")


def turn_body(request: GenerationRequest, mark: str, facts: PolicyFacts, worker: Worker) -> dict[str, Any]:
    """The `/generate` body of one turn."""
    sampling = request.sampling
    context = min(facts.context, worker.context or facts.context)
    limit = min(sampling.max_tokens, context - len(request.ids))  # the worker refuses a request that could outgrow its context
    parameters: dict[str, Any] = {
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "max_new_tokens": limit,
        "min_new_tokens": min(sampling.min_tokens, limit),
        "stop_token_ids": list(facts.end_ids),
        "skip_special_tokens": False,
        "no_stop_trim": True,
    }
    if worker.deterministic and sampling.seed is not None:
        parameters["sampling_seed"] = sampling.seed % 2**31
    return {"input_ids": request.ids, "rid": mark, "return_logprob": True, "sampling_params": parameters}


def read_answer(request_id: str, name: str, answer: dict[str, Any]) -> Completion:
    """The completion that a `/generate` answer is.

    Raises:
        EngineError: Ids and log-probs do not agree, or the worker holds no numbered version.
        ConflictError: It was sampled from another policy.
    """
    meta = answer["meta_info"]
    ids, triples = list(answer["output_ids"]), meta.get("output_token_logprobs") or []
    if ids != [token for _, token, _ in triples]:
        raise EngineError(f"request {request_id}: {len(ids)} ids came with {len(triples)} log-probs that are not theirs")
    spans = [(span["version"], span["start"]) for span in meta.get("weight_versions") or [] if span["end"] > span["start"]]
    spans = spans or [(meta.get("weight_version"), 0)]
    sampled = [(parse_label(str(label)), start) for label, start in spans]
    policies = [policy for policy, _ in sampled if policy is not None]
    if len(policies) != len(sampled):
        raise EngineError(f"request {request_id}: the worker's weight version {spans[0][0]!r} is not of the form name@version")
    if any(policy.name != name for policy in policies):
        raise ConflictError(f"request {request_id}: sampled from {', '.join(map(str, policies))}, not from {name}", slug="policy-not-held")
    starts = [start for _, start in sampled]
    versions = [VersionSpan(start=start, version=policy.version) for policy, start in zip(policies, starts, strict=True)]
    return Completion(
        id=request_id,
        ids=ids,
        logprobs=[float(logprob) for logprob, _, _ in triples],
        finish_reason=FinishReason((meta.get("finish_reason") or {}).get("type", "abort")),
        policy=policies[0],
        versions=versions if len(versions) > 1 else [],
    )
