"""A live tool server of one account for each session: over plain HTTP, as an MCP server, and as a command on stdio.

`python -m tests.cache_api.bank LOG` serves MCP on stdio and appends a line to LOG for each call, since its memory is not the test's.
"""

import asyncio
import sys
from pathlib import Path
from typing import Any

import orjson
from fastapi import FastAPI, Request, Response
from mcp.server.lowlevel import Server
from mcp.server.stdio import stdio_server
from mcp.shared.exceptions import MCPError
from mcp_types import INVALID_PARAMS, CallToolRequestParams, CallToolResult, ListToolsResult, PaginatedRequestParams, TextContent
from starlette.types import ASGIApp


class Bank:
    """Sessions and their balances. It can be told to fail, to be slow, and to say each time something else."""

    def __init__(self, log: Path | None = None) -> None:
        self.balance: dict[str, int] = {}
        self.made: list[tuple[str, str]] = []
        """(session, tool) of every call."""
        self.broken = False
        self.slow_s = 0.0
        self.rate = 1
        self.asked = asyncio.Event()
        """Set with the first call."""
        self._log = log

    @property
    def calls(self) -> int:
        """How many calls were made."""
        return len(self.made) if self._log is None else len(self._log.read_text().splitlines()) if self._log.exists() else 0

    async def call(self, session: str, name: str, arguments: dict[str, Any]) -> tuple[str, bool]:
        """(what the tool says, whether it is an error)."""
        self.made.append((session, name))
        self.asked.set()
        if self._log is not None:
            with self._log.open("a") as log:
                log.write(f"{session} {name}\n")
        if self.slow_s:
            await asyncio.sleep(self.slow_s)
        balance = self.balance.setdefault(session, 100)
        match name:
            case "transfer" if arguments["amount"] > balance:
                return "not enough money", True
            case "transfer":
                self.balance[session] = balance - arguments["amount"]
                return f"done, receipt R{self.balance[session]}00", False
            case "get_balance":
                return str(balance), False
            case "get_weather":
                return f"sunny in {arguments['city']}", False
            case "get_rate":
                self.rate += 1
                return str(self.rate), False
            case _:
                return f"no tool {name}", True


def http_app(bank: Bank) -> FastAPI:
    """The bank over plain HTTP."""
    app = FastAPI()

    @app.post("/calls")
    async def calls(request: Request) -> Response:
        if bank.broken:
            return Response(status_code=500)
        answers = [await bank.call(one["session"], one["name"], one["arguments"]) for one in (await request.json())["items"]]
        results = [{"content": content, "is_error": is_error} for content, is_error in answers]
        return Response(orjson.dumps({"results": results}), media_type="application/json")

    @app.delete("/sessions/{session}", status_code=204)
    async def end(session: str) -> None:
        bank.balance.pop(session, None)

    return app


def mcp_server(bank: Bank) -> Server[Any]:
    """The bank as an MCP server: one balance for each MCP session."""
    names = iter(range(1_000_000))

    async def list_tools(ctx: Any, params: PaginatedRequestParams | None) -> ListToolsResult:
        return ListToolsResult(tools=[])

    async def call_tool(ctx: Any, params: CallToolRequestParams) -> CallToolResult:
        while bank.broken:  # noqa: ASYNC110 - for longer than anybody waits
            await asyncio.sleep(0.1)
        if params.name == "refused":
            raise MCPError(INVALID_PARAMS, "no tool refused")
        state = ctx.session._connection.state
        content, is_error = await bank.call(state.setdefault("bank", f"mcp-{next(names)}"), params.name, params.arguments or {})
        return CallToolResult(content=[TextContent(text=content)], is_error=is_error)

    return Server("bank", on_list_tools=list_tools, on_call_tool=call_tool, get_tool_input_schema=lambda name: None)


def mcp_app(bank: Bank) -> ASGIApp:
    """The MCP server over streamable HTTP, at `/mcp`."""
    return mcp_server(bank).streamable_http_app(streamable_http_path="/mcp", json_response=True)


async def _on_stdio(bank: Bank) -> None:
    server = mcp_server(bank)
    async with stdio_server() as (incoming, outgoing):
        await server.run(incoming, outgoing, server.create_initialization_options())


if __name__ == "__main__":
    asyncio.run(_on_stdio(Bank(Path(sys.argv[1]))))
