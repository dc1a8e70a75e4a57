"""A user's own log into the pipeline: read, judged by the contract, sorted, sent; what came too late is repaired."""

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import date, datetime
from pathlib import Path
from typing import BinaryIO
from zoneinfo import ZoneInfo

import numpy as np
import orjson
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import ClickHouseError
from kafka import KafkaConsumer, TopicPartition
from kafka.errors import KafkaError

from infra.connect import clickhouse_client, kafka_options
from infra.errors import FanpulseError
from infra.outbox import Outbox
from infra.settings import Settings
from infra.topics import end_offsets, ensure_topics
from pipeline import checkpoint as checkpoints
from pipeline.block import Block
from pipeline.decode import Decoder, FanHasher
from pipeline.loading.files import Format, LogFile, open_log
from pipeline.loading.mapping import Encoded, Encoder, Mapping, RefusedRow
from pipeline.loading.sort import MEMORY_BYTES, Record, Sorter
from pipeline.repair import Repaired, repair
from pipeline.verdict import AHEAD_MS, NEVER, Horizon
from schemas.topics import partition_for

EXAMPLES = 5
"""Refused rows that are shown."""
PATIENCE_S = 30.0
"""Seconds without progress after which a worker that should take late rows is taken to be away."""
QUICK_PATIENCE_S = 5.0
"""The same where no row seems to be late, and asking the worker only makes sure."""
_SEND = 4096
_FANS = 1_000_000

Report = Callable[[str, float | None, int], None]
"""Told about progress: what is done now, which share of it (0 to 1, None: unknown), and rows so far."""


@dataclass(frozen=True)
class Job:
    """One file and how to load it. ``rejects``: a file that gets every refused row as a line of JSON."""

    name: str
    mapping: Mapping
    form: Format | None = None
    sort: bool = True
    rejects: Path | None = None
    memory_bytes: int = MEMORY_BYTES


@dataclass
class Loaded:
    """What came of it.

    ``late``: rows that the stream left to repair, by its verdicts; a forecast where ``unread``: a worker was waited
    for, but did not store them. ``days``: local calendar days of those rows, first and last. ``repaired`` is what the
    repair did, None if none was needed or possible. ``interrupted``: told to stop before all was done. ``seconds`` by
    phase.
    """

    topic: str
    rows: int = 0
    sent: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    examples: list[RefusedRow] = field(default_factory=list)
    ignored_columns: list[str] = field(default_factory=list)
    late: int = 0
    days: tuple[date, date] | None = None
    unread: bool = False
    repaired: Repaired | None = None
    interrupted: bool = False
    seconds: dict[str, float] = field(default_factory=dict)


def load(settings: Settings, job: Job, report: Report, stop: threading.Event, patience: float = PATIENCE_S) -> Loaded:
    """Loads a file.

    With ``job.sort`` the whole file is read and judged before the first record is sent; without, some thousands of
    rows at a time. ``stop`` ends it early: nothing is lost or doubled by loading the file again.

    Raises:
        FanpulseError: the file cannot be read, the mapping does not fit it, Kafka or ClickHouse does not answer.
    """
    done = Loaded(job.mapping.topic)
    with contextlib.ExitStack() as held:
        log = open_log(job.name, job.form)
        held.callback(log.close)
        encoder = job.mapping.bind(log.columns, log.complete)
        rejects = held.enter_context(_rejects(job))
        ensure_topics(settings)
        sender = _Sender(settings, done.topic)
        held.callback(sender.close)
        sorter = held.enter_context(Sorter(job.memory_bytes))
        with _timed(done, "read" if job.sort else "send"):
            for records in _read(settings, job, log, encoder, done, rejects, report):
                if stop.is_set():
                    break
                if job.sort:
                    sorter.add(records)
                else:
                    sender.send(records)
                    done.sent = sender.sent
        _check_columns(job.mapping, log, done)
        if job.sort and not stop.is_set():
            with _timed(done, "send"):
                _send_sorted(sorter, sender, done, report, stop)
        with _timed(done, "send"):
            sender.finish()
        done.sent, done.interrupted = sender.sent, stop.is_set()
        if done.sent and not done.interrupted:
            with _timed(done, "late"):
                _settle(settings, sender, done, report, stop, patience)
            done.interrupted = stop.is_set()
    return done


