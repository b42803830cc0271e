"""An MCP client that speaks to a cache: the recorded tools are listed and called like live ones, and every answer says where it is from.

    cacherl up                                             (in another terminal)
    python examples/mcp_client.py --record                 (records three calls in a cache named `mcp-shop`)
    cacherl cache proxy mcp-shop --scenario shop-may       (in a third terminal; prints the address)
    python examples/mcp_client.py http://127.0.0.1:8005/mcp

Any framework that speaks MCP can be given that address instead; without one, this starts the proxy itself over standard input and output.
"""
# ruff: noqa: T201  (an example prints)

import argparse
import asyncio
import os
import sys

from mcp import Client, StdioServerParameters
from mcp_types import CallToolResult, TextContent

from cacherl.api.cache import CacheCreate, EntryLine, HistoryItem
from cacherl.client import CacheClient
from cacherl.errors import ConflictError
from cacherl.runtime import connect
from cacherl.testing import tool
from cacherl.tier import CallOutcome, ToolResult
from cacherl.tool_call import ToolCall

CACHE, SCENARIO = "mcp-shop", "shop-may"
TOOLS = [
    tool("parcel.track", "order", mutating=False, description="Where the parcel of an order is."),
    tool("parcel.redirect", "order", "place", mutating=True, description="Send the parcel of an order elsewhere."),
]
TRACK = ToolCall(name="parcel.track", arguments={"order": "A37"})
REDIRECT = ToolCall(name="parcel.redirect", arguments={"order": "A37", "place": "Bergen"})


async def record() -> None:
    """Three calls: a parcel before and after it is sent elsewhere."""
    runtime = connect()
    moved = HistoryItem(call=REDIRECT, outcome=CallOutcome.EXACT, result=ToolResult(content="done"))
    oslo, bergen = ToolResult(content={"place": "Oslo"}), ToolResult(content={"place": "Bergen"})
    calls = [
        EntryLine(call=TRACK, result=oslo, scenario=SCENARIO, source="may-1", step=0),
        EntryLine(call=REDIRECT, result=moved.result, scenario=SCENARIO, source="may-2", step=0),
        EntryLine(call=TRACK, result=bergen, scenario=SCENARIO, source="may-2", step=1, history=[moved]),
    ]
    async with CacheClient(runtime.urls.cache_api, runtime.key) as client:
        try:
            await client.create(CacheCreate(name=CACHE, tools=TOOLS))
        except ConflictError:
            print(f"the cache {CACHE} is there")
        stored = await client.ingest(CACHE, calls, batch="may")
    print(f"cache {CACHE}: {stored.stored} calls stored")


def told(result: CallToolResult) -> str:
    """A result in words: how it was answered, from where, and what it says."""
    answer = (result.meta or {})["cacherl/answer"]
    source = f" (recorded in {answer['entry']['source']})" if answer["entry"] else ""
    (text,) = (block.text for block in result.content if isinstance(block, TextContent))
    return f"{answer['outcome']:8} {text}{source}"


async def use(address: str | None) -> None:
    """Lists the tools, then tracks a parcel before and after two redirections, of which one was recorded."""
    proxy = StdioServerParameters(
        command=sys.executable,
        args=["-c", "from cacherl.cli import main; main()", "cache", "proxy", CACHE, "--stdio", "--scenario", SCENARIO],
        env={name: value for name, value in os.environ.items() if name.startswith("CACHERL_") or name == "PYTHONPATH"},
    )
    async with Client(address or proxy) as client:
        for listed in (await client.list_tools()).tools:
            print(f"{listed.name}: {listed.description}")
        for name, arguments in (
            (TRACK.name, TRACK.arguments),
            (REDIRECT.name, REDIRECT.arguments),
            (TRACK.name, TRACK.arguments),
            (REDIRECT.name, {"order": "A37", "place": "Molde"}),
            (TRACK.name, TRACK.arguments),
        ):
            print(f"  {told(await client.call_tool(name, arguments))}")


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description="Speak to a cache over MCP.")
    parser.add_argument("address", nargs="?", help="address of a running proxy; default: one of this client's own, over stdio")
    parser.add_argument("--record", action="store_true", help="record the example's calls first")
    options = parser.parse_args()
    if options.record:
        asyncio.run(record())
    else:
        asyncio.run(use(options.address))


if __name__ == "__main__":
    main()
