"""`cacherl cache`: caches of recorded tool results."""

import asyncio
import uuid
from pathlib import Path

import orjson
import typer

from cacherl.api.cache import CacheCreate, CacheSettings, LookupCall, LookupItem, LookupRequest
from cacherl.cli import cache_admin, cache_live, fidelity, tools
from cacherl.cli.output import print_json, print_table, speaks_plainly
from cacherl.cli.system import HomeOption, JsonOption
from cacherl.client import CacheClient
from cacherl.errors import NotFoundError, UsageError
from cacherl.importers import import_file
from cacherl.runtime import connect
from cacherl.tier import Preset

app = typer.Typer(no_args_is_help=True, help="Caches of recorded tool results.")
app.add_typer(cache_admin.snapshot, name="snapshot")
for command in (
    *cache_admin.COMMANDS,
    cache_live.divergence,
    fidelity.calibrate,
    fidelity.calibration,
    fidelity.fidelity,
    tools.tools,
    tools.learn,
):
    app.command()(command)


@app.command("list")
@speaks_plainly
def list_caches(home: Path = HomeOption, as_json: bool = JsonOption) -> None:
    """The caches there are."""

    async def ask() -> None:
        async with _client(home) as client:
            page = await client.list()
        if as_json:
            print_json(page)
        else:
            print_table(["cache", "entries", "revision", "view"], [[c.name, str(c.entries), str(c.revision), c.view] for c in page.items])

    asyncio.run(ask())


@app.command()
@speaks_plainly
def ingest(
    cache: str = typer.Argument(help="Name of the cache; created where there is none."),
    files: list[Path] = typer.Argument(help="Logs in any format that can be imported."),
    preset: str | None = typer.Option(None, help="robust or paper, for a cache that is made now; default: robust."),
    scenario: str | None = typer.Option(
        None, help="Scenario: a field of the records, a JMESPath expression on them, or one name for all; default: what the importer says."
    ),
    annotations: Path | None = typer.Option(None, help="JSON object: tool name → annotations, given before anything is inferred."),
    home: Path = HomeOption,
    as_json: bool = JsonOption,
) -> None:
    """Record the calls of logs in a cache."""
    given = fidelity.read_annotations(annotations) if annotations is not None else {}
    if preset not in (None, "robust", "paper"):
        raise UsageError(f"there is no preset {preset!r}; choose robust or paper")

    imports = [import_file(path, scenario=scenario) for path in files]  # what cannot be recognised is told before anything is stored

    async def send() -> None:
        async with _client(home) as client:
            await _ensure(client, cache, preset)
            lines = (trajectory for found in imports for trajectory in found)
            answer = await client.ingest(cache, lines, batch=uuid.uuid4().hex)
            if given:
                await tools.learned(client, cache, given)
        if as_json:
            print_json(answer)
        else:
            typer.echo(
                f"{answer.read} lines read, {answer.stored} calls stored, {answer.duplicate} known already, revision {answer.revision}"
            )
        for name, found in zip(files, imports, strict=True):
            for problem in found.problems:
                typer.echo(f"{name}: refused: {problem.detail}", err=True)
        for refused in answer.refused:
            typer.echo(f"record {refused.line}: refused by the cache: {refused.detail}", err=True)

    asyncio.run(send())


@app.command()
@speaks_plainly
def lookup(
    cache: str,
    tool: str,
    arguments: str = typer.Argument(help="A JSON object."),
    scenario: str = typer.Option(..., help="Scenario of the call."),
    home: Path = HomeOption,
) -> None:
    """Ask what a cache would answer to one call, and why."""
    try:
        parsed = orjson.loads(arguments)
    except orjson.JSONDecodeError as error:
        raise UsageError(f"the arguments are not JSON: {error}") from error
    item = LookupItem(calls=[LookupCall(name=tool, arguments=parsed)], scenario=scenario)

    async def ask() -> None:
        async with _client(home) as client:
            print_json(await client.lookups(cache, LookupRequest(items=[item], explain=True)))

    asyncio.run(ask())


@app.command()
@speaks_plainly
def stats(cache: str, home: Path = HomeOption, as_json: bool = JsonOption) -> None:
    """How a cache's lookups were answered, by tool."""

    async def ask() -> None:
        async with _client(home) as client:
            found = await client.stats(cache)
        if as_json:
            print_json(found)
            return
        typer.echo(f"{found.entries} entries, {found.tools} tools, {found.keys} keys, {found.conflicting_keys} with several results")
        tiers = ["exact", "fuzzy", "best_effort", "miss"]
        rows = [
            [
                row.tool,
                *(str(row.outcomes.get(t, 0)) for t in tiers),
                _share(row.hit_rate),
                _share(row.false_rate),
                row.false_rate_from or "",
            ]
            for row in found.lookups
        ]
        print_table(["tool", *tiers, "hits", "false", "measured by"], rows)

    asyncio.run(ask())


@app.command()
@speaks_plainly
def coverage(cache: str, limit: int = typer.Option(20, help="Rows."), home: Path = HomeOption, as_json: bool = JsonOption) -> None:
    """What missed most: what to record next."""

    async def ask() -> None:
        async with _client(home) as client:
            found = await client.coverage(cache, limit=limit)
        if as_json:
            print_json(found)
        else:
            print_table(
                ["tool", "misses", "lookups", "share"], [[t.tool, str(t.misses), str(t.lookups), _share(t.miss_rate)] for t in found.tools]
            )
            rows = [[item.tool, orjson.dumps(item.arguments).decode(), str(item.misses)] for item in found.items]
            print_table(["tool", "arguments", "misses"], rows)

    asyncio.run(ask())


async def _ensure(client: CacheClient, cache: str, preset: Preset | None) -> None:
    """Makes a cache where there is none. Errors: `UsageError` where there is one of another preset."""
    try:
        found = await client.get(cache)
    except NotFoundError:
        await client.create(CacheCreate(name=cache, settings=CacheSettings(preset=preset or "robust")))
        return
    if preset not in (None, found.settings.preset):
        raise UsageError(f"the cache {cache} is there with preset {found.settings.preset}: take another name, or leave --preset out")


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.1%}"


def _client(home: Path) -> CacheClient:
    runtime = connect(home)
    return CacheClient(runtime.urls.cache_api, runtime.key)
