"""Calls on their way to the live server: only in sessions that are true, and never twice without being known.

A session is true while it was opened at its scenario's start and every call in it had its answer. Where a batch that may change something
fails without an answer, its sessions are noted as lost: an episode that had changed nothing in such a session begins it anew, one that had
is refused, and can only be run again from its start.
"""

from collections.abc import Sequence

from cacherl.errors import ConflictError
from cacherl.tier import ToolResult
from services.cache_api.ask import Ask
from services.cache_api.live.call import LiveCall, LostCallsError
from services.cache_api.live.turn import LiveTurn
from services.cache_api.live.writing import queries
from services.cache_api.lookup import Pins
from services.cache_api.parts import Parts

Made = tuple[LiveTurn, Ask]


def server_of(pins: Pins, parts: Parts) -> str:
    """The name of a cache's live server. Errors: ConflictError `no-live-server`."""
    server = pins.settings.live_server
    if server is None or server not in parts.live:
        raise ConflictError("This cache has no live server in the service's configuration.", slug="no-live-server")
    return server


class Calling:
    """Makes the live calls of one request."""

    def __init__(self, parts: Parts, tenant: str, pins: Pins) -> None:
        self.parts, self.tenant, self.pins = parts, tenant, pins
        self.server = server_of(pins, parts)

    async def call(self, made: Sequence[Made]) -> list[ToolResult]:
        """One result per call, in order. Errors: LiveToolError, ConflictError `live-session-lost`."""
        await self._begin_anew([turn for turn, _ in made])
        calls = [
            LiveCall(turn.session, turn.item.scenario, one.call.name, one.call.arguments, moved=turn.position.live != 0)
            for turn, one in made
        ]
        try:
            return await self.parts.live.call(self.server, calls)
        except LostCallsError:
            await self._lose(sorted({turn.session for turn, one in made if one.moves}))
            raise

    async def _begin_anew(self, turns: Sequence[LiveTurn]) -> None:
        stale = {turn.session: turn for turn in turns if turn.stale}
        if any(turn.position.live for turn in stale.values()):
            raise ConflictError(
                "An earlier call of this episode had no answer, so nobody knows what its live session holds. Run the episode again.",
                slug="live-session-lost",
            )
        if not stale:
            return
        await self.parts.live.reset(self.server, list(stale))
        lost = [session for session, turn in stale.items() if turn.lost]
        if lost:
            async with self.parts.database.tenant(self.tenant) as connection:
                await connection.execute(queries.find_sessions, {"cache": self.pins.cache, "sessions": lost})
        for turn in stale.values():
            turn.lost = False

    async def _lose(self, sessions: list[str]) -> None:
        if sessions:
            async with self.parts.database.tenant(self.tenant) as connection:
                await connection.execute(queries.lose_sessions, {"cache": self.pins.cache, "sessions": sessions})
