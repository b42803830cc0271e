"""What the four clients share: one transport, opened and closed with them."""

from collections.abc import Mapping
from types import TracebackType
from typing import Self

from cacherl.client.transport import Transport


class ServiceClient:
    """A client of one service. Use it as an async context manager, or call `close`."""

    def __init__(self, url: str, key: str, *, timeout: float = 60.0, headers: Mapping[str, str] | None = None) -> None:
        self.http = Transport(url, key, timeout=timeout, headers=headers)

    async def close(self) -> None:
        """Closes the connections."""
        await self.http.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()
