"""Weights of a policy, read from the directory that `save_pretrained` writes: `config.json` and one `model.safetensors`.

Supported: the Qwen3 architecture with plain rotary positions, full attention and SiLU. Anything else is refused with a sentence that
says so. The digest is of the very bytes that are used: the file is read once, hashed, then parsed from memory. Never pickle.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import safetensors.torch
import torch

from cacherl.errors import ConflictError, DataError, InputError

SUPPORTED = "the embedded engine serves Qwen3ForCausalLM with default rotary positions, full attention, no attention bias and SiLU"


@dataclass(frozen=True)
class Qwen3Shape:
    """The sizes of one Qwen3 model."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    vocabulary: int
    norm_eps: float
    rope_theta: float
    context: int
    """Positions that the model was configured for."""
    tied: bool
    end_ids: tuple[int, ...]
    """Ids that end a turn."""


@dataclass(frozen=True)
class Layer:
    """One decoder layer; query, key and value are one matrix, and so are gate and up."""

    attention_norm_d: torch.Tensor
    qkv_Pd: torch.Tensor
    query_norm_D: torch.Tensor
    key_norm_D: torch.Tensor
    out_dA: torch.Tensor
    mlp_norm_d: torch.Tensor
    gate_up_Fd: torch.Tensor
    down_dF: torch.Tensor


@dataclass(frozen=True)
class Qwen3Weights:
    """All tensors of a policy, float32."""

    shape: Qwen3Shape
    sha256: str
    embedding_Vd: torch.Tensor
    layers: tuple[Layer, ...]
    final_norm_d: torch.Tensor
    head_Vd: torch.Tensor


def read_policy(directory: Path, sha256: str) -> Qwen3Weights:
    """Reads and checks one policy directory.

    Raises:
        DataError: A file is missing or a tensor is not what the configuration says.
        InputError: `unsupported-architecture`.
        ConflictError: `digest-mismatch`: the file is not the one that was announced.
    """
    shape = read_shape(directory)
    path = directory / "model.safetensors"
    try:
        blob = path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"{path.name} is missing in the policy directory; {SUPPORTED}, in one safetensors file") from None
    found = hashlib.sha256(blob).hexdigest()
    if found != sha256.lower():
        raise ConflictError(f"model.safetensors has sha256 {found}, announced was {sha256}: publish it again", slug="digest-mismatch")
    try:
        tensors = safetensors.torch.load(blob)
    except safetensors.SafetensorError as error:
        raise DataError(f"model.safetensors cannot be read: {error}") from error
    return _assemble(shape, found, tensors)


def read_shape(directory: Path) -> Qwen3Shape:
    """Reads `config.json` (and `generation_config.json` for the end-of-turn ids).

    Raises:
        DataError: The configuration cannot be read.
        InputError: `unsupported-architecture`.
    """
    config = _json(directory / "config.json")
    _check_supported(config)
    try:
        heads, hidden = int(config["num_attention_heads"]), int(config["hidden_size"])
        return Qwen3Shape(
            layers=int(config["num_hidden_layers"]),
            hidden=hidden,
            heads=heads,
            kv_heads=int(config["num_key_value_heads"]),
            head_dim=int(config.get("head_dim") or hidden // heads),
            ffn=int(config["intermediate_size"]),
            vocabulary=int(config["vocab_size"]),
            norm_eps=float(config["rms_norm_eps"]),
            rope_theta=float(_rope(config).get("rope_theta") or config["rope_theta"]),
            context=int(config["max_position_embeddings"]),
            tied=bool(config.get("tie_word_embeddings", False)),
            end_ids=_end_ids(directory, config),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"config.json lacks a number that is needed: {error!r}") from error


def _rope(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Rotary settings: `rope_parameters` since transformers 5, `rope_scaling` before."""
    return config.get("rope_parameters") or config.get("rope_scaling") or {}


def _check_supported(config: Mapping[str, Any]) -> None:
    rope_type = _rope(config).get("rope_type", "default")
    refused = {
        f"architecture {config.get('model_type')!r}": config.get("model_type") != "qwen3",
        f"rotary type {rope_type!r}": rope_type != "default",
        "sliding-window layers": any(kind != "full_attention" for kind in config.get("layer_types") or []),
        "an attention bias": bool(config.get("attention_bias")),
        f"activation {config.get('hidden_act')!r}": config.get("hidden_act", "silu") != "silu",
        "quantised weights": "quantization_config" in config,
    }
    if reasons := [reason for reason, hit in refused.items() if hit]:
        raise InputError(f"{SUPPORTED}; this policy has {', '.join(reasons)}. Use SGLang for it.", slug="unsupported-architecture")


def _end_ids(directory: Path, config: Mapping[str, Any]) -> tuple[int, ...]:
    generation = directory / "generation_config.json"
    value = _json(generation).get("eos_token_id") if generation.exists() else None
    value = config.get("eos_token_id") if value is None else value
    if value is None:
        raise DataError("neither generation_config.json nor config.json names an eos_token_id: no turn could ever end")
    return tuple(int(item) for item in (value if isinstance(value, list) else [value]))


def _json(path: Path) -> dict[str, Any]:
    try:
        value = orjson.loads(path.read_bytes())
    except FileNotFoundError:
        raise DataError(f"{path.name} is missing in the policy directory") from None
    except orjson.JSONDecodeError as error:
        raise DataError(f"{path.name} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise DataError(f"{path.name} is not an object")
    return value


def _assemble(shape: Qwen3Shape, sha256: str, tensors: Mapping[str, torch.Tensor]) -> Qwen3Weights:
    def take(name: str, *size: int) -> torch.Tensor:
        tensor = tensors.get(f"{name}.weight")
        if tensor is None:
            raise DataError(f"model.safetensors has no {name}.weight")
        if tuple(tensor.shape) != size:
            raise DataError(f"{name}.weight is {list(tensor.shape)}, the configuration says {list(size)}")
        return tensor.to(torch.float32).contiguous()

    d, D, F = shape.hidden, shape.head_dim, shape.ffn
    A, B = shape.heads * D, shape.kv_heads * D

    def layer(prefix: str) -> Layer:
        attention, mlp = f"{prefix}.self_attn", f"{prefix}.mlp"
        return Layer(
            attention_norm_d=take(f"{prefix}.input_layernorm", d),
            qkv_Pd=torch.cat([take(f"{attention}.q_proj", A, d), take(f"{attention}.k_proj", B, d), take(f"{attention}.v_proj", B, d)]),
            query_norm_D=take(f"{attention}.q_norm", D),
            key_norm_D=take(f"{attention}.k_norm", D),
            out_dA=take(f"{attention}.o_proj", d, A),
            mlp_norm_d=take(f"{prefix}.post_attention_layernorm", d),
            gate_up_Fd=torch.cat([take(f"{mlp}.gate_proj", F, d), take(f"{mlp}.up_proj", F, d)]),
            down_dF=take(f"{mlp}.down_proj", d, F),
        )

    embedding = take("model.embed_tokens", shape.vocabulary, d)
    return Qwen3Weights(
        shape=shape,
        sha256=sha256,
        embedding_Vd=embedding,
        layers=tuple(layer(f"model.layers.{index}") for index in range(shape.layers)),
        final_norm_d=take("model.norm", d),
        head_Vd=embedding if shape.tied else take("lm_head", shape.vocabulary, d),
    )
