"""Putting new weights into a running SGLang worker, so that it never answers as a version that it does not hold.

The worker is paused with its requests retracted (their keys and values are computed again under the new weights; each answer says which
of its tokens came from which version), updated from disk, its checksum is compared, then it goes on. An update that is refused is no
proof that nothing changed (SGLang 0.5.23 rolls back to the new path): the checksum says. If the weights are not what they should be, the
old ones are loaded again before the worker goes on; if that fails too, it stays paused with its requests aborted: a fenced worker. Its
`/health` is never asked: paused, it answers 503. An update also renames `served_model_name` to the path, so nothing goes by that name.
"""

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cacherl.engine import PolicyVersion
from cacherl.errors import CacheRLError, ConflictError, EngineError
from services.rollout.engines.directory import check_digest, check_fit, digest
from services.rollout.engines.transport import Transport

CALL_SECONDS = 60.0
UPDATE_SECONDS = 900.0


@dataclass(frozen=True)
class Held:
    """What a worker says that it holds."""

    policy: PolicyVersion | None
    """None: its weight version is not of the form name@version."""
    path: str
    label: str
    """The weight version as the worker writes it."""


class WeightSync:
    """Weight updates of one worker, one at a time."""

    def __init__(self, http: Transport) -> None:
        self._http = http
        self._lock = asyncio.Lock()
        self._checksum_of: dict[str, str] = {}
        """The checksum that each weight file (by sha256) gave."""
        self._sha256_of: dict[str, str] = {}
        """The weight file that each label was loaded from, as far as this client did it."""

    async def held(self) -> Held:
        """What the worker holds now."""
        model = await self._http.json("GET", "/model_info", seconds=CALL_SECONDS)
        label = str(model.get("weight_version"))
        return Held(parse_label(label), str(model.get("model_path")), label)

    async def load(self, policy: PolicyVersion, directory: Path, sha256: str) -> None:
        """Makes the worker hold `policy`.

        Raises:
            ConflictError: The bytes are not those announced, or this version was other bytes before.
            EngineError: Away; or the weights do not fit or were refused: it then holds what it held, or is fenced (`worker-fenced`).
        """
        await asyncio.to_thread(check_digest, directory, sha256)
        async with self._lock:
            before = await self.held()
            if before.policy == policy:
                known = self._sha256_of.get(before.label)
                if known is not None and known != sha256:
                    raise ConflictError(f"{policy} is held already and was other bytes: a version never changes, publish the next one")
                if known == sha256 or Path(before.path) == directory:
                    return
            await asyncio.to_thread(check_fit, Path(before.path), directory)
            checksum = await self._checksum()
            await self._learn(before, checksum)
            await self._post("/pause_generation", {"mode": "retract"})
            try:
                await self._update(str(directory), str(policy))
                self._agree(sha256, await self._checksum())
            except (CacheRLError, asyncio.CancelledError):
                await self._restore(before, checksum)
                raise
            await self._post("/continue_generation", {})
            self._sha256_of[str(policy)] = sha256

    def _agree(self, sha256: str, after: str) -> None:
        """Compares the checksum with what is known: equal files give equal checksums, unequal files unequal ones."""
        known = self._checksum_of.get(sha256)
        if known is not None and known != after:
            raise EngineError("the worker's checksum is not the one that these weights gave before", slug="checksum-mismatch")
        if known is None and after in self._checksum_of.values():
            raise EngineError("the worker has the weights of another file: the update did nothing", slug="checksum-mismatch")
        self._checksum_of[sha256] = after

    async def _learn(self, before: Held, checksum: str) -> None:
        """Notes which file the present weights are of, so that an update without effect is seen."""
        if before.label not in self._sha256_of:
            self._sha256_of[before.label] = await asyncio.to_thread(digest, Path(before.path))
        self._checksum_of.setdefault(self._sha256_of[before.label], checksum)

    async def _restore(self, before: Held, checksum: str) -> None:
        """After a failed update: back to the old weights, then on; else fenced."""
        try:
            if await self._checksum() != checksum or (await self.held()).label != before.label:
                await self._update(before.path, before.label)
                if await self._checksum() != checksum:
                    raise EngineError("the old weights could not be restored")
            await self._post("/continue_generation", {})
        except CacheRLError as error:
            await self._post("/pause_generation", {"mode": "abort"})
            text = f"the worker at {self._http.url} is fenced: an update failed and {before.label} could not be restored ({error.detail})"
            raise EngineError(f"{text}; it stays paused: restart it", slug="worker-fenced") from error

    async def _update(self, path: str, label: str) -> None:
        body = {"model_path": path, "weight_version": label}
        answer = await self._http.json("POST", "/update_weights_from_disk", body, seconds=UPDATE_SECONDS)
        if not answer.get("success"):
            raise EngineError(f"the worker at {self._http.url} did not take {label}: {answer.get('message')}")

    async def _checksum(self) -> str:
        answer = await self._http.json("POST", "/weights_checker", {"action": "checksum"}, seconds=UPDATE_SECONDS)
        checksum = answer.get("per_engine_checksum") or [rank.get("per_gpu_checksum") for rank in answer.get("ranks") or []]
        if not answer.get("success") or not checksum:
            raise EngineError(f"the worker at {self._http.url} gives no checksum: {answer.get('message')}")
        return str(checksum)

    async def _post(self, path: str, body: dict[str, Any]) -> None:
        await self._http.text("POST", path, body, seconds=CALL_SECONDS)


def parse_label(label: str) -> PolicyVersion | None:
    """`name@version`, or None where it is something else."""
    name, at, version = label.rpartition("@")
    if not at or not version.isdecimal():
        return None
    try:
        return PolicyVersion(name=name, version=int(version))
    except ValueError:
        return None
