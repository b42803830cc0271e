"""Purging hides from later revisions, erasing removes the bytes, deleting a cache leaves nothing."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from services.cache_api.app import create
from services.cache_api.settings import CacheSettings
from services.kit.auth import Scope
from services.kit.postgres import Database
from tests.cache_api.conftest import TOOLS, Cache, Serve, call, item, trajectory
from tests.cache_api.test_record import line
from tests.cache_api.test_views import finished

MOVE = ("transfer", {"account": "A1", "amount": 30}, "done, receipt R7000")
READ = ("get_balance", {"account": "A1"}, "70")
WEATHER = ("get_weather", {"city": "Oslo"}, "snow")
TABLES = ("entries", "entry_keys", "histories", "misses", "views", "view_tools", "tools", "batches", "jobs", "lookup_counts")


@pytest.fixture
async def town(cache_settings: CacheSettings, serve: Serve, api_key: Callable[..., str]) -> Cache:
    """A cache under a key that may erase."""
    http = await serve(create(cache_settings), api_key())
    assert (await http.post("/v1/caches", json={"name": "town", "tools": TOOLS})).status_code == 201
    return Cache(http, "town")


async def purge(cache: Cache, status: int = 200, **body: Any) -> dict[str, Any]:
    answer = await cache.http.post(f"{cache.url}/purges", json=body)
    assert answer.status_code == status, answer.text
    return answer.json()


async def everything(database: Database) -> str:
    """Every byte that the cache's tables hold, as text."""
    found: list[str] = []
    async with database.tenant("acme") as connection:
        for table in TABLES:
            rows = await (await connection.execute(f"select t::text as row from cache.{table} t")).fetchall()  # noqa: S608 - fixed names
            found += [row["row"] for row in rows]
    return "\n".join(found)


async def test_what_was_purged_is_hidden_from_later_revisions_and_pins_answer_as_they_were(town: Cache):
    await town.record(trajectory("r1", [WEATHER, MOVE, READ]), trajectory("r2", [("get_weather", {"city": "Rome"}, "sun")]))
    asked = item(call(*WEATHER[:2]), call("get_weather", {"city": "Rome"}), call(*MOVE[:2]), call(*READ[:2]))
    before = await town.look(asked)
    done = await purge(town, tool="get_weather")
    assert (done["revision"], done["matched"], done["removed"], done["erased"]) == (2, 2, 2, 0)
    found = await town.get()
    assert (found["revision"], found["entries"]) == (2, 2)
    assert [r["outcome"] for r in await town.results(asked)] == ["miss", "miss", "exact", "exact"]
    assert await town.look(asked, **{name: before[name] for name in ("revision", "view", "as_of")}) == before
    assert {e["tool"] for e in (await town.get("/entries"))["items"]} == {"transfer", "get_balance"}
    assert await purge(town, tool="get_weather") == done | {"id": None, "matched": 0, "removed": 0}
    listed = (await town.get("/revisions"))["items"]
    assert [(r["revision"], r["kind"], r["stored"], r["removed"]) for r in listed] == [(2, "purge", 0, 2), (1, "record", 4, 0)]


async def test_a_view_that_is_built_afterwards_does_not_bring_back_what_was_purged(town: Cache):
    await town.record(trajectory("r1", [WEATHER]), trajectory("r2", [("get_weather", {"city": "Rome"}, "sun")]))
    asked = item(call(*WEATHER[:2]), call("get_weather", {"city": "Rome"}))
    await purge(town, source="r1")
    answer = await town.http.put(f"{town.url}/tools/search_notes", json={"ttl_s": 3600})
    view = (await finished(town, f"/views/{answer.json()['id']}"))["id"]
    now, then = await town.look(asked), await town.look(asked, revision=1)
    assert now["view"] == then["view"] == view
    assert [r["outcome"] for r in now["items"][0]["results"]] == ["miss", "exact"]
    assert [r["outcome"] for r in then["items"][0]["results"]] == ["exact", "exact"]


async def test_what_is_purged_while_a_view_is_built_is_hidden_in_it(town: Cache):
    await town.record(*[trajectory(f"r{n}", [("get_weather", {"city": f"City {n}"}, "ok")]) for n in range(300)])
    answer = await town.http.put(f"{town.url}/tools/search_notes", json={"ttl_s": 3600})
    await asyncio.gather(*[purge(town, source=f"r{n}", erase=n % 2 == 0) for n in range(20)])
    await finished(town, f"/views/{answer.json()['id']}")
    found = await town.results(*[item(call("get_weather", {"city": f"City {n}"})) for n in range(40)])
    assert [r["outcome"] for r in found] == ["miss"] * 20 + ["exact"] * 20


