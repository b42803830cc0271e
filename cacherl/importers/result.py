"""What an import gives: an iterator of trajectories, and counts that add up at every moment.

`records = imported + repaired + refused`, exactly. `reasons` counts the records in which each repair or refusal happened, by slug.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol

from cacherl.errors import DataError
from cacherl.importers.records import Record
from cacherl.importers.scenario import Scenario
from cacherl.trajectory import Trajectory

__all__ = ["Counts", "ImportResult", "Importer"]

MAX_PROBLEMS = 100


class Importer(Protocol):
    """Reads one log format. To add one: a file here with this shape, and its place in `recognise.IMPORTERS`."""

    name: ClassVar[str]
    notes: list[str]
    """What it took from beside the file or assumed, for `why`."""

    def __init__(self, path: Path, scenario: str | None) -> None: ...

    @staticmethod
    def recognise(record: dict[str, Any]) -> str | None:
        """Why a record is in this format, or None."""
        ...

    def trajectory(self, record: dict[str, Any], line: int, repairs: list[str]) -> Trajectory:
        """The trajectory of a record; adds the slug of each repair; raises `DataError` with a slug for what it refuses."""
        ...


@dataclass
class Counts:
    """How the records of a file fared."""

    records: int = 0
    imported: int = 0
    """Taken as they were."""
    repaired: int = 0
    """Taken after a repair whose meaning is certain."""
    refused: int = 0
    reasons: Counter[str] = field(default_factory=Counter)


class ImportResult:
    """Iterate once; `counts` and `problems` grow on the way."""

    def __init__(self, path: Path, importer: Importer, why: str, records: Iterable[Record], scenario: Scenario | None = None) -> None:
        notes = [*importer.notes, scenario.note] if scenario is not None else importer.notes
        self.path, self.format, self.why = path, importer.name, "; ".join([why, *notes])
        self._scenario = scenario
        self.counts = Counts()
        self.problems: list[DataError] = []
        """The first 100 refusals, each naming its line."""
        self._importer, self._records = importer, records
        self._ids: set[str] = set()

    def __iter__(self) -> Iterator[Trajectory]:
        for record in self._records:
            taken = self._take(record)
            if taken is not None:
                yield taken

    def _take(self, record: Record) -> Trajectory | None:
        self.counts.records += 1
        repairs: list[str] = []
        try:
            trajectory = self._distinct(self._read(record, repairs), record.line, repairs)
        except DataError as error:
            self.counts.refused += 1
            self.counts.reasons[error.problem_slug] += 1
            if len(self.problems) < MAX_PROBLEMS:
                self.problems.append(_at_line(error, record.line))
            return None
        if repairs:
            self.counts.repaired += 1
            self.counts.reasons.update(set(repairs))
        else:
            self.counts.imported += 1
        return trajectory

    def _read(self, record: Record, repairs: list[str]) -> Trajectory:
        if record.problem is not None:
            raise record.problem
        if not isinstance(record.value, dict):
            raise DataError("a record is not an object", slug="not-a-record")
        scenario = self._scenario.of(record.value) if self._scenario is not None else None
        trajectory = self._importer.trajectory(record.value, record.line, repairs)
        return trajectory if scenario is None else trajectory.model_copy(update={"scenario": scenario})

    def _distinct(self, trajectory: Trajectory, line: int, repairs: list[str]) -> Trajectory:
        """Ids are unique in a file: the recordings of two trajectories must never be taken for one's."""
        if trajectory.id in self._ids:
            repairs.append("repeated-id")
            trajectory = trajectory.model_copy(update={"id": f"{trajectory.id}#{line}"})
        self._ids.add(trajectory.id)
        return trajectory


def _at_line(error: DataError, line: int) -> DataError:
    if error.line is not None:
        return error
    return DataError(f"line {line}: {error.detail}", line=line, pointer=error.pointer, slug=error.problem_slug)
