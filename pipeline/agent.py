"""The shell around a fold: from a stream of blocks to rows, checkpoint and report, in that order."""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterable, Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import cast

import polars as pl

from pipeline import checkpoint as checkpoints
from pipeline.checkpoint import Checkpoint
from pipeline.dead_letters import dead_letter_rows
from pipeline.decode import Refused
from pipeline.fold import Output
from pipeline.log import Batch, Log
from pipeline.metrics import Metrics
from pipeline.recovery import AgentSpec, Partition
from pipeline.sink import BY_CONTENT, RefusedByClickHouse, Sink, Stopped
from pipeline.transport import Delivery
from pipeline.verdict import NEVER, reach

SETTLED = 50_000
"""Rows of a fold that are worked on before others have their turn."""
LOOK = 0.02
"""Seconds between looks at what another agent has stored, while too much waits for it."""


@dataclass(frozen=True)
class FlushPolicy:
    """When rows are written: after ``interval`` seconds, or once ``rows`` wait.

    Agents that live on what others have stored get it in bursts, one for each flush of those. They do not wait for a
    turn of their own: a move of a fan, which comes by three agents, would be seen after three intervals.
    """

    interval: float
    rows: int

    def due(self, since_flush: float, waited: float, first: bool) -> bool:
        """Whether rows are to be written.

        Args:
            since_flush: seconds since the last flush began.
            waited: seconds since the first of them came.
            first: whether they come straight from a source topic, and not from what other agents have stored.
        """
        if first:
            return since_flush >= self.interval
        return since_flush >= self.interval / 2 and waited >= self.interval / 20


@dataclass
class _Progress:
    """How far an agent has folded one partition, and what it refused on the way. ``reached`` is set where the wall
    clock says how far event time is (UTC ms)."""

    log: Log
    next_offset: int
    newest: int
    inputs: str = ""
    reached: int | None = None
    refused: list[Refused] = field(default_factory=list)


@dataclass(frozen=True)
class Keeper:
    """What the agent that stores a topic's records does with those that are no events.

    ``dead_letters(topic, partition, refused)`` is awaited before they are stored. ``set_aside`` is told of records
    whose raw row ClickHouse refuses, and why, by topic and partition and offset: the checkpoint stands before the first
    of a partition, and from there it must be read again without them. The flush is under way until it returns.
    """

    dead_letters: Callable[[str, int, list[Refused]], Awaitable[None]]
    set_aside: Callable[[Mapping[Partition, Mapping[int, str]]], Awaitable[None]]


