"""Views and calibration: other annotations are another view, and a tier is earned."""

import asyncio
from itertools import pairwise
from typing import Any

from tests.cache_api.conftest import TOOLS, Cache, call, item, tool, trajectory

OPENINGS = (
    "when does the {} open",
    "when does the {} open today",
    "the {} when does it open",
    "open when does the {}",
    "when is the {} open",
    "when does the {} open please",
    "tell me when does the {} open",
    "when does the big {} open",
)
PLACES = ["library", "museum", "bakery", "harbour", "station", "garage", "kitchen", "theatre", "stadium", "gallery"]


async def finished(cache: Cache, path: str) -> dict[str, Any]:
    for _ in range(600):
        found = await cache.get(path)
        if found["state"] not in ("queued", "running"):
            assert found["state"] == "succeeded", found
            return found
        await asyncio.sleep(0.05)
    raise AssertionError("the job does not end")


async def test_other_annotations_make_a_view_and_the_old_one_answers_as_before(cache: Cache):
    await cache.record(
        trajectory("r1", [("transfer", {"account": "A1", "amount": 1}, "done"), ("get_balance", {"account": "A1"}, "70")]),
        trajectory("r2", [("get_balance", {"account": "A1"}, "100")]),
    )
    asked = [item(call("transfer", {"account": "A1", "amount": 5}), call("get_balance", {"account": "A1"}))]
    old = await cache.look(*asked)
    assert [r["outcome"] for r in old["items"][0]["results"]] == ["miss", "miss"]

    answer = await cache.http.put(f"{cache.url}/tools/transfer", json={"mutating": False})
    assert answer.status_code == 202, answer.text
    made = await finished(cache, f"/views/{answer.json()['id']}")
    assert (await cache.get())["view"] == made["id"]
    again = await cache.http.put(f"{cache.url}/tools/transfer", json={"mutating": False})
    assert again.json()["id"] == made["id"]
    assert (made["covers_from"], made["covers_through"]) == (0, 1)
    spec = (await cache.get("/tools/transfer"))["spec"]
    assert spec["annotations"]["mutating"] is False

    new = await cache.look(*asked)
    assert [r["outcome"] for r in new["items"][0]["results"]] == ["miss", "exact"]
    pins = {name: old[name] for name in ("revision", "view", "as_of")}
    assert await cache.look(*asked, **pins) == old

    await cache.record(trajectory("r3", [("get_balance", {"account": "A9"}, "1")]))
    assert (await cache.look(*asked, view=old["view"]))["revision"] == 1
    beyond = await cache.look(*asked, view=old["view"], revision=2, status=409)
    assert beyond["type"].endswith("view-does-not-cover-revision")
    unknown = await cache.http.put(f"{cache.url}/tools/nothing", json={"mutating": False})
    assert (unknown.status_code, unknown.json()["type"]) == (404, "urn:cacherl:problem:no-such-tool")


async def test_a_new_views_keys_are_those_that_recording_under_it_gives(cache: Cache):
    """Built from stored histories or keyed on the way in: a view is the same."""
    runs = [
        trajectory(
            f"r{n}",
            [
                ("transfer", {"account": "A1", "amount": n}, {"receipt": f"X{n}77"}),
                ("get_balance", {"account": "A1"}, str(n)),
                ("transfer", {"account": "A1", "amount": 1}, ValueError("not enough")),
                ("transfer", {"account": "B2", "amount": 2}, TimeoutError("503 unavailable")),
                ("get_balance", {"account": "A1"}, "?"),
            ],
        )
        for n in range(4)
    ]
    await cache.record(*runs)
    answer = await cache.http.put(f"{cache.url}/tools/get_weather", json={"ttl_s": 60})
    await finished(cache, f"/views/{answer.json()['id']}")
    twin = Cache(cache.http, "twin")
    await cache.http.post("/v1/caches", json={"name": "twin", "tools": TOOLS})
    await twin.record(*runs)
    asked = [item(*[call(n, a) for n, a in steps]) for steps in [
        [("transfer", {"account": "A1", "amount": 2}), ("get_balance", {"account": "A1"}), ("transfer", {"account": "A1", "amount": 1})],
        [("transfer", {"account": "B2", "amount": 2}), ("get_balance", {"account": "A1"})],
        [("get_balance", {"account": "A1"})],
    ]]  # fmt: skip
    built, direct = await cache.results(*asked), await twin.results(*asked)
    assert [(r["outcome"], r["result"]) for r in built] == [(r["outcome"], r["result"]) for r in direct]
    assert [r["outcome"] for r in direct] == ["exact", "exact", "exact", "miss", "miss", "miss"]


