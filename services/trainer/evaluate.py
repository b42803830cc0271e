"""The job kind `evaluate`: one policy on held-out tasks, live and cached, every policy on the same tasks and seeds (method §7).

Success is the live world's own goal check and nothing else; cached episodes are judged by it too, their calls made again in a fresh
session. What is written are vectors over tasks and episodes (`cacherl.evaluation`): means and intervals are the report's business.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from cacherl.api.rollout import RolloutCreate
from cacherl.api.trainer import EvaluateSpec
from cacherl.engine import PolicyVersion
from cacherl.episode import Episode
from cacherl.episodes_file import EpisodesWriter
from cacherl.errors import InputError
from cacherl.evaluation import Evaluation, TaskOutcome, Way, WayResult
from cacherl.files import write_atomically
from cacherl.metrics import call_f1, process_accuracy
from cacherl.score import Score
from cacherl.trajectory import Task
from cacherl.wire import Json
from services.trainer.episodes_of import Playing
from services.trainer.job import JobContext
from services.trainer.live_world import LiveWorld


@dataclass(frozen=True)
class Course:
    """One way of running the tasks."""

    way: Way
    cache: str
    samples: int
    live: bool = False
    greedy: bool = False


def courses(spec: EvaluateSpec) -> list[Course]:
    """The ways that a spec asks for, in a fixed order."""
    found: list[Course] = []
    if spec.live_cache is not None:
        found.append(Course(Way.LIVE, spec.live_cache, spec.samples, live=True))
        if spec.greedy:
            found.append(Course(Way.LIVE_GREEDY, spec.live_cache, 1, live=True, greedy=True))
    if spec.cached is not None:
        found.append(Course(Way.CACHED, spec.cached, spec.cached_samples))
    if spec.cached_in is not None:
        found.append(Course(Way.CACHED_IN, spec.cached_in, spec.cached_samples))
    if not found:
        raise InputError("an evaluation needs a live cache or a cache of recordings")
    return found


def run(spec: EvaluateSpec, context: JobContext) -> dict[str, Json]:
    """Plays, checks, scores, writes `evaluation.json` and the episodes. Errors: `ServiceError`, `LiveToolError`, `NotFoundError`."""
    tasks = context.tasks(spec.tasks, spec.max_tasks)
    world = LiveWorld(context.settings.live_servers, spec.live_server) if spec.live_server is not None else None
    try:
        with Playing(context) as playing:
            policy = playing.publish(context.policy(spec.policy))
            evaluation = Evaluating(spec, context, tasks, world, playing, policy)()
    finally:
        if world is not None:
            world.close()
    write_atomically(context.artifacts / "evaluation.json", evaluation.model_dump_json(by_alias=True).encode())
    return {
        "policy": policy.model_dump(mode="json"),
        "tokens_sampled": evaluation.tokens_sampled,
        "episodes": sum(result.episodes for result in evaluation.ways.values()),
    }


class Evaluating:
    """One evaluation in the making."""

    def __init__(
        self, spec: EvaluateSpec, context: JobContext, tasks: list[Task], world: LiveWorld | None, playing: Playing, policy: PolicyVersion
    ) -> None:
        self.spec, self.context, self.tasks, self.world, self.playing, self.policy = spec, context, tasks, world, playing, policy
        self.evaluation = Evaluation(policy=policy, ways={})
        self.done = 0
        self.total = sum(course.samples * len(self._tasks(course)) for course in courses(spec))

    def __call__(self) -> Evaluation:
        """All ways, one after the other."""
        for course in courses(self.spec):
            self.context.progress.check()
            tasks = self._tasks(course)
            self.context.progress.stage(f"{course.way}: {len(tasks)} tasks × {course.samples}")
            self.evaluation.ways[course.way] = self._way(course, tasks)
            self.done += course.samples * len(tasks)
        return self.evaluation

    def _tasks(self, course: Course) -> list[Task]:
        tasks = self.tasks if course.live else self.tasks[: self.spec.cached_tasks]
        return [task.model_copy(update={"exclude_sources": []}) for task in tasks] if course.way is Way.CACHED_IN else tasks

    def _way(self, course: Course, tasks: list[Task]) -> WayResult:
        sampling = self.spec.sampling.model_copy(update={"temperature": 0.0 if course.greedy else self.spec.sampling.temperature})
        request = RolloutCreate(
            cache=course.cache,
            mode="record" if course.live else "replay",
            policy=self.policy,
            tasks=tasks,
            group_size=course.samples,
            seed=self.spec.seed,
            preset=self.spec.preset,
            limits=self.spec.limits,
            sampling=sampling,
            thinking=self.spec.thinking,
        )
        episodes, rollout = self.playing.play(request, self._seen)
        scores = self.playing.score(episodes, tasks, self.spec.preset)
        self._keep(course, tasks, episodes)
        self.evaluation.tokens_sampled += rollout.tokens_sampled
        if rollout.finished_at is not None:
            self.evaluation.seconds += (rollout.finished_at - rollout.created_at).total_seconds()
        self.evaluation.live_calls += sum(call.live for episode in episodes for call in episode.calls)
        return way_result(tasks, course.samples, episodes, scores, [self._success(course, e, tasks[e.group]) for e in episodes])

    def _seen(self, finished: int) -> None:
        self.context.progress.advance(self.done + finished, self.total, "episodes")
        self.context.progress.check()

    def _success(self, course: Course, episode: Episode, task: Task) -> float | None:
        if self.world is None or not episode.scorable:
            return None
        if course.live:
            return float(self.world.succeeded(episode, task))
        return float(self.world.replayed(episode, task, self.evaluation.served))

    def _keep(self, course: Course, tasks: Sequence[Task], episodes: Sequence[Episode]) -> None:
        path = self.context.artifacts / f"{course.way}.episodes.jsonl"
        path.unlink(missing_ok=True)
        with EpisodesWriter(path) as writer:
            writer.write(episodes, tasks)


def way_result(
    tasks: Sequence[Task], samples: int, episodes: Sequence[Episode], scores: Sequence[Score], successes: Sequence[float | None]
) -> WayResult:
    """Episodes become vectors; a failed one is null in all of them."""
    rows = [empty(task, samples) for task in tasks]
    for episode, score, success in zip(episodes, scores, successes, strict=True):
        if not episode.scorable:
            continue
        row, task, k = rows[episode.group], tasks[episode.group], episode.index
        row.success_K[k] = success
        row.process_accuracy_K[k] = process_accuracy(episode, task)
        row.call_f1_K[k] = call_f1(episode, task)
        row.answer_K[k] = score.r_answer
        row.reward_K[k] = score.total
    played = [episode for episode in episodes if episode.scorable]
    return WayResult(
        tasks=rows,
        episodes=len(episodes),
        failed=len(episodes) - len(played),
        outcomes=dict(Counter(str(call.outcome) for episode in played for call in episode.calls)),
        stop_reasons=dict(Counter(str(episode.stop_reason) for episode in episodes)),
        mean_turns=fmean([len(episode.turns) for episode in played] or [0.0]),
        mean_tokens=fmean([sum(turn.end - turn.start for turn in episode.turns) for episode in played] or [0.0]),
        seconds=sum(turn.seconds.engine + turn.seconds.tools for episode in played for turn in episode.turns),
    )


def empty(task: Task, samples: int) -> TaskOutcome:
    """A task of which nothing is known yet."""
    nothing: list[float | None] = [None] * samples
    return TaskOutcome(
        task_id=task.id,
        success_K=list(nothing),
        process_accuracy_K=list(nothing),
        call_f1_K=list(nothing),
        answer_K=list(nothing),
        reward_K=list(nothing),
    )
