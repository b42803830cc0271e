"""One MCP session is one episode: the state is chained through its calls, which are answered in the order in which they came.

An episode is named once (scenario, task, number, sources to exclude), by its first call at the latest; it is pinned to what the cache held
when it started. A call that fails or is given up counts as not made: the state stays where it was. Only in a live mode nobody knows whether
it was made; then an episode whose tool may change something is over, since whatever it would be told could be wrong.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from cacherl.api.cache import Draw, LookupCall, LookupItem
from cacherl.client import CacheClient
from cacherl.client.batching import LookupPins
from cacherl.errors import AwayError, ConflictError, DataError, InputError
from cacherl.mcp_proxy.catalogue import Snapshot
from cacherl.mcp_proxy.config import EpisodeName
from cacherl.tier import CallOutcome, LookupResult, ToolResult
from cacherl.tool_call import canonical, dump_canonical
from cacherl.wire import Wire

DEFAULT_TASK = "mcp"
NAMES_SHOWN = 64


class Begun(Wire):
    """A started episode: its name is settled."""

    scenario: str
    draw: Draw
    session: str
    exclude_sources: list[str]


@dataclass(frozen=True)
class Answered:
    """One call's answer, and what it was pinned to."""

    result: LookupResult
    revision: int
    view: str


class Episode:
    """Where one session stands."""

    def __init__(
        self,
        client: CacheClient,
        cache: str,
        snapshot: Callable[[], Awaitable[Snapshot]],
        pins: Callable[[Snapshot], LookupPins],
        number: int,
        default: EpisodeName,
    ) -> None:
        self._client, self._cache = client, cache
        self._open, self._pins_of = snapshot, pins
        self._number, self._name = number, default
        self._order = asyncio.Lock()
        self._opening = asyncio.Lock()
        self._snapshot: Snapshot | None = None
        self._begun: Begun | None = None
        self._state: str | None = None
        self._occurrences: Counter[bytes] = Counter()
        self._over: str | None = None

    async def snapshot(self) -> Snapshot:
        """What the cache held when this episode first asked. Errors: those of the cache API."""
        async with self._opening:
            if self._snapshot is None:
                self._snapshot = await self._open()
            return self._snapshot

    async def call(self, name: str, arguments: dict[str, Any], given: EpisodeName) -> Answered:
        """The answer to the session's next call.

        Errors: InputError where the arguments or the episode's name do not fit, ConflictError for an episode that is over, and those of
        the cache API.
        """
        async with self._order:  # first come, first served: waiters of a lock are woken in order
            snapshot = await self.snapshot()
            begun = self._begin(given, snapshot)
            if self._over is not None:
                raise ConflictError(self._over, slug="episode-over")
            pins = self._pins_of(snapshot)
            tool = snapshot.names.tool(name)
            if pins.mode == "replay" and not snapshot.has(tool):
                # The agent's own slip: it reaches no cache and moves no state. In a live mode the tool may be new.
                return Answered(_no_such_tool(name, snapshot), snapshot.revision, snapshot.view)
            return await self._ask(snapshot, begun, pins, tool, arguments)

    async def _ask(self, snapshot: Snapshot, begun: Begun, pins: LookupPins, tool: str, arguments: dict[str, Any]) -> Answered:
        key = _identity(tool, arguments)
        item = LookupItem(
            calls=[_call(tool, arguments, self._occurrences[key])],
            scenario=begun.scenario,
            state=self._state,
            exclude_sources=begun.exclude_sources,
            draw=begun.draw,
            session=begun.session if pins.mode != "replay" else None,
        )
        try:
            answer = await self._client.lookup(self._cache, item, pins)
        except (AwayError, asyncio.CancelledError):
            if pins.mode != "replay" and not snapshot.reads_only(tool):
                self._over = (
                    f"a live call of {tool} was cut off, and nobody knows whether it was made: this episode is over, start a new session"
                )
            raise
        self._occurrences[key] += 1
        (found,) = answer.items
        self._state = found.state
        return Answered(found.results[0], answer.revision, answer.view)

    def _begin(self, given: EpisodeName, snapshot: Snapshot) -> Begun:
        if self._begun is not None:
            self._refuse_another(given, self._begun)
            return self._begun
        name = given.over(self._name)
        scenario = name.scenario
        if scenario is None and snapshot.preset == "paper":
            scenario = ""  # this preset's key does not hold it
        if scenario is None:
            raise InputError(
                "this session names no scenario: start the proxy with --scenario, send the header CacheRL-Scenario, or give the first "
                'call the `_meta` {"cacherl/episode": {"scenario": "…"}}',
                slug="scenario-needed",
            )
        draw = Draw(task=name.task or DEFAULT_TASK, episode=self._number if name.episode is None else name.episode)
        session = f"{snapshot.run}.{draw.task}.{draw.episode}"
        self._begun = Begun(scenario=scenario, draw=draw, session=session, exclude_sources=name.exclude_sources or [])
        return self._begun

    @staticmethod
    def _refuse_another(given: EpisodeName, begun: Begun) -> None:
        settled = {
            "scenario": begun.scenario,
            "task": begun.draw.task,
            "episode": begun.draw.episode,
            "exclude_sources": begun.exclude_sources,
        }
        for field, value in given.model_dump(exclude_none=True).items():
            if value != settled[field]:
                raise InputError(
                    f"a session is one episode: its {field} is {settled[field]!r} since its first call, not {value!r}",
                    slug="another-episode",
                )


def _call(tool: str, arguments: dict[str, Any], occurrence: int) -> LookupCall:
    try:
        return LookupCall(name=tool, arguments=arguments, occurrence=occurrence)
    except ValidationError as error:
        first = error.errors()[0]
        raise InputError(f"the call is not valid: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None


def _no_such_tool(name: str, snapshot: Snapshot) -> LookupResult:
    names = [snapshot.names.shown(spec.name) for spec in snapshot.tools]
    shown = ", ".join(names[:NAMES_SHOWN]) + (", …" if len(names) > NAMES_SHOWN else "")
    text = f"There is no tool {name}. Available tools: {shown or 'none'}."
    return LookupResult(outcome=CallOutcome.UNKNOWN_TOOL, result=ToolResult(content=text, is_error=True))


def _identity(tool: str, arguments: dict[str, Any]) -> bytes:
    try:
        return dump_canonical([tool, canonical(arguments)])
    except DataError:  # the cache says what is wrong with it
        return b""
