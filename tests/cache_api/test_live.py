"""Mode `record` against a real tool server over HTTP."""

import asyncio
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI, Request, Response

from services.cache_api.app import create
from services.cache_api.settings import CacheSettings
from services.kit.auth import Scope
from services.kit.settings import ServiceSettings
from tests.cache_api.conftest import TOOLS, Cache, Serve, call, item


class Bank:
    """A tool server: one balance for each session; it can be told to fail."""

    def __init__(self) -> None:
        self.app, self.balance, self.calls, self.broken = FastAPI(), {}, 0, False
        self.app.post("/calls")(self.answer)

    async def answer(self, request: Request) -> Response:
        import orjson  # noqa: PLC0415 - a server of its own

        if self.broken:
            return Response(status_code=500)
        results = []
        for asked in (await request.json())["items"]:
            self.calls += 1
            balance = self.balance.setdefault((asked["session"], asked["scenario"]), 100)
            if asked["name"] == "transfer":
                balance -= asked["arguments"]["amount"]
                self.balance[asked["session"], asked["scenario"]] = balance
                results.append({"content": f"done, receipt R{balance}00"})
            else:
                results.append({"content": str(balance)})
        return Response(orjson.dumps({"results": results}), media_type="application/json")


@pytest.fixture
def bank() -> Bank:
    return Bank()


@pytest.fixture
async def live(bank: Bank, settings: ServiceSettings, api_key: Any, serve: Serve) -> Cache:
    url = str((await serve(bank.app)).base_url)
    app = create(CacheSettings(**settings.model_dump(), live_servers={"bank": url}))
    http = await serve(app, api_key(scopes=(Scope.CACHE_READ, Scope.CACHE_WRITE)))
    body = {"name": "town", "tools": TOOLS, "settings": {"live_server": "bank"}}
    assert (await http.post("/v1/caches", json=body)).status_code == 201
    return Cache(http, "town")


READ = call("get_balance", {"account": "A1"})
WRITE = call("transfer", {"account": "A1", "amount": 30})


def turn(*calls: dict[str, Any], episode: int = 0, **more: Any) -> dict[str, Any]:
    return item(*calls, draw={"task": "t1", "episode": episode}, session=f"run.0.{episode}", **more)


async def test_every_call_goes_live_and_is_stored_for_replay(live: Cache, bank: Bank):
    first = await live.look(turn(READ, WRITE), turn(READ, episode=1), mode="record", run="run")
    read, wrote = first["items"][0]["results"]
    assert (read["outcome"], read["fidelity"], read["live"], read["result"]["content"]) == ("exact", 1.0, True, "100")
    assert (read["entry"]["source"], read["entry"]["step"], wrote["entry"]["step"]) == ("run/t1/0", 0, 1)
    second = await live.look(turn(READ, state=first["items"][0]["state"]), mode="record", run="run")
    assert second["items"][0]["results"][0]["result"]["content"] == "70"
    assert bank.calls == 4

    replayed = await live.results(item(READ, WRITE, READ))
    assert [(r["outcome"], r["result"]["content"], r["live"]) for r in replayed] == [
        ("exact", "100", False),
        ("exact", "done, receipt R7000", False),
        ("exact", "70", False),
    ]
    assert replayed[2]["entry"]["id"] == second["items"][0]["results"][0]["entry"]["id"]
    assert bank.calls == 4
    assert (await live.get())["entries"] == 4


async def test_a_history_makes_the_same_entries_as_the_token(live: Cache):
    first = await live.look(turn(WRITE), mode="record", run="a")
    past = [{"call": WRITE, "outcome": "exact", "result": first["items"][0]["results"][0]["result"]}]
    await live.look(turn(READ, history=past), mode="record", run="a")
    entries = (await live.get("/entries"))["items"]
    assert [(e["source"], e["step"], e["task"]) for e in entries] == [("a/t1/0", 0, "t1"), ("a/t1/0", 1, "t1")]
    assert [r["outcome"] for r in await live.results(item(WRITE, READ))] == ["exact", "exact"]


async def test_a_token_is_good_for_its_own_session_alone(live: Cache, bank: Bank):
    started = await live.look(turn(WRITE), mode="record", run="run")
    token = started["items"][0]["state"]
    other = turn(READ, state=token) | {"session": "run.0.other"}
    assert (await live.look(other, mode="record", run="run", status=422))["type"].endswith("history-needed")
    broken = turn(READ, state=token.partition(".")[0] + ".AA")
    assert (await live.look(broken, mode="record", run="run", status=422))["type"].endswith("not-a-state")
    assert bank.calls == 1
    # In replay the same token is a state like any other.
    assert (await live.results(item(READ, state=token)))[0]["outcome"] == "miss"


