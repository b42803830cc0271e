import pytest
import torch
from trl import SFTConfig, SFTTrainer

from cacherl.api.trainer import Budget, InitSpec, ModelSpec, Plateau, SftSpec, TokenizerSpec
from services.trainer import init, sft
from services.trainer.copying import selected_loss
from services.trainer.demonstrations import RowMaker, prepare, renderer_of
from services.trainer.progress import Silent, Stop, StoppedError
from tests.trainer.demonstration import demonstration


@pytest.fixture(scope="module")
def start():
    spec = InitSpec(
        policy="base",
        datasets=["d"],
        tokenizer=TokenizerSpec(vocab_size=500),
        model=ModelSpec(hidden=16, layers=2, heads=2, kv_heads=1, head_dim=8, feed_forward=32, context=512),
    )
    return lambda: init.build(lambda: (demonstration(n) for n in range(60)), spec)


@pytest.fixture
def prepared(start, tmp_path):
    _, tokenizer = start()
    return prepare((demonstration(n) for n in range(60)), renderer_of(tokenizer), tmp_path / "rows", max_length=512, hold_back=6, seed=0)


def spec(**fields):
    return SftSpec(**{"init_policy": "a", "policy": "b", "datasets": ["d"], "learning_rate": 3e-3, "budget": Budget(steps=12), **fields})


class Recorder(Silent):
    def __init__(self, stop_at=None):
        self.records, self.asked, self.stop_at = [], 0, stop_at

    def metric(self, record):
        self.records.append(dict(record))

    def stopping(self):
        self.asked += 1
        return Stop.CHECKPOINT if self.stop_at is not None and self.asked >= self.stop_at else None


def test_only_what_the_assistant_wrote_carries_loss(start):
    _, tokenizer = start()
    renderer, example = renderer_of(tokenizer), demonstration(5)
    row = RowMaker(renderer).row(example)
    kept = renderer.decode([token for token, kept in zip(row.ids, row.mask, strict=True) if kept])
    assert kept == (
        '<think>\nThe city is Quito.\n</think>\n\n<tool_call>\n{"name": "stays.find", "arguments": {"city": "Quito", "nights": 5}}\n'
        "</tool_call><|im_end|><think>\n\n</think>\n\nRoom R5 is yours.<|im_end|>"
    )
    assert renderer.decode(list(row.ids[row.turns :])).startswith("<|im_start|>user\nA room in Quito")


def test_the_loss_is_the_mean_over_assistant_tokens_computed_by_hand(start, prepared):
    model, tokenizer = start()
    table = prepared.train
    batch = table.batch([0, 1, 2], tokenizer.pad_token_id)
    total, count = 0.0, 0
    for row in range(3):
        one = table.batch([row], tokenizer.pad_token_id)
        logits = model(input_ids=one["input_ids"]).logits[0, :-1].detach()
        for position, target in enumerate(one["labels"][0, 1:].tolist()):
            if target != -100:
                total -= float(torch.log_softmax(logits[position], -1)[target])
                count += 1
    ours = selected_loss(model, batch["input_ids"], batch["labels"], None)
    assert float(ours.detach()) == pytest.approx(total / count, rel=1e-5)


def test_our_loss_and_its_gradient_are_trls(start, prepared, tmp_path):
    model, tokenizer = start()
    reference = SFTTrainer(
        model=model,
        args=SFTConfig(
            output_dir=str(tmp_path), use_cpu=True, bf16=False, activation_checkpointing=False, report_to="none", max_length=None
        ),
        train_dataset=prepared.train.dataset.select_columns(["input_ids", "labels"]),
        processing_class=tokenizer,
    )
    batch = prepared.train.batch([0, 1, 2, 3], tokenizer.pad_token_id)
    count = (batch["labels"][:, 1:] != -100).sum()
    attention = (batch["input_ids"] != tokenizer.pad_token_id).long()
    theirs = reference.compute_loss(model, {**batch, "attention_mask": attention}, num_items_in_batch=count)
    theirs.backward()
    gradients = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    ours = selected_loss(model, batch["input_ids"], batch["labels"], count)
    ours.backward()
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    for expected, parameter in zip(gradients, model.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, expected, rtol=1e-4, atol=1e-6)


def test_training_lowers_the_loss_and_reports_what_it_took(start, prepared, tmp_path):
    model, tokenizer = start()
    recorder = Recorder()
    wanted = spec(optimizer="muon", budget=Budget(steps=60), turns_only_share=0.3, copying_seconds=0.2)
    report = sft.fit(model, tokenizer, prepared.train, wanted, held_back=prepared.held_back, progress=recorder, work=tmp_path)
    untrained = sft.fit(
        start()[0], tokenizer, prepared.train, spec(budget=Budget(steps=1)), held_back=prepared.held_back, work=tmp_path / "u"
    )
    assert report.steps == 60
    assert report.ended_by == "budget"
    assert report.held_back_loss < 0.7 * untrained.held_back_loss
    assert 0 < report.trained_tokens < report.tokens
    assert report.copying_steps > 0
    assert recorder.records[-1]["step"] == 60


def test_a_budget_of_seconds_ends_training(start, prepared, tmp_path):
    model, tokenizer = start()
    report = sft.fit(model, tokenizer, prepared.train, spec(budget=Budget(seconds=0.5)), work=tmp_path)
    assert report.steps > 1
    assert 0.5 <= report.seconds < 2.5


def test_the_plateau_rule_ends_training_once_the_held_back_loss_stands(start, prepared, tmp_path):
    model, tokenizer = start()
    wanted = spec(budget=Budget(steps=500), learning_rate=1e-9, plateau=Plateau(every_steps=2, patience=3, held_back=6))
    report = sft.fit(model, tokenizer, prepared.train, wanted, held_back=prepared.held_back, work=tmp_path)
    assert report.ended_by == "plateau"
    assert report.steps == 8  # the first look improves on nothing known, three more do not improve on it


def test_a_stopped_run_goes_on_to_the_weights_of_one_that_was_not_stopped(start, prepared, tmp_path):
    whole, tokenizer = start()
    sft.fit(whole, tokenizer, prepared.train, spec(optimizer="muon"), work=tmp_path / "whole")
    first, _ = start()
    with pytest.raises(StoppedError):
        sft.fit(first, tokenizer, prepared.train, spec(optimizer="muon"), progress=Recorder(stop_at=6), work=tmp_path / "cut")
    again, _ = start()
    report = sft.fit(again, tokenizer, prepared.train, spec(optimizer="muon"), work=tmp_path / "cut")
    assert report.steps == 12
    for a, b in zip(whole.parameters(), again.parameters(), strict=True):
        torch.testing.assert_close(a, b)
