"""From episode, task and verdict to a `Score` (method §5).

`robust`: R = w·ρ·R_answer + (1 − w)·R_process. `paper`: R = α·R_answer + (1 − α)·R_process with α by the worst tier. A task without
reference answer and facts has no answer term: R = R_process, and the reason says so.
"""

from dataclasses import dataclass
from typing import cast, get_args

from cacherl.engine import FinishReason
from cacherl.episode import Episode, EpisodeStatus, StopReason, violations
from cacherl.errors import InputError
from cacherl.reward import matching
from cacherl.reward.answers import Clamp, clamps, has_reference
from cacherl.reward.process import terms, weigh, weights_of
from cacherl.reward.trust import Blame, blame, trust, worst_tier
from cacherl.score import JudgeVotes, RewardConfig, Score, ScoreStatus
from cacherl.tier import Preset, Tier
from cacherl.trajectory import Task

HASH = "hash"
"""The invariant that an episode's hash is that of its content."""
NO_CALL = "none"
"""The key of `RewardConfig.alpha` for an episode in which no call reached the cache."""
PRESETS: tuple[Preset, ...] = get_args(Preset)


@dataclass(frozen=True, slots=True)
class AnswerValue:
    """R_answer, or why there is none."""

    value: float | None
    abstained: bool = False
    clamps: tuple[Clamp, ...] = ()


def checked(config: RewardConfig) -> RewardConfig:
    """The configuration, if it can be followed. Raises InputError for terms or α keys that do not exist, and α outside [0, 1]."""
    weights_of(config.preset, config.process_weights)
    wanted = {tier.value for tier in Tier} | {NO_CALL}
    if set(config.alpha) != wanted:
        raise InputError(f"`alpha` names exactly {', '.join(sorted(wanted))}.")
    if not all(0 <= value <= 1 for value in config.alpha.values()):
        raise InputError("Each `alpha` lies in [0, 1].")
    return config


def unscorable(episode: Episode) -> str | None:
    """Why an episode may not be scored, None if it may: a failure of the infrastructure is never a reward (method §4.8)."""
    if episode.stop_reason in (StopReason.CANCELLED, StopReason.INFRASTRUCTURE):
        return str(episode.stop_reason)
    if episode.status is not EpisodeStatus.OK:
        return str(episode.status)
    if episode.stop_reason is StopReason.TIMEOUT and episode.error is not None:
        return "timeout_of_a_service"
    if any(turn.finish_reason is FinishReason.ABORT for turn in episode.turns):
        return "aborted_turn"
    return None


def answer_value(episode: Episode, task: Task, verdict: JudgeVotes | None) -> AnswerValue:
    """R_answer in [0, 1]: the mean rating / 5, or 0 by a clamp. No verdict (None, or no vote) is an abstention, never a 0."""
    if not has_reference(task):
        return AnswerValue(None)
    found = tuple(clamps(episode.answer))
    if found:
        return AnswerValue(0.0, clamps=found)
    if verdict is None or not verdict.votes:
        return AnswerValue(None, abstained=True)
    if not all(0 <= vote <= 5 for vote in verdict.votes):
        raise InputError("A rating lies between 0 and 5.")
    return AnswerValue(sum(verdict.votes) / (5 * len(verdict.votes)))


def answer_weight(config: RewardConfig, trust_: float, worst: Tier | None, has_answer: bool) -> float:
    """The weight that R_answer gets in the total: `robust` w·ρ, `paper` α by the worst tier, 0 without an answer term."""
    if not has_answer:
        return 0.0
    return config.alpha[worst or NO_CALL] if config.preset == "paper" else config.answer_weight * trust_


def process_weight(config: RewardConfig, alpha: float, has_answer: bool) -> float:
    """The weight of R_process in the total: `robust` 1 − w, `paper` 1 − α, 1 without an answer term."""
    if not has_answer:
        return 1.0
    return 1.0 - (alpha if config.preset == "paper" else config.answer_weight)


