"""What to record next: the tools and calls that missed most, in bounded room; and how often each tool was answered, rightly or not."""

from typing import Any

from cacherl.api.cache import ToolCalibration
from services.cache_api import tally
from services.cache_api.coverage import MAX_ARGUMENTS, shortened, tool_stats
from services.cache_api.view import View
from tests.cache_api.conftest import Cache, call, item, trajectory


async def test_what_missed_most_comes_first_by_tool_and_by_call(cache: Cache):
    await cache.record(trajectory("r1", [("get_weather", {"city": "Oslo"}, "snow")]))
    asked = [("get_weather", "Rome")] * 3 + [("get_weather", "Bonn")] * 2 + [("get_weather", "Oslo")] * 5
    await cache.look(*[item(call(name, {"city": city})) for name, city in asked], item(call("search_notes", {"query": "x"})))
    found = await cache.get("/coverage")
    assert [(i["tool"], i["arguments"], i["misses"]) for i in found["items"]] == [
        ("get_weather", {"city": "Rome"}, 3),
        ("get_weather", {"city": "Bonn"}, 2),
        ("search_notes", {"query": "x"}, 1),
    ]
    assert found["tools"] == [
        {"tool": "get_weather", "misses": 5, "lookups": 10, "miss_rate": 0.5, "calls": 2},
        {"tool": "search_notes", "misses": 1, "lookups": 1, "miss_rate": 1.0, "calls": 1},
    ]
    assert len((await cache.get("/coverage", limit=1))["items"]) == 1
    weather = next(row for row in (await cache.get("/stats"))["lookups"] if row["tool"] == "get_weather")
    assert (weather["hits"], weather["misses"], weather["hit_rate"], weather["false_rate"]) == (5, 5, 0.5, None)


async def test_what_is_kept_of_misses_is_bounded(cache: Cache, monkeypatch: Any):
    monkeypatch.setattr(tally, "MISSES_KEPT", 50)
    monkeypatch.setattr(tally, "PRUNE_EVERY", 100)
    often = item(call("get_weather", {"city": "Often"}))
    for start in range(0, 300, 60):
        await cache.look(often, often, *[item(call("get_weather", {"city": f"City {n}"})) for n in range(start, start + 60)])
        await cache.get("/stats")
    found = await cache.get("/coverage", limit=1000)
    assert (found["items"][0]["arguments"], found["items"][0]["misses"]) == ({"city": "Often"}, 10)
    assert len(found["items"]) <= 150
    assert found["tools"][0]["misses"] == 310


async def test_long_arguments_are_kept_short(cache: Cache):
    await cache.one("search_notes", {"query": "q" * 100_000})
    (found,) = (await cache.get("/coverage"))["items"]
    assert found["arguments"]["query"].endswith("… (+99500 characters)")
    many = shortened({f"k{n}": "v" * 400 for n in range(500)})
    assert len(str(many)) < MAX_ARGUMENTS
    assert shortened({"list": list(range(300))})["list"][100:] == ["… (+200 items)"]


def test_a_false_rate_is_measured_or_unknown():
    def calibrated(tier: str, fidelity: float) -> ToolCalibration:
        return ToolCalibration.model_validate(
            {
                "tool": "t", "tier": tier, "calls": 10, "tasks": 10, "false_hits": 1, "fidelity": fidelity, "earned": True,
                "threshold": None, "n_required": None,
            }
        )  # fmt: skip

    view = View("v", "c", 0, 0, None, {}, {}, (calibrated("exact", 0.99), calibrated("fuzzy", 0.9)))
    outcomes = {"exact": 90, "fuzzy": 10, "miss": 100}
    known = tool_stats("t", outcomes, view, None)
    assert known.false_rate is not None
    assert abs(known.false_rate - (90 * 0.01 + 10 * 0.1) / 100) < 1e-12
    assert (known.false_rate_from, known.hit_rate, known.miss_rate) == ("calibration", 0.5, 0.5)
    shadowed = tool_stats("t", outcomes, view, (50, 2))
    assert (shadowed.false_rate, shadowed.false_rate_from) == (0.04, "shadow")
    for unknown in (tool_stats("other", outcomes, view, (0, 0)), tool_stats("t", outcomes | {"best_effort": 1}, view, None)):
        assert (unknown.false_rate, unknown.false_rate_from) == (None, None)
