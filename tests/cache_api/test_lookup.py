"""What may answer what: the two presets, selection, guards, pins."""

from typing import Any

import pytest

from tests.cache_api.conftest import TOOLS, Cache, call, item, trajectory

LIVE = {"city": "San Jose"}


async def test_robust_never_serves_another_scenario_state_or_thing(cache: Cache):
    await cache.record(
        trajectory("r1", [("get_weather", LIVE, "clear"), ("get_balance", {"account": "A1"}, "100")], scenario="s1"),
        trajectory("r2", [("get_balance", {"account": "A2"}, "5")], scenario="s2"),
    )
    other_scenario = await cache.one("get_weather", LIVE, scenario="s2")
    other_thing = await cache.one("get_weather", {"city": "San Francisco"})
    other_state = (await cache.results(item(call("transfer", {"account": "A1", "amount": 1}), call("get_balance", {"account": "A1"}))))[1]
    assert [r["outcome"] for r in (other_scenario, other_thing, other_state)] == ["miss", "miss", "miss"]


async def test_paper_serves_by_tool_and_arguments_alone_then_alike_then_nearest(cache: Cache):
    await cache.record(
        trajectory("r1", [("search_notes", {"query": "how to return a broken lamp"}, "notes 1"), ("get_balance", {"account": "A1"}, "100")])
    )
    asked = {
        "exact": call("get_balance", {"account": "A1"}),
        "fuzzy": call("search_notes", {"query": "how to return a lamp"}),
        "best_effort": call("search_notes", {"query": "opening hours on sunday"}),
        "miss": call("get_weather", LIVE),
    }
    for outcome, one in asked.items():
        found = (await cache.results(item(call("transfer", {"account": "A1", "amount": 2}), one, scenario="elsewhere"), preset="paper"))[1]
        assert (found["outcome"], found["agreement"], found["fidelity"]) == (outcome, None, None)
        if outcome == "fuzzy":
            assert found["similarity"] == pytest.approx(5 / 6)


async def test_the_preset_is_the_caches_where_a_lookup_names_none(cache: Cache):
    answer = await cache.http.post("/v1/caches", json={"name": "recipe", "settings": {"preset": "paper"}, "tools": TOOLS})
    recipe = Cache(cache.http, answer.json()["id"])
    await recipe.record(trajectory("r1", [("get_weather", LIVE, "clear")]))
    assert (await recipe.one("get_weather", {"city": "Oslo"}))["outcome"] == "best_effort"
    assert (await recipe.one("get_weather", {"city": "Oslo"}, preset="robust"))["outcome"] == "miss"


async def test_a_success_is_never_served_for_a_call_that_the_schema_refuses(cache: Cache):
    wrong: dict[str, Any] = {"account": "A1", "amount": "thirty"}
    await cache.record(trajectory("r1", [("transfer", wrong, "done")]), trajectory("r2", [("transfer", wrong, "done")]))
    refused = await cache.one("transfer", wrong)
    assert refused["outcome"] == "miss"
    assert "amount" in refused["result"]["content"]
    await cache.record(trajectory("r3", [("transfer", wrong, ValueError("amount must be a number"))]))
    served = await cache.one("transfer", wrong)
    assert (served["outcome"], served["result"]["is_error"]) == ("exact", True)


async def test_transient_errors_are_never_served(cache: Cache):
    await cache.record(trajectory("r1", [("get_weather", LIVE, TimeoutError("503 service unavailable"))]))
    assert (await cache.one("get_weather", LIVE))["outcome"] == "miss"
    assert (await cache.one("get_weather", LIVE, preset="paper"))["outcome"] == "miss"


async def test_the_leak_guard_leaves_sources_out_at_every_tier(cache: Cache):
    await cache.record(
        trajectory("mine", [("get_weather", LIVE, "clear")]), trajectory("other", [("get_weather", {"city": "Oslo"}, "rain")])
    )
    for preset, expected in (("robust", "miss"), ("paper", "best_effort")):
        guarded = (await cache.results(item(call("get_weather", LIVE), exclude_sources=["mine"]), preset=preset))[0]
        assert guarded["outcome"] == expected
        assert guarded["entry"] is None or guarded["entry"]["source"] == "other"


