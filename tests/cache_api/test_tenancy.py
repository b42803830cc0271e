"""Two tenants, one database: neither sees, changes or infers the other."""

from collections.abc import Callable

import httpx2

from services.cache_api.app import create
from services.cache_api.settings import CacheSettings
from services.kit.auth import Scope
from services.kit.postgres import Database
from tests.cache_api.conftest import TOOLS, Cache, Serve, call, item, trajectory


async def test_no_tenant_sees_another(cache_settings: CacheSettings, serve: Serve, api_key: Callable[..., str], database: Database):
    http = await serve(create(cache_settings))
    both = (Scope.CACHE_READ, Scope.CACHE_WRITE)

    async def town(tenant: str) -> Cache:
        headers = {"Authorization": f"Bearer {api_key(scopes=both, tenant=tenant)}"}
        client = httpx2.AsyncClient(base_url=http.base_url, headers=headers)
        made = await client.post("/v1/caches", json={"name": "town", "tools": TOOLS})
        assert made.status_code == 201, made.text
        return Cache(client, made.json()["id"])

    mine, theirs = await town("acme"), await town("umbrella")
    await mine.record(trajectory("r1", [("get_weather", {"city": "Oslo"}, "snow"), ("transfer", {"account": "A", "amount": 1}, "ok")]))
    assert (await theirs.one("get_weather", {"city": "Oslo"}))["outcome"] == "miss"
    assert (await theirs.one("get_weather", {"city": "Oslo"}, preset="paper"))["outcome"] == "miss"

    foreign = Cache(theirs.http, mine.name)
    view = (await mine.get())["view"]
    for path in ("", "/entries", "/tools", "/stats", "/coverage", f"/views/{view}"):
        assert (await foreign.get(path, status=404))["type"].endswith("no-such-cache")
    await foreign.look(item(call("get_weather", {"city": "Oslo"})), status=404)
    await foreign.record(trajectory("x", [("get_weather", {"city": "Oslo"}, "sun")]), status=404)
    assert (await theirs.look(item(call("x", {})), view=view, status=404))["type"].endswith("no-such-view")
    assert [c["id"] for c in (await theirs.http.get("/v1/caches")).json()["items"]] == [theirs.name]

    async with database.tenant("umbrella") as connection:
        for table in ("caches", "entries", "entry_keys", "histories", "views", "view_tools", "tools", "batches"):
            rows = await (await connection.execute(f"select distinct tenant from cache.{table}")).fetchall()  # noqa: S608 - fixed names
            assert {row["tenant"] for row in rows} <= {"umbrella"}, table
    async with database.system() as connection:
        assert (await (await connection.execute("select count(*) as n from cache.entries")).fetchone()) == {"n": 0}
    await mine.http.aclose()
    await theirs.http.aclose()


async def test_reading_and_writing_are_different_scopes(cache: Cache, api_key: Callable[..., str]):
    reader = {"Authorization": f"Bearer {api_key(scopes=(Scope.CACHE_READ,))}"}
    writer = {"Authorization": f"Bearer {api_key(scopes=(Scope.CACHE_WRITE,))}"}
    asked = {"items": [item(call("get_weather", {"city": "Oslo"}))]}
    assert (await cache.http.post(f"{cache.url}/lookups", json=asked, headers=reader)).status_code == 200
    assert (await cache.http.post(f"{cache.url}/lookups", json=asked, headers=writer)).status_code == 403
    for method, path in (("POST", "/entries"), ("POST", "/views"), ("POST", "/calibrations"), ("PUT", "/tools/transfer")):
        assert (await cache.http.request(method, cache.url + path, json={}, headers=reader)).status_code == 403
    assert (await cache.http.get(cache.url, headers={"Authorization": ""})).status_code == 401
