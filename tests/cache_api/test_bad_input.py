"""Bad input: each a typed problem that names the line or the field, and what is right beside it is kept or refused as the caller chose."""

import asyncio
from collections.abc import Callable
from typing import Any

import orjson
import pytest

from services.cache_api.app import create
from services.cache_api.settings import CacheSettings
from tests.cache_api.conftest import TOOLS, Cache, Serve, call, item, ndjson, tool, trajectory
from tests.cache_api.test_record import line

HUGE = "x" * 1_000_000
MEGABYTES = "x" * (2 << 20)


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = {"a": value}
    return value


def raw(arguments: str, source: str = "bad") -> bytes:
    """A line whose arguments are this text."""
    text = orjson.dumps(line(source, 0, "Oslo")).decode()
    return text.replace('{"city":"Oslo"}', arguments).encode()


BAD_LINES: list[tuple[bytes, str]] = [
    (raw("[1]"), "/call/arguments"),
    (raw('"text"'), "/call/arguments"),
    (raw('{"city": NaN}'), ""),
    (raw('{"city": 1e999}'), ""),
    (raw(orjson.dumps(nested(70)).decode()), "/call/arguments" + "/a" * 65),
    (raw('{"city": "' + MEGABYTES + '"}'), "/call/arguments/city"),
    (raw('{"a": {"' + MEGABYTES + '": 1}}'), "/call/arguments/a"),
    (raw('{"city": "\\ud800"}'), ""),
    (raw('{"city": "Oslo"').rstrip(b"}")[:-40], ""),
    (b'{"call": "\xff\xfe"}', ""),
    (orjson.dumps(line("s" * 5000, 0, "Oslo")), "/source"),
    (orjson.dumps(line("r", 0, "Oslo") | {"scenario": "s" * 5000}), "/scenario"),
    (orjson.dumps(line("r", 0, "Oslo") | {"step": -1}), "/step"),
    (orjson.dumps(line("r", 0, "Oslo") | {"step": 1 << 40}), "/step"),
    (orjson.dumps(line("r", 0, "Oslo") | {"recorded_at": "yesterday"}), "/recorded_at"),
    (orjson.dumps(line("r", 0, "Oslo") | {"surprise": 1}), "/surprise"),
    (orjson.dumps(trajectory("r", [], tools=[tool("t", {"a": {"type": "strnig"}})])), "/tools/0/function/parameters"),
    (
        orjson.dumps(trajectory("r", [], tools=[{"type": "function", "function": {"name": "t", "parameters": {"type": 12}}}])),
        "/tools/0/function/parameters",
    ),
    (b"\x00\x01\x02", ""),
    (b"null", ""),
]


@pytest.mark.parametrize(("bad", "pointer"), BAD_LINES)
async def test_a_bad_line_is_refused_by_number_and_field_and_the_others_are_kept_or_not_as_asked(cache: Cache, bad: bytes, pointer: str):
    good = [line("good", step, "Oslo") for step in range(2)]
    problem = await cache.record(good[0], bad, good[1], atomic=True, status=422)
    assert problem["type"] == "urn:cacherl:problem:refused-lines"
    assert {fault["line"] for fault in problem["errors"]} == {2}
    assert (await cache.get())["entries"] == 0
    kept = await cache.record(good[0], bad, good[1])
    assert (kept["read"], kept["stored"], kept["refused_total"]) == (3, 2, 1)
    refused = kept["refused"][0]
    assert refused["line"] == 2
    assert refused["detail"]
    assert len(refused["detail"]) < 500
    if pointer:
        assert pointer in {fault["pointer"] for fault in refused["errors"]}
    assert all(fault["line"] == 2 for fault in refused["errors"])


async def test_a_truncated_line_in_the_middle_of_many_is_named(cache: Cache):
    count, broken = 30_000, 17_321
    whole = [orjson.dumps(line("r", step, f"City {step % 500}")) for step in range(count)]
    whole[broken] = whole[broken][:57]

    async def sent(lines: list[bytes]) -> Any:
        for start in range(0, len(lines), 777):
            yield b"\n".join(lines[start : start + 777]) + b"\n"

    refused = await cache.http.post(f"{cache.url}/entries", content=sent(whole), params={"atomic": "true"}, timeout=300)
    assert refused.status_code == 422, refused.text
    assert [fault["line"] for fault in refused.json()["errors"]] == [broken + 1]
    assert (await cache.get())["revision"] == 0
    kept = await cache.http.post(f"{cache.url}/entries", content=sent(whole), timeout=300)
    assert (kept.json()["read"], kept.json()["stored"]) == (count, count - 1)
    assert [problem["line"] for problem in kept.json()["refused"]] == [broken + 1]


