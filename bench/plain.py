"""A plain Faust agent that does an event at a time what the worker does in blocks: the measure of ours.

It reads the topic ``interactions``, validates every record with the same pydantic contract, tells late ones and
repeats, hashes the fan, counts per creator and minute and per content and minute, hour and day, and stores raw rows,
snapshot rows and checkpoints in ClickHouse: the same rows in the same tables, and ``verify`` compares them likewise.

Tuned in good faith:
- one agent, ``concurrency=1``, no web server, no tables, ``loop`` of asyncio as ours; Faust's compiled streams;
- ``acks=False`` on the topic and no offset commits at all: the checkpoints in ClickHouse say where to go on;
- Faust's monitor, which keeps times of every event, taken out of its sensors;
- fetches of 4 MB a partition without a limit of records, and a buffer of 65,536 events before the agent;
- events wait as pydantic objects, become columns once a flush, and go into ClickHouse as Arrow from a thread, once a
  second, while the agent goes on; the day of a minute and the hash of a fan are remembered.
"""

import asyncio
import json
import os
import sys
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import date, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

os.environ.setdefault("POLARS_MAX_THREADS", "1")

import faust
import mode
import polars as pl
from pydantic import ValidationError

from infra.connect import broker_url, clickhouse_client
from infra.home import Home, fan_key, write_private
from infra.settings import Settings, load
from pipeline import checkpoint
from pipeline.app import cluster
from pipeline.checkpoint import Checkpoint
from pipeline.decode import FanHasher
from pipeline.dedupe import BUCKET_MS
from pipeline.folds.engagement import CONTENT_KINDS, KIND_MEASURES, RECENT_MS, Engagement
from pipeline.snapshot import SnapshotTable
from pipeline.verdict import AHEAD_MS, NEVER
from schemas.events import CONTRACTS, FUTURE_MS

BUFFER = 65_536
FETCH_BYTES = 4 * 1024 * 1024
INTERVAL = 1.0
_STRINGS = (
    "event_id",
    "platform",
    "creator_id",
    "region",
    "age_band",
    "gender",
    "interest",
    "device",
    "kind",
    "content_id",
    "source",
    "text",
    "live_id",
    "pk_opponent",
    "group_id",
    "product_id",
)
_INTEGERS = ("watch_ms", "duration_ms", "stay_ms")
_EPOCH = date(1970, 1, 1).toordinal()
_MINUTES, _CONTENT_MINUTES, _HOURS, _DAYS = Engagement.tables
_CREATOR_COLUMN = {kind: _MINUTES.measures.index(measure) for kind, measure in KIND_MEASURES.items()}
_CONTENT_COLUMN = {kind: _HOURS.measures.index(KIND_MEASURES[kind]) for kind in CONTENT_KINDS}
_WATCH, _COMPLETE, _STAY = (_MINUTES.measures.index(name) for name in ("watch_ms", "completions", "stay_ms"))
_CONTENT_WATCH, _CONTENT_COMPLETE = (_HOURS.measures.index(name) for name in ("watch_ms", "completions"))

Row = list[int]
"""Measures of a key, and last the highest offset."""
Raw = tuple[int, int, int, dict[str, Any], int, int, int, int]
"""Partition, offset, append time, fields of the event, fan, fan replied to, late, repeat."""


@dataclass(frozen=True)
class Outcome:
    """What the agent did: events, wall clock at its first event and after its last checkpoint (seconds since the
    epoch), CPU seconds between, and the next offset of each partition."""

    events: int
    started: float
    ended: float
    cpu: float
    until: dict[int, int]

    @classmethod
    def read(cls, file: Path) -> "Outcome":
        """As the process has written it."""
        found = json.loads(file.read_text())
        return cls(**{**found, "until": {int(key): value for key, value in found["until"].items()}})


@dataclass
class _Partition:
    newest: int = NEVER
    next_offset: int = 0
    seen: dict[int, dict[tuple[str, int], int]] = field(default_factory=dict)