class Agent:
    """Runs one agent in this worker, over all partitions it holds.

    A flush takes what the folds changed, sends what is for Kafka, stores rows table by table, then the checkpoints,
    and then reports the offsets; while it is under way the folds go on, and at most one is. A crash at any point leaves
    rows that are right and a checkpoint that is true (DESIGN.md has the table).

    ``logs`` are the partitions held now, shared with the worker. ``identity`` gives the checkpoint's topic id, cluster
    id and parameters for this agent and a topic. ``send`` sends records to Kafka in order, and returns once all are
    acknowledged.

    ``keeper`` is for the one agent of a topic that stores its records; None for the others. These fold no record that
    the agent that ``spec`` names in ``after`` has not stored: a record that ClickHouse refuses is then in no figure.
    """

    def __init__(
        self,
        spec: AgentSpec,
        logs: Mapping[Partition, Log],
        sink: Sink,
        policy: FlushPolicy,
        metrics: Metrics,
        identity: Callable[[str, str], tuple[str, str, str]],
        report: Callable[[str, Log, int, int], None],
        send: Callable[[list[Output]], Awaitable[None]],
        keeper: Keeper | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.name = spec.name
        self._logs = logs
        self._sink = sink
        self._policy = policy
        self._metrics = metrics
        self._identity = identity
        self._report = report
        self._send = send
        self._keeper = keeper
        self._after = spec.after
        self._unfolded: deque[tuple[Log, Batch]] = deque()
        self._cut_off = False
        self._clock = clock
        self._progress: dict[Partition, _Progress] = {}
        self._waiting = 0
        self._flush: asyncio.Task[None] | None = None
        self._flushed_at = 0.0
        self._waits_since: float | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"flush-{spec.name}")

    async def run(self, stream: AsyncIterable[Delivery]) -> None:
        """Folds every block of the stream. Once enough rows wait they are written beside it; the stream is held back
        only while the flush before that is still under way, so at most about twice as many rows are in memory. It is
        held back as well while as many wait to be folded."""
        async for delivery in stream:
            self.take(delivery)
            while sum(len(batch.rows) for _, batch in self._unfolded) >= self._policy.rows:
                await asyncio.sleep(LOOK)
                self._fold()
            if self._waiting >= self._policy.rows:
                await self._settled()
                if self._waiting >= self._policy.rows:
                    self._start_flush()

    def take(self, delivery: Delivery) -> None:
        """Folds one block once it may, unless it belongs to an assignment that has ended. Broken if one before it is
        missing."""
        partition_log: Log | None = delivery.reader
        if partition_log is not None and self._holds(partition_log):
            self._unfolded.append((partition_log, partition_log.read(delivery)))
            self._fold()

    def pass_time(self, partition_log: Log, reached: int | None) -> None:
        """Tells, with the next flush, that a log whose records are all stored is quiet, and how far event time is by
        the wall clock (UTC ms; None: it has had no event)."""
        where = (partition_log.topic, partition_log.partition)
        if self._holds(partition_log) and where not in self._progress:
            stored, newest = partition_log.stored[self.name], partition_log.newest[self.name]
            self._progress[where] = _Progress(partition_log, stored, newest, reached=reached)

    def _fold(self) -> None:
        """Folds the batches that it may: those that the agent it follows has stored."""
        started = time.thread_time()
        unfolded, self._unfolded = self._unfolded, deque()
        behind: set[Log] = set()
        for partition_log, batch in unfolded:
            if not self._holds(partition_log):
                continue
            if self._after is not None and partition_log.stored[self._after] < batch.next:
                behind.add(partition_log)
            if partition_log in behind:
                self._unfolded.append((partition_log, batch))
                continue
            rows = partition_log.share(self.name, batch)
            partition_log.folds[self.name].apply(rows)
            where = (partition_log.topic, partition_log.partition)
            progress = self._progress.get(where)
            if progress is None or progress.log is not partition_log:
                progress = self._progress[where] = _Progress(partition_log, batch.next, batch.newest)
            progress.next_offset, progress.newest, progress.inputs = batch.next, batch.newest, batch.inputs
            if self._keeper is not None:
                own = partition_log.checkpoints[self.name]
                progress.refused.extend(record for record in batch.refused if record.offset >= own)
            self._waiting += len(rows) + len(batch.refused)
        self._metrics.count("stage_seconds_total", time.thread_time() - started, self.name)

    def tick(self, now: float) -> None:
        """Starts a flush if rows wait, their time has come (``now`` is monotonic seconds), and none is under way.

        Raises what the flush before it raised.
        """
        if self._flush is not None and self._flush.done():
            self._flush.result()
        elif self._flush is not None:
            return
        self._fold()
        if not self._progress:
            self._waits_since = None
            return
        if self._waits_since is None:
            self._waits_since = now
        if self._policy.due(now - self._flushed_at, now - self._waits_since, self._keeper is not None):
            self._flushed_at, self._waits_since = now, None
            self._start_flush()

    async def flush(self) -> None:
        """Writes all that may be folded by now, after the flush under way, and waits for it."""
        await self._settled()
        self._fold()
        if self._progress:
            self._start_flush()
            await self._settled()

    async def _settled(self) -> None:
        """Waits until no flush is under way; raises what the last one raised."""
        waited = None
        while self._flush is not waited:
            waited = self._flush
            await asyncio.shield(cast(asyncio.Task[None], waited))

    def _start_flush(self) -> None:
        """Takes the folds' rows, once they are ready for it, to be written beside the stream.

        After a flush that did not come to its end there is none: the folds take for stored what it had.
        """
        if self._cut_off:
            return
        if self._unsettled():
            self._flush = asyncio.create_task(self._settle())
        else:
            self._take_rows()

    def _unsettled(self) -> bool:
        return any(
            not part.log.folds[self.name].settle(SETTLED) for part in self._progress.values() if self._holds(part.log)
        )

    async def _settle(self) -> None:
        unsettled = True
        while unsettled:
            # Others have their turn.
            await asyncio.sleep(0)
            unsettled = self._unsettled()
        self._take_rows()

    def _take_rows(self) -> None:
        started = time.thread_time()
        progress, self._progress = self._progress, {}
        self._waiting = 0
        current = [part for part in progress.values() if self._holds(part.log)]
        if not current:
            return
        tables: dict[str, list[pl.DataFrame]] = {}
        outputs = []
        for part in current:
            fold = part.log.folds[self.name]
            reached = part.log.reached(part.newest) if part.reached is None else part.reached
            outputs.append(fold.outputs(part.log.stored[self.name], part.next_offset, reached))
            snapshots = {table.name for table in fold.tables}
            tables |= {table: [] for table in fold.order if table not in tables}
            for table, rows in fold.take().items():
                columns = [pl.lit(part.log.partition, pl.UInt16).alias("partition")]
                if table in snapshots:
                    columns += [pl.lit("stream").alias("origin"), pl.lit(fold.version, pl.UInt16).alias("fold_version")]
                tables.setdefault(table, []).append(rows.with_columns(columns))
        rows_by_table = {name: pl.concat(frames) for name, frames in tables.items() if frames}
        self._metrics.count("stage_seconds_total", time.thread_time() - started, self.name)
        self._flush = asyncio.create_task(self._store(current, outputs, rows_by_table))

    async def _store(
        self, parts: list[_Progress], outputs: list[list[Output]], tables: dict[str, pl.DataFrame]
    ) -> None:
        self._cut_off = True
        stored = await self._store_all(parts, outputs, tables)
        # What ended with its assignment is in nobody's way.
        self._cut_off = not stored and any(self._holds(part.log) for part in parts)

    async def _store_all(
        self, parts: list[_Progress], outputs: list[list[Output]], tables: dict[str, pl.DataFrame]
    ) -> bool:
        """False if not all could be stored."""
        started = time.perf_counter()
        if self._keeper is not None:
            for part in parts:
                if part.refused:
                    await self._keeper.dead_letters(part.log.topic, part.log.partition, part.refused)
                    tables.setdefault("dead_letters", dead_letter_rows(()))
                    more = dead_letter_rows([(part.log.topic, part.log.partition, record) for record in part.refused])
                    tables["dead_letters"] = pl.concat([tables["dead_letters"], more])
        loop = asyncio.get_running_loop()
        try:
            await asyncio.gather(*(self._send(each) for each in outputs if each))
            made, refused = await loop.run_in_executor(self._thread, self._write, parts, tables)
        except Stopped:
            return False
        for part, stored in zip(parts, made, strict=True):
            if self._holds(part.log):
                part.log.stored[self.name] = stored.next_offset
                part.log.newest[self.name] = stored.newest
                part.log.folds[self.name].evict(part.log.oldest(stored.newest))
                self._report(self.name, part.log, stored.next_offset, stored.newest)
        if refused:
            if self._keeper is not None and all(self._holds(part.log) for part in parts):
                await self._keeper.set_aside(refused)
            return False
        self._metrics.observe("flush_seconds", time.perf_counter() - started, self.name)
        return True

    def _holds(self, partition_log: Log) -> bool:
        return self._logs.get((partition_log.topic, partition_log.partition)) is partition_log

    def _write(
        self, parts: list[_Progress], tables: dict[str, pl.DataFrame]
    ) -> tuple[list[Checkpoint], dict[Partition, dict[int, str]]]:
        """In the flush thread: every table, then the checkpoints. Returns these, and the records whose rows ClickHouse
        refuses, and why; rows and checkpoints end before the first of each partition."""
        started = time.thread_time()
        refused: dict[Partition, dict[int, str]] = {}
        for table, rows in tables.items():
            if rows.is_empty():
                continue
            try:
                self._sink.insert(table, rows)
            except RefusedByClickHouse as error:
                if self._keeper is None or not table.startswith("raw_") or error.code not in BY_CONTENT:
                    raise
                refused |= self._insert_before(table, rows, error)
            self._metrics.count("rows_total", len(rows), self.name, table)
        made = [self._checkpoint(part, tables, refused) for part in parts]
        self._sink.insert("checkpoints", checkpoints.frame(made, self._now_ms()))
        self._metrics.count("stage_seconds_total", time.thread_time() - started, "flush")
        return made, refused

    def _insert_before(
        self, table: str, rows: pl.DataFrame, error: RefusedByClickHouse
    ) -> dict[Partition, dict[int, str]]:
        """Stores raw rows up to the first of each partition that ClickHouse refuses; returns those that it refuses.

        What comes after them was judged with them, so it is not stored. Rows that ClickHouse had taken before it began
        to refuse them are left as they are.
        """
        found = self._sink.refused(table, rows)
        if not found:
            raise error
        held = self._sink.held(table, rows[list(found)])
        refused: dict[Partition, dict[int, str]] = {}
        for index, why in found.items():
            partition, offset = rows["partition"][index], rows["offset"][index]
            if (partition, offset) not in held:
                where = (table.removeprefix("raw_"), partition)
                refused.setdefault(where, {})[offset] = f"ClickHouse refuses its row: {why}"
        before = ~pl.arange(len(rows), eager=True).is_in(list(found))
        for (_, partition), offsets in refused.items():
            before &= (rows["partition"] != partition) | (rows["offset"] < min(offsets))
        if before.any():
            try:
                self._sink.insert(table, rows.filter(before))
            except RefusedByClickHouse as another:
                # A search finds only so many at once.
                more = self._insert_before(table, rows.filter(before), another)
                refused |= {where: {**refused.get(where, {}), **offsets} for where, offsets in more.items()}
        return refused

    def _checkpoint(
        self, part: _Progress, tables: dict[str, pl.DataFrame], refused: dict[Partition, dict[int, str]]
    ) -> Checkpoint:
        topic_id, cluster_id, parameters = self._identity(self.name, part.log.topic)
        next_offset, newest = part.next_offset, part.newest
        if here := refused.get((part.log.topic, part.log.partition)):
            next_offset, newest = min(here), part.log.newest[self.name]
            rows = tables[f"raw_{part.log.topic}"]
            before = rows.filter((pl.col("partition") == part.log.partition) & (pl.col("offset") < next_offset))
            times, appended = (before[name].dt.epoch("ms").to_numpy() for name in ("event_time", "appended_at"))
            newest = int(max(newest, reach(times, appended).max(initial=NEVER)))
        return Checkpoint(
            self.name,
            part.log.topic,
            part.log.partition,
            part.log.folds[self.name].version,
            next_offset,
            newest,
            topic_id,
            cluster_id,
            parameters,
            part.inputs,
        )

    def _now_ms(self) -> int:
        return int(self._clock() * 1000)
