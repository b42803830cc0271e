"""Checkpoints: what a training job needs to go on after any death.

A checkpoint is a directory: `model.safetensors`, `optimizer.safetensors` and `manifest.json` with the hash of each and everything that is
a number or text. It appears whole by an atomic rename, two are kept, and a damaged one is passed over for the one before. Nothing is ever
unpickled: what `torch.save` writes is neither written nor read here.
"""

import secrets
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import structlog
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from cacherl.errors import DataError
from cacherl.wire import Json, Wire
from services.trainer.directories import file_digest, publish

SCHEMA = "cacherl.checkpoint/1"
KEEP = 2
log = structlog.get_logger(__name__)


class Manifest(Wire):
    """What a checkpoint holds."""

    schema_: str = SCHEMA
    step: int
    files: dict[str, str]
    """sha256 of each file."""
    optimizer: list[dict[str, Json]]
    """The parameter groups: rates and indices of parameters."""
    numbers: dict[str, dict[str, Json]]
    """The optimizer's state that is not a tensor, by parameter."""
    state: dict[str, Json]
    """The trainer's own: clock, counts, the watch over the plateau."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was found whole."""

    directory: Path
    manifest: Manifest

    def restore_model(self, model: torch.nn.Module) -> None:
        """Loads the weights into `model`; DataError where they do not fit it."""
        tensors = load_file(self.directory / "model.safetensors")
        with torch.no_grad():
            for name, parameter in trained_tensors(model).items():
                if name not in tensors or tensors[name].shape != parameter.shape:
                    raise DataError(f"the checkpoint's {name} does not fit this model")
                parameter.copy_(tensors[name])

    def restore_optimizer(self, optimizer: torch.optim.Optimizer) -> None:
        """Loads the optimizer's moments and rates."""
        state: dict[int, dict[str, Any]] = {int(key): dict(value) for key, value in self.manifest.numbers.items()}
        for name, tensor in load_file(self.directory / "optimizer.safetensors").items():
            index, _, key = name.partition("/")
            state.setdefault(int(index), {})[key] = tensor
        optimizer.load_state_dict({"state": state, "param_groups": self.manifest.optimizer})


def trained_tensors(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The trainable parameters by name, tied ones once: all of them, or an adapter's."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def save(root: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer, *, step: int, state: Mapping[str, Json]) -> Path:
    """Writes `root/step-N` whole or not at all, and removes all but the newest two."""
    root.mkdir(parents=True, exist_ok=True)
    target, partial = root / f"step-{step:09d}", root / f".partial-{secrets.token_hex(6)}"
    partial.mkdir()
    tensors, numbers = _split(optimizer.state_dict()["state"])
    save_file({name: p.detach().contiguous() for name, p in trained_tensors(model).items()}, partial / "model.safetensors")
    save_file(tensors, partial / "optimizer.safetensors")
    manifest = Manifest(
        step=step,
        files={path.name: file_digest(path) for path in sorted(partial.iterdir())},
        optimizer=[_plain(group) for group in optimizer.state_dict()["param_groups"]],
        numbers=numbers,
        state=dict(state),
    )
    (partial / "manifest.json").write_bytes(orjson.dumps(manifest.model_dump(mode="json"), option=orjson.OPT_INDENT_2))
    publish(partial, target)
    _forget_old(root)
    return target


def newest(root: Path) -> Checkpoint | None:
    """The newest whole checkpoint under `root`, None where there is none; a damaged one is named in the log and passed over."""
    for directory in sorted(root.glob("step-*"), reverse=True) if root.is_dir() else []:
        try:
            return read(directory)
        except DataError as error:
            log.warning("checkpoint passed over", action="checkpoint_damaged", checkpoint=directory.name, reason=error.detail)
    return None


def read(directory: Path) -> Checkpoint:
    """One checkpoint, every hash checked. Raises DataError where it is damaged."""
    try:
        manifest = Manifest.model_validate_json((directory / "manifest.json").read_bytes())
        for name, digest in manifest.files.items():
            if "/" in name or file_digest(directory / name) != digest:
                raise DataError(f"{name} is not what its manifest says")
    except (OSError, ValueError, SafetensorError) as error:
        raise DataError(f"the checkpoint cannot be read: {type(error).__name__}") from error
    return Checkpoint(directory, manifest)


def _split(state: Mapping[int, Mapping[str, Any]]) -> tuple[dict[str, torch.Tensor], dict[str, dict[str, Json]]]:
    tensors: dict[str, torch.Tensor] = {}
    numbers: dict[str, dict[str, Json]] = {}
    for index, values in state.items():
        for key, value in values.items():
            if isinstance(value, torch.Tensor):
                tensors[f"{index}/{key}"] = value.detach().contiguous()
            else:
                numbers.setdefault(str(index), {})[key] = value
    return tensors, numbers


def _plain(group: Mapping[str, Any]) -> dict[str, Json]:
    return {key: list(value) if isinstance(value, tuple) else value for key, value in group.items()}


def _forget_old(root: Path) -> None:
    for directory in sorted(root.glob("step-*"), reverse=True)[KEEP:]:
        shutil.rmtree(directory, ignore_errors=True)
    for directory in root.glob(".partial-*"):
        shutil.rmtree(directory, ignore_errors=True)
