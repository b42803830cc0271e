"""Calibration as a job: the same in whatever pages it reads, listed, and what it earned is served by similarity."""

import asyncio
from typing import Any

import pytest

from services.cache_api.calibration import job
from tests.cache_api.conftest import Cache, tool, trajectory
from tests.cache_api.test_views import finished

TEXT = {"type": "string"}
TOOLS = [
    tool("ask_guide", {"query": TEXT}, mutating=False, scope="none"),
    tool("keep_note", {"text": TEXT}, mutating=False, scope="none"),
    tool("get_hours", {"place": TEXT}, mutating=False, scope="none"),
]
PLACES = ["museum", "library", "harbour", "castle"]
OPENINGS = ["when does the {} {} open", "when does the {} {} open today", "tell me when the {} {} opens", "when does the {} {} open then"]
KINDS = ["old", "new", "big", "small", "famous"]
NOTES = [
    "buy some bread and milk",
    "the sea was calm all day",
    "write to them before noon",
    "a red door near an old mill",
    "ask about lunch",
]


def runs() -> list[dict[str, Any]]:
    out = []
    for number in range(80):
        place = PLACES[number % 4]
        calls = [
            ("ask_guide", {"query": OPENINGS[number // 4 % 4].format(KINDS[number // 16], place)}, f"{place}: 9 to 5"),
            ("keep_note", {"text": f"{NOTES[number % 5]} {number}"}, "kept"),
            ("get_hours", {"place": place}, "9 to 5"),
        ]
        out.append(trajectory(f"r{number}", calls, task=f"t{number}", tools=TOOLS))
    return out


async def calibrated(cache: Cache, **request: Any) -> dict[str, Any]:
    started = await cache.http.post(f"{cache.url}/calibrations", json=request)
    assert started.status_code == 202, started.text
    while True:
        found = await cache.get(f"/calibrations/{started.json()['id']}")
        assert found["state"] != "failed"
        if found["state"] == "succeeded":
            return found
        await asyncio.sleep(0.05)


async def test_the_evidence_does_not_depend_on_the_pages_it_was_read_in(cache: Cache, monkeypatch: pytest.MonkeyPatch):
    await cache.record(*runs())
    whole = await calibrated(cache, target_false=0.1)
    monkeypatch.setattr(job, "PAGE", 2)
    monkeypatch.setattr(job, "PLACES_AT_ONCE", 3)
    paged = await calibrated(cache, target_false=0.1)
    assert {name: whole[name] for name in ("tools", "pools", "curve", "best_effort_curve", "noise_floor")} == {
        name: paged[name] for name in ("tools", "pools", "curve", "best_effort_curve", "noise_floor")
    }
    assert whole["progress"]["done"] == whole["progress"]["total"] == 480, "every entry is keyed once and replayed once"
    listed = await cache.get("/calibrations", limit=2)
    assert [item["id"] for item in listed["items"]] == [paged["id"], whole["id"]]
    assert [item["id"] for item in (await cache.get("/calibrations"))["items"]] == [paged["id"]]


async def test_pools_are_told_and_identifiers_have_nothing_to_compare(cache: Cache):
    await cache.record(*runs())
    found = await calibrated(cache, target_false=0.01)
    pools = {(pool["pool"], pool["tier"]): pool for pool in found["pools"]}
    assert pools.keys() == {(name, tier) for name in ("read/text", "read/identifier") for tier in ("fuzzy", "best_effort")}
    text, identifier = pools["read/text", "fuzzy"], pools["read/identifier", "fuzzy"]
    assert (text["earned"], text["tasks"], text["tools"], text["n_required"]) == (False, 80, 2, 299)
    assert (identifier["earned"], identifier["n_required"]) == (False, None)
    assert text["bound"] == pytest.approx(1 - 0.05 ** (1 / 80), abs=1e-4)
    assert found["noise_floor"] is None, "no two runs have the same past"


async def test_a_guess_is_served_down_to_the_pools_cosine_with_the_fidelity_of_its_similarity(cache: Cache):
    tools = [TOOLS[1]]
    await cache.record(
        *(trajectory(f"r{n}", [("keep_note", {"text": f"{NOTES[n % 5]} {n}"}, "kept")], task=f"t{n}", tools=tools) for n in range(80))
    )
    missed = await cache.one("keep_note", {"text": "something else that nobody wrote"})
    assert missed["outcome"] == "miss"
    told = await cache.http.put(f"{cache.url}/tools/keep_note", json={"immaterial": []})  # else its texts are learned never to matter
    await finished(cache, f"/views/{told.json()['id']}")
    found = await calibrated(cache, target_false=0.1)
    note = next(t for t in found["tools"] if t["tier"] == "best_effort")
    assert (note["earned"], note["threshold"]) == (True, 0.0)
    served = await cache.one("keep_note", {"text": "something else that nobody wrote"})
    assert (served["outcome"], served["result"]["content"]) == ("best_effort", "kept")
    assert served["fidelity"] in [step["fidelity"] for step in note["steps"]]
    strict = await calibrated(cache, target_false=0.01)
    assert not any(t["earned"] for t in strict["tools"] if t["tier"] != "exact")
    assert (await cache.one("keep_note", {"text": "something else that nobody wrote"}))["outcome"] == "miss"
