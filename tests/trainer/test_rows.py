import torch
from hypothesis import given
from hypothesis import strategies as st

from services.trainer.copying import IGNORED, copying_batch
from services.trainer.rows import Row, RowTable, length_grouped, write_rows


@given(st.lists(st.integers(1, 500), min_size=1, max_size=200), st.integers(1, 9), st.integers(0, 5), st.integers(0, 5))
def test_an_epoch_holds_every_row_once_and_is_the_same_again(lengths, batch_size, seed, epoch):
    batches = length_grouped(lengths, batch_size, seed, epoch)
    assert sorted(row for batch in batches for row in batch) == list(range(len(lengths)))
    assert max(map(len, batches)) <= batch_size
    assert batches == length_grouped(lengths, batch_size, seed, epoch)


def test_batches_pad_less_than_chance(tmp_path):
    lengths = [(37 * n) % 401 + 1 for n in range(640)]
    padded = sum(max(lengths[r] for r in b) * len(b) for b in length_grouped(lengths, 4, 0, 0))
    assert padded < 1.25 * sum(lengths)


def test_rows_come_back_as_they_were_written(tmp_path):
    rows = [Row([5, 6, 7, 8], [0, 0, 1, 1], turns=1), Row([9, 10], [0, 1]), Row([1, 2, 3], [1, 0, 0]), Row(list(range(50)), [0] * 49 + [1])]
    dataset, counts = write_rows(tmp_path / "rows.arrow", rows, max_length=10)
    assert (counts.rows, counts.empty, counts.too_long, counts.tokens, counts.trained_tokens) == (2, 2, 1, 6, 3)
    table = RowTable(dataset)
    batch = table.batch([0, 1], pad=0)
    assert batch["input_ids"].tolist() == [[5, 6, 7, 8], [9, 10, 0, 0]]
    assert batch["labels"].tolist() == [[IGNORED, IGNORED, 7, 8], [IGNORED, 10, IGNORED, IGNORED]]
    assert table.batch([0], pad=0, turns_only=True)["input_ids"].tolist() == [[6, 7, 8]]


def test_a_resumed_run_reads_the_batches_that_the_whole_run_would_have(tmp_path):
    dataset, _ = write_rows(tmp_path / "rows.arrow", [Row([n, n + 1, n + 2], [0, 1, 1]) for n in range(20)], max_length=10)
    table = RowTable(dataset)
    whole = [batch for batch, _ in zip(table.epochs(3, seed=1), range(30), strict=False)]
    for skip in (0, 6, 7, 8, 17):
        resumed = [batch for batch, _ in zip(table.epochs(3, seed=1, skip=skip), range(30 - skip), strict=False)]
        assert resumed == whole[skip:]


def test_copying_repeats_segments_and_never_asks_for_what_nothing_determines():
    ids, labels = copying_batch(8, 64, 3, 1000, torch.Generator().manual_seed(0))
    for row, wanted in zip(ids.tolist(), labels.tolist(), strict=True):
        first = row[:32]
        for position, label in enumerate(wanted):
            if label != IGNORED:
                assert row[position] == label
                before = row[position - 1]
                assert any(first[i : i + 2] == [before, label] for i in range(31))
