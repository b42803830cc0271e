"""What a running job tells: its stage, how far it is, metrics, and whether it should stop.

The functions that train know this seam and nothing of databases: `Silent` lets them run anywhere. Metrics go to `metrics.ndjson` in the
job's directory, one record a step, appended and flushed; a line that a dying process left unfinished is cut off by the next attempt.
"""

from collections.abc import Callable, Mapping
from enum import StrEnum
from pathlib import Path

import orjson

from cacherl.wire import Json


class Stop(StrEnum):
    """Why a job is asked to stop."""

    CHECKPOINT = "checkpoint"
    """The machine goes away: save and leave, another worker goes on."""
    CANCEL = "cancel"
    """Nobody wants the result any more."""


class StoppedError(Exception):
    """A job stopped where it was asked to, having saved what it can go on from."""

    def __init__(self, why: Stop) -> None:
        super().__init__(why.value)
        self.why = why


class Silent:
    """Tells nobody and is never asked to stop."""

    def stage(self, text: str) -> None:
        """What the job does now, in a few words."""

    def advance(self, done: float, total: float | None, unit: str) -> None:
        """How far it is."""

    def metric(self, record: Mapping[str, Json]) -> None:
        """One record of measurements."""

    def stopping(self) -> Stop | None:
        """Whether the job should stop, and why. Cheap: asked at every step."""
        return None

    def check(self) -> None:
        """Raises StoppedError where the job should stop: for work that has nothing to save."""
        why = self.stopping()
        if why is not None:
            raise StoppedError(why)


class Reporter(Silent):
    """Tells through callables: the child process gives it the database and the signals."""

    def __init__(
        self,
        metrics: Path,
        *,
        tell: Callable[[str, Mapping[str, Json]], None],
        asked: Callable[[], Stop | None],
    ) -> None:
        self._tell = tell
        self._asked = asked
        metrics.parent.mkdir(parents=True, exist_ok=True)
        cut_unfinished(metrics)
        self._metrics = metrics.open("ab")

    def stage(self, text: str) -> None:
        """What the job does now."""
        self._tell("stage", {"stage": text})

    def advance(self, done: float, total: float | None, unit: str) -> None:
        """How far it is."""
        self._tell("progress", {"done": done, "total": total, "unit": unit})

    def metric(self, record: Mapping[str, Json]) -> None:
        """Appends a record and tells it."""
        self._metrics.write(orjson.dumps(dict(record)) + b"\n")
        self._metrics.flush()
        self._tell("metric", record)

    def stopping(self) -> Stop | None:
        """What the signals say."""
        return self._asked()

    def close(self) -> None:
        """Closes the file."""
        self._metrics.close()


def cut_unfinished(path: Path) -> None:
    """Cuts off a last line that has no newline: its writer died."""
    if not path.exists():
        return
    with path.open("rb+") as stream:
        content = stream.read()
        stream.truncate(content.rfind(b"\n") + 1)
