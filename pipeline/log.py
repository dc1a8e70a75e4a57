"""One partition of one topic, for as long as this worker holds it."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import polars as pl

from pipeline.block import Block
from pipeline.decode import Decoder, Refused
from pipeline.fold import Fold
from pipeline.transport import Delivery
from pipeline.verdict import Verdicts


class Broken(Exception):
    """A block did not follow the one before it: records were lost on the way, or the topic is another one now."""


@dataclass(frozen=True, slots=True)
class Batch:
    """A block, judged: ``rows`` (with ``late`` and ``duplicate``), ``refused`` records, and where it leaves the log:
    ``next`` offset and ``newest`` event time (UTC ms). ``extra_fields`` and ``slow`` as in ``decode.Decoded``."""

    rows: pl.DataFrame
    refused: list[Refused]
    start: int
    next: int
    newest: int
    extra_fields: int
    slow: int


class PartitionLog:
    """State of everything that reads the partition: the decoder's verdicts, and one fold an agent.

    It begins at ``position``, the lowest checkpoint of its agents, with the state that each stored there, and ends
    with the assignment: a rebalance makes new ones from ClickHouse, and what an old one still has under way is
    ignored. ``on_batch(log, batch, seconds)`` is told of every block decoded, with the CPU seconds
    that it took.
    """

    def __init__(
        self,
        topic: str,
        partition: int,
        decoder: Decoder,
        verdicts: Verdicts,
        folds: dict[str, Fold],
        checkpoints: dict[str, int],
        position: int,
        on_batch: Callable[["PartitionLog", Batch, float], None] = lambda log, batch, seconds: None,
    ) -> None:
        self.topic = topic
        self.partition = partition
        self.folds = folds
        self.checkpoints = checkpoints
        self.position = position
        self.verdicts = verdicts
        self._decoder = decoder
        self._folded = dict.fromkeys(folds, position)
        self._on_batch = on_batch

    def read(self, delivery: Delivery) -> Batch:
        """What a block holds: decoded by the first agent that asks, shared by the others. Broken if it does not
        follow the one before it."""
        if delivery.batch is None:
            delivery.batch = self._judge(delivery.block)
        return cast(Batch, delivery.batch)

    def share(self, agent: str, batch: Batch) -> pl.DataFrame:
        """The rows of a batch that an agent has not stored yet. Broken if it has not had the batch before."""
        if batch.start > self._folded[agent]:
            raise Broken(
                f"{self.topic}[{self.partition}]: agent {agent} is at {self._folded[agent]}, "
                f"its next batch begins at {batch.start}"
            )
        self._folded[agent] = max(batch.next, self._folded[agent])
        own = self.checkpoints[agent]
        return batch.rows if batch.start >= own else batch.rows.filter(pl.col("offset") >= own)

    def _judge(self, block: Block) -> Batch:
        if block.start != self.position:
            raise Broken(
                f"{self.topic}[{self.partition}]: a block begins at {block.start}, but {self.position} was to come"
            )
        start, began = self.position, time.thread_time()
        decoded = self._decoder.decode(block)
        rows = self.verdicts.judge(decoded.rows)
        self.position = block.next
        batch = Batch(
            rows, decoded.refused, start, self.position, self.verdicts.newest, decoded.extra_fields, decoded.slow
        )
        self._on_batch(self, batch, time.thread_time() - began)
        return batch
