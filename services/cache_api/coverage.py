"""What to record next, and how often each tool was answered, rightly as far as anybody knows.

What is kept of misses is bounded: the most frequent ones of a cache, their long texts cut. False rates come from where calls were
compared with live ones (shadow), else from calibration: the share of hits that its replay says are wrong, weighted by the tiers that
really answered. Where neither was done the rate is null: unknown, not zero.
"""

from collections.abc import Mapping
from typing import Any

from pydantic_core import to_json

from cacherl.api.cache import CoverageTool, ToolStats
from cacherl.tier import Tier
from services.cache_api.view import View

MISSES_KEPT = 10_000
PRUNE_EVERY = 1_000
"""A replica prunes after this many misses of a cache, so this many more are kept for each."""
MAX_TEXT = 500
MAX_ARGUMENTS = 16 << 10
MAX_ITEMS = 100
HITS = (Tier.EXACT, Tier.FUZZY, Tier.BEST_EFFORT)


def shortened(arguments: dict[str, Any]) -> dict[str, Any]:
    """Arguments that take bounded room: long texts and lists are cut with a visible mark."""
    short = _short(arguments)
    size = len(to_json(short))
    return short if size <= MAX_ARGUMENTS else {"…": f"{size} bytes of arguments"}


def _short(value: Any) -> Any:
    match value:
        case str() if len(value) > MAX_TEXT:
            return f"{value[:MAX_TEXT]}… (+{len(value) - MAX_TEXT} characters)"
        case list():
            kept = [_short(inner) for inner in value[:MAX_ITEMS]]
            return kept if len(value) <= MAX_ITEMS else [*kept, f"… (+{len(value) - MAX_ITEMS} items)"]
        case dict():
            return {name[:MAX_TEXT]: _short(inner) for name, inner in value.items()}
        case _:
            return value


def tool_stats(tool: str, outcomes: Mapping[str, int], view: View, compared: tuple[int, int] | None) -> ToolStats:
    """A tool's outcomes as rates. `compared`: (calls that were also made live, those whose live answer differed)."""
    hits = sum(outcomes.get(tier, 0) for tier in HITS)
    misses = outcomes.get(Tier.MISS, 0)
    asked = sum(outcomes.values())
    rate, source = _false_rate(tool, outcomes, view, compared)
    return ToolStats(
        tool=tool,
        outcomes=dict(outcomes),
        hits=hits,
        misses=misses,
        hit_rate=hits / asked if asked else None,
        miss_rate=misses / asked if asked else None,
        false_rate=rate,
        false_rate_from=source,
    )


def _false_rate(tool: str, outcomes: Mapping[str, int], view: View, compared: tuple[int, int] | None) -> tuple[float | None, Any]:
    if compared is not None and compared[0]:
        return compared[1] / compared[0], "shadow"
    found = [(outcomes.get(tier, 0), view.calibrated.get((tool, tier))) for tier in HITS]
    known = [(hits, 1 - item.fidelity) for hits, item in found if hits and item is not None]
    unknown = sum(hits for hits, item in found if hits and item is None)
    if not known or unknown:
        return None, None
    return sum(hits * wrong for hits, wrong in known) / sum(hits for hits, _ in known), "calibration"


def missed_tools(counted: Mapping[str, Mapping[str, int]], different: Mapping[str, int]) -> list[CoverageTool]:
    """Tools that missed, the one that did so most first."""
    found = [
        CoverageTool(
            tool=tool,
            misses=misses,
            lookups=(asked := sum(outcomes.values())),
            miss_rate=misses / asked,
            calls=different.get(tool, 0),
        )
        for tool, outcomes in counted.items()
        if (misses := outcomes.get(Tier.MISS, 0))
    ]
    return sorted(found, key=lambda item: (-item.misses, item.tool))
