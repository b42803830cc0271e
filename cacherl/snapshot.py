"""The snapshot of a cache: one file with all that answers lookups at one revision (zstd-compressed NDJSON, `cacherl.snapshot/1`).

    {"head": {"schema", "cache": {…}, "view": {…}}}       first: name, revision, settings, embedder; annotations, calibration
    {"tool": …} {"recorded_tool": …}                      tools as the view reads them, and every schema that was recorded
    {"link": …} {"entry": …}                              histories, each after its parent, and recordings, each after its history
    {"end": {"parts": {kind: {"lines", "sha256"}}}}       last: what the file holds, with a hash over the lines of each kind

Written and read as a stream in bounded memory. A reader gives out lines as they come and says at the end whether all of them are what was
written: until `finish` returned, nothing of a file may become visible. A file that is cut off, altered, or says other than its end is
refused by `DataError` `broken-snapshot`, which names the line.
"""

import hashlib
from collections.abc import Iterator
from typing import Any, Literal

import orjson
import zstandard
from pydantic import Field, ValidationError
from pydantic_core import from_json

from cacherl.api.cache import CacheSettings
from cacherl.errors import DataError
from cacherl.tier import CallOutcome
from cacherl.tool_spec import ToolSpec
from cacherl.wire import Json, Time, Wire

SCHEMA = "cacherl.snapshot/1"
SLUG = "broken-snapshot"  # of whoever finds more wrong with a file than its reader does
SLICE = 1024
"""Compressed bytes that are unpacked at once: even a hostile file gives no more than some megabytes for them."""
MAX_WINDOW = 1 << 27
MAX_INT = (1 << 31) - 1
LINK = r"^[0-9a-f]{32}$"

Kind = Literal["head", "tool", "recorded_tool", "link", "entry", "end"]


class SnapshotCache(Wire):
    """What the cache is."""

    name: str
    revision: int = Field(ge=0)
    settings: CacheSettings
    embedder: str | None
    dimension: int


class SnapshotHead(Wire):
    """The first line."""

    schema_: Literal["cacherl.snapshot/1"] = Field(default=SCHEMA, alias="schema")
    key_version: int
    cache: SnapshotCache
    view: dict[str, Json]
    """The view's own fields: what was given, learned and calibrated."""


class SnapshotTool(Wire):
    """A tool as the view reads it."""

    spec: ToolSpec
    schema_hash: str | None
    since: int = Field(ge=0)


class SnapshotRecordedTool(Wire):
    """A schema of a tool as it was recorded."""

    spec: ToolSpec
    schema_hash: str
    revision: int = Field(ge=0)


class SnapshotLink(Wire):
    """A call in a history."""

    id: str = Field(pattern=LINK)
    parent: str | None = Field(pattern=LINK)
    tool: str = Field(min_length=1, max_length=256)
    arguments: dict[str, Json]
    outcome: CallOutcome
    is_error: bool
    transient: bool
    mentions: list[str] = Field(max_length=64)


class SnapshotEntry(Wire):
    """A recording."""

    id: str = Field(pattern=r"^ent_[0-9a-z]{26}$")
    tool: str = Field(min_length=1, max_length=256)
    arguments: dict[str, Json]
    result: Json
    is_error: bool
    scenario: str
    source: str
    step: int = Field(ge=0, le=MAX_INT)
    task: str | None
    history: str | None = Field(pattern=LINK)
    schema_hash: str | None
    recorded_at: Time | None
    revision: int = Field(ge=1)


class Part(Wire):
    """What a file holds of one kind."""

    lines: int
    sha256: str


class SnapshotEnd(Wire):
    """The last line."""

    parts: dict[str, Part]

    @property
    def sha256(self) -> str:
        """One hash for the whole content."""
        return hashlib.sha256(orjson.dumps(self.model_dump(mode="json"), option=orjson.OPT_SORT_KEYS)).hexdigest()


KINDS: dict[str, type[Wire]] = {
    "head": SnapshotHead,
    "tool": SnapshotTool,
    "recorded_tool": SnapshotRecordedTool,
    "link": SnapshotLink,
    "entry": SnapshotEntry,
    "end": SnapshotEnd,
}