@pytest.mark.parametrize(
    ("filters", "left"),
    [
        ({"tool": "get_weather", "source": "r1"}, {"r1/1", "r2/0", "old/0"}),
        ({"source": "r1"}, {"r2/0", "old/0"}),
        ({"recorded_before": "2020-01-01T00:00:00Z"}, {"r1/0", "r1/1", "r2/0"}),
        ({"recorded_before": "2999-01-01T00:00:00Z", "tool": "get_weather"}, {"r1/1"}),
    ],
)
async def test_filters_narrow_one_another(town: Cache, filters: dict[str, Any], left: set[str]):
    old = line("old", 0, "Bonn", recorded_at="2019-05-01T00:00:00Z")
    await town.record(trajectory("r1", [WEATHER, READ]), trajectory("r2", [WEATHER]), old)
    counted = await purge(town, dry_run=True, **filters)
    assert (counted["matched"], counted["removed"], counted["revision"]) == (4 - len(left), 0, 1)
    await purge(town, **filters)
    assert {f"{e['source']}/{e['step']}" for e in (await town.get("/entries"))["items"]} == left


async def test_one_entry_is_removed_and_its_like_still_answers(town: Cache):
    await town.record(trajectory("r1", [WEATHER]), trajectory("r2", [("get_weather", {"city": "Oslo"}, "wrong")]))
    wrong = next(e for e in (await town.get("/entries"))["items"] if e["source"] == "r2")
    assert await town.get(f"/entries/{wrong['id']}") == wrong
    gone = await town.http.delete(f"{town.url}/entries/{wrong['id']}")
    assert (gone.status_code, gone.json()["removed"]) == (200, 1)
    assert (await town.one(*WEATHER[:2]))["result"]["content"] == "snow"
    for method in ("GET", "DELETE"):
        again = await town.http.request(method, f"{town.url}/entries/{wrong['id']}")
        assert (again.status_code, again.json()["type"]) == (404, "urn:cacherl:problem:no-such-entry")


async def test_erasing_removes_the_bytes_everywhere_and_pins_that_saw_them_answer_410(town: Cache, database: Database):
    await town.record(trajectory("keep", [WEATHER]))
    secret = ("transfer", {"account": "ZANZIBAR-77", "amount": 1}, "receipt QUOKKA-1234")
    await town.record(trajectory("bad", [WEATHER, secret, ("get_balance", {"account": "ZANZIBAR-77"}, "9")]))
    await town.record(trajectory("later", [("get_weather", {"city": "Rome"}, "sun")]))
    await town.one("get_balance", {"account": "ZANZIBAR-77"})
    await town.get("/stats")
    assert "ZANZIBAR" in await everything(database)

    done = await purge(town, source="bad", erase=True)
    assert (done["revision"], done["removed"], done["erased"], done["links_blanked"]) == (4, 3, 3, 0)
    assert done["links_dropped"] == 2
    left = await everything(database)
    assert "ZANZIBAR" not in left
    assert "QUOKKA" not in left
    for revision in (2, 3):
        problem = await town.look(item(call(*WEATHER[:2])), revision=revision, status=410)
        assert problem["type"] == "urn:cacherl:problem:revision-erased"
    for revision in (1, 4, None):
        assert (await town.one(*WEATHER[:2], revision=revision))["outcome"] == "exact"
    assert (await town.get())["entries"] == 2
    again = await town.record(trajectory("bad", [WEATHER]))
    assert again["stored"] == 1


async def test_erasing_what_was_hidden_before_leaves_the_revisions_in_between(town: Cache):
    await town.record(trajectory("r1", [WEATHER]))
    entry = (await town.get("/entries"))["items"][0]["id"]
    await purge(town, source="r1")
    await town.record(trajectory("r2", [("get_weather", {"city": "Rome"}, "sun")]))
    done = await purge(town, entries=[entry], erase=True)
    assert (done["matched"], done["removed"], done["erased"], done["revision"]) == (1, 0, 1, 4)
    await town.look(item(call(*WEATHER[:2])), revision=1, status=410)
    for revision in (2, 3, 4):
        assert (await town.one(*WEATHER[:2], revision=revision))["outcome"] == "miss"


