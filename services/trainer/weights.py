"""Policy versions as directories: `<weights root>/<name>/<version>/`, in the form that `save_pretrained` writes.

A version is written beside its place and renamed into it, so a reader sees it whole or not at all, and it never changes afterwards. Its
manifest holds the hash of every file. Tokenizer and template stand beside the weights: whoever serves a version renders as it was
trained.
"""

import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson
import torch
from peft import PeftModel
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerFast

from cacherl.errors import ConflictError, DataError
from services.trainer.directories import file_digest, publish
from services.trainer.policies import WrittenVersion

SCHEMA = "cacherl.policy/1"
COMPANIONS = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
WEIGHTS = "model.safetensors"
ADAPTER = "adapter_model.safetensors"


class WeightsRoot:
    """The folder that trainer and engines share."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def directory(self, path: str) -> Path:
        """The directory of a version's relative path; DataError for a path that leads out of the root."""
        directory = (self.root / path).resolve()
        if not directory.is_relative_to(self.root.resolve()):
            raise DataError(f"the path {path!r} leads out of the weights root")
        return directory

    def load(self, path: str) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
        """Model (float32) and tokenizer of a version. Only safetensors is read, and no code from the directory is run."""
        directory = self.directory(path)
        model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32, use_safetensors=True, local_files_only=True)
        tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True)
        return model, tokenizer

    def write(
        self,
        name: str,
        version: int,
        model: PreTrainedModel | PeftModel,
        tokenizer: PreTrainedTokenizerFast,
        about: Mapping[str, Any],
    ) -> WrittenVersion:
        """Writes a version with full weights; an adapter is merged into a copy and stands beside them in `adapter/`.

        Raises ConflictError where the version is there already: a version never changes.
        """
        target = self.root / name / str(version)
        if target.exists():
            raise ConflictError(f"{name}@{version} is written already; a version never changes")
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.parent / f".partial-{secrets.token_hex(6)}"
        try:
            partial.mkdir()
            _write_weights(partial, model)
            _write_tokenizer(partial, tokenizer)
            digest = _write_manifest(partial, name, version, about)
            publish(partial, target)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        return WrittenVersion(name, version, "full", f"{name}/{version}", digest)

    def remove(self, path: str) -> None:
        """Removes a version's files."""
        shutil.rmtree(self.directory(path), ignore_errors=True)


def _write_weights(directory: Path, model: PreTrainedModel | PeftModel) -> None:
    if isinstance(model, PeftModel):
        (directory / "adapter").mkdir()
        save_file(_adapter_tensors(model), directory / "adapter" / ADAPTER)
        model.peft_config["default"].save_pretrained(str(directory / "adapter"))
        base: PreTrainedModel = model.get_base_model()  # pyright: ignore[reportAssignmentType]
        tensors = merged_tensors(model)
    else:
        base = model
        tensors = plain_tensors(model)
    save_file(tensors, directory / WEIGHTS, metadata={"format": "pt"})
    base.config.architectures = [type(base).__name__]  # who serves the directory knows by it what to make
    base.config.save_pretrained(directory)
    if base.generation_config is not None:
        base.generation_config.save_pretrained(directory)


def plain_tensors(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """The model's tensors, a tied head left out as `save_pretrained` does."""
    tied = set(getattr(model, "all_tied_weights_keys", None) or {}) if model.config.tie_word_embeddings else set()
    return {name: tensor.detach().contiguous() for name, tensor in model.state_dict().items() if name not in tied}


def merged_tensors(model: PeftModel) -> dict[str, torch.Tensor]:
    """The base model's tensors with the adapter added in, under the base model's own names; the model itself is as it was afterwards."""
    model.merge_adapter()
    try:
        base: PreTrainedModel = model.get_base_model()  # pyright: ignore[reportAssignmentType]
        plain = plain_tensors(base)
        return {name.replace(".base_layer.", "."): t.clone() for name, t in plain.items() if ".lora_" not in name}
    finally:
        model.unmerge_adapter()


def _adapter_tensors(model: PeftModel) -> dict[str, torch.Tensor]:
    from peft import get_peft_model_state_dict  # noqa: PLC0415 - peft is slow to import and full fine-tuning has no use for it

    return {name: tensor.detach().contiguous() for name, tensor in get_peft_model_state_dict(model).items()}


def _write_tokenizer(directory: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.save_pretrained(directory)
    missing = [name for name in COMPANIONS if not (directory / name).exists()]
    if missing:
        raise DataError(f"the tokenizer did not write {', '.join(missing)}: it needs a chat template")


def _write_manifest(directory: Path, name: str, version: int, about: Mapping[str, Any]) -> str:
    files = {str(p.relative_to(directory)): file_digest(p) for p in sorted(directory.rglob("*")) if p.is_file()}
    manifest = {"schema": SCHEMA, "name": name, "version": version, "files": files, "about": dict(about)}
    (directory / "manifest.json").write_bytes(orjson.dumps(manifest, option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS))
    return files[WEIGHTS]
