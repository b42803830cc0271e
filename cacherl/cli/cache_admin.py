"""`cacherl cache …`: operating caches. What removes something asks first; `--yes` answers beforehand, where nobody can be asked too."""

import asyncio
import sys
from collections.abc import AsyncIterator
from datetime import datetime
from pathlib import Path

import orjson
import typer
from rich.console import Console

from cacherl.api.cache import CacheCreate, CacheSettings
from cacherl.api.cache_operations import PurgeCreate
from cacherl.cli.output import print_json, print_table, speaks_plainly
from cacherl.cli.system import HomeOption, JsonOption
from cacherl.client import CacheClient, RolloutClient
from cacherl.errors import DataError, ServiceError, UsageError
from cacherl.runtime import connect
from cacherl.snapshot import SnapshotReader
from cacherl.tool_spec import ToolSpec

snapshot = typer.Typer(no_args_is_help=True, help="A cache as one file, and a cache from one.")
YesOption = typer.Option(False, "--yes", "-y", help="Do not ask.")
LimitOption = typer.Option(20, min=1, max=1000, help="Rows.")
MEBIBYTE = 1 << 20
CHUNK = 1 << 18
ROOM = 1 << 50
"""A file of one's own may be of any size."""


@speaks_plainly
def create(
    cache: str = typer.Argument(help="Name of the new cache."),
    preset: str = typer.Option("robust", help="robust or paper."),
    tools: Path | None = typer.Option(None, help="Tool specs with their annotations: a JSON list."),
    live_server: str | None = typer.Option(None, help="Name of a live tool server in the service's configuration."),
    live_budget: int | None = typer.Option(None, min=0, help="Live calls that a run may make; default: as many as it needs."),
    shadow_share: float = typer.Option(0.05, min=0, max=1, help="Mode shadow: the share of answers that is also asked live."),
    home: Path = HomeOption,
    as_json: bool = JsonOption,
) -> None:
    """Make an empty cache."""
    if preset not in ("robust", "paper"):
        raise UsageError(f"there is no preset {preset!r}; choose robust or paper")
    specs = [ToolSpec.model_validate(spec) for spec in _list_in(tools)] if tools is not None else []
    settings = CacheSettings(preset=preset, live_server=live_server, live_budget=live_budget, shadow_share=shadow_share)
    wanted = CacheCreate(name=cache, settings=settings, tools=specs)

    async def ask() -> None:
        async with _client(home) as client:
            made = await client.create(wanted)
        if as_json:
            print_json(made)
        else:
            typer.echo(f"{made.name} ({made.id}) reads through {made.view}")

    asyncio.run(ask())


@speaks_plainly
def delete(cache: str, yes: bool = YesOption, home: Path = HomeOption) -> None:
    """Delete a cache with everything in it, for good."""

    async def ask() -> None:
        async with _client(home) as client:
            found = await client.get(cache)
            _confirm(f"Delete {found.name} with its {found.entries} entries, for good?", yes=yes)
            await client.delete(found.id)
        typer.echo(f"{found.name} is deleted", err=True)

    asyncio.run(ask())


@speaks_plainly
def purge(
    cache: str,
    tool: str | None = typer.Option(None, help="Recordings of this tool."),
    source: str | None = typer.Option(None, help="Recordings of this source (trajectory, or run/task/episode)."),
    recorded_before: datetime | None = typer.Option(None, help="Recordings from before this time (UTC)."),
    entry: list[str] = typer.Option([], help="This entry; may be given several times."),
    erase: bool = typer.Option(False, "--erase", help="Remove the bytes too: revisions that saw them can no longer be pinned."),
    dry_run: bool = typer.Option(False, "--dry-run", help="Only count."),
    yes: bool = YesOption,
    home: Path = HomeOption,
    as_json: bool = JsonOption,
) -> None:
    """Hide recordings from later revisions, or erase them; filters narrow one another."""
    before = recorded_before.isoformat() + "Z" if recorded_before is not None else None
    filters = {"tool": tool, "source": source, "recorded_before": before, "entries": list(entry) or None}
    given = {name: value for name, value in filters.items() if value is not None}
    if not given:
        raise UsageError("give at least one of --tool, --source, --recorded-before and --entry")

    async def ask() -> None:
        async with _client(home) as client:
            counted = await client.purge(cache, PurgeCreate(**given, erase=erase, dry_run=True))
            if not dry_run and counted.matched:
                _confirm(f"{'Erase' if erase else 'Hide'} {counted.matched} entries of {cache}?", yes=yes)
                counted = await client.purge(cache, PurgeCreate(**given, erase=erase))
        if as_json:
            print_json(counted)
        elif dry_run or not counted.matched:
            typer.echo(f"{counted.matched} entries match")
        else:
            blanked = f", {counted.links_blanked} blanked in the histories of others" if counted.links_blanked else ""
            typer.echo(f"{counted.removed} entries hidden, {counted.erased} erased{blanked}; revision {counted.revision}")

    asyncio.run(ask())