async def test_what_is_recorded_while_a_view_is_built_is_in_it(cache: Cache):
    await cache.record(*[trajectory(f"r{n}", [("get_weather", {"city": f"City {n}"}, "ok")] * 1) for n in range(300)])
    answer = await cache.http.put(f"{cache.url}/tools/get_weather", json={"ttl_s": 3600})
    late = [cache.record(trajectory(f"late{n}", [("launch", {"pad": n}, "up")], tools=[])) for n in range(5)]
    await asyncio.gather(finished(cache, f"/views/{answer.json()['id']}"), *late)
    found = await cache.results(*[item(call("launch", {"pad": n})) for n in range(5)])
    assert [r["outcome"] for r in found] == ["exact"] * 5


async def test_a_free_text_tool_earns_fuzzy_and_a_tool_of_ids_does_not(cache: Cache):
    tools = [
        tool("ask_guide", {"query": {"type": "string"}}, mutating=False, scope="none"),
        tool("get_user", {"id": {"type": "string"}}, mutating=False, scope="none"),
        tool("get_hours", {"place": {"type": "string"}}, mutating=False, scope="none"),
    ]
    runs = []
    for number in range(80):
        place = PLACES[number % len(PLACES)]
        asked = OPENINGS[number // len(PLACES)].format(place)
        calls = [
            ("ask_guide", {"query": asked}, f"{place}: 9 to 5"),
            ("get_user", {"id": f"u{number}x"}, f"user {number}"),
            ("get_hours", {"place": place}, "9 to 5"),
        ]
        runs.append(trajectory(f"r{number}", calls, task=f"t{number}", tools=tools))
    await cache.record(*runs)
    before = await cache.one("ask_guide", {"query": "when does the museum open now"})
    assert before["outcome"] == "miss"

    started = await cache.http.post(f"{cache.url}/calibrations", json={"target_false": 0.1})
    assert started.status_code == 202, started.text
    done = await finished(cache, f"/calibrations/{started.json()['id']}")
    assert (done["revision"], done["view"]) == (1, (await cache.get())["view"])
    found = {(t["tool"], t["tier"]): t for t in done["tools"]}
    guide, user = found["ask_guide", "fuzzy"], found["get_user", "fuzzy"]
    assert (guide["earned"], guide["false_hits"], guide["tasks"]) == (True, 0, 80)
    assert (user["earned"], user["threshold"], user["fidelity"] <= guide["fidelity"]) == (False, None, True)
    assert ("get_user", "exact") not in found
    assert found["get_hours", "exact"]["fidelity"] > 0.9
    points = done["curve"]
    assert all(a["coverage"] <= b["coverage"] for a, b in pairwise(points))

    served = await cache.one("ask_guide", {"query": "when does the museum open now"})
    assert (served["outcome"], served["result"]["content"]) == ("fuzzy", "museum: 9 to 5")
    assert served["fidelity"] == max(step["fidelity"] for step in guide["steps"] if step["similarity"] <= served["similarity"])
    assert 0.5 <= served["similarity"] < 1
    other = await cache.one("ask_guide", {"query": "when does the library not open"})
    assert other["outcome"] != "fuzzy"
    assert (await cache.one("get_user", {"id": "u999x"}))["outcome"] == "miss"
    exact = await cache.one("get_hours", {"place": "museum"})
    assert (exact["outcome"], exact["fidelity"]) == ("exact", found["get_hours", "exact"]["fidelity"])
    assert (await cache.one("ask_guide", {"query": OPENINGS[0].format("museum")}))["fidelity"] is None


async def test_too_few_tasks_earn_nothing_and_say_how_many_it_takes(cache: Cache):
    tools = [tool("ask_guide", {"query": {"type": "string"}}, mutating=False, scope="none")]
    runs = [
        trajectory(
            f"r{n}", [("ask_guide", {"query": OPENINGS[n % 3].format("museum")}, "9 to 5")], task=f"t{n}", tools=tools, scenario=f"s{n}"
        )
        for n in range(3)
    ]
    await cache.record(*runs, *[run | {"id": f"{run['id']}-again", "task_id": f"u{n}", "scenario": "s"} for n, run in enumerate(runs)])
    started = await cache.http.post(f"{cache.url}/calibrations", json={})
    done = await finished(cache, f"/calibrations/{started.json()['id']}")
    fuzzy = next(t for t in done["tools"] if t["tier"] == "fuzzy")
    assert (fuzzy["earned"], fuzzy["n_required"], fuzzy["within_task"]) == (False, 299, True)
    assert (await cache.get(f"/views/{done['view']}"))["state"] == "succeeded"
    await cache.get("/calibrations/cal_nothing", status=404)
