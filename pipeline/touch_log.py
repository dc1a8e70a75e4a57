"""The touch log: what brings a fan to a creator, from agent ``touches`` to agent ``attribution``.

Its messages are those of the fan log (``fan_log``) with other columns: ``offset`` (Int64, in the source), ``platform``,
``creator_id`` (String), ``fan`` (UInt64), ``at`` (Int64, event time, UTC ms), ``kind``, ``campaign_id``,
``ad_group_id``, ``creative_id``, ``audience``, ``channel``, ``order_id`` (String, empty: none) and ``amount_micros``
(Int64, millionths of a yuan). Every fact is told at the offset of its event, so a message may end after any of them.
``reached`` is what events say, never the wall clock. A message that covers nothing says that its source is quiet.
"""

from collections.abc import Callable, Mapping
from typing import Any

import polars as pl

from pipeline.fan_log import Input, Message, MessageLog
from pipeline.fold import Fold
from pipeline.log import Batch

TOPIC = "fan_touches"
KINDS: dict[str, tuple[str, ...]] = {
    "ad_events": ("impression", "click"),
    "interactions": ("follow",),
    "orders": ("paid", "refunded"),
}
"""Sources, and the kinds of event that are told of them: touches, and conversions with what takes them back."""
AD_COLUMNS = ("campaign_id", "ad_group_id", "creative_id", "audience", "channel")
"""What an advertisement is told by."""
SCHEMA = {
    "offset": pl.Int64,
    "platform": pl.String,
    "creator_id": pl.String,
    "fan": pl.UInt64,
    "at": pl.Int64,
    "kind": pl.String,
    **dict.fromkeys(AD_COLUMNS, pl.String),
    "order_id": pl.String,
    "amount_micros": pl.Int64,
}
"""Columns of facts, as sent."""
ROWS = {"applied": pl.Int64, "source": pl.String, **SCHEMA, "missed": pl.UInt8}
"""Columns of what folds read. ``applied`` is the offset on the touch log; ``missed`` is 1 for a fact that is older than
what its source had been given up for. A row whose ``kind`` is empty says that ``source`` has reached ``at``."""
MESSAGE_FACTS = 4_000
"""Facts in a message at most: with the longest ids that there may be still less than a topic's largest message."""
HOUR_MS = 3_600_000
WAIT_MS = 7 * 24 * HOUR_MS
"""How far a topic that is quiet may be behind the others, in event time, before they stop waiting for it."""


class TouchLog(MessageLog):
    """One partition of the touch log.

    Its rows say how far each source is: what is still to come of it is no older than ``late`` ms before that. Event
    times say so; where a source is quiet, that is all read and nothing comes, it is taken to be ``WAIT_MS`` behind the
    one that is furthest. Facts that show otherwise are marked as missed.
    """

    name = TOPIC
    schema = SCHEMA
    row_schema = ROWS

    def __init__(
        self,
        partition: int,
        database: str,
        late: int,
        folds: dict[str, Fold],
        checkpoints: dict[str, int],
        position: int,
        inputs: Mapping[str, Input],
        on_batch: Callable[[Any, Batch, float], None] = lambda log, batch, seconds: None,
    ) -> None:
        super().__init__(partition, database, folds, checkpoints, position, inputs, on_batch)
        self._late = late
        self._told = {source: each.reached for source, each in self._inputs.items()}

    def _rows(self, message: Message, facts: pl.DataFrame, applied: int) -> pl.DataFrame:
        before, reached = self._told.get(message.source), self._inputs[message.source].reached
        missed = pl.lit(False) if before is None else pl.col("at") < before - self._late
        rows = facts.select(
            pl.lit(applied, pl.Int64).alias("applied"),
            pl.lit(message.source).alias("source"),
            *SCHEMA,
            missed.cast(pl.UInt8).alias("missed"),
        )
        if reached is None or reached == before:
            return rows
        self._told[message.source] = reached
        time = {name: 0 if dtype.is_numeric() else "" for name, dtype in ROWS.items()}
        time |= {"applied": applied, "source": message.source, "offset": -1, "at": reached}
        return pl.concat([rows, pl.DataFrame([time], schema=ROWS)])

    def _reached(self, message: Message, known: Input | None) -> int | None:
        times = [at for at in (None if known is None else known.reached, message.reached) if at is not None]
        quiet = message.start == message.next and message.facts.is_empty()
        if quiet and (known is None or message.next >= known.next):
            others = [each.reached for each in self._inputs.values() if each.reached is not None]
            times += [max(others) - WAIT_MS] if others else []
        return max(times, default=None)
