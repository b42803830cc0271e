"""The SDK repeats questions and never a call: a real server that is away counts what reaches it."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
import stamina

from cacherl.api.cache import LookupCall, LookupItem, LookupRequest
from cacherl.client import CacheClient
from cacherl.errors import ServiceError


@pytest.fixture
def away() -> Iterator[tuple[str, list[str]]]:
    asked: list[str] = []

    class Away(BaseHTTPRequestHandler):
        def do_POST(self):
            asked.append(self.path)
            self.send_response(503)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Away) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", asked
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(("mode", "sent"), [("replay", 3), ("record", 1)])
async def test_a_lookup_that_may_call_a_live_tool_is_sent_once(away, mode, sent):
    url, asked = away
    request = LookupRequest(mode=mode, items=[LookupItem(calls=[LookupCall(name="a.b", arguments={})], scenario="s")])
    async with CacheClient(url, "crl_key") as client:
        with stamina.set_testing(True, attempts=3, cap=True), pytest.raises(ServiceError):
            await client.lookups("shop", request)
    assert len(asked) == sent
