"""Rows of SFT: demonstrations as token ids with a loss mask, kept in an Arrow file, batched by length.

`cacherl.rendering` makes the ids, the same code that renders a rollout's prompt, so what is trained is what will be sampled. A row is
`ids`, `mask` (1 where an assistant wrote) and `turns`: where the conversation begins after the system block with its tools, so that a run
can leave the long, ever-equal prompts out at first. The corpus is never in memory: rows go to a file as they are rendered and batches are
read from it.
"""

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import torch
from datasets import Dataset, Features, List, Value, disable_progress_bars
from datasets.arrow_writer import ArrowWriter

from services.trainer.copying import IGNORED

disable_progress_bars()
FEATURES = Features({"input_ids": List(Value("int32")), "labels": List(Value("int32")), "turns": Value("int32"), "length": Value("int32")})
NEIGHBOURS = 16
"""So many batches' rows are sorted by length together: padding falls, order stays random."""


@dataclass(frozen=True, slots=True)
class Row:
    """One demonstration: ids_T, mask_T, and where its conversation begins."""

    ids: Sequence[int]
    mask: Sequence[int]
    turns: int = 0

    def __post_init__(self) -> None:
        assert len(self.ids) == len(self.mask), "one mask entry for every id"
        assert 0 <= self.turns <= len(self.ids), "the conversation begins inside the row"


@dataclass(frozen=True)
class RowCounts:
    """What became of the demonstrations."""

    rows: int
    tokens: int
    trained_tokens: int
    too_long: int
    """Cut at the length limit."""
    empty: int
    """Left out: nothing to train on within the limit."""


def write_rows(path: Path, rows: Iterable[Row], *, max_length: int) -> tuple[Dataset, RowCounts]:
    """Writes rows to an Arrow file and opens it, with one writer batch in memory. Longer rows are cut at `max_length`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    counts = {"rows": 0, "tokens": 0, "trained_tokens": 0, "too_long": 0, "empty": 0}
    with ArrowWriter(path=str(path), features=FEATURES) as writer:
        for row in rows:
            counts["too_long"] += len(row.ids) > max_length
            ids, mask = list(row.ids[:max_length]), row.mask[:max_length]
            if not any(mask[1:]):
                counts["empty"] += 1
                continue
            counts["rows"] += 1
            counts["tokens"] += len(ids)
            counts["trained_tokens"] += sum(mask)
            labels = [token if kept else IGNORED for token, kept in zip(ids, mask, strict=True)]
            writer.write({"input_ids": ids, "labels": labels, "turns": min(row.turns, len(ids) - 1), "length": len(ids)})
        writer.finalize()
    return Dataset.from_file(str(path)), RowCounts(**counts)


def length_grouped(lengths: Sequence[int], batch_size: int, seed: int, epoch: int) -> list[list[int]]:
    """Batches of row numbers for one epoch: shuffled, sorted by length among neighbours, shuffled again. A pure function."""
    chance = random.Random(f"{seed}.{epoch}")
    order = list(range(len(lengths)))
    chance.shuffle(order)
    batches: list[list[int]] = []
    for start in range(0, len(order), batch_size * NEIGHBOURS):
        near = sorted(order[start : start + batch_size * NEIGHBOURS], key=lambda row: lengths[row])
        group = [near[at : at + batch_size] for at in range(0, len(near), batch_size)]
        chance.shuffle(group)
        batches += group
    return batches


class RowTable:
    """Some rows of an Arrow file, read batch by batch: the file stays mapped, never in memory as a whole."""

    def __init__(self, dataset: Dataset, chosen: Sequence[int] | None = None) -> None:
        """`chosen`: numbers of the file's rows; None: all."""
        table = dataset.data.table
        self.dataset = dataset
        self._ids, self._labels = (table.column(name) for name in ("input_ids", "labels"))
        lengths, turns = (table.column(name).to_pylist() for name in ("length", "turns"))
        self._chosen = list(chosen) if chosen is not None else list(range(len(lengths)))
        self.lengths: list[int] = [lengths[row] for row in self._chosen]
        self._turns: list[int] = [turns[row] for row in self._chosen]

    def __len__(self) -> int:
        return len(self.lengths)

    def batch(self, rows: Sequence[int], pad: int, *, turns_only: bool = False) -> dict[str, torch.Tensor]:
        """`input_ids` (B, T) and `labels` (B, T), padded on the right; without the system block where `turns_only`."""
        starts = [self._turns[row] if turns_only else 0 for row in rows]
        longest = max(self.lengths[row] - start for row, start in zip(rows, starts, strict=True))
        ids_BT = torch.full((len(rows), longest), pad)
        labels_BT = torch.full((len(rows), longest), IGNORED)
        for at, (row, start) in enumerate(zip(rows, starts, strict=True)):
            size = self.lengths[row] - start
            ids_BT[at, :size] = _slice(self._ids, self._chosen[row], start)
            labels_BT[at, :size] = _slice(self._labels, self._chosen[row], start)
        return {"input_ids": ids_BT, "labels": labels_BT}

    def epochs(self, batch_size: int, seed: int, skip: int = 0) -> Iterator[list[int]]:
        """Batches of row numbers without end; the first `skip` are passed over, so a resumed run reads on where it stopped."""
        epoch = 0
        while True:
            batches = length_grouped(self.lengths, batch_size, seed, epoch)
            if skip < len(batches):
                yield from batches[skip:]
            skip = max(0, skip - len(batches))
            epoch += 1


def _slice(column: pa.ChunkedArray, row: int, start: int) -> torch.Tensor:
    return torch.from_numpy(column[row].values.to_numpy(zero_copy_only=False)[start:].astype("int64"))
