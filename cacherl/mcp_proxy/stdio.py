"""Standard input and output: the process is one session, and ends with its input or with SIGINT or SIGTERM.

The SDK reads standard input in a thread, which nothing can stop while it waits; here the event loop reads it, so a signal ends the process
at once and with everything closed.
"""

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from typing import Any, cast

from mcp.server.stdio import stdio_server

from cacherl.mcp_proxy.server import Proxy

MAX_LINE = 16 * 1024 * 1024
"""Bytes of one message."""


async def serve_stdio(proxy: Proxy) -> None:
    """Serves one session until standard input ends or a signal comes."""
    serving = asyncio.create_task(_serve(proxy))
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, serving.cancel)
    try:
        await serving
    except asyncio.CancelledError:
        if not serving.cancelled():
            raise  # somebody else's: this coroutine's own end


async def _serve(proxy: Proxy) -> None:
    lines = await _lines()
    async with stdio_server(stdin=cast(Any, lines)) as (incoming, outgoing):
        await proxy.server.run(incoming, outgoing, proxy.server.create_initialization_options())


async def _lines() -> AsyncIterator[str] | None:
    """Standard input line by line; None for a file, which the SDK may read as it does: it ends."""
    reader = asyncio.StreamReader(limit=MAX_LINE)
    try:
        await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    except ValueError:
        return None
    return _text(reader)


async def _text(reader: asyncio.StreamReader) -> AsyncIterator[str]:
    while line := await _line(reader):
        yield line.decode("utf-8", "replace")


async def _line(reader: asyncio.StreamReader) -> bytes:
    """The next line; one that is too long is read past and given as nothing that can be parsed. Empty at the end."""
    too_long = False
    while True:
        try:
            line = await reader.readuntil(b"\n")
        except asyncio.IncompleteReadError as end:
            return end.partial
        except asyncio.LimitOverrunError as error:
            too_long = True
            await reader.readexactly(error.consumed)
            continue
        return b"a message of more than 16 MiB\n" if too_long else line
