"""The command as a process: it says where it is, ends when it is told to, and leaves nothing behind."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from mcp import Client, MCPError

from tests.proxy.conftest import CACHERL, PAY, READ, Town, client_of, command, text


@asynccontextmanager
async def started(town: Town, *arguments: str, key: str | None = None) -> AsyncIterator[asyncio.subprocess.Process]:
    parameters = command(town, *arguments, key=key)
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *parameters.args,
        env={**os.environ, **(parameters.env or {})},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def address(process: asyncio.subprocess.Process) -> str:
    assert process.stdout is not None
    return (await asyncio.wait_for(process.stdout.readline(), 30)).decode().strip()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_over_http_a_signal_ends_it_while_sessions_are_open(town: Town, number: signal.Signals) -> None:
    async with started(town, "--port", "0", "--scenario", "s1") as process:
        url = await address(process)
        assert url.startswith("http://127.0.0.1:")
        async with client_of(url) as client:
            assert text(await client.call_tool(*READ)) == "100"
            process.send_signal(number)
            assert await asyncio.wait_for(process.wait(), 4) == 0, "a stream that is open holds it up for less than its grace"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_over_stdio_a_signal_ends_it_while_input_is_open(town: Town, number: signal.Signals) -> None:
    async with started(town, "--stdio", "--scenario", "s1") as process:
        await _answers(process)
        process.send_signal(number)
        assert await asyncio.wait_for(process.wait(), 8) == 0


async def test_over_stdio_the_end_of_input_ends_it(town: Town) -> None:
    async with started(town, "--stdio", "--scenario", "s1") as process:
        await _answers(process)
        assert process.stdin is not None
        process.stdin.close()
        assert await asyncio.wait_for(process.wait(), 8) == 0


async def _answers(process: asyncio.subprocess.Process) -> None:
    assert process.stdin is not None
    assert process.stdout is not None
    hello = b'{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},'
    process.stdin.write(b"this is not JSON\n" + hello + b'"clientInfo":{"name":"t","version":"1"}}}\n')
    line = await asyncio.wait_for(process.stdout.readline(), 30)
    assert b'"serverInfo"' in line


async def test_a_client_that_leaves_leaves_no_process(town: Town) -> None:
    async with Client(command(town, "--stdio", "--scenario", "s1")) as client:
        assert text(await client.call_tool(*PAY)) == "done"
        ours = _proxies()
        assert len(ours) == 1
    assert not _proxies() & ours


def _proxies() -> set[int]:
    """Children of this process that are proxies."""
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                line = (entry / "cmdline").read_bytes()
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except (FileNotFoundError, ProcessLookupError):
                continue
            if b"cache\0proxy" in line and parent == os.getpid():
                found.add(int(entry.name))
    return found


async def _fails(town: Town, *arguments: str, key: str | None = None) -> tuple[int | None, str]:
    async with started(town, *arguments, key=key) as process:
        _, errors = await asyncio.wait_for(process.communicate(), 60)
        return process.returncode, errors.decode()


async def test_a_wrong_key_is_told_at_the_start(town: Town) -> None:
    code, errors = await _fails(town, "--stdio", key="nonsense")
    assert code == 1
    assert "Traceback" not in errors


async def test_an_address_that_is_taken_is_told(town: Town) -> None:
    code, errors = await _fails(town, "--port", town.url.rpartition(":")[2])
    assert code == 2
    assert "cannot be listened on" in errors


async def test_an_unknown_mode_is_told(town: Town) -> None:
    code, errors = await _fails(town, "--mode", "guess")
    assert code == 2
    assert "mode" in errors


async def test_beyond_loopback_it_wants_to_know_its_names(town: Town) -> None:
    code, errors = await _fails(town, "--port", "0", "--host", "0.0.0.0")  # noqa: S104
    assert code == 2
    assert "--allowed-host" in errors


async def test_over_stdio_a_service_that_is_away_is_a_clear_error(town: Town) -> None:
    parameters = command(town, "--stdio", "--scenario", "s1")
    parameters.env = {**(parameters.env or {}), "CACHERL_CACHE_API_URL": "http://127.0.0.1:9"}
    async with Client(parameters, read_timeout_seconds=90) as client:
        with pytest.raises(MCPError, match="does not answer"):
            await client.list_tools()


HIDING = """
import sys

class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("mcp", "mcp_types", "starlette", "uvicorn"):
            raise ImportError(name)

sys.meta_path.insert(0, Hidden())
"""


async def test_without_the_extra_the_other_commands_are_there() -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", HIDING + CACHERL[1], "cache", "--help", env={**os.environ, "COLUMNS": "200"}, stdout=asyncio.subprocess.PIPE
    )
    said, _ = await process.communicate()
    assert process.returncode == 0
    assert b"proxy" in said
    assert b"ingest" in said
