import hashlib

import orjson
import pytest
import torch
from peft import LoraConfig, get_peft_model

from cacherl.errors import ConflictError, DataError
from services.trainer.weights import WeightsRoot
from tests.trainer.conftest import make_model


@pytest.fixture
def root(tmp_path):
    return WeightsRoot(tmp_path / "weights")


def test_a_version_is_read_as_it_was_written_and_every_hash_is_in_its_manifest(root, tiny_model, tiny_tokenizer):
    written = root.write("demo", 3, tiny_model, tiny_tokenizer, {"job": "job_1"})
    directory = root.directory(written.path)
    assert written.path == "demo/3"
    assert written.sha256 == hashlib.sha256((directory / "model.safetensors").read_bytes()).hexdigest()
    manifest = orjson.loads((directory / "manifest.json").read_bytes())
    assert set(manifest["files"]) == {p.name for p in directory.iterdir()} - {"manifest.json"}
    assert {"config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"} <= set(
        manifest["files"]
    )
    assert orjson.loads((directory / "config.json").read_bytes())["architectures"] == ["Qwen3ForCausalLM"]
    model, tokenizer = root.load(written.path)
    for name, tensor in tiny_model.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name])
    assert tokenizer.chat_template == tiny_tokenizer.chat_template
    assert tokenizer("Lima G7")["input_ids"] == tiny_tokenizer("Lima G7")["input_ids"]


def test_a_version_never_changes_and_nothing_half_written_stays(root, tiny_model, tiny_tokenizer):
    root.write("demo", 0, tiny_model, tiny_tokenizer, {})
    with pytest.raises(ConflictError):
        root.write("demo", 0, tiny_model, tiny_tokenizer, {})
    without = type(tiny_tokenizer)(tokenizer_object=tiny_tokenizer.backend_tokenizer)
    with pytest.raises(DataError):
        root.write("demo", 1, tiny_model, without, {})
    assert sorted(p.name for p in (root.root / "demo").iterdir()) == ["0"]


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")  # peft asks by the old name
def test_an_adapter_is_published_merged_and_stays_an_adapter(root, tiny_tokenizer):
    base = make_model(len(tiny_tokenizer))
    adapted = get_peft_model(base, LoraConfig(r=2, lora_alpha=4, target_modules="all-linear", task_type="CAUSAL_LM"))
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    ids = torch.arange(10)[None]
    adapted.eval()
    with torch.no_grad():
        expected = adapted(input_ids=ids).logits
        written = root.write("demo", 1, adapted, tiny_tokenizer, {})
        model, _ = root.load(written.path)
        torch.testing.assert_close(model.eval()(input_ids=ids).logits, expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(adapted(input_ids=ids).logits, expected, rtol=1e-4, atol=1e-5)
    assert sorted(p.name for p in (root.directory(written.path) / "adapter").iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]


def test_a_path_that_leads_out_of_the_root_is_refused(root):
    with pytest.raises(DataError):
        root.directory("../elsewhere")
