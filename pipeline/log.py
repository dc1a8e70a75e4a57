"""One partition of one topic, for as long as this worker holds it."""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, cast

import numpy as np
import orjson
import polars as pl

from pipeline.block import Block
from pipeline.decode import Decoder, Refused
from pipeline.fold import Fold
from pipeline.transport import Delivery
from pipeline.verdict import NEVER, Verdicts

BY_CLICKHOUSE = "clickhouse"
"""Reason of a dead letter whose record is an event, but whose row ClickHouse does not take."""


class Broken(Exception):
    """A block did not follow the one before it: records were lost on the way, or the topic is another one now."""


@dataclass(frozen=True, slots=True)
class Batch:
    """A block, judged: ``rows`` (with ``late`` and ``duplicate``), ``refused`` records, and where it leaves the log:
    ``next`` offset and ``newest`` event time (UTC ms). ``extra_fields`` and ``slow`` as in ``decode.Decoded``,
    ``inputs`` as in ``checkpoint.Checkpoint``."""

    rows: pl.DataFrame
    refused: list[Refused]
    start: int
    next: int
    newest: int
    extra_fields: int
    slow: int
    inputs: str = ""


def sender(value: bytes | None) -> str | None:
    """The database that a message of a log of agents names; None: it names none, so no fanpulse wrote it. What another
    one's says may be of a version that this one cannot read."""
    try:
        line = orjson.loads((value or b"").partition(b"\n")[0])
    except ValueError:
        return None
    found = line.get("database") if isinstance(line, dict) else None
    return found if isinstance(found, str) else None


class Log(ABC):
    """State of everything that reads the partition: one fold an agent.

    It begins at ``position``, the lowest checkpoint of its agents, with the state that each stored there, and ends
    with the assignment: a rebalance makes new ones from ClickHouse, and what an old one still has under way is
    ignored. ``stored`` is the next offset that each agent has not stored yet, ``newest`` the newest
    event time below it (``verdict.NEVER``: none).
    """

    place: ClassVar[str] = "offset"
    """Column of a batch's rows with their offset in this log."""

    def __init__(
        self,
        topic: str,
        partition: int,
        folds: dict[str, Fold],
        checkpoints: dict[str, int],
        position: int,
        newest: Mapping[str, int] | None = None,
    ) -> None:
        self.topic = topic
        self.partition = partition
        self.folds = folds
        self.checkpoints = checkpoints
        self.stored = dict(checkpoints)
        self.newest = dict.fromkeys(checkpoints, NEVER) | dict(newest or {})
        self.position = position
        self._folded = dict.fromkeys(folds, position)

    def reached(self, newest: int) -> int | None:
        """Event time that a source has got to when ``newest`` is the newest seen (UTC ms); None: no event, or no
        source."""
        return None

    @abstractmethod
    def oldest(self, newest: int) -> int:
        """Oldest event time that may still change a figure when ``newest`` is the newest seen, UTC ms."""

    @abstractmethod
    def _judge(self, block: Block) -> Batch:
        """What a block that follows holds, and the state of the log after it."""

    def read(self, delivery: Delivery) -> Batch:
        """What a block holds: decoded by the first agent that asks, shared by the others. Broken if it does not
        follow the one before it."""
        if delivery.batch is None:
            block = delivery.block
            if block.start != self.position:
                raise Broken(
                    f"{self.topic}[{self.partition}]: a block begins at {block.start}, but {self.position} was to come"
                )
            delivery.batch = self._judge(block)
            self.position = block.next
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
        return batch.rows if batch.start >= own else batch.rows.filter(pl.col(self.place) >= own)


class PartitionLog(Log):
    """A source topic's partition: with the decoder's verdicts.

    ``set_aside`` are offsets of records whose raw row ClickHouse refuses, and why: they are taken for records that are
    no events. ``on_batch(log, batch, seconds)`` is told of every block decoded, with the CPU seconds that it took.
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
        newest: Mapping[str, int] | None = None,
        set_aside: Mapping[int, str] | None = None,
        on_batch: Callable[["PartitionLog", Batch, float], None] = lambda log, batch, seconds: None,
    ) -> None:
        super().__init__(topic, partition, folds, checkpoints, position, newest)
        self.verdicts = verdicts
        self._decoder = decoder
        self._set_aside = set_aside or {}
        self._on_batch = on_batch

    def reached(self, newest: int) -> int | None:
        return newest - self.verdicts.horizon.lateness if newest > NEVER else None

    def oldest(self, newest: int) -> int:
        return self.verdicts.horizon.oldest(newest)

    def _judge(self, block: Block) -> Batch:
        began = time.thread_time()
        decoded = self._decoder.decode(block)
        accepted, refused = decoded.rows, decoded.refused
        if self._set_aside:
            accepted, refused = self._without(block, accepted, refused)
        rows = self.verdicts.judge(accepted)
        newest = self.verdicts.newest
        batch = Batch(rows, refused, block.start, block.next, newest, decoded.extra_fields, decoded.slow)
        self._on_batch(self, batch, time.thread_time() - began)
        return batch

    def _without(self, block: Block, rows: pl.DataFrame, refused: list[Refused]) -> tuple[pl.DataFrame, list[Refused]]:
        """Rows and refused records of a block, the records that were set aside among the refused."""
        out = rows["offset"].is_in(list(self._set_aside))
        for offset in rows["offset"].filter(out).to_list():
            index = int(np.searchsorted(block.offsets, offset))
            detail = self._set_aside[offset]
            record = Refused(offset, int(block.appended[index]), BY_CLICKHOUSE, detail, block.values[index])
            refused = [*refused, record]
        return rows.filter(~out), sorted(refused, key=lambda record: record.offset)
