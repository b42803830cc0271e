"""HTTP in and out of the rollout service (contracts §4)."""

from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import StreamingResponse

from cacherl.api.common import Accepted, Page
from cacherl.api.rollout import EngineStatus, Policy, PolicyPublish, Rollout, RolloutCreate
from cacherl.engine import PolicyVersion
from cacherl.episode import task_hash
from cacherl.errors import ConflictError, ForbiddenError, InputError, NotFoundError
from cacherl.jobs import JobState
from services.kit.auth import Caller, bearer_token
from services.kit.idempotency import IdempotencyKey, once
from services.kit.identifiers import new_id
from services.kit.paging import Cursor, Limit, decode_cursor, encode_cursor
from services.kit.postgres import AsyncRows
from services.kit.trace import outgoing_headers
from services.rollout import lines, store
from services.rollout.parts import Parts, PartsOf, Runs
from services.rollout.play import needed_scopes
from services.rollout.renderers import below
from services.rollout.runner import Runner
from services.rollout.store import Row, queries
from services.rollout.stored import task_body

NDJSON = "application/x-ndjson"
NDJSON_ANSWER: dict[int | str, dict[str, Any]] = {200: {"content": {NDJSON: {}}, "description": "One episode a line (cacherl.episode/1)"}}
MAX_IDS = 1000
router = APIRouter(prefix="/v1")


def runner_of(request: Request) -> Runner:
    """The process's runner."""
    return request.app.state.runner


@router.post("/rollouts", status_code=202, response_model=Accepted, summary="Play tasks × group size", tags=["rollouts"])
async def create_rollout(request: Request, body: RolloutCreate, caller: Runs, parts: PartsOf, key: IdempotencyKey = None) -> Response:
    """Accepts a rollout: its cache is pinned now, and the nulls of the request are resolved and recorded."""
    if len(body.tasks) * body.group_size > parts.settings.max_episodes:
        raise InputError(f"A rollout has at most {parts.settings.max_episodes} episodes.", slug="too-many-episodes")
    if not needed_scopes(body) <= caller.scopes:
        raise ForbiddenError(f"Mode `{body.mode}` needs a key with {' and '.join(sorted(needed_scopes(body)))}.")
    token = bearer_token(request.headers.getlist("authorization")) or ""
    pins = await parts.caches.pins(token, body)
    resolved = body.model_copy(update={"cache": pins.name, "revision": pins.revision, "view": pins.view, "as_of": pins.as_of})
    raw = await request.body()
    async with parts.database.tenant(caller.tenant) as connection:

        async def act() -> tuple[int, dict[str, Any]]:
            return 202, await _accept(connection, caller, resolved)

        answer = await once(connection, caller=caller, route="POST /v1/rollouts", key=key, body=raw, act=act)
    parts.bell.ring()
    return answer


async def _accept(connection: AsyncRows, caller: Caller, resolved: RolloutCreate) -> dict[str, Any]:
    policy = await store.find_policy(connection, resolved.policy)
    if policy["state"] in (JobState.FAILED, JobState.CANCELLED):
        raise ConflictError(f"The engines refused {resolved.policy}.", slug="policy-refused")
    hashes = [task_hash(task) for task in resolved.tasks]
    bodies = dict(sorted(zip(hashes, map(task_body, resolved.tasks), strict=True)))
    await connection.execute(queries.add_tasks, {"hashes": list(bodies), "bodies": list(bodies.values())})
    rollout = new_id("rol")
    values: Row = {
        "id": rollout,
        "request": store.as_json(resolved.model_dump(mode="json", exclude={"tasks"})),
        "tasks": hashes,
        "total": len(hashes) * resolved.group_size,
        "key_id": caller.key_id,
        "scopes": sorted(scope.value for scope in caller.scopes),
        "trace": store.as_json(outgoing_headers()),
    }
    await connection.execute(queries.add_rollout, values)
    return Accepted(id=rollout, state=JobState.QUEUED, url=f"/v1/rollouts/{rollout}").model_dump(mode="json")


@router.get("/rollouts", summary="The tenant's rollouts, newest first", tags=["rollouts"])
async def list_rollouts(caller: Runs, parts: PartsOf, limit: Limit = 100, cursor: Cursor = None) -> Page[Rollout]:
    """One page."""
    before = decode_cursor(cursor, 1)
    async with parts.database.tenant(caller.tenant) as connection:
        found = await store.rows(connection, queries.list_rollouts, {"before": before[0] if before else None, "limit": limit + 1})
    items = [store.rollout_model(row) for row in found[:limit]]
    return Page(items=items, next_cursor=encode_cursor(items[-1].id) if len(found) > limit else None)


@router.get("/rollouts/{rollout}", summary="How far a rollout is", tags=["rollouts"])
async def get_rollout(rollout: str, caller: Runs, parts: PartsOf) -> Rollout:
    """Its state, its pins and its counts."""
    async with parts.database.tenant(caller.tenant) as connection:
        return store.rollout_model(await store.find_rollout(connection, rollout))


@router.post("/rollouts/{rollout}/cancel", summary="End a rollout", tags=["rollouts"])
async def cancel_rollout(
    rollout: str, caller: Runs, parts: PartsOf, runner: Annotated[Runner, Depends(runner_of)], key: IdempotencyKey = None
) -> Rollout:
    """Finished episodes are kept, those in flight end as `cancelled`. One that is over stays as it is."""
    async with parts.database.tenant(caller.tenant) as connection:
        found = await store.row(connection, queries.cancel_rollout, {"id": rollout}) or await store.find_rollout(connection, rollout)
    runner.cancel(rollout)
    parts.bell.ring()
    return store.rollout_model(found)


