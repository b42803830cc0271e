"""Jobs: create, watch, cancel, retry, fetch what they made."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Header, Response
from fastapi.responses import FileResponse, StreamingResponse

from cacherl.api.common import Page
from cacherl.api.trainer import Artifact, Job, JobCreate, JobEvent
from cacherl.errors import ForbiddenError, NotFoundError
from cacherl.jobs import JobKind
from services.kit.auth import Caller, Scope
from services.kit.idempotency import IdempotencyKey
from services.kit.paging import Cursor, Limit, decode_cursor, encode_cursor
from services.trainer.directories import file_digest
from services.trainer.jobs import Ring, job_of, queries
from services.trainer.routes.parts import Parts, PartsOf, Trainee, once

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])
ROLLS = frozenset({Scope.CACHE_READ, Scope.ROLLOUT_RUN, Scope.REWARD_SCORE})
NEEDS: dict[JobKind, frozenset[Scope]] = dict.fromkeys((JobKind.GRPO, JobKind.REJECT, JobKind.EVALUATE), ROLLS)
POLL_S = 0.5
KEEP_ALIVE_S = 15.0


@router.post("", status_code=202, response_model=Job, summary="Queue a job")
def create_job(body: JobCreate, caller: Trainee, parts: PartsOf, key: IdempotencyKey = None) -> Response:
    """It runs once every job in `depends_on` has succeeded; names in its spec are resolved then."""
    _demand_scopes(caller, JobKind(body.spec.kind))
    rings: list[Ring] = []
    with parts.database.tenant(caller.tenant) as connection:

        def act() -> tuple[int, Job]:
            job, to_ring = parts.jobs.create(connection, body, caller)
            rings.extend(to_ring)
            return 202, job

        response = once(connection, caller=caller, route="POST /v1/jobs", key=key, body=body, act=act)
    parts.bell.ring(rings)
    return response


def _demand_scopes(caller: Caller, kind: JobKind) -> None:
    """A job acts with its caller's rights: what it will need must be there when it is queued, not an hour later."""
    missing = sorted(NEEDS.get(kind, frozenset()) - caller.scopes)
    if missing:
        raise ForbiddenError(f"A job of kind {kind} needs a key that also has the scopes: {', '.join(missing)}.")


@router.get("", response_model=Page[Job], summary="List jobs, newest first")
def list_jobs(caller: Trainee, parts: PartsOf, limit: Limit = 100, cursor: Cursor = None) -> Page[Job]:
    """The tenant's jobs."""
    before = decode_cursor(cursor, 2) or (None, None)
    with parts.database.tenant(caller.tenant) as connection:
        rows = connection.execute(queries.jobs, {"limit": limit + 1, "before": before[0], "before_id": before[1]}).fetchall()
    more = encode_cursor(rows[limit - 1]["created_at"].isoformat(), rows[limit - 1]["id"]) if len(rows) > limit else None
    return Page[Job](items=[job_of(row) for row in rows[:limit]], next_cursor=more)


@router.get("/{job}", response_model=Job, summary="How far a job is")
def get_job(job: str, caller: Trainee, parts: PartsOf) -> Job:
    """State, progress, result."""
    return _read(parts, caller, job)


@router.post("/{job}/cancel", response_model=Job, summary="Cancel a job")
def cancel_job(job: str, caller: Trainee, parts: PartsOf, key: IdempotencyKey = None) -> Job:
    """One that runs is asked to stop; jobs that wait for it are cancelled with it. An ended job stays as it is: again, nothing happens."""
    with parts.database.tenant(caller.tenant) as connection:
        parts.jobs.cancel(connection, job)
        return parts.jobs.read(connection, job)