async def test_an_erased_call_in_the_history_of_others_is_blanked(town: Cache, database: Database):
    """What came after it keeps its keys in the present view; a view that is built later knows that it does not know."""
    secret = ("transfer", {"account": "A1", "amount": 471147114711}, "receipt QUOKKA-1234")
    await town.record(trajectory("r1", [secret, READ]), trajectory("r2", [secret, READ], scenario="s2"))
    asked = item(call(*READ[:2]), history=[{"call": call(*secret[:2]), "outcome": "exact", "result": {"content": secret[2]}}])
    entries = [e["id"] for e in (await town.get("/entries", tool="transfer"))["items"]]
    first = await purge(town, entries=entries[:1], erase=True)
    assert (first["links_dropped"], first["links_blanked"]) == (0, 0)  # another recording says the very same
    second = await purge(town, entries=entries[1:], erase=True)
    assert (second["links_dropped"], second["links_blanked"]) == (0, 1)
    left = await everything(database)
    assert "QUOKKA" not in left
    assert "471147114711" not in left
    assert (await town.results(asked))[0]["outcome"] == "exact"
    answer = await town.http.put(f"{town.url}/tools/get_weather", json={"ttl_s": 3600})
    await finished(town, f"/views/{answer.json()['id']}")
    assert (await town.results(asked))[0]["outcome"] == "miss"


async def test_erasing_and_deleting_need_admin_and_purging_the_scope_to_write(town: Cache, api_key: Callable[..., str]):
    await town.record(trajectory("r1", [WEATHER]))
    entry = (await town.get("/entries"))["items"][0]["id"]
    writer = {"Authorization": f"Bearer {api_key(scopes=(Scope.CACHE_READ, Scope.CACHE_WRITE))}"}
    reader = {"Authorization": f"Bearer {api_key(scopes=(Scope.CACHE_READ, Scope.ADMIN))}"}
    refused = [
        await town.http.post(f"{town.url}/purges", json={"source": "r1", "erase": True}, headers=writer),
        await town.http.delete(f"{town.url}/entries/{entry}", params={"erase": "true"}, headers=writer),
        await town.http.delete(town.url, headers=writer),
        await town.http.post(f"{town.url}/purges", json={"source": "r1"}, headers=reader),
        await town.http.delete(f"{town.url}/entries/{entry}", headers=reader),
        await town.http.delete(town.url, headers=reader),
    ]
    assert [answer.status_code for answer in refused] == [403] * 6
    assert (await town.get())["entries"] == 1
    assert (await town.http.post(f"{town.url}/purges", json={"source": "r1"}, headers=writer)).status_code == 200


async def test_a_purge_without_a_filter_is_refused_and_one_with_a_key_acts_once(town: Cache):
    problem = await purge(town, status=422, erase=True)
    assert "at least one of tool" in problem["errors"][0]["detail"]
    await town.record(trajectory("r1", [WEATHER]))
    headers = {"Idempotency-Key": "one"}
    answers = [await town.http.post(f"{town.url}/purges", json={"source": "r1"}, headers=headers) for _ in range(2)]
    assert answers[0].json() == answers[1].json()
    assert (await town.get())["revision"] == 2


async def test_a_deleted_cache_leaves_nothing_and_its_name_is_free(town: Cache, database: Database):
    await town.record(trajectory("r1", [WEATHER, MOVE, READ]))
    await town.one("get_weather", {"city": "Nowhere"})
    answer = await town.http.put(f"{town.url}/tools/get_weather", json={"ttl_s": 3600})
    await finished(town, f"/views/{answer.json()['id']}")
    await town.one("get_weather", {"city": "Nowhere"})  # counted after the cache is gone
    assert (await town.http.delete(town.url)).status_code == 204
    assert await everything(database) == ""
    assert (await town.http.delete(town.url)).json()["type"] == "urn:cacherl:problem:no-such-cache"
    assert (await town.http.post("/v1/caches", json={"name": "town", "tools": TOOLS})).status_code == 201
    assert (await town.one(*WEATHER[:2]))["outcome"] == "miss"
    row = (await town.get("/stats"))["lookups"][0]
    assert (row["tool"], row["outcomes"], row["miss_rate"], row["false_rate"]) == ("get_weather", {"miss": 1}, 1.0, None)


async def test_views_are_listed_with_what_they_cover(town: Cache):
    await town.record(trajectory("r1", [WEATHER]))
    answer = await town.http.put(f"{town.url}/tools/get_weather", json={"ttl_s": 3600})
    made = await finished(town, f"/views/{answer.json()['id']}")
    listed = (await town.get("/views", limit=1))["items"]
    assert [(v["id"], v["state"], v["covers_through"]) for v in listed] == [(made["id"], "succeeded", 1)]
    page = await town.get("/views", limit=1)
    assert len((await town.get("/views", cursor=page["next_cursor"]))["items"]) == 1
    await town.get("/revisions", cursor=page["next_cursor"], status=422)