@speaks_plainly
def revisions(cache: str, limit: int = LimitOption, home: Path = HomeOption, as_json: bool = JsonOption) -> None:
    """What each revision of a cache brought, newest first."""

    async def ask() -> None:
        async with _client(home) as client:
            page = await client.revisions(cache, limit=limit)
        if as_json:
            print_json(page)
        else:
            rows = [
                [str(r.revision), r.kind, str(r.stored), str(r.removed), f"{r.created_at:%Y-%m-%d %H:%M:%S}", r.batch] for r in page.items
            ]
            print_table(["revision", "kind", "stored", "removed", "when", "batch"], rows)

    asyncio.run(ask())


@speaks_plainly
def views(cache: str, limit: int = LimitOption, home: Path = HomeOption, as_json: bool = JsonOption) -> None:
    """A cache's views, newest first; the one that it reads through is marked."""

    async def ask() -> None:
        async with _client(home) as client:
            present, page = (await client.get(cache)).view, await client.views(cache, limit=limit)
        if as_json:
            print_json(page)
            return
        rows = [
            [v.id + (" *" if v.id == present else ""), str(v.state), f"{v.covers_from}–{v.covers_through}", f"{v.progress.done:.0f}"]
            for v in page.items
        ]
        print_table(["view", "state", "revisions", "entries"], rows)

    asyncio.run(ask())


@speaks_plainly
def entries(
    cache: str,
    tool: str | None = typer.Option(None, help="Of this tool alone."),
    limit: int = LimitOption,
    home: Path = HomeOption,
    as_json: bool = JsonOption,
) -> None:
    """Recorded calls, in the order of recording."""

    async def ask() -> None:
        async with _client(home) as client:
            page = await client.entries(cache, tool=tool, limit=limit)
        if as_json:
            print_json(page)
            return
        rows = [[e.id, e.tool, orjson.dumps(e.arguments).decode()[:80], f"{e.source}/{e.step}", e.scenario] for e in page.items]
        print_table(["entry", "tool", "arguments", "source", "scenario"], rows)

    asyncio.run(ask())


@speaks_plainly
def touched(
    entry: list[str] = typer.Argument(help="Entries of a cache, such as one that was found wrong."),
    out: Path | None = typer.Option(None, help="Also write the episodes there (*.episodes.jsonl), for `cacherl score`."),
    home: Path = HomeOption,
    as_json: bool = JsonOption,
) -> None:
    """The episodes that entries answered, so that they can be scored again."""

    async def ask() -> None:
        runtime, found = connect(home), []
        lines = out.open("wb") if out is not None else None
        async with RolloutClient(runtime.urls.rollout, runtime.key) as client:
            for name in entry:
                async for line in client.touched(name):
                    head = orjson.loads(line)
                    if lines is not None:
                        lines.write(line + b"\n")
                    if head["schema"] == "cacherl.episode/1":
                        kept = {field: head[field] for field in ("rollout", "task_id", "group", "index", "status")}
                        found.append({"entry": name, "episode": head["id"], **kept})
        if lines is not None:
            lines.close()
        if as_json:
            print_json({"schema": "cacherl.touched/1", "episodes": found})
            return
        print_table(["episode", "rollout", "task", "entry"], [[f["episode"], f["rollout"], f["task_id"], f["entry"]] for f in found])
        if out is not None:
            typer.echo(f"score them again: cacherl score {out}", err=True)

    asyncio.run(ask())


