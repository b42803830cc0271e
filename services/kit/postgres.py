"""Postgres: the only way to a cursor.

`Database.tenant(t)` is one transaction that sees the rows of tenant t; `Database.system()` is one that sees no tenant's
row at all and reaches them only through SECURITY DEFINER functions. The tenant is set locally to the transaction, so a
pooled connection carries nothing to its next user. Nobody calls commit: leaving the block commits, an exception rolls
back. `SyncDatabase` is the same without asyncio.

Rows are dicts. SQL lives in `queries.sql` files: `load_queries` gives them as `psycopg.sql.SQL`, which is never built
from a caller's text.
"""

import re
import select
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, LiteralString, Self, cast

from pgvector.psycopg import register_vector, register_vector_async
from psycopg import AsyncConnection, Connection, OperationalError, sql
from psycopg.rows import DictRow, dict_row
from psycopg_pool import AsyncConnectionPool, ConnectionPool

SET_TENANT = sql.SQL("select set_config('cacherl.tenant', %s, true)")
HAS_VECTOR = sql.SQL("select to_regtype('vector') is not null as present")
NAME = re.compile(r"^--\s*name:\s*(\S+)\s*$")

AsyncRows = AsyncConnection[DictRow]
SyncRows = Connection[DictRow]


def options(application: str) -> dict[str, Any]:
    """Keyword arguments of every connection: autocommit, so that a transaction is always an explicit block."""
    return {
        "autocommit": True,
        "row_factory": dict_row,
        "application_name": application,
        "connect_timeout": 10,
        "keepalives_idle": 30,
        "keepalives_interval": 10,
        "keepalives_count": 3,
    }


def refuse_if_closed(connection: AsyncRows | SyncRows) -> None:
    """Raises OperationalError for an idle connection that the server has closed; costs no round trip.

    An idle connection has nothing to read: if its socket is readable, the server said good-bye or sent a notice.
    """
    poller = select.poll()
    poller.register(connection.fileno(), select.POLLIN)
    if poller.poll(0):
        connection.pgconn.consume_input()
        if poller.poll(0):
            raise OperationalError("the server closed the connection")


class Database:
    """A pool of asynchronous connections under one role."""

    def __init__(self, pool: AsyncConnectionPool[AsyncRows]) -> None:
        self._pool = pool

    @classmethod
    async def open(cls, dsn: str, *, min_size: int = 1, max_size: int = 10, application: str = "cacherl", timeout_s: float = 30.0) -> Self:
        """Opens the pool and waits for `min_size` connections; PoolTimeout where the server is away for `timeout_s`."""

        async def configure(connection: AsyncRows) -> None:
            row = await (await connection.execute(HAS_VECTOR)).fetchone()
            if row is not None and row["present"]:
                await register_vector_async(connection)

        async def check(connection: AsyncRows) -> None:
            refuse_if_closed(connection)

        pool = AsyncConnectionPool(
            dsn,
            min_size=min_size,
            max_size=max_size,
            kwargs=options(application),
            configure=configure,
            check=check,
            open=False,
            timeout=timeout_s,
            connection_class=AsyncConnection[DictRow],
        )
        await pool.open(wait=True, timeout=timeout_s)
        return cls(pool)

    async def close(self) -> None:
        """Closes every connection."""
        await self._pool.close()

    @asynccontextmanager
    async def tenant(self, tenant: str) -> AsyncIterator[AsyncRows]:
        """One transaction that sees and writes the rows of `tenant` and of nobody else."""
        if not tenant:
            raise ValueError("a tenant has a name")
        async with self._pool.connection() as connection, connection.transaction():
            await connection.execute(SET_TENANT, (tenant,))
            yield connection

    @asynccontextmanager
    async def system(self) -> AsyncIterator[AsyncRows]:
        """One transaction without a tenant: tables show no row, only SECURITY DEFINER functions answer."""
        async with self._pool.connection() as connection, connection.transaction():
            yield connection

    @asynccontextmanager
    async def maintenance(self) -> AsyncIterator[AsyncRows]:
        """A connection without a transaction or a tenant, for statements that refuse one, such as `create index concurrently`."""
        async with self._pool.connection() as connection:
            yield connection


class SyncDatabase:
    """A pool of synchronous connections under one role, for processes without an event loop."""

    def __init__(self, pool: ConnectionPool[SyncRows]) -> None:
        self._pool = pool

    @classmethod
    def open(cls, dsn: str, *, min_size: int = 0, max_size: int = 4, application: str = "cacherl", timeout_s: float = 30.0) -> Self:
        """Opens the pool; connections are made on demand where `min_size` is 0. Open it after a fork, never before."""

        def configure(connection: SyncRows) -> None:
            row = connection.execute(HAS_VECTOR).fetchone()
            if row is not None and row["present"]:
                register_vector(connection)

        pool = ConnectionPool(
            dsn,
            min_size=min_size,
            max_size=max_size,
            kwargs=options(application),
            configure=configure,
            check=refuse_if_closed,
            open=False,
            timeout=timeout_s,
            connection_class=Connection[DictRow],
        )
        pool.open(wait=min_size > 0, timeout=timeout_s)
        return cls(pool)

    def close(self) -> None:
        """Closes every connection."""
        self._pool.close()

    @contextmanager
    def tenant(self, tenant: str) -> Iterator[SyncRows]:
        """One transaction that sees and writes the rows of `tenant` and of nobody else."""
        if not tenant:
            raise ValueError("a tenant has a name")
        with self._pool.connection() as connection, connection.transaction():
            connection.execute(SET_TENANT, (tenant,))
            yield connection

    @contextmanager
    def system(self) -> Iterator[SyncRows]:
        """One transaction without a tenant: tables show no row, only SECURITY DEFINER functions answer."""
        with self._pool.connection() as connection, connection.transaction():
            yield connection


class Queries:
    """The named statements of one `queries.sql`: `queries.find_cache` is a `psycopg.sql.SQL`."""

    def __init__(self, statements: dict[str, sql.SQL], source: Path) -> None:
        self._statements = statements
        self._source = source

    def __getattr__(self, name: str) -> sql.SQL:
        statements: dict[str, sql.SQL] = object.__getattribute__(self, "_statements")
        if name not in statements:
            raise AttributeError(f"{self._source} has no query named {name!r}")
        return statements[name]

    def __dir__(self) -> list[str]:
        return sorted(self._statements)


def load_queries(path: Path) -> Queries:
    """Reads a file of `-- name: foo` blocks; comment lines after the name describe the query and go along with it to the server.

    A name is a Python identifier and stands once; a block without a statement is an error.
    """
    blocks: dict[str, list[str]] = {}
    current: list[str] | None = None
    for line in path.read_text(encoding="utf-8").splitlines():
        match = NAME.match(line)
        if match:
            name = match.group(1)
            if not name.isidentifier() or name in blocks:
                raise ValueError(f"{path}: the name {name!r} is not an identifier or stands twice")
            current = blocks[name] = []
        elif current is not None:
            current.append(line)
    statements: dict[str, sql.SQL] = {}
    for name, lines in blocks.items():
        text = "\n".join(line for line in lines if not line.lstrip().startswith("--")).strip().removesuffix(";")
        if not text:
            raise ValueError(f"{path}: the query {name!r} has no statement")
        statements[name] = sql.SQL(cast(LiteralString, text))
    return Queries(statements, path)
