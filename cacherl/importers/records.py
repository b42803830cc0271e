"""Records of a log file, one at a time: NDJSON, a JSON array, or JSON documents one after another; plain, `.gz` or `.zst`.

NDJSON is read line by line and never held whole. A line that is not JSON is a record with a problem, so counts stay true; an array that
breaks in the middle cannot be read on and raises. NaN and Infinity are no JSON; integers of any length keep every digit.
"""

import gzip
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import pydantic_core
import zstandard

from cacherl.errors import DataError

__all__ = ["Record", "parse_json", "records"]


@dataclass(frozen=True)
class Record:
    """One record: its value, or why it has none."""

    line: int
    """Where it begins, from 1."""
    value: Any = None
    problem: DataError | None = None


def parse_json(text: bytes | str) -> Any:
    """A JSON value, strictly; raises ValueError."""
    return pydantic_core.from_json(text, allow_inf_nan=False)


def records(path: Path) -> Iterator[Record]:
    """Every record of the file, in order. Raises `DataError` for a file that cannot be read."""
    try:
        with _opened(path) as file:
            line, first = _first_line(file)
            if first is None:
                return
            if _is_json(first):
                yield from _lines(first, file, line)
                return
            whole = first + file.read()
            if first.lstrip()[:1] == b"[" or _begins_with_json(whole):
                yield from _documents(whole, line)
            else:
                yield from _lines(first, io.BytesIO(whole[len(first) :]), line)
    except (OSError, EOFError, zstandard.ZstdError) as error:
        raise DataError(f"{path}: {error}") from None


def _opened(path: Path) -> IO[bytes]:
    if path.suffix == ".gz":
        return io.BufferedReader(gzip.open(path, "rb"))
    if path.suffix == ".zst":
        return io.BufferedReader(zstandard.open(path, "rb"))
    return path.open("rb")


def _first_line(file: IO[bytes]) -> tuple[int, bytes | None]:
    for number, line in enumerate(file, start=1):
        text = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
        if text.strip():
            return number, text
    return 0, None


def _is_json(line: bytes) -> bool:
    """Whether a line is a record of its own; an array never is: its elements are the records."""
    try:
        return not isinstance(parse_json(line), list)
    except ValueError:
        return False


def _begins_with_json(raw: bytes) -> bool:
    """Whether a document that is spread over several lines comes first."""
    try:
        _DECODER.raw_decode(raw.decode("utf-8").lstrip())
    except (ValueError, RecursionError):
        return False
    return True


def _lines(first: bytes, rest: IO[bytes], number: int) -> Iterator[Record]:
    yield _line(first, number)
    for line in rest:
        number += 1
        if line.strip():
            yield _line(line, number)


def _line(line: bytes, number: int) -> Record:
    try:
        return Record(number, parse_json(line))
    except ValueError as error:
        return Record(number, problem=DataError(f"line {number} is not JSON: {error}", line=number, slug="not-json"))


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)


def _documents(raw: bytes, line: int) -> Iterator[Record]:
    """The elements of an array, or documents that follow one another."""
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        number = line + raw[: error.start].count(b"\n")
        raise DataError(f"line {number} is not UTF-8", line=number, slug="not-json") from None
    array = text.lstrip()[:1] == "["
    at = _skip(text, text.index("[") + 1 if array else 0)
    counted = 0
    while at < len(text) and not (array and text[at] == "]"):
        line, counted = line + text.count("\n", counted, at), at
        try:
            value, end = _DECODER.raw_decode(text, at)
        except (ValueError, RecursionError) as error:
            where = line + text.count("\n", counted, error.pos) if isinstance(error, json.JSONDecodeError) else line
            raise DataError(f"line {where} is not JSON: {error}", line=where, slug="not-json") from None
        yield Record(line, value)
        at = _skip(text, end)
        if array and text[at : at + 1] == ",":
            at = _skip(text, at + 1)
        elif array and text[at : at + 1] != "]":
            where = line + text.count("\n", counted, at)
            raise DataError(f"line {where}: the array ends early or lacks a comma", line=where, slug="not-json")


def _skip(text: str, at: int) -> int:
    while at < len(text) and text[at] in " \t\r\n":
        at += 1
    return at
