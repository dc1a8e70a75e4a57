"""Faust's Kafka transport in blocks: one message a fetch, no Python object a record.

Two private seams of pinned versions live here and nowhere else: how aiokafka turns fetched bytes into records
(``FetchResult``, ``PartitionRecords``), and how Faust asks for records, seeks and commits (``Consumer``). A test
reads the same topics through aiokafka's own records and compares.
"""

import asyncio
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, cast

import faust
import numpy as np
from aiokafka.consumer.fetcher import READ_COMMITTED, FetchResult, PartitionRecords
from aiokafka.errors import ConsumerStoppedError, CorruptRecordException
from faust.transport.drivers.aiokafka import AIOKafkaConsumerThread, Consumer, Transport
from faust.types import TP, ConsumerMessage
from mode.utils.locks import Event

from pipeline.block import Block, Int64s, merge

LOG_APPEND_TIME = 1


@dataclass(eq=False, slots=True)
class Delivery:
    """A block on its way through Faust, the same object for every agent of its topic. ``reader`` is the
    ``log.PartitionLog`` that held the partition when it was fetched (None: none did); ``batch`` is what that made of
    it, once."""

    block: Block
    reader: Any
    batch: Any = None


def blocks(records: PartitionRecords) -> Iterator[Block]:
    """One block a Kafka record batch, with the care of ``PartitionRecords._unpack_records``: CRC, aborted
    transactions, control batches, and a first batch that begins before the position asked for."""
    tp = records._tp
    start = records.next_fetch_offset
    while records._records.has_next():
        batch = records._records.next_batch()
        if records._check_crcs and not batch.validate_crc():
            raise CorruptRecordException(f"Invalid CRC - {tp}")
        skipped = batch.is_control_batch
        if records._isolation_level == READ_COMMITTED and batch.producer_id is not None:
            records._consume_aborted_up_to(batch.base_offset)
            if batch.is_control_batch and records._contains_abort_marker(batch):
                records._aborted_producers.discard(batch.producer_id)
            if batch.is_transactional and batch.producer_id in records._aborted_producers:
                skipped = True
        values: list[bytes | None] = []
        offsets: list[int] = []
        appended: list[int] = []
        if not skipped:
            position = records.next_fetch_offset
            if batch.timestamp_type == LOG_APPEND_TIME:
                for record in batch:
                    if record.offset >= position:
                        values.append(record.value)
                        offsets.append(record.offset)
                appended = [batch.max_timestamp] * len(values)
            else:
                for record in batch:
                    if record.offset >= position:
                        values.append(record.value)
                        offsets.append(record.offset)
                        appended.append(record.timestamp)
        # The batch knows its last offset also where compaction removed that record.
        records.next_fetch_offset = max(batch.next_offset, records.next_fetch_offset)
        yield Block(tp.topic, tp.partition, start, records.next_fetch_offset, _array(offsets), _array(appended), values)
        start = records.next_fetch_offset


def _array(values: list[int]) -> Int64s:
    return np.array(values, np.int64)


def drain(result: FetchResult) -> Block | None:
    """All that a fetch brought of a partition as one block; None if it was reassigned or paused meanwhile."""
    if not result.check_assignment(result._topic_partition) or not result.has_more():
        return None
    found = list(blocks(result._partition_records))
    result._update_position()
    result._partition_records = None
    return merge(found) if found else None


class BlockConsumerThread(AIOKafkaConsumerThread):
    """The thread that speaks to Kafka, handing out blocks."""

    def heard_at(self, tp: TP) -> int | None:
        """When Kafka last answered for a partition, with records or without, UTC ms; None: not yet."""
        return cast(int | None, self._ensure_consumer().last_poll_timestamp(tp))

    async def _fetch_records(
        self,
        consumer: Any,
        active_partitions: set[TP],
        timeout: float | None = None,
        max_records: int | None = None,
    ) -> Mapping[TP, list[Block]]:
        if not self.consumer.flow_active:
            return {}
        fetcher = consumer._fetcher
        if consumer._closed or fetcher._closed:
            raise ConsumerStoppedError()
        with fetcher._subscriptions.fetch_context():
            found = await self._ready(fetcher, active_partitions)
            if not found and timeout:
                waiter = fetcher._create_fetch_waiter()
                done, pending = await asyncio.wait([waiter], timeout=timeout)
                for future in pending:
                    future.cancel()
                for future in done:
                    future.result()
                if done and not fetcher._closed:
                    found = await self._ready(fetcher, active_partitions)
            return found

    async def _ready(self, fetcher: Any, active_partitions: set[TP]) -> dict[TP, list[Block]]:
        if fetcher._subscriptions.reassignment_in_progress:
            await fetcher._subscriptions.wait_for_assignment()
        found: dict[TP, list[Block]] = {}
        for tp in list(fetcher._records):
            if tp not in active_partitions:
                if not fetcher._subscriptions.is_assigned(tp):
                    del fetcher._records[tp]
                continue
            result = fetcher._records[tp]
            if type(result) is not FetchResult:
                if found:
                    break
                del fetcher._records[tp]
                fetcher._notify(fetcher._wait_consume_future)
                result.check_raise()
                continue
            block = drain(result)
            if not result.has_more():
                del fetcher._records[tp]
                fetcher._notify(fetcher._wait_consume_future)
            if block is not None:
                found[tp] = [block]
        return found


