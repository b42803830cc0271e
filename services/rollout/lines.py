"""Streams of NDJSON lines: the episodes of a rollout while it runs, and those that a look-up finds.

Before an episode stand the tool and task lines that it needs, where they were asked for; a stream that begins later repeats what it needs.
"""

from collections.abc import AsyncIterator

from cacherl.episodes_file import task_lines
from cacherl.jobs import JobState
from services.kit.postgres import AsyncRows
from services.rollout import store
from services.rollout.parts import Parts
from services.rollout.store import Row, queries
from services.rollout.stored import line, read_task

PAGE = 64


class Lines:
    """Turns rows into lines; knows which headers it has written."""

    def __init__(self, headers: bool) -> None:
        self._headers = headers
        self._written: set[str] = set()

    async def of(self, connection: AsyncRows, found: list[Row]) -> bytes:
        """The lines of some rows."""
        missing = {row["task"] for row in found} - self._written if self._headers else set()
        bodies: dict[str, bytes] = {}
        if missing:
            bodies = {row["hash"]: row["body"] for row in await store.rows(connection, queries.tasks, {"hashes": list(missing)})}
        out: list[bytes] = []
        for row in found:
            if row["task"] in bodies and row["task"] not in self._written:
                out += task_lines(read_task(bodies[row["task"]]), self._written, known_hash=row["task"])
            out.append(line(row["ids"], row["logprobs"], row["body"]))
        return b"".join(out)


async def follow(parts: Parts, tenant: str, rollout: str, after: int, *, headers: bool) -> AsyncIterator[bytes]:
    """The episodes of a rollout from position `after` on, as they finish; ends with the rollout."""
    lines = Lines(headers)
    while True:
        bell = parts.bell.listen()
        async with parts.database.tenant(tenant) as connection:
            # First the state, then the episodes: whatever was written before the end is seen.
            state = (await store.find_rollout(connection, rollout))["state"]
            found = await store.rows(connection, queries.episodes_after, {"rollout": rollout, "after": after, "limit": PAGE})
            data = await lines.of(connection, found)
        if data:
            after = found[-1]["seq"]
            yield data
        elif JobState(state).final:
            return
        else:
            await bell.wait(parts.settings.poll_s)


async def found(parts: Parts, tenant: str, query: str, values: Row, limit: int, after: int = 0) -> AsyncIterator[bytes]:
    """At most `limit` episodes that a query finds from position `after` on, with their headers."""
    lines = Lines(headers=True)
    while limit > 0:
        async with parts.database.tenant(tenant) as connection:
            page = await store.rows(connection, getattr(queries, query), values | {"after": after, "limit": min(PAGE, limit)})
            data = await lines.of(connection, page)
        if not page:
            return
        after, limit = page[-1]["seq"], limit - len(page)
        yield data
