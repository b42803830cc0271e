"""The commands that operate caches, against the real service, each as a process of its own."""

from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import httpx2
import orjson
import pytest

from services.cache_api.app import create
from services.cache_api.settings import CacheSettings
from services.kit.settings import ServiceSettings
from tests.cli.conftest import Command


@pytest.fixture
async def cache(
    command: Command, settings: ServiceSettings, serve: Callable[..., Awaitable[httpx2.AsyncClient]], api_key: Callable[..., str]
) -> Command:
    key = api_key()
    http = await serve(create(CacheSettings(**settings.model_dump())), key)
    return partial(command, "cache", CACHERL_KEY=key, CACHERL_CACHE_API_URL=str(http.base_url).rstrip("/"))


async def test_recordings_are_listed_purged_and_erased(cache: Command, log_file: Path):
    assert (await cache("ingest", "shop", log_file, "--json")).code == 0
    listed = (await cache("entries", "shop", "--json")).document["items"]
    assert len(listed) == 2
    counted = await cache("purge", "shop", "--entry", listed[0]["id"], "--dry-run", "--json")
    assert (counted.document["matched"], counted.document["id"]) == (1, None)
    unasked = await cache("purge", "shop", "--entry", listed[0]["id"])
    assert (unasked.code, "--yes" in unasked.complaint) == (2, True)
    assert (await cache("purge", "shop")).code == 2
    done = await cache("purge", "shop", "--entry", listed[0]["id"], "--yes", "--json")
    assert (done.document["removed"], done.document["revision"]) == (1, 2)
    erased = await cache("purge", "shop", "--recorded-before", "2999-01-01", "--erase", "--yes")
    assert (erased.code, "1 entries hidden, 2 erased" in erased.out) == (0, True)
    assert "no entries match" not in (await cache("purge", "shop", "--tool", "find_order")).out
    kinds = [r["kind"] for r in (await cache("revisions", "shop", "--json")).document["items"]]
    assert kinds == ["erase", "purge", "record"]
    views = await cache("views", "shop")
    assert (views.code, " *" in views.out) == (0, True)


async def test_a_cache_is_made_and_deleted(cache: Command, tmp_path: Path):
    tools = tmp_path / "tools.json"
    tools.write_bytes(orjson.dumps([{"type": "function", "function": {"name": "find_order"}}]))
    made = await cache("create", "shop", "--tools", tools, "--json")
    assert (made.code, made.document["name"], made.document["revision"]) == (0, "shop", 0)
    assert (await cache("create", "shop")).complaint.startswith("cacherl: There is a cache")
    tools.write_text("{}")
    assert (await cache("create", "other", "--tools", tools)).code == 2
    assert (await cache("create", "other", "--preset", "mine")).code == 2
    assert (await cache("delete", "shop")).code == 2
    assert (await cache("delete", "shop", "--yes")).code == 0
    gone = await cache("delete", "shop", "--yes")
    assert (gone.code, gone.complaint) == (2, "cacherl: There is no such cache.")


async def test_a_snapshot_goes_out_and_comes_in(cache: Command, log_file: Path, tmp_path: Path):
    assert (await cache("ingest", "shop", log_file, "--json")).code == 0
    file = tmp_path / "shop.snapshot.zst"
    written = await cache("snapshot", "export", "shop", file, "--json")
    assert (written.code, written.document["lines"]["entry"]) == (0, 2)
    assert not file.with_name(f"{file.name}.part").exists()
    made = await cache("snapshot", "import", file, "copy", "--json")
    assert (made.code, made.document["entries"], made.document["snapshot"]) == (0, 2, written.document["snapshot"])
    found = await cache("lookup", "copy", "find_order", '{"order": "A37"}', "--scenario", "shop")
    assert found.document["items"][0]["results"][0]["outcome"] == "exact"
    file.write_bytes(file.read_bytes()[:-9])
    broken = await cache("snapshot", "import", file, "third")
    assert (broken.code, "cut off" in broken.complaint) == (2, True)
    assert (await cache("snapshot", "import", tmp_path / "nothing", "third")).code == 2
    assert (await cache("snapshot", "export", "nothing", file)).code == 2
    assert file.exists()
