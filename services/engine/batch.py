"""Continuous batching of one policy: requests are stepped together, one id each a step, and leave as they finish.

A request takes a row of the cache. What some row already holds of its prefix (its own episode's earlier turns, or another episode that
begins alike: the members of a group, tasks with the same tools) is kept or copied, the rest is prefilled, except for the last id, which
the next step feeds. Prefixes are compared by ids, never by name. Knows nothing of HTTP or threads.
"""

import secrets
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from cacherl.engine import Completion, FinishReason, GenerationRequest, PolicyVersion
from cacherl.errors import EngineError
from services.engine.forward import Chunk, KvCache, Qwen3
from services.engine.rows import RowBook
from services.engine.sampling import Draw, sample, uniforms

PREFILL_TOKENS = 4096
"""Tokens of one prefill pass, and after how many the rows that are live get their next step."""
REUSE_TOKENS = 16
"""A shared prefix below this is not worth a copy, nor waiting for."""


@dataclass
class Counts:
    """What a batch has done so far."""

    steps: int = 0
    generated: int = 0
    prefilled: int = 0
    reused: int = 0
    """Prefix tokens that were found in the cache."""


@dataclass(eq=False)
class Ticket:
    """Requests that came in one call and are aborted together."""


@dataclass(eq=False)
class Live:
    """A request in flight and what was sampled for it."""

    ticket: Ticket
    request: GenerationRequest
    prefix_T: np.ndarray
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)


