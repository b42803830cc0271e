"""The book of rows: what it says that a row holds is what a cache that follows its moves holds."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from services.engine.rows import RowBook

ROWS, CONTEXT = 6, 12
IDS = st.lists(st.integers(0, 2), max_size=CONTEXT)


def test_the_longest_prefix_is_found_in_any_row() -> None:
    book = RowBook(ROWS, CONTEXT)
    for row, held in enumerate(([1, 2, 3], [1, 2, 4, 5], [9])):
        book.hold(row, np.array(held, np.int32))
    found = book.longest_prefix(np.array([1, 2, 4, 7], np.int32))
    assert (found.row, found.length) == (1, 3)
    found = book.longest_prefix(np.array([1, 2, 4, 7], np.int32), without={1})
    assert (found.row, found.length) == (0, 2)
    assert book.longest_prefix(np.array([8], np.int32)).length == 0


def test_an_episode_comes_back_to_its_row_and_the_oldest_idle_one_makes_room() -> None:
    book = RowBook(2, CONTEXT)
    rows = {}
    for name in ("a", "b"):
        rows[name] = book.place(name, prefer=0)
        book.hold(rows[name], np.array([1], np.int32))
        book.rest(rows[name])
    assert book.place("a", prefer=1) == rows["a"]
    book.rest(rows["a"])
    # b was used before a
    assert book.place("c", prefer=rows["a"]) == rows["b"]


def test_a_forgotten_episode_makes_room_first() -> None:
    book = RowBook(2, CONTEXT)
    for name in ("a", "b"):
        row = book.place(name, prefer=0)
        book.hold(row, np.array([1], np.int32))
        book.rest(row)
    book.forget("b")
    book.forget("unknown")
    assert book.place("c", prefer=0) == 1


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abcdefgh"), IDS, st.sampled_from(["turn", "rest", "forget", "compact"])), max_size=60))
def test_moves_keep_book_and_cache_in_step(moves: list[tuple[str, list[int], str]]) -> None:
    book = RowBook(ROWS, CONTEXT)
    cache: list[list[int]] = [[] for _ in range(ROWS)]
    live: dict[str, int] = {}
    for name, held, move in moves:
        if move == "turn" and name not in live and not book.full:
            row = book.place(name, prefer=book.longest_prefix(np.array(held, np.int32)).row)
            book.hold(row, np.array(held, np.int32))
            cache[row], live[name] = list(held), row
        elif move == "rest" and name in live:
            book.rest(live.pop(name))
        elif move == "forget":
            book.forget(name)
        elif move == "compact":
            for hole, tail in book.compaction():
                cache[hole], cache[tail] = cache[tail], cache[hole]
                live = {owner: hole if row == tail else row for owner, row in live.items()}
            assert book.hull - book.live <= 2
        assert sorted(np.flatnonzero(book.live_R)) == sorted(live.values())
        assert all(row < book.hull for row in live.values())
        for row, content in enumerate(cache):
            assert book.ids_RT[row, : book.length_R[row]].tolist() == content
