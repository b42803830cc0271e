"""The book of a cache's rows: whose ids each row holds, which rows are live, where the next episode goes.

A row holds the ids whose keys and values are valid in the cache. A live row belongs to a request in flight; an idle one keeps an
episode between its turns until its place is needed (least recently used first). All live rows lie below `hull`, because the forward pass
runs over rows 0 … hull-1; rows below it that are not live cost time and are closed up by `compaction`. Pure bookkeeping: no tensors.
"""

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Prefix:
    """The longest prefix that some row shares with the ids asked for."""

    row: int
    length: int


class RowBook:
    """What `rows` rows of `context` positions hold."""

    def __init__(self, rows: int, context: int) -> None:
        self.rows = rows
        self.ids_RT = np.zeros((rows, context), np.int32)
        self.length_R = np.zeros(rows, np.int64)
        self.live_R = np.zeros(rows, bool)
        self.used_R = np.zeros(rows, np.int64)
        self.hull = 0
        self._episode_R: list[str | None] = [None] * rows
        self._row_of: dict[str, int] = {}
        self._clock = 0

    @property
    def live(self) -> int:
        """How many rows belong to requests in flight."""
        return int(self.live_R.sum())

    @property
    def full(self) -> bool:
        """Whether every row is live."""
        return bool(self.live_R.all())

    def longest_prefix(self, ids_T: np.ndarray, without: Collection[int] = ()) -> Prefix:
        """The row that shares most of `ids_T`, and how much; rows in `without` are not looked at."""
        T = min(len(ids_T), int(self.length_R.max(initial=0)))
        if T == 0:
            return Prefix(0, 0)
        differs_RT = self.ids_RT[:, :T] != ids_T[:T]
        same_R = np.where(differs_RT.any(1), differs_RT.argmax(1), T)
        same_R = np.minimum(same_R, self.length_R)
        same_R[list(without)] = 0
        row = int(same_R.argmax())
        return Prefix(row, int(same_R[row]))

    def place(self, episode: str, prefer: int) -> int:
        """The row for an episode that goes live: its own, else an empty one, else the one unused for longest. Not where all are live.

        `prefer` is the row whose content the episode wants: if it is nobody's, or the choice falls on it, nothing need be copied.
        """
        own = self._row_of.get(episode)
        if own is not None and not self.live_R[own]:
            row = own
        else:
            assert not self.full, "no row is free"
            row = self._spare(prefer)
            self._own(row, episode)
        self.live_R[row] = True
        self.hull = max(self.hull, row + 1)
        self.touch(row)
        return row

    def touch(self, row: int) -> None:
        """Marks a row as used just now."""
        self._clock += 1
        self.used_R[row] = self._clock

    def hold(self, row: int, ids_T: np.ndarray) -> None:
        """States that the row now holds exactly `ids_T`."""
        self.ids_RT[row, : len(ids_T)] = ids_T
        self.length_R[row] = len(ids_T)

    def append(self, rows_n: np.ndarray, ids_n: np.ndarray) -> None:
        """States that each row holds one id more."""
        self.ids_RT[rows_n, self.length_R[rows_n]] = ids_n
        self.length_R[rows_n] += 1

    def rest(self, row: int) -> None:
        """The row's request ended; its content stays for the episode's next turn."""
        self.live_R[row] = False
        self.touch(row)
        while self.hull and not self.live_R[self.hull - 1]:
            self.hull -= 1

    def forget(self, episode: str) -> None:
        """Disowns an episode's row, which is then the first to be overwritten. Until then others may still copy a prefix from it."""
        row = self._row_of.pop(episode, None)
        if row is not None:
            self._episode_R[row] = None
            self.used_R[row] = 0

    def swap(self, one: int, other: int) -> None:
        """Exchanges two rows' entries; the caller moves their content."""
        for array in (self.ids_RT, self.length_R, self.live_R, self.used_R):
            array[[one, other]] = array[[other, one]]
        self._episode_R[one], self._episode_R[other] = self._episode_R[other], self._episode_R[one]
        for row in (one, other):
            episode = self._episode_R[row]
            if episode is not None:
                self._row_of[episode] = row

    def compaction(self) -> list[tuple[int, int]]:
        """Swaps that bring all live rows to the front, once more than an eighth of the hull is idle; empty where it is not worth it.

        The entries are exchanged here; the caller exchanges the content of each pair, in order.
        """
        live = self.live
        if self.hull - live <= max(2, self.hull // 8):
            return []
        holes = np.flatnonzero(~self.live_R[:live])
        tails = live + np.flatnonzero(self.live_R[live : self.hull])
        pairs = [(int(hole), int(tail)) for hole, tail in zip(holes, tails, strict=True)]
        for hole, tail in pairs:
            self.swap(hole, tail)
        self.hull = live
        return pairs

    def _spare(self, prefer: int) -> int:
        free_R = ~self.live_R
        if free_R[prefer] and self.length_R[prefer] and self._episode_R[prefer] is None:
            return prefer
        empty_R = free_R & (self.length_R == 0)
        if empty_R.any():
            return int(empty_R.argmax())
        return int(np.where(free_R, self.used_R, np.iinfo(np.int64).max).argmin())

    def _own(self, row: int, episode: str) -> None:
        before = self._episode_R[row]
        if before is not None and self._row_of.get(before) == row:
            del self._row_of[before]
        if (elsewhere := self._row_of.get(episode)) is not None:
            self._episode_R[elsewhere] = None
        self._episode_R[row] = episode
        self._row_of[episode] = row
