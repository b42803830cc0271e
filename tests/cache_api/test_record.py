"""Ingestion: what is stored, what is refused, what is never lost."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest

from tests.cache_api.conftest import TOOLS, Cache, call, item, trajectory

WEATHER = ("get_weather", {"city": "Oslo"}, "snow")


def line(source: str, step: int, city: str, result: Any = "snow", **more: Any) -> dict[str, Any]:
    return {
        "call": call("get_weather", {"city": city}),
        "result": {"content": result},
        "scenario": "s1",
        "source": source,
        "step": step,
    } | more


async def test_a_batch_that_was_committed_answers_as_it_did(cache: Cache):
    first = await cache.record(trajectory("r1", [WEATHER]), batch="b")
    assert await cache.record(trajectory("r2", [WEATHER]), batch="b") == first
    again = await cache.record(trajectory("r1", [WEATHER]), batch="c")
    assert (again["stored"], again["duplicate"], again["revision"]) == (0, 1, 1)
    assert (await cache.get())["entries"] == 1


async def test_bad_lines_are_named_and_the_others_kept(cache: Cache):
    good = orjson.dumps(line("r", 0, "Oslo"))
    lines = [good, orjson.dumps(line("r", 1, "Rome"))[:-20], b'{"a": "\xff"}', b"", b"[1]", orjson.dumps({"messages": [], "id": 3})]
    done = await cache.record(*lines, line("r", 6, "Bonn"))
    assert (done["read"], done["stored"], done["refused_total"]) == (6, 2, 4)
    refused = {problem["line"]: problem for problem in done["refused"]}
    assert set(refused) == {2, 3, 5, 6}
    assert "JSON" in refused[2]["detail"]
    assert "UTF-8 at byte 7" in refused[3]["detail"]
    assert "/id" in {fault["pointer"] for fault in refused[6]["errors"]}
    assert "/scenario" in {fault["pointer"] for fault in refused[6]["errors"]}


async def test_atomic_is_all_lines_or_none(cache: Cache):
    problem = await cache.record(line("r", 0, "Oslo"), b"{", atomic=True, status=422)
    assert problem["type"] == "urn:cacherl:problem:refused-lines"
    assert problem["errors"][0]["line"] == 2
    assert (await cache.get())["entries"] == 0
    await cache.record(line("r", 0, "Oslo"), line("r", 0, "Rome"), atomic=True, status=422)
    assert (await cache.get())["revision"] == 0


async def test_a_recording_is_never_overwritten_and_both_of_two_results_are_kept(cache: Cache):
    await cache.record(line("r1", 0, "Oslo", "snow"))
    contradicted = await cache.record(line("r1", 0, "Oslo", "sun"))
    assert (contradicted["stored"], contradicted["refused"][0]["line"]) == (0, 1)
    conflicting = await cache.record(line("r2", 0, "Oslo", "sun"), line("r3", 0, "Oslo", "sun"), line("r4", 0, "Rome"))
    assert (conflicting["stored"], conflicting["conflicting"]) == (3, 2)
    assert (await cache.get("/stats"))["conflicting_keys"] == 1


async def test_single_calls_with_their_history_are_keyed_like_the_trajectory(cache: Cache):
    calls = [("transfer", {"account": "A1", "amount": 30}, "done"), ("get_balance", {"account": "A1"}, "70")]
    past = {"call": call(*calls[0][:2]), "outcome": "exact", "result": {"content": "done"}}
    single = line("alone", 1, "x", "70") | {"call": call(*calls[1][:2]), "history": [past]}
    await cache.record(trajectory("whole", calls), single)
    found = await cache.results(item(call(*calls[0][:2]), call(*calls[1][:2])))
    assert found[1]["outcome"] == "exact"
    stats = await cache.get("/stats")
    assert (stats["entries"], stats["keys"], stats["conflicting_keys"]) == (3, 2, 0)
    guarded = await cache.results(item(call(*calls[0][:2]), call(*calls[1][:2]), exclude_sources=["whole"]))
    assert [r["outcome"] for r in guarded] == ["miss", "miss"]
    by_history = await cache.results(item(call(*calls[1][:2]), history=[past], exclude_sources=["whole"]))
    assert by_history[0]["entry"]["source"] == "alone"


async def test_a_call_that_nobody_answered_leaves_the_state_unknown(cache: Cache):
    run = trajectory("r1", [("transfer", {"account": "A1", "amount": 30}, "done"), ("get_balance", {"account": "A1"}, "70")])
    del run["messages"][2]
    await cache.record(run)
    assert (await cache.get())["entries"] == 1
    found = await cache.results(item(call("get_balance", {"account": "A1"})))
    assert found[0]["outcome"] == "miss"


async def test_concurrent_writers_commit_their_revisions_in_order(cache: Cache):
    async def write(number: int) -> int:
        return (await cache.record(*[line(f"r{number}", step, f"City {number}-{step}") for step in range(20)]))["revision"]

    revisions = await asyncio.gather(*[write(number) for number in range(8)])
    assert sorted(revisions) == list(range(1, 9))
    entries = [entry async for entry in every_entry(cache)]
    assert len(entries) == 160
    assert {entry["revision"] for entry in entries} == set(range(1, 9))
    assert [entry["revision"] for entry in entries if entry["source"] == "r3"] == [revisions[3]] * 20


async def every_entry(cache: Cache, limit: int = 50) -> AsyncIterator[dict[str, Any]]:
    cursor: str | None = None
    while True:
        page = await cache.get("/entries", limit=limit, **({"cursor": cursor} if cursor else {}))
        for entry in page["items"]:
            yield entry
        cursor = page["next_cursor"]
        if cursor is None:
            return


async def test_overlapping_batches_at_once_store_every_entry_once(cache: Cache):
    lines = [line("shared", step, f"City {step}") for step in range(30)]
    done = await asyncio.gather(
        cache.record(*lines), cache.record(*reversed(lines)), cache.record(*lines, batch="x"), cache.record(*lines, batch="x")
    )
    assert done[2] == done[3]
    assert (await cache.get())["entries"] == 30


async def test_results_come_back_byte_for_byte(cache: Cache):
    results = {"nul": "a\0b", "wide": 2**70, "float": 1.0, "order": {"b": 1, "a": [None, True]}, "text": "ä€𝄞 \n\t", "null": None}
    await cache.record(*[line(f"r-{name}", 0, f"City-{name}", value) for name, value in results.items()])
    for name, value in results.items():
        content = (await cache.one("get_weather", {"city": f"City-{name}"}))["result"]["content"]
        assert content == value
        assert not isinstance(value, dict) or list(content) == list(value)


@pytest.mark.parametrize("field", ["source", "scenario"])
async def test_what_cannot_be_stored_as_text_is_refused_with_its_place(cache: Cache, field: str):
    done = await cache.record(line("r", 0, "Oslo") | {field: "a\0b"}, line("r", 1, "Oslo"))
    assert (done["stored"], done["refused"][0]["errors"][0]["pointer"]) == (1, f"/{field}")


async def test_secrets_are_replaced_before_anything_is_stored_and_calls_still_match(cache: Cache):
    secret = {"type": "object", "properties": {"user": {"type": "string"}, "pin": {"type": "string", "format": "password"}}}
    tools = [{"type": "function", "function": {"name": "log_in", "parameters": secret}}]
    await cache.http.post("/v1/caches", json={"name": "vault", "tools": tools})
    vault = Cache(cache.http, "vault")
    token = "ghp_" + "aB3" * 12
    right, wrong = {"user": "ann", "pin": "4711-very"}, {"user": "ann", "pin": "0815"}
    await vault.record(
        trajectory("r1", [("log_in", right, {"token": token, "card": "4111 1111 1111 1111"})], tools=tools),
        trajectory("r2", [("log_in", wrong, "no")], tools=tools),
    )
    found, refused = await vault.one("log_in", right), await vault.one("log_in", wrong)
    assert (found["outcome"], refused["result"]["content"]) == ("exact", "no")
    everything = orjson.dumps([entry async for entry in every_entry(vault)] + [found]).decode()
    for planted in (token, "4711-very", "0815", "4111 1111 1111 1111"):
        assert planted not in everything
    assert everything.count("[redacted:") >= 4


async def test_tools_and_entries_are_listed(cache: Cache):
    await cache.record(trajectory("r1", [WEATHER, ("get_weather", {"city": "Rome"}, TimeoutError("503 unavailable"))]))
    tools = {tool["spec"]["function"]["name"]: tool for tool in (await cache.get("/tools"))["items"]}
    assert len(tools) == len(TOOLS)
    assert (tools["get_weather"]["entries"], tools["get_weather"]["keys"], tools["get_weather"]["errors"]) == (2, 2, 1)
    assert [e["arguments"]["city"] for e in (await cache.get("/entries", tool="get_weather"))["items"]] == ["Oslo", "Rome"]
    assert (await cache.get("/entries", tool="transfer"))["items"] == []
    await cache.get("/entries", status=422, cursor="bogus")
    assert [c["name"] for c in (await cache.http.get("/v1/caches")).json()["items"]] == ["town"]
    taken = await cache.http.post("/v1/caches", json={"name": "town"})
    assert (taken.status_code, taken.json()["type"]) == (409, "urn:cacherl:problem:cache-exists")
