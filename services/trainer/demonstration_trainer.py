"""TRL's SFT trainer for rows of ours, with nothing at a step that no one reads.

TRL and transformers own the loop. What is ours is where batches come from and, where one process trains in full precision, a loss that
makes logits at the labelled positions only; its value and gradient are TRL's (tested), which computes them over every position together
with metrics.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast, TrainerCallback
from transformers.trainer_callback import PrinterCallback, ProgressCallback
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer

from cacherl.api.trainer import SftSpec
from services.trainer.copying import IGNORED, selected_loss
from services.trainer.rows import RowTable
from services.trainer.schedule import Clock

FOREVER = 10**9
"""Steps of a run that only the clock ends."""


class Batches:
    """Batches without end, in the order that seed and epoch decide, from where a resumed run stood. Counts the tokens it gives."""

    def __init__(self, table: RowTable, pad: int, clock: Clock, spec: SftSpec) -> None:
        self.table, self.pad, self.clock, self.spec = table, pad, clock, spec
        self.tokens = 0
        self.trained_tokens = 0

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        for rows in self.table.epochs(self.spec.batch_size, self.spec.seed, skip=self.clock.steps):
            batch = self.table.batch(rows, self.pad, turns_only=self.clock.progress < self.spec.turns_only_share)
            self.tokens += int((batch["input_ids"] != self.pad).sum())
            self.trained_tokens += int((batch["labels"] != IGNORED).sum())
            yield batch


class DemonstrationTrainer(SFTTrainer):
    """TRL's trainer over `batches`."""

    batches: Batches

    def get_train_dataloader(self) -> Any:
        """Our batches."""
        return self.batches

    def compute_loss(  # pyright: ignore[reportIncompatibleMethodOverride] - the base class has no types
        self,
        model: PreTrainedModel,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """The mean negative log-likelihood of the labelled tokens."""
        if model is not self.model or self.accelerator.mixed_precision != "no" or return_outputs:
            inputs["attention_mask"] = (inputs["input_ids"] != self.batches.pad).long()
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        return selected_loss(model, inputs["input_ids"], inputs["labels"], num_items_in_batch)

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Not counted: counting walks the whole model at every step."""
        return 0

    def mean_loss(self) -> float | None:
        """Mean loss of the steps since the last look, None where there was none; the sum starts anew."""
        steps = self.state.global_step - self._globalstep_last_logged
        if steps <= 0:
            return None
        loss = float(self._tr_loss) / steps
        self._tr_loss.zero_()
        self._globalstep_last_logged = self.state.global_step
        return loss


def trainer_of(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    train: RowTable,
    spec: SftSpec,
    clock: Clock,
    optimizers: tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LambdaLR],
    callback: TrainerCallback,
    work: Path,
) -> DemonstrationTrainer:
    """The trainer of one run; `clock` decides where its batches begin."""
    trainer = DemonstrationTrainer(
        model=model,
        args=_arguments(spec, work),
        train_dataset=train.dataset.select_columns(["input_ids", "labels"]),
        processing_class=tokenizer,
        optimizers=optimizers,
        callbacks=[callback],
    )
    for unwanted in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(unwanted)
    trainer.batches = Batches(train, pad_id(tokenizer), clock, spec)
    return trainer


def pad_id(tokenizer: PreTrainedTokenizerFast) -> int:
    """The id that fills rows up."""
    value = tokenizer.pad_token_id
    assert isinstance(value, int), "the tokenizer has one pad token"
    return value


def _arguments(spec: SftSpec, work: Path) -> SFTConfig:
    on_cpu = not torch.cuda.is_available()
    return SFTConfig(
        output_dir=str(work / "trl"),
        per_device_train_batch_size=spec.batch_size,
        max_steps=spec.budget.steps or FOREVER,
        max_length=None,
        dataset_kwargs={"skip_prepare_dataset": True},
        use_cpu=on_cpu,
        bf16=not on_cpu,
        activation_checkpointing=not on_cpu,
        max_grad_norm=1.0,
        logging_strategy="no",
        logging_nan_inf_filter=False,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        dataloader_num_workers=0,
        dataloader_pin_memory=False,
        seed=spec.seed,
    )
