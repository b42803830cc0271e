"""TRL's GRPO trainer, with the reward service's advantages and the sampler's log-probs in its loss (method §6).

TRL centres whatever reward it is given; ours are leave-one-out and weighted by trust, so its advantages are replaced after it has made
them. An episode without one (failed, unscored) is no row of the loss. The policy takes one step per batch, so the log-probs of the
weights that sampled are the old ones: the clipped ratio against them is the importance correction, capped token by token, and TRL's
second forward for old log-probs falls away. How rows go through the model is `completions`' affair; values are TRL's (tested on the real
trainer).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from trl.trainer.grpo_config import GRPOConfig
from trl.trainer.grpo_trainer import GRPOTrainer

from services.trainer.completions import Tensors, completion_logps, micro_batches

IMPORTANCE_CAP = 3.0
"""Largest ratio of a token's probability under the trained weights to that under the sampling ones that counts."""


@dataclass(frozen=True)
class Sample:
    """One episode as TRL's row: prompt_ids_P, and for each of the C ids after it whether it was sampled, and its log-prob."""

    prompt_ids: list[int]
    completion_ids: list[int]
    mask: list[int]
    logprobs: list[float]
    advantage: float | None
    """None: not a row of the loss."""
    total: float | None
    """The reward, for TRL's own log."""

    def __post_init__(self) -> None:
        assert len(self.completion_ids) == len(self.mask) == len(self.logprobs), "one mask entry and one log-prob for every id"


Collect = Callable[[], list[Sample]]
"""Gives the samples of the next step: tasks a step × group size of them."""


class AdvantageTrainer(GRPOTrainer):
    """GRPO on samples that somebody else collected and judged."""

    args: GRPOConfig
    collect: Collect

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.samples: list[Sample] = []
        self.measured: dict[str, list[float]] = {}
        self._wanted_BC: torch.Tensor | None = None
        super().__init__(*args, rollout_func=self._rollout, reward_funcs=_totals, **kwargs)

    @property
    def policy(self) -> Any:
        """The model that is trained: a `PreTrainedModel`, or a `PeftModel` around it."""
        return self.accelerator.unwrap_model(self.model)

    @property
    def stepper(self) -> torch.optim.Optimizer:
        """The optimizer itself, without accelerate's wrapper."""
        optimizer: Any = self.optimizer
        return getattr(optimizer, "optimizer", optimizer)

    def _rollout(self, prompts: list[Any], trainer: GRPOTrainer) -> dict[str, list[Any]]:
        """TRL's seam: `prompts` are slots, one for each sample."""
        self.samples = self.collect()
        assert len(self.samples) == len(prompts), "as many samples as slots"
        live = [sample.advantage is not None and any(sample.mask) for sample in self.samples]
        pairs = list(zip(self.samples, live, strict=True))
        end = self.eos_token_ids[0]  # stands for the completion of an episode that is no row of the loss: TRL wants one
        return {
            "prompt_ids": [s.prompt_ids for s in self.samples],
            "completion_ids": [s.completion_ids if ok else [end] for s, ok in pairs],
            "env_mask": [s.mask if ok else [0] for s, ok in pairs],
            "logprobs": [s.logprobs if ok else [0.0] for s, ok in pairs],
            "total": [s.total if ok else None for s, ok in pairs],
        }

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> Tensors:
        """TRL's batch, with the service's advantages, to the last digit, and the sampler's log-probs as the old ones."""
        batch: Tensors = super()._generate_and_score_completions(inputs)
        advantages_B = [sample.advantage or 0.0 for sample in self.samples]
        batch["advantages"] = torch.tensor(advantages_B, dtype=torch.float64, device=batch["completion_ids"].device)
        sampled_BC = batch["completion_mask"] * batch["tool_mask"]
        # What stands at an injected position was never sampled: whatever its log-prob is said to be, it is no part of any ratio.
        batch["old_per_token_logps"] = batch.pop("sampling_per_token_logps").masked_fill(sampled_BC == 0, 0.0)
        return batch

    def _prepare_inputs(self, generation_batch: Any) -> Tensors:
        """TRL's buffering, but for the order of rows: those of one prompt together and sorted by length, instead of shuffled."""
        parts = self.args.steps_per_generation or 1
        if self._step % (parts * self.num_iterations) == 0 or self._buffered_inputs is None:
            self._buffered_inputs = micro_batches(self._generate_and_score_completions(generation_batch), parts)
        return self._buffered_inputs[self._step % parts]

    def _compute_loss(self, model: nn.Module, inputs: Tensors) -> torch.Tensor:
        """TRL's loss; log-probs are only made where they count."""
        self._wanted_BC = inputs["completion_mask"] * inputs["tool_mask"]
        try:
            return super()._compute_loss(model, inputs)
        finally:
            self._measure(inputs)
            self._wanted_BC = None

    def _get_per_token_logps_and_entropies(
        self, model: nn.Module, input_ids: torch.Tensor, attention_mask: torch.Tensor, logits_to_keep: int, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        """Log-probs of the completion (B, C), zero where none is wanted; entropies, which no loss of ours reads, are zeros."""
        inner = self.accelerator.unwrap_model(model)
        if inner is not model or self.accelerator.mixed_precision != "no":
            return super()._get_per_token_logps_and_entropies(model, input_ids, attention_mask, logits_to_keep, *args, **kwargs)
        wanted_BC = self._wanted_BC if self._wanted_BC is not None else attention_mask[:, -logits_to_keep:]
        logps_BC = completion_logps(inner, input_ids, attention_mask, wanted_BC, self.temperature)
        self._last_logps_BC = logps_BC.detach()
        return logps_BC, torch.zeros_like(logps_BC), None

    def _measure(self, inputs: Tensors) -> None:
        """How far trainer and sampler are apart: before the step they are the same weights, so this is the price of two implementations."""
        if self._wanted_BC is None or not hasattr(self, "_last_logps_BC"):
            return
        gap_BC = (self._last_logps_BC - inputs["old_per_token_logps"]).abs() * self._wanted_BC
        self.measured.setdefault("logprob_gap", []).append(float(gap_BC.sum() / self._wanted_BC.sum().clamp(min=1)))

    def _clip_grad_norm(self, model: nn.Module) -> Any:
        norm: Any = super()._clip_grad_norm(model)
        self.measured.setdefault("gradient_norm", []).append(float(norm))
        return norm

    def measurements(self) -> dict[str, float]:
        """What was measured since the last look: means; the collection starts anew."""
        values: dict[str, list[float]] = dict(self.measured)
        for theirs, ours in _TRL_METRICS.items():
            values[ours] = list(self._metrics["train"].get(theirs, []))
        self.measured = {}
        self._metrics["train"].clear()
        for log in self._logs.values():
            log.clear()  # the texts of all completions, kept for a table that nobody shows
        return {name: sum(found) / len(found) for name, found in values.items() if found}

    def floating_point_ops(self, inputs: Any) -> int:
        """Not counted."""
        return 0


_TRL_METRICS = {"kl": "kl", "clip_ratio/region_mean": "clipped"}


def _totals(prompts: Any, completions: Any, total: list[float | None], **_: Any) -> list[float | None]:
    """TRL's reward function: what the reward service said. It only feeds TRL's log, its advantages are replaced."""
    return total
