"""Demonstrations as rows of SFT: rendered by the renderer that rollouts use, some of them held back.

Which are held back is decided by hash and seed, so every run over the same data and seed watches the same ones, whatever order they come
in.
"""

import hashlib
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import orjson
import structlog
from datasets import Dataset
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from cacherl.errors import DataError
from cacherl.rendering import Renderer, signature
from cacherl.tool_spec import ToolSpec
from cacherl.trajectory import Message, Role, Trajectory
from services.trainer.directories import publish
from services.trainer.rows import Row, RowCounts, RowTable, write_rows

ROWS, COUNTS = "rows.arrow", "counts.json"
CHECKED = 16
REMEMBERED = 16_384
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


class RowMaker:
    """Demonstrations as rows, piece by piece; a piece that comes again, as in another trial of a task, is rendered once.

    The renderer promises that a conversation's ids are those of prompt, turn, injected piece, turn, … It is held to that on the first few;
    after that only the pieces are made, which is less than half of the work.
    """

    def __init__(self, renderer: Renderer) -> None:
        self._renderer = renderer
        self._known: dict[bytes, tuple[list[int], int]] = {}
        self._checked = 0

    def row(self, trajectory: Trajectory) -> Row:
        """One demonstration. DataError where nothing in it was said by an assistant, or the template refuses it."""
        turns = [index for index, message in enumerate(trajectory.messages) if message.role is Role.ASSISTANT]
        if not turns:
            raise DataError("a conversation without an assistant message has nothing to learn from", slug="nothing-sampled")
        prompt, conversation_at = self._prompt(trajectory.messages[: turns[0]], trajectory.tools)
        ids, mask, before = list(prompt), [0] * len(prompt), turns[0]
        for turn in turns:
            injected = self._injected(trajectory.messages[before + 1 : turn]) if turn != turns[0] else []
            sampled = self._turn(trajectory.messages[turn])
            ids += injected + sampled
            mask += [0] * len(injected) + [1] * len(sampled)
            before = turn
        if self._checked < CHECKED:
            self._checked += 1
            whole = self._renderer.conversation(trajectory.messages, trajectory.tools)
            assert (whole.ids_T, whole.mask_T) == (ids, mask), "a conversation is its pieces"
        return Row(ids, mask, turns=conversation_at)

    def _remembered(self, kind: str, of: list[Any], make: Callable[[], tuple[list[int], int]]) -> tuple[list[int], int]:
        key = orjson.dumps([kind, *of])
        if key not in self._known:
            if len(self._known) >= REMEMBERED:
                self._known.clear()
            self._known[key] = make()
        return self._known[key]

    def _turn(self, message: Message) -> list[int]:
        return self._remembered("turn", [message.chat()], lambda: (self._renderer.turn(message), 0))[0]

    def _injected(self, messages: Sequence[Message]) -> list[int]:
        return self._remembered("injected", [m.chat() for m in messages], lambda: (self._renderer.injected(messages), 0))[0]

    def _prompt(self, messages: Sequence[Message], tools: Sequence[ToolSpec]) -> tuple[list[int], int]:
        """The prompt's ids, and where in them the conversation begins after the system block; 0 where that cannot be told apart."""

        def make() -> tuple[list[int], int]:
            prompt = self._renderer.prompt(messages, tools)
            said = [m for m in messages if m.role is not Role.SYSTEM]
            without = self._renderer.prompt(said) if said else prompt
            at = len(prompt) - len(without)
            return prompt, at if prompt[at:] == without else 0

        return self._remembered("prompt", [*[m.chat() for m in messages], *[signature(tool) for tool in tools]], make)


@dataclass(frozen=True)
class Prepared:
    """Rows to train on and rows to watch, with what became of the demonstrations."""

    train: RowTable
    held_back: RowTable
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
    return Prepared(RowTable(dataset, trained), RowTable(dataset, watched), RowCounts(**found), refused)


def _render(trajectories: Iterable[Trajectory], renderer: Renderer, directory: Path, max_length: int) -> None:
    partial = directory.parent / f".partial-{secrets.token_hex(6)}"
    partial.mkdir(parents=True)
    refused, maker = 0, RowMaker(renderer)

    def rows() -> Iterator[Row]:
        nonlocal refused
        for trajectory in trajectories:
            try:
                yield maker.row(trajectory)
            except DataError as error:
                refused += 1
                log.info("a demonstration is left out", action="demonstration_refused", trajectory=trajectory.id, reason=error.detail)

    try:
        _, counts = write_rows(partial / ROWS, rows(), max_length=max_length)
        (partial / COUNTS).write_bytes(orjson.dumps({**asdict(counts), "refused": refused}))
        publish(partial, directory)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _chosen(total: int, count: int, seed: int) -> set[int]:
    order = sorted(range(total), key=lambda index: hashlib.sha256(f"{seed}.{index}".encode()).digest())
    return set(order[:count])
