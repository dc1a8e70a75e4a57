"""A fold that counts: all it stores are snapshot rows."""

from abc import abstractmethod

import polars as pl

from pipeline.fold import Fold
from pipeline.snapshot import Snapshots, SnapshotTable


class SnapshotFold(Fold):
    """Keeps the snapshot rows of its ``tables``. Late events and repeats are left out."""

    def __init__(self) -> None:
        self._snapshots = {table.name: Snapshots(table) for table in self.tables}
        self._torn = -1

    @abstractmethod
    def count(self, rows: pl.DataFrame, replayed: bool) -> None:
        """Counts events, at least one; if ``replayed``, rows may hold some of them already (a flush was torn)."""

    def __len__(self) -> int:
        return sum(len(snapshots) for snapshots in self._snapshots.values())

    def restore(self, table: SnapshotTable, rows: pl.DataFrame) -> None:
        snapshots = self._snapshots[table.name]
        snapshots.restore(rows)
        self._torn = max(self._torn, snapshots.highest)

    def apply(self, rows: pl.DataFrame) -> None:
        rows = rows.filter((pl.col("late") == 0) & (pl.col("duplicate") == 0))
        if len(rows):
            self.count(rows, int(rows["offset"][0]) <= self._torn)

    def take(self) -> dict[str, pl.DataFrame]:
        taken = {name: snapshots.take() for name, snapshots in self._snapshots.items()}
        return {name: rows for name, rows in taken.items() if len(rows)}

    def evict(self, oldest: int) -> None:
        for snapshots in self._snapshots.values():
            snapshots.evict(oldest)
