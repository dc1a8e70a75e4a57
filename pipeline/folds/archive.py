"""Every accepted record, as it is, into the raw table of its topic."""

import polars as pl

from pipeline.fold import Fold


class Archive(Fold):
    """Raw rows of one topic: late ones and repeats too, flagged."""

    def __init__(self, topic: str) -> None:
        self._table = f"raw_{topic}"
        self._pending: list[pl.DataFrame] = []

    def apply(self, rows: pl.DataFrame) -> None:
        if len(rows):
            self._pending.append(rows)

    def take(self) -> dict[str, pl.DataFrame]:
        if not self._pending:
            return {}
        rows = pl.concat(self._pending)
        self._pending = []
        times = [
            pl.col("event_time").cast(pl.Datetime("ms", "UTC")),
            pl.col("appended").cast(pl.Datetime("ms", "UTC")).alias("appended_at"),
        ]
        return {self._table: rows.with_columns(times).drop("appended")}
