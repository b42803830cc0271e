"""One prepared statement at the least cost: for the hottest question of a service and nothing else.

psycopg's asynchronous cursor costs twice what a small question costs the database (a pool, a cursor, a reader that comes and goes, rows of
objects). Here a few connections wait with the statement prepared and their readers in place; a question is its parameters as bytes, an
answer the one value of its one row. Whatever goes wrong is `QuickError`: the caller asks by the ordinary way, which tells what it is. The
statement must set its tenant itself, locally, before it reads anything, and change nothing, since it may be asked twice; every question is
a transaction of its own.
"""

import asyncio
from collections.abc import Sequence
from typing import Self

import psycopg
from psycopg import AsyncConnection, pq

from services.kit.postgres import options

NAME = b"quick"
CONNECTIONS = 4


class QuickError(Exception):
    """There is no answer this way."""


class Quick:
    """A statement of text parameters with one text answer, on connections of its own."""

    def __init__(self, dsn: str, statement: bytes, *, application: str, connections: int = CONNECTIONS) -> None:
        self._dsn, self._statement, self._application = dsn, statement, application
        self._free: asyncio.LifoQueue[_Line | None] = asyncio.LifoQueue()
        for _ in range(connections):
            self._free.put_nowait(None)
        self._closed = False

    async def ask(self, parameters: Sequence[bytes | None]) -> bytes | None:
        """The answer; None for no row or null. Errors: `QuickError`."""
        line = await self._free.get()
        try:
            if line is not None and not line.broken:
                try:
                    return await line.ask(parameters)
                except (psycopg.Error, OSError, QuickError):
                    pass  # the server may have closed it while it waited: once more, on a new one
            if line is not None:
                line.close()
                line = None
            line = await _Line.open(self._dsn, self._statement, self._application)
            return await line.ask(parameters)
        except (psycopg.Error, OSError) as error:
            raise QuickError(type(error).__name__) from error
        finally:
            if line is not None and (line.broken or self._closed):
                line.close()
                line = None
            self._free.put_nowait(line)

    def close(self) -> None:
        """Closes every connection that is free; the others close when they are."""
        self._closed = True
        kept = [self._free.get_nowait() for _ in range(self._free.qsize())]
        for line in kept:
            if line is not None:
                line.close()
            self._free.put_nowait(None)


class _Line:
    """A connection and the question that is under way on it."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection
        self._pg = connection.pgconn
        self._loop = asyncio.get_running_loop()
        self._waiting: asyncio.Future[bytes | None] | None = None
        self._socket = self._pg.socket
        self.broken = False
        self._loop.add_reader(self._socket, self._readable)

    @classmethod
    async def open(cls, dsn: str, statement: bytes, application: str) -> Self:
        connection = await AsyncConnection.connect(dsn, **options(application))
        found = connection.pgconn.prepare(NAME, statement)
        if found.status != pq.ExecStatus.COMMAND_OK:
            await connection.close()
            raise QuickError("the statement cannot be prepared")
        return cls(connection)

    async def ask(self, parameters: Sequence[bytes | None]) -> bytes | None:
        self._waiting = self._loop.create_future()
        try:
            self._pg.send_query_prepared(NAME, parameters)
            while self._pg.flush():
                await self._writable()
            return await self._waiting
        except BaseException:
            # An answer that nobody waits for would be taken for the next one's.
            self.broken = True
            raise

    async def _writable(self) -> None:
        ready = self._loop.create_future()
        self._loop.add_writer(self._socket, lambda: ready.done() or ready.set_result(None))
        try:
            await ready
        finally:
            self._loop.remove_writer(self._socket)

    def _readable(self) -> None:
        try:
            self._pg.consume_input()
            if self._pg.is_busy():
                return
            answer: bytes | None = None
            while (result := self._pg.get_result()) is not None:
                if result.status != pq.ExecStatus.TUPLES_OK:
                    raise QuickError(result.error_message.decode("utf-8", "replace"))
                answer = result.get_value(0, 0) if result.ntuples else None
            if self._waiting is not None and not self._waiting.done():
                self._waiting.set_result(answer)
        except (psycopg.Error, QuickError) as error:
            self.broken = True
            self._loop.remove_reader(self._socket)
            if self._waiting is not None and not self._waiting.done():
                self._waiting.set_exception(error if isinstance(error, QuickError) else QuickError(type(error).__name__))

    def close(self) -> None:
        self.broken = True
        self._loop.remove_reader(self._socket)
        self._pg.finish()