class Batch:
    """All requests of one policy version, and its cache."""

    def __init__(self, policy: PolicyVersion, model: Qwen3, rows: int, context: int) -> None:
        self.policy, self.model, self.context = policy, model, context
        self.counts = Counts()
        self.book = RowBook(rows, context)
        self._cache = KvCache(model.shape, rows, context)
        self._waiting: deque[Live] = deque()
        self._live_R: list[Live | None] = [None] * rows
        self._end_ids_E = torch.tensor(model.shape.end_ids)
        # per row: the id to feed next, and how its request draws
        self._current_R = np.zeros(rows, np.int64)
        self._temperature_R = np.ones(rows, np.float32)
        self._top_p_R = np.ones(rows, np.float32)
        self._seed_R = np.zeros(rows, np.uint64)
        self._banned_R = np.zeros(rows, np.int64)

    @property
    def busy(self) -> bool:
        """Whether any request waits or is live."""
        return bool(self._waiting) or self.book.live > 0

    @property
    def waiting(self) -> int:
        """Requests that have no row yet."""
        return len(self._waiting)

    def add(self, ticket: Ticket, requests: Sequence[GenerationRequest]) -> None:
        """Queues requests. Their ids were checked: not empty, all below the vocabulary."""
        self._waiting.extend(Live(ticket, request, np.array(request.ids, np.int32)) for request in requests)

    def abort(self, ticket: Ticket) -> None:
        """Drops a ticket's requests; their rows become idle."""
        self._waiting = deque(live for live in self._waiting if live.ticket is not ticket)
        for row, live in enumerate(self._live_R):
            if live is not None and live.ticket is ticket:
                self._release(row)

    def tickets(self) -> set[Ticket]:
        """All tickets with a request here."""
        return {live.ticket for live in (*self._waiting, *self._live_R) if live is not None}

    def step(self) -> list[tuple[Ticket, Completion]]:
        """Admits what fits, samples one id for every live row, and gives what finished.

        Raises:
            EngineError: The policy's logits are not finite; nothing can be sampled from it.
        """
        finished = self._admit()
        self._compact()
        R = self.book.hull
        if R == 0:
            return finished
        position_R = self.book.length_R[:R]
        logits_RV = self.model.decode(self._cache, torch.from_numpy(self._current_R[:R]), torch.from_numpy(position_R.copy()))
        draw = Draw(
            temperature_R=torch.from_numpy(self._temperature_R[:R]),
            top_p_R=torch.from_numpy(self._top_p_R[:R]),
            ban_R=torch.from_numpy(self._banned_R[:R] > 0),
            uniform_R=torch.from_numpy(uniforms(self._seed_R[:R], position_R + 1)),
        )
        ids_R, logprobs_R = (tensor.numpy() for tensor in sample(logits_RV, draw, self._end_ids_E))
        rows_n = np.flatnonzero(self.book.live_R[:R])
        if not np.isfinite(logprobs_R[rows_n]).all():
            raise EngineError(f"{self.policy} gives logits that are not finite: its weights have diverged", slug="policy-diverged")
        self.book.append(rows_n, self._current_R[rows_n])
        self._current_R[rows_n] = ids_R[rows_n]
        self._banned_R[:R] -= 1
        self.counts.steps += 1
        self.counts.generated += len(rows_n)
        return finished + self._collect(rows_n, ids_R, logprobs_R)

    def _collect(self, rows_n: np.ndarray, ids_R: np.ndarray, logprobs_R: np.ndarray) -> list[tuple[Ticket, Completion]]:
        """Hands each row's id to its request, and lets go of those that are done."""
        finished: list[tuple[Ticket, Completion]] = []
        for row, token, logprob in zip(rows_n.tolist(), ids_R[rows_n].tolist(), logprobs_R[rows_n].tolist(), strict=True):
            live = self._live_R[row]
            assert live is not None
            live.ids.append(token)
            live.logprobs.append(logprob)
            if token in self.model.shape.end_ids:
                finished.append((live.ticket, self._completion(live, FinishReason.STOP)))
            elif len(live.ids) >= live.request.sampling.max_tokens or len(live.prefix_T) + len(live.ids) >= self.context:
                finished.append((live.ticket, self._completion(live, FinishReason.LENGTH)))
            else:
                continue
            self._release(row)
        return finished

    def _completion(self, live: Live, reason: FinishReason) -> Completion:
        return Completion(id=live.request.id, ids=live.ids, logprobs=live.logprobs, finish_reason=reason, policy=self.policy)

    def _release(self, row: int) -> None:
        self._live_R[row] = None
        self.book.rest(row)

    def _admit(self) -> list[tuple[Ticket, Completion]]:
        """Gives rows to waiting requests and prefills them, up to about `PREFILL_TOKENS`. Those without room for one id finish at once."""
        finished = [(live.ticket, self._completion(live, FinishReason.LENGTH)) for live in self._waiting if not self._fits(live)]
        if finished:
            self._waiting = deque(live for live in self._waiting if self._fits(live))
        budget = PREFILL_TOKENS
        while self._waiting and budget > 0 and not self.book.full:
            chunks = self._wave(budget)
            self._prefill(chunks)
            budget -= sum(len(chunk.ids_S) for chunk in chunks)
        return finished

    def _fits(self, live: Live) -> bool:
        return len(live.prefix_T) < self.context

    def _wave(self, budget: int) -> list[Chunk]:
        """Places requests, first come first served, and gives the chunks to prefill for them.

        A request whose prefix is about to be prefilled by another of this wave is left for the next one, where it is copied.
        """
        chunks: list[Chunk] = []
        rows: set[int] = set()
        later: list[Live] = []
        while self._waiting and budget > 0 and not self.book.full:
            live = self._waiting.popleft()
            known_T = live.prefix_T[:-1]
            source = self.book.longest_prefix(known_T)
            if source.row in rows:
                ready = self.book.longest_prefix(known_T, without=rows)
                if source.length - ready.length >= REUSE_TOKENS:
                    later.append(live)
                    continue
                source = ready
            row = self.book.place(live.request.episode, prefer=source.row)
            start = source.length if source.length >= REUSE_TOKENS else 0
            if start and row != source.row:
                self._cache.copy(source.row, row, start)
            self._start(row, live)
            rows.add(row)
            chunks.append(Chunk(row, start, known_T[start:]))
            budget -= len(known_T) - start
            self.counts.reused += start
        self._waiting.extendleft(reversed(later))
        return chunks

    def _start(self, row: int, live: Live) -> None:
        """Writes down the request of a row."""
        sampling = live.request.sampling
        self.book.hold(row, live.prefix_T[:-1])
        self._live_R[row] = live
        self._current_R[row] = live.prefix_T[-1]
        self._temperature_R[row] = sampling.temperature
        self._top_p_R[row] = sampling.top_p
        self._banned_R[row] = sampling.min_tokens
        seed = secrets.randbits(64) if sampling.seed is None else sampling.seed
        self._seed_R[row] = np.uint64(seed & (2**64 - 1))

    def _prefill(self, chunks: Sequence[Chunk]) -> None:
        """Runs chunks in passes of at most `PREFILL_TOKENS`; a longer one is cut."""
        packed: list[Chunk] = []
        room = PREFILL_TOKENS
        for chunk in chunks:
            first = 0
            while first < len(chunk.ids_S):
                part = chunk.ids_S[first : first + room]
                packed.append(Chunk(chunk.row, chunk.start + first, part))
                first, room = first + len(part), room - len(part)
                if room == 0:
                    self.model.prefill(self._cache, packed)
                    packed, room = [], PREFILL_TOKENS
        if packed:
            self.model.prefill(self._cache, packed)
        self.counts.prefilled += sum(len(chunk.ids_S) for chunk in chunks)

    def _compact(self) -> None:
        """Brings the live rows to the front where that pays."""
        state = (self._current_R, self._temperature_R, self._top_p_R, self._seed_R, self._banned_R)
        for hole, tail in self.book.compaction():
            self._cache.swap(hole, tail, int(self.book.length_R[[hole, tail]].max()))
            self._live_R[hole], self._live_R[tail] = self._live_R[tail], self._live_R[hole]
            for array_R in state:
                array_R[[hole, tail]] = array_R[[tail, hole]]
