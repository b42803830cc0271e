"""`cacherl cache divergence`: what mode `shadow` found."""

import asyncio
from pathlib import Path

import typer

from cacherl.cli.output import print_json, print_table, speaks_plainly
from cacherl.cli.system import HomeOption, JsonOption
from cacherl.client import CacheClient
from cacherl.runtime import connect


@speaks_plainly
def divergence(cache: str = typer.Argument(help="Name of the cache."), home: Path = HomeOption, as_json: bool = JsonOption) -> None:
    """How often what was served differed from what the live tools said, by tool and tier."""

    async def ask() -> None:
        runtime = connect(home)
        async with CacheClient(runtime.urls.cache_api, runtime.key) as client:
            found = await client.divergence(cache)
        if as_json:
            print_json(found)
            return
        rows = [
            [one.tool, one.tier, str(one.compared), str(one.diverged), f"{one.interval[0]:.3f}–{one.interval[1]:.3f}", str(one.failed)]
            for one in found.items
        ]
        print_table(["tool", "tier", "compared", "differed", "95 % interval", "no answer"], rows)

    asyncio.run(ask())
