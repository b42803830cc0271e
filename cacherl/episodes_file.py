"""Files of episodes: `*.episodes.jsonl`, optionally `.zst` (contracts §4).

One episode a line; the tools and tasks that it needs stand before it as lines of their own, once or more often, so files concatenate.
A last line without a line break was cut off while it was written: readers ignore it, a writer that appends removes it. Episodes are told
apart by `id`. A `.zst` file is a sequence of whole frames, one for each `write`; a frame that was cut off is treated like a cut line.
"""

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import orjson
import zstandard
from pydantic import ValidationError

from cacherl.episode import SCHEMA, Episode, task_hash
from cacherl.errors import DataError
from cacherl.files import write_atomically
from cacherl.tool_call import dump_canonical
from cacherl.tool_spec import ToolSpec
from cacherl.trajectory import Task

TOOL_SCHEMA, TASK_SCHEMA = "cacherl.tool/1", "cacherl.task/1"
CHUNK = 1 << 20


def task_lines(task: Task, written: set[str], *, known_hash: str | None = None) -> Iterator[bytes]:
    """The header lines of a task that are not in `written` yet, with their line breaks; adds their hashes to it."""
    number = known_hash or task_hash(task)
    if number in written:
        return
    hashes: list[str] = []
    for tool in task.tools:
        body = tool.model_dump(mode="json", by_alias=True)
        hashes.append(hashlib.sha256(dump_canonical(body)).hexdigest())
        if hashes[-1] not in written:
            written.add(hashes[-1])
            yield dump_canonical({"schema": TOOL_SCHEMA, "hash": hashes[-1], "tool": body}) + b"\n"
    written.add(number)
    yield dump_canonical({"schema": TASK_SCHEMA, "hash": number, "task": task.model_dump(mode="json") | {"tools": hashes}}) + b"\n"


def episode_line(episode: Episode) -> bytes:
    """One line, with its line break."""
    return episode.model_dump_json(by_alias=True).encode() + b"\n"


class EpisodeLines:
    """Reads lines of a file or a stream: `read` gives an episode or None for a header line; `tasks` fills as headers pass."""

    def __init__(self) -> None:
        self.tasks: dict[str, Task] = {}
        """By hash."""
        self._tools: dict[str, ToolSpec] = {}

    def read(self, line: bytes) -> Episode | None:
        """One line. Raises `DataError` for one that is not of this format or does not fit its schema."""
        try:
            body = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            raise DataError(f"not a JSON line: {error}") from error
        schema = body.get("schema") if isinstance(body, dict) else None
        try:
            match schema:
                case "cacherl.episode/1":
                    return Episode.model_validate_json(line)
                case "cacherl.tool/1":
                    self._tools[body["hash"]] = ToolSpec.model_validate(body["tool"])
                case "cacherl.task/1":
                    self._task(body)
                case _:
                    raise DataError(f"a line of schema {schema!r}; an episodes file holds {SCHEMA}, {TASK_SCHEMA} and {TOOL_SCHEMA}")
        except (ValidationError, KeyError, TypeError) as error:
            raise DataError(f"a line of schema {schema} does not fit it: {_reason(error)}") from error
        return None

    def _task(self, body: dict[str, Any]) -> None:
        missing = [number for number in body["task"]["tools"] if number not in self._tools]
        if missing:
            raise DataError(f"the task {body['hash']} needs the tool {missing[0]}, which does not stand before it")
        tools = [self._tools[number] for number in body["task"]["tools"]]
        self.tasks[body["hash"]] = Task.model_validate(body["task"] | {"tools": tools})


def _reason(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors(include_input=False, include_url=False)[0]
        return f"{'/'.join(map(str, first['loc']))}: {first['msg']}"
    return f"{type(error).__name__} {error}"


def read_lines(path: Path) -> Iterator[bytes]:
    """Whole lines without their line breaks; empty ones and a cut last one are left out."""
    rest = b""
    for chunk in _chunks(path):
        *lines, rest = (rest + chunk).split(b"\n")
        yield from (line for line in lines if line)


def read_episodes(path: Path | str) -> tuple[list[Episode], dict[str, Task]]:
    """The episodes of a file, each id once, and its tasks by hash. Raises `DataError` with the number of a line that cannot be read."""
    lines = EpisodeLines()
    episodes: dict[str, Episode] = {}
    for number, line in enumerate(read_lines(Path(path)), 1):
        try:
            episode = lines.read(line)
        except DataError as error:
            raise DataError(f"{path}, line {number}: {error.detail}", line=number) from error
        if episode is not None:
            episodes.setdefault(episode.id, episode)
    return list(episodes.values()), lines.tasks


class EpisodesWriter:
    """Appends to a file, or begins it. What a `write` has returned from is whole on the disk's side of this process."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self._compressed = self.path.suffix == ".zst"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        _repair(self.path)
        self._file = self.path.open("ab")
        self._written: set[str] = set()

    def write(self, episodes: Iterable[Episode], tasks: Iterable[Task] = ()) -> None:
        """Writes episodes, the headers of their tasks first (once for this writer)."""
        headers = (line for task in tasks for line in task_lines(task, self._written))
        data = b"".join([*headers, *map(episode_line, episodes)])
        self._file.write(zstandard.ZstdCompressor(level=3, write_checksum=True).compress(data) if self._compressed else data)
        self._file.flush()

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def _repair(path: Path) -> None:
    """Removes what was cut off while it was written."""
    if not path.exists() or path.stat().st_size == 0:
        return
    if path.suffix == ".zst":
        data = b"".join(_chunks(path))
        whole = data[: data.rfind(b"\n") + 1]
        if len(whole) != len(data) or sum(_frame_lengths(path)) != path.stat().st_size:
            write_atomically(path, zstandard.ZstdCompressor(level=3, write_checksum=True).compress(whole))
        return
    with path.open("rb+") as file:
        file.truncate(_end_of_last_line(file))


def _end_of_last_line(file: Any) -> int:
    """Position after the last line break, 0 where there is none."""
    end = file.seek(0, 2)
    while end > 0:
        start = max(0, end - CHUNK)
        file.seek(start)
        found = file.read(end - start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        end = start
    return 0


def _chunks(path: Path) -> Iterator[bytes]:
    """The file's content, decompressed where its name says so; a frame that was cut off gives what can be read of it."""
    with path.open("rb") as file:
        if path.suffix != ".zst":
            while chunk := file.read(CHUNK):
                yield chunk
            return
        frame = zstandard.ZstdDecompressor().decompressobj()
        while data := file.read(CHUNK):
            while data:
                try:
                    yield frame.decompress(data)
                except zstandard.ZstdError as error:
                    raise DataError(f"{path} is damaged: {error}") from error
                data = frame.unused_data
                if frame.eof:
                    frame = zstandard.ZstdDecompressor().decompressobj()


def _frame_lengths(path: Path) -> Iterator[int]:
    """Compressed bytes of each whole frame."""
    data = path.read_bytes()
    while data:
        frame = zstandard.ZstdDecompressor().decompressobj()
        frame.decompress(data)
        if not frame.eof:
            return
        yield len(data) - len(frame.unused_data)
        data = frame.unused_data
