"""Many concurrent writers: revisions commit in order, and whoever is pinned sees nothing of what came later."""

import asyncio
from typing import Any

from tests.cache_api.conftest import Cache, call, item, trajectory
from tests.cache_api.test_record import every_entry, line

WRITERS = 24
BATCHES = 3


async def test_a_pinned_reader_sees_its_revision_and_nothing_later_while_many_write(cache: Cache):
    await cache.record(trajectory("r0", [("get_weather", {"city": "Oslo"}, "snow")]))
    asked = [item(call("get_weather", {"city": "Oslo"})), item(call("get_weather", {"city": "City 3"}))]
    pinned = await cache.look(*asked)
    pins = {name: pinned[name] for name in ("revision", "view", "as_of")}
    seen: list[tuple[int, Any]] = []
    writing = True

    async def write(number: int) -> list[int]:
        made = []
        for batch in range(BATCHES):
            # Every writer records the same two calls with results of its own: what a majority is changes with every batch.
            lines = [line(f"w{number}-{batch}", 0, "Oslo", f"sun {number % 2}"), line(f"w{number}-{batch}", 1, f"City {number}", "x")]
            made.append((await cache.record(*lines))["revision"])
        return made

    async def read() -> None:
        while writing:
            assert await cache.look(*asked, **pins) == pinned
            now = await cache.look(*asked, as_of=pins["as_of"])
            seen.append((now["revision"], now["items"][0]["results"]))

    async def purge() -> list[int]:
        made = []
        for number in range(4):
            answer = await cache.http.post(f"{cache.url}/purges", json={"source": f"w{number}-0"})
            made.append(answer.json()["revision"] if answer.json()["id"] else 0)
        return [revision for revision in made if revision]

    readers = [asyncio.create_task(read()) for _ in range(3)]
    revisions = await asyncio.gather(*[write(number) for number in range(WRITERS)], purge())
    writing = False
    await asyncio.gather(*readers)
    made = sorted(revision for found in revisions for revision in found)
    assert made == list(range(2, len(made) + 2))
    assert all(found == sorted(found) for found in revisions)
    # Whatever was read at a revision is what that revision says for ever.
    for revision, results in dict(seen).items():
        again = await cache.look(*asked, view=pins["view"], as_of=pins["as_of"], revision=revision)
        assert again["items"][0]["results"] == results
    entries = [entry async for entry in every_entry(cache, limit=200)]
    assert len(entries) == (await cache.get())["entries"]
    listed = (await cache.get("/revisions", limit=1000))["items"]
    assert [r["revision"] for r in listed] == list(range(len(made) + 1, 0, -1))
    assert sum(r["stored"] - r["removed"] for r in listed) == len(entries)
