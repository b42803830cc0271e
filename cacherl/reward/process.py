"""The process terms: what an episode did on the way, deterministic and blind to how well the cache could answer (method §5).

`paper` is the stated recipe; where it is silent, a share over no calls is 0. `robust` counts *faults* against what was needed and never
takes a share over the calls made, since a share is diluted by more calls: with n reference calls (1 where there is no reference) a term
over faults is n / (n + faults). So no useless call raises any of its terms, and an episode without calls has no fault but no match either.

| `robust` term | weight | value |
|---|---|---|
| `match` | 0.40 | share of the reference calls made in order; left out where the task has no reference calls |
| `valid_calls` | 0.20 | over the calls that are malformed, name an unknown tool, or that the tool's schema refuses |
| `economy` | 0.15 | over the larger of: repeats beyond the reference's own (or beyond one), calls beyond the reference's number |
| `answer_present` | 0.15 | 1 where the episode ends in a non-empty answer |
| `thinking` | 0.10 | 1 where the first turn reasons in the policy's own words and no turn leaves a think tag in its text |

No term reads tier, fidelity, result or state of a call: none rises with a worse tier.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence

from cacherl.episode import Episode
from cacherl.errors import InputError
from cacherl.reward.answers import THINK_TAG
from cacherl.reward.matching import Key, Match
from cacherl.tier import CallOutcome, Preset
from cacherl.tool_spec import ToolSpec
from cacherl.trajectory import Message, Role, Task

PAPER_WEIGHTS: Mapping[str, float] = {
    "valid_names": 0.40,
    "answer_present": 0.25,
    "thinking": 0.15,
    "diversity": 0.10,
    "valid_arguments": 0.10,
}
ROBUST_WEIGHTS: Mapping[str, float] = {"match": 0.40, "valid_calls": 0.20, "economy": 0.15, "answer_present": 0.15, "thinking": 0.10}
WEIGHTS: Mapping[Preset, Mapping[str, float]] = {"paper": PAPER_WEIGHTS, "robust": ROBUST_WEIGHTS}


def weights_of(preset: Preset, given: Mapping[str, float]) -> Mapping[str, float]:
    """The configured weights, or the preset's. Raises InputError for an unknown term, a negative weight, or no weight at all."""
    if not given:
        return WEIGHTS[preset]
    unknown = sorted(set(given) - set(WEIGHTS[preset]))
    if unknown:
        raise InputError(f"`{preset}` has no process term {', '.join(unknown)}; it has {', '.join(WEIGHTS[preset])}.")
    if min(given.values()) < 0 or not sum(given.values()) > 0:
        raise InputError("Weights of process terms are not negative, and one is positive.")
    return given


def weigh(terms: Mapping[str, float], weights: Mapping[str, float]) -> tuple[dict[str, float], float]:
    """(the weights in force, R_process): weights of the terms that have a meaning here, scaled to sum to 1; ({}, 0) where none has."""
    meant = {name: weight for name, weight in weights.items() if name in terms and weight > 0}
    if not meant:
        return {}, 0.0
    whole = math.fsum(meant.values())
    r_process = math.fsum(weight * terms[name] for name, weight in meant.items()) / whole
    return {name: weight / whole for name, weight in meant.items()}, min(1.0, r_process)


def terms(episode: Episode, task: Task, preset: Preset, made: Sequence[Key], wanted: Sequence[Key], found: Match) -> dict[str, float]:
    """Every process term that has a meaning for this task, each in [0, 1].

    `made` and `wanted` are the keys of the calls made and of the reference's, `found` their match.
    """
    return _paper_terms(episode, task) if preset == "paper" else _robust_terms(episode, task, made, wanted, found)


def _paper_terms(episode: Episode, task: Task) -> dict[str, float]:
    specs = {tool.name: tool for tool in task.tools}
    names = [call.call.name for call in episode.calls if call.call is not None and call.call.name in specs]
    return {
        "valid_names": _share(len(names), len(episode.calls)),
        "answer_present": float(_answered(episode)),
        "thinking": float(any(_thought(turn) for turn in turns(episode, task))),
        "diversity": _share(len(set(names)), len(episode.calls)),
        "valid_arguments": _share(len(episode.calls) - invalid_calls(episode, specs), len(episode.calls)),
    }


def _robust_terms(episode: Episode, task: Task, made: Sequence[Key], wanted: Sequence[Key], found: Match) -> dict[str, float]:
    needed = max(1, found.wanted)
    own = turns(episode, task)
    values = {
        "valid_calls": needed / (needed + invalid_calls(episode, {tool.name: tool for tool in task.tools})),
        "economy": needed / (needed + wasted_calls(made, wanted)),
        "answer_present": float(_answered(episode)),
        "thinking": float(bool(own) and _thought(own[0]) and not any(THINK_TAG.search(turn.content or "") for turn in own)),
    }
    return values if found.recall is None else {"match": found.recall, **values}


def turns(episode: Episode, task: Task) -> list[Message]:
    """The policy's own messages: those of the assistant after the task's. Injected tags are no text of theirs (method §4.5)."""
    return [message for message in episode.messages[len(task.messages) :] if message.role is Role.ASSISTANT]


def _thought(turn: Message) -> bool:
    """Whether a turn holds reasoning in words; a block that holds nothing (one that was pre-closed) is none."""
    return any(character.isalnum() for character in THINK_TAG.sub("", turn.reasoning_content or ""))


def _answered(episode: Episode) -> bool:
    return bool(THINK_TAG.sub("", episode.answer or "").strip())


def invalid_calls(episode: Episode, specs: Mapping[str, ToolSpec]) -> int:
    """How many calls are malformed, name a tool that the task lacks, or are refused by the tool's schema."""
    count = 0
    for made in episode.calls:
        spec = specs.get(made.call.name) if made.call is not None else None
        own_fault = made.outcome in (CallOutcome.MALFORMED, CallOutcome.UNKNOWN_TOOL)
        count += own_fault or made.call is None or spec is None or bool(spec.refusals(made.call.arguments))
    return count


def wasted_calls(made: Sequence[Key], wanted: Sequence[Key]) -> int:
    """The larger of two counts: repeats beyond the reference's own (or beyond one), and calls beyond the reference's number.

    Never falls when a call is added.
    """
    allowed = Counter(wanted)
    repeats = sum(max(0, count - max(1, allowed[key])) for key, count in Counter(made).items() if key is not None)
    return max(repeats, len(made) - len(wanted)) if wanted else repeats


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0