class Counts:
    """The fold in plain Python: one dict a table, and the keys that changed since the last flush."""

    def __init__(self, settings: Settings) -> None:
        self.raw: list[Raw] = []
        self.partitions: dict[int, _Partition] = {}
        self.tables: dict[str, dict[tuple[Any, ...], Row]] = {table.name: {} for table in Engagement.tables}
        self.changed: dict[str, set[tuple[Any, ...]]] = {table.name: set() for table in Engagement.tables}
        self._fans = FanHasher(fan_key(settings))
        self._lateness = settings.allowed_lateness * 1000
        self._reach = self._lateness + settings.late_horizon * 1000
        self._zone = ZoneInfo(settings.time_zone)
        self._days: dict[int, int] = {}
        self._validate = CONTRACTS["interactions"].validate_json

    def take_in(self, partition: int, offset: int, appended: int, value: bytes) -> None:
        """One event. ValueError for what is none."""
        state = self.partitions.get(partition)
        if state is None:
            state = self.partitions[partition] = _Partition()
        state.next_offset = offset + 1
        try:
            fields = self._validate(value).__dict__
        except ValidationError as error:
            raise ValueError(f"no event at {partition}:{offset}: {error}") from None
        at = fields["event_time"]
        if at > appended + FUTURE_MS:
            raise ValueError(f"an event of the future at {partition}:{offset}")
        newest = min(at, appended + AHEAD_MS)
        if newest > state.newest:
            state.newest = newest
        late = at < state.newest - self._reach
        repeat = False
        if not late:
            bucket = state.seen.get(at // BUCKET_MS)
            if bucket is None:
                bucket = state.seen[at // BUCKET_MS] = {}
                oldest = (state.newest - self._reach) // BUCKET_MS
                for old in [number for number in state.seen if number < oldest]:
                    del state.seen[old]
            repeat = bucket.setdefault((fields["event_id"], at), offset) < offset
        fan = self._fans.hash(fields["fan_id"])
        other = fields.get("reply_to")
        self.raw.append(
            (partition, offset, appended, fields, fan, self._fans.hash(other) if other else 0, late, repeat)
        )
        if not (late or repeat):
            self._count(partition, offset, appended, at, fields)

    def _count(self, partition: int, offset: int, appended: int, at: int, fields: dict[str, Any]) -> None:
        kind, platform, creator = fields["kind"], fields["platform"], fields["creator_id"]
        minute = at // 60_000 * 60_000
        watched, complete = 0, 0
        if kind == "view":
            watched, duration = fields["watch_ms"], fields["duration_ms"]
            complete = int(0 < duration <= watched)
        row = self._row(_MINUTES, (partition, platform, creator, minute))
        row[_CREATOR_COLUMN[kind]] += 1
        row[_WATCH] += watched
        row[_COMPLETE] += complete
        if kind == "live_leave":
            row[_STAY] += fields["stay_ms"] or 0
        row[-1] = offset
        content = fields.get("content_id")
        if not content:
            return
        column = _CONTENT_COLUMN[kind]
        rows = [
            self._row(_HOURS, (partition, platform, creator, content, minute // 3_600_000 * 3_600_000)),
            self._row(_DAYS, (partition, platform, creator, content, self._day(minute))),
        ]
        if appended - at < RECENT_MS:
            rows.append(self._row(_CONTENT_MINUTES, (partition, platform, creator, content, minute)))
        for row in rows:
            row[column] += 1
            row[_CONTENT_WATCH] += watched
            row[_CONTENT_COMPLETE] += complete
            row[-1] = offset

    def _row(self, table: SnapshotTable, key: tuple[Any, ...]) -> Row:
        rows = self.tables[table.name]
        row = rows.get(key)
        if row is None:
            row = rows[key] = [0] * (len(table.measures) + 1)
        self.changed[table.name].add(key)
        return row

    def _day(self, minute: int) -> int:
        day = self._days.get(minute)
        if day is None:
            day = datetime.fromtimestamp(minute / 1000, self._zone).toordinal() - _EPOCH
            self._days[minute] = day
        return day

    def take(self) -> tuple[list[Raw], dict[str, list[tuple[Any, ...]]], dict[int, tuple[int, int]]]:
        """Raw rows, changed snapshot rows, and next offset and newest event time of each partition, as of now."""
        raw, self.raw = self.raw, []
        changed = {}
        for name, keys in self.changed.items():
            rows = self.tables[name]
            changed[name] = [(*key, *rows[key]) for key in keys]
            self.changed[name] = set()
        return raw, changed, {number: (each.next_offset, each.newest) for number, each in self.partitions.items()}


class Store:
    """Writes what was taken, in a thread: raw rows, snapshot rows, then the checkpoints."""

    def __init__(self, settings: Settings) -> None:
        self._client = clickhouse_client(settings)
        self._cluster = cluster(settings)
        self._parameters = checkpoint.parameters(settings, "engagement")

    def write(
        self, raw: list[Raw], changed: dict[str, list[tuple[Any, ...]]], partitions: dict[int, tuple[int, int]]
    ) -> None:
        """All of one flush."""
        if raw:
            self._insert("raw_interactions", _raw_frame(raw))
        for table in Engagement.tables:
            if changed[table.name]:
                self._insert(table.name, _snapshot_frame(table, changed[table.name]))
        stored = [
            Checkpoint(
                agent,
                "interactions",
                number,
                1,
                next_offset,
                newest,
                self._cluster.topic_ids["interactions"],
                self._cluster.cluster_id,
                self._parameters,
            )
            for agent in ("archive", "engagement")
            for number, (next_offset, newest) in partitions.items()
        ]
        self._insert("checkpoints", checkpoint.frame(stored, int(time.time() * 1000)))

    def _insert(self, table: str, rows: pl.DataFrame) -> None:
        self._client.insert_arrow(table, rows.to_arrow(compat_level=pl.CompatLevel.oldest()))


def _raw_frame(raw: list[Raw]) -> pl.DataFrame:
    partitions, offsets, appended, fields, fans, others, late, repeat = zip(*raw, strict=True)
    moment = pl.Datetime("ms", "UTC")
    return pl.DataFrame(
        [
            pl.Series("partition", partitions, pl.UInt16),
            pl.Series("offset", offsets, pl.Int64),
            pl.Series("appended_at", appended, pl.Int64).cast(moment),
            pl.Series("event_time", [each["event_time"] for each in fields], pl.Int64).cast(moment),
            *(pl.Series(name, [each.get(name) or "" for each in fields], pl.String) for name in _STRINGS),
            *(pl.Series(name, [each.get(name) for each in fields], pl.Int64) for name in _INTEGERS),
            pl.Series("fan", fans, pl.UInt64),
            pl.Series("reply_to_fan", others, pl.UInt64),
            pl.Series("late", late, pl.Boolean).cast(pl.UInt8),
            pl.Series("duplicate", repeat, pl.Boolean).cast(pl.UInt8),
        ]
    )


def _snapshot_frame(table: SnapshotTable, rows: list[tuple[Any, ...]]) -> pl.DataFrame:
    partitions, *columns = zip(*rows, strict=True)
    names = (*table.keys, *table.measures, "applied")
    series = [pl.Series("partition", partitions, pl.UInt16)]
    for name, column in zip(names, columns, strict=True):
        if name == table.bucket:
            physical = pl.Int32 if table.bucket == "day" else pl.Int64
            series.append(pl.Series(name, column, physical).cast(table.bucket_type))
        else:
            series.append(pl.Series(name, column, pl.String if name in table.keys else pl.Int64))
    return pl.DataFrame(series).with_columns(
        pl.lit("stream").alias("origin"), pl.lit(Engagement.version, pl.UInt16).alias("fold_version")
    )


def run(settings: Settings, events: int) -> None:
    """Reads so many events, writes ``run/plain.json`` in the home, and ends the process."""
    counts, store = Counts(settings), Store(settings)
    app = faust.App(
        f"plain-{uuid.uuid4().hex[:8]}",
        broker=broker_url(settings),
        consumer_auto_offset_reset="earliest",
        consumer_max_fetch_size=FETCH_BYTES,
        broker_max_poll_records=None,
        broker_commit_interval=3600.0,
        stream_buffer_maxsize=BUFFER,
        stream_wait_empty=False,
        stream_recovery_delay=0.0,
        agent_supervisor=mode.CrashingSupervisor,
        topic_allow_declare=False,
        topic_disable_leader=True,
        store="memory://",
        web_enabled=False,
        autodiscover=False,
        datadir=str(Home(settings.home).run / "faust-plain"),
    )
    topic = app.topic("interactions", key_serializer="raw", value_serializer="raw", acks=False)
    thread = ThreadPoolExecutor(1)

    async def flush() -> None:
        await asyncio.get_running_loop().run_in_executor(thread, store.write, *counts.take())

    async def each_interval() -> None:
        while True:
            await asyncio.sleep(INTERVAL)
            if counts.raw:
                await flush()

    async def read(stream: Any) -> None:
        app.sensors.remove(app.monitor)
        number, started, cpu = 0, 0.0, 0.0
        flushing: asyncio.Task[None] | None = None
        async for event in stream.events():
            if number == 0:
                started, cpu = time.time(), time.process_time()
                flushing = asyncio.create_task(each_interval())
            message = event.message
            counts.take_in(message.partition, message.offset, round(message.timestamp * 1000), message.value)
            number += 1
            if number == events:
                break
        if flushing is not None:
            flushing.cancel()
        await flush()
        until = {partition: state.next_offset for partition, state in counts.partitions.items()}
        found = Outcome(number, started, time.time(), time.process_time() - cpu, until)
        write_private(Home(settings.home).run / "plain.json", json.dumps(found.__dict__))
        os._exit(0)

    app.agent(topic, name="plain", concurrency=1)(read)
    mode.Worker(app, loglevel="WARNING", daemon=True, redirect_stdouts=False).execute_from_commandline()


if __name__ == "__main__":
    run(load(None), int(sys.argv[1]))
