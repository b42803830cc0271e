"""What TRL's real trainer does with our samples: a tiny random policy, real steps."""

import random

import pytest
import torch
from datasets import Dataset
from trl.trainer.grpo_trainer import GRPOTrainer

from cacherl.api.trainer import GrpoSpec
from services.trainer.advantage_trainer import AdvantageTrainer, Sample
from services.trainer.completions import completion_logps, micro_batches
from services.trainer.grpo import arguments
from services.trainer.optimizers import Rule, optimizer_of
from services.trainer.weights import WeightsRoot

TASKS, GROUP = 2, 4
ADVANTAGES = [0.1234567890123456, -1 / 3, None, 0.7071067811865476, 2 / 7, -0.9999999999999999, 1e-9, -0.5]


def spec(**fields):
    base = {"init_policy": "a", "policy": "b", "tasks": "t", "cache": "c", "tasks_per_step": TASKS, "group_size": GROUP, "micro_batch": 4}
    return GrpoSpec(**{**base, "learning_rate": 1e-2, "budget": {"steps": 1}, **fields})


def sampled_by(model, advantages=ADVANTAGES, seed=0):
    """Samples whose stored log-probs are the model's own: two turns with an injected piece between, lengths that differ, three a prompt."""
    chance, samples, prompt = random.Random(seed), [], []
    for number, advantage in enumerate(advantages):
        if number % 3 == 0:
            prompt = [chance.randrange(3, 250) for _ in range(chance.randint(3, 9))]
        mask = [1] * chance.randint(2, 5) + [0] * chance.randint(1, 6) + [1] * chance.randint(1, 4)
        completion = [chance.randrange(3, 250) for _ in mask]
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([prompt + completion])).logits[0]
        logps = torch.log_softmax(logits[len(prompt) - 1 : -1], -1).gather(1, torch.tensor(completion)[:, None])[:, 0].tolist()
        kept = [value if one else 0.0 for value, one in zip(logps, mask, strict=True)]
        samples.append(Sample(prompt, completion, mask, kept, advantage, 0.5 if advantage is not None else None))
    return samples


class Witness(AdvantageTrainer):
    """Remembers what the loss was given and what it came to."""

    def _compute_loss(self, model, inputs):
        loss = super()._compute_loss(model, inputs)
        self.seen.append({name: value.detach().clone() for name, value in inputs.items()})
        self.losses.append(float(loss.detach()))
        return loss


def trainer_on(model, tokenizer, samples, tmp_path, kind=Witness, **fields):
    kwargs = {
        "model": model,
        "args": arguments(spec(**fields), str(tmp_path / "trl")),
        "train_dataset": Dataset.from_dict({"prompt": ["-"] * (TASKS * 4)}),
        "processing_class": tokenizer,
    }
    optimizer = optimizer_of(model, Rule.ADAMW, rate=1e-2, matrix_rate=1e-2)
    trainer = kind(**kwargs, optimizers=(optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1.0)))
    trainer.collect, trainer.seen, trainer.losses = lambda: samples, [], []
    return trainer


@pytest.fixture
def samples(tiny_model):
    return sampled_by(tiny_model)


def test_the_loss_saw_the_service_s_advantages_to_the_last_digit(tiny_model, tiny_tokenizer, samples, tmp_path):
    trainer = trainer_on(tiny_model, tiny_tokenizer, samples, tmp_path)
    trainer.train()
    seen = sorted(value for batch in trainer.seen for value in batch["advantages"].tolist())
    assert seen == sorted(a for a in ADVANTAGES if a is not None)  # equal as doubles; the unscored episode is no row at all


