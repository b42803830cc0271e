"""A cache service on a real port, and recordings of a small town hall: weather, notes and a bank account."""

from collections.abc import Awaitable, Callable
from typing import Any

import httpx2
import orjson
import pytest
from pydantic_core import to_json

from services.cache_api.app import create
from services.cache_api.settings import CacheSettings
from services.kit.auth import Scope
from services.kit.settings import ServiceSettings


def tool(name: str, properties: dict[str, Any] | None = None, required: list[str] | None = None, **annotations: Any) -> dict[str, Any]:
    parameters = {"type": "object", "properties": properties or {}, "required": required or []}
    return {"type": "function", "function": {"name": name, "parameters": parameters}, "annotations": annotations}


Serve = Callable[..., Awaitable[httpx2.AsyncClient]]
TEXT = {"type": "string"}
TOOLS = [
    tool("get_weather", {"city": TEXT}, ["city"], mutating=False, scope="none"),
    tool("search_notes", {"query": TEXT}, ["query"], mutating=False, scope="none"),
    tool("get_balance", {"account": TEXT}, ["account"], mutating=False, reads_state=True, scope="all"),
    tool("transfer", {"account": TEXT, "amount": {"type": "number", "minimum": 0}}, ["account", "amount"], mutating=True),
]


def trajectory(
    source: str, calls: list[tuple[str, dict[str, Any], Any]], *, scenario: str = "s1", task: str = "t1", tools: list[Any] | None = None
) -> dict[str, Any]:
    """A trajectory of calls `(name, arguments, result)`; a result that is an Exception is an error."""
    messages: list[dict[str, Any]] = [{"role": "user", "content": "do it"}]
    for number, (name, arguments, result) in enumerate(calls):
        made = {"id": f"c{number}", "type": "function", "function": {"name": name, "arguments": arguments}}
        messages.append({"role": "assistant", "content": None, "tool_calls": [made]})
        failed = isinstance(result, Exception)
        content = str(result) if failed or isinstance(result, str) else orjson.dumps(result).decode()
        messages.append({"role": "tool", "tool_call_id": f"c{number}", "content": content, "is_error": failed})
    return {
        "id": source,
        "messages": messages,
        "tools": TOOLS if tools is None else tools,
        "scenario": scenario,
        "task_id": task,
    }


def ndjson(*lines: Any) -> bytes:
    return b"\n".join(line if isinstance(line, bytes) else to_json(line) for line in lines) + b"\n"


def call(name: str, arguments: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"name": name, "arguments": arguments} | more


def item(*calls: dict[str, Any], scenario: str = "s1", **more: Any) -> dict[str, Any]:
    return {"calls": list(calls), "scenario": scenario} | more


class Cache:
    """One cache over HTTP."""

    def __init__(self, http: httpx2.AsyncClient, name: str) -> None:
        self.http, self.name = http, name
        self.url = f"/v1/caches/{name}"

    async def record(self, *lines: Any, batch: str | None = None, atomic: bool = False, status: int = 200) -> dict[str, Any]:
        params = ({"batch": batch} if batch else {}) | ({"atomic": "true"} if atomic else {})
        answer = await self.http.post(f"{self.url}/entries", content=ndjson(*lines), params=params)
        assert answer.status_code == status, answer.text
        return answer.json()

    async def look(self, *items: dict[str, Any], status: int = 200, **request: Any) -> dict[str, Any]:
        answer = await self.http.post(f"{self.url}/lookups", json={"items": list(items)} | request)
        assert answer.status_code == status, answer.text
        return answer.json()

    async def results(self, *items: dict[str, Any], **request: Any) -> list[dict[str, Any]]:
        """The results of all items, one after the other."""
        answer = await self.look(*items, **request)
        return [result for found in answer["items"] for result in found["results"]]

    async def one(self, name: str, arguments: dict[str, Any], *, scenario: str = "s1", **request: Any) -> dict[str, Any]:
        return (await self.results(item(call(name, arguments), scenario=scenario), **request))[0]

    async def get(self, path: str = "", status: int = 200, **params: Any) -> Any:
        answer = await self.http.get(self.url + path, params=params)
        assert answer.status_code == status, answer.text
        return answer.json()


@pytest.fixture
def cache_settings(settings: ServiceSettings) -> CacheSettings:
    return CacheSettings(**settings.model_dump())


@pytest.fixture
async def http(
    cache_settings: CacheSettings, serve: Callable[..., Awaitable[httpx2.AsyncClient]], api_key: Callable[..., str]
) -> httpx2.AsyncClient:
    return await serve(create(cache_settings), api_key(scopes=(Scope.CACHE_READ, Scope.CACHE_WRITE)))


@pytest.fixture
async def cache(http: httpx2.AsyncClient) -> Cache:
    answer = await http.post("/v1/caches", json={"name": "town", "tools": TOOLS})
    assert answer.status_code == 201, answer.text
    return Cache(http, "town")
