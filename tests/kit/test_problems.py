import asyncio
import json
import logging
from collections.abc import AsyncIterator
from typing import Annotated, Literal

import httpx2
import pytest
from fastapi import APIRouter, FastAPI, Request
from pydantic import BaseModel, Field, ValidationError
from starlette.responses import Response
from starlette.routing import Mount, Route

from services.kit.application import UnscopedRouteError, create_app
from services.kit.problems import MEDIA_TYPE, reason
from services.kit.settings import LogFormat, ServiceSettings
from services.kit.telemetry import configure_logging
from tests.conftest import ApiKey, Serve
from tests.kit.sample import routes, sample

BODY_LIMIT = 10_000
SECRET = "hunter2"


@pytest.fixture
async def client(sample_settings: ServiceSettings, api_key: ApiKey, serve: Serve) -> httpx2.AsyncClient:
    return await serve(sample(sample_settings.model_copy(update={"max_body_bytes": BODY_LIMIT})), api_key())


def slug(answer: httpx2.Response) -> str:
    assert answer.headers["content-type"] == MEDIA_TYPE
    assert answer.json()["status"] == answer.status_code
    assert answer.headers["x-request-id"]
    return answer.json()["type"].removeprefix("urn:cacherl:problem:")


@pytest.mark.parametrize(
    ("path", "status", "name"),
    [
        ("/v1/fail/conflict", 409, "conflict"),
        ("/v1/fail/gone", 410, "gone"),
        ("/v1/fail/engine", 503, "engine-away"),
        ("/v1/fail/data", 422, "unreadable-data"),
        ("/v1/fail/database", 503, "database-away"),
        ("/v1/fail/bug", 500, "internal"),
        ("/v1/nothing", 404, "no-such-path"),
        ("/v1/whoami/x", 422, "invalid-input"),
    ],
)
async def test_every_error_is_a_problem(client: httpx2.AsyncClient, path: str, status: int, name: str) -> None:
    answer = await client.get(path)
    assert (answer.status_code, slug(answer), answer.json()["instance"]) == (status, name, path)
    assert SECRET not in answer.text
    assert "10.1.2.3" not in answer.text


async def test_a_wrong_method_names_the_right_ones(client: httpx2.AsyncClient) -> None:
    answer = await client.delete("/v1/fail/gone")
    assert (answer.status_code, slug(answer), answer.headers["allow"]) == (405, "method-not-allowed", "GET")


async def test_a_line_and_a_pointer_go_along(client: httpx2.AsyncClient) -> None:
    assert (await client.get("/v1/fail/data")).json()["errors"] == [{"detail": "line 3 is bad", "pointer": "/x", "line": 3}]


async def test_faults_have_pointers_and_echo_nothing(client: httpx2.AsyncClient) -> None:
    faults = {"text": f"a curse {SECRET}", "tags": [1, SECRET], "a/b~c": SECRET}
    answer = await client.post("/v1/notes", json=faults)
    assert {error["pointer"] for error in answer.json()["errors"]} == {"/text", "/tags/1", "/a~1b~0c"}
    assert SECRET not in answer.text
    query = await client.get("/v1/whoami/" + SECRET)
    assert query.json()["errors"][0]["pointer"] == "#/path/name"
    assert SECRET not in json.dumps(query.json()["errors"])


class Circle(BaseModel):
    kind: Literal["circle"]


class Square(BaseModel):
    kind: Literal["square"]


class Drawing(BaseModel):
    shape: Annotated[Circle | Square, Field(discriminator="kind")]


def test_a_tag_is_not_echoed_either() -> None:
    with pytest.raises(ValidationError) as caught:
        Drawing.model_validate({"shape": {"kind": SECRET}})
    assert SECRET in str(caught.value)
    assert [reason(dict(fault)) for fault in caught.value.errors()] == ["the tag is none of 'circle', 'square'"]


