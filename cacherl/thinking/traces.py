"""Traces that teachers wrote, by content hash: asked once, paid once."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import orjson

__all__ = ["FileTraces", "MemoryTraces", "Traces"]


class Traces(Protocol):
    """Where accepted traces are kept. An empty text is a trace too: the turn that stays without one is not asked again."""

    async def get(self, keys: Sequence[str]) -> dict[str, str]:
        """The traces that are there."""
        ...

    async def put(self, traces: Mapping[str, str]) -> None:
        """Keeps traces."""
        ...


class MemoryTraces:
    """For one process."""

    def __init__(self) -> None:
        self.traces: dict[str, str] = {}

    async def get(self, keys: Sequence[str]) -> dict[str, str]:
        """The traces that are there."""
        return {key: self.traces[key] for key in keys if key in self.traces}

    async def put(self, traces: Mapping[str, str]) -> None:
        """Keeps traces."""
        self.traces.update(traces)


class FileTraces(MemoryTraces):
    """In a file of `[key, text]` lines that is only appended to; a last line that was cut off is ignored. One writer at a time."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path
        whole = path.read_bytes() if path.exists() else b""
        kept = whole[: whole.rfind(b"\n") + 1]
        if len(kept) < len(whole):
            with path.open("r+b") as file:
                file.truncate(len(kept))
        self.traces.update(orjson.loads(line) for line in kept.splitlines())

    async def put(self, traces: Mapping[str, str]) -> None:
        """Appends traces and keeps them."""
        await super().put(traces)
        with self._path.open("ab") as file:
            file.write(b"".join(orjson.dumps(item) + b"\n" for item in traces.items()))
