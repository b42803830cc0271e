"""Episodes by id, read from the rollout service with the caller's own token: what the caller may not read there cannot be scored here.

`GET /v1/episodes?id=…&id=…` answers with the lines of an episodes file (contracts §4), which `cacherl.episodes_file` reads.
"""

import asyncio
from collections.abc import Iterator, Sequence

from cacherl.client import RolloutClient
from cacherl.episode import Episode
from cacherl.episodes_file import EpisodeLines
from cacherl.errors import DataError, InputError, NotFoundError, ServiceError
from cacherl.trajectory import Task
from services.kit.trace import outgoing_headers

IDS_A_REQUEST = 100


async def fetch(url: str, token: str, ids: Sequence[str], timeout_s: float) -> tuple[list[Episode], dict[str, Task]]:
    """The episodes of these ids, in order, and their tasks by hash.

    Raises NotFoundError where one is not there for this caller, ServiceError where the rollout service is away.
    """
    if not all(id_.isascii() and id_.isprintable() and 0 < len(id_) <= 128 for id_ in ids):
        raise InputError("An episode's id has 1 to 128 printable ASCII characters.")
    lines, found = EpisodeLines(), dict[str, Episode]()
    try:
        async with asyncio.timeout(timeout_s), RolloutClient(url, token, headers=outgoing_headers()) as rollout:
            for some in _chunks(ids):
                async for line in rollout.http.lines("/v1/episodes", id=some):
                    episode = lines.read(line) if line else None
                    if episode is not None:
                        found[episode.id] = episode
    except TimeoutError as error:
        raise ServiceError(f"The rollout service did not send the episodes within {timeout_s:g} s.") from error
    except DataError as error:
        raise ServiceError("The rollout service sent a line that cannot be read.") from error
    missing = [id_ for id_ in ids if id_ not in found]
    if missing:
        raise NotFoundError(f"{len(missing)} of {len(ids)} episodes are not there, the first is {missing[0]}.")
    return [found[id_] for id_ in ids], lines.tasks


def _chunks(ids: Sequence[str]) -> Iterator[list[str]]:
    for start in range(0, len(ids), IDS_A_REQUEST):
        yield list(ids[start : start + IDS_A_REQUEST])