def test_the_loss_and_its_gradient_are_what_the_formula_says(tiny_model, tiny_tokenizer, samples, tmp_path):
    trainer = trainer_on(tiny_model, tiny_tokenizer, samples, tmp_path)
    by_hand, tokens = torch.zeros((), dtype=torch.float64), 0
    for sample in samples:
        if sample.advantage is None:
            continue
        logits = tiny_model(input_ids=torch.tensor([sample.prompt_ids + sample.completion_ids])).logits[0]
        logps = torch.log_softmax(logits[len(sample.prompt_ids) - 1 : -1], -1)
        for position, (token, kept) in enumerate(zip(sample.completion_ids, sample.mask, strict=True)):
            if kept:
                ratio = torch.exp(logps[position, token] - sample.logprobs[position])
                by_hand -= torch.min(ratio * sample.advantage, ratio.clamp(0.8, 1.2) * sample.advantage)
                tokens += 1
    expected = by_hand / tokens
    expected.backward()
    gradients = [p.grad.clone() for p in tiny_model.parameters()]
    tiny_model.zero_grad()
    taken = {}
    trainer._clip_grad_norm = lambda model: taken.setdefault("grads", [p.grad.clone() for p in model.parameters()]) and torch.zeros(())
    trainer.train()
    assert sum(trainer.losses) == pytest.approx(float(expected.detach()), rel=1e-4)
    for ours, theirs in zip(taken["grads"], gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("poison", [-1e9, 5.0, float("inf"), float("nan")])
def test_the_stored_log_prob_of_an_injected_token_cannot_change_the_loss(tiny_model, tiny_tokenizer, samples, tmp_path, poison):
    poisoned = [
        Sample(
            s.prompt_ids,
            s.completion_ids,
            s.mask,
            [v if k else poison for v, k in zip(s.logprobs, s.mask, strict=True)],
            s.advantage,
            s.total,
        )
        for s in samples
    ]
    state = {name: tensor.clone() for name, tensor in tiny_model.state_dict().items()}
    clean = trainer_on(tiny_model, tiny_tokenizer, samples, tmp_path)
    clean.train()
    stepped = [p.detach().clone() for p in tiny_model.parameters()]
    tiny_model.load_state_dict(state)
    dirty = trainer_on(tiny_model, tiny_tokenizer, poisoned, tmp_path)
    dirty.train()
    assert dirty.losses == clean.losses
    assert all(torch.equal(a, b) for a, b in zip(stepped, tiny_model.parameters(), strict=True))


def test_a_token_that_the_sampler_thought_unlikely_counts_more_up_to_the_clip(tiny_model, tiny_tokenizer, samples, tmp_path):
    one = [Sample([5, 6], [7], [1], [0.0], advantage, 0.0) for advantage in (1.0, *[None] * 7)]
    logp = float(
        completion_logps(tiny_model, torch.tensor([[5, 6, 7]]), torch.ones(1, 3, dtype=torch.long), torch.ones(1, 1), 1.0).detach()
    )
    for off, ratio in ((0.0, 1.0), (0.1, 1.10517), (0.5, 1.2), (-0.5, 0.60653)):
        moved = [Sample([5, 6], [7], [1], [logp - off], s.advantage, 0.0) for s in one]
        trainer = trainer_on(tiny_model, tiny_tokenizer, moved, tmp_path, learning_rate=1e-12)
        trainer.args.learning_rate = 0.0
        trainer.optimizer.param_groups[0]["lr"] = 0.0
        trainer.lr_scheduler.base_lrs = [0.0]
        trainer.train()
        assert sum(trainer.losses) == pytest.approx(-ratio, rel=1e-4)


def test_a_batch_of_dead_rollouts_moves_nothing_and_breaks_nothing(tiny_model, tiny_tokenizer, tmp_path):
    dead = [Sample([5], [0], [0], [0.0], None, None)] * (TASKS * GROUP)
    before = [p.detach().clone() for p in tiny_model.parameters()]
    trainer = trainer_on(tiny_model, tiny_tokenizer, dead, tmp_path)
    trainer.train()
    assert trainer.losses == [0.0, 0.0]
    assert all(torch.equal(a, b) for a, b in zip(before, tiny_model.parameters(), strict=True))


def test_our_log_probs_and_their_gradient_are_trls(tiny_model, tiny_tokenizer, samples, tmp_path):
    root = WeightsRoot(tmp_path / "weights")
    root.write("start", 0, tiny_model, tiny_tokenizer, {})
    tiny_model, _ = root.load("start/0")  # TRL reads the reference policy from where the policy came from
    trainer = trainer_on(tiny_model, tiny_tokenizer, samples, tmp_path, kl=0.1)
    batch = trainer._generate_and_score_completions([{"prompt": "-"} for _ in samples])
    ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1)
    attention = torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1)
    wanted = batch["completion_mask"] * batch["tool_mask"]
    keep = batch["completion_ids"].shape[1]
    theirs, _, _ = GRPOTrainer._get_per_token_logps_and_entropies(trainer, tiny_model, ids, attention, keep)
    ours = completion_logps(tiny_model, ids, attention, wanted, trainer.temperature)
    torch.testing.assert_close(ours, theirs * wanted, rtol=1e-4, atol=1e-5)
    (theirs * wanted).sum().backward()
    expected = [p.grad.clone() for p in tiny_model.parameters()]
    tiny_model.zero_grad()
    ours.sum().backward()
    for parameter, gradient in zip(tiny_model.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(batch["ref_per_token_logps"] * wanted, theirs.detach() * wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("parts", [1, 2, 3, 8])
def test_micro_batches_hold_every_live_row_once_with_its_padding_cut(tiny_model, tiny_tokenizer, samples, tmp_path, parts):
    trainer = trainer_on(tiny_model, tiny_tokenizer, samples, tmp_path)
    batch = trainer._generate_and_score_completions([{"prompt": "-"} for _ in samples])
    found = micro_batches(batch, parts)
    assert len(found) == parts
    rows = [
        tuple(ids[mask.bool()].tolist())
        for part in found
        for ids, mask, sampled in zip(
            part["completion_ids"], part["completion_mask"], part["completion_mask"] * part["tool_mask"], strict=True
        )
        if sampled.any()
    ]
    assert sorted(rows) == sorted(tuple(s.completion_ids) for s in samples if s.advantage is not None)
    for part in found:
        assert part["completion_mask"].any(0).all()
        assert part["prompt_mask"].any(0).all()


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")  # peft asks by the old name
def test_lora_trains_the_adapter_alone(tiny_model, tiny_tokenizer, samples, tmp_path):
    from peft import LoraConfig, get_peft_model  # noqa: PLC0415 - slow, and only here

    adapted = get_peft_model(tiny_model, LoraConfig(r=2, lora_alpha=2, target_modules="all-linear", task_type="CAUSAL_LM"))
    trainer = trainer_on(adapted, tiny_tokenizer, samples, tmp_path, kl=0.05)
    before = {name: p.detach().clone() for name, p in adapted.named_parameters()}
    trainer.train()
    changed = {name for name, p in adapted.named_parameters() if not torch.equal(p, before[name])}
    assert changed
    assert all("lora_" in name for name in changed)
