"""The episodes of one GRPO step: which tasks, what the reward service says of them, which groups are trained on.

Tasks of a step are a pure function of seed and step, so a resumed run goes on with the tasks that would have come. Groups without an
advantage teach nothing: they are counted and replaced by over-sampled ones, never trained on. A failed or unscored episode has no
advantage: it is no row of the loss and has left its group's mean already.
"""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from cacherl.api.reward import AdvantageAnswer
from cacherl.episode import Episode, masks, violations
from cacherl.score import Score, ScoreStatus
from cacherl.trajectory import Task
from cacherl.wire import Json
from services.trainer.advantage_trainer import Sample

LOW_TRUST = 0.1
ZERO = 1e-12


def tasks_of_step(tasks: Sequence[Task], step: int, count: int, seed: int) -> list[Task]:
    """The tasks of a step: all of them once an epoch, in an order that seed and epoch decide."""
    first, chosen = step * count, []
    for position in range(first, first + count):
        epoch, at = divmod(position, len(tasks))
        order = list(range(len(tasks)))
        random.Random(f"{seed}.{epoch}").shuffle(order)
        chosen.append(tasks[order[at]])
    return chosen


@dataclass(frozen=True)
class Group:
    """One task's episodes with their scores and advantages."""

    episodes: list[Episode]
    scores: list[Score]
    advantages: list[float | None]

    @property
    def teaches(self) -> bool:
        """Whether any advantage is not zero, roundings apart."""
        return any(abs(advantage) > ZERO for advantage in self.advantages if advantage is not None)


@dataclass(frozen=True)
class Collected:
    """One step's groups, and the samples that are trained on."""

    groups: list[Group]
    samples: list[Sample]
    broken: int
    """Episodes that violate an invariant: never trained on."""
    alarms: list[str] = field(default_factory=list)
    diagnostics: dict[str, Any] = field(default_factory=dict)

    def record(self) -> dict[str, Json]:
        """What the step's episodes were, for the metrics."""
        episodes = [e for group in self.groups for e in group.episodes]
        scored = [s for group in self.groups for s in group.scores if s.status is ScoreStatus.SCORED]
        return {
            "groups": len(self.groups),
            "zero_groups": sum(not group.teaches for group in self.groups),
            "episodes": len(episodes),
            "failed": sum(not e.scorable for e in episodes),
            "unscored": len(episodes) - len(scored),
            "broken": self.broken,
            "trained": sum(s.advantage is not None and any(s.mask) for s in self.samples),
            "reward": _mean([s.total for s in scored]),
            "r_answer": _mean([s.r_answer for s in scored]),
            "r_process": _mean([s.r_process for s in scored]),
            "trust": _mean([s.trust for s in scored]),
            "blame": _mean([s.blame for s in scored]),
            "low_trust": _mean([float(s.trust < LOW_TRUST) for s in scored]),
            "outcomes": dict(Counter(str(call.outcome) for e in episodes for call in e.calls)),
            "stop_reasons": dict(Counter(str(e.stop_reason) for e in episodes)),
            "tokens_sampled": sum(turn.end - turn.start for e in episodes for turn in e.turns),
            "tokens_trained": sum(sum(s.mask) for s in self.samples if s.advantage is not None),
            "alarms": list(self.alarms),
            "diagnostics": {key: value for key, value in self.diagnostics.items() if value is not None},
        }


def collected(episodes: Sequence[Episode], scores: Sequence[Score], answer: AdvantageAnswer, *, wanted: int, group_size: int) -> Collected:
    """Episodes, scores and advantages by group, as samples of `wanted` groups: those that teach first, in the order of their tasks."""
    members: dict[int, list[tuple[Episode, Score]]] = {}
    for episode, score in zip(episodes, scores, strict=True):
        members.setdefault(episode.group, []).append((episode, score))
    groups = [
        Group([e for e, _ in pairs], [s for _, s in pairs], list(found.advantages))
        for (_, pairs), found in zip(sorted(members.items()), answer.groups, strict=True)
    ]
    broken = {e.id for group in groups for e in group.episodes if e.scorable and violations(e)}
    chosen = sorted(groups, key=lambda group: not group.teaches)[:wanted]
    samples: list[Sample] = []
    for group in chosen:
        triples = zip(group.episodes, group.scores, group.advantages, strict=True)
        rows = [_sample(e, s, a, group.teaches and e.id not in broken) for e, s, a in triples]
        samples += rows + [_NOTHING] * (group_size - len(rows))
    samples += [_NOTHING] * (wanted * group_size - len(samples))
    return Collected(groups, samples, len(broken), answer.alarms, answer.diagnostics)


_NOTHING = Sample([0], [0], [0], [0.0], None, None)
"""Fills a group up: no row of the loss."""


def _sample(episode: Episode, score: Score, advantage: float | None, trained: bool) -> Sample:
    if not trained or advantage is None or not episode.turns:
        return Sample(episode.ids[: episode.prompt_length] or [0], [0], [0], [0.0], None, score.total)
    mask_T, logprobs_T = masks(episode)
    start = episode.prompt_length
    return Sample(episode.ids[:start], episode.ids[start:], mask_T[start:], logprobs_T[start:], advantage, score.total)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None
