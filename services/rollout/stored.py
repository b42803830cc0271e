"""How an episode lies in the database: ids, log-probs and the rest in three compressed columns, and back into a line.

Pure. A line that is read is the line that was written: ids are exact, log-probs are float32 from the loop on, the rest is the JSON itself.
"""

from array import array
from typing import Any

import orjson
import zstandard
from psycopg.types.json import Jsonb

from cacherl.episode import Episode
from cacherl.trajectory import Task

LEVEL = 3
_LITTLE = array("I", [1]).tobytes()[0] == 1
assert _LITTLE, "the columns are little-endian"
assert array("I").itemsize == array("f").itemsize == 4


def packed(data: bytes) -> bytes:
    """Compressed."""
    return zstandard.ZstdCompressor(level=LEVEL).compress(data)


def unpacked(data: bytes) -> bytes:
    """Decompressed."""
    return zstandard.ZstdDecompressor().decompress(data)


def task_body(task: Task) -> bytes:
    """A task's column; the order of keys is kept."""
    return packed(task.model_dump_json().encode())


def read_task(body: bytes) -> Task:
    """The task of a column."""
    return Task.model_validate_json(unpacked(body))


def columns(episode: Episode) -> dict[str, Any]:
    """The row of an episode."""
    logprobs_N = array("f")
    for turn in episode.turns:
        logprobs_N.extend(turn.logprobs)
    body = episode.model_dump_json(by_alias=True, exclude={"ids": True, "turns": {"__all__": {"logprobs"}}}).encode()
    return {
        "id": episode.id,
        "rollout": episode.rollout,
        "group": episode.group,
        "index": episode.index,
        "task": episode.task,
        "status": episode.status.value,
        "stop_reason": episode.stop_reason.value,
        "tokens": len(episode.ids),
        "sampled": len(logprobs_N),
        "ids": packed(array("I", episode.ids).tobytes()),
        "logprobs": packed(logprobs_N.tobytes()),
        "body": packed(body),
        "calls": Jsonb(_calls(episode)),
    }


def _calls(episode: Episode) -> list[dict[str, Any]]:
    return [
        {
            "turn": number,
            "tool": call.call.name.replace("\x00", "�") if call.call is not None else None,
            "outcome": call.outcome.value,
            "fidelity": call.fidelity,
            "entry": call.entry.id if call.entry is not None else None,
            "mutating": call.mutating,
        }
        for number, turn in enumerate(episode.turns)
        for call in turn.calls
    ]


def line(ids: bytes, logprobs: bytes, body: bytes) -> bytes:
    """The episode's line of the three columns, with its line break."""
    logprobs_N = array("f", unpacked(logprobs))
    content = orjson.loads(unpacked(body))
    content["ids"] = array("I", unpacked(ids)).tolist()
    start = 0
    for turn in content["turns"]:
        end = start + turn["end"] - turn["start"]
        turn["logprobs"] = logprobs_N[start:end].tolist()
        start = end
    return orjson.dumps(content) + b"\n"