class BlockConsumer(Consumer):
    """Faust's consumer over blocks.

    Faust's own accounting of acks is not used: topics have ``acks=False``, agents report to the app how far
    ClickHouse holds their rows, and what is committed to Kafka is the lowest report.
    """

    app: "BlockApp"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._assignments = 0
        self._seeking: asyncio.Task[None] | None = None
        self._sought = Event()

    def _new_consumer_thread(self) -> BlockConsumerThread:
        return BlockConsumerThread(self, loop=self.loop, beacon=self.beacon)

    def _to_message(self, tp: TP, record: Any) -> ConsumerMessage:
        block: Block = record
        return ConsumerMessage(
            block.topic,
            block.partition,
            max(block.next - 1, 0),
            float(block.appended[-1]) / 1000 if len(block) else 0.0,
            LOG_APPEND_TIME,
            [],
            None,
            cast(Any, Delivery(block, self.app.offsets.reader(tp))),
            None,
            0,
            0,
            tp,
            generation_id=self.app.consumer_generation_id,
        )

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        self._unsettle()
        await super().on_partitions_revoked(revoked)

    async def on_partitions_assigned(self, assigned: set[TP], generation_id: int = 0) -> None:
        self._unsettle()
        await super().on_partitions_assigned(assigned, generation_id)

    def _unsettle(self) -> None:
        self._assignments += 1
        self._sought.clear()

    async def _wait_next_records(self, timeout: float) -> tuple[Any, Any]:
        """None ends the round. Faust would, while the flow is stopped, seek to what Kafka has committed."""
        if not self._sought.is_set():
            await self.wait(self._sought)
        assignment = self._assignments
        found, active = await super()._wait_next_records(timeout)
        current = assignment == self._assignments and self._sought.is_set() and self.flow_active
        return found if current else None, active

    @property
    def reading(self) -> bool:
        """Whether everything assigned is restored, so that it is read."""
        return bool(self._sought.is_set())

    def heard_at(self, tp: TP) -> float | None:
        """When Kafka last said where a partition ends (seconds since the epoch, by this machine's clock): what
        ``highwater`` says was true then. None: not yet. AssertionError if it is not assigned."""
        at = cast(BlockConsumerThread, self._thread).heard_at(tp)
        return None if at is None else at / 1000

    async def perform_seek(self) -> None:
        """Begins to restore what is assigned and to seek where ClickHouse says; nothing is fetched before that.

        Returns at once: Faust would wait 90 s for it, and then never read again.
        """
        self._seeking = asyncio.ensure_future(self._seek_stored(self._assignments))

    async def _seek_stored(self, assignment: int) -> None:
        try:
            positions = await self.app.offsets.positions(self)
            if positions and assignment == self._assignments:
                await self.seek_wait(positions)
        except Exception as error:
            if assignment == self._assignments:
                await self.crash(error)
            return
        if assignment == self._assignments:
            self._sought.set()

    def begin_anew(self) -> None:
        """Reads every assigned partition again from where ClickHouse says; what was fetched is without a reader."""
        self._unsettle()
        self._seeking = asyncio.ensure_future(self._seek_stored(self._assignments))

    async def on_stop(self) -> None:
        if self._seeking is not None:
            self._seeking.cancel()
        await super().on_stop()

    def _filter_tps_with_pending_acks(self, topics: Any = None) -> Iterator[TP]:
        return iter([tp for tp in self.app.offsets.reported() if topics is None or tp in topics or tp.topic in topics])

    def _new_offset(self, tp: TP) -> int | None:
        return self.app.offsets.committable(tp)


class BlockTransport(Transport):
    """``Transport`` whose consumer delivers blocks."""

    Consumer: ClassVar[Any] = BlockConsumer


class Offsets(Protocol):
    """Who knows where to read and what is stored."""

    async def positions(self, consumer: BlockConsumer) -> dict[TP, int]:
        """Where to read on in every assigned partition, once its state is restored."""

    def reader(self, tp: TP) -> Any:
        """The ``log.PartitionLog`` that holds a partition now; None if none does."""

    def reported(self) -> Iterable[TP]:
        """Partitions of which something is known to be stored."""

    def committable(self, tp: TP) -> int | None:
        """The next offset that is not yet stored by all; None if not known."""


class BlockApp(faust.App):
    """A Faust application whose topics arrive in blocks, read and committed as ``offsets`` says."""

    offsets: Offsets

    def _new_transport(self) -> BlockTransport:
        return BlockTransport(self.conf.broker_consumer, self)
