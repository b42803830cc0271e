"""What a cache holds at the moment at which a session starts: its tools, under names that clients can take, and the pins of its lookups.

Sessions that start within `FRESH_S` of one another share a snapshot, so their lookups share requests too.
"""

import asyncio
import time
from dataclasses import dataclass
from datetime import UTC, datetime

from cacherl.client import CacheClient
from cacherl.mcp_proxy.names import NameRule, ToolNames
from cacherl.tier import Preset
from cacherl.tool_spec import ToolSpec

FRESH_S = 2.0


@dataclass(frozen=True)
class Snapshot:
    """A cache at one moment."""

    revision: int
    view: str
    as_of: datetime
    preset: Preset
    """In force: the proxy's, else the cache's."""
    run: str
    tools: tuple[ToolSpec, ...]
    names: ToolNames

    def has(self, tool: str) -> bool:
        """Whether the tool is listed."""
        return any(spec.name == tool for spec in self.tools)

    def reads_only(self, tool: str) -> bool:
        """Whether the tool is known to change nothing."""
        return any(spec.name == tool and spec.annotations.mutating is False for spec in self.tools)


class Catalogue:
    """One cache as one caller sees it."""

    def __init__(
        self,
        client: CacheClient,
        cache: str,
        run: str,
        *,
        preset: Preset | None = None,
        revision: int | None = None,
        view: str | None = None,
        rule: NameRule = NameRule.MCP,
    ) -> None:
        self._client, self._cache, self._run = client, cache, run
        self._preset: Preset | None = preset
        self._revision, self._view, self._rule = revision, view, rule
        self._lock = asyncio.Lock()
        self._held: Snapshot | None = None
        self._read_at = -FRESH_S
        self._at: tuple[int, str] | None = None
        """The revision and view at which the tools were listed."""

    async def snapshot(self) -> Snapshot:
        """The cache now, at most `FRESH_S` ago. Errors: those of the cache API."""
        async with self._lock:
            if self._held is None or time.monotonic() - self._read_at >= FRESH_S:
                self._held = await self._read()
                self._read_at = time.monotonic()
            return self._held

    async def _read(self) -> Snapshot:
        cache = await self._client.get(self._cache)
        held, at = self._held, (cache.revision, cache.view)
        if held is None or at != self._at:
            tools = tuple(tool.spec for tool in (await self._client.tools(self._cache)).items)
            names = ToolNames([tool.name for tool in tools], self._rule)
        else:
            tools, names = held.tools, held.names
        self._at = at
        return Snapshot(
            revision=cache.revision if self._revision is None else self._revision,
            view=self._view or cache.view,
            as_of=datetime.now(UTC),
            preset=self._preset or cache.settings.preset,
            run=self._run,
            tools=tools,
            names=names,
        )