@router.post("/{job}/retry", response_model=Job, status_code=202, summary="Queue a failed or cancelled job again")
def retry_job(job: str, caller: Trainee, parts: PartsOf, key: IdempotencyKey = None) -> Response:
    """It goes on from its last checkpoint; jobs that were cancelled because of it wait for it again."""
    rings: list[Ring] = []
    with parts.database.tenant(caller.tenant) as connection:

        def act() -> tuple[int, Job]:
            rings.extend(parts.jobs.retry(connection, job))
            return 202, parts.jobs.read(connection, job)

        response = once(connection, caller=caller, route=f"POST /v1/jobs/{job}/retry", key=key, body=None, act=act)
    parts.bell.ring(rings)
    return response


@router.get("/{job}/events", summary="What happens to a job, live", response_class=StreamingResponse)
async def events(
    job: str, caller: Trainee, parts: PartsOf, last_event_id: Annotated[int, Header(alias="Last-Event-ID", ge=0)] = 0
) -> StreamingResponse:
    """Server-sent events; `Last-Event-ID` resumes. The stream ends with the job."""
    await asyncio.to_thread(_read, parts, caller, job)
    return StreamingResponse(
        _follow(parts, caller, job, last_event_id), media_type="text/event-stream", headers={"Cache-Control": "no-store"}
    )


async def _follow(parts: Parts, caller: Caller, job: str, after: int) -> AsyncIterator[bytes]:
    spoken = time.monotonic()
    while True:
        found, ended = await asyncio.to_thread(_since, parts, caller, job, after)
        for event in found:
            after, spoken = event.id, time.monotonic()
            yield f"id: {event.id}\nevent: {event.kind}\ndata: {event.model_dump_json()}\n\n".encode()
        if ended and not found:
            return
        if time.monotonic() - spoken > KEEP_ALIVE_S:
            spoken = time.monotonic()
            yield b": still here\n\n"
        if not found:
            await asyncio.sleep(POLL_S)


def _since(parts: Parts, caller: Caller, job: str, after: int) -> tuple[list[JobEvent], bool]:
    """Events after one, and whether the job had ended before they were read."""
    with parts.database.tenant(caller.tenant) as connection:
        ended = parts.jobs.read(connection, job).state.final
        return parts.jobs.events(connection, job, after), ended


@router.get("/{job}/metrics", summary="A job's measurements", response_class=StreamingResponse)
def metrics(job: str, caller: Trainee, parts: PartsOf) -> StreamingResponse:
    """NDJSON, one record a step; a line that is being written is left out."""
    _read(parts, caller, job)
    return StreamingResponse(_whole_lines(parts.job_directory(job) / "metrics.ndjson"), media_type="application/x-ndjson")


def _whole_lines(path: Path) -> Iterator[bytes]:
    if not path.exists():
        return
    with path.open("rb") as stream:
        for line in stream:
            if line.endswith(b"\n"):
                yield line


@router.get("/{job}/artifacts", response_model=Page[Artifact], summary="The files that a job made")
def artifacts(job: str, caller: Trainee, parts: PartsOf) -> Page[Artifact]:
    """Names, sizes, hashes."""
    _read(parts, caller, job)
    return Page[Artifact](
        items=[Artifact(name=name, bytes=path.stat().st_size, sha256=file_digest(path)) for name, path in _artifacts(parts, job).items()]
    )


@router.get("/{job}/artifacts/{name}", summary="One file", response_class=FileResponse)
def artifact(job: str, name: str, caller: Trainee, parts: PartsOf) -> FileResponse:
    """The file's bytes. Only names of the list are found."""
    _read(parts, caller, job)
    path = _artifacts(parts, job).get(name)
    if path is None:
        raise NotFoundError(f"the job made no {name}", slug="no-such-artifact")
    return FileResponse(path, media_type="application/octet-stream", filename=name)


def _artifacts(parts: Parts, job: str) -> dict[str, Path]:
    folder = parts.job_directory(job) / "artifacts"
    return {path.name: path for path in sorted(folder.iterdir()) if path.is_file() and path.name[0] != "."} if folder.is_dir() else {}


def _read(parts: Parts, caller: Caller, job: str) -> Job:
    with parts.database.tenant(caller.tenant) as connection:
        return parts.jobs.read(connection, job)
