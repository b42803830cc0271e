"""The SDK: async clients of the four services, and `blocking` for code without an event loop. The services use it themselves."""

from collections.abc import Mapping
from types import TracebackType
from typing import Self

from cacherl.client.cache import CacheClient, RemoteToolCache
from cacherl.client.reward import RewardClient
from cacherl.client.rollout import RolloutClient
from cacherl.client.trainer import TrainerClient
from cacherl.wire import Wire

__all__ = ["CacheClient", "Client", "Endpoints", "RemoteToolCache", "RewardClient", "RolloutClient", "TrainerClient"]


class Endpoints(Wire):
    """Where the four services are."""

    cache_api: str = "http://127.0.0.1:8001"
    rollout: str = "http://127.0.0.1:8002"
    reward: str = "http://127.0.0.1:8003"
    trainer: str = "http://127.0.0.1:8004"


class Client:
    """All four services under one key: `async with Client(endpoints, key) as client: await client.cache.get("…")`."""

    def __init__(self, endpoints: Endpoints, key: str, *, headers: Mapping[str, str] | None = None) -> None:
        self.cache = CacheClient(endpoints.cache_api, key, headers=headers)
        self.rollout = RolloutClient(endpoints.rollout, key, headers=headers)
        self.reward = RewardClient(endpoints.reward, key, headers=headers)
        self.trainer = TrainerClient(endpoints.trainer, key, headers=headers)

    async def close(self) -> None:
        """Closes all connections."""
        for client in (self.cache, self.rollout, self.reward, self.trainer):
            await client.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()
