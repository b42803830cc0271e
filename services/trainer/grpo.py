"""The job kind `grpo`: policy gradient on cached rollouts, through TRL's trainer (method §6).

A step: the weights become a policy version that the engines hold; the rollout service plays tasks × group size against the pinned
cache; the reward service scores them and gives the advantages; TRL takes one optimiser step. Every trained token was sampled by the
version that was published for this very step. A checkpoint is everything that the next step depends on.
"""

import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import PreTrainedModel, PreTrainedTokenizerFast
from transformers.trainer_callback import PrinterCallback, ProgressCallback
from trl.trainer.grpo_config import GRPOConfig

from cacherl.api.trainer import GrpoSpec
from cacherl.errors import AwayError, InputError
from cacherl.wire import Json
from services.trainer import checkpoints
from services.trainer.advantage_trainer import IMPORTANCE_CAP, AdvantageTrainer
from services.trainer.demonstration_trainer import FOREVER
from services.trainer.episodes_of import Playing
from services.trainer.job import JobContext
from services.trainer.optimizers import Rule, optimizer_of
from services.trainer.progress import Stop, StoppedError
from services.trainer.schedule import Clock, scheduler
from services.trainer.steps import Standing, Steps

BETAS = (0.9, 0.95)
WARM_UP_STEPS = 2
SLOTS = 64
"""Steps that one pass over TRL's data set is good for; what a slot holds means nothing."""


def run(spec: GrpoSpec, job: JobContext) -> dict[str, Json]:
    """Trains the newest version of a policy on its own episodes and registers the result. Errors: `AwayError` where a service is away."""
    torch.set_num_threads(spec.threads)
    tasks = job.tasks(spec.tasks)
    if not tasks:
        raise InputError("there is no task to train on")
    if spec.sampling.temperature <= 0:
        raise InputError("a policy is trained on what it samples: the temperature must be above 0")
    start, model, tokenizer = job.load(spec.init_policy)
    job.progress.stage("training")
    with Playing(job) as playing:
        steps = Steps(spec, job, tasks, playing, Clock(spec.budget))
        trainer = trainer_of(model, tokenizer, spec, steps, job)
        resume(trainer, steps)
        train(trainer, steps)
    for version in steps.versions:
        job.weights.remove(version.path)
    about = {
        "spec": spec.model_dump(mode="json"),
        "from": f"{start.name}@{start.version}",
        "standing": steps.standing.model_dump(mode="json"),
    }
    written = job.save_policy(spec.policy, trainer.policy, tokenizer, about)
    return {
        **steps.standing.model_dump(mode="json", exclude={"seconds", "pins"}),
        "steps": steps.clock.steps,
        "seconds_training": steps.clock.seconds,
        "pins": steps.standing.pins.model_dump(mode="json") if steps.standing.pins else None,
        "policy": {"name": written.name, "version": written.version},
        "from": {"name": start.name, "version": start.version},
    }


def train(trainer: AdvantageTrainer, steps: Steps) -> None:
    """Runs until the budget is used up. StoppedError where the job is to stop, with a checkpoint to go on from."""
    if steps.clock.over:
        return
    try:
        trainer.train()
    except (StoppedError, AwayError) as reason:
        # In the middle of a rollout: nothing of this step has moved the weights.
        if not isinstance(reason, StoppedError) or reason.why is Stop.CHECKPOINT:
            steps.save()
        raise
    finally:
        steps.clock.stop()
    if steps.stopped is not None and not steps.clock.over:
        raise StoppedError(steps.stopped)


def resume(trainer: AdvantageTrainer, steps: Steps) -> None:
    """Takes up the newest checkpoint, where there is one."""
    found = checkpoints.newest(steps.job.directory / "checkpoints")
    if found is None:
        return
    found.restore_model(trainer.policy)
    found.restore_optimizer(trainer.stepper)
    steps.standing = Standing.model_validate(found.manifest.state)
    steps.clock.steps, steps.clock.before_s = found.manifest.step, steps.standing.seconds


def trainer_of(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, spec: GrpoSpec, steps: Steps, job: JobContext
) -> AdvantageTrainer:
    """TRL's trainer for a spec, fed by `steps`."""
    lora = LoraConfig(r=spec.lora_rank, lora_alpha=spec.lora_rank, target_modules="all-linear", task_type="CAUSAL_LM")
    slots = Dataset.from_dict({"prompt": ["-"] * (spec.tasks_per_step * SLOTS)})
    trainer = AdvantageTrainer(
        model=model,
        args=arguments(spec, str(job.directory / "trl")),
        train_dataset=slots,
        processing_class=tokenizer,
        peft_config=lora if spec.lora_rank else None,
        callbacks=[steps],
    )
    trainer.collect = steps.collect
    optimizer = optimizer_of(trainer.policy, Rule.ADAMW, rate=spec.learning_rate, matrix_rate=spec.learning_rate, betas=BETAS)
    trainer.optimizer = optimizer
    trainer.lr_scheduler = scheduler(optimizer, steps.clock, constant_share=0.0, final_share=spec.final_share, warm_up=WARM_UP_STEPS)
    for unwanted in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(unwanted)
    steps.trainer = trainer
    return trainer


def arguments(spec: GrpoSpec, output: str) -> GRPOConfig:
    """TRL's configuration: one optimizer step per generation, a token mean over the batch, nothing logged, nothing saved."""
    on_cpu = not torch.cuda.is_available()
    rows = spec.tasks_per_step * spec.group_size
    micro = max(size for size in range(1, min(spec.micro_batch, rows) + 1) if rows % size == 0)
    return GRPOConfig(
        output_dir=output,
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=rows // micro,
        num_generations=spec.group_size,
        max_steps=spec.budget.steps or FOREVER,
        max_completion_length=spec.limits.max_tokens,
        temperature=spec.sampling.temperature,
        beta=spec.kl,
        epsilon=spec.clip,
        delta=IMPORTANCE_CAP,
        loss_type="dapo",
        scale_rewards="none",
        learning_rate=spec.learning_rate,
        max_grad_norm=1.0,
        use_cpu=on_cpu,
        bf16=not on_cpu,
        activation_checkpointing=not on_cpu,
        logging_strategy="no",
        logging_nan_inf_filter=False,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=False,
        seed=spec.seed,
    )