async def test_results_may_be_large(cache: Cache):
    await cache.record(line("r", 0, "Oslo", HUGE))
    assert (await cache.one("get_weather", {"city": "Oslo"}))["result"]["content"] == HUGE


def body(arguments: str) -> bytes:
    return b'{"items":[{"calls":[{"name":"get_weather","arguments":%s}],"scenario":"s1"}]}' % arguments.encode()


@pytest.mark.parametrize(
    ("content", "pointer"),
    [
        (body("[1]"), "/items/0/calls/0/arguments"),
        (body('"text"'), "/items/0/calls/0/arguments"),
        (body("null"), "/items/0/calls/0/arguments"),
        (body('{"city": NaN}'), None),
        (body('{"city": 1e999}'), None),
        (b"\xff" + body("{}"), None),
        (body("{}")[:-3], None),
        (b"", None),
        (b"[]", ""),
        (body("{}").replace(b'"s1"', b"7"), "/items/0/scenario"),
        (body("{}").replace(b'"items"', b'"revision":1e30,"items"'), "/revision"),
        (body("{}").replace(b'"items"', b'"revision":99999999999999999999,"items"'), "/revision"),
        (body("{}").replace(b'"items"', b'"as_of":"2020-01-01","items"'), "/as_of"),
        (body("{}").replace(b'"items"', b'"mode":"guess","items"'), "/mode"),
        (b'{"items":[]}', "/items"),
        (b'{"items":' + b"[" * 100_000, None),
    ],
)
async def test_a_lookup_that_cannot_be_read_is_refused_by_its_field(cache: Cache, content: bytes, pointer: str | None):
    answer = await cache.http.post(f"{cache.url}/lookups", content=content, headers={"Content-Type": "application/json"})
    assert answer.status_code in (400, 422), answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    if pointer is not None:
        assert any(fault["pointer"].startswith(pointer) for fault in answer.json()["errors"]), answer.text


@pytest.mark.parametrize("arguments", [nested(70), {"city": MEGABYTES}, {"é": 1, "e\u0301": 2}])
async def test_arguments_that_no_call_can_have_are_malformed_and_the_calls_beside_them_are_answered(
    cache: Cache, arguments: dict[str, Any]
):
    await cache.record(line("r", 0, "Oslo"))
    found = await cache.results(item(call("get_weather", arguments), call("get_weather", {"city": "Oslo"})))
    assert [r["outcome"] for r in found] == ["malformed", "exact"]
    assert found[0]["result"]["is_error"]
    assert len(found[0]["result"]["content"]) < 500


async def test_what_is_not_there_is_named(cache: Cache):
    for path in ("", "/entries", "/tools", "/stats", "/coverage", "/revisions", "/views", "/snapshots"):
        problem = (await cache.http.get(f"/v1/caches/nothing{path}")).json()
        assert (problem["status"], problem["type"]) == (404, "urn:cacherl:problem:no-such-cache")
    asked = item(call("get_weather", {"city": "Oslo"}))
    assert (await cache.look(asked, view="viw_nothing", status=404))["type"].endswith("no-such-view")
    assert (await cache.get("/views/viw_nothing", status=404))["type"].endswith("no-such-view")
    assert (await cache.get("/tools/nothing", status=404))["type"].endswith("no-such-tool")
    assert (await cache.get("/entries/ent_nothing", status=404))["type"].endswith("no-such-entry")
    assert (await cache.look(asked, revision=7, status=409))["type"].endswith("view-does-not-cover-revision")
    unknown = await cache.http.post(f"{cache.url}/views", json={"annotations": {"nothing": {"mutating": False}}})
    assert (unknown.status_code, unknown.json()["type"]) == (404, "urn:cacherl:problem:no-such-tool")
    assert (await cache.one("never_recorded", {}))["outcome"] == "miss"


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/v1/caches/a%00b", 422),
        ("/v1/caches/town/tools/a%00b", 404),  # the view in memory knows its tools: the database is not asked
        ("/v1/caches/town/views/a%00b", 422),
        ("/v1/caches/town/entries/%00", 422),
    ],
)
async def test_a_name_that_nothing_can_have_names_nothing(cache: Cache, path: str, status: int):
    answer = await cache.http.get(path)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    "params", [{"tool": "a\0b"}, {"cursor": "WyJhXHUwMDAwYiJd"}, {"limit": "99999999999999999999"}, {"cursor": "WzFdIQ"}, {"limit": "0"}]
)
async def test_a_list_that_cannot_be_asked_for(cache: Cache, params: dict[str, str]):
    answer = await cache.http.get(f"{cache.url}/entries", params=params)
    assert answer.status_code == 422, answer.text
    assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    ("changed", "pointer"),
    [
        ({"tools": [tool("t", {"a": {"type": "strnig"}})]}, "/tools/0/function/parameters"),
        ({"tools": [{"type": "function", "function": {"name": "t", "parameters": {"type": 12}}}]}, "/tools/0/function/parameters"),
        (
            {"tools": [{"type": "function", "function": {"name": "t", "parameters": {"$ref": "http://127.0.0.1/x"}}}]},
            "/tools/0/function/parameters",
        ),
        ({"tools": [{"type": "function", "function": {"name": "a\0b"}}]}, "/tools/0/function/name"),
        ({"dimension": 3}, "/dimension"),
        ({"name": "a b"}, "/name"),
        ({"settings": {"fuzzy_threshold": 7}}, "/settings/fuzzy_threshold"),
        ({"settings": {"surprise": 7}}, "/settings/surprise"),
    ],
)
async def test_a_cache_that_cannot_be_made_is_refused_by_its_field(cache: Cache, changed: dict[str, Any], pointer: str):
    answer = await cache.http.post("/v1/caches", json={"name": "new", "tools": TOOLS} | changed)
    assert answer.status_code == 422, answer.text
    assert pointer in {fault["pointer"] for fault in answer.json()["errors"]}, answer.text
    assert (await cache.http.get("/v1/caches/new")).status_code == 404


