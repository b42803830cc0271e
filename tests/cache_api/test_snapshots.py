"""A cache as one file, and the same cache from it."""

import asyncio
from collections.abc import Callable
from typing import Any

import httpx2
import orjson
import pytest
import zstandard

from cacherl.errors import DataError
from cacherl.snapshot import SnapshotReader, SnapshotWriter
from services.cache_api.app import create
from services.cache_api.settings import CacheSettings
from services.kit.auth import Scope
from services.kit.postgres import Database
from tests.cache_api.conftest import TOOLS, Cache, Serve, call, item, tool, trajectory
from tests.cache_api.test_purge import everything
from tests.cache_api.test_views import OPENINGS, PLACES, finished


@pytest.fixture
async def town(cache_settings: CacheSettings, serve: Serve, api_key: Callable[..., str]) -> Cache:
    http = await serve(create(cache_settings), api_key())
    assert (await http.post("/v1/caches", json={"name": "town", "tools": TOOLS})).status_code == 201
    return Cache(http, "town")


async def export(cache: Cache, status: int = 200, **params: Any) -> bytes:
    answer = await cache.http.get(f"{cache.url}/snapshots", params=params)
    assert answer.status_code == status, answer.text
    return answer.content


async def bring_in(cache: Cache, name: str, content: bytes, status: int = 201) -> dict[str, Any]:
    answer = await cache.http.post(f"/v1/caches/{name}/snapshots", content=content)
    assert answer.status_code == status, answer.text
    return answer.json()


def said(answer: dict[str, Any]) -> list[Any]:
    """What lookups said, without the tokens that name the view."""
    return [result for found in answer["items"] for result in found["results"]]


def lines_of(content: bytes) -> list[dict[str, Any]]:
    return [orjson.loads(line) for line in zstandard.ZstdDecompressor().decompressobj().decompress(content).splitlines()]


def file_of(lines: list[dict[str, Any]]) -> bytes:
    """A file whose end agrees with its lines, whatever they say."""
    writer = SnapshotWriter()
    kinds = [next(iter(line.items())) for line in lines if "end" not in line]
    return b"".join(writer.add(kind, value) for kind, value in kinds) + writer.end()  # type: ignore[arg-type]


