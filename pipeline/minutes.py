"""What an entity had, by minute: asked for the sums of any window."""

from array import array
from bisect import bisect_left
from collections.abc import Sequence

import numpy as np

from pipeline.block import Int64s
from pipeline.rules import NOTHING, Span, Sums
from schemas.quantities import MINUTE_MS

QUARTER_MS = 15 * MINUTE_MS
"""Local hours and days begin at whole quarters of an hour in every time zone."""
_MEASURES = len(NOTHING)


class Minutes:
    """Sums of an entity by minute, in the order of ``rules.Sums``.

    They are held as sums of all minutes before each, so a window costs the same however long it is. Old ones may be put
    together by quarters of an hour.
    """

    __slots__ = ("_begins", "_coarse", "_totals")

    def __init__(self) -> None:
        self._begins = array("q")
        self._totals: Int64s = np.zeros((8, _MEASURES), np.int64)
        self._coarse = -(1 << 62)

    def __len__(self) -> int:
        return len(self._begins)

    @property
    def last(self) -> int | None:
        """Begin of the newest minute (UTC ms); None: there is none."""
        return self._begins[-1] if self._begins else None

    def add(self, minute: int, sums: Sequence[int]) -> None:
        """Adds to the minute that begins then, UTC ms."""
        begin = minute // QUARTER_MS * QUARTER_MS if minute < self._coarse else minute
        size = len(self._begins)
        index = bisect_left(self._begins, begin)
        if index == size or self._begins[index] != begin:
            self._insert(index, begin)
            size += 1
        self._totals[index + 1 : size + 1] += sums

    def fill(self, begins: Sequence[int], sums: Int64s) -> None:
        """Takes minutes (UTC ms, rising) and their sums, shape (n, 6), in place of what is held."""
        self._begins = array("q", begins)
        self._totals = np.zeros((len(begins) + 8, _MEASURES), np.int64)
        np.cumsum(sums, axis=0, out=self._totals[1 : len(begins) + 1])

    def sums(self, window: Span) -> Sums:
        """What it had in a window; where minutes are put together, its ends are whole quarters of an hour."""
        first, last = bisect_left(self._begins, window.start), bisect_left(self._begins, window.end)
        return NOTHING if first == last else Sums(*(self._totals[last] - self._totals[first]).tolist())

    def coarsen(self, before: int, forget: int) -> None:
        """Puts minutes before a time together (UTC ms; a whole quarter of an hour), forgets those before another."""
        self._coarse = max(self._coarse, before)
        if not self._begins:
            return
        first, last = bisect_left(self._begins, forget), bisect_left(self._begins, before)
        begins = np.array(self._begins, np.int64)
        quarters, starts = np.unique(begins[first:last] // QUARTER_MS * QUARTER_MS, return_index=True)
        size = len(begins)
        totals = np.concatenate([self._totals[first + starts], self._totals[last : size + 1]])
        self._begins = array("q", quarters.tolist() + begins[last:].tolist())
        self._totals = np.concatenate([totals, np.zeros((8, _MEASURES), np.int64)])

    def _insert(self, index: int, begin: int) -> None:
        size = len(self._begins)
        if size + 2 > len(self._totals):
            self._totals = np.concatenate([self._totals, np.zeros_like(self._totals)])
        self._begins.insert(index, begin)
        self._totals[index + 1 : size + 2] = self._totals[index : size + 1]
