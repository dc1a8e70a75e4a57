"""Blocks against aiokafka's own records: the same topics, read both ways, hold the same."""

import asyncio
import contextlib
import secrets
import struct
from collections.abc import AsyncIterator
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.consumer.fetcher import READ_UNCOMMITTED, PartitionRecords
from aiokafka.errors import CorruptRecordException
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.memory_records import MemoryRecords
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from kafka.admin import NewTopic
from kafka.structs import TopicPartition as KafkaTopicPartition
from mode.utils.locks import Event

from infra.connect import kafka_address, kafka_admin
from infra.settings import Settings
from pipeline.block import Block
from pipeline.transport import BlockConsumer, BlockConsumerThread, blocks

TP = TopicPartition("t", 3)
Read = list[tuple[int, int, bytes | None]]
"""Offset, time stamp and value of records."""

# Without a broker.

record_values = st.one_of(st.none(), st.binary(max_size=30))
batches = st.lists(
    st.tuples(
        st.lists(st.tuples(st.integers(1, 4), record_values), min_size=1, max_size=6),
        st.sampled_from((0, 1, 3, 4)),
        st.integers(0, 3),
        st.booleans(),
    ),
    min_size=1,
    max_size=6,
)


def written(made: list[tuple[list[tuple[int, bytes | None]], int, int, bool]]) -> tuple[bytes, int]:
    """Record batches as a broker has them after compaction: gaps between records, and behind the last of a batch."""
    data, offset = b"", 10
    for records, compression, removed, append_time in made:
        builder = DefaultRecordBatchBuilder(2, compression, False, -1, -1, -1, 1_000_000)
        base = offset
        for gap, value in records:
            builder.append(offset - base, 1_000 + offset, None, value, [])
            offset += gap
        offset += removed
        batch = bytearray(builder.build())
        struct.pack_into(">q", batch, 0, base)
        struct.pack_into(">i", batch, 23, offset - base - 1)
        if append_time:
            struct.pack_into(">h", batch, 21, struct.unpack_from(">h", batch, 21)[0] | 8)
            struct.pack_into(">q", batch, 35, 7_777_777 + base)
        data += batch
    return data, offset


def partition_records(data: bytes, start: int, check_crcs: bool = False) -> PartitionRecords:
    return PartitionRecords(TP, MemoryRecords(data), [], start, None, None, check_crcs, READ_UNCOMMITTED)


def flat(found: list[Block]) -> Read:
    return [
        record
        for block in found
        for record in zip(block.offsets.tolist(), block.appended.tolist(), block.values, strict=True)
    ]


@examples(deadline=None)
@given(made=batches, skipped=st.integers(0, 15))
def test_compacted_batches_and_a_start_within_one(
    made: list[tuple[list[tuple[int, bytes | None]], int, int, bool]], skipped: int
) -> None:
    data, end = written(made)
    start = min(10 + skipped, written(made[:1])[1] - 1)
    theirs = [(r.offset, r.timestamp, r.value) for r in partition_records(data, start)]
    found = list(blocks(partition_records(data, start)))
    assert flat(found) == theirs
    assert [found[0].start, *(block.next for block in found)] == [*(block.start for block in found), end]
    assert found[0].start == start


def test_a_batch_with_a_wrong_checksum_is_refused() -> None:
    data = bytearray(written([([(1, b"value")], 0, 0, False)])[0])
    data[-3] ^= 1
    with pytest.raises(CorruptRecordException):
        list(blocks(partition_records(bytes(data), 10, check_crcs=True)))


# On the broker.


@contextlib.asynccontextmanager
async def consumer(settings: Settings, isolation: str, tp: TopicPartition, start: int) -> AsyncIterator[Any]:
    reader = AIOKafkaConsumer(
        bootstrap_servers=kafka_address(settings),
        isolation_level=isolation,
        auto_offset_reset="earliest",
        max_partition_fetch_bytes=3_000,
    )
    await reader.start()
    try:
        reader.assign([tp])
        reader.seek(tp, start)
        yield reader
    finally:
        await reader.stop()


async def by_records(settings: Settings, isolation: str, tp: TopicPartition, start: int, end: int) -> Read:
    read: Read = []
    async with consumer(settings, isolation, tp, start) as reader:
        while await reader.position(tp) < end:
            found = await reader.getmany(timeout_ms=500)
            read += [(r.offset, r.timestamp, r.value) for records in found.values() for r in records]
    return read


