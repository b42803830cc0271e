"""`cacherl cache tools`, `learn`: what a cache knows of its tools, with the evidence, and learning it anew."""

import asyncio
from pathlib import Path

import typer

from cacherl.api.cache import ToolView, View, ViewCreate
from cacherl.cli.fidelity import read_annotations
from cacherl.cli.output import print_json, print_table, speaks_plainly
from cacherl.cli.system import HomeOption, JsonOption
from cacherl.client import CacheClient
from cacherl.errors import ServiceError
from cacherl.jobs import JobState
from cacherl.runtime import connect
from cacherl.tool_spec import Annotations
from cacherl.wire import Json

POLL_S = 0.5
FIELDS = ("mutating", "reads_state", "stochastic", "scope", "resource_group", "canonicaliser", "ttl_s")


@speaks_plainly
def tools(cache: str, home: Path = HomeOption, as_json: bool = JsonOption) -> None:
    """A cache's tools: the annotations in force and where each comes from, for review."""

    async def ask() -> list[ToolView]:
        runtime = connect(home)
        async with CacheClient(runtime.urls.cache_api, runtime.key) as client:
            return (await client.tools(cache)).items

    found = asyncio.run(ask())
    if as_json:
        print_json([item.model_dump(mode="json") for item in found])
        return
    rows = [[item.spec.name, str(item.entries), *line] for item in found for line in lines(item.spec.annotations)]
    print_table(["tool", "entries", "annotation", "value", "because"], rows)
    typer.echo("Another opinion: a JSON file {tool: annotations} with `cacherl cache learn CACHE --annotations FILE`.")


@speaks_plainly
def learn(
    cache: str,
    annotations: Path | None = typer.Option(None, help="JSON object: tool name → annotations that override what is inferred."),
    home: Path = HomeOption,
    as_json: bool = JsonOption,
) -> None:
    """Read the recordings for what each tool's results depend on; the cache then answers by it. Pinned runs read as before."""
    given = read_annotations(annotations) if annotations is not None else {}

    async def run() -> View:
        runtime = connect(home)
        async with CacheClient(runtime.urls.cache_api, runtime.key) as client:
            return await learned(client, cache, given)

    made = asyncio.run(run())
    if as_json:
        print_json(made)
    else:
        typer.echo(f"the cache {cache} reads by the view {made.id}; `cacherl cache tools {cache}` shows what it knows")


async def learned(client: CacheClient, cache: str, given: dict[str, Annotations]) -> View:
    """A new view of a cache, once the cache has switched to it. Errors: `ServiceError` where the job fails."""
    found = await client.create_view(cache, ViewCreate(annotations=given))
    while not found.state.final:
        await asyncio.sleep(POLL_S)
        found = await client.view(cache, found.id)
    if found.state is not JobState.SUCCEEDED:
        raise ServiceError(f"the view {found.id} of {cache} ended as {found.state}")
    return found


def lines(said: Annotations) -> list[list[str]]:
    """[annotation, value, why] of all that is known of a tool."""
    out = [[name, str(getattr(said, name)), why(name, said)] for name in FIELDS if getattr(said, name) is not None]
    out += [
        [name, ", ".join(getattr(said, name)), why(name, said)] for name in ("identifier", "volatile", "immaterial") if getattr(said, name)
    ]
    return out or [["-", "-", "nothing is known: it counts as mutating, its results as those of its group"]]


def why(name: str, said: Annotations) -> str:
    """Where a fact comes from, in words."""
    proof = said.inferred.get(name)
    if not isinstance(proof, dict):
        return "given"
    source = proof.get("from")
    strength = f", {proof['strength']}" if proof.get("strength") in ("weak", "strong") else ""
    if source == "recordings":
        return f"recordings: {_counted(proof)}{strength}"
    if "verb" in proof:
        return f"{source}: {proof['verb']!r}{strength}"
    return f"{source}{strength}"


def _counted(proof: dict[str, Json]) -> str:
    if "read" in proof:
        return f"{proof['read']} of {proof['values']} values are read"
    differing = proof.get("conflicts", proof.get("differing"))
    bound = f", at most {proof['upper']:.1%} with 95 % confidence" if isinstance(proof.get("upper"), float) else ""
    return f"{differing} of {proof.get('comparisons')} comparisons differ{bound}"