async def test_several_results_of_one_call_are_chosen_as_asked(cache: Cache):
    for number, sky in enumerate(["rain", "clear", "clear"]):
        await cache.record(trajectory(f"r{number}", [("get_weather", LIVE, sky)]))

    async def sky(select: str, episode: int = 0, occurrence: int = 0) -> str:
        asked = item(call("get_weather", LIVE, occurrence=occurrence), draw={"task": "t", "episode": episode})
        return (await cache.results(asked, select=select, run_seed=7))[0]["result"]["content"]

    assert await sky("majority") == "clear"
    assert await sky("first") == "rain"
    episodes = [await sky("sample", episode=n) for n in range(16)]
    assert set(episodes) == {"rain", "clear"}
    assert [await sky("sample", episode=n) for n in range(16)] == episodes
    assert len({await sky("sample", occurrence=n) for n in range(16)}) == 2


async def test_a_pinned_lookup_answers_the_same_after_more_was_recorded(cache: Cache):
    await cache.record(trajectory("r1", [("get_weather", LIVE, "clear")]))
    asked = [item(call("get_weather", LIVE), call("get_weather", {"city": "Oslo"}))]
    first = await cache.look(*asked)
    pins = {name: first[name] for name in ("revision", "view", "as_of")}
    await cache.record(trajectory("r2", [("get_weather", LIVE, "rain"), ("get_weather", {"city": "Oslo"}, "snow")]))
    await cache.record(trajectory("r3", [("get_weather", LIVE, "rain")]))
    assert await cache.look(*asked, **pins) == first
    now = await cache.look(*asked)
    assert [r["result"]["content"] for r in now["items"][0]["results"]] == ["rain", "snow"]


async def test_a_recording_past_its_ttl_is_no_exact_answer_and_unknown_age_is_past(cache: Cache):
    tools = [TOOLS[0] | {"annotations": {"mutating": False, "scope": "none", "ttl_s": 3600}}]
    await cache.http.post("/v1/caches", json={"name": "aging", "tools": tools})
    aging = Cache(cache.http, "aging")
    line = {
        "call": call("get_weather", LIVE),
        "result": {"content": "clear"},
        "scenario": "s1",
        "source": "r1",
        "step": 0,
        "recorded_at": "2026-01-01T00:00:00Z",
    }
    await aging.record(line, line | {"source": "r2", "call": call("get_weather", {"city": "Oslo"}), "recorded_at": None})
    fresh = await aging.one("get_weather", LIVE, as_of="2026-01-01T00:30:00Z")
    assert (fresh["outcome"], fresh["age_s"]) == ("exact", 1800.0)
    assert (await aging.one("get_weather", LIVE, as_of="2026-01-01T01:30:00Z"))["outcome"] == "miss"
    assert (await aging.one("get_weather", {"city": "Oslo"}, as_of="2026-01-01T00:30:00Z"))["outcome"] == "miss"


async def test_a_recording_under_another_schema_is_no_exact_answer(cache: Cache):
    other = [TOOLS[0] | {"function": TOOLS[0]["function"] | {"parameters": {"type": "object", "properties": {"town": {"type": "string"}}}}}]
    same = [TOOLS[0] | {"function": TOOLS[0]["function"] | {"description": "Says what the sky looks like."}}]
    await cache.record(
        trajectory("r1", [("get_weather", LIVE, "clear")], tools=other),
        trajectory("r2", [("get_weather", {"city": "Oslo"}, "snow")], tools=same),
    )
    assert (await cache.one("get_weather", LIVE))["outcome"] == "miss"
    assert (await cache.one("get_weather", {"city": "Oslo"}))["outcome"] == "exact"


async def test_explain_says_what_is_nearest_what_differs_and_which_gate_stopped_it(cache: Cache):
    await cache.record(trajectory("r1", [("get_weather", {"city": "San Francisco"}, "fog")]))
    found = await cache.one("get_weather", {"city": "San Jose"}, explain=True)
    assert found["outcome"] == "miss"
    explained = found["explain"]
    assert explained["nearest"]["differences"] == [
        {"pointer": "/arguments/city", "asked": "San Jose", "recorded": "San Francisco", "veto": "it names a thing"}
    ]
    assert explained["gates"]["exact"] == "this call was never recorded"
    assert "not earned" in explained["gates"]["fuzzy"]
    elsewhere = await cache.one("get_weather", {"city": "San Francisco"}, scenario="s2", explain=True)
    assert elsewhere["explain"]["gates"]["exact"] == "recorded in another scenario only"


