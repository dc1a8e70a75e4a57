"""Rows of pairs of a fan and a number: an exact map over arrays, without a Python object per pair."""

from typing import TypeVar

import numpy as np
import numpy.typing as npt

from pipeline.block import Int64s
from pipeline.dedupe import UInt64s

Scalar = TypeVar("Scalar", bound=np.generic)

_AT_ONCE = 1 << 17
"""Keys looked up at once: bounds what is in flight, and by how much the slots may grow too far."""
_NUMBER_MIX = np.uint64(0xD6E8FEB86659FD93)
_SPREAD = np.uint64(0x9E3779B97F4A7C15)


class Pairs:
    """Numbers pairs (fan, number) from 0 on, in the order in which they were first asked for.

    ``fan`` is 64 bits, ``number`` from 0 to 2^32 - 1. At most 2^31 - 1 pairs; 20 to 34 bytes each. Open addressing,
    probed a whole batch at a time; a slot holds the row of a pair, so keys are compared whole and no two are confused.
    """

    def __init__(self) -> None:
        self._fans: UInt64s = np.empty(1024, np.uint64)
        self._numbers: npt.NDArray[np.uint32] = np.empty(1024, np.uint32)
        self._slots: npt.NDArray[np.int32] = np.full(2048, -1, np.int32)
        self._count = 0

    def __len__(self) -> int:
        return self._count

    @property
    def nbytes(self) -> int:
        """Memory of the arrays, bytes."""
        return self._fans.nbytes + self._numbers.nbytes + self._slots.nbytes

    def keys(self, rows: Int64s) -> tuple[UInt64s, Int64s]:
        """Fans and numbers of these rows."""
        return self._fans[rows], self._numbers[rows].astype(np.int64)

    def rows(self, fans: UInt64s, numbers: Int64s) -> Int64s:
        """The row of each pair, given now where it had none. Pairs may repeat."""
        found = np.empty(len(fans), np.int64)
        for first in range(0, len(fans), _AT_ONCE):
            some = slice(first, first + _AT_ONCE)
            found[some] = self._rows(fans[some], numbers[some].astype(np.uint32))
        return found

    def _rows(self, fans: UInt64s, numbers: npt.NDArray[np.uint32]) -> Int64s:
        self._make_room(self._count + len(fans))
        found = np.empty(len(fans), np.int64)
        pending = np.arange(len(fans))
        at = self._first_slots(fans, numbers)
        mask = len(self._slots) - 1
        while len(pending):
            held = self._slots[at]
            free = held < 0
            if free.any():
                # Several pairs may want one free slot: all write, the last stays. The others compare with it, as it
                # may be the same pair, and else go on probing.
                taken, new = at[free], pending[free]
                number = np.arange(len(taken), dtype=np.int32)
                self._slots[taken] = number
                stays = self._slots[taken] == number
                taken, new = taken[stays], new[stays]
                rows = np.arange(self._count, self._count + len(new))
                self._slots[taken] = rows
                self._fans[rows] = fans[new]
                self._numbers[rows] = numbers[new]
                self._count += len(new)
                held = self._slots[at]
            same = (self._fans[held] == fans[pending]) & (self._numbers[held] == numbers[pending])
            found[pending[same]] = held[same]
            other = ~same
            pending = pending[other]
            at = (at[other] + 1) & mask
        return found

    def _first_slots(self, fans: UInt64s, numbers: npt.NDArray[np.uint32]) -> Int64s:
        """Where to look first: the upper bits of a product, which depend on all bits of both."""
        bits = len(self._slots).bit_length() - 1
        mixed: UInt64s = (fans ^ (numbers * _NUMBER_MIX)) * _SPREAD
        return (mixed >> np.uint64(64 - bits)).astype(np.int64)

    def _make_room(self, pairs: int) -> None:
        if pairs > len(self._fans):
            capacity = max(pairs, len(self._fans) * 3 // 2)
            self._fans = longer(self._fans, capacity)
            self._numbers = longer(self._numbers, capacity)
        if 2 * pairs > len(self._slots):
            self._slots = np.full(1 << (2 * pairs - 1).bit_length(), -1, np.int32)
            for first in range(0, self._count, _AT_ONCE):
                self._settle(np.arange(first, min(first + _AT_ONCE, self._count)))

    def _settle(self, rows: Int64s) -> None:
        """Finds a slot for each of these rows, whose pairs are distinct and have none yet."""
        at = self._first_slots(self._fans[rows], self._numbers[rows])
        mask = len(self._slots) - 1
        while len(rows):
            free = self._slots[at] < 0
            self._slots[at[free]] = rows[free]
            left = self._slots[at] != rows
            rows = rows[left]
            at = (at[left] + 1) & mask


def longer(values: npt.NDArray[Scalar], capacity: int) -> npt.NDArray[Scalar]:
    """The values in an array of this length; what follows them is undefined."""
    made = np.empty(capacity, values.dtype)
    made[: len(values)] = values
    return made
