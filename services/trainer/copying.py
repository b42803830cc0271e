"""Generic copying: the tiny model's pre-training.

A sequence is a few random segments, then the same segments in another order; the loss is on the repeat, except on each segment's first
token, which nothing determines. Its own loss barely moves in half a minute, yet a model that had it learns to copy entities from a query
into a call two to three times sooner.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from transformers import PreTrainedModel

BATCH = 16
LENGTH = 96
SEGMENTS = (3, 8)
WARM_UP_STEPS = 30
IGNORED = -100


@dataclass(frozen=True)
class CopyingReport:
    """What the warm-up took."""

    steps: int
    tokens: int
    seconds: float
    loss: float | None


def copying_batch(batch: int, length: int, first_id: int, vocabulary: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """(ids_BT, labels_BT): random segments, then their repeat in shuffled order; labels are -100 but on the repeat."""
    ids_BT = torch.randint(first_id, vocabulary, (batch, length), generator=generator)
    labels_BT = torch.full((batch, length), IGNORED)
    for row in range(batch):
        segments = int(torch.randint(SEGMENTS[0], SEGMENTS[1] + 1, (1,), generator=generator))
        size = length // 2 // segments
        order = torch.randperm(segments, generator=generator)
        repeat = ids_BT[row, : segments * size].view(segments, size)[order].reshape(-1)
        labels = repeat.clone()
        labels[::size] = IGNORED
        ids_BT[row, length - segments * size :] = repeat
        labels_BT[row, length - segments * size :] = labels
    return ids_BT, labels_BT


def warm_up(
    model: PreTrainedModel,
    optimizer: torch.optim.Optimizer,
    seconds: float,
    *,
    seed: int,
    first_id: int = 0,
    stop: Callable[[], bool] = lambda: False,
) -> CopyingReport:
    """Trains on generic copying for `seconds`; the optimizer's rates are as they were afterwards, its moments go on."""
    if seconds <= 0:
        return CopyingReport(0, 0, 0.0, None)
    generator = torch.Generator().manual_seed(seed)
    rates = [group["lr"] for group in optimizer.param_groups]
    vocabulary, started, steps, loss = model.config.vocab_size, time.perf_counter(), 0, torch.zeros(())
    model.train()
    while time.perf_counter() - started < seconds and not stop():
        ids_BT, labels_BT = (t.to(model.device) for t in copying_batch(BATCH, LENGTH, first_id, vocabulary, generator))
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * min(1.0, (steps + 1) / WARM_UP_STEPS)
        loss = selected_loss(model, ids_BT, labels_BT, None)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        steps += 1
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
    return CopyingReport(steps, steps * BATCH * LENGTH, time.perf_counter() - started, float(loss.detach()))


def selected_loss(model: PreTrainedModel, ids_BT: torch.Tensor, labels_BT: torch.Tensor, tokens: torch.Tensor | int | None) -> torch.Tensor:
    """Cross-entropy of the next token, its sum divided by `tokens` (None: the mean). Logits are made at the labelled positions only.

    Rows are padded on the right and no attention mask is given: under causal attention a later pad cannot reach an earlier position.
    """
    hidden_BTd = model.base_model(input_ids=ids_BT, use_cache=False).last_hidden_state[:, :-1]
    targets_BT = labels_BT[:, 1:]
    chosen = targets_BT != IGNORED
    head = model.get_output_embeddings()
    assert head is not None, "a language model has a head"
    logits_NV = head(hidden_BTd[chosen]).float()
    if tokens is None:
        return nn.functional.cross_entropy(logits_NV, targets_BT[chosen])
    return nn.functional.cross_entropy(logits_NV, targets_BT[chosen], reduction="sum") / torch.as_tensor(tokens).clamp(min=1)
