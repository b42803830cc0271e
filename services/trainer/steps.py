"""One GRPO step after the other: publish, play, judge; then tell, save and say whether to go on.

What a step needs of the world is here, what TRL makes of it is `advantage_trainer`. A step's tasks, seed and pins follow from where the
run stands, and that is in its checkpoint.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from transformers import PreTrainedTokenizerFast, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from cacherl.api.reward import AdvantageAnswer, AdvantageRequest, Group
from cacherl.api.rollout import Rollout, RolloutCreate
from cacherl.api.trainer import GrpoSpec
from cacherl.episode import Episode
from cacherl.score import RewardConfig, Score
from cacherl.trajectory import Task
from cacherl.wire import Json, Time, Wire
from services.trainer import checkpoints
from services.trainer.advantage_trainer import AdvantageTrainer, Sample
from services.trainer.collect import Collected, collected, tasks_of_step
from services.trainer.episodes_of import Playing
from services.trainer.job import JobContext
from services.trainer.policies import WrittenVersion
from services.trainer.progress import Stop
from services.trainer.schedule import Clock

KEEP_VERSIONS = 2
"""Step versions whose weights stay on the disk: an engine may still be reading the one before."""


class Pins(Wire):
    """What the first rollout was resolved to, and all later ones are pinned to."""

    revision: int
    view: str
    as_of: Time


class Standing(Wire):
    """Where a run stands, beside weights and moments."""

    seconds: float = 0.0
    tokens_sampled: int = 0
    tokens_trained: int = 0
    zero_groups: int = 0
    outcomes: dict[str, int] = {}
    pins: Pins | None = None


class Steps(TrainerCallback):
    """Collects the samples of each step, and hears when it is taken."""

    trainer: AdvantageTrainer

    def __init__(self, spec: GrpoSpec, job: JobContext, tasks: list[Task], playing: Playing, clock: Clock) -> None:
        self.spec, self.job, self.tasks, self.playing, self.clock = spec, job, tasks, playing, clock
        self.standing = Standing()
        self.stopped: Stop | None = None
        self.versions: list[WrittenVersion] = []
        self.spent: dict[str, float] = {}
        self.last: Collected | None = None
        self._began = time.perf_counter()

    def collect(self) -> list[Sample]:
        """Publishes the weights, plays, judges."""
        step, spec = self.clock.steps, self.spec
        self.spent = {}
        with self._timed("publish"):
            self.versions.append(self.job.write_policy(spec.policy, self.trainer.policy, self.tokenizer, {"step": step}))
            policy = self.playing.publish(self.versions[-1])
            self._forget_old_versions()
        wanted = max(spec.tasks_per_step, round(spec.tasks_per_step * (1 + spec.oversample)))
        tasks = tasks_of_step(self.tasks, step, wanted, spec.seed)
        pins = self.standing.pins.model_dump() if self.standing.pins else {}
        fixed = spec.model_dump(include={"cache", "preset", "limits", "sampling", "thinking", "group_size"})
        request = RolloutCreate(policy=policy, tasks=tasks, seed=spec.seed * 1_000_003 + step, mode="replay", **fixed, **pins)
        with self._timed("rollout"):
            episodes, rollout = self.playing.play(request, lambda _: self.job.progress.check())
        self._pin(rollout)
        with self._timed("reward"):
            scores = self.playing.score(episodes, tasks, spec.preset)
            answer = self._advantages(tasks, episodes, scores)
        self.last = collected(episodes, scores, answer, wanted=spec.tasks_per_step, group_size=spec.group_size)
        self._began = time.perf_counter()
        return self.last.samples

    def _advantages(self, tasks: list[Task], episodes: list[Episode], scores: list[Score]) -> AdvantageAnswer:
        numbers = sorted({episode.group for episode in episodes})
        pairs = list(zip(episodes, scores, strict=True))
        request = AdvantageRequest(
            groups=[Group(task_id=tasks[n].id, scores=[score for episode, score in pairs if episode.group == n]) for n in numbers],
            preset=self.spec.preset,
            config_hash=RewardConfig(preset=self.spec.preset).config_hash,
            estimator=self.spec.estimator,
        )
        return self.playing.run(self.playing.client.reward.advantages(request))

    @property
    def tokenizer(self) -> PreTrainedTokenizerFast:
        """The policy's."""
        return self.trainer.processing_class  # pyright: ignore[reportReturnType]

    def _pin(self, rollout: Rollout) -> None:
        self.standing.pins = self.standing.pins or Pins(revision=rollout.revision, view=rollout.view, as_of=rollout.as_of)

    def _forget_old_versions(self) -> None:
        for version in self.versions[:-KEEP_VERSIONS]:
            self.job.weights.remove(version.path)
        self.versions = self.versions[-KEEP_VERSIONS:]

    @contextmanager
    def _timed(self, part: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.spent[part] = time.perf_counter() - began

    # -- what TRL calls -------------------------------------------------------------------------------------------------------------

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """A resumed run goes on counting."""
        state.global_step = self.clock.steps
        self.clock.start()

    def on_pre_optimizer_step(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """A batch that teaches nothing moves nothing: not even by the momentum of those before."""
        if not any(sample.advantage is not None and any(sample.mask) for sample in self.trainer.samples):
            self.trainer.policy.zero_grad(set_to_none=True)

    def on_optimizer_step(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Before the rate of the next step is asked for."""
        self.clock.steps = state.global_step + 1

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Tells, saves, ends."""
        self.spent["update"] = time.perf_counter() - self._began
        self._tell()
        self.stopped = self.job.progress.stopping()
        if self.stopped is Stop.CHECKPOINT or self.clock.steps % self.spec.checkpoint_every == 0:
            self.save()
        control.should_training_stop = control.should_training_stop or self.stopped is not None or self.clock.over

    def save(self) -> None:
        """Writes a checkpoint."""
        with self.clock.paused():
            self.standing.seconds = self.clock.seconds
            root, state = self.job.directory / "checkpoints", self.standing.model_dump(mode="json")
            checkpoints.save(root, self.trainer.policy, self.trainer.stepper, step=self.clock.steps, state=state)

    def _tell(self) -> None:
        assert self.last is not None, "a step is taken on what was collected"
        record: dict[str, Any] = self.last.record()
        for name in ("tokens_sampled", "tokens_trained", "zero_groups"):
            setattr(self.standing, name, getattr(self.standing, name) + record[name])
        for outcome, count in record["outcomes"].items():
            self.standing.outcomes[outcome] = self.standing.outcomes.get(outcome, 0) + count
        spent: dict[str, Json] = {part: round(seconds, 4) for part, seconds in self.spent.items()}
        rate = self.trainer.stepper.param_groups[0]["lr"]
        measured = self.trainer.measurements()
        self.job.progress.metric({"step": self.clock.steps, **record, **measured, "rate": rate, "seconds": spent})
        by_steps = self.spec.budget.steps is not None
        done, total = (self.clock.steps, self.spec.budget.steps) if by_steps else (self.clock.seconds, self.spec.budget.seconds)
        self.job.progress.advance(done, total, "steps" if by_steps else "seconds")