@pytest.mark.parametrize("as_of", ["0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z", "0001-01-01T00:00:00+23:59"])
async def test_times_at_the_ends_of_the_calendar_are_times(cache: Cache, as_of: str):
    await cache.record(line("r", 0, "Oslo", recorded_at="2020-01-01T00:00:00Z"))
    answer = await cache.http.put(f"{cache.url}/tools/get_weather", json={"ttl_s": 60})
    for _ in range(200):
        if (await cache.get(f"/views/{answer.json()['id']}"))["state"] == "succeeded":
            break
        await asyncio.sleep(0.05)
    sent = {"items": [item(call("get_weather", {"city": "Oslo"}))], "as_of": as_of}
    found = await cache.http.post(f"{cache.url}/lookups", json=sent)
    assert found.status_code == 200, found.text


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"tool": "a\0b"}, 422),
        ({"entries": ["\0"]}, 422),
        ({"source": "\0"}, 422),
        ({"entries": []}, 422),
        ({"recorded_before": "0001-01-01T00:00:00Z"}, 200),
    ],
)
async def test_a_purge_of_what_cannot_be_there_changes_nothing(cache: Cache, body: dict[str, Any], status: int):
    await cache.record(line("r", 0, "Oslo"))
    answer = await cache.http.post(f"{cache.url}/purges", json=body)
    assert answer.status_code == status, answer.text
    assert (await cache.get())["entries"] == 1


async def test_the_same_bytes_in_pieces_of_any_size_are_the_same_lines(cache: Cache):
    content = ndjson(line("r", 0, "Zürich"), b"{", line("r", 1, "Öslo"))

    async def pieces() -> Any:
        for start in range(0, len(content), 3):
            yield content[start : start + 3]

    done = (await cache.http.post(f"{cache.url}/entries", content=pieces())).json()
    assert (done["stored"], [problem["line"] for problem in done["refused"]]) == (2, [2])


async def test_an_ingestion_has_a_limit_of_its_own(cache_settings: CacheSettings, serve: Serve, api_key: Callable[..., str]):
    """Larger than any other body may be; beyond it nothing is kept."""
    small = cache_settings.model_copy(update={"max_body_bytes": 2_000, "max_ingestion_bytes": 50_000})
    http = await serve(create(small), api_key())
    assert (await http.post("/v1/caches", json={"name": "town"})).status_code == 201
    lines = [line("r", step, "Oslo") for step in range(1_000)]
    fits = await http.post("/v1/caches/town/entries", content=ndjson(*lines[:200]))
    assert (fits.status_code, fits.json()["stored"]) == (200, 200)
    beyond = await http.post("/v1/caches/town/entries", content=ndjson(*lines))
    assert (beyond.status_code, beyond.json()["type"]) == (413, "urn:cacherl:problem:too-large")
    assert (await http.get("/v1/caches/town")).json()["entries"] == 200
