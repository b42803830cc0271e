"""What a judge is: it rates final answers against references, 0 to 5, or abstains. It sees no call, no tier and no goal."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from cacherl.episode import Episode
from cacherl.score import JudgeVotes
from cacherl.trajectory import Fact, Role, Task


@dataclass(frozen=True, slots=True)
class Question:
    """One answer to rate."""

    asked: str
    """What the user said, all of it."""
    reference: str | None
    facts: tuple[Fact, ...]
    answer: str


class Judge(Protocol):
    """A judge of the configuration. Raises JudgeError where it is away: that is no verdict on anything."""

    name: str

    async def rate(self, questions: Sequence[Question], votes: int, tenant: str) -> list[JudgeVotes]:
        """One JudgeVotes for each question, in order; without any vote where it abstains."""
        ...

    async def close(self) -> None:
        """Closes connections."""
        ...


def question(episode: Episode, task: Task) -> Question:
    """What a judge is shown of an episode."""
    assert task.reference is not None, "a judge is asked only where there is a reference"
    asked = "\n\n".join(message.content or "" for message in task.messages if message.role is Role.USER)
    return Question(asked, task.reference.answer, tuple(task.reference.facts or ()), episode.answer or "")
