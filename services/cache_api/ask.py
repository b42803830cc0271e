"""One call as it is asked: its key under a view, and what decides which tiers may answer it."""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any

from pydantic_core import to_json

from cacherl.api.cache import LookupCall, LookupItem, ToolCalibration
from cacherl.errors import DataError
from cacherl.state import State, scoped
from cacherl.tier import Tier
from cacherl.tool_call import ToolCall, canonical_arguments
from cacherl.tool_spec import ToolSpec
from services.cache_api.argument import identity
from services.cache_api.lookup_key import lookup_key
from services.cache_api.redact import Redactor
from services.cache_api.tiers.candidate import Candidate, Match
from services.cache_api.view import View, ViewTool

MAX_REASONS = 3
MAX_REASON = 200


@dataclass
class Ask:
    """A call under way to its answer."""

    call: LookupCall
    item: LookupItem
    excluded: str
    """JSON list of the sources that must not answer."""
    arguments: dict[str, Any]
    """Without secrets."""
    tool: ViewTool | None
    canonical: dict[str, Any] = field(default_factory=dict)
    key: bytes = b""
    scoped_state: bytes | None = None
    not_before: datetime | None = None
    """Recordings older than this are past the tool's ttl."""
    faults: list[tuple[str, str]] = field(default_factory=list)
    """What the schema refuses: (pointer, reason)."""
    malformed: str | None = None
    fuzzy: ToolCalibration | None = None
    """What calibration found of this tool's fuzzy tier, where it was earned."""
    best_effort: ToolCalibration | None = None
    exact: ToolCalibration | None = None
    match: Match | None = None
    tier: Tier = Tier.MISS
    chosen: Candidate | None = None
    explanation: dict[str, Any] | None = None
    live: bool = False
    """Whether a live tool answered it."""

    @property
    def spec(self) -> ToolSpec | None:
        """The tool's spec in the view."""
        return self.tool.spec if self.tool is not None else None

    @property
    def moves(self) -> bool:
        """Whether it may change the state; of an unknown tool nobody knows, so yes."""
        return self.tool is None or self.tool.moves

    @cached_property
    def identity(self) -> bytes:
        """Equal for calls that differ in free text alone; what is near must share it."""
        return identity(self.call.name, self.canonical, self.spec)

    @property
    def schema_hash(self) -> str | None:
        """Of the tool's schema in the view."""
        return self.tool.schema_hash if self.tool is not None else None

    @cached_property
    def stated(self) -> ToolCall:
        """The call as the state sees it."""
        return ToolCall.model_construct(id=None, name=self.call.name, arguments=self.arguments)

    @property
    def settled(self) -> bool:
        """Whether nothing more is to be looked for."""
        return self.match is not None or self.malformed is not None or self.tool is None

    def settle(self, tier: Tier, match: Match | None) -> None:
        """Takes an answer where there is one."""
        if match is not None:
            self.tier, self.match = tier, match

    def reason(self) -> str:
        """Why there is no answer, in words that a policy may read."""
        if self.malformed is not None:
            return f"the arguments cannot be read: {self.malformed}"
        if self.tool is None:
            return "this tool was never recorded"
        if self.faults:
            faults = "; ".join(f"{pointer or '/'}: {text[:MAX_REASON]}" for pointer, text in self.faults[:MAX_REASONS])
            return f"the arguments do not fit the tool's schema ({faults})"
        if self.scoped_state is None:
            return "an earlier change has no recorded result, so what this call would see is not known"
        return "this call was not recorded in this situation"


def ask(
    call: LookupCall, item: LookupItem, excluded: str, state: State, view: View, revision: int, as_of: datetime, redactor: Redactor
) -> Ask:
    """A call with its keys under a view; `malformed` where its arguments have no canonical form."""
    tool = view.tool(call.name, revision)
    spec = tool.spec if tool is not None else None
    made = Ask(call, item, excluded, redactor.call(call.arguments, spec), tool)
    try:
        made.canonical = canonical_arguments(made.arguments, spec)
        made.key = lookup_key(call.name, made.canonical, spec)
    except DataError as error:
        made.malformed = error.detail
        return made
    if tool is None:
        return made
    made.scoped_state = scoped(state, made.stated, spec, made.canonical)
    made.faults = tool.spec.refusals(made.arguments)
    if tool.spec.annotations.ttl_s is not None:
        made.not_before = _before(as_of, tool.spec.annotations.ttl_s)
    if view.calibrated:
        made.exact = view.calibrated.get((call.name, Tier.EXACT))
        made.fuzzy = _earned(view.calibrated.get((call.name, Tier.FUZZY)))
        made.best_effort = _earned(view.calibrated.get((call.name, Tier.BEST_EFFORT)))
    return made


def excluded_json(item: LookupItem) -> str:
    """The leak guard of an item, as the statements take it."""
    return to_json(sorted(set(item.exclude_sources))).decode() if item.exclude_sources else "[]"


def _before(as_of: datetime, seconds: int) -> datetime | None:
    """That long before; None where the calendar has no such day, and so nothing older."""
    try:
        return as_of - timedelta(seconds=seconds)
    except OverflowError:
        return None


def _earned(found: ToolCalibration | None) -> ToolCalibration | None:
    return found if found is not None and found.earned else None