@router.get(
    "/rollouts/{rollout}/episodes",
    response_class=StreamingResponse,
    responses=NDJSON_ANSWER,
    summary="Episodes as they finish",
    tags=["episodes"],
)
async def stream_episodes(
    rollout: str,
    caller: Runs,
    parts: PartsOf,
    after: Annotated[str | None, Query(max_length=64, description="Id of the last episode that was received.")] = None,
    headers: Annotated[bool, Query(description="Also the tool and task lines that the episodes need: the file format.")] = False,
) -> StreamingResponse:
    """One finished episode a line; follows a running rollout and ends with it."""
    position = 0
    async with parts.database.tenant(caller.tenant) as connection:
        await store.find_rollout(connection, rollout)
        if after is not None:
            found = await store.row(connection, queries.episode_seq, {"rollout": rollout, "id": after})
            if found is None:
                raise NotFoundError(f"The rollout {rollout} has no episode {after}.", slug="no-such-episode")
            position = found["seq"]
    return StreamingResponse(lines.follow(parts, caller.tenant, rollout, position, headers=headers), media_type=NDJSON)


@router.get("/episodes", response_class=StreamingResponse, responses=NDJSON_ANSWER, summary="Find episodes", tags=["episodes"])
async def find_episodes(
    caller: Runs,
    parts: PartsOf,
    entry: Annotated[str | None, Query(max_length=128, description="Id of a cache entry that answered them.")] = None,
    id: Annotated[list[str] | None, Query(description="Ids of episodes.")] = None,
    limit: Limit = 1000,
    after: Annotated[str | None, Query(max_length=64, description="Id of the last episode that was received.")] = None,
) -> StreamingResponse:
    """Episodes that a cache entry touched, or by id, with the tool and task lines that they need."""
    if (entry is None) == (id is None):
        raise InputError("Give either `entry` or `id`.", slug="one-filter")
    position = 0 if after is None else await position_of(parts, caller.tenant, after)
    if entry is not None:
        stream = lines.found(parts, caller.tenant, "episodes_of_entry", {"entry": entry}, limit, position)
    else:
        if len(id or []) > MAX_IDS:
            raise InputError(f"At most {MAX_IDS} ids.", slug="too-many-ids")
        stream = lines.found(parts, caller.tenant, "episodes_by_id", {"ids": id}, limit, position)
    return StreamingResponse(stream, media_type=NDJSON)


async def position_of(parts: Parts, tenant: str, episode: str) -> int:
    """Where a stream goes on after an episode. Errors: NotFoundError `no-such-episode`."""
    async with parts.database.tenant(tenant) as connection:
        found = await store.row(connection, queries.episode_position, {"id": episode})
    if found is None:
        raise NotFoundError(f"There is no episode {episode}.", slug="no-such-episode")
    return found["seq"]


@router.post("/policies", status_code=202, response_model=Policy, summary="Tell the engines which weights to hold", tags=["policies"])
async def publish_policy(request: Request, body: PolicyPublish, caller: Runs, parts: PartsOf, key: IdempotencyKey = None) -> Response:
    """Every engine loads the version; it is published (`succeeded`) when all hold it. The same version with other bytes is refused."""
    below(parts.settings.weights_root, body.path)
    raw = await request.body()
    async with parts.database.tenant(caller.tenant) as connection:

        async def act() -> tuple[int, dict[str, Any]]:
            return 202, await _publish(connection, body)

        answer = await once(connection, caller=caller, route="POST /v1/policies", key=key, body=raw, act=act)
    parts.bell.ring()
    return answer


async def _publish(connection: AsyncRows, body: PolicyPublish) -> dict[str, Any]:
    await connection.execute(queries.add_policy, body.model_dump())
    found = await store.find_policy(connection, PolicyVersion(name=body.name, version=body.version))
    if found["sha256"] != body.sha256 or found["path"] != body.path:
        raise ConflictError(f"{body.name}@{body.version} was published with other weights: take a new one.", slug="policy-version-taken")
    return orjson.loads(store.policy_model(found).model_dump_json())


@router.get("/policies", summary="Published policy versions", tags=["policies"])
async def list_policies(caller: Runs, parts: PartsOf, limit: Limit = 100, cursor: Cursor = None) -> Page[Policy]:
    """One page, by name and version."""
    after = decode_cursor(cursor, 2) or (None, 0)
    async with parts.database.tenant(caller.tenant) as connection:
        found = await store.rows(connection, queries.list_policies, {"after": after[0], "version": after[1], "limit": limit + 1})
    items = [store.policy_model(row) for row in found[:limit]]
    return Page(items=items, next_cursor=encode_cursor(items[-1].name, items[-1].version) if len(found) > limit else None)


@router.get("/policies/{name}/{version}", summary="Whether the engines hold a policy version", tags=["policies"])
async def get_policy(name: str, version: int, caller: Runs, parts: PartsOf) -> Policy:
    """Its state."""
    async with parts.database.tenant(caller.tenant) as connection:
        found = await store.row(connection, queries.find_policy, {"name": name, "version": version})
    if found is None:
        raise NotFoundError(f"{name}@{version} was not published.", slug="no-such-policy")
    return store.policy_model(found)


@router.get("/engine", summary="The engines behind the service", tags=["operations"])
async def engine_status(caller: Runs, parts: PartsOf) -> EngineStatus:
    """What each holds, and which do not answer."""
    return await parts.fleet.status()


__all__ = ["Parts", "router"]