async def by_blocks(settings: Settings, isolation: str, tp: TopicPartition, start: int, end: int) -> list[Block]:
    thread: Any = SimpleNamespace(consumer=SimpleNamespace(flow_active=True))
    thread._ready = lambda *args: BlockConsumerThread._ready(thread, *args)
    read: list[Block] = []
    async with consumer(settings, isolation, tp, start) as reader:
        while await reader.position(tp) < end:
            found = await BlockConsumerThread._fetch_records(thread, reader, {tp}, 0.5)
            assert set(found) <= {tp}
            read += [block for part in found.values() for block in part]
        # At the end of the log a poll brings nothing, and so it does while a rebalance has stopped the flow.
        assert await BlockConsumerThread._fetch_records(thread, reader, {tp}, 0.05) == {}
        reader.seek(tp, start)
        assert await BlockConsumerThread._fetch_records(thread, reader, set(), 0.05) == {}
        thread.consumer.flow_active = False
        assert await BlockConsumerThread._fetch_records(thread, reader, {tp}, 0.05) == {}
    return read


async def fill(settings: Settings, topic: str) -> None:
    rng, address = Random(topic[-1]), kafka_address(settings)

    def value() -> bytes | None:
        return None if rng.random() < 0.1 else rng.randbytes(rng.randrange(40)) * rng.randrange(1, 6)

    for compression in (None, "lz4", "gzip", "zstd"):
        producer = AIOKafkaProducer(bootstrap_servers=address, compression_type=compression, linger_ms=20)
        await producer.start()
        try:
            for _ in range(3):
                await asyncio.gather(
                    *[await producer.send(topic, value(), key=b"k", partition=0) for _ in range(rng.randrange(1, 40))]
                )
        finally:
            await producer.stop()
        writer = AIOKafkaProducer(bootstrap_servers=address, transactional_id=f"{topic}-{compression}", linger_ms=5)
        await writer.start()
        try:
            for committed in (True, False, False, True):
                await writer.begin_transaction()
                await asyncio.gather(*[await writer.send(topic, value(), key=b"k", partition=0) for _ in range(7)])
                await (writer.commit_transaction() if committed else writer.abort_transaction())
        finally:
            await writer.stop()


@pytest.mark.stack
@pytest.mark.parametrize("stamped", ["LogAppendTime", "CreateTime"])
def test_blocks_hold_what_records_hold(settings: Settings, stamped: str) -> None:
    topic = f"{settings.topic_prefix}{secrets.token_hex(3)}"
    tp, leading = TopicPartition(topic, 0), 25
    with contextlib.closing(kafka_admin(settings)) as admin:
        admin.create_topics(
            [NewTopic(topic, 1, 1, topic_configs={"message.timestamp.type": stamped})], wait_for_metadata=True
        )
        asyncio.run(fill(settings, topic))
        admin.delete_records({KafkaTopicPartition(topic, 0): leading})

    async def compare() -> None:
        async with consumer(settings, "read_uncommitted", tp, leading) as reader:
            end = (await reader.end_offsets([tp]))[tp]
            assert (await reader.beginning_offsets([tp]))[tp] == leading
        assert end > 150
        for isolation in ("read_uncommitted", "read_committed"):
            whole = await by_records(settings, isolation, tp, leading, end)
            for start in (leading, leading + 1, leading + 13, end - 9, end - 2):
                found = await by_blocks(settings, isolation, tp, start, end)
                assert flat(found) == [record for record in whole if record[0] >= start]
                assert [start, *(block.next for block in found)] == [*(block.start for block in found), end]
            # Below what the broker still has, reading begins where it begins, and the gap is seen.
            found = await by_blocks(settings, isolation, tp, 0, end)
            assert (flat(found), found[0].start) == (whole, leading)

    asyncio.run(compare())


# Where to read on.


class Asked:
    """Offsets that answer when told to."""

    def __init__(self) -> None:
        self.answer: asyncio.Future[dict[Any, int]] = asyncio.get_running_loop().create_future()

    async def positions(self, consumer: Any) -> dict[Any, int]:
        return await self.answer


def seeking() -> Any:
    """A consumer without Kafka: only what it does about seeking."""
    made: Any = BlockConsumer.__new__(BlockConsumer)
    made._assignments, made._seeking = 0, None
    made._sought = Event()
    made.sought_to = []

    async def seek_wait(positions: dict[Any, int]) -> None:
        made.sought_to.append(positions)

    made.seek_wait = seek_wait
    made.__dict__["app"] = SimpleNamespace(offsets=Asked())
    return made


def test_nothing_is_fetched_until_the_state_is_restored_and_sought_to() -> None:
    async def run() -> None:
        made = seeking()
        await asyncio.wait_for(made.perform_seek(), 1)
        await asyncio.sleep(0)
        assert not made._sought.is_set()
        made.app.offsets.answer.set_result({TP: 5})
        await made._seeking
        assert (made.sought_to, made._sought.is_set()) == ([{TP: 5}], True)

    asyncio.run(run())


def test_positions_of_an_assignment_that_has_ended_are_not_sought_to() -> None:
    async def run() -> None:
        made = seeking()
        await made.perform_seek()
        await asyncio.sleep(0)
        made._unsettle()
        made.app.offsets.answer.set_result({TP: 5})
        await made._seeking
        assert (made.sought_to, made._sought.is_set()) == ([], False)

    asyncio.run(run())
