"""A live tool server that speaks MCP, over streamable HTTP or as a command on stdio (the official SDK).

Each episode has an MCP session of its own, opened by the `initialize` handshake when its first call comes: under the later, stateless
protocol nothing would tell two episodes apart. What MCP has no word for, the scenario and the episode's name, goes beside it: as the
headers `X-CacheRL-Scenario` and `X-CacheRL-Session` (percent-encoded), or as the variables `CACHERL_SCENARIO` and `CACHERL_SESSION` of the
command. A session lives in this process; one that is gone is opened anew only where the episode changed nothing in it.
"""

import asyncio
import contextlib
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import httpx2
from mcp import Client, MCPError, StdioServerParameters
from mcp.client.streamable_http import streamable_http_client
from mcp_types import CONNECTION_CLOSED, REQUEST_TIMEOUT, CallToolResult, TextContent

from cacherl.errors import ConflictError, LiveToolError
from cacherl.tier import ToolResult
from cacherl.wire import Json
from services.cache_api.live.call import LiveCall, LostCallsError
from services.cache_api.live.spec import LiveServerSpec

AT_ONCE = 16
"""Sessions of one batch that are called at the same time."""
MAX_SESSIONS = 1_000
IDLE_S = 900.0
UNANSWERED = frozenset({CONNECTION_CLOSED, REQUEST_TIMEOUT})


@dataclass(slots=True)
class _Job:
    name: str
    arguments: dict[str, Any]
    done: "asyncio.Future[ToolResult]" = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class _Session:
    """One MCP session. A task of its own opens, uses and closes it, as the SDK's scopes want."""

    def __init__(self, server: "McpServer", scenario: str, session: str) -> None:
        self.scenario = scenario
        self.used = time.monotonic()
        self._server, self._session = server, session
        self._jobs: asyncio.Queue[_Job | None] = asyncio.Queue()
        self._open = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._run())

    @property
    def alive(self) -> bool:
        """Whether it can be called."""
        return not self._task.done()

    async def call(self, name: str, arguments: dict[str, Any]) -> ToolResult:
        """One call. Errors: LiveToolError where the session cannot be opened, LostCallsError where it breaks off."""
        self.used = time.monotonic()
        await asyncio.shield(self._open)
        job = _Job(name, arguments)
        self._jobs.put_nowait(job)
        await asyncio.wait({job.done, self._task}, return_when=asyncio.FIRST_COMPLETED)
        if not job.done.done():
            raise self._server.lost("the session ended")
        return job.done.result()

    async def end(self) -> None:
        """Closes it."""
        self._jobs.put_nowait(None)
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait({self._task}, timeout=self._server.timeout_s)
        if not self._task.done():
            self._task.cancel()
            await asyncio.wait({self._task})

    async def _run(self) -> None:
        try:
            async with self._server.client(self.scenario, self._session) as client:
                self._open.set_result(None)
                while (job := await self._jobs.get()) is not None:
                    if not await self._make(client, job):
                        return
        except Exception as error:  # whatever the transport raises, whoever asked is told
            if not self._open.done():
                self._open.set_exception(self._server.away(error))
        finally:
            if not self._open.done():
                self._open.set_exception(self._server.away(None))
            self._open.exception()  # nobody may be waiting any more

    async def _make(self, client: Client, job: _Job) -> bool:
        """Makes one call; whether the session can go on."""
        try:
            found = await client.call_tool(job.name, job.arguments)
            job.done.set_result(result_of(found))
        except MCPError as error:
            if error.code in UNANSWERED:
                job.done.set_exception(self._server.lost(error.message))
                return False
            # The protocol's own refusals (no such tool, arguments that do not fit) are what the server says to this call.
            job.done.set_result(ToolResult(content=error.message, is_error=True))
        except RuntimeError as error:  # a result that is not what the tool's schema promises, or a question to a user
            job.done.set_exception(self._server.lost(str(error)))
            return False
        return True


