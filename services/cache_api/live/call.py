"""One live call, and how it can fail."""

from dataclasses import dataclass
from typing import Any

from cacherl.errors import LiveToolError


@dataclass(frozen=True, slots=True)
class LiveCall:
    """A call as it goes to a live server."""

    session: str
    scenario: str
    name: str
    arguments: dict[str, Any]
    """As they came: secrets included."""
    moved: bool
    """Whether the episode changed something in this session before, so that a new session would not do."""


class LostCallsError(LiveToolError):
    """A batch without an answer, whose calls may have been made."""
