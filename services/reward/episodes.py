"""Episodes by id, read from the rollout service with the caller's own token: what the caller may not read there cannot be scored here.

`GET /v1/episodes?id=…&id=…` answers with the lines of an episodes file (contracts §4): tools and tasks stand before the episodes that need
them, and a task's `tools` are the hashes of its tools.
"""

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson
from pydantic import ValidationError

from cacherl.client import RolloutClient
from cacherl.episode import SCHEMA, Episode
from cacherl.errors import InputError, NotFoundError, ServiceError
from cacherl.trajectory import Task
from services.kit.trace import outgoing_headers

IDS_A_REQUEST = 100
TOOL_LINE, TASK_LINE = "cacherl.tool/1", "cacherl.task/1"


@dataclass(slots=True)
class Fetched:
    """Episodes by id and tasks by hash."""

    episodes: dict[str, Episode] = field(default_factory=dict)
    tasks: dict[str, Task] = field(default_factory=dict)
    _tools: dict[str, Any] = field(default_factory=dict)

    def add(self, line: bytes) -> None:
        """Takes up one line. Raises ServiceError for one that cannot be read."""
        try:
            record = orjson.loads(line)
            match record["schema"]:
                case schema if schema == TOOL_LINE:
                    self._tools[record["hash"]] = record["tool"]
                case schema if schema == TASK_LINE:
                    task = record["task"]
                    tools = [self._tools[tool] if isinstance(tool, str) else tool for tool in task["tools"]]
                    self.tasks[record["hash"]] = Task.model_validate({**task, "tools": tools})
                case schema if schema == SCHEMA:
                    episode = Episode.model_validate(record)
                    self.episodes[episode.id] = episode
        except (orjson.JSONDecodeError, LookupError, TypeError, ValidationError) as error:
            raise ServiceError("The rollout service sent a line that cannot be read.") from error


async def fetch(url: str, token: str, ids: Sequence[str], timeout_s: float) -> Fetched:
    """The episodes of these ids and their tasks.

    Raises NotFoundError where one is not there for this caller, ServiceError where the rollout service is away.
    """
    if not all(id_.isascii() and id_.isprintable() and 0 < len(id_) <= 128 for id_ in ids):
        raise InputError("An episode's id has 1 to 128 printable ASCII characters.")
    found = Fetched()
    try:
        async with asyncio.timeout(timeout_s), RolloutClient(url, token, headers=outgoing_headers()) as rollout:
            for some in _chunks(ids):
                async for line in rollout.http.lines("/v1/episodes", id=some):
                    if line:
                        found.add(line)
    except TimeoutError as error:
        raise ServiceError(f"The rollout service did not send the episodes within {timeout_s:g} s.") from error
    missing = [id_ for id_ in ids if id_ not in found.episodes]
    if missing:
        raise NotFoundError(f"{len(missing)} of {len(ids)} episodes are not there, the first is {missing[0]}.")
    return found


def _chunks(ids: Sequence[str]) -> Iterator[list[str]]:
    for start in range(0, len(ids), IDS_A_REQUEST):
        yield list(ids[start : start + IDS_A_REQUEST])