@contextlib.contextmanager
def _timed(done: Loaded, phase: str) -> Iterator[None]:
    begun = time.monotonic()
    try:
        yield
    finally:
        done.seconds[phase] = done.seconds.get(phase, 0.0) + time.monotonic() - begun


@contextlib.contextmanager
def _rejects(job: Job) -> Iterator[BinaryIO | None]:
    if job.rejects is None:
        yield None
        return
    if job.rejects.exists() and job.name != "-" and job.rejects.samefile(job.name):
        raise FanpulseError(f"--rejects {job.rejects}: that is the file to load")
    try:
        file = job.rejects.open("wb")
    except OSError as error:
        raise FanpulseError(f"--rejects {job.rejects}: cannot be written ({error.strerror})") from None
    with file:
        yield file


def _read(
    settings: Settings,
    job: Job,
    log: LogFile,
    encoder: Encoder,
    done: Loaded,
    rejects: BinaryIO | None,
    report: Report,
) -> Iterator[list[Record]]:
    """Records of the rows that are events, a chunk of the file at a time; the others are counted and noted."""
    decoder = Decoder(done.topic, FanHasher(b"load"))
    partitions: dict[bytes, int] = {}
    for rows in log.chunks(encoder.columns):
        encoded = encoder.encode(rows)
        times, refused = judge(decoder, encoded, time.time_ns() // 1_000_000)
        records: list[Record] = []
        for index, at in times:
            key = encoded.keys[index]
            partition = partitions.get(key)
            if partition is None:
                if len(partitions) >= _FANS:
                    partitions.clear()
                partition = partitions[key] = partition_for(key, settings.partitions)
            records.append((at, encoded.numbers[index], partition, key, encoded.values[index]))
        refused.sort(key=lambda row: row.row)
        done.rows += len(rows.numbers) + len(rows.broken)
        done.refused.update(row.reason for row in refused)
        done.examples.extend(refused[: EXAMPLES - len(done.examples)])
        if rejects is not None:
            for row in refused:
                rejects.write(orjson.dumps({"row": row.row, "reason": row.reason, "detail": row.detail}) + b"\n")
        report("reading" if job.sort else "sending", log.fraction(), done.rows)
        yield records


def judge(decoder: Decoder, encoded: Encoded, now: int) -> tuple[list[tuple[int, int]], list[RefusedRow]]:
    """The verdict a worker would give, if the broker received the records at ``now`` (UTC ms).

    Returns position and event time (UTC ms) of every record that is an event, and all refused rows.
    """
    count = len(encoded.values)
    block = Block(
        decoder.topic, 0, 0, count, np.arange(count, dtype=np.int64), np.full(count, now, np.int64), [*encoded.values]
    )
    decoded = decoder.decode(block)
    refused = encoded.refused + [
        RefusedRow(encoded.numbers[each.offset], each.reason, each.detail) for each in decoded.refused
    ]
    rows = decoded.rows
    return list(zip(rows["offset"].to_list(), rows["event_time"].to_list(), strict=True)), refused


def _check_columns(mapping: Mapping, log: LogFile, done: Loaded) -> None:
    """Lists what was ignored; a mapped column that no row had is most likely misspelt."""
    wanted = {column for column, _ in mapping.columns.values()}
    names = mapping.bind((), False).columns
    done.ignored_columns = sorted(column for column in log.columns if column not in names)
    if log.columns and not done.interrupted:
        for missing in sorted(wanted - log.columns):
            sent = f"; {done.sent:,} rows are sent already" if done.sent else ""
            raise FanpulseError(
                f"--map: no row has a column {missing}; the columns are {', '.join(sorted(log.columns))}{sent}"
            )


def _send_sorted(sorter: Sorter, sender: "_Sender", done: Loaded, report: Report, stop: threading.Event) -> None:
    total, batch = len(sorter), []
    for record in sorter.sorted():
        batch.append(record)
        if len(batch) == _SEND:
            if stop.is_set():
                return
            sender.send(batch)
            batch = []
            report("sending", sender.sent / total, sender.sent)
    sender.send(batch)
    report("sending", 1.0, sender.sent)


class _Sender:
    """Sends records, and forecasts which of them the stream will call late."""

    def __init__(self, settings: Settings, topic: str) -> None:
        self._settings = settings
        self.topic = topic
        self.sent = 0
        self.late = 0
        self.late_times: tuple[int, int] | None = None
        """Oldest and newest event time of the rows forecast to be late, UTC ms."""
        self._horizon = Horizon(settings.allowed_lateness * 1000, settings.late_horizon * 1000)
        archived = _archived(settings, topic)
        self.live = bool(archived)
        """A worker has stored records of the topic before."""
        self.starts = _ends(settings, topic)
        stored = {
            partition: archived[partition].next_offset if partition in archived else 0 for partition in self.starts
        }
        waiting = {partition: end for partition, end in self.starts.items() if end > stored[partition]}
        tails = _tails(settings, topic, waiting) if waiting else {}
        self._newest = {
            partition: max(archived[partition].newest if partition in archived else NEVER, tails.get(partition, NEVER))
            for partition in self.starts
        }
        self.used: set[int] = set()
        """Partitions that were sent to."""
        self._outbox = Outbox(settings)

    def send(self, records: list[Record]) -> None:
        """Sends records in their order; what has one partition keeps it."""
        keys: dict[int, list[bytes]] = {}
        values: dict[int, list[bytes | None]] = {}
        reach = time.time_ns() // 1_000_000 + AHEAD_MS
        for at, _, partition, key, value in records:
            newest = self._newest[partition]
            if at > newest:
                self._newest[partition] = max(min(at, reach), newest)
            elif at < self._horizon.oldest(newest):
                self.late += 1
                first, last = self.late_times or (at, at)
                self.late_times = (min(first, at), max(last, at))
            keys.setdefault(partition, []).append(key)
            values.setdefault(partition, []).append(value)
        for partition, mine in keys.items():
            self._outbox.send(partition, [self.topic] * len(mine), mine, values[partition])
        self.used.update(keys)
        self.sent += len(records)

    def finish(self) -> None:
        """Returns when Kafka has everything. FanpulseError if it does not take it."""
        self._outbox.flush()

    def ends(self) -> dict[int, int]:
        """Offsets behind the last record of each partition that was sent to."""
        ends = _ends(self._settings, self.topic)
        return {partition: ends[partition] for partition in self.used}

    def close(self) -> None:
        """Lets go of Kafka."""
        self._outbox.close()


def _settle(
    settings: Settings, sender: _Sender, done: Loaded, report: Report, stop: threading.Event, patience: float
) -> None:
    """Asks the stream which rows were late once it has stored them, and repairs their days.

    Other producers may have sent late records in between: their days are repaired with ours.
    """
    zone = ZoneInfo(settings.time_zone)
    done.late = sender.late
    if sender.late_times is not None:
        first, last = (datetime.fromtimestamp(at // 1000, zone).date() for at in sender.late_times)
        done.days = (first, last)
    elif not sender.live:
        # Nothing was there before, and time only went forward: no row can be late.
        return
    ends = sender.ends()
    if not _await_archive(settings, done, ends, patience if sender.late else QUICK_PATIENCE_S, report, stop):
        done.unread = True
        return
    done.late, done.days = _late(settings, sender, ends)
    if done.days is not None:
        report("repairing", None, done.late)
        done.repaired = repair(settings, *done.days)


def _await_archive(
    settings: Settings, done: Loaded, ends: dict[int, int], patience: float, report: Report, stop: threading.Event
) -> bool:
    """Whether the archive has got to these offsets; False if it makes no progress for ``patience`` seconds."""
    total: int | None = None
    best, since = 1 << 62, time.monotonic()
    while not stop.is_set():
        held = _archived(settings, done.topic)
        behind = sum(max(end - (held[p].next_offset if p in held else 0), 0) for p, end in ends.items())
        if behind == 0:
            return True
        total = total or behind
        if behind < best:
            best, since = behind, time.monotonic()
        if time.monotonic() - since > patience:
            return False
        report("waiting for the worker", 1 - behind / total, total - behind)
        stop.wait(0.2)
    return False


@contextlib.contextmanager
def _clickhouse(settings: Settings, database: str | None = None) -> Iterator[Client]:
    """A client; FanpulseError for what goes wrong with its queries."""
    client = clickhouse_client(settings, database=database)
    try:
        yield client
    except ClickHouseError as error:
        raise FanpulseError(f"ClickHouse does not answer ({' '.join(str(error).split())[:160]})", exit_code=1) from None
    finally:
        client.close()


def _archived(settings: Settings, topic: str) -> dict[int, checkpoints.Checkpoint]:
    """The archive's checkpoint of each partition; none where nothing was ever stored."""
    with _clickhouse(settings, "system") as client:
        if not client.command(f"EXISTS TABLE {settings.database}.checkpoints"):
            return {}
    with _clickhouse(settings) as client:
        found: dict[int, checkpoints.Checkpoint] = {}
        for each in checkpoints.read(client):
            if each.agent == "archive" and each.topic == topic:
                best = found.get(each.partition)
                if best is None or each.next_offset > best.next_offset:
                    found[each.partition] = each
        return found


def _late(settings: Settings, sender: _Sender, ends: dict[int, int]) -> tuple[int, tuple[date, date] | None]:
    """Late records between the first and the last sent one, and their first and last local day."""
    with _clickhouse(settings) as client:
        (count, first, last), *_ = client.query(
            "SELECT count(), min(day), max(day) FROM (SELECT toDate(event_time, {zone:String}) AS day "
            f"FROM raw_{sender.topic} FINAL WHERE late = 1 AND repaired = 0 "
            "AND `offset` >= transform(partition, {partitions:Array(UInt16)}, {starts:Array(Int64)}, 0) "
            "AND `offset` < transform(partition, {partitions:Array(UInt16)}, {ends:Array(Int64)}, 0))",
            parameters={
                "zone": settings.time_zone,
                "partitions": list(ends),
                "starts": [sender.starts[partition] for partition in ends],
                "ends": list(ends.values()),
            },
        ).result_rows
    return int(count), (first, last) if count else None


@contextlib.contextmanager
def _places(settings: Settings, topic: str) -> Iterator[tuple[KafkaConsumer, dict[TopicPartition, int]]]:
    """A consumer without a group, and the partitions of a topic. FanpulseError where Kafka does not answer."""
    name = settings.topic_prefix + topic
    try:
        consumer = KafkaConsumer(**kafka_options(settings), client_id="fanpulse", enable_auto_commit=False)
        with contextlib.closing(consumer):
            yield consumer, {TopicPartition(name, partition): partition for partition in range(settings.partitions)}
    except KafkaError as error:
        raise FanpulseError(f"Kafka does not tell what {name} holds ({error}); look: fanpulse status") from None


def _ends(settings: Settings, topic: str) -> dict[int, int]:
    """Kafka's end of each partition."""
    return {partition: end for (name, partition), end in end_offsets(settings).items() if name == topic}


def _tails(settings: Settings, topic: str, waiting: dict[int, int]) -> dict[int, int]:
    """How far the last record of partitions (with their end offsets) moves the watermark, event time in UTC ms.

    In a log that is roughly in order that is the newest event time.
    """
    tails: dict[int, int] = {}
    with _places(settings, topic) as (consumer, places):
        asked = [place for place, partition in places.items() if partition in waiting]
        consumer.assign(asked)
        for place in asked:
            consumer.seek(place, waiting[places[place]] - 1)
        deadline = time.monotonic() + 5
        while len(tails) < len(asked) and time.monotonic() < deadline:
            for place, records in consumer.poll(timeout_ms=500).items():
                tails[places[place]] = max(_reach(record.value, record.timestamp) for record in records)
    return tails


def _reach(value: bytes | None, appended: int) -> int:
    try:
        return min(int(orjson.loads(value or b"")["event_time"]), appended + AHEAD_MS)
    except (ValueError, TypeError, KeyError):
        return NEVER
