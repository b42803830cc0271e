"""Datasets: uploaded in parts, imported once, kept as normalised records.

<shared root>/datasets/<id>/parts/000000 what was uploaded, until it is imported <shared root>/datasets/<id>/records.jsonl one Trajectory,
Task or episodes-file line each

Every file appears by an atomic rename, so a part is there whole or not at all, and uploading it again changes nothing. A line that cannot
be read is counted and reported with its number; it never stops the others, and a dataset of which nothing could be read is `failed`.
"""

import hashlib
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import orjson
from pydantic import ValidationError

from cacherl.api.trainer import Dataset, DatasetCreate, DatasetKind
from cacherl.episode import Episode
from cacherl.errors import ConflictError, DataError, InputError, NotFoundError, UsageError
from cacherl.files import write_atomically
from cacherl.importers import FORMATS, import_file
from cacherl.trajectory import Task, Trajectory
from cacherl.wire import Wire
from services.kit.identifiers import new_id
from services.kit.postgres import SyncRows
from services.trainer.jobs import queries

MAX_PROBLEMS = 100
Record = Trajectory | Task | Episode
Row = dict[str, Any]


@dataclass
class Tally:
    """How the records of an upload fared; `records = imported + repaired + refused`."""

    format: str
    records: int = 0
    imported: int = 0
    repaired: int = 0
    refused: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    problems: list[dict[str, Any]] = field(default_factory=list)
    sha256: str = ""

    def refuse(self, line: int, slug: str, detail: str) -> None:
        """Counts one refused line; the first hundred are kept with their number."""
        self.refused += 1
        self.reasons[slug] += 1
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append({"line": line, "detail": detail})


class DatasetFiles:
    """The files of datasets below one folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def records(self, dataset: str) -> Path:
        """Where the records of a dataset lie."""
        return self.root / dataset / "records.jsonl"

    def put_part(self, dataset: str, number: int, content: bytes) -> None:
        """Keeps one part, whole or not at all; the same number again replaces it."""
        write_atomically(self._parts(dataset) / f"{number:06d}", content)

    def import_parts(self, dataset: str, kind: DatasetKind, format: str) -> Tally:
        """Reads the uploaded parts in the order of their numbers as one file and writes the records; the parts are removed.

        InputError `part-missing` where the numbers leave a gap. What cannot be recognised at all gives a tally without records.
        """
        parts = sorted(self._parts(dataset).iterdir()) if self._parts(dataset).is_dir() else []
        if [part.name for part in parts] != [f"{number:06d}" for number in range(len(parts))]:
            raise InputError("The parts are numbered 0, 1, 2, … without a gap.", slug="part-missing")
        upload = self.root / dataset / "upload"
        with upload.open("wb") as whole:
            for part in parts:
                with part.open("rb") as piece:
                    shutil.copyfileobj(piece, whole)
        try:
            return _read(upload, kind, format, self.records(dataset))
        finally:
            upload.unlink()

    def forget_parts(self, dataset: str) -> None:
        """Removes the uploaded parts: the records are what is kept."""
        shutil.rmtree(self._parts(dataset), ignore_errors=True)

    def lines(self, dataset: str) -> Iterator[bytes]:
        """The records as lines, newline included."""
        with self.records(dataset).open("rb") as stream:
            yield from stream

    def write(self, dataset: str, records: Iterable[Wire]) -> tuple[int, str]:
        """Writes records that a job made; their number and the file's sha256."""
        with _sink(self.records(dataset)) as sink:
            for record in records:
                sink.write(record)
        return sink.count, sink.sha256

    def _parts(self, dataset: str) -> Path:
        return self.root / dataset / "parts"