class McpServer:
    """One server and its sessions in this process."""

    def __init__(self, name: str, spec: LiveServerSpec, timeout_s: float) -> None:
        self.name, self.spec, self.timeout_s = name, spec, timeout_s
        self._sessions: OrderedDict[str, _Session] = OrderedDict()
        self._slots = asyncio.Semaphore(AT_ONCE)

    async def call(self, calls: Sequence[LiveCall]) -> list[ToolResult]:
        """One result per call. Errors: LiveToolError, LostCallsError, ConflictError `live-session-lost`."""
        by_session: dict[str, list[tuple[int, LiveCall]]] = {}
        for number, one in enumerate(calls):
            by_session.setdefault(one.session, []).append((number, one))
        for made in by_session.values():
            self._refuse_lost(made[0][1])
        await self._sweep()
        answered = await asyncio.gather(*(self._of_session(made) for made in by_session.values()), return_exceptions=True)
        failures = [found for found in answered if isinstance(found, BaseException)]
        if failures:
            # Calls of other sessions may have been made and are not stored: nobody may go on from them.
            lost = next((one for one in failures if isinstance(one, LostCallsError)), None)
            made = len(failures) < len(answered)
            raise lost or (self.lost("some of its sessions failed") if made else failures[0])
        results: dict[int, ToolResult] = dict(pair for found in answered if not isinstance(found, BaseException) for pair in found)
        return [results[number] for number in range(len(calls))]

    async def _of_session(self, calls: Sequence[tuple[int, LiveCall]]) -> list[tuple[int, ToolResult]]:
        async with self._slots:
            first = calls[0][1]
            session = self._sessions.get(first.session)
            if session is None or not session.alive:
                session = self._sessions[first.session] = _Session(self, first.scenario, first.session)
            self._sessions.move_to_end(first.session)
            results: list[tuple[int, ToolResult]] = []
            try:
                async with asyncio.timeout(self.timeout_s * len(calls) + self.timeout_s):
                    for number, one in calls:
                        results.append((number, await session.call(one.name, one.arguments)))
            except (LiveToolError, TimeoutError) as error:
                await self.reset([first.session])
                if isinstance(error, TimeoutError):
                    raise self.lost("it takes too long") from error
                if results and not isinstance(error, LostCallsError):
                    raise self.lost("the session ended") from error
                raise
            return results

    def _refuse_lost(self, one: LiveCall) -> None:
        held = self._sessions.get(one.session)
        if one.moved and (held is None or not held.alive):
            raise ConflictError(
                "The episode's session at the live server is gone, and the episode changed something in it.", slug="live-session-lost"
            )

    async def reset(self, sessions: Sequence[str]) -> None:
        """Ends sessions."""
        ended = [held for name in sessions if (held := self._sessions.pop(name, None)) is not None]
        await asyncio.gather(*(held.end() for held in ended))

    async def _sweep(self) -> None:
        """Ends what nobody has used for long, and the longest unused where there are too many."""
        old = [name for name, held in self._sessions.items() if time.monotonic() - held.used > IDLE_S]
        old += list(self._sessions)[: max(0, len(self._sessions) - len(old) - MAX_SESSIONS)]
        await self.reset(old)

    async def close(self) -> None:
        """Ends all sessions."""
        await self.reset(list(self._sessions))

    @contextlib.asynccontextmanager
    async def client(self, scenario: str, session: str) -> AsyncIterator[Client]:
        """An open MCP session."""
        if self.spec.command is not None:
            env = self.spec.env | {"CACHERL_SCENARIO": scenario, "CACHERL_SESSION": session}
            command = StdioServerParameters(command=self.spec.command, args=self.spec.args, env=env)
            async with Client(command, mode="legacy", read_timeout_seconds=self.timeout_s) as client:
                yield client
            return
        headers = {"X-CacheRL-Scenario": quote(scenario, safe=""), "X-CacheRL-Session": quote(session, safe="")}
        timeout = httpx2.Timeout(self.timeout_s, connect=5.0)
        async with (
            httpx2.AsyncClient(headers=headers, timeout=timeout, trust_env=False) as http,
            Client(
                streamable_http_client(self.spec.url or "", http_client=http), mode="legacy", read_timeout_seconds=self.timeout_s
            ) as client,
        ):
            yield client

    def away(self, error: BaseException | None) -> LiveToolError:
        """What is said where no session can be opened."""
        reason = type(_innermost(error)).__name__ if error is not None else "the session ended"
        return LiveToolError(f"The live server {self.name} does not answer ({reason}).")

    def lost(self, reason: str) -> LostCallsError:
        """What is said where a call has no answer."""
        return LostCallsError(f"The live server {self.name} gave no answer: {reason}.")


def result_of(found: CallToolResult) -> ToolResult:
    """An MCP result as a tool's: the text of its blocks, the blocks where they are not all text, or its structured content."""
    texts = [block.text for block in found.content if isinstance(block, TextContent)]
    if len(texts) == len(found.content) and texts:
        return ToolResult(content="\n".join(texts), is_error=found.is_error)
    if found.content:
        blocks: list[Json] = [block.model_dump(mode="json", by_alias=True, exclude_none=True) for block in found.content]
        return ToolResult(content=blocks, is_error=found.is_error)
    return ToolResult(content=found.structured_content if found.structured_content is not None else "", is_error=found.is_error)


def _innermost(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
