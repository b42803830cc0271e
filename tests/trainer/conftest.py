"""Fixtures of the trainer's tests: a two-layer random policy with a tokenizer of its own, made in well under a second."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")

import pytest
import torch
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from cacherl.api.trainer import TokenizerSpec
from cacherl.tool_formats import template
from services.trainer import tokenizer

torch.set_num_threads(1)
TEXTS = [f"Book a room in city {name} for guest G{n} at {n}.50 please" for n, name in enumerate(["Lima", "Oslo", "Bern", "Kyiv"] * 4)]


@pytest.fixture(scope="session")
def tiny_tokenizer() -> PreTrainedTokenizerFast:
    return tokenizer.train(TEXTS, TokenizerSpec(vocab_size=400), template("qwen"))


def make_model(vocabulary: int, seed: int = 0) -> Qwen3ForCausalLM:
    torch.manual_seed(seed)
    return Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=vocabulary,
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=8,
            max_position_embeddings=512,
            tie_word_embeddings=True,
            rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        )
    )


@pytest.fixture
def tiny_model(tiny_tokenizer: PreTrainedTokenizerFast) -> Qwen3ForCausalLM:
    model = make_model(len(tiny_tokenizer))
    for config in (model.config, model.generation_config):
        config.eos_token_id, config.pad_token_id = tiny_tokenizer.eos_token_id, tiny_tokenizer.pad_token_id
    return model
