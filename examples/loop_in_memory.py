"""The agent loop with nothing around it: no service, no database, no weights.

    python examples/loop_in_memory.py [--out runs/examples/shop.episodes.jsonl]

A recorded conversation becomes a cache in memory. A scripted policy then plays one task three times: once as recorded, once with a call
that nobody recorded, once without looking anything up. Replace `ScriptedEngine` by an engine with weights and `InMemoryToolCache` by
`cacherl.client.RemoteToolCache`, and it is what the rollout service runs.
"""
# ruff: noqa: T201  (an example prints)

import argparse
import asyncio
import tempfile
from pathlib import Path

from cacherl.agent_loop import CacheAgentLoop, LoopConfig
from cacherl.engine import GenerationRequest
from cacherl.episode import Episode, masks
from cacherl.episodes_file import EpisodesWriter
from cacherl.rendering import Renderer
from cacherl.testing import POLICY, InMemoryToolCache, ScriptedEngine, call_text, tiny_tokenizer, tool
from cacherl.trajectory import Message, Role, Task, Trajectory

TOOLS = [
    tool("find_order", "customer", mutating=False, description="The order of a customer."),
    tool("track_parcel", "order", mutating=False, description="Where an order's parcel is."),
]
RECORDED = Trajectory.model_validate(
    {
        "id": "monday-17",
        "scenario": "shop",
        "task_id": "parcel-ada",
        "tools": TOOLS,
        "messages": [
            {"role": "user", "content": "Where is Ada's parcel?"},
            {"role": "assistant", "tool_calls": [{"id": "c1", "function": {"name": "find_order", "arguments": {"customer": "Ada"}}}]},
            {"role": "tool", "tool_call_id": "c1", "content": '{"order": "A37"}'},
            {"role": "assistant", "tool_calls": [{"id": "c2", "function": {"name": "track_parcel", "arguments": {"order": "A37"}}}]},
            {"role": "tool", "tool_call_id": "c2", "content": '{"place": "Oslo"}'},
            {"role": "assistant", "content": "Ada's parcel is in Oslo."},
        ],
    }
)
TASK = Task.model_validate(
    {
        "id": "parcel-ada",
        "scenario": "shop",
        "tools": TOOLS,
        "messages": [Message(role=Role.USER, content="Where is Ada's parcel?")],
        "reference": {
            "answer": "Ada's parcel is in Oslo.",
            "facts": [{"value": "Oslo"}],
            "calls": [message.tool_calls[0].call for message in RECORDED.messages if message.tool_calls],
        },
    }
)
FIND, TRACK = call_text("find_order", {"customer": "Ada"}), call_text("track_parcel", {"order": "A37"})
WAYS = [
    [FIND, TRACK, "It is in Oslo."],
    [FIND, call_text("track_parcel", {"order": "A99"}), "I could not find it."],
    ["It is in Rome."],
]
"""What the policy says, turn by turn, in its three episodes."""


async def play() -> list[Episode]:
    """The three episodes, in order of their index."""
    with tempfile.TemporaryDirectory() as folder:
        renderer = Renderer.from_directory(tiny_tokenizer(folder))

    ways: dict[str, list[str]] = {}

    def script(request: GenerationRequest, turn: int) -> str:
        return ways.setdefault(request.episode, WAYS[len(ways)])[turn]

    loop = CacheAgentLoop(
        renderer, ScriptedEngine(renderer, script), InMemoryToolCache.from_trajectories([RECORDED]), LoopConfig(POLICY, concurrency=1)
    )
    return sorted([episode async for episode in loop.run([TASK], group_size=len(WAYS))], key=lambda episode: episode.index)


def main() -> None:
    """Plays, shows, and writes the episodes where it is told to."""
    parser = argparse.ArgumentParser(description="The agent loop with nothing around it.")
    parser.add_argument("--out", type=Path, help="an episodes file to write")
    out: Path | None = parser.parse_args().out
    episodes = asyncio.run(play())
    for episode in episodes:
        mask_T, _ = masks(episode)
        print(f"episode {episode.index}: {episode.stop_reason}, {len(episode.ids)} ids, {sum(mask_T)} of them sampled and trained on")
        for call in episode.calls:
            print(f"  {call.outcome:8} {call.call.name if call.call else '?'} → {call.result.content}")
        print(f"  answer   {episode.answer}")
    if out is not None:
        out.unlink(missing_ok=True)
        with EpisodesWriter(out) as writer:
            writer.write(episodes, [TASK])
        print(f"written to {out}")


if __name__ == "__main__":
    main()