async def test_requests_at_the_same_time_are_stored_together_and_each_gets_its_own(live: Cache):
    answers = await asyncio.gather(*(live.look(turn(READ, WRITE, episode=n), mode="record", run="run") for n in range(12)))
    for number, answer in enumerate(answers):
        read, wrote = answer["items"][0]["results"]
        assert [read["entry"]["source"], wrote["entry"]["source"]] == [f"run/t1/{number}"] * 2
    state = await live.get()
    assert state["entries"] == 24
    assert 1 <= state["revision"] <= 12
    ids = {entry["id"] for entry in (await live.get("/entries", limit=1000))["items"]}
    assert ids == {result["entry"]["id"] for answer in answers for result in answer["items"][0]["results"]}


async def test_a_turn_that_is_sent_twice_is_made_once(live: Cache, bank: Bank):
    state = (await live.look(turn(WRITE), mode="record", run="run"))["items"][0]["state"]
    again = turn(WRITE, state=state)
    await live.look(again, mode="record", run="run")
    assert (await live.look(again, mode="record", run="run", status=409))["type"].endswith("recorded-otherwise")
    assert bank.calls == 2


async def test_a_tool_that_the_view_lacks_is_recorded_from_the_start_of_its_episode(live: Cache):
    state = None
    for called in (WRITE, call("get_rate", {"of": "EUR"}), READ, call("get_rate", {"of": "USD"})):
        state = (await live.look(turn(called, state=state), mode="record", run="run"))["items"][0]["state"]
    entries = (await live.get("/entries"))["items"]
    assert [(e["tool"], e["step"]) for e in entries] == [("transfer", 0), ("get_rate", 1), ("get_balance", 2), ("get_rate", 3)]
    replayed = await live.results(item(WRITE, call("get_rate", {"of": "EUR"}), READ))
    assert [r["outcome"] for r in replayed] == ["exact", "exact", "exact"]


async def test_an_episode_that_is_run_again_is_a_source_of_its_own(live: Cache):
    for _ in range(2):
        started = await live.look(turn(WRITE), mode="record", run="run")
        await live.look(turn(READ, state=started["items"][0]["state"]), mode="record", run="run")
    entries = (await live.get("/entries"))["items"]
    assert [(e["source"], e["step"]) for e in entries] == [("run/t1/0", 0), ("run/t1/0", 1), ("run/t1/0~2", 0), ("run/t1/0~2", 1)]


async def test_a_server_that_is_away_is_no_answer_and_stores_nothing(live: Cache, bank: Bank):
    bank.broken = True
    problem = await live.look(turn(READ), mode="record", run="run", status=503)
    assert problem["type"] == "urn:cacherl:problem:live-tool-away"
    assert (await live.get())["entries"] == 0


async def test_a_live_turn_says_which_episode_it_belongs_to(live: Cache, bank: Bank):
    lacking = await live.look(item(READ), mode="record", run="run", status=422)
    assert {fault["pointer"] for fault in lacking["errors"]} == {"/items/0/draw", "/items/0/session"}
    state = (await live.look(item(WRITE)))["items"][0]["state"]
    assert (await live.look(turn(READ, state=state), mode="record", run="run", status=422))["type"].endswith("history-needed")
    assert (await live.look(turn(READ), turn(WRITE), mode="record", run="run", status=422))["type"].endswith("episode-twice")
    assert bank.calls == 0


async def test_recording_needs_the_scope_to_write_and_a_server_its_name_in_the_configuration(live: Cache, bank: Bank, api_key: Any):
    headers = {"Authorization": f"Bearer {api_key(scopes=(Scope.CACHE_READ,))}"}
    body = {"items": [turn(READ)], "mode": "record", "run": "run"}
    answer: httpx2.Response = await live.http.post(f"{live.url}/lookups", json=body, headers=headers)
    assert (answer.status_code, bank.calls) == (403, 0)
    made = await live.http.post("/v1/caches", json={"name": "x", "settings": {"live_server": "http://127.0.0.1/"}})
    assert (made.status_code, made.json()["type"]) == (422, "urn:cacherl:problem:no-such-live-server")
