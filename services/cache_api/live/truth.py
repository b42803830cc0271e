"""Whether a live call would be true: what the session holds of what the call's result depends on."""

from cacherl.state import State, seen
from cacherl.tier import MissReason
from services.cache_api.ask import Ask
from services.cache_api.live.position import Position


def not_true(one: Ask, state: State, position: Position) -> MissReason | None:
    """Why a live answer would not be this call's: a change in its scope is unknown, or was not made in this session. None: it would be."""
    found = seen(state, one.stated, one.spec)
    if found is None:
        return MissReason.UNKNOWN
    return None if all(position.live >> number & 1 for number in found) else MissReason.NOT_TRUE


REASONS = {
    MissReason.BUDGET: "it was not recorded, and the run has made as many live calls as it may",
    MissReason.NOT_TRUE: "it was not recorded, and a live tool would not know an earlier change that was answered from a recording",
    MissReason.UNKNOWN: "an earlier change has no recorded result, so what this call would see is not known",
}
"""In words that a policy may read."""
