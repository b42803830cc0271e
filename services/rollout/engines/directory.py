"""What a client must know of a policy directory without loading it: its vocabulary, its end-of-turn ids, the digest of its weights."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from cacherl.errors import ConflictError, EngineError

HEADER_BYTES = 100 * 2**20
"""The most that a safetensors header may be, by its specification."""


@dataclass(frozen=True)
class PolicyFacts:
    """Read from `config.json` and `generation_config.json`."""

    vocabulary: int
    context: int
    end_ids: tuple[int, ...]
    """Empty where the directory names none: then the engine decides alone."""


def read_facts(directory: Path) -> PolicyFacts:
    """Reads a policy directory.

    Raises:
        EngineError: It cannot be read from here.
    """
    config = _json(directory / "config.json")
    generation = directory / "generation_config.json"
    end = (_json(generation).get("eos_token_id") if generation.exists() else None) or config.get("eos_token_id")
    end_ids = end if isinstance(end, list) else [] if end is None else [end]
    try:
        return PolicyFacts(int(config["vocab_size"]), int(config["max_position_embeddings"]), tuple(map(int, end_ids)))
    except (KeyError, TypeError, ValueError) as error:
        raise EngineError(f"{directory / 'config.json'} lacks a number that is needed: {error!r}") from error


def digest(directory: Path) -> str:
    """The sha256 of `model.safetensors`.

    Raises:
        EngineError: It cannot be read from here.
    """
    try:
        with (directory / "model.safetensors").open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise EngineError(f"the weights cannot be read from here: {error}; is the shared weights root mounted?") from error


def check_digest(directory: Path, sha256: str) -> None:
    """Checks `model.safetensors` against the digest that was announced.

    Raises:
        ConflictError: `digest-mismatch`.
        EngineError: It cannot be read from here.
    """
    found = digest(directory)
    if found != sha256.lower():
        raise ConflictError(f"{directory.name}: sha256 is {found}, announced was {sha256}: publish it again", slug="digest-mismatch")


def check_fit(old: Path, new: Path) -> None:
    """Checks that one policy's weights can take another's place: the same tensors, of the same shapes.

    SGLang does not: it leaves a tensor that is missing as it was, and pads one that is too narrow.

    Raises:
        EngineError: `weights-do-not-fit`, or a file cannot be read from here.
    """
    before, after = tensor_shapes(old), tensor_shapes(new)
    wrong = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
    if wrong:
        name = wrong[0]
        text = f"{len(wrong)} tensors are not those of {old}, first {name}: {after.get(name, 'missing')}, was {before.get(name, 'missing')}"
        raise EngineError(f"{new}: {text}; a worker takes only weights of the same model", slug="weights-do-not-fit")


def tensor_shapes(directory: Path) -> dict[str, list[int]]:
    """Names and shapes in `model.safetensors`, from its header: eight bytes of length, then JSON.

    Raises:
        EngineError: It cannot be read from here.
    """
    try:
        with (directory / "model.safetensors").open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = orjson.loads(file.read(min(length, HEADER_BYTES)))
            return {name: entry["shape"] for name, entry in header.items() if name != "__metadata__"}
    except (OSError, orjson.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise EngineError(f"the header of {directory / 'model.safetensors'} cannot be read from here: {error}") from error


def below(root: Path, path: str) -> Path:
    """The directory `path` below the weights root.

    Raises:
        EngineError: It lies outside of it.
    """
    root = root.resolve()
    directory = (root / path).resolve()
    if directory == root or not directory.is_relative_to(root):
        raise EngineError(f"{path!r} does not lie below the weights root", slug="path-outside-root")
    return directory


def _json(path: Path) -> dict[str, Any]:
    try:
        value = orjson.loads(path.read_bytes())
    except (OSError, orjson.JSONDecodeError) as error:
        raise EngineError(f"{path} cannot be read from here: {error}; is the shared weights root mounted?") from error
    return value if isinstance(value, dict) else {}
