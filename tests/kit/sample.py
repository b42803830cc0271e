"""A tiny service made with the kit: a table of notes, and routes that fail in every way."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Request, Response
from psycopg import OperationalError
from pydantic import BaseModel, ConfigDict, Field, field_validator

from cacherl.errors import ConflictError, DataError, EngineError, GoneError
from services.kit.application import create_app
from services.kit.auth import Caller, Scope, requires
from services.kit.idempotency import IdempotencyKey, once
from services.kit.identifiers import new_id
from services.kit.postgres import Database
from services.kit.settings import ServiceSettings
from services.kit.trace import outgoing_headers

TABLE = """
create schema sample;
grant usage on schema sample to cacherl_app;
create table sample.notes (id text primary key, tenant text not null, text text not null);
select kit.enable_tenancy('sample.notes');
"""
Reader = Annotated[Caller, Depends(requires(Scope.CACHE_READ))]
Writer = Annotated[Caller, Depends(requires(Scope.CACHE_WRITE))]


class Note(BaseModel):
    model_config = ConfigDict(extra="forbid")

    text: str = Field(max_length=1000)
    tags: list[int] = []

    @field_validator("text")
    @classmethod
    def no_curse(cls, text: str) -> str:
        if "curse" in text:
            raise ValueError(f"{text} is a curse")
        return text


routes = APIRouter(prefix="/v1")


def database_of(request: Request) -> Database:
    return request.app.state.database


@routes.post("/notes", status_code=201)
async def add_note(request: Request, note: Note, caller: Writer, key: IdempotencyKey = None) -> Response:
    async with database_of(request).tenant(caller.tenant) as connection:

        async def act() -> tuple[int, dict[str, Any]]:
            row = (new_id("note"), caller.tenant, note.text)
            await connection.execute("insert into sample.notes (id, tenant, text) values (%s, %s, %s)", row)
            if note.text == "conflict":
                raise ConflictError("no such note is allowed")
            return 201, {"id": row[0]}

        return await once(connection, caller=caller, route="POST /v1/notes", key=key, body=await request.body(), act=act)


@routes.get("/notes")
async def list_notes(request: Request, caller: Reader) -> dict[str, Any]:
    async with database_of(request).tenant(caller.tenant) as connection:
        rows = await (await connection.execute("select text from sample.notes order by id")).fetchall()
    return {"items": [row["text"] for row in rows]}


@routes.post("/stream")
async def measure(request: Request, caller: Writer) -> dict[str, int]:
    return {"bytes": sum([len(chunk) async for chunk in request.stream()])}


@routes.post("/large", max_body_size=1_000_000)
async def large(request: Request, caller: Writer) -> dict[str, int]:
    return {"bytes": len(await request.body())}


@routes.post("/unread")
async def unread(caller: Writer) -> dict[str, str]:
    return {}


@routes.get("/whoami/{name}")
async def whoami(name: int, caller: Reader) -> dict[str, Any]:
    return {
        "tenant": caller.tenant,
        "scopes": sorted(caller.scopes),
        "job": caller.job_id,
        "delegated": caller.delegated,
        "out": outgoing_headers(),
    }


@routes.get("/fail/{how}")
async def fail(how: str, caller: Reader) -> None:
    failures: dict[str, Exception] = {
        "conflict": ConflictError("it is so"),
        "gone": GoneError("erased"),
        "engine": EngineError("no engine"),
        "data": DataError("line 3 is bad", line=3, pointer="/x"),
        "database": OperationalError("server at 10.1.2.3 closed the connection"),
        "bug": RuntimeError("secret=hunter2"),
    }
    raise failures[how]


def sample(
    settings: ServiceSettings, *, routers: Sequence[APIRouter] = (routes,), ready: Sequence[Callable[[], Awaitable[None]]] = ()
) -> FastAPI:
    return create_app(name="sample", version="1", settings=settings, routers=routers, ready=ready)
