"""Touches: what the events of one source topic say about how fans came, for the touch log."""

import polars as pl

from pipeline import fan_log, touch_log
from pipeline.fold import Fold, Output

AGAIN_MS = 6 * 3_600_000
"""How often a quiet topic is said to be quiet, ms."""


class Touches(Fold):
    """Selects impressions and clicks of advertisements, follows, and orders paid and refunded; late events and repeats
    are left out."""

    def __init__(self, database: str, topic: str, partition: int) -> None:
        self._database = database
        self._topic = topic
        self._partition = partition
        self._pending: list[tuple[int, pl.DataFrame]] = []
        self._quiet_at: int | None = None

    def quiet(self, now: int) -> bool:
        """Whether readers are to be told at this time of the wall clock (UTC ms) that nothing comes from the topic any
        more; notes that they are."""
        if self._quiet_at is not None and now - self._quiet_at < AGAIN_MS:
            return False
        self._quiet_at = now
        return True

    def apply(self, rows: pl.DataFrame) -> None:
        if rows.is_empty():
            return
        end = int(rows["offset"][-1]) + 1
        rows = rows.filter(
            (pl.col("late") == 0) & (pl.col("duplicate") == 0) & pl.col("kind").is_in(touch_log.KINDS[self._topic])
        )
        facts = rows.select(
            pl.col("event_time").alias("at")
            if name == "at"
            else pl.col(name)
            if name in rows.columns
            else pl.lit("" if dtype == pl.String else 0, dtype).alias(name)
            for name, dtype in touch_log.SCHEMA.items()
        )
        # Each fact is told at its own offset, so a message may end anywhere.
        for begin in range(0, len(facts), touch_log.MESSAGE_FACTS):
            part = facts[begin : begin + touch_log.MESSAGE_FACTS]
            last = begin + len(part) == len(facts)
            self._pending.append((end if last else int(part["offset"][-1]) + 1, part))
        self._quiet_at = None

    def take(self) -> dict[str, pl.DataFrame]:
        return {}

    def outputs(self, start: int, next_offset: int, reached: int | None) -> list[Output]:
        facts, self._pending = self._pending, []
        if next_offset < start:
            return []
        messages = fan_log.encode(
            self._database,
            self._topic,
            start,
            next_offset,
            reached,
            facts,
            touch_log.SCHEMA,
            touch_log.MESSAGE_FACTS,
        )
        return [Output(touch_log.TOPIC, None, message, self._partition) for message in messages]
