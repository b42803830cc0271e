import orjson
import pytest
import torch

from services.trainer import checkpoints
from services.trainer.optimizers import Rule, optimizer_of
from tests.trainer.conftest import make_model


def step(model, optimizer, seed):
    torch.manual_seed(seed)
    ids = torch.randint(0, 50, (2, 12))
    loss = model(input_ids=ids, labels=ids).loss
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return float(loss.detach())


@pytest.mark.parametrize("rule", [Rule.ADAMW, Rule.MUON])
def test_a_restored_run_takes_the_very_steps_of_the_one_that_was_not_interrupted(tmp_path, tiny_model, rule):
    optimizer = optimizer_of(tiny_model, rule, rate=1e-2, matrix_rate=1e-2)
    for seed in range(3):
        step(tiny_model, optimizer, seed)
    checkpoints.save(tmp_path, tiny_model, optimizer, step=3, state={"seconds": 1.5})
    expected = [step(tiny_model, optimizer, seed) for seed in (3, 4)]

    other = make_model(tiny_model.config.vocab_size, seed=9)
    again = optimizer_of(other, rule, rate=1e-2, matrix_rate=1e-2)
    found = checkpoints.newest(tmp_path)
    assert found is not None
    found.restore_model(other)
    found.restore_optimizer(again)
    assert found.manifest.step == 3
    assert found.manifest.state == {"seconds": 1.5}
    assert [step(other, again, seed) for seed in (3, 4)] == expected


def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(tmp_path, tiny_model):
    optimizer = optimizer_of(tiny_model, Rule.ADAMW, rate=1e-2, matrix_rate=1e-2)
    for number in (1, 2, 3):
        step(tiny_model, optimizer, number)
        checkpoints.save(tmp_path, tiny_model, optimizer, step=number, state={})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-000000002", "step-000000003"]
    broken = tmp_path / "step-000000003" / "model.safetensors"
    broken.write_bytes(broken.read_bytes()[:-1])
    found = checkpoints.newest(tmp_path)
    assert found is not None
    assert found.manifest.step == 2


def test_nothing_in_a_checkpoint_is_a_pickle_and_a_half_written_one_is_not_seen(tmp_path, tiny_model):
    optimizer = optimizer_of(tiny_model, Rule.ADAMW, rate=1e-2, matrix_rate=1e-2)
    step(tiny_model, optimizer, 0)
    (tmp_path / ".partial-dead").mkdir()
    assert checkpoints.newest(tmp_path) is None
    directory = checkpoints.save(tmp_path, tiny_model, optimizer, step=1, state={})
    assert {p.suffix for p in directory.iterdir()} == {".safetensors", ".json"}
    assert [p.name for p in tmp_path.iterdir()] == ["step-000000001"]
    assert orjson.loads((directory / "manifest.json").read_bytes())["step"] == 1
