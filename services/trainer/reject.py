"""The job kind `reject`: rejection sampling (method §2).

Episodes of the policy on training tasks are kept where the judge rates the answer high enough and every call was answered exactly; they
are *added* to the labelled-true originals, never a replacement, and no tool may fill the lot.
"""

from collections import Counter
from collections.abc import Iterator, Sequence

from cacherl.api.rollout import RolloutCreate
from cacherl.api.trainer import RejectSpec
from cacherl.episode import Episode
from cacherl.score import Score, ScoreStatus
from cacherl.tier import CallOutcome
from cacherl.trajectory import Outcome, Task, Trajectory
from cacherl.wire import Json
from services.trainer.episodes_of import Playing
from services.trainer.job import JobContext


def run(spec: RejectSpec, context: JobContext) -> dict[str, Json]:
    """Writes the dataset `output`: accepted originals, then accepted episodes."""
    tasks = context.tasks(spec.tasks, spec.max_tasks)
    context.progress.stage(f"sampling {len(tasks)} tasks × {spec.episodes_per_task}")

    def seen(finished: int) -> None:
        context.progress.advance(finished, len(tasks) * spec.episodes_per_task, "episodes")
        context.progress.check()

    with Playing(context) as playing:
        policy = playing.publish(context.policy(spec.policy))
        request = RolloutCreate(
            cache=spec.cache,
            policy=policy,
            tasks=tasks,
            group_size=spec.episodes_per_task,
            seed=spec.seed,
            limits=spec.limits,
            sampling=spec.sampling,
            thinking=spec.thinking,
        )
        episodes, rollout = playing.play(request, seen)
        context.progress.stage("judging")
        scores = playing.score(episodes, tasks, "robust")
    kept = accepted(episodes, scores, min_rating=spec.min_rating, cap_per_tool=spec.cap_per_tool)
    originals = Counter[str]()

    def records() -> Iterator[Trajectory]:
        for trajectory in context.trajectories(spec.originals):
            if trajectory.outcome.accepted:
                originals["kept"] += 1
                yield trajectory
        for episode in kept:
            yield demonstration(episode, tasks[episode.group], str(policy))

    made = context.save_dataset(spec.output, "trajectories", records())
    return {
        "dataset": made.id,
        "episodes": len(episodes),
        "accepted": len(kept),
        "originals": originals["kept"],
        "tokens_sampled": rollout.tokens_sampled,
        "outcomes": dict(Counter(str(call.outcome) for episode in episodes for call in episode.calls)),
    }


def accepted(episodes: Sequence[Episode], scores: Sequence[Score], *, min_rating: float, cap_per_tool: int | None) -> list[Episode]:
    """The episodes to keep, in order: rated at least `min_rating`, every call exact, at most `cap_per_tool` calls of each tool in all."""
    kept: list[Episode] = []
    used: Counter[str] = Counter()
    for episode, score in zip(episodes, scores, strict=True):
        rated = score.status is ScoreStatus.SCORED and score.r_answer is not None and score.r_answer >= min_rating
        exact = bool(episode.calls) and all(call.outcome is CallOutcome.EXACT for call in episode.calls)
        tools = Counter(call.call.name for call in episode.calls if call.call is not None)
        full = cap_per_tool is not None and any(used[tool] + n > cap_per_tool for tool, n in tools.items())
        if rated and exact and not full:
            kept.append(episode)
            used.update(tools)
    return kept


def demonstration(episode: Episode, task: Task, policy: str) -> Trajectory:
    """An accepted episode as a trajectory, labelled by who accepted it."""
    return Trajectory(
        id=episode.id,
        messages=episode.messages,
        tools=task.tools,
        scenario=task.scenario,
        task_id=task.id,
        trial=f"{episode.group}.{episode.index}",
        model=policy,
        outcome=Outcome(label=True, source="judge"),
    )
