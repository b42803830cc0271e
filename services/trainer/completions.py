"""How the rows of a GRPO batch go through the model: one forward pass per prompt, its completions after it, little padding.

The members of a group have one prompt, so it is computed once and its keys and values are shared by their completions (Hydragen,
arXiv:2402.05099, does so for inference; here gradients flow back through the shared part). Logits are made at sampled positions only.
Rows come as TRL makes them: prompts padded on the left, completions on the right.
"""

import torch
from peft import PeftModel
from torch import nn
from transformers import DynamicCache, PreTrainedModel

Tensors = dict[str, torch.Tensor]


def completion_logps(
    model: nn.Module, ids_BT: torch.Tensor, attention_BT: torch.Tensor, wanted_BC: torch.Tensor, temperature: float
) -> torch.Tensor:
    """Log-probs under softmax(logits / temperature) of the last C ids, where wanted; zero elsewhere."""
    base: PreTrainedModel = model.get_base_model() if isinstance(model, PeftModel) else model  # pyright: ignore[reportAssignmentType]
    completion = wanted_BC.shape[1]
    prompts_BP, prompt_mask_BP = ids_BT[:, :-completion], attention_BT[:, :-completion]
    marked_BP = torch.where(prompt_mask_BP > 0, prompts_BP, -1)
    _, group_B = torch.unique(marked_BP, dim=0, return_inverse=True)
    hidden_BCd: torch.Tensor | None = None
    for group in range(int(group_B.max()) + 1):
        rows_b = (group_B == group).nonzero()[:, 0]
        length = int(attention_BT[rows_b, -completion:].sum(1).max())
        prompt_p = prompts_BP[rows_b[0]][prompt_mask_BP[rows_b[0]] > 0]
        found_bcd = _before_each(base, prompt_p, ids_BT[rows_b, -completion:][:, :length])
        if hidden_BCd is None:
            hidden_BCd = found_bcd.new_zeros((len(ids_BT), completion, found_bcd.shape[-1]))
        hidden_BCd = hidden_BCd.index_put((rows_b[:, None], torch.arange(length, device=rows_b.device)), found_bcd)
    assert hidden_BCd is not None, "a batch has a row"
    rows_N, positions_N = wanted_BC.nonzero(as_tuple=True)
    head = base.get_output_embeddings()
    assert head is not None, "a language model has a head"
    logits_NV = head(hidden_BCd[rows_N, positions_N]).float() / temperature
    logps_N = -nn.functional.cross_entropy(logits_NV, ids_BT[:, -completion:][rows_N, positions_N], reduction="none")
    nothing_BC = hidden_BCd.new_zeros(wanted_BC.shape) + 0.0 * hidden_BCd.sum()  # also a batch without a wanted token has a gradient
    return nothing_BC.index_put((rows_N, positions_N), logps_N, accumulate=True)


def _before_each(base: PreTrainedModel, prompt_P: torch.Tensor, completions_BC: torch.Tensor) -> torch.Tensor:
    """The hidden states that predict each id of the completions of one prompt: (B, C, d)."""
    rows, length = completions_BC.shape
    if rows == 1 or base.is_activation_checkpointing:  # checkpointing recomputes layer by layer and keeps no keys and values
        whole_BT = torch.cat([prompt_P.expand(rows, -1), completions_BC], 1)
        return base.base_model(input_ids=whole_BT, use_cache=False).last_hidden_state[:, len(prompt_P) - 1 : -1]
    cache = DynamicCache(config=base.config)
    prompt_1Pd = base.base_model(input_ids=prompt_P[None], cache=cache, use_cache=True).last_hidden_state
    last_B1d = prompt_1Pd[:, -1:].expand(rows, -1, -1)
    if length == 1:
        return last_B1d
    cache.batch_repeat_interleave(rows)
    rest_BCd = base.base_model(input_ids=completions_BC[:, :-1], cache=cache, use_cache=True).last_hidden_state
    return torch.cat([last_B1d, rest_BCd], 1)


def micro_batches(batch: Tensors, parts: int) -> list[Tensors]:
    """A batch in `parts`: rows of one prompt together, alike in length, padding cut off; rows without a sampled token are left out.

    Normalisation is over the whole batch (`num_items_in_batch`), so the partition changes no gradient.
    """
    sampled_BC = batch["completion_mask"] * batch["tool_mask"]
    live = [row for row in range(len(sampled_BC)) if sampled_BC[row].any()]
    pieces = _pieces(batch, live, parts) if live else []
    empty = (sampled_BC.sum(1) == 0).nonzero()[:, 0].tolist()
    while len(pieces) < parts:
        if empty:
            pieces.append([empty[0]])
        else:  # no row to fill up with: the largest part gives one
            largest = max(pieces, key=len)
            pieces.append([largest.pop()])
    return [_rows(batch, rows) for rows in pieces]


def _pieces(batch: Tensors, live: list[int], parts: int) -> list[list[int]]:
    """At most `parts` pieces: each prompt's rows cut at the size of an even partition, the smallest neighbours joined where need be."""
    size = -(-len(batch["completion_mask"]) // parts)
    lengths_B = batch["completion_mask"].sum(1).tolist()
    prompts: dict[tuple[int, ...], list[int]] = {}
    for row in live:
        prompts.setdefault(tuple(batch["prompt_ids"][row][batch["prompt_mask"][row] > 0].tolist()), []).append(row)
    pieces: list[list[int]] = []
    for rows in prompts.values():
        rows.sort(key=lambda row: lengths_B[row])
        pieces += [rows[at : at + size] for at in range(0, len(rows), size)]
    while len(pieces) > parts:
        at = min(range(len(pieces) - 1), key=lambda n: len(pieces[n]) + len(pieces[n + 1]))
        pieces[at : at + 2] = [pieces[at] + pieces[at + 1]]
    return pieces


def _rows(batch: Tensors, rows: list[int]) -> Tensors:
    chosen = {name: value[rows] if value.ndim else value for name, value in batch.items()}
    prompt, completion = (int(chosen[f"{part}_mask"].sum(1).max()) for part in ("prompt", "completion"))
    for name, value in chosen.items():
        if name.startswith("prompt_"):
            chosen[name] = value[:, -prompt:]
        elif value.ndim == 2:
            chosen[name] = value[:, :completion]
    return chosen
