"""The client of the embedded engine: one NDJSON stream for a whole batch, so few connections carry many requests."""

from collections.abc import AsyncGenerator, Sequence

import aiohttp
import orjson
from pydantic import ValidationError

from cacherl.engine import Completion, EngineInfo, GenerationRequest, PolicyVersion
from cacherl.errors import EngineError
from services.rollout.engines.transport import Transport, problem_error

CONNECTIONS = 256
CALL_SECONDS = 60.0
LOAD_SECONDS = 300.0
_PROBLEM = b'{"problem"'


class EmbeddedEngine:
    """An engine at `url`. Generation has no time limit of its own: the caller closes the iterator."""

    def __init__(self, url: str) -> None:
        self._http = Transport(url, CONNECTIONS, aiohttp.ClientTimeout(total=None, sock_connect=10))

    async def generate(self, policy: PolicyVersion, requests: Sequence[GenerationRequest]) -> AsyncGenerator[Completion, None]:
        """Yields completions as the engine finishes them. Closing the iterator aborts the rest.

        Raises:
            ConflictError: The engine does not hold `policy`.
            EngineError: Away, or it refused; completions yielded before stay valid.
        """
        if not requests:
            return
        body = orjson.dumps({"policy": policy.model_dump(), "requests": [request.model_dump() for request in requests]})
        missing = {request.id for request in requests}
        async with self._http.stream("POST", "/generate", body) as response:
            rest = b""
            while block := await self._block(response):
                *lines, rest = (rest + block).split(b"\n")
                for line in lines:
                    completion = self._completion(line)
                    missing.discard(completion.id)
                    yield completion
        if missing:
            raise EngineError(f"the engine at {self._http.url} ended its stream {len(missing)} completions early")

    async def load(self, policy: PolicyVersion, path: str, sha256: str) -> None:
        """Loads a policy; returns when the engine holds it and its digest agreed."""
        body = {"name": policy.name, "version": policy.version, "path": path, "sha256": sha256}
        await self._http.json("POST", "/policies", body, seconds=LOAD_SECONDS)

    async def forget(self, episodes: Sequence[str]) -> None:
        """Lets go of the rows of these episodes."""
        await self._http.json("POST", "/forget", {"episodes": list(episodes)}, seconds=CALL_SECONDS)

    async def info(self) -> EngineInfo:
        """What the engine holds."""
        return EngineInfo.model_validate(await self._http.json("GET", "/info", seconds=CALL_SECONDS))

    async def close(self) -> None:
        """Closes the connections."""
        await self._http.close()

    async def _block(self, response: aiohttp.ClientResponse) -> bytes:
        """What came since; empty at the end."""
        async with self._http.boundary("/generate"):
            return await response.content.readany()

    def _completion(self, line: bytes) -> Completion:
        if line.startswith(_PROBLEM):
            raise problem_error(orjson.loads(line)["problem"])
        try:
            return Completion.model_validate_json(line)
        except ValidationError as error:
            raise EngineError(f"the engine at {self._http.url} sent a line that is no completion: {error}") from error
