"""Tiny Qwen3 policies with random weights and a tokenizer, as `save_pretrained` writes them, and what transformers makes of them."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import orjson
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM
from transformers.utils import logging

VOCABULARY = 256
END_IDS = (2, 3, 4, 5)
"""End-of-turn ids: several, so that a random policy ends a turn now and then."""

logging.disable_progress_bar()


def write_policy(directory: Path, seed: int, *, layers: int = 2, hidden: int = 48, spread: float = 0.2, tied: bool = True) -> str:
    """Writes a policy; the digest of its weights. `spread` is the deviation of its weights: larger is more peaked."""
    config = Qwen3Config(
        vocab_size=VOCABULARY,
        hidden_size=hidden,
        intermediate_size=3 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=hidden // 4,
        tie_word_embeddings=tied,
        max_position_embeddings=2048,
        initializer_range=spread,
        eos_token_id=list(END_IDS),
        pad_token_id=0,
        bos_token_id=None,
    )
    torch.manual_seed(seed)
    Qwen3ForCausalLM(config).save_pretrained(directory)
    words = {"<pad>": 0, "<unk>": 1, "<end>": END_IDS[0]} | {f"w{index}": index for index in range(3, VOCABULARY)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>", pad_token="<pad>").save_pretrained(directory)
    return digest(directory)


def digest(directory: Path) -> str:
    return hashlib.sha256((directory / "model.safetensors").read_bytes()).hexdigest()


def change_config(directory: Path, **changes: object) -> None:
    path = directory / "config.json"
    path.write_bytes(orjson.dumps(orjson.loads(path.read_bytes()) | changes))


class Reference:
    """The same policy in transformers, float32: the truth that the engines are held against."""

    def __init__(self, directory: Path) -> None:
        self._model = Qwen3ForCausalLM.from_pretrained(directory, dtype=torch.float32, attn_implementation="eager").eval()

    @torch.inference_mode()
    def greedy(self, ids: Sequence[int], count: int) -> list[int]:
        """What `generate` continues with; ends with the end-of-turn id where that comes first."""
        prefix_1T = torch.tensor([list(ids)])
        out = self._model.generate(prefix_1T, attention_mask=torch.ones_like(prefix_1T), max_new_tokens=count, do_sample=False)
        return out[0, len(ids) :].tolist()

    @torch.inference_mode()
    def logprobs(self, prefix: Sequence[int], ids: Sequence[int], temperature: float = 1.0) -> list[float]:
        """log_softmax(logits / temperature) of `ids` after `prefix`, by one plain forward; of plain logits at temperature 0."""
        sequence_1T = torch.tensor([[*prefix, *ids]])
        logits_NV = self._model(sequence_1T).logits[0, len(prefix) - 1 : -1].float() / (temperature or 1.0)
        return logits_NV.log_softmax(-1).gather(1, sequence_1T[0, len(prefix) :, None])[:, 0].tolist()
