"""How the calls of one turn are answered: in call order, each with its outcome.

Malformed calls and unknown names are the policy's own doing and are answered here, they never reach the cache and never move the state
(method §4.4). All others go to the cache as one item, in order; the cache chains the state through them, and so does the next turn.
"""

from collections import Counter
from collections.abc import Sequence

from cacherl.agent_loop.batching import LookupBatcher
from cacherl.agent_loop.config import LoopConfig
from cacherl.api.cache import Draw, LookupCall, LookupItem
from cacherl.episode import EpisodeCall
from cacherl.rendering import Renderer, Sampled, result_text
from cacherl.tier import CallOutcome, LookupResult, ToolResult
from cacherl.tool_call import ToolCall, canonical, dump_canonical
from cacherl.trajectory import Task

MAX_CALLS_PER_ITEM = 64
NAMES_SHOWN = 64


class CallDesk:
    """Answers the calls of one episode and remembers what their order decides: state, occurrences, and runs of like calls."""

    def __init__(self, config: LoopConfig, renderer: Renderer, lookups: LookupBatcher, task: Task, group: int, index: int) -> None:
        self._config, self._renderer, self._lookups, self._task = config, renderer, lookups, task
        self._names = [tool.name for tool in task.tools]
        self._known = frozenset(self._names)
        self._draw = Draw(task=task.id, episode=index)
        self._session = f"{config.rollout}.{group}.{index}" if config.mode != "replay" else None
        self._state: str | None = None
        self._occurrences: Counter[bytes] = Counter()
        self._last: bytes | None = None
        self.repeats = 0
        """Length of the run of identical calls at the end."""
        self.longest_repeat = 0
        self.malformed_run = 0
        self.longest_malformed_run = 0
        self.total = 0
        """Calls so far, malformed ones included."""

    async def answer(self, sampled: Sampled, offset: int, allowed: int) -> list[EpisodeCall]:
        """Answers the first `allowed` calls of a turn whose ids begin at `offset`; spans are positions in the episode."""
        parsed = sampled.parsed.calls[:allowed]
        asked: list[LookupCall] = []
        for one in parsed:
            self.total += 1
            key = self._note(one.call)
            if one.call is not None and one.call.name in self._known:
                occurrence = self._occurrences[key]
                self._occurrences[key] += 1
                # Already parsed strictly: nothing is left to validate.
                asked.append(
                    LookupCall.model_construct(
                        id=f"call_{self.total}", name=one.call.name, arguments=one.call.arguments, occurrence=occurrence
                    )
                )
        results = iter(zip(asked, await self._lookup(asked), strict=True))
        answered: list[EpisodeCall] = []
        for one, (start, end) in zip(parsed, sampled.spans, strict=False):
            span = (offset + start, offset + end)
            if one.call is None:
                answered.append(self._own(span, None, CallOutcome.MALFORMED, f"Malformed call: {one.error}."))
            elif one.call.name not in self._known:
                call = ToolCall.model_construct(id=None, name=one.call.name, arguments=one.call.arguments)
                answered.append(self._own(span, call, CallOutcome.UNKNOWN_TOOL, self._unknown(one.call.name)))
            else:
                asked_call, result = next(results)
                answered.append(self._served(span, asked_call, result))
        return answered

    def _note(self, call: ToolCall | None) -> bytes:
        """Keeps the runs of identical and of malformed calls; gives the call's identity, b"" for a malformed one."""
        key = b"" if call is None else dump_canonical([call.name, canonical(call.arguments)])
        self.malformed_run = self.malformed_run + 1 if call is None else 0
        self.repeats = 0 if call is None else self.repeats + 1 if key == self._last else 1
        self._last = key
        self.longest_malformed_run = max(self.longest_malformed_run, self.malformed_run)
        self.longest_repeat = max(self.longest_repeat, self.repeats)
        return key

    async def _lookup(self, calls: Sequence[LookupCall]) -> list[LookupResult]:
        results: list[LookupResult] = []
        for start in range(0, len(calls), MAX_CALLS_PER_ITEM):
            part = list(calls[start : start + MAX_CALLS_PER_ITEM])
            answer = await self._lookups.lookup(self._item(part))
            self._state = answer.state
            results += answer.results
        return results

    def _item(self, calls: list[LookupCall]) -> LookupItem:
        """The state is chained; in a live mode it also tells which calls were live."""
        return LookupItem.model_construct(
            calls=calls,
            scenario=self._task.scenario,
            state=self._state,
            history=None,
            exclude_sources=self._task.exclude_sources,
            draw=self._draw,
            session=self._session,
        )

    def _served(self, span: tuple[int, int], asked: LookupCall, answer: LookupResult) -> EpisodeCall:
        text = result_text(answer.result.content)
        shown = self._renderer.cut(text, self._config.limits.max_result_tokens)
        result = answer.result if shown is text else ToolResult(content=shown, is_error=answer.result.is_error)
        return EpisodeCall(
            span=span,
            call=ToolCall.model_construct(id=asked.id, name=asked.name, arguments=asked.arguments),
            outcome=answer.outcome,
            similarity=answer.similarity,
            fidelity=answer.fidelity,
            entry=answer.entry,
            agreement=answer.agreement,
            mutating=answer.mutating,
            live=answer.live,
            result=result,
        )

    def _unknown(self, name: str) -> str:
        names = ", ".join(self._names[:NAMES_SHOWN]) + (", …" if len(self._names) > NAMES_SHOWN else "")
        return f"There is no tool {name}. Available tools: {names or 'none'}."

    def _own(self, span: tuple[int, int], call: ToolCall | None, outcome: CallOutcome, text: str) -> EpisodeCall:
        """An answer of the loop's own."""
        shown = self._renderer.cut(text, self._config.limits.max_result_tokens)
        return EpisodeCall(span=span, call=call, outcome=outcome, result=ToolResult(content=shown, is_error=True))
