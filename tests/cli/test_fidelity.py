"""`cacherl cache fidelity`, `calibrate` and `calibration` against the real service, each as a process of its own."""

import json
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
import pytest

from services.cache_api.app import create
from services.cache_api.settings import CacheSettings
from services.kit.settings import ServiceSettings
from tests.cli.conftest import Command

RATE = {"calls", "hits", "hit_rate", "false_hits", "false_hit_rate", "interval"}
TEXT: dict[str, Any] = {"type": "string"}


@pytest.fixture
async def cache(
    command: Command,
    settings: ServiceSettings,
    serve: Callable[..., Awaitable[httpx2.AsyncClient]],
    api_key: Callable[..., str],
) -> Command:
    key = api_key()
    http = await serve(create(CacheSettings(**settings.model_dump())), key)
    return partial(command, "cache", CACHERL_KEY=key, CACHERL_CACHE_API_URL=str(http.base_url).rstrip("/"))


def tool(name: str, **properties: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": {"type": "object", "properties": properties}}}


TOOLS = [tool("get_balance", account=TEXT), tool("transfer_money", account=TEXT, amount={"type": "integer"})]


def log(path: Path, *runs: tuple[str, str, list[tuple[str, dict[str, Any], Any]]]) -> Path:
    """Runs `(id, task, calls)` in OpenAI's chat format."""
    with path.open("w") as lines:
        for name, task, calls in runs:
            messages: list[dict[str, Any]] = [{"role": "user", "content": "do it"}]
            for number, (called, arguments, result) in enumerate(calls):
                made = {"id": f"c{number}", "type": "function", "function": {"name": called, "arguments": json.dumps(arguments)}}
                messages.append({"role": "assistant", "content": None, "tool_calls": [made]})
                messages.append({"role": "tool", "tool_call_id": f"c{number}", "content": json.dumps(result)})
            line = {"id": name, "task": task, "scenario": "bank", "tools": TOOLS, "messages": messages}
            lines.write(json.dumps(line) + "\n")
    return path


def balance(amount: int) -> tuple[str, dict[str, Any], Any]:
    return "get_balance", {"account": "A17"}, {"balance": amount}


def transfer(amount: int) -> tuple[str, dict[str, Any], Any]:
    return "transfer_money", {"account": "A17", "amount": amount}, {"done": True}


@pytest.fixture
def recorded(tmp_path: Path) -> Path:
    return log(
        tmp_path / "recorded.jsonl",
        ("r1", "t1", [balance(100), transfer(30), balance(70)]),
        ("r2", "t2", [balance(100)]),
        ("r3", "t3", [balance(100)]),
    )


async def test_the_answer_is_what_the_contract_says_and_stale_reads_are_the_plain_keys_alone(
    cache: Command, tmp_path: Path, recorded: Path
):
    replayed = log(
        tmp_path / "replayed.jsonl",
        ("p1", "t9", [balance(100), transfer(30), balance(70)]),
        ("p2", "t8", [transfer(30), balance(70), ("get_balance", {"account": "B22"}, {"balance": 5})]),
    )
    ran = await cache("fidelity", "--record", recorded, "--replay", replayed, "--json")
    assert ran.code == 0, ran.err
    assert "calls replayed" in ran.err, "progress goes beside the document"
    found = ran.document
    assert found.keys() == {
        "schema", "preset", "totals", "tiers", "misses", "kinds", "unearned", "trajectories", "plain_key",
    }  # fmt: skip
    assert (found["schema"], found["preset"], found["kinds"]) == ("cacherl.fidelity/1", "robust", {})
    assert found["tiers"].keys() == {"exact", "fuzzy", "best_effort"}
    assert all(rate.keys() == RATE and rate["calls"] == 6 for rate in (*found["tiers"].values(), found["totals"], found["plain_key"]))
    exact, plain = found["tiers"]["exact"], found["plain_key"]
    assert (exact["hits"], exact["false_hits"], found["misses"]) == (5, 0, 1)
    assert (plain["hits"], plain["false_hits"]) == (5, 2), "the balance after a transfer is not the one before it"
    assert exact["interval"][0] == 0 < exact["interval"][1] < 1
    assert found["tiers"]["fuzzy"]["interval"] == [0, 1]
    assert found["trajectories"] == {"total": 2, "without_false_hit": 2}
    assert (await cache("list", "--json")).document["items"] == [], "the cache is thrown away"


async def test_a_trajectory_never_answers_itself_but_its_task_does(cache: Command, tmp_path: Path):
    alone = log(tmp_path / "alone.jsonl", ("r1", "t1", [balance(100)]))
    ran = await cache("fidelity", "--record", alone, "--replay", alone, "--json")
    assert (ran.code, ran.document["totals"]["hits"], ran.document["plain_key"]["hits"]) == (0, 0, 0), ran.err
    assert ran.document["totals"]["interval"] == [0, 1]
    twice = log(tmp_path / "twice.jsonl", ("r1", "t1", [balance(100)]), ("r2", "t1", [balance(100)]))
    assert (await cache("fidelity", "--record", twice, "--replay", twice, "--json")).document["totals"]["hits"] == 2


async def test_preset_paper_is_the_plain_key_and_says_what_kind_its_errors_are(cache: Command, tmp_path: Path, recorded: Path):
    replayed = log(tmp_path / "replayed.jsonl", ("p1", "t9", [transfer(30), balance(70)]))
    ran = await cache("fidelity", "--record", recorded, "--replay", replayed, "--preset", "paper", "--json")
    found = ran.document
    assert (found["preset"], found["tiers"]["exact"]["false_hits"], found["kinds"]) == ("paper", 1, {"stale_state": 1})
    assert found["tiers"]["exact"] == found["plain_key"]
    assert (found["unearned"], found["trajectories"]) == ([], {"total": 1, "without_false_hit": 0})


async def test_annotations_decide(cache: Command, tmp_path: Path, recorded: Path):
    replayed = log(tmp_path / "replayed.jsonl", ("p1", "t9", [transfer(5), balance(95)]))
    given = tmp_path / "annotations.json"
    given.write_text(json.dumps({"get_balance": {"scope": "none", "mutating": False}}))
    ran = await cache("fidelity", "--record", recorded, "--replay", replayed, "--annotations", given, "--json")
    assert (ran.code, ran.document["kinds"]) == (0, {"stale_state": 1}), "told that nothing changes a balance, it believes so"
    given.write_text('{"get_balance": {"scope": "everything"}}')
    wrong = await cache("fidelity", "--record", recorded, "--replay", replayed, "--annotations", given)
    assert (wrong.code, "annotations" in wrong.complaint) == (2, True)


async def test_the_scenario_can_be_told(cache: Command, tmp_path: Path, recorded: Path):
    replayed = log(tmp_path / "replayed.jsonl", ("p1", "t9", [balance(100)]))
    for scenario, hits in (("one", 1), ("id", 0)):
        ran = await cache("fidelity", "--record", recorded, "--replay", replayed, "--scenario", scenario, "--json")
        assert (ran.code, ran.document["totals"]["hits"]) == (0, hits), "each record its own environment: nothing is shared"


async def test_wrong_use_is_told(cache: Command, tmp_path: Path, recorded: Path):
    empty = log(tmp_path / "empty.jsonl", ("p1", "t9", []))
    for arguments in (
        ("--record", recorded, "--replay", empty),
        ("--record", empty, "--replay", recorded),
        ("--record", recorded, "--replay", tmp_path / "nothing.jsonl"),
        ("--record", recorded, "--replay", recorded, "--preset", "careful"),
        ("--record", recorded, "--replay", recorded, "--target-false", "1.5"),
    ):
        assert (await cache("fidelity", *arguments, "--json")).code == 2, arguments


async def test_a_cache_is_calibrated_shown_and_drawn(cache: Command, tmp_path: Path, recorded: Path):
    await cache("ingest", "bank", recorded)
    never = await cache("calibration", "bank", "--json")
    assert (never.code, "never calibrated" in never.err) == (2, True)
    ran = await cache("calibrate", "bank", "--json", "--plot", tmp_path / "curve.svg")
    assert ran.code == 0, ran.err
    assert {pool["pool"] for pool in ran.document["pools"]} == {"read/identifier", "mutating/identifier"}
    assert len(ran.document["curve"]) == 11
    assert (tmp_path / "curve.svg").read_text().startswith("<?xml")
    shown = await cache("calibration", "bank", "--json", "--plot", tmp_path / "curve.png")
    assert shown.document["id"] == ran.document["id"]
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")
    table = await cache("calibration", "bank")
    assert (table.code, "read/identifier" in table.out) == (0, True)
    odd = await cache("calibration", "bank", "--plot", tmp_path / "curve.bmp")
    assert odd.code == 2
