"""The rollout API's client."""

import asyncio
from collections.abc import AsyncIterator

import orjson

from cacherl.api.common import Accepted, Page
from cacherl.api.rollout import EngineStatus, Policy, PolicyPublish, Rollout, RolloutCreate
from cacherl.client.service import ServiceClient
from cacherl.episode import Episode
from cacherl.errors import EngineError
from cacherl.jobs import JobState

EPISODE_SCHEMA = "cacherl.episode/1"


class RolloutClient(ServiceClient):
    """Speaks to the rollout API: `async with RolloutClient(url, key) as rollout: …`."""

    async def create(self, rollout: RolloutCreate, *, key: str | None = None) -> Accepted:
        """Starts tasks × group size episodes."""
        return await self.http.post("/v1/rollouts", rollout, Accepted, key=key)

    async def get(self, rollout: str) -> Rollout:
        """How far it is."""
        return await self.http.get(f"/v1/rollouts/{rollout}", Rollout)

    async def list(self, *, limit: int = 100, cursor: str | None = None) -> Page[Rollout]:
        """The tenant's rollouts, newest first."""
        return await self.http.get("/v1/rollouts", Page[Rollout], limit=limit, cursor=cursor)

    async def episodes(self, rollout: str, *, after: str | None = None) -> AsyncIterator[Episode]:
        """Finished episodes as they finish; ends with the rollout."""
        async for line in self.http.lines(f"/v1/rollouts/{rollout}/episodes", after=after):
            if line:
                yield Episode.model_validate_json(line)

    async def touched(self, entry: str, *, page: int = 1000) -> AsyncIterator[bytes]:
        """Lines of the episodes that a cache entry answered, with the tool and task lines that they need: the file format."""
        after: str | None = None
        while True:
            last = after
            async for line in self.http.lines("/v1/episodes", entry=entry, after=after, limit=page):
                if line:
                    yield line
                    head = orjson.loads(line)
                    last = head["id"] if head["schema"] == EPISODE_SCHEMA else last
            if last == after:
                return
            after = last

    async def cancel(self, rollout: str) -> Rollout:
        """Stops it; finished episodes are kept."""
        return await self.http.post(f"/v1/rollouts/{rollout}/cancel", None, Rollout)

    async def publish(self, policy: PolicyPublish, *, within_s: float = 120.0) -> Policy:
        """Tells the engines which weights to hold; returns when they do. Errors: `EngineError` when they cannot."""
        answer = await self.http.post("/v1/policies", policy, Policy)
        deadline = asyncio.get_running_loop().time() + within_s
        pause = 0.01
        while not answer.state.final:
            if asyncio.get_running_loop().time() > deadline:
                raise EngineError(f"{policy.name}@{policy.version} is not held by the engines after {within_s:.0f} s")
            await asyncio.sleep(pause)
            pause = min(pause * 2, 0.5)
            answer = await self.http.get(f"/v1/policies/{policy.name}/{policy.version}", Policy)
        if answer.state is not JobState.SUCCEEDED:
            raise EngineError(f"the engines refused {policy.name}@{policy.version}")
        return answer

    async def engine(self) -> EngineStatus:
        """The engines behind the service."""
        return await self.http.get("/v1/engine", EngineStatus)