async def test_a_mutation_in_an_unknown_state_leaves_it_unknown_through_the_token(cache: Cache):
    await cache.record(trajectory("r1", [("get_balance", {"account": "A1"}, "100")]))
    missed = await cache.look(item(call("transfer", {"account": "A1", "amount": 9})))
    read = item(call("get_balance", {"account": "A1"}), state=missed["items"][0]["state"])
    assert (await cache.results(read))[0]["outcome"] == "miss"
    assert "earlier change" in (await cache.results(read))[0]["result"]["content"]


async def test_a_tool_that_was_never_recorded_and_arguments_without_a_canonical_form(cache: Cache):
    unknown = await cache.one("launch_rocket", {})
    assert (unknown["outcome"], unknown["mutating"]) == ("miss", True)
    deep: Any = "x"
    for _ in range(80):
        deep = {"a": deep}
    assert (await cache.one("get_weather", {"city": deep}))["outcome"] == "malformed"


@pytest.mark.parametrize(
    ("request_", "status", "slug"),
    [
        ({"revision": 7}, 409, "view-does-not-cover-revision"),
        ({"view": "viw_01jd0000000000000000000000"}, 404, "no-such-view"),
        ({"items": []}, 422, "invalid-input"),
        ({"mode": "guess"}, 422, "invalid-input"),
        ({"mode": "record"}, 409, "no-live-server"),
        ({"tenant": "other"}, 422, "invalid-input"),
        ({"items": [{"calls": [], "scenario": "s"}]}, 422, "invalid-input"),
        ({"items": [{"calls": [{"name": "x", "arguments": [1]}], "scenario": "s"}]}, 422, "invalid-input"),
        ({"items": [{"calls": [{"name": "x", "arguments": {}}], "scenario": "s", "state": "bogus"}]}, 422, "not-a-state"),
    ],
)
async def test_a_wrong_request_is_refused_by_type(cache: Cache, request_: dict[str, Any], status: int, slug: str):
    answer = await cache.http.post(f"{cache.url}/lookups", json={"items": [item(call("get_weather", LIVE))]} | request_)
    assert (answer.status_code, answer.json()["type"]) == (status, f"urn:cacherl:problem:{slug}")


async def test_views_and_states_belong_to_their_cache(cache: Cache):
    made = (await cache.http.post("/v1/caches", json={"name": "village", "tools": TOOLS})).json()
    foreign = await cache.look(item(call("get_weather", LIVE)), view=made["view"], status=409)
    assert foreign["type"].endswith("view-of-another-cache")
    village = await Cache(cache.http, "village").look(item(call("transfer", {"account": "A", "amount": 1})))
    asked = item(call("get_weather", LIVE), state=village["items"][0]["state"])
    assert (await cache.look(asked, status=409))["type"].endswith("state-of-another-view")
    missing = await cache.http.post("/v1/caches/nowhere/lookups", json={"items": [asked]})
    assert (missing.status_code, missing.json()["type"]) == (404, "urn:cacherl:problem:no-such-cache")


async def test_lookups_are_counted_and_misses_say_what_to_record_next(cache: Cache):
    await cache.record(trajectory("r1", [("get_weather", LIVE, "clear")]))
    await cache.results(item(call("get_weather", LIVE)), *[item(call("get_weather", {"city": "Oslo"}))] * 3)
    stats = await cache.get("/stats")
    assert {s["tool"]: s["outcomes"] for s in stats["lookups"]} == {"get_weather": {"exact": 1, "miss": 3}}
    assert (stats["entries"], stats["keys"], stats["tools"]) == (1, 1, len(TOOLS))
    assert (await cache.get("/coverage"))["items"] == [{"tool": "get_weather", "arguments": {"city": "Oslo"}, "misses": 3}]
