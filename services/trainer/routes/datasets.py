"""Datasets: create, upload in parts, complete, read."""

from collections.abc import Iterator
from typing import Annotated

from fastapi import APIRouter, Path, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import StreamingResponse

from cacherl.api.common import FieldError, Page
from cacherl.api.trainer import Dataset, DatasetCreate
from cacherl.errors import ConflictError, InputError, TooLargeError
from services.kit.idempotency import IdempotencyKey
from services.kit.paging import Cursor, Limit, decode_cursor, encode_cursor
from services.trainer import datasets
from services.trainer.jobs import queries
from services.trainer.routes.parts import Parts, PartsOf, Trainee, once

router = APIRouter(prefix="/v1/datasets", tags=["datasets"])


@router.post("", status_code=201, response_model=Dataset, summary="Create a dataset")
def create_dataset(body: DatasetCreate, caller: Trainee, parts: PartsOf, key: IdempotencyKey = None) -> Response:
    """An empty dataset; upload its parts, then complete it."""
    with parts.database.tenant(caller.tenant) as connection:

        def act() -> tuple[int, Dataset]:
            return 201, datasets.create(connection, body)

        return once(connection, caller=caller, route="POST /v1/datasets", key=key, body=body, act=act)


@router.get("", response_model=Page[Dataset], summary="List datasets, newest first")
def list_datasets(caller: Trainee, parts: PartsOf, limit: Limit = 100, cursor: Cursor = None) -> Page[Dataset]:
    """The tenant's datasets."""
    before = decode_cursor(cursor, 2) or (None, None)
    with parts.database.tenant(caller.tenant) as connection:
        query = {"limit": limit + 1, "before": before[0], "before_id": before[1]}
        rows = connection.execute(queries.datasets, query).fetchall()
    more = encode_cursor(rows[limit - 1]["created_at"].isoformat(), rows[limit - 1]["id"]) if len(rows) > limit else None
    return Page[Dataset](items=[datasets.dataset_of(row) for row in rows[:limit]], next_cursor=more)


@router.get("/{dataset}", response_model=Dataset, summary="A dataset by id, or the newest of a name")
def get_dataset(dataset: str, caller: Trainee, parts: PartsOf) -> Dataset:
    """What it is and what importing it counted."""
    with parts.database.tenant(caller.tenant) as connection:
        return datasets.find(connection, dataset)


@router.put("/{dataset}/parts/{number}", response_model=Dataset, summary="Upload one part")
async def put_part(request: Request, dataset: str, number: Annotated[int, Path(ge=0)], caller: Trainee, parts: PartsOf) -> Dataset:
    """The raw bytes of part `number`; parts are joined in the order of their numbers. The same number again replaces it."""
    if number >= parts.settings.max_parts:
        raise InputError(f"A dataset has at most {parts.settings.max_parts} parts.", slug="too-many-parts")
    content = bytearray()
    async for chunk in request.stream():
        content += chunk
        if len(content) > parts.settings.max_part_bytes:
            raise TooLargeError(f"A part has at most {parts.settings.max_part_bytes} bytes: send more parts.")
    return await run_in_threadpool(_keep_part, parts, caller.tenant, dataset, number, bytes(content))


def _keep_part(parts: Parts, tenant: str, dataset: str, number: int, content: bytes) -> Dataset:
    with parts.database.tenant(tenant) as connection:
        found = datasets.lock_open(connection, dataset)
        if found.state != "open":
            raise ConflictError(f"the dataset is {found.state}: its parts are imported", slug="dataset-not-open")
        parts.files.put_part(dataset, number, content)
        return found


@router.post("/{dataset}/complete", response_model=Dataset, summary="Import what was uploaded")
def complete(dataset: str, caller: Trainee, parts: PartsOf, key: IdempotencyKey = None) -> Dataset:
    """Imports the parts, counting what it took, repaired and refused. A dataset is imported once: again, this answers as it did."""
    with parts.database.tenant(caller.tenant) as connection:
        found = datasets.complete(connection, parts.files, dataset)
    parts.files.forget_parts(dataset)
    return found


@router.get("/{dataset}/records", summary="Its normalised records", response_class=StreamingResponse)
def records(dataset: str, caller: Trainee, parts: PartsOf) -> StreamingResponse:
    """NDJSON: one trajectory, task or episodes-file line each."""
    with parts.database.tenant(caller.tenant) as connection:
        found = datasets.find(connection, dataset)
    if found.state != "ready":
        raise ConflictError(f"the dataset is {found.state}", slug="dataset-not-ready")
    lines: Iterator[bytes] = parts.files.lines(found.id)
    return StreamingResponse(lines, media_type="application/x-ndjson")


@router.get("/{dataset}/problems", response_model=Page[FieldError], summary="The lines that could not be read")
def problems(dataset: str, caller: Trainee, parts: PartsOf) -> Page[FieldError]:
    """The first hundred refused lines with their numbers."""
    with parts.database.tenant(caller.tenant) as connection:
        found = datasets.find(connection, dataset)
        row = connection.execute(queries.dataset, {"dataset": found.id}).fetchone()
    assert row is not None, "it was found under this id"
    return Page[FieldError](items=[FieldError.model_validate(problem) for problem in row["problems"]])
