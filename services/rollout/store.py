"""Postgres, as the domain sees it: rows in, models out. Statements are in `queries.sql`; a connection is a transaction of one tenant."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from psycopg import sql
from psycopg.types.json import Json

from cacherl.api.common import Problem, Progress
from cacherl.api.rollout import Policy, Rollout
from cacherl.engine import PolicyVersion
from cacherl.episode import Episode
from cacherl.errors import NotFoundError
from cacherl.jobs import JobState
from cacherl.tool_call import dump_canonical
from services.kit.postgres import AsyncRows, load_queries
from services.rollout.stored import columns

Row = dict[str, Any]
queries = load_queries(Path(__file__).with_name("queries.sql"))


async def rows(connection: AsyncRows, query: sql.SQL, values: Row | None = None) -> list[Row]:
    """All rows."""
    return await (await connection.execute(query, values)).fetchall()


async def row(connection: AsyncRows, query: sql.SQL, values: Row | None = None) -> Row | None:
    """The first row, None where there is none."""
    return await (await connection.execute(query, values)).fetchone()


async def find_rollout(connection: AsyncRows, rollout: str) -> Row:
    """A rollout's row. NotFoundError where this tenant has no such rollout."""
    found = await row(connection, queries.find_rollout, {"id": rollout})
    if found is None:
        raise NotFoundError(f"There is no rollout {rollout}.", slug="no-such-rollout")
    return found


async def find_policy(connection: AsyncRows, policy: PolicyVersion) -> Row:
    """A published policy version's row. NotFoundError where this tenant published no such version."""
    found = await row(connection, queries.find_policy, policy.model_dump())
    if found is None:
        raise NotFoundError(f"{policy} was not published: POST /v1/policies first.", slug="no-such-policy")
    return found


def rollout_model(found: Row) -> Rollout:
    """What the API says of a rollout."""
    request, tallies = found["request"], found["tallies"]
    return Rollout(
        id=found["id"],
        state=JobState(found["state"]),
        progress=Progress(done=found["done"], total=found["total"], unit="episodes"),
        cache=request["cache"],
        revision=request["revision"],
        view=request["view"],
        as_of=request["as_of"],
        mode=request["mode"],
        policy=PolicyVersion.model_validate(request["policy"]),
        group_size=request["group_size"],
        seed=request["seed"],
        preset=request["preset"],
        reason=Problem.model_validate(found["reason"]) if found["reason"] else None,
        created_at=found["created_at"],
        finished_at=found["finished_at"],
        tokens_sampled=tallies.get("tokens_sampled", 0),
        calls=tallies.get("calls", {}),
        seconds=tallies.get("seconds", {}),
    )


def policy_model(found: Row) -> Policy:
    """What the API says of a policy version."""
    return Policy(**{name: found[name] for name in ("name", "version", "kind", "path", "sha256")}, state=JobState(found["state"]))


async def add_episodes(connection: AsyncRows, episodes: Sequence[Episode]) -> None:
    """Writes finished episodes and which entries answered them."""
    async with connection.cursor() as cursor:
        await cursor.executemany(queries.add_episode, [columns(episode) for episode in episodes])
    pairs = {(call.entry.id, episode.id) for episode in episodes for call in episode.calls if call.entry is not None}
    if pairs:
        ordered = sorted(pairs)
        await connection.execute(
            queries.add_entries, {"entries": [entry for entry, _ in ordered], "episodes": [episode for _, episode in ordered]}
        )


def as_json(value: Any) -> Json:
    """A column of type json."""
    return Json(value, dumps=lambda content: dump_canonical(content).decode())
