"""Trust ρ and blame β: how far an episode's observations can be believed, and whose fault the lost trust is (method §5).

ρ is the *least* fidelity over the calls; a product would let one doubtful call in four erase three answers in four. β is the least
fidelity among the *clean reference calls*: those that match the reference and have no off-reference call before them that mutated or
missed. So a right call that the recordings lack takes the blame away, and an off-reference call never does.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from cacherl.episode import Episode, EpisodeCall
from cacherl.reward.matching import Match
from cacherl.tier import CallOutcome, Tier


@dataclass(frozen=True, slots=True)
class Blame:
    """β with the call that decides it."""

    value: float
    reason: str


def fidelity(call: EpisodeCall) -> float | None:
    """The fidelity that counts for a call; None where the call is the policy's own fault and says nothing of the cache.

    A miss has 0. `exact` has what calibration says, and 1 where it says nothing unless scenario or state disagree. Below `exact` an
    unknown fidelity counts as 0.
    """
    match call.outcome:
        case CallOutcome.UNKNOWN_TOOL | CallOutcome.MALFORMED:
            return None
        case CallOutcome.MISS:
            return 0.0
        case CallOutcome.EXACT if call.fidelity is None:
            agrees = call.agreement is None or (call.agreement.scenario and call.agreement.state)
            return 1.0 if agrees else 0.0
        case _:
            return min(1.0, max(0.0, call.fidelity or 0.0))


def trust(calls: Sequence[EpisodeCall]) -> tuple[float, int | None]:
    """(ρ, index of the call that decides it). 1 and None without a call that reached the cache."""
    known = [(value, index) for index, call in enumerate(calls) if (value := fidelity(call)) is not None]
    return min(known) if known else (1.0, None)


def worst_tier(calls: Sequence[EpisodeCall]) -> Tier | None:
    """The worst tier of the calls; None where none reached the cache."""
    tiers = [tier for call in calls if (tier := call.outcome.tier) is not None]
    return max(tiers, key=lambda tier: tier.rank) if tiers else None


def blame(episode: Episode, found: Match) -> Blame:
    """β: the least fidelity among the clean reference calls, 1 where there is none or the task has no reference."""
    if not found.wanted:
        return Blame(1.0, "no_reference_calls")
    calls = episode.calls
    clean = clean_calls(calls, found)
    known = [(value, index) for index in clean if (value := fidelity(calls[index])) is not None]
    if not known:
        return Blame(1.0, "no_clean_reference_call")
    value, index = min(known)
    return Blame(value, f"call {index} ({calls[index].outcome})" if value < 1.0 else "clean_reference_calls_trusted")


def clean_calls(calls: Sequence[EpisodeCall], found: Match) -> list[int]:
    """Indices of the matched calls before the first off-reference call that mutated or missed."""
    matched, clean = found.calls, []
    for index, call in enumerate(calls):
        if index in matched:
            clean.append(index)
        elif call.outcome is CallOutcome.MISS or _mutated(call):
            break
    return clean


def _mutated(call: EpisodeCall) -> bool:
    """Whether a call changed the state: a mutating one that was answered without error (method §3.3)."""
    return call.mutating and call.outcome.tier is not None and not call.result.is_error
