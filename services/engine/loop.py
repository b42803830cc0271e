"""The model thread: owns every batch and every weight, and is the only one that computes.

Others talk to it by commands, which it takes between two steps; it answers through a request's `Sink` or a future. While any batch is
busy it steps them in turn, otherwise it sleeps. A failure of one batch is told to that batch's requests and its cache is thrown away;
the thread goes on. Of the policies held, the one unused for longest goes first; one with requests in flight never goes.
"""

import logging
import queue
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Protocol

import torch

from cacherl.engine import Completion, GenerationRequest, PolicyVersion
from cacherl.errors import CacheRLError, ConflictError
from services.engine.batch import Batch, Counts, Ticket
from services.engine.forward import Qwen3
from services.engine.weights import Qwen3Weights

log = logging.getLogger(__name__)

POLICIES_HELD = 6
CACHES_HELD = 2
"""Idle policies beyond this many give their cache back; their weights stay."""


class Sink(Protocol):
    """Where the answers of one call go. Called from the model thread: must not block."""

    def deliver(self, completions: Sequence[Completion]) -> None:
        """Takes completions that finished in one step."""
        ...

    def fail(self, error: CacheRLError) -> None:
        """Takes the news that the call's other requests will not finish."""
        ...


@dataclass(frozen=True)
class Load:
    """What the thread is doing, and has done since it started."""

    counts: Counts
    live: int
    waiting: int


class EngineLoop:
    """Starts the model thread. All methods may be called from any thread."""

    def __init__(self, rows: int, context: int, threads: int) -> None:
        self.rows, self.context = rows, context
        self.held: Mapping[PolicyVersion, Qwen3Weights] = {}
        """The policies that are held now; replaced as a whole, so that readers need no lock."""
        self.load = Load(Counts(), 0, 0)
        self._threads = threads
        self._weights: OrderedDict[PolicyVersion, Qwen3Weights] = OrderedDict()
        self._batches: OrderedDict[PolicyVersion, Batch] = OrderedDict()
        self._sinks: dict[Ticket, Sink] = {}
        self._retired = Counts()
        self._commands: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="model", daemon=True)
        self._thread.start()

    def submit(self, policy: PolicyVersion, requests: Sequence[GenerationRequest], sink: Sink) -> Ticket:
        """Queues requests whose ids were checked; answers go to `sink`."""
        ticket = Ticket()
        self._commands.put(lambda: self._submit(ticket, policy, requests, sink))
        return ticket

    def abort(self, ticket: Ticket) -> None:
        """Drops what is left of a call. Its sink hears nothing more."""
        self._commands.put(lambda: self._abort(ticket))

    def hold(self, policy: PolicyVersion, weights: Qwen3Weights) -> Future[None]:
        """Makes the engine hold a policy. The future fails with `ConflictError` where this version was other bytes."""
        done: Future[None] = Future()
        self._commands.put(lambda: self._settle(done, lambda: self._hold(policy, weights)))
        return done

    def forget(self, episodes: Sequence[str]) -> None:
        """Lets go of the rows of these episodes."""
        self._commands.put(lambda: self._forget(episodes))

    def close(self) -> None:
        """Ends the thread after its present step."""
        self._commands.put(None)
        self._thread.join()

    def _run(self) -> None:
        torch.set_num_threads(self._threads)
        while self._obey():
            for policy, batch in list(self._batches.items()):
                if batch.busy:
                    self._step(policy, batch)

    def _obey(self) -> bool:
        """Runs the commands that wait; sleeps for one where there is nothing to step. False: the thread is to end."""
        while True:
            try:
                command = self._commands.get(block=not any(batch.busy for batch in self._batches.values()))
            except queue.Empty:
                return True
            if command is None:
                return False
            command()
            self._report()

    def _step(self, policy: PolicyVersion, batch: Batch) -> None:
        try:
            finished = batch.step()
        except Exception as error:
            log.exception("the batch of %s failed", policy)
            self._drop(policy)
            self._report()
            failure = error if isinstance(error, CacheRLError) else CacheRLError(f"the step of {policy} failed: {type(error).__name__}")
            for ticket in batch.tickets():
                if sink := self._sinks.pop(ticket, None):
                    sink.fail(failure)
            return
        self._report()  # before the answers: who has them finds them counted
        by_ticket: dict[Ticket, list[Completion]] = {}
        for ticket, completion in finished:
            by_ticket.setdefault(ticket, []).append(completion)
        for ticket, completions in by_ticket.items():
            if sink := self._sinks.get(ticket):
                sink.deliver(completions)

    def _submit(self, ticket: Ticket, policy: PolicyVersion, requests: Sequence[GenerationRequest], sink: Sink) -> None:
        weights = self._weights.get(policy)
        if weights is None:
            sink.fail(ConflictError(f"{policy} is not held any more: load it again", slug="policy-not-held"))
            return
        self._weights.move_to_end(policy)
        if policy not in self._batches:
            context = min(self.context, weights.shape.context)
            self._batches[policy] = Batch(policy, Qwen3(weights, context), self.rows, context)
        self._batches.move_to_end(policy)
        self._sinks[ticket] = sink
        self._batches[policy].add(ticket, requests)
        idle = [name for name, batch in self._batches.items() if not batch.busy]
        for name in idle[: max(0, len(self._batches) - CACHES_HELD)]:
            self._drop(name)

    def _abort(self, ticket: Ticket) -> None:
        self._sinks.pop(ticket, None)
        for batch in self._batches.values():
            batch.abort(ticket)

    def _hold(self, policy: PolicyVersion, weights: Qwen3Weights) -> None:
        before = self._weights.get(policy)
        if before is not None and before.sha256 != weights.sha256:
            raise ConflictError(f"{policy} is held already and was other bytes: a version never changes, publish the next one")
        self._weights[policy] = before or weights
        self._weights.move_to_end(policy)
        busy = [name for name, batch in self._batches.items() if batch.busy]
        spare = [name for name in self._weights if name not in busy and name != policy]
        for name in spare[: max(0, len(self._weights) - POLICIES_HELD)]:
            del self._weights[name]
            self._drop(name)
        self.held = dict(self._weights)

    def _forget(self, episodes: Sequence[str]) -> None:
        for batch in self._batches.values():
            for episode in episodes:
                batch.book.forget(episode)

    def _drop(self, policy: PolicyVersion) -> None:
        """Throws a policy's batch and cache away; what it counted stays counted."""
        batch = self._batches.pop(policy, None)
        if batch is not None:
            self._retired = _sum([self._retired, batch.counts])

    def _settle(self, done: Future[None], work: Callable[[], None]) -> None:
        try:
            work()
        except CacheRLError as error:
            done.set_exception(error)
        else:
            done.set_result(None)

    def _report(self) -> None:
        batches = self._batches.values()
        self.load = Load(
            counts=_sum([self._retired, *(batch.counts for batch in batches)]),
            live=sum(batch.book.live for batch in batches),
            waiting=sum(batch.waiting for batch in batches),
        )


def _sum(counts: Sequence[Counts]) -> Counts:
    return Counts(
        steps=sum(item.steps for item in counts),
        generated=sum(item.generated for item in counts),
        prefilled=sum(item.prefilled for item in counts),
        reused=sum(item.reused for item in counts),
    )
