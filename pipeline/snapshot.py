"""Snapshot rows: absolute values per key, each with the offset of the last event that it holds."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from pipeline.block import Int64s


@dataclass(frozen=True)
class SnapshotTable:
    """A ClickHouse table of snapshot rows.

    ``keys`` are the columns that identify a row beside partition, origin and fold_version, in order: strings, and
    last the bucket, the start of the time it covers: UTC milliseconds (``minute``, ``hour``) or local days since the
    epoch (``day``). ``measures`` are its Int64 sums.
    """

    name: str
    keys: tuple[str, ...]
    measures: tuple[str, ...]

    @property
    def bucket(self) -> str:
        return self.keys[-1]

    @property
    def bucket_type(self) -> Any:
        """Polars type of the bucket column in stored rows."""
        return pl.Date if self.bucket == "day" else pl.Datetime("ms", "UTC")

    @property
    def bucket_ms(self) -> int:
        """The longest that a bucket lasts, milliseconds; a local day may have 25 hours, and lie 14 off UTC."""
        return {"minute": 60_000, "hour": 3_600_000, "day": 39 * 3_600_000}[self.bucket]

    def bucket_at(self, event_ms: int) -> int:
        """The bucket whose UTC start is at or next below this time, as a number that buckets compare with."""
        return event_ms // 86_400_000 if self.bucket == "day" else event_ms


class Snapshots:
    """The rows of one table and partition that may still change: those whose bucket the late horizon still reaches.

    Invariant: a row is the sum over its key's events up to offset ``applied``, whoever computed it, in however many
    steps. So two rows of a key differ only if one is more advanced, and the higher ``applied`` is right.
    """

    def __init__(self, table: SnapshotTable) -> None:
        self.table = table
        self._slots: dict[tuple[Any, ...], int] = {}
        self._keys: list[tuple[Any, ...] | None] = []
        self._free: list[int] = []
        self._buckets: dict[int, list[int]] = {}
        self._values: Int64s = np.zeros((256, len(table.measures)), np.int64)
        self._applied: Int64s = np.full(256, -1, np.int64)
        self._dirty: npt.NDArray[np.bool_] = np.zeros(256, bool)

    def __len__(self) -> int:
        return len(self._slots)

    @property
    def highest(self) -> int:
        """The highest offset that any row holds; -1 without rows."""
        return int(self._applied.max(initial=-1))

    def add(
        self,
        keys: Iterable[tuple[Any, ...]],
        columns: Int64s,
        amounts: Int64s,
        applied: Int64s,
        which: Int64s | None = None,
    ) -> None:
        """Adds n contributions: ``amounts[i, j]`` to measure number ``columns[i, j]`` of the row of key i, or of key
        ``which[i]`` where several contributions share a key.

        ``columns`` and ``amounts`` have shape (n, m); ``applied`` (n,) holds the last offset of each contribution.
        """
        slots = np.fromiter((self._slot(key) for key in keys), np.int64)
        if which is not None:
            slots = slots[which]
        np.add.at(self._values, (slots[:, None], columns), amounts)
        np.maximum.at(self._applied, slots, applied)
        self._dirty[slots] = True

    def applied(self, keys: Iterable[tuple[Any, ...]]) -> Int64s:
        """For each key, the last offset its row holds; -1 where there is no row."""
        return np.array([self._applied[slot] if (slot := self._slots.get(key)) is not None else -1 for key in keys])

    def take(self) -> pl.DataFrame:
        """Rows changed since the last take: key columns, measures, applied."""
        slots = np.flatnonzero(self._dirty)
        self._dirty[slots] = False
        return self._frame(slots)

    def evict(self, oldest: int) -> None:
        """Forgets rows whose bucket ended before this event time (UTC ms), except those not yet taken."""
        before = self.table.bucket_at(oldest - self.table.bucket_ms)
        for bucket in [bucket for bucket in self._buckets if bucket < before]:
            kept = []
            for slot in self._buckets.pop(bucket):
                key = self._keys[slot]
                if self._dirty[slot] or key is None:
                    kept.append(slot)
                    continue
                del self._slots[key]
                self._keys[slot] = None
                self._values[slot] = 0
                self._applied[slot] = -1
                self._free.append(slot)
            if kept:
                self._buckets[bucket] = kept

    def restore(self, rows: pl.DataFrame) -> None:
        """Takes stored rows (key columns, measures, applied) as the state; they are not dirty.

        Of several rows with one key, also of earlier calls, the one with the highest ``applied`` stays.
        """
        if rows.is_empty():
            return
        rows = rows.sort("applied")
        keys = self.key_columns(rows.with_columns(pl.col(self.table.bucket).cast(self.table.bucket_type)))
        slots = np.fromiter((self._slot(key) for key in keys), np.int64, len(rows))
        applied = rows["applied"].to_numpy()
        ahead = applied > self._applied[slots]
        # Where a slot stands several times, the last assignment stays.
        self._values[slots[ahead]] = rows.select(self.table.measures).to_numpy()[ahead]
        self._applied[slots[ahead]] = applied[ahead]

    def distinct_keys(self, rows: pl.DataFrame) -> tuple[list[tuple[Any, ...]], Int64s]:
        """Distinct keys of rows as ``key_columns`` has them, in the order in which they first appear, and the number
        of each row's key: a Python object per key, not per row."""
        keys = rows.select(self.table.keys).with_row_index("row").group_by(self.table.keys, maintain_order=True)
        grouped = keys.agg("row")
        which = np.empty(len(rows), np.int64)
        which[grouped["row"].explode().to_numpy()] = np.repeat(
            np.arange(len(grouped)), grouped["row"].list.len().to_numpy()
        )
        return self.key_columns(grouped), which

    def key_columns(self, rows: pl.DataFrame) -> list[tuple[Any, ...]]:
        """Keys of rows that have the key columns, the bucket in its stored type."""
        columns = [rows[name].to_list() for name in self.table.keys[:-1]]
        columns.append(rows[self.table.bucket].to_physical().to_list())
        return list(zip(*columns, strict=True))

    def _frame(self, slots: Int64s) -> pl.DataFrame:
        keys = [key for slot in slots.tolist() if (key := self._keys[slot]) is not None]
        names, values = self.table.keys, self._values[slots]
        columns = list(zip(*keys, strict=True)) if keys else [()] * len(names)
        buckets = pl.Series(names[-1], columns[-1], dtype=pl.Int64)
        if self.table.bucket_type == pl.Date:
            buckets = buckets.cast(pl.Int32)
        return pl.DataFrame(
            [pl.Series(name, column, dtype=pl.String) for name, column in zip(names[:-1], columns, strict=False)]
            + [buckets.cast(self.table.bucket_type)]
            + [pl.Series(name, values[:, index]) for index, name in enumerate(self.table.measures)]
            + [pl.Series("applied", self._applied[slots])]
        )

    def _slot(self, key: tuple[Any, ...]) -> int:
        slot = self._slots.get(key)
        if slot is not None:
            return slot
        if self._free:
            slot = self._free.pop()
            self._keys[slot] = key
        else:
            slot = len(self._keys)
            self._keys.append(key)
            if slot == len(self._values):
                self._values = np.concatenate([self._values, np.zeros_like(self._values)])
                self._applied = np.concatenate([self._applied, np.full(slot, -1, np.int64)])
                self._dirty = np.concatenate([self._dirty, np.zeros(slot, bool)])
        self._slots[key] = slot
        self._buckets.setdefault(key[-1], []).append(slot)
        return slot