class _Sink:
    """Writes records as lines and hashes them."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream, self._hash, self.count = stream, hashlib.sha256(), 0

    def write(self, record: Wire) -> None:
        """One line."""
        self.line(record.model_dump_json(by_alias=True).encode())

    def line(self, content: bytes) -> None:
        """One line as it is."""
        self._stream.write(content + b"\n")
        self._hash.update(content + b"\n")
        self.count += 1

    @property
    def sha256(self) -> str:
        """Of all lines so far."""
        return self._hash.hexdigest()


@contextmanager
def _sink(path: Path) -> Iterator[_Sink]:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    try:
        with partial.open("wb") as stream:
            yield _Sink(stream)
            stream.flush()
            os.fsync(stream.fileno())
        partial.rename(path)
    finally:
        partial.unlink(missing_ok=True)


def _read(upload: Path, kind: DatasetKind, format: str, target: Path) -> Tally:
    with _sink(target) as sink:
        tally = _trajectories(upload, format, sink) if kind == "trajectories" else _validated(upload, kind, sink)
    tally.sha256 = sink.sha256
    return tally


def _trajectories(upload: Path, format: str, sink: _Sink) -> Tally:
    try:
        found = import_file(upload, format)
        for trajectory in found:
            sink.write(trajectory)
    except DataError as error:
        told = error.detail.replace(str(upload), "the upload")
        return Tally(format, reasons=Counter({error.problem_slug: 1}), problems=[{"line": error.line, "detail": told}])
    counts = found.counts
    problems = [{"line": e.line, "detail": e.detail.replace(str(upload), "the upload")} for e in found.problems]
    return Tally(found.format, counts.records, counts.imported, counts.repaired, counts.refused, counts.reasons, problems)


def _validated(upload: Path, kind: DatasetKind, sink: _Sink) -> Tally:
    tally = Tally("cacherl")
    check = _check_task if kind == "tasks" else _check_episode_line
    with upload.open("rb") as stream:
        for number, line in enumerate(stream, start=1):
            if not line.strip():
                continue
            tally.records += 1
            try:
                sink.line(check(line))
                tally.imported += 1
            except (ValidationError, orjson.JSONDecodeError) as error:
                tally.refuse(number, f"not-a-{'task' if kind == 'tasks' else 'record'}", f"line {number}: {_told(error)}")
    return tally


def _check_task(line: bytes) -> bytes:
    return Task.model_validate_json(line).model_dump_json(by_alias=True).encode()


def _check_episode_line(line: bytes) -> bytes:
    """An episode, or one of the task and tool lines that stand before it in an episodes file."""
    value = orjson.loads(line)
    if isinstance(value, dict) and value.get("schema") in ("cacherl.tool/1", "cacherl.task/1"):
        return orjson.dumps(value)
    return Episode.model_validate(value).model_dump_json(by_alias=True).encode()


def _told(error: ValidationError | orjson.JSONDecodeError) -> str:
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{'/'.join(map(str, first['loc'])) or 'the line'}: {first['msg']} ({error.error_count()} in all)"
    return f"not JSON: {error.msg}"


# -- rows ---------------------------------------------------------------------------------------------------------------------------------


def create(connection: SyncRows, request: DatasetCreate) -> Dataset:
    """A new, open dataset. UsageError for a format that does not exist."""
    if request.kind == "trajectories" and request.format != "auto" and request.format not in FORMATS:
        raise UsageError(f"no format {request.format!r}; there are {', '.join(FORMATS)} and auto", slug="unknown-format")
    row = {"id": new_id("dst"), "name": request.name, "kind": request.kind, "format": request.format, "job": None}
    return dataset_of(_one(connection.execute(queries.add_dataset, row).fetchone()))


def find(connection: SyncRows, dataset: str) -> Dataset:
    """By id, or the newest of a name. NotFoundError `no-such-dataset`."""
    row = connection.execute(queries.dataset, {"dataset": dataset}).fetchone()
    if row is None:
        raise NotFoundError(f"there is no dataset {dataset}", slug="no-such-dataset")
    return dataset_of(row)


def find_ready(connection: SyncRows, dataset: str, kind: DatasetKind) -> Dataset:
    """A dataset that can be read. ConflictError `dataset-not-ready` or `dataset-of-another-kind`."""
    found = find(connection, dataset)
    if found.state != "ready":
        raise ConflictError(f"the dataset {dataset} is {found.state}", slug="dataset-not-ready")
    if found.kind != kind:
        raise ConflictError(f"the dataset {dataset} holds {found.kind}, not {kind}", slug="dataset-of-another-kind")
    return found


def lock_open(connection: SyncRows, dataset: str) -> Dataset:
    """A dataset whose row nobody else may change until the transaction ends. NotFoundError `no-such-dataset`."""
    row = connection.execute(queries.lock_dataset, {"id": dataset}).fetchone()
    if row is None:
        raise NotFoundError(f"there is no dataset {dataset}", slug="no-such-dataset")
    return dataset_of(row)


def complete(connection: SyncRows, files: DatasetFiles, dataset: str) -> Dataset:
    """Imports what was uploaded. Again, it answers as it did: the row is locked meanwhile, and a dataset is imported once."""
    found = lock_open(connection, dataset)
    if found.state != "open":
        return found
    tally = files.import_parts(dataset, found.kind, found.format)
    return finish(connection, dataset, tally)


def finish(connection: SyncRows, dataset: str, tally: Tally) -> Dataset:
    """Writes what importing counted; `failed` where nothing could be read."""
    usable = tally.imported + tally.repaired > 0
    counts = {name: getattr(tally, name) for name in ("format", "records", "imported", "repaired", "refused")}
    row = {
        "id": dataset,
        "state": "ready" if usable else "failed",
        "sha256": tally.sha256 if usable else None,
        "reasons": orjson.dumps(dict(tally.reasons)).decode(),
        "problems": orjson.dumps(tally.problems).decode(),
        **counts,
    }
    return dataset_of(_one(connection.execute(queries.finish_dataset, row).fetchone()))


def made(connection: SyncRows, dataset: str, name: str, kind: DatasetKind, job: str, records: int, sha256: str) -> Dataset:
    """The row of a dataset that a job wrote."""
    connection.execute(queries.add_dataset, {"id": dataset, "name": name, "kind": kind, "format": "cacherl", "job": job})
    return finish(connection, dataset, Tally("cacherl", records=records, imported=records, sha256=sha256))


def reader(kind: DatasetKind) -> Callable[[bytes], Any]:
    """What makes a record of a line."""
    model: type[Wire] = Task if kind == "tasks" else Trajectory
    return model.model_validate_json


def dataset_of(row: Row) -> Dataset:
    """The API's form of a row."""
    return Dataset.model_validate({name: row[name] for name in Dataset.model_fields})


def _one(row: Row | None) -> Row:
    assert row is not None, "the statement returns its row"
    return row
