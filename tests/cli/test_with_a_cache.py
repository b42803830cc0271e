"""The commands that speak to a cache, against the real service on a real database, each as a process of its own."""

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
    command: Command,
    settings: ServiceSettings,
    serve: Callable[..., Awaitable[httpx2.AsyncClient]],
    api_key: Callable[..., str],
) -> Command:
    """`cacherl cache …` with the service's address and a key in its environment."""
    key = api_key()
    http = await serve(create(CacheSettings(**settings.model_dump())), key)
    return partial(command, "cache", CACHERL_KEY=key, CACHERL_CACHE_API_URL=str(http.base_url).rstrip("/"))


async def test_logs_are_recorded_looked_up_and_counted(cache: Command, log_file: Path):
    first = await cache("ingest", "shop", log_file, "--json")
    assert first.code == 0, first.err
    assert "refused" in first.err, "the record that cannot be imported is told of beside the document"
    assert {name: first.document[name] for name in ("read", "stored", "duplicate", "refused_total")} == {
        "read": 2, "stored": 2, "duplicate": 0, "refused_total": 0,
    }  # fmt: skip

    again = await cache("ingest", "shop", log_file, "--json")
    assert (again.code, again.document["stored"], again.document["duplicate"]) == (0, 0, 2)

    found = await cache("lookup", "shop", "find_order", '{"order": "A37"}', "--scenario", "shop")
    assert (found.code, found.err) == (0, "")
    (result,) = found.document["items"][0]["results"]
    assert (result["outcome"], orjson.loads(result["result"]["content"])) == ("exact", {"place": "Oslo"})
    assert result["explain"], "a lookup says why"

    missed = await cache("lookup", "shop", "find_order", '{"order": "Z99"}', "--scenario", "shop")
    assert missed.document["items"][0]["results"][0]["outcome"] == "miss"

    listed = await cache("list", "--json")
    assert [(item["name"], item["entries"]) for item in listed.document["items"]] == [("shop", 2)]
    stats = await cache("stats", "shop", "--json")
    assert stats.document["entries"] == 2
    coverage = await cache("coverage", "shop", "--json")
    assert [(item["tool"], item["arguments"]) for item in coverage.document["items"]] == [("find_order", {"order": "Z99"})]


async def test_tools_are_shown_for_review_and_annotations_override(cache: Command, log_file: Path, tmp_path: Path):
    said = tmp_path / "annotations.json"
    said.write_bytes(orjson.dumps({"find_order": {"scope": "all", "ttl_s": 60}}))
    assert (await cache("ingest", "shop", log_file, "--json", "--annotations", said)).code == 0
    shown = await cache("tools", "shop", "--json")
    (one,) = [item["spec"]["annotations"] for item in shown.document if item["spec"]["function"]["name"] == "find_order"]
    assert (one["scope"], one["ttl_s"], one["mutating"]) == ("all", 60, False)
    assert one["inferred"]["mutating"]["verb"] == "find"
    table = await cache("tools", "shop")
    assert any({"find_order", "scope", "all", "given"} <= set(line.split()) for line in table.out.splitlines())

    said.write_bytes(orjson.dumps({"find_order": {"scope": "none"}}))
    learned = await cache("learn", "shop", "--annotations", said, "--json")
    assert (learned.code, learned.document["state"]) == (0, "succeeded")
    again = await cache("tools", "shop", "--json")
    (one,) = [item["spec"]["annotations"] for item in again.document if item["spec"]["function"]["name"] == "find_order"]
    assert (one["scope"], one["ttl_s"]) == ("none", 60)
    said.write_bytes(orjson.dumps({"nothing": {"scope": "none"}}))
    assert (await cache("learn", "shop", "--annotations", said)).code == 2
    said.write_bytes(b'{"find_order": {"canonicaliser": "xml"}}')
    refused = await cache("learn", "shop", "--annotations", said)
    assert (refused.code, "canonicaliser" in refused.err) == (2, True)


async def test_a_cache_keeps_its_preset_and_one_that_is_not_there_is_named(cache: Command, log_file: Path):
    assert (await cache("ingest", "shop", log_file, "--preset", "paper")).code == 0
    other = await cache("ingest", "shop", log_file, "--preset", "robust")
    assert (other.code, "paper" in other.complaint) == (2, True)
    nothing = await cache("stats", "nothing", "--json")
    assert (nothing.code, "no such cache" in nothing.complaint.lower()) == (2, True)


def _cut_off(log_file: Path) -> Path:
    path = log_file.with_name("broken.json")
    path.write_text("[" + log_file.read_text().splitlines()[0] + ", {")
    return path


async def test_a_log_that_breaks_off_stores_nothing_and_says_where(cache: Command, log_file: Path):
    broken = _cut_off(log_file)
    ran = await cache("ingest", "shop", broken)
    assert (ran.code, "line" in ran.complaint) == (2, True)
    assert (await cache("stats", "shop", "--json")).document["entries"] == 0
