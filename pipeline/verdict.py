"""Late or a repeat? Decided once, at decode, from the log alone."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

from pipeline.block import Int64s
from pipeline.dedupe import DedupeIndex, fingerprints

AHEAD_MS = 300_000
"""How far beyond its broker append time one event may raise the watermark, milliseconds."""
NEVER = -(1 << 62)
"""Newest event time of a partition that has had none."""


@dataclass(frozen=True)
class Horizon:
    """How late is late, in milliseconds: the watermark runs ``lateness`` behind the newest event time; an event
    more than ``late`` behind the watermark is stored and counted, but left to repair."""

    lateness: int
    late: int

    def oldest(self, newest: int) -> int:
        """Oldest event time that is still on time when ``newest`` is the newest seen, UTC ms."""
        return newest - self.lateness - self.late


def reach(times: Int64s, appended: Int64s) -> Int64s:
    """How far each event, at ``times`` and appended to the log then (UTC ms), may raise the newest event time."""
    reached: Int64s = np.minimum(times, appended + AHEAD_MS)
    return reached


class Verdicts:
    """Watermark and dedupe index of one topic and partition, advanced in offset order."""

    def __init__(self, horizon: Horizon, newest: int = NEVER, index: DedupeIndex | None = None) -> None:
        self.horizon = horizon
        self.newest = newest
        self.index = DedupeIndex() if index is None else index

    @property
    def watermark(self) -> int:
        """Event time up to which the partition is taken to be complete, UTC ms."""
        return self.newest - self.horizon.lateness

    def judge(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Adds ``late`` and ``duplicate`` (UInt8) and advances. A late event is not compared with others: who it
        repeats may be forgotten, so repair settles it from the raw tables."""
        times, appended = rows["event_time"].to_numpy(), rows["appended"].to_numpy()
        reached = reach(times, appended)
        newest = np.maximum.accumulate(np.maximum(reached, self.newest)) if len(reached) else reached
        late: npt.NDArray[np.bool_] = times < self.horizon.oldest(0) + newest
        duplicate = np.zeros(len(times), bool)
        on_time = ~late
        if on_time.any():
            timely = rows.filter(on_time) if late.any() else rows
            duplicate[on_time] = self.index.repeats(fingerprints(timely), times[on_time], timely["offset"].to_numpy())
        if len(newest):
            self.newest = int(newest[-1])
            self.index.evict(self.horizon.oldest(self.newest))
        return rows.with_columns(
            pl.Series("late", late.astype(np.uint8)), pl.Series("duplicate", duplicate.astype(np.uint8))
        )
