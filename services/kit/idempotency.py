"""`Idempotency-Key`: a POST that is sent twice acts once.

Key row, effect and answer are one transaction, the caller's own: either all three exist or none. A second request with
the same key waits for the first at the key's row and then gets its answer; where the first failed it acts itself, so
refusals and errors are never stored. Keys are scoped by tenant and route and bound to the body by a fingerprint.
Answers are kept for two days (`kit.expire`). Practice after draft-ietf-httpapi-idempotency-key-header-07.
"""

import hashlib
from collections.abc import Awaitable, Callable
from typing import Annotated, Any

import orjson
from fastapi import Header
from fastapi.responses import Response
from psycopg import sql

from cacherl.errors import InputError
from services.kit.auth import Caller
from services.kit.postgres import AsyncRows

MAX_KEY = 255
REPLAYED = "Idempotency-Replayed"
IdempotencyKey = Annotated[
    str | None, Header(alias="Idempotency-Key", min_length=1, max_length=MAX_KEY, description="The same key with the same body acts once.")
]

CLAIM = sql.SQL(
    "insert into kit.idempotency (tenant, route, key, fingerprint) values (%s, %s, %s, %s) on conflict do nothing returning key"
)
READ = sql.SQL("select fingerprint, status, body from kit.idempotency where tenant = %s and route = %s and key = %s")
KEEP = sql.SQL("update kit.idempotency set status = %s, body = %s where tenant = %s and route = %s and key = %s")


async def once(
    connection: AsyncRows,
    *,
    caller: Caller,
    route: str,
    key: str | None,
    body: bytes,
    act: Callable[[], Awaitable[tuple[int, dict[str, Any]]]],
) -> Response:
    """Runs `act` and answers with what it returned, or with what it returned the first time.

    `connection` is the transaction of `database.tenant(caller.tenant)`, and `act` must work on it alone: taking a second connection of the
    pool inside `act` could wait for requests that wait for this one. `body` is the raw body. Without a key `act` just runs. InputError
    `idempotency-key-reused` for a key that came with another body.
    """
    if key is None:
        return _answer(*_encoded(*await act()))
    if not (0 < len(key) <= MAX_KEY and key.isascii() and key.isprintable()):
        raise InputError(f"An Idempotency-Key has 1 to {MAX_KEY} printable ASCII characters.", slug="invalid-idempotency-key")
    name = (caller.tenant, route, key)
    fingerprint = hashlib.sha256(body).digest()
    claimed = await (await connection.execute(CLAIM, (*name, fingerprint))).fetchone()
    if claimed is None:
        row = await (await connection.execute(READ, name)).fetchone()
        assert row is not None, "a key that conflicts is committed, and only housekeeping deletes it"
        if bytes(row["fingerprint"]) != fingerprint:
            raise InputError("This Idempotency-Key came before with another body.", slug="idempotency-key-reused")
        return _answer(row["status"], bytes(row["body"]), replayed=True)
    status, content = _encoded(*await act())
    await connection.execute(KEEP, (status, content, *name))
    return _answer(status, content)


def _encoded(status: int, answer: dict[str, Any]) -> tuple[int, bytes]:
    return status, orjson.dumps(answer)


def _answer(status: int, content: bytes, *, replayed: bool = False) -> Response:
    return Response(content, status_code=status, media_type="application/json", headers={REPLAYED: "true"} if replayed else None)
