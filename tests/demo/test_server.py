"""The world's process over real HTTP: its counter counts exactly the tool calls, and bad input gets a clear answer."""

import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import httpx2
import pytest

from demo.config import DataSettings
from demo.tasks import exercises


@pytest.fixture(scope="module")
def base_url() -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen([sys.executable, "-m", "demo.world", "--port", str(port), "--max-sessions", "50"])
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(300):
            try:
                if httpx2.get(f"{url}/healthz").status_code == 200:
                    break
            except httpx2.HTTPError:
                time.sleep(0.1)
        yield url
    finally:
        process.terminate()
        process.wait(timeout=10)


@pytest.fixture
def world(base_url: str) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=base_url) as client:
        yield client


def calls_so_far(world: httpx2.Client) -> int:
    return world.get("/counter").json()["calls"]


def test_the_counter_counts_exactly_the_calls(world: httpx2.Client):
    before = world.get("/counter").json()
    item = exercises(DataSettings(), 0, 1)[0]
    world.post("/sessions", json={"session": "a", "scenario": item.town}).raise_for_status()
    for call in item.task.reference.calls:
        answer = world.post("/sessions/a/calls", json={"name": call.name, "arguments": call.arguments}).json()
        assert answer["is_error"] is False
    verdict = world.post("/sessions/a/check", json={"goal": item.goal.plain(), "answer": item.task.reference.answer}).json()
    assert verdict == {"success": True, "state": True, "answer": True, "detail": "reached"}
    world.post("/sessions/a/calls", json={"name": "orders.nothing", "arguments": {}})
    batch = [{"session": "b", "scenario": item.town, "name": "orders.find_customer", "arguments": {"name": "Nobody"}}] * 7
    assert [answer["is_error"] for answer in world.post("/calls", json={"items": batch}).json()] == [True] * 7
    after = world.get("/counter").json()
    assert after["calls"] - before["calls"] == len(item.task.reference.calls) + 1 + 7
    assert after["by_tool"]["unknown"] == before["by_tool"].get("unknown", 0) + 1
    assert after["checks"] - before["checks"] == 1


def test_replayed_checks_are_no_tool_calls(world: httpx2.Client):
    items = exercises(DataSettings(), 500, 1)
    before = world.get("/counter").json()
    bodies = [
        {
            "scenario": item.town,
            "calls": [{"name": call.name, "arguments": call.arguments} for call in item.task.reference.calls],
            "goal": item.task.reference.goal,
            "answer": item.task.reference.answer,
        }
        for item in items
    ]
    assert all(verdict["success"] for verdict in world.post("/checks", json={"items": bodies}).json())
    assert world.post("/checks", json=bodies[0] | {"answer": "I do not know."}).json()["detail"].startswith("the answer lacks")
    after = world.get("/counter").json()
    assert after["calls"] == before["calls"]
    assert after["checks"] - before["checks"] == len(items) + 1


def test_a_session_keeps_its_changes_and_no_other_session_sees_them(world: httpx2.Client):
    item = next(item for item in exercises(DataSettings(), 0, 5) if item.kind == "calendar.move")
    move, read = item.task.reference.calls[-2:]
    results = {}
    for session in ("moved", "unmoved"):
        if session == "moved":
            world.post(f"/sessions/{session}/calls?scenario={item.town}", json={"name": move.name, "arguments": move.arguments})
        url = f"/sessions/{session}/calls?scenario={item.town}"
        results[session] = world.post(url, json={"name": read.name, "arguments": read.arguments}).json()["content"]
    assert results["moved"] != results["unmoved"]
    assert world.delete("/sessions/moved").status_code == 204
    again = world.post(f"/sessions/moved/calls?scenario={item.town}", json={"name": read.name, "arguments": read.arguments}).json()
    assert again["content"] == results["unmoved"]


@pytest.mark.parametrize(
    ("path", "body", "status", "text"),
    [
        ("/sessions", {"session": "x", "scenario": "nowhere"}, 404, "no town is called"),
        ("/sessions", {"session": "x"}, 422, "scenario"),
        ("/sessions", {"session": "x", "scenario": "town-001", "extra": 1}, 422, "extra"),
        ("/sessions/never/calls", {"name": "orders.find_customer", "arguments": {}}, 404, "is not open"),
        ("/sessions/never/calls", {"name": "orders.find_customer", "arguments": []}, 422, "arguments"),
        ("/sessions/never/check", {"goal": {"state": {}, "answer": []}, "answer": None}, 404, "is not open"),
        ("/calls", {"items": [{"session": "y", "scenario": "town-xyz", "name": "a", "arguments": {}}]}, 404, "no town is called"),
        ("/checks", {"scenario": "town-001", "calls": [], "goal": {"state": {"gold": {}}, "answer": []}, "answer": ""}, 422, "not gold"),
    ],
)
def test_bad_input_gets_a_clear_answer_and_is_not_counted(world: httpx2.Client, path: str, body: dict, status: int, text: str):
    before = calls_so_far(world)
    answer = world.post(path, json=body)
    assert answer.status_code == status
    assert text in answer.text
    assert calls_so_far(world) == before


def test_a_session_cannot_change_its_town(world: httpx2.Client):
    world.post("/sessions", json={"session": "fixed", "scenario": "town-001"}).raise_for_status()
    assert world.post("/sessions", json={"session": "fixed", "scenario": "town-002"}).status_code == 409


def test_the_session_unused_for_longest_is_given_up_and_says_so(world: httpx2.Client):
    world.post("/sessions", json={"session": "old", "scenario": "town-001"}).raise_for_status()
    for number in range(50):
        world.post("/sessions", json={"session": f"new-{number}", "scenario": "town-001"}).raise_for_status()
    answer = world.post("/sessions/old/calls", json={"name": "orders.find_customer", "arguments": {"name": "x"}})
    assert answer.status_code == 404


def test_the_tools_are_listed_in_function_format(world: httpx2.Client):
    tools = world.get("/tools").json()
    assert len(tools) >= 16
    assert all(tool["type"] == "function" and tool["function"]["parameters"]["required"] for tool in tools)
