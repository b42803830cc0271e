"""`cacherl cache proxy`: a cache as an MCP server, over streamable HTTP or over standard input and output."""

import asyncio
import importlib.util
import os
from pathlib import Path

import typer

from cacherl.cli.output import speaks_plainly
from cacherl.cli.system import HomeOption
from cacherl.errors import UsageError
from cacherl.mcp_proxy.config import Door, ProxyConfig
from cacherl.runtime import connect, from_environment, from_home

DEFAULT_PORT = 8005


@speaks_plainly
def proxy(  # noqa: PLR0913, PLR0917  (each is an option of the command)
    cache: str = typer.Argument(help="Name or id of the cache."),
    stdio: bool = typer.Option(False, "--stdio", help="Serve one session on standard input and output instead of HTTP."),
    port: int = typer.Option(DEFAULT_PORT, min=0, max=65535, help="Port of the HTTP server; 0 takes a free one."),
    host: str = typer.Option("127.0.0.1", help="Address to listen on. Beyond loopback every caller needs an API key of their own."),
    allowed_host: list[str] = typer.Option([], help="Name under which clients reach the proxy (their Host header); may be given often."),
    require_key: bool = typer.Option(False, "--require-key", help="Want callers' own keys on loopback too."),
    mode: str = typer.Option("replay", help="replay (nothing is ever called live), record, fallthrough or shadow."),
    budget: int | None = typer.Option(None, min=0, help="Live calls that the run may make in all; default: as the cache says."),
    scenario: str | None = typer.Option(None, help="Scenario of sessions that name none."),
    task: str | None = typer.Option(None, help="Task of sessions that name none; default: mcp."),
    exclude_source: list[str] = typer.Option([], help="Recordings that must not answer; may be given often."),
    preset: str | None = typer.Option(None, help="robust or paper; default: the cache's."),
    revision: int | None = typer.Option(None, help="Answer as the cache was at this revision; default: the newest at a session's start."),
    view: str | None = typer.Option(None, help="View to read; default: the cache's."),
    select: str = typer.Option("majority", help="Which of several results: majority, first or sample."),
    run: str | None = typer.Option(None, help="Run that live recordings are named after; default: one of this process."),
    seed: int = typer.Option(0, help="Seed of --select sample."),
    names: str = typer.Option("mcp", help="Tool names: mcp (dots allowed) or plain (letters, digits, _ and -, at most 64)."),
    explain: bool = typer.Option(False, "--explain", help="Say with every answer what kept the better tiers from answering."),
    home: Path = HomeOption,
) -> None:
    """Serve a cache as an MCP server: every session is an episode, answered from the recordings."""
    config = ProxyConfig.model_validate(
        {
            "cache": cache,
            "mode": mode,
            "preset": preset,
            "revision": revision,
            "view": view,
            "select": select,
            "run": run,
            "run_seed": seed,
            "budget": budget,
            "explain": explain,
            "names": names,
            "episode": {"scenario": scenario, "task": task, "exclude_sources": exclude_source or None},
        }
    )
    door = Door(host=host, port=port, require_key=require_key, hosts=allowed_host)
    if importlib.util.find_spec("mcp") is None:
        raise UsageError("the MCP proxy needs the extra `mcp`: pip install 'cacherl[mcp]'")
    from cacherl.mcp_proxy import run as proxies  # noqa: PLC0415  (the extra may be missing, and the other commands need not have it)

    proxies.log_to_stderr()
    url, key = _where(home)
    if stdio:
        asyncio.run(proxies.run_stdio(config, url, key, _say))
    else:
        asyncio.run(proxies.run_http(config, url, key, door, _announce, _say))


def _where(home: Path) -> tuple[str, str | None]:
    """The cache API, and the proxy's own key; without one, callers bring theirs."""
    runtime = from_environment() or from_home(home)
    if runtime is not None:
        return runtime.urls.cache_api, runtime.key
    url = os.environ.get("CACHERL_CACHE_API_URL")
    if url is not None:
        return url, None
    connect(home)  # says how to start a system
    raise AssertionError("no system was found a line ago")


def _say(text: str) -> None:
    typer.echo(text, err=True)


def _announce(address: str) -> None:
    typer.echo(address)
    _say("an MCP server; Ctrl-C ends it")
