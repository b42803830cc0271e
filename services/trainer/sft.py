"""SFT on demonstrations: loss on what assistants wrote and on nothing else (method §2, §6).

`fit` is the whole of it and needs no service: it keeps the clock (a budget in steps or seconds), warms up on copying, watches the loss on
held-back demonstrations (the plateau rule), saves, resumes and stops. A stopped run that is started again takes the very steps that it
would have taken.
"""

import hashlib
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from cacherl.api.trainer import Plateau, SftSpec
from cacherl.wire import Json, Wire
from services.trainer import checkpoints
from services.trainer.copying import IGNORED, selected_loss, warm_up
from services.trainer.demonstration_trainer import DemonstrationTrainer, pad_id, trainer_of
from services.trainer.demonstrations import Prepared, prepare, renderer_of
from services.trainer.job import JobContext
from services.trainer.optimizers import Rule, optimizer_of
from services.trainer.progress import Silent, Stop, StoppedError
from services.trainer.rows import RowTable
from services.trainer.schedule import Clock, scheduler

REPORT_EVERY_S = 2.0
CHECKPOINT_EVERY_S = 120.0
HELD_BACK_BATCH = 16
HELD_BACK = 64
"""Demonstrations that are watched where no plateau rule says how many."""


@dataclass(frozen=True)
class SftReport:
    """What training did and cost."""

    steps: int
    seconds: float
    """Of training, copying and held-back looks left out."""
    cpu_seconds: float
    """Of this start of the process, all included."""
    tokens: int
    """Tokens that went through the model, padding left out."""
    trained_tokens: int
    """Tokens that carried loss."""
    loss: float | None
    """Mean of the steps of the last report."""
    held_back_loss: float | None
    ended_by: str
    """`budget` or `plateau`."""
    copying_steps: int
    copying_seconds: float


class Standing(Wire):
    """Where a run stands, beside weights and moments: what its checkpoint holds."""

    seconds: float = 0.0
    tokens: int = 0
    trained_tokens: int = 0
    copying_steps: int = 0
    copying_seconds: float = 0.0
    held_back: list[float] = []
    """The losses that the plateau rule has looked at."""


def plateaued(losses: list[float], rule: Plateau) -> bool:
    """Whether the last `patience` looks brought no loss that is lower than the best before by `min_improvement`."""
    best, without = float("inf"), 0
    for loss in losses:
        improved = loss < best - rule.min_improvement
        best, without = (loss, 0) if improved else (best, without + 1)
    return without >= rule.patience


class Conductor(TrainerCallback):
    """Lets the run hear of every step."""

    def __init__(self, run: "Run") -> None:
        self.run = run

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """A resumed run goes on counting."""
        state.global_step = self.run.clock.steps
        self.run.clock.start()

    def on_optimizer_step(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Before the rate of the next step is asked for."""
        self.run.clock.steps = state.global_step + 1

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """After each step."""
        if self.run.ends():
            control.should_training_stop = True


class Run:
    """One run of SFT in the making."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerFast,
        spec: SftSpec,
        held_back: RowTable | None,
        progress: Silent,
        work: Path,
    ) -> None:
        self.model, self.tokenizer, self.spec, self.held_back = model, tokenizer, spec, held_back
        self.progress, self.work = progress, work
        self.clock, self.standing = Clock(spec.budget), Standing()
        self.optimizer = optimizer_of(model, Rule(spec.optimizer), rate=spec.learning_rate, matrix_rate=spec.matrix_learning_rate)
        self.ended_by, self.loss = "budget", None
        self.stopped: Stop | None = None
        self.trainer: DemonstrationTrainer | None = None
        self._reported = self._saved = time.perf_counter()

    def prepare(self) -> None:
        """Takes up the newest checkpoint, or warms up on copying."""
        found = checkpoints.newest(self.work / "checkpoints")
        if found is not None:
            found.restore_model(self.model)
            found.restore_optimizer(self.optimizer)
            self.standing = Standing.model_validate(found.manifest.state)
            self.clock.steps, self.clock.before_s = found.manifest.step, self.standing.seconds
            return
        self.progress.stage("copying")
        stop = self.progress.stopping
        report = warm_up(self.model, self.optimizer, self.spec.copying_seconds, seed=self.spec.seed, stop=lambda: stop() is not None)
        self.progress.check()
        self.standing.copying_steps, self.standing.copying_seconds = report.steps, report.seconds

    def train(self, train: RowTable) -> None:
        """Runs the trainer until the budget, the plateau or a stop."""
        if self.clock.over:
            return
        self.progress.stage("training")
        rates = scheduler(self.optimizer, self.clock, constant_share=self.spec.constant_share, final_share=self.spec.final_share)
        self.trainer = trainer_of(
            self.model, self.tokenizer, train, self.spec, self.clock, (self.optimizer, rates), Conductor(self), self.work
        )
        batches = self.trainer.batches
        batches.tokens, batches.trained_tokens = self.standing.tokens, self.standing.trained_tokens
        self.trainer.train()
        self.clock.stop()

    def ends(self) -> bool:
        """After a step: whether training ends."""
        now = time.perf_counter()
        if now - self._reported > REPORT_EVERY_S:
            self.report()
            self._reported = now
        if self._plateaued():
            self.ended_by = "plateau"
            return True
        self.stopped = self.progress.stopping()
        if self.stopped is Stop.CHECKPOINT or now - self._saved > CHECKPOINT_EVERY_S:
            self.save()
            self._saved = time.perf_counter()
        return self.stopped is not None or self.clock.over

    def _plateaued(self) -> bool:
        rule = self.spec.plateau
        if rule is None or self.held_back is None or self.clock.steps % rule.every_steps:
            return False
        self.standing.held_back.append(self.held_back_loss())
        return plateaued(self.standing.held_back, rule)

    def held_back_loss(self) -> float:
        """Mean loss over the labelled tokens of the held-back demonstrations."""
        table = self.held_back
        assert table is not None
        total, labelled = 0.0, 0
        with self.clock.paused(), torch.no_grad():
            self.model.eval()
            order = sorted(range(len(table)), key=lambda row: table.lengths[row])
            for start in range(0, len(order), HELD_BACK_BATCH):
                batch = table.batch(order[start : start + HELD_BACK_BATCH], pad_id(self.tokenizer))
                ids_BT, labels_BT = batch["input_ids"].to(self.model.device), batch["labels"].to(self.model.device)
                total += float(selected_loss(self.model, ids_BT, labels_BT, 1))
                labelled += int((labels_BT[:, 1:] != IGNORED).sum())
            self.model.train()
        return total / max(1, labelled)

    def save(self) -> None:
        """Writes a checkpoint."""
        with self.clock.paused():
            self._count()
            state = self.standing.model_dump(mode="json")
            checkpoints.save(self.work / "checkpoints", self.model, self.optimizer, step=self.clock.steps, state=state)

    def report(self) -> None:
        """Tells how far training is."""
        self._count()
        by_steps = self.spec.budget.steps is not None
        done, total = (self.clock.steps, self.spec.budget.steps) if by_steps else (self.clock.seconds, self.spec.budget.seconds)
        self.progress.advance(done, total, "steps" if by_steps else "seconds")
        self.loss = (self.trainer.mean_loss() if self.trainer else None) or self.loss
        record: dict[str, Json] = {"step": self.clock.steps, "seconds": round(self.clock.seconds, 3), "loss": self.loss}
        record |= {"rate": self.optimizer.param_groups[0]["lr"], "tokens": self.standing.tokens}
        if self.standing.held_back:
            record["held_back_loss"] = self.standing.held_back[-1]
        self.progress.metric(record)

    def _count(self) -> None:
        self.standing.seconds = self.clock.seconds
        if self.trainer is not None:
            self.standing.tokens, self.standing.trained_tokens = self.trainer.batches.tokens, self.trainer.batches.trained_tokens


