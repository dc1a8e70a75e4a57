"""The dedupe index: where each event was first seen, in buckets of event time that the watermark evicts."""

import numpy as np
import numpy.typing as npt
import polars as pl
import polars_hash as plh

from pipeline.block import Int64s

UInt64s = npt.NDArray[np.uint64]

BUCKET_MS = 300_000
"""Width of a bucket of event time, milliseconds."""
TIME_MIX = 0x9E3779B97F4A7C15
"""Odd multiplier that spreads the event time over 64 bits (2^64 divided by the golden ratio)."""
_NO_OFFSET = np.iinfo(np.int64).max


class DedupeFull(Exception):
    """The index holds as many ids as the setting ``FANPULSE_DEDUPE_LIMIT`` allows; forgetting some would miscount."""


def fingerprints(rows: pl.DataFrame) -> UInt64s:
    """64-bit fingerprints of (event_id, event_time): XXH3 of the id, xor the time in ms times TIME_MIX.

    ClickHouse computes the same as ``bitXor(xxh3(event_id), toUInt64(ms) * 11400714819323198485)``.
    Zero marks an empty slot in the index, so it becomes one.
    """
    ids = rows.select(plh.col("event_id").nchash.xxh3_64()).to_series().to_numpy()
    times = rows["event_time"].to_numpy().astype(np.uint64) * np.uint64(TIME_MIX)
    mixed: UInt64s = ids ^ times
    mixed[mixed == 0] = 1
    return mixed


class _Table:
    """Open addressing over two arrays, probed a whole batch at a time: 32 to 64 bytes an id."""

    __slots__ = ("first", "keys", "used")

    def __init__(self, capacity: int = 1024) -> None:
        self.keys: UInt64s = np.zeros(capacity, np.uint64)
        self.first: Int64s = np.full(capacity, _NO_OFFSET, np.int64)
        self.used = 0

    def note(self, keys: UInt64s, offsets: Int64s) -> Int64s:
        """First offsets of these keys, each of which is now noted at its offset too. Keys may repeat."""
        if 2 * (self.used + len(keys)) > len(self.keys):
            self._grow(2 * (self.used + len(keys)))
        slots = self._slots(keys)
        np.minimum.at(self.first, slots, offsets)
        return self.first[slots]

    def _slots(self, keys: UInt64s) -> Int64s:
        """The slot of each key, taken now where it had none."""
        mask = np.int64(len(self.keys) - 1)
        slots = keys.astype(np.int64) & mask
        pending = np.arange(len(keys))
        while len(pending):
            at, wanted = slots[pending], keys[pending]
            held = self.keys[at]
            free = held == 0
            if free.any():
                # Several keys may want one free slot: all write, the last stays, and the others go on probing.
                taken = at[free]
                self.keys[taken] = wanted[free]
                held = self.keys[at]
                # Distinct slots without sorting: all write their number, and one of each slot reads its own.
                number = np.arange(len(taken))
                self.first[taken] = number
                self.used += int(np.count_nonzero(self.first[taken] == number))
                self.first[taken] = _NO_OFFSET
            pending = pending[held != wanted]
            slots[pending] = (slots[pending] + 1) & mask
        return slots

    def _grow(self, slots: int) -> None:
        keys, first = self.keys, self.first
        capacity = 1 << int(slots - 1).bit_length()
        self.keys = np.zeros(capacity, np.uint64)
        self.first = np.full(capacity, _NO_OFFSET, np.int64)
        self.used = 0
        live = keys != 0
        self.first[self._slots(keys[live])] = first[live]


class DedupeIndex:
    """First offset of each event of one topic and partition, as far back as the late horizon.

    A repeat is an event whose fingerprint was first seen at a lower offset; so a replay of the same offset passes.
    """

    def __init__(self) -> None:
        self._buckets: dict[int, _Table] = {}

    def __len__(self) -> int:
        return sum(table.used for table in self._buckets.values())

    @property
    def nbytes(self) -> int:
        """Memory of the arrays, bytes."""
        return sum(table.keys.nbytes + table.first.nbytes for table in self._buckets.values())

    def repeats(self, prints: UInt64s, event_times: Int64s, offsets: Int64s) -> npt.NDArray[np.bool_]:
        """Which of these events (in offset order) repeat an earlier one; all of them are remembered."""
        repeated = np.zeros(len(prints), bool)
        if not len(prints):
            return repeated
        buckets = event_times // BUCKET_MS
        if int(buckets.min()) == int(buckets.max()):
            repeated[:] = self._table(int(buckets[0])).note(prints, offsets) < offsets
            return repeated
        order = np.argsort(buckets, kind="stable")
        ranked = buckets[order]
        for here in np.split(order, np.flatnonzero(ranked[1:] != ranked[:-1]) + 1):
            table = self._table(int(buckets[here[0]]))
            repeated[here] = table.note(prints[here], offsets[here]) < offsets[here]
        return repeated

    def _table(self, bucket: int) -> _Table:
        table = self._buckets.get(bucket)
        if table is None:
            table = self._buckets[bucket] = _Table()
        return table

    def evict(self, before_ms: int) -> None:
        """Forgets the buckets that end at or before this event time: older events are late, not compared."""
        for bucket in [bucket for bucket in self._buckets if (bucket + 1) * BUCKET_MS <= before_ms]:
            del self._buckets[bucket]


def restore(prints: UInt64s, event_times: Int64s, offsets: Int64s) -> DedupeIndex:
    """An index of events already stored: their fingerprints, as ClickHouse computes them, times (ms) and offsets."""
    index = DedupeIndex()
    if len(prints):
        index.repeats(np.where(prints == 0, np.uint64(1), prints), event_times, offsets)
    return index
