"""A request into scores: whose episodes, which task, what the judge says, and then the pure `cacherl.reward.score`.

Whoever is trained on the answer must be able to trust it: an episode whose hash is not that of its content is refused, as is one whose
task is missing; the answer names every episode and the configuration by hash. An episode with a broken invariant is unscorable.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cacherl.api.reward import ScoreAnswer, ScoreRequest
from cacherl.episode import Episode, task_hash
from cacherl.errors import InputError
from cacherl.reward import broken_invariant, checked, needs_verdict, no_score, score_sound, unscorable
from cacherl.reward.scoring import HASH
from cacherl.score import JudgeVotes, RewardConfig, Score
from cacherl.trajectory import Task
from services.kit.auth import Caller
from services.reward.episodes import fetch
from services.reward.judge import question
from services.reward.judges.registry import Judges
from services.reward.settings import RewardSettings


@dataclass(frozen=True, slots=True)
class Item:
    """One episode with its task, and the first of its invariants that is broken."""

    episode: Episode
    task: Task
    broken: str | None

    @property
    def why_not(self) -> str | None:
        """Why it may not be scored."""
        return unscorable(self.episode) or (f"broken:{self.broken}" if self.broken else None)


class Scorer:
    """Scores requests with the judges of this service."""

    def __init__(self, settings: RewardSettings, judges: Judges) -> None:
        self._settings = settings
        self._judges = judges

    async def score(self, request: ScoreRequest, caller: Caller, token: str) -> ScoreAnswer:
        """One score per episode, in order: those given whole, then those given by id.

        Raises InputError for what cannot be scored as asked, NotFoundError for an unknown id, AwayError where a judge or service is away.
        """
        config = checked(request.resolved)
        judge = self._judges.get(config.judge)
        items = await self._items(request, token)
        asked = [item for item in items if item.why_not is None and needs_verdict(item.episode, item.task)]
        votes = await judge.rate([question(item.episode, item.task) for item in asked], config.judge_votes, caller.tenant)
        verdicts = {id(item): verdict for item, verdict in zip(asked, votes, strict=True)}
        # A thread, so that a large batch holds up no other request and no health check.
        scores = await asyncio.to_thread(lambda: [_score(item, verdicts.get(id(item)), config) for item in items])
        return ScoreAnswer(config_hash=config.config_hash, scores=scores)

    async def _items(self, request: ScoreRequest, token: str) -> list[Item]:
        count = len(request.episodes) + len(request.episode_ids)
        if count > self._settings.max_episodes:
            raise InputError(f"At most {self._settings.max_episodes} episodes in one request, not {count}.")
        episodes, tasks = list(request.episodes), {task_hash(task): task for task in request.tasks}
        if request.episode_ids:
            fetched, their_tasks = await fetch(self._settings.rollout_url, token, request.episode_ids, self._settings.rollout_timeout_s)
            episodes += fetched
            tasks = their_tasks | tasks
        broken = await asyncio.to_thread(lambda: [broken_invariant(each) for each in episodes])
        self._refuse(episodes, broken, tasks)
        return [Item(each, tasks[each.task], why) for each, why in zip(episodes, broken, strict=True)]

    def _refuse(self, episodes: Sequence[Episode], broken: Sequence[str | None], tasks: dict[str, Task]) -> None:
        forged = [i for i, (each, why) in enumerate(zip(episodes, broken, strict=True)) if not _sealed(each, why)]
        if forged:
            errors = _pointers(forged, "hash", "the content does not have this hash")
            raise InputError("An episode's hash is not that of its content.", errors=errors, slug="hash-mismatch")
        missing = [i for i, each in enumerate(episodes) if each.task not in tasks]
        if missing:
            errors = _pointers(missing, "task", "no task of this hash was sent")
            raise InputError("The task of an episode is missing: send it in `tasks`.", errors=errors, slug="task-missing")
        most = self._settings.max_calls
        long = [i for i, each in enumerate(episodes) if len(each.calls) > most or _reference_calls(tasks[each.task]) > most]
        if long:
            raise InputError(f"At most {most} calls in an episode or a reference.", errors=_pointers(long, "turns", "too many calls"))
        if any(_fact_texts(task) > self._settings.max_facts for task in tasks.values()):
            raise InputError(f"At most {self._settings.max_facts} values and aliases of facts in one reference.")


def _pointers(indices: Sequence[int], part: str, detail: str) -> list[dict[str, Any]]:
    return [{"pointer": f"/episodes/{index}/{part}", "detail": detail} for index in indices[:50]]


def _reference_calls(task: Task) -> int:
    return len(task.reference.calls) if task.reference is not None else 0


def _fact_texts(task: Task) -> int:
    facts = (task.reference.facts or []) if task.reference is not None else []
    return sum(1 + len(fact.aliases) for fact in facts)


def _score(item: Item, verdict: JudgeVotes | None, config: RewardConfig) -> Score:
    why = item.why_not
    return no_score(item.episode, why) if why is not None else score_sound(item.episode, item.task, verdict, config)


def _sealed(episode: Episode, broken: str | None) -> bool:
    """Whether the hash is that of the content; another broken invariant may hide that it is not, so it is computed anew there."""
    return broken is None or (broken != HASH and episode.hash == episode.content_hash())
