"""A tool's schema as a judge of arguments, and the groups of tools."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from cacherl.errors import DataError
from cacherl.tool_spec import Annotations, Function, Scope, ToolSpec


def tool(parameters: dict, name: str = "t", **annotations: object) -> ToolSpec:
    return ToolSpec(function=Function(name=name, parameters=parameters), annotations=Annotations(**annotations))


def test_refusals_point_at_what_is_wrong():
    one = tool(
        {"type": "object", "properties": {"a/b": {"type": "string"}, "n": {"type": "array", "items": {"maximum": 3}}}, "required": ["n"]}
    )
    assert one.refusals({"a/b": "x", "n": [1, 3]}) == []
    assert [pointer for pointer, _ in one.refusals({"a/b": 1, "n": [1, 9]})] == ["/a~1b", "/n/1"]
    (pointer, reason), *rest = one.refusals({})
    assert (pointer, rest) == ("", [])
    assert '"n"' in reason


def test_wide_integers_in_schemas_and_arguments():
    one = tool({"properties": {"n": {"maximum": 10**25}}})
    assert one.refusals({"n": 10**25}) == []
    assert len(one.refusals({"n": 10**25 + 1})) == 1


def test_a_catastrophic_pattern_is_bounded():
    one = tool({"properties": {"a": {"type": "string", "pattern": "^(a+)+$(?=x)"}}})
    assert len(one.refusals({"a": "a" * 5000 + "b"})) == 1


@pytest.mark.parametrize("parameters", [{"type": "dict"}, {"properties": {"a": {"type": "float"}}}, {"properties": 3}, {"$schema": True}])
def test_a_schema_that_is_none_is_named(parameters):
    with pytest.raises(DataError) as refusal:
        tool(parameters).refusals({"a": 1})
    assert refusal.value.problem_slug == "tool-schema"
    assert refusal.value.pointer == "/function/parameters"


@pytest.fixture
def watched() -> Iterator[tuple[str, list[str]]]:
    seen: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b'{"type": "string"}')

        def log_message(self, *_: object) -> None: ...

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/schema.json", seen
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_schema_never_makes_us_fetch_or_open_anything(watched, tmp_path: Path):
    url, seen = watched
    secret = tmp_path / "schema.json"
    secret.write_text('{"type": "string"}')
    for reference in (url, secret.as_uri()):
        with pytest.raises(DataError):
            tool({"properties": {"a": {"$ref": reference}}}).refusals({"a": 1})
    assert seen == []
    assert len(tool({"properties": {"a": {"$ref": "#/$defs/s"}}, "$defs": {"s": {"type": "string"}}}).refusals({"a": 1})) == 1


def test_resource_groups():
    assert tool({}, "orders.status").resource_group == "orders"
    assert tool({}, "a.b.c").resource_group == "a.b"
    assert tool({}, "status").resource_group == ""
    assert tool({}, "orders.status", resource_group="shop").resource_group == "shop"
    assert [scope.value for scope in Scope] == ["none", "identifier", "group", "all"], "finest first"
