"""A cache with vectors and one without: what each answers, and what is refused."""

from typing import Any

from tests.cache_api.conftest import TOOLS, Cache, trajectory

ASKED = {"query": "notes about the garden party"}
RECORDED = ("search_notes", {"query": "notes about our garden party"}, "one")


async def made(cache: Cache, name: str, **more: Any) -> Cache:
    answer = await cache.http.post("/v1/caches", json={"name": name, "tools": TOOLS} | more)
    assert answer.status_code == 201, answer.text
    return Cache(cache.http, name)


async def test_a_cache_without_an_embedder_answers_exactly_and_never_nearly(cache: Cache):
    plain = await made(cache, "plain", settings={"embedder": None, "preset": "paper"}, dimension=0)
    vectors = await made(cache, "vectors", settings={"preset": "paper"}, dimension=384)
    for one in (plain, vectors):
        await one.record(trajectory("r1", [RECORDED]))
        assert (await one.one(*RECORDED[:2]))["outcome"] == "exact"
    assert (await vectors.one("search_notes", ASKED))["outcome"] == "fuzzy"
    missed = await plain.one("search_notes", ASKED, explain=True)
    assert (missed["outcome"], missed["explain"]["nearest"]) == ("miss", None)
    found = await plain.get()
    assert (found["embedder"], found["dimension"], found["settings"]["embedder"]) == (None, 0, None)


async def test_a_wrong_dimension_and_an_unknown_embedder_are_refused_by_name(cache: Cache):
    for settings, dimension in (({}, 768), ({"embedder": None}, 384)):
        answer = await cache.http.post("/v1/caches", json={"name": "wide", "settings": settings, "dimension": dimension})
        assert (answer.status_code, answer.json()["type"]) == (422, "urn:cacherl:problem:wrong-dimension")
        assert answer.json()["errors"][0]["pointer"] == "/dimension"
    unknown = await cache.http.post("/v1/caches", json={"name": "wide", "settings": {"embedder": "telepathy"}})
    assert (unknown.status_code, unknown.json()["errors"][0]["pointer"]) == (422, "/settings/embedder")