@pytest.mark.parametrize("body", [b"{", b"\xff", b'{"text": NaN', b"[" * 5000, b'{"text": "\\ud800"}'])
async def test_a_body_that_is_no_json_is_the_callers_fault(client: httpx2.AsyncClient, body: bytes) -> None:
    answer = await client.post("/v1/notes", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code in (400, 422)
    assert slug(answer) in ("invalid-input", "bad-request")


async def test_a_caller_that_hangs_up_is_no_server_error(client: httpx2.AsyncClient) -> None:
    _, writer = await asyncio.open_connection(client.base_url.host, client.base_url.port)
    lines = ["POST /v1/stream HTTP/1.1", "Host: x", f"Authorization: {client.headers['authorization']}", "Content-Length: 500", "", "abc"]
    writer.write("\r\n".join(lines).encode())
    await writer.drain()
    await asyncio.sleep(0.2)
    writer.close()
    await writer.wait_closed()
    await asyncio.sleep(0.3)
    text = (await client.get("/metrics")).text
    assert 'cacherl_http_requests_total{method="POST",route="/v1/stream",service="sample",status="499"}' in text


async def chunks(count: int, size: int) -> AsyncIterator[bytes]:
    for _ in range(count):
        yield b"x" * size


@pytest.mark.parametrize("path", ["/v1/stream", "/v1/notes"])
async def test_a_chunked_body_is_counted_while_it_streams(client: httpx2.AsyncClient, path: str) -> None:
    answer = await client.post(path, content=chunks(30, 1000), headers={"Content-Type": "application/json"})
    assert (answer.status_code, slug(answer)) == (413, "too-large")


async def test_a_declared_length_is_refused_and_one_at_the_limit_is_read(client: httpx2.AsyncClient) -> None:
    refused = await client.post("/v1/stream", content=b"x" * (BODY_LIMIT + 1))
    assert (refused.status_code, slug(refused)) == (413, "too-large")
    assert (await client.post("/v1/stream", content=b"x" * BODY_LIMIT)).json() == {"bytes": BODY_LIMIT}
    unread = await client.post("/v1/unread", content=b"x" * (BODY_LIMIT + 1))
    assert (unread.status_code, slug(unread)) == (413, "too-large")


async def test_a_route_may_set_its_own_limit(client: httpx2.AsyncClient) -> None:
    assert (await client.post("/v1/large", content=b"x" * 500_000)).json() == {"bytes": 500_000}
    assert (await client.post("/v1/large", content=chunks(11, 100_000))).status_code == 413


async def nothing(request: Request) -> Response:
    return Response()


def open_router() -> APIRouter:
    router = APIRouter(prefix="/v1")
    router.add_api_route("/open", nothing)
    return router


def nested_router() -> APIRouter:
    outer = APIRouter()
    outer.include_router(open_router(), prefix="/v1/inner")
    outer.include_router(routes)
    return outer


@pytest.mark.parametrize(
    "router",
    [
        open_router(),
        nested_router(),
        APIRouter(routes=[Route("/v1/plain", nothing)]),
        APIRouter(routes=[Mount("/v1/mounted", FastAPI())]),
    ],
)
def test_a_service_with_an_open_route_does_not_start(router: APIRouter) -> None:
    settings = ServiceSettings(database_url="", pepper="p" * 32)
    with pytest.raises(UnscopedRouteError, match="requires no scope"):
        create_app(name="open", version="1", settings=settings, routers=[routes, router])


async def test_request_id_and_trace_are_accepted_and_carried_on(client: httpx2.AsyncClient) -> None:
    trace = "0af7651916cd43dd8448eb211c80319c"
    headers = {"X-Request-ID": "req-1", "traceparent": f"00-{trace}-b7ad6b7169203331-01", "tracestate": "a=1"}
    answer = await client.get("/v1/whoami/1", headers=headers)
    out = answer.json()["out"]
    assert answer.headers["x-request-id"] == out["X-Request-ID"] == "req-1"
    assert out["traceparent"].split("-")[1] == trace
    assert out["traceparent"].split("-")[2] != "b7ad6b7169203331"
    assert out["tracestate"] == "a=1"


@pytest.mark.parametrize(
    "bad", ["", "00-0-0-0", "00-" + "0" * 32 + "-b7ad6b7169203331-01", "ff-" + "a" * 32 + "-" + "b" * 16 + "-01", "x" * 4000]
)
async def test_a_malformed_trace_counts_as_none(client: httpx2.AsyncClient, bad: str) -> None:
    answer = await client.get("/v1/whoami/1", headers={"traceparent": bad, "X-Request-ID": "a b\x01"[:3] + "%" * 200})
    assert answer.status_code == 200
    assert len(answer.json()["out"]["traceparent"]) == 55
    assert len(answer.headers["x-request-id"]) == 32


async def test_metrics_are_labelled_by_template(client: httpx2.AsyncClient) -> None:
    await client.get("/v1/whoami/123456789")
    await client.get("/v1/elsewhere/123456789")
    text = (await client.get("/metrics")).text
    assert 'route="/v1/whoami/{name}"' in text
    assert 'route="unmatched"' in text
    assert "123456789" not in text


async def test_the_log_names_who_and_how_long_and_no_content(client: httpx2.AsyncClient, capsys: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    before = root.handlers[:], root.level
    configure_logging(level="INFO", form=LogFormat.JSON)
    try:
        await client.post(f"/v1/notes?token={SECRET}", json={"text": SECRET})
        await client.get("/v1/fail/bug")
        lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    finally:
        root.handlers, root.level = before
    request, failure = [line for line in lines if line.get("action") == "request"]
    assert (request["method"], request["route"], request["status"], request["tenant"]) == ("POST", "/v1/notes", 201, "acme")
    assert request["key_id"].startswith("key_")
    assert request["ms"] > 0
    assert len(request["trace_id"]) == 32
    assert SECRET not in json.dumps(request)
    assert (failure["status"], failure["level"]) == (500, "error")
    assert "RuntimeError" in failure["exception"]


async def test_openapi_declares_bearer_and_problems(client: httpx2.AsyncClient) -> None:
    document = (await client.get("/openapi.json")).json()
    assert document["components"]["securitySchemes"]["ApiKey"]["scheme"] == "bearer"
    operation = document["paths"]["/v1/notes"]["post"]
    assert operation["security"] == [{"ApiKey": []}]
    for status in ("401", "403", "413", "422", "500"):
        assert operation["responses"][status]["content"][MEDIA_TYPE]["schema"] == {"$ref": "#/components/schemas/Problem"}
    assert "HTTPValidationError" not in document["components"]["schemas"]
    assert (await client.get("/docs")).status_code == 200