def score(episode: Episode, task: Task | None, verdict: JudgeVotes | None, config: RewardConfig) -> Score:
    """The score of one episode; `unscorable` where its task is missing, an invariant is broken or its hash is not that of its content.

    `verdict` is what a judge said; it is asked for only where `needs_verdict`. Pure. Raises InputError for a configuration that fails
    `checked`.
    """
    if (why := unscorable(episode)) is not None:
        return no_score(episode, why)
    if (broken := broken_invariant(episode)) is not None:
        return no_score(episode, f"broken:{broken}")
    if task is None:
        return no_score(episode, "task_missing")
    return score_sound(episode, task, verdict, config)


def broken_invariant(episode: Episode) -> str | None:
    """The first broken invariant of an episode, None for a sound one; one without a hash is broken too."""
    found = violations(episode)
    return found[0].invariant if found else None if episode.hash else HASH


def no_score(episode: Episode, why: str) -> Score:
    """The score of an episode that may not be scored."""
    return Score(episode_id=episode.id, episode_hash=episode.hash, status=ScoreStatus.UNSCORABLE, reasons=[why])


def score_sound(episode: Episode, task: Task, verdict: JudgeVotes | None, config: RewardConfig) -> Score:
    """`score` for a caller that knows that the episode is sound and `task` its task."""
    if (why := unscorable(episode)) is not None:
        return no_score(episode, why)
    reference = task.reference.calls if task.reference is not None else []
    made = matching.keys(matching.reached(episode), task.tools)
    wanted = matching.keys(reference, task.tools)
    found = matching.match(made, wanted)
    values = terms(episode, task, config.preset, made, wanted, found)
    weights, r_process = weigh(values, weights_of(config.preset, config.process_weights))
    worst = worst_tier(episode.calls)
    rho, doubtful, guilt = 1.0, None, Blame(1.0, "")
    if config.preset == "robust":
        (rho, doubtful), guilt = trust(episode.calls), blame(episode, found)
    answer = answer_value(episode, task, verdict)
    alpha = answer_weight(config, rho, worst, answer.value is not None or answer.abstained)
    beside = process_weight(config, alpha, answer.value is not None)
    return Score(
        episode_id=episode.id,
        episode_hash=episode.hash,
        status=ScoreStatus.ABSTAINED if answer.abstained else ScoreStatus.SCORED,
        total=None if answer.abstained else alpha * (answer.value or 0.0) + beside * r_process,
        r_answer=answer.value,
        r_process=r_process,
        alpha=alpha,
        trust=rho,
        blame=guilt.value,
        blame_reason=guilt.reason,
        worst_tier=worst,
        terms=values,
        weights=weights,
        clamps=[str(clamp) for clamp in answer.clamps],
        reasons=_reasons(episode, task, answer, doubtful, weights),
        judge=verdict,
    )


def _reasons(episode: Episode, task: Task, answer: AnswerValue, doubtful: int | None, weights: dict[str, float]) -> list[str]:
    reasons = []
    if not has_reference(task):
        reasons.append("no_reference_answer")
    if answer.abstained:
        reasons.append("judge_abstained")
    if Clamp.NO_ANSWER in answer.clamps:
        reasons.append(f"stopped_by:{episode.stop_reason}")
    if doubtful is not None and episode.calls[doubtful].outcome.tier is not Tier.EXACT:
        reasons.append(f"least_trusted:call {doubtful} ({episode.calls[doubtful].outcome})")
    if not weights:
        reasons.append("no_process_term")
    return reasons


def preset_config(preset: str) -> RewardConfig:
    """The configuration that a preset names. Raises InputError for another name."""
    if preset not in PRESETS:
        raise InputError(f"The presets are {', '.join(PRESETS)}.")
    return RewardConfig(preset=cast(Preset, preset))


def agreement(verdict: JudgeVotes) -> float | None:
    """How far the votes of one verdict agree: 1 − (largest − least rating) / 5. None with fewer than two votes."""
    if len(verdict.votes) < 2:
        return None
    return 1.0 - (max(verdict.votes) - min(verdict.votes)) / 5
