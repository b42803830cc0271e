"""Demonstrations as rows of SFT: rendered by the renderer that rollouts use, some of them held back.

Which are held back is decided by hash and seed, so every run over the same data and seed watches the same ones, whatever order they come
in.
"""

import hashlib
import secrets
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import orjson
import structlog
from datasets import Dataset
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from cacherl.errors import DataError
from cacherl.rendering import Renderer
from cacherl.trajectory import Role, Trajectory
from services.trainer.directories import publish
from services.trainer.rows import Row, RowCounts, write_rows

ROWS, COUNTS = "rows.arrow", "counts.json"
log = structlog.get_logger(__name__)


def renderer_of(tokenizer: PreTrainedTokenizerFast) -> Renderer:
    """The renderer of a policy's tokenizer and template; DataError where it has no template."""
    if not isinstance(tokenizer.chat_template, str):
        raise DataError("the policy's tokenizer has no chat template")
    return Renderer(
        Tokenizer.from_str(tokenizer.backend_tokenizer.to_str()),
        tokenizer.chat_template,
        eos=[str(tokenizer.eos_token)],
        pad=str(tokenizer.pad_token) if tokenizer.pad_token else None,
    )


def row_of(trajectory: Trajectory, renderer: Renderer) -> Row:
    """One demonstration as a row. DataError where nothing in it was said by an assistant, or the template refuses it."""
    rendered = renderer.conversation(trajectory.messages, trajectory.tools)
    return Row(rendered.ids_T, rendered.mask_T, turns=_system_block(trajectory, renderer, rendered.ids_T[: rendered.turns[0][0]]))


def _system_block(trajectory: Trajectory, renderer: Renderer, prompt: list[int]) -> int:
    """Length of what stands before the first message that is not the system's: 0 where that cannot be told apart."""
    before = [m for m in trajectory.messages[: _first_turn(trajectory)] if m.role is not Role.SYSTEM]
    if not before:
        return 0
    without = renderer.prompt(before)
    return len(prompt) - len(without) if prompt[len(prompt) - len(without) :] == without else 0


def _first_turn(trajectory: Trajectory) -> int:
    return next(index for index, message in enumerate(trajectory.messages) if message.role is Role.ASSISTANT)


@dataclass(frozen=True)
class Prepared:
    """Rows to train on and rows to watch, with what became of the demonstrations."""

    train: Dataset
    held_back: Dataset
    counts: RowCounts
    refused: int
    """Left out: nothing of an assistant's, or refused by the template."""


def prepare(
    trajectories: Iterable[Trajectory], renderer: Renderer, directory: Path, *, max_length: int, hold_back: int, seed: int
) -> Prepared:
    """Demonstrations as rows, with `hold_back` of them (at most a tenth) kept out of training.

    Rows that stand in `directory` already are used as they are: its name must say what they were made of.
    """
    if not (directory / COUNTS).exists():
        _render(trajectories, renderer, directory, max_length)
    found: dict[str, int] = orjson.loads((directory / COUNTS).read_bytes())
    refused = found.pop("refused")
    dataset = Dataset.from_file(str(directory / ROWS))
    held = _chosen(len(dataset), min(hold_back, len(dataset) // 10), seed)
    watched = [index for index in range(len(dataset)) if index in held]
    trained = [index for index in range(len(dataset)) if index not in held]
    return Prepared(_select(dataset, trained), _select(dataset, watched), RowCounts(**found), refused)


def _render(trajectories: Iterable[Trajectory], renderer: Renderer, directory: Path, max_length: int) -> None:
    partial = directory.parent / f".partial-{secrets.token_hex(6)}"
    partial.mkdir(parents=True)
    refused = 0

    def rows() -> Iterator[Row]:
        nonlocal refused
        for trajectory in trajectories:
            try:
                yield row_of(trajectory, renderer)
            except DataError as error:
                refused += 1
                log.info("a demonstration is left out", action="demonstration_refused", trajectory=trajectory.id, reason=error.detail)

    try:
        _, counts = write_rows(partial / ROWS, rows(), max_length=max_length)
        (partial / COUNTS).write_bytes(orjson.dumps({**asdict(counts), "refused": refused}))
        publish(partial, directory)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _select(dataset: Dataset, indices: list[int]) -> Dataset:
    return Dataset(dataset.data.table.take(indices))


def _chosen(total: int, count: int, seed: int) -> set[int]:
    order = sorted(range(total), key=lambda index: hashlib.sha256(f"{seed}.{index}".encode()).digest())
    return set(order[:count])
