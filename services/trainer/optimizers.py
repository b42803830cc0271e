"""The optimizers of SFT: AdamW, or Muon on the matrices with AdamW on the rest.

Muon (Jordan et al. 2024, "Muon: an optimizer for hidden layers") replaces the momentum of a matrix by its nearest orthogonal matrix,
found by five Newton-Schulz iterations. `torch.optim.Muon` iterates in bfloat16, which a CPU emulates slowly; here it is float32 and
matrices of the same shape go through it together. Embeddings, the head and vectors are AdamW's: one optimizer with two kinds of group, so
that one state is saved.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable
from enum import StrEnum
from typing import Any

import torch
from torch import nn
from torch.optim.adamw import adamw

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
NEWTON_SCHULZ_STEPS = 5
MOMENTUM = 0.95
BETAS = (0.9, 0.98)
EPSILON = 1e-8


class Rule(StrEnum):
    """How a parameter group is stepped."""

    MUON = "muon"
    ADAMW = "adamw"


def orthogonalised(update_Nab: torch.Tensor) -> torch.Tensor:
    """The nearest (semi-)orthogonal matrices of a batch, roughly: every singular value comes out between 0.7 and 1.2."""
    a, b, c = NEWTON_SCHULZ
    tall = update_Nab.shape[1] > update_Nab.shape[2]
    x = update_Nab.mT if tall else update_Nab
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(NEWTON_SCHULZ_STEPS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x


class MuonAdamW(torch.optim.Optimizer):
    """Muon on groups of rule `muon` (matrices only), AdamW without weight decay on groups of rule `adamw`."""

    def __init__(self, matrices: Iterable[nn.Parameter], rest: Iterable[nn.Parameter], *, matrix_rate: float, rate: float) -> None:
        groups: list[dict[str, Any]] = [
            {"params": list(matrices), "lr": matrix_rate, "rule": Rule.MUON.value},
            {"params": list(rest), "lr": rate, "rule": Rule.ADAMW.value},
        ]
        super().__init__([group for group in groups if group["params"]], {"lr": rate, "rule": Rule.ADAMW.value})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """One step of both rules."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if params and group["rule"] == Rule.MUON.value:
                self._step_matrices(params, group["lr"])
            elif params:
                self._step_rest(params, group["lr"])
        return loss

    def _step_matrices(self, params: list[nn.Parameter], rate: float) -> None:
        shapes: dict[torch.Size, list[nn.Parameter]] = defaultdict(list)
        for parameter in params:
            if "momentum" not in self.state[parameter]:
                self.state[parameter]["momentum"] = torch.zeros_like(parameter)
            shapes[parameter.shape].append(parameter)
        for shape, same in shapes.items():
            update_Nab = torch.stack([self._nesterov(p) for p in same])
            # Tall matrices take larger steps, so that the root mean square of an update does not depend on the shape.
            scale = rate * max(1.0, shape[0] / shape[1]) ** 0.5
            for parameter, step in zip(same, orthogonalised(update_Nab), strict=True):
                parameter.add_(step, alpha=-scale)

    def _nesterov(self, parameter: nn.Parameter) -> torch.Tensor:
        assert parameter.grad is not None
        momentum: torch.Tensor = self.state[parameter]["momentum"]
        momentum.lerp_(parameter.grad, 1 - MOMENTUM)
        return parameter.grad.lerp(momentum, MOMENTUM)

    def _step_rest(self, params: list[nn.Parameter], rate: float) -> None:
        for parameter in params:
            if "exp_avg" not in self.state[parameter]:
                self.state[parameter].update(
                    exp_avg=torch.zeros_like(parameter), exp_avg_sq=torch.zeros_like(parameter), step=torch.zeros(())
                )
        states = [self.state[p] for p in params]
        adamw(
            list(params),
            [p.grad for p in params if p.grad is not None],
            [s["exp_avg"] for s in states],
            [s["exp_avg_sq"] for s in states],
            [],
            [s["step"] for s in states],
            foreach=True,
            amsgrad=False,
            beta1=BETAS[0],
            beta2=BETAS[1],
            lr=rate,
            weight_decay=0.0,
            eps=EPSILON,
            maximize=False,
        )


def optimizer_of(
    model: nn.Module, rule: Rule, *, rate: float, matrix_rate: float, betas: tuple[float, float] = BETAS
) -> torch.optim.Optimizer:
    """The optimizer of a model's trainable parameters, without weight decay."""
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    if rule is Rule.ADAMW:
        return torch.optim.AdamW([p for _, p in named], lr=rate, betas=betas, eps=EPSILON, weight_decay=0.0, foreach=True)
    matrices = [p for name, p in named if is_matrix(name, p)]
    rest = [p for name, p in named if not is_matrix(name, p)]
    return MuonAdamW(matrices, rest, matrix_rate=matrix_rate, rate=rate)


def is_matrix(name: str, parameter: torch.Tensor) -> bool:
    """Whether Muon steps it: a matrix between hidden layers, so neither the embedding nor the head."""
    return parameter.ndim == 2 and "embed" not in name and "lm_head" not in name
