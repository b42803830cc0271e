"""`cacherl rollout verify`: every invariant of every episode of a file (method §4, contracts §7)."""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from pydantic import Field

from cacherl.episode import Episode, Violation, task_hash, violations
from cacherl.episodes_file import EpisodeLines, read_lines
from cacherl.errors import DataError, UsageError
from cacherl.wire import Wire


class VerifyReport(Wire):
    """How many episodes a file holds, and every broken invariant."""

    schema_: Literal["cacherl.verify/1"] = Field(default="cacherl.verify/1", alias="schema")
    episodes: int
    violations: list[Violation]

    model_config = {**Wire.model_config, "populate_by_name": True, "serialize_by_alias": True}


def verify_file(path: Path | str) -> VerifyReport:
    """Checks a file; a line that cannot be read is a violation too. Raises `UsageError` where there is no such file."""
    if not Path(path).is_file():
        raise UsageError(f"there is no file {path}")
    lines = EpisodeLines()
    seen: dict[str, str] = {}
    found: list[Violation] = []
    for number, line in enumerate(read_lines(Path(path)), 1):
        try:
            episode = lines.read(line)
        except DataError as error:
            found.append(Violation(episode="", invariant="readable", index=number, detail=error.detail))
            continue
        if episode is None:
            continue
        if episode.id not in seen:
            found += violations(episode)
            found += [Violation(episode=episode.id, invariant=i, index=n, detail=d) for i, n, d in _more(episode)]
            seen[episode.id] = episode.content_hash()
        elif seen[episode.id] != episode.content_hash():
            found.append(Violation(episode=episode.id, invariant="one-content-per-id", detail=f"line {number} differs from an earlier one"))
    for claimed, task in lines.tasks.items():
        if task_hash(task) != claimed:
            found.append(Violation(episode="", invariant="task-hash", detail=f"the task {task.id} does not have the hash {claimed}"))
    return VerifyReport(episodes=len(seen), violations=found)


def _more(episode: Episode) -> Iterator[tuple[str, int | None, str]]:
    """What a file must hold besides the episode's own invariants."""
    if not episode.hash:
        yield "hash", None, "the episode has no hash"
    if any(number < 0 for number in episode.ids):
        yield "ids-not-negative", None, f"{min(episode.ids)}"
    for number, turn in enumerate(episode.turns):
        starts = [span.start for span in turn.versions]
        if starts != sorted(set(starts)) or any(not 0 <= start < turn.end - turn.start for start in starts):
            yield "versions-ordered", number, f"{starts} in a turn of {turn.end - turn.start} ids"