async def busy_town(town: Cache) -> None:
    tools = [*TOOLS, tool("ask_guide", {"query": {"type": "string"}}, mutating=False, scope="none")]
    runs = []
    for number in range(80):
        place = PLACES[number % len(PLACES)]
        calls: list[Any] = [
            ("ask_guide", {"query": OPENINGS[number // len(PLACES)].format(place)}, f"{place}: 9 to 5"),
            ("transfer", {"account": f"A{number % 7}", "amount": number % 3}, {"receipt": f"X{number}77", "at": 1.25e-7}),
            ("get_balance", {"account": f"A{number % 7}"}, str(number)),
            ("get_weather", {"city": "Oslo"}, "snow" if number % 2 else "sun"),
        ]
        runs.append(trajectory(f"r{number}", calls, task=f"t{number}", tools=tools))
    await town.record(*runs)


async def test_an_imported_cache_answers_as_the_exported_one_did(town: Cache):
    await busy_town(town)
    started = await town.http.post(f"{town.url}/calibrations", json={"target_false": 0.1})
    await finished(town, f"/calibrations/{started.json()['id']}")
    await town.http.post(f"{town.url}/purges", json={"source": "r3"})
    asked = [
        item(call("ask_guide", {"query": "when does the museum open now"}), call("ask_guide", {"query": OPENINGS[0].format("bakery")})),
        item(call("transfer", {"account": "A3", "amount": 0}), call("get_balance", {"account": "A3"})),
        item(call("transfer", {"account": "A4", "amount": 1}), call("get_balance", {"account": "A4"}), draw={"task": "t", "episode": 5}),
        item(call("get_weather", {"city": "Oslo"}), call("get_weather", {"city": "Rome"}), exclude_sources=["r1"]),
    ]
    how = {"as_of": "2026-01-01T00:00:00Z", "explain": True}
    content = await export(town)
    made = await bring_in(town, "copy", content)
    original, copy = await town.get(), await Cache(town.http, "copy").get()
    assert (made["entries"], made["cache"]["revision"], made["cache"]["entries"]) == (316, 2, 316)
    assert {name: copy[name] for name in ("revision", "entries", "embedder", "settings")} == {
        name: original[name] for name in ("revision", "entries", "embedder", "settings")
    }
    twin = Cache(town.http, "copy")
    for select in ("majority", "first", "sample"):
        for preset in ("robust", "paper"):
            there, here = [await c.look(*asked, preset=preset, select=select, run_seed=7, **how) for c in (town, twin)]
            assert said(here) == said(there)
    outcomes = [r["outcome"] for r in said(await twin.look(*asked, **how))]
    assert {"exact", "fuzzy", "miss"} <= set(outcomes)
    assert said(await twin.look(*asked, **how))[0]["fidelity"] is not None
    assert (await twin.get("/tools"))["items"] == (await town.get("/tools"))["items"]
    # What was not in the file is not there: the revisions before it.
    assert (await twin.look(asked[0], revision=1, status=410))["type"].endswith("revision-erased")
    # It lives on: it records, and another view of it is built from its histories.
    await twin.record(trajectory("new", [("get_weather", {"city": "Rome"}, "sun")]))
    assert (await twin.get())["revision"] == 3
    assert orjson.dumps(lines_of(await export(town))) == orjson.dumps(lines_of(content))


async def test_a_snapshot_of_an_older_revision_holds_nothing_of_what_came_later(town: Cache):
    await town.record(trajectory("r1", [("get_weather", {"city": "Oslo"}, "snow")]))
    await town.record(trajectory("r2", [("get_weather", {"city": "Oslo"}, "QUOKKA"), ("transfer", {"account": "Q", "amount": 1}, "ok")]))
    assert b"QUOKKA" not in orjson.dumps(lines_of(await export(town, revision=1)))
    made = await bring_in(town, "old", await export(town, revision=1))
    assert (made["entries"], made["cache"]["revision"]) == (1, 1)
    assert (await Cache(town.http, "old").one("get_weather", {"city": "Oslo"}))["result"]["content"] == "snow"
    await export(town, revision=9, status=409)
    await export(town, view="viw_nothing", status=404)


async def test_a_file_that_is_cut_off_or_altered_is_refused_and_leaves_nothing(town: Cache, database: Database):
    await busy_town(town)
    content = await export(town)
    before = await everything(database)
    for size in (0, 3, 100, len(content) // 2, len(content) - 5, len(content) - 1):
        problem = await bring_in(town, "copy", content[:size], status=422)
        assert problem["type"] == "urn:cacherl:problem:broken-snapshot"
    for place in (20, len(content) // 2, len(content) - 2):
        altered = bytearray(content)
        altered[place] ^= 1
        assert (await bring_in(town, "copy", bytes(altered), status=422))["type"] == "urn:cacherl:problem:broken-snapshot"
    assert (await bring_in(town, "copy", content + b"x", status=422))["type"] == "urn:cacherl:problem:broken-snapshot"
    assert (await bring_in(town, "copy", b"not a snapshot at all", status=422))["errors"][0]["line"] == 0
    assert (await town.http.get("/v1/caches/copy")).status_code == 404
    assert await everything(database) == before


def replaced(lines: list[dict[str, Any]], kind: str, **fields: Any) -> list[dict[str, Any]]:
    """The first line of a kind with other fields."""
    index = next(i for i, line in enumerate(lines) if kind in line)
    return [*lines[:index], {kind: lines[index][kind] | fields}, *lines[index + 1 :]]


async def test_a_file_that_agrees_with_itself_and_says_nonsense_is_refused(town: Cache, database: Database):
    calls = [("transfer", {"account": "A", "amount": 1}, "ok"), ("get_balance", {"account": "A"}, "1"), ("get_weather", {"city": "O"}, "x")]
    await town.record(trajectory("r1", calls))
    lines = lines_of(await export(town))
    link = next(line["link"] for line in lines if "link" in line and line["link"]["parent"] is None)
    other = next(line["link"] for line in lines if "link" in line and line["link"]["parent"] is not None)
    before = await everything(database)
    head = lines[0]["head"]
    cases: list[tuple[list[dict[str, Any]], int, str]] = [
        (replaced(lines, "entry", step=-1), 422, "broken-snapshot"),
        (replaced(lines, "entry", revision=99), 422, "broken-snapshot"),
        (replaced(lines, "entry", history="00" * 16), 422, "broken-snapshot"),
        (replaced(lines, "entry", id="ent_../../etc"), 422, "broken-snapshot"),
        (replaced(lines, "entry", surprise=1), 422, "broken-snapshot"),
        ([*lines[:-1], lines[-2]], 422, "broken-snapshot"),
        ([line if line.get("link") != link else {"link": link | {"parent": other["id"]}} for line in lines], 422, "broken-snapshot"),
        ([line for line in lines if "link" not in line or line["link"] != link], 422, "broken-snapshot"),
        (lines[1:], 422, "broken-snapshot"),
        (replaced(lines, "head", view={"given": 7, "calibration": None}), 422, "broken-snapshot"),
        (replaced(lines, "head", view=head["view"] | {"newer": 1}), 409, "another-snapshot-version"),
        (replaced(lines, "head", key_version=99), 409, "another-key-version"),
        (replaced(lines, "head", cache=head["cache"] | {"dimension": 3}), 409, "another-embedder"),
        (replaced(lines, "head", cache=head["cache"] | {"embedder": "cleverer"}), 409, "another-embedder"),
        (replaced(lines, "head", schema="cacherl.snapshot/9"), 422, "broken-snapshot"),
    ]
    for altered, status, slug in cases:
        assert (await bring_in(town, "copy", file_of(altered), status=status))["type"] == f"urn:cacherl:problem:{slug}"
    assert await everything(database) == before
    assert (await bring_in(town, "town", file_of(lines), status=409))["type"] == "urn:cacherl:problem:cache-exists"
    assert (await bring_in(town, "a b", file_of(lines), status=422))["type"] == "urn:cacherl:problem:invalid-input"
    assert (await bring_in(town, "copy", file_of(lines)))["entries"] == 3


async def test_an_erasure_during_the_export_leaves_a_file_without_its_end(town: Cache):
    await town.record(*[trajectory(f"r{n}", [("get_weather", {"city": f"City {n}"}, "x" * 2000 + str(n))]) for n in range(1500)])
    content = bytearray()

    async def read() -> None:
        async with town.http.stream("GET", f"{town.url}/snapshots") as answer:
            stream = answer.aiter_raw(1024)
            content.extend(await anext(stream))
            await town.http.post(f"{town.url}/purges", json={"source": "r1499", "erase": True})
            async for chunk in stream:
                content.extend(chunk)

    with pytest.raises(httpx2.RemoteProtocolError):
        await read()
    assert (await bring_in(town, "copy", bytes(content), status=422))["type"] == "urn:cacherl:problem:broken-snapshot"


async def test_a_hostile_file_is_not_unpacked_without_bound():
    packer = zstandard.ZstdCompressor().compressobj()
    bomb = packer.compress(b"\n" + b" " * (64 << 20)) + packer.flush()
    assert len(bomb) < 1 << 14
    with pytest.raises(DataError, match=r"more than this service takes|longer than the limit|not JSON|no kind"):
        for _ in SnapshotReader(most=1 << 20, longest=1 << 20).feed(bomb):
            pass


async def test_scopes(town: Cache, api_key: Callable[..., str]):
    content = await export(town)
    reader = {"Authorization": f"Bearer {api_key(scopes=(Scope.CACHE_READ,))}"}
    writer = {"Authorization": f"Bearer {api_key(scopes=(Scope.CACHE_WRITE,))}"}
    assert (await town.http.get(f"{town.url}/snapshots", headers=writer)).status_code == 403
    assert (await town.http.post("/v1/caches/copy/snapshots", content=content, headers=reader)).status_code == 403
    stranger = {"Authorization": f"Bearer {api_key(tenant='umbrella')}"}
    assert (await town.http.get(f"{town.url}/snapshots", headers=stranger)).status_code == 404
    assert (await town.http.post("/v1/caches/copy/snapshots", content=content, headers=stranger)).status_code == 201


async def test_sending_and_exporting_go_on_while_others_write(town: Cache):
    """Exports are of one revision, whatever is recorded meanwhile."""
    await busy_town(town)
    writes = [town.record(trajectory(f"w{n}", [("get_weather", {"city": f"W {n}"}, "ok")])) for n in range(8)]
    exports = [export(town, revision=1) for _ in range(3)]
    files = (await asyncio.gather(*writes, *exports))[8:]
    assert len({orjson.dumps(lines_of(content)) for content in files if isinstance(content, bytes)}) == 1


async def test_secrets_stay_out_and_a_call_with_one_still_matches(town: Cache, database: Database):
    """What was redacted stays what it is, twice over; a secret that somebody wrote into a file is redacted on its way in."""
    secret = {"type": "object", "properties": {"user": {"type": "string"}, "pin": {"type": "string", "format": "password"}}}
    tools = [{"type": "function", "function": {"name": "log_in", "parameters": secret}}]
    await town.record(
        trajectory("r1", [("log_in", {"user": "ann", "pin": "4711-very"}, "in"), ("log_in", {"user": "bob"}, "no")], tools=tools)
    )
    lines = lines_of(await export(town))
    assert b"4711" not in orjson.dumps(lines)
    await bring_in(town, "copy", file_of(lines))
    found = await Cache(town.http, "copy").one("log_in", {"user": "ann", "pin": "4711-very"})
    assert (found["outcome"], found["result"]["content"]) == ("exact", "in")
    token = "ghp_" + "aB3" * 12
    planted = [line | {"entry": line["entry"] | {"result": token}} if "entry" in line else line for line in lines]
    planted = [line | {"link": line["link"] | {"arguments": {"pin": "WOMBAT-pin"}}} if "link" in line else line for line in planted]
    await bring_in(town, "planted", file_of(planted))
    left = await everything(database)
    assert token not in left
    assert "WOMBAT" not in left
