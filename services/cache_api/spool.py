"""Rows of an ingestion on their way to the database: computed ahead in a file, so the lock under which a batch commits is short.

A spool holds lines; small ones stay in memory. A block is up to `BLOCK` entries as columns, the form in which they are inserted.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from tempfile import SpooledTemporaryFile
from types import TracebackType
from typing import Any, Self

from pydantic_core import from_json, to_json

from services.cache_api.event import Link
from services.cache_api.keying import EntryRow, Keyed, KeyRow

MEMORY = 8 << 20
BLOCK = 500
Columns = dict[str, list[Any]]


class Spool:
    """A file of lines: written once, read as often as needed, gone when closed."""

    def __init__(self, folder: Path | None) -> None:
        self._file = SpooledTemporaryFile(max_size=MEMORY, dir=str(folder) if folder is not None else None)  # noqa: SIM115 - closed by __exit__
        self.lines = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._file.close()

    def write(self, line: bytes) -> None:
        """Adds a line; it holds no line end (JSON has none)."""
        self._file.write(line + b"\n")
        self.lines += 1

    def read(self) -> Iterator[bytes]:
        """Every line from the start."""
        self._file.seek(0)
        yield from self._file
        self._file.seek(0, 2)

    def clear(self) -> None:
        """Empties it."""
        self._file.seek(0)
        self._file.truncate()
        self.lines = 0


@dataclass(slots=True)
class Block:
    """Entries, their keys and their histories, column by column."""

    entries: Columns
    keys: Columns
    links: Columns

    def __len__(self) -> int:
        return len(self.entries["id"])

    def dump(self) -> bytes:
        """As a line."""
        return to_json([self.entries, self.keys, self.links])

    @classmethod
    def load(cls, line: bytes) -> "Block":
        """From a line."""
        return cls(*from_json(line))


BYTES = ("key", "identity", "scoped_state", "result_digest", "content_hash", "history")


def block(rows: list[Keyed]) -> Block:
    """Rows as columns. Bytes are hexadecimal, so that they pass through JSON, here and on their way into the database."""
    links = {row.id: row for keyed in rows for row in keyed.links}
    return Block(
        _columns([row.entry for row in rows], EntryRow, BYTES),
        key_columns([row.key for row in rows]),
        link_columns(links.values()),
    )


def key_columns(rows: list[KeyRow]) -> Columns:
    """Key rows as columns."""
    return _columns(rows, KeyRow, BYTES, without=("text",))


def link_columns(links: Iterable[Link]) -> Columns:
    """Histories as columns."""
    found = list(links)
    return {
        "id": [row.id.hex() for row in found],
        "parent": [row.parent.hex() if row.parent is not None else None for row in found],
        "tool": [row.name for row in found],
        "arguments": [to_json(row.arguments).decode() for row in found],
        "outcome": [row.outcome.value for row in found],
        "is_error": [row.is_error for row in found],
        "transient": [row.transient for row in found],
        "mentions": [to_json(row.mentions).decode() for row in found],
    }


def _columns(rows: list[Any], kind: type, hexadecimal: tuple[str, ...], without: tuple[str, ...] = ()) -> Columns:
    return {
        column.name: [_hex(getattr(row, column.name)) if column.name in hexadecimal else getattr(row, column.name) for row in rows]
        for column in fields(kind)
        if column.name not in without
    }


def _hex(value: bytes | None) -> str | None:
    return value.hex() if value is not None else None