def fit(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    train: RowTable,
    spec: SftSpec,
    *,
    work: Path,
    held_back: RowTable | None = None,
    progress: Silent | None = None,
) -> SftReport:
    """Trains `model` in place on rows; `work` holds its checkpoints, and a run is resumed from them.

    Raises StoppedError where `progress` says to stop, after a checkpoint.
    """
    if len(train) == 0:
        raise ValueError("there is no demonstration to train on")
    torch.set_num_threads(spec.threads)
    cpu = time.process_time()
    watched = held_back if held_back is not None and len(held_back) else None
    run = Run(model, tokenizer, spec, watched, progress or Silent(), work)
    run.prepare()
    run.train(train)
    if run.stopped is not None and not run.clock.over:
        raise StoppedError(run.stopped)
    run.report()
    return SftReport(
        steps=run.clock.steps,
        cpu_seconds=time.process_time() - cpu,
        loss=run.loss,
        held_back_loss=run.held_back_loss() if watched is not None else None,
        ended_by=run.ended_by,
        **run.standing.model_dump(exclude={"held_back"}),
    )


def run(spec: SftSpec, job: JobContext) -> dict[str, Json]:
    """Trains the newest version of a policy on demonstrations and registers the result."""
    start, model, tokenizer = job.load(spec.init_policy)
    sources = [job.dataset(name, "trajectories") for name in spec.datasets]
    job.progress.stage("rendering")
    prepared = _prepared(spec, job, tokenizer, [source.sha256 or source.id for source in sources])
    report = fit(model, tokenizer, prepared.train, spec, held_back=prepared.held_back, progress=job.progress, work=job.directory)
    job.progress.stage("writing the policy")
    about = {"spec": spec.model_dump(mode="json"), "from": f"{start.name}@{start.version}", "data": [source.sha256 for source in sources]}
    written = job.save_policy(spec.policy, model, tokenizer, about)
    return {
        **asdict(report),
        "tokens_trained": report.tokens,
        "seconds_training": report.seconds,
        "cpu_seconds": report.cpu_seconds,
        "policy": {"name": written.name, "version": written.version},
        "from": {"name": start.name, "version": start.version},
        "datasets": [source.id for source in sources],
        "rows": asdict(prepared.counts),
    }


def _prepared(spec: SftSpec, job: JobContext, tokenizer: PreTrainedTokenizerFast, sources: list[str]) -> Prepared:
    """The rows of the demonstrations; rendered once for the same data, tokenizer and choice, whichever job asks."""
    renderer = renderer_of(tokenizer)
    trajectories = (t for t in job.trajectories(spec.datasets) if t.outcome.accepted or not spec.only_accepted)
    key = [renderer.tokenizer_hash, renderer.template_hash, str(spec.only_accepted), str(spec.max_length), *sources]
    folder = job.settings.shared_root / "rows" / hashlib.sha256("\n".join(key).encode()).hexdigest()[:32]
    held_back = spec.plateau.held_back if spec.plateau is not None else HELD_BACK
    return prepare(trajectories, renderer, folder, max_length=spec.max_length, hold_back=held_back, seed=spec.seed)