@snapshot.command("export")
@speaks_plainly
def export(
    cache: str,
    file: Path = typer.Argument(help="Where it goes, such as town.snapshot.zst."),
    revision: int | None = typer.Option(None, min=0, help="Default: the newest."),
    view: str | None = typer.Option(None, help="Default: the cache's present one."),
    home: Path = HomeOption,
    as_json: bool = JsonOption,
) -> None:
    """Write a cache, as it answers at one revision, to one file; the file is there once it is whole."""

    async def ask() -> None:
        part = file.with_name(file.name + ".part")
        reader = SnapshotReader(most=ROOM, longest=ROOM)
        try:
            with part.open("wb") as target, Progress("exported") as progress:
                async with _client(home) as client:
                    async for chunk in client.export_snapshot(cache, revision=revision, view=view):
                        for _ in reader.feed(chunk):
                            pass
                        target.write(chunk)
                        progress.add(len(chunk))
            try:
                end = reader.finish()
            except DataError as error:
                raise ServiceError(f"{cache} was not exported whole ({error.detail}); try again") from error
            part.replace(file)
        finally:
            part.unlink(missing_ok=True)
        counts = {kind: made.lines for kind, made in end.parts.items()}
        if as_json:
            print_json({"schema": "cacherl.snapshot-export/1", "file": str(file), "snapshot": end.sha256, "lines": counts})
        else:
            typer.echo(f"{file}: {counts.get('entry', 0)} entries, {counts.get('link', 0)} histories, snapshot {end.sha256[:16]}")

    asyncio.run(ask())


@snapshot.command("import")
@speaks_plainly
def import_(
    file: Path, cache: str = typer.Argument(help="Name of the new cache."), home: Path = HomeOption, as_json: bool = JsonOption
) -> None:
    """Make a new cache from a file; nothing is made of one that is cut off or altered."""

    async def ask() -> None:
        with Progress("sent") as progress:
            async with _client(home) as client:
                made = await client.import_snapshot(cache, _chunks(file, progress))
        if as_json:
            print_json(made)
        else:
            typer.echo(f"{made.cache.name}: {made.entries} entries at revision {made.cache.revision}, snapshot {made.snapshot[:16]}")

    asyncio.run(ask())


COMMANDS = (create, delete, purge, revisions, views, entries, touched)


class Progress:
    """Bytes on standard error, for people who wait."""

    def __init__(self, verb: str) -> None:
        self.verb, self.size = verb, 0
        self._status = Console(stderr=True).status(verb)

    def __enter__(self) -> "Progress":
        self._status.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._status.stop()

    def add(self, size: int) -> None:
        """Some more went by."""
        self.size += size
        self._status.update(f"{self.size / MEBIBYTE:.1f} MiB {self.verb}")


async def _chunks(file: Path, progress: Progress) -> AsyncIterator[bytes]:
    with file.open("rb") as source:
        while chunk := await asyncio.to_thread(source.read, CHUNK):
            progress.add(len(chunk))
            yield chunk


def _confirm(question: str, *, yes: bool) -> None:
    """Errors: UsageError where nobody can be asked, or who was asked says no."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise UsageError(f"{question} Say --yes.")
    if not typer.confirm(question, err=True):
        raise UsageError("nothing was done")


def _list_in(file: Path) -> list[object]:
    try:
        found = orjson.loads(file.read_bytes())
    except orjson.JSONDecodeError as error:
        raise UsageError(f"{file} is not JSON: {error}") from error
    if not isinstance(found, list):
        raise UsageError(f"{file} holds no JSON list of tool specs")
    return found


def _client(home: Path) -> CacheClient:
    runtime = connect(home)
    return CacheClient(runtime.urls.cache_api, runtime.key)
