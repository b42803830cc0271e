"""Record a few tool calls in a cache and ask it: what is answered, by which recording, and why something is not.

    cacherl up                                   (in another terminal)
    python examples/record_and_lookup.py

Two conversations with a bank of our own making. A balance was read before and after a transfer: the cache answers each read in the state
that it was recorded in, and misses where the state was never recorded. It never guesses and never calls the bank.
"""
# ruff: noqa: T201  (an example prints)

import argparse
import asyncio
import uuid
from pathlib import Path
from typing import Any

from cacherl.api.cache import CacheCreate, LookupCall, LookupItem, LookupRequest
from cacherl.client import CacheClient
from cacherl.runtime import HOME, connect
from cacherl.testing import tool
from cacherl.tier import LookupResult
from cacherl.trajectory import Trajectory

TOOLS = [
    tool("get_balance", "account", mutating=False, description="The balance of an account."),
    tool("transfer", "account", "amount", mutating=True, description="Move money out of an account."),
]
Call = tuple[str, dict[str, str]]
READ: Call = ("get_balance", {"account": "A1"})
PAY_30: Call = ("transfer", {"account": "A1", "amount": "30"})
PAY_55: Call = ("transfer", {"account": "A1", "amount": "55"})


def conversation(name: str, calls: list[tuple[Call, str]]) -> Trajectory:
    """A recorded conversation: calls with their results."""
    messages: list[dict[str, Any]] = [{"role": "user", "content": "Look after my account A1."}]
    for number, ((called, arguments), result) in enumerate(calls):
        made = {"id": f"c{number}", "function": {"name": called, "arguments": arguments}}
        messages += [{"role": "assistant", "tool_calls": [made]}, {"role": "tool", "tool_call_id": f"c{number}", "content": result}]
    return Trajectory.model_validate({"id": name, "scenario": "bank-1", "task_id": name, "tools": TOOLS, "messages": messages})


RECORDED = [
    conversation("monday", [(READ, "100 EUR")]),
    conversation("tuesday", [(PAY_30, "done"), (READ, "70 EUR")]),
]
QUESTIONS: dict[str, list[Call]] = {
    "read at once": [READ],
    "read after the transfer that was recorded": [PAY_30, READ],
    "read after a transfer that was not": [PAY_55, READ],
}


def told(result: LookupResult) -> str:
    """One answer in words."""
    source = f" (recorded in {result.entry.source}, call {result.entry.step})" if result.entry else ""
    return f"{result.outcome:8} {result.result.content}{source}"


def why_not(result: LookupResult) -> list[str]:
    """What kept each tier from answering."""
    gates = (result.explain or {}).get("gates")
    return [f"not {tier}: {gate}" for tier, gate in gates.items()] if isinstance(gates, dict) else []


async def main() -> None:
    """Records and asks."""
    parser = argparse.ArgumentParser(description="Record a few tool calls in a cache and ask it.")
    parser.add_argument("--home", type=Path, default=HOME, help="folder of the local system")
    runtime = connect(parser.parse_args().home)
    name = f"bank-{uuid.uuid4().hex[:8]}"
    async with CacheClient(runtime.urls.cache_api, runtime.key) as client:
        await client.create(CacheCreate(name=name))
        stored = await client.ingest(name, RECORDED, batch="first")
        print(f"cache {name}: {stored.stored} calls stored, revision {stored.revision}")
        items = [
            LookupItem(scenario="bank-1", calls=[LookupCall(name=called, arguments=dict(arguments)) for called, arguments in calls])
            for calls in QUESTIONS.values()
        ]
        answer = await client.lookups(name, LookupRequest(items=items, explain=True))
    for question, found in zip(QUESTIONS, answer.items, strict=True):
        print(f"\n{question}")
        for result in found.results:
            print(f"  {told(result)}")
            for line in why_not(result):
                print(f"           {line}")


if __name__ == "__main__":
    asyncio.run(main())
