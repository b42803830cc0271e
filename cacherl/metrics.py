"""What an evaluation reports of an episode's calls beside success (method §7): diagnostics, on the match that the reward uses too."""

from cacherl.episode import Episode
from cacherl.reward import matching
from cacherl.reward.matching import Match
from cacherl.trajectory import Task


def call_match(episode: Episode, task: Task) -> Match:
    """The episode's calls aligned with the task's reference calls; every call made counts, also one that never reached the cache."""
    reference = task.reference.calls if task.reference is not None else []
    return matching.match(matching.keys(matching.reached(episode), task.tools), matching.keys(reference, task.tools))


def process_accuracy(episode: Episode, task: Task) -> float | None:
    """Share of the reference calls that were made, in order; None where the task has no reference calls."""
    return call_match(episode, task).recall


def call_f1(episode: Episode, task: Task) -> float | None:
    """In-order F1 of the calls made against the reference calls; None where the task has no reference calls."""
    return call_match(episode, task).f1