class _Sums:
    """Lines and hashes by kind."""

    def __init__(self) -> None:
        self._hashes: dict[str, Any] = {}
        self.lines: dict[str, int] = {}

    def add(self, kind: str, line: bytes) -> None:
        self._hashes.setdefault(kind, hashlib.sha256()).update(line + b"\n")
        self.lines[kind] = self.lines.get(kind, 0) + 1

    def end(self) -> SnapshotEnd:
        found = {kind: Part(lines=self.lines[kind], sha256=made.hexdigest()) for kind, made in sorted(self._hashes.items())}
        return SnapshotEnd(parts=found)


class SnapshotWriter:
    """Writes one file; every method gives the bytes that are ready."""

    def __init__(self) -> None:
        self._packer = zstandard.ZstdCompressor(level=3, write_checksum=True).compressobj()
        self._sums = _Sums()

    def add(self, kind: Kind, value: Any) -> bytes:
        """A line; `value` may hold `orjson.Fragment`s."""
        line = orjson.dumps({kind: value}, option=orjson.OPT_UTC_Z)
        self._sums.add(kind, line)
        return self._packer.compress(line + b"\n")

    def end(self) -> bytes:
        """The last line and the end of the file."""
        line = orjson.dumps({"end": self._sums.end().model_dump(mode="json")})
        return self._packer.compress(line + b"\n") + self._packer.flush()


class SnapshotReader:
    """Reads one file as it comes: `feed` gives (kind, value) pairs, `finish` says whether the file is whole and true.

    `most` bounds the unpacked bytes, `longest` those of a line.
    """

    def __init__(self, *, most: int, longest: int) -> None:
        self._unpacker = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW).decompressobj()
        self._most, self._longest = most, longest
        self._rest = bytearray()
        self._sums = _Sums()
        self.line = 0
        self.head: SnapshotHead | None = None
        self._end: SnapshotEnd | None = None

    def feed(self, chunk: bytes) -> Iterator[tuple[str, Wire]]:
        """The lines that a chunk completes. Errors: DataError `broken-snapshot`."""
        for start in range(0, len(chunk), SLICE):
            if self._unpacker.eof:
                raise self._broken("there is something after the end of the file")
            try:
                data = self._unpacker.decompress(chunk[start : start + SLICE])
            except zstandard.ZstdError:
                raise self._broken("the file is not a snapshot, or it was altered") from None
            if self._unpacker.unused_data:
                raise self._broken("there is something after the end of the file")
            self._most -= len(data)
            if self._most < 0:
                raise self._broken("the file unpacks to more than this service takes")
            yield from self._lines(data)

    def _lines(self, data: bytes) -> Iterator[tuple[str, Wire]]:
        *whole, last = data.split(b"\n")
        for part in whole:
            line = bytes(self._rest) + part
            self._rest.clear()
            yield self._parsed(line)
        self._rest += last
        if len(self._rest) > self._longest:
            raise self._broken("a line is longer than the limit")

    def _parsed(self, line: bytes) -> tuple[str, Wire]:
        self.line += 1
        if self._end is not None:
            raise self._broken("there is something after the end of the file")
        try:
            value = from_json(line, allow_inf_nan=False)
        except ValueError:
            raise self._broken("the line is not JSON") from None
        kind = next(iter(value)) if isinstance(value, dict) and len(value) == 1 else None
        if kind not in KINDS or (kind == "head") != (self.line == 1):
            raise self._broken("the line is of no kind that may stand here")
        try:
            found = KINDS[kind].model_validate(value[kind])
        except ValidationError as error:
            fault = error.errors(include_url=False, include_context=False, include_input=False)[0]
            where = "".join(f"/{step}" for step in (kind, *fault["loc"]))
            raise self._broken(f"{where}: {fault['msg']}", pointer=where) from None
        if isinstance(found, SnapshotHead):
            self.head = found
        if isinstance(found, SnapshotEnd):
            self._end = found
        else:
            self._sums.add(kind, line)
        return kind, found

    def finish(self) -> SnapshotEnd:
        """The end of a file that is whole and true. Errors: DataError `broken-snapshot`."""
        if self._end is None or self._rest or not self._unpacker.eof:
            raise self._broken("the file is cut off")
        found = self._sums.end()
        for kind in sorted(found.parts.keys() | self._end.parts.keys()):
            if found.parts.get(kind) != self._end.parts.get(kind):
                raise self._broken(f"the lines of the kind {kind!r} are not those that were written", pointer=f"/end/parts/{kind}")
        return found

    def _broken(self, reason: str, pointer: str | None = None) -> DataError:
        return DataError(
            f"The snapshot cannot be read: line {self.line}: {reason}.", line=self.line, pointer=pointer, slug="broken-snapshot"
        )
