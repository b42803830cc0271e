"""How a job's process ended: what it leaves for its worker, in a file beside its exit code.

The process writes what it made; the worker, who holds the lease, moves the row. A process that died without a word is one that crashed.
"""

from enum import IntEnum
from pathlib import Path

from pydantic import ValidationError

from cacherl.api.common import Document, Problem
from cacherl.files import write_atomically
from cacherl.jobs import JobState
from cacherl.wire import Wire


class Exit(IntEnum):
    """Exit codes of a job's process."""

    DONE = 0
    FAILED = 1
    SAVED = 75
    """It was asked to save and leave."""
    AWAY = 76
    """Something that it needs is away."""
    CANCELLED = 77
    LOST = 78
    """The job has another owner: nothing was written."""


STATE_OF = {
    Exit.DONE: JobState.SUCCEEDED,
    Exit.FAILED: JobState.FAILED,
    Exit.SAVED: JobState.QUEUED,
    Exit.AWAY: JobState.WAITING,
    Exit.CANCELLED: JobState.CANCELLED,
}


class Outcome(Wire):
    """What an attempt made, or why it did not."""

    attempt: int
    result: Document = {}
    reason: Problem | None = None


def leave(directory: Path, outcome: Outcome) -> None:
    """Writes the outcome of an attempt."""
    write_atomically(directory / "outcome.json", outcome.model_dump_json().encode())


def find(directory: Path, attempt: int) -> Outcome | None:
    """The outcome of that attempt, None where it left none."""
    try:
        found = Outcome.model_validate_json((directory / "outcome.json").read_bytes())
    except (OSError, ValidationError):
        return None
    return found if found.attempt == attempt else None
