"""What a worker knows of a partition when it gets it: read from ClickHouse, checked against Kafka."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import polars as pl
from clickhouse_connect.driver.client import Client

from infra.errors import FanpulseError
from infra.settings import Settings
from pipeline import checkpoint as checkpoints
from pipeline.checkpoint import Checkpoint
from pipeline.decode import Decoder, FanHasher
from pipeline.dedupe import BUCKET_MS, TIME_MIX, DedupeIndex, restore
from pipeline.fold import Fold
from pipeline.log import BY_CLICKHOUSE, Batch, PartitionLog
from pipeline.snapshot import SnapshotTable
from pipeline.verdict import NEVER, Horizon, Verdicts

ARCHIVE = "archive"
"""The agent that stores the records of every topic; the others follow it."""

Partition = tuple[str, int]
"""A source topic (without prefix) and a partition number."""


@dataclass(frozen=True)
class AgentSpec:
    """An agent: its name, the topics it reads, and its fold for one partition of a topic."""

    name: str
    topics: tuple[str, ...]
    fold: Callable[[Settings, str], Fold]


@dataclass(frozen=True)
class Cluster:
    """The Kafka that is read: its id, and the ids and partition counts of its source topics."""

    cluster_id: str
    topic_ids: Mapping[str, str]
    partitions: Mapping[str, int]


class RefusedToStart(FanpulseError):
    """Going on would make figures wrong; the message says why and what to do."""

    def __init__(self, message: str) -> None:
        super().__init__(message, exit_code=3)


class Recovery:
    """Restores partitions. Blocking; runs beside the event loop."""

    def __init__(
        self,
        settings: Settings,
        agents: tuple[AgentSpec, ...],
        cluster: Cluster,
        fan_key: bytes,
        connect: Callable[[], Client],
        on_batch: Callable[[PartitionLog, Batch, float], None],
    ) -> None:
        self._settings = settings
        self._agents = agents
        self._cluster = cluster
        self._fans = FanHasher(fan_key)
        self._connect = connect
        self._on_batch = on_batch
        self._decoders: dict[str, Decoder] = {}
        self._horizon = Horizon(settings.allowed_lateness * 1000, settings.late_horizon * 1000)

    def load(
        self,
        held: set[Partition],
        earliest: Mapping[Partition, int],
        ends: Callable[[], Mapping[Partition, int]],
        set_aside: Mapping[Partition, Mapping[int, str]] | None = None,
    ) -> dict[Partition, PartitionLog]:
        """A log for each partition, as at the lowest checkpoint of its agents.

        ``earliest`` and ``ends`` are Kafka's offsets; the ends are asked for once the checkpoints are read: other
        workers may have gone on while this one was frozen or waited for ClickHouse. ``set_aside`` are records whose
        rows ClickHouse refuses, and why, beside those that are dead letters for that already. Raises RefusedToStart
        where offsets, the cluster, the topic, or a setting contradict the checkpoints.
        """
        client = self._connect()
        try:
            stored = {(c.agent, c.topic, c.partition, c.fold_version): c for c in checkpoints.read(client)}
            end = ends()
            stored |= self._begin(client, held, earliest, {where[1:3] for where in stored})
            logs = {}
            for topic in sorted({topic for topic, _ in held}):
                here = sorted(partition for name, partition in held if name == topic)
                logs.update(self._load_topic(client, topic, here, stored, earliest, end, set_aside or {}))
            return logs
        finally:
            client.close()

    def _begin(
        self, client: Client, held: set[Partition], earliest: Mapping[Partition, int], known: set[Partition]
    ) -> dict[tuple[str, str, int, int], Checkpoint]:
        """Writes down, for all agents in one insert, where a partition that this database has not had begins: else a
        crash between their first checkpoints would leave an agent without one, on a log that is no longer whole."""
        first = [
            Checkpoint(
                agent.name,
                topic,
                partition,
                agent.fold(self._settings, topic).version,
                earliest[topic, partition],
                NEVER,
                self._cluster.topic_ids[topic],
                self._cluster.cluster_id,
                checkpoints.parameters(self._settings),
            )
            for topic, partition in sorted(held - known)
            for agent in self._agents
            if topic in agent.topics
        ]
        self._require_new(client, [c for c in first if c.next_offset > 0])
        if first:
            rows = checkpoints.frame(first, int(time.time() * 1000))
            client.insert_arrow("checkpoints", rows.to_arrow(compat_level=pl.CompatLevel.oldest()))
        return {(c.agent, c.topic, c.partition, c.fold_version): c for c in first}

    def _require_new(self, client: Client, first: list[Checkpoint]) -> None:
        """RefusedToStart if a partition that begins beyond offset 0 has rows already: their state would be lost."""
        for topic in sorted({c.topic for c in first}):
            here = sorted({c.partition for c in first if c.topic == topic})
            found = client.query(
                "SELECT partition FROM {table:Identifier} WHERE has({partitions:Array(UInt16)}, partition) LIMIT 1",
                parameters={"table": f"raw_{topic}", "partitions": here},
            ).result_rows
            if found:
                raise RefusedToStart(
                    f"{topic}[{found[0][0]}] has rows but no checkpoint, and Kafka no longer has its whole log; use a "
                    "new FANPULSE_DATABASE and load the history again"
                )

    def _load_topic(
        self,
        client: Client,
        topic: str,
        partitions: list[int],
        stored: Mapping[tuple[str, str, int, int], Checkpoint],
        earliest: Mapping[Partition, int],
        end: Mapping[Partition, int],
        set_aside: Mapping[Partition, Mapping[int, str]],
    ) -> dict[Partition, PartitionLog]:
        agents = [agent for agent in self._agents if topic in agent.topics]
        folds: dict[int, dict[str, Fold]] = {}
        own: dict[int, dict[str, int]] = {}
        position: dict[int, int] = {}
        newest: dict[int, int] = {}
        restored: dict[str, dict[int, int]] = {agent.name: {} for agent in agents}
        for partition in partitions:
            where = (topic, partition)
            folds[partition] = {agent.name: agent.fold(self._settings, topic) for agent in agents}
            found = {
                agent.name: stored.get((agent.name, topic, partition, folds[partition][agent.name].version))
                for agent in agents
            }
            known = {name: held for name, held in found.items() if held is not None}
            for held in known.values():
                self._check(held, earliest[where], end[where])
                # By its own watermark is late what it has still to read; without a checkpoint it begins empty.
                restored[held.agent][partition] = held.newest
            if missing := [name for name in found if name not in known]:
                old = [key for key in stored if key[0] in missing and key[1:3] == where]
                if old or (known and earliest[where] > 0):
                    raise RefusedToStart(
                        f"agent {missing[0]} has no checkpoint in {topic}[{partition}] for its present definition, "
                        "and Kafka no longer has the whole log; use a new FANPULSE_DATABASE and load the history again"
                    )
            own[partition] = {name: known[name].next_offset if name in known else 0 for name in found}
            lowest = min(own[partition].values())
            position[partition] = max(lowest, earliest[where])
            newest[partition] = max((c.newest for c in known.values() if c.next_offset == lowest), default=NEVER)
        refused = self._refused(client, topic, position)
        indices = self._indices(client, topic, position, newest)
        for agent in agents:
            for table in folds[partitions[0]][agent.name].tables:
                version = folds[partitions[0]][agent.name].version
                for partition, rows in self._rows(client, table, version, restored[agent.name]).items():
                    folds[partition][agent.name].restore(table, rows)
        decoder = self._decoders.setdefault(topic, Decoder(topic, self._fans))
        return {
            (topic, partition): PartitionLog(
                topic,
                partition,
                decoder,
                Verdicts(self._horizon, newest[partition], indices.get(partition)),
                folds[partition],
                own[partition],
                position[partition],
                {name: times[partition] for name, times in restored.items() if partition in times},
                {**refused.get(partition, {}), **self._new(set_aside.get((topic, partition), {}), own[partition])},
                self._on_batch,
            )
            for partition in partitions
        }

    def _check(self, held: Checkpoint, earliest: int, end: int) -> None:
        where = f"{held.topic}[{held.partition}]"
        if held.cluster_id != self._cluster.cluster_id:
            raise RefusedToStart(
                f"the database was filled from Kafka cluster {held.cluster_id}, this is {self._cluster.cluster_id}: "
                "name the right Kafka, or use a new FANPULSE_DATABASE"
            )
        if held.topic_id != self._cluster.topic_ids[held.topic]:
            raise RefusedToStart(
                f"topic {held.topic} was deleted and made anew since the database was filled, so its offsets mean "
                "other records: use a new FANPULSE_DATABASE"
            )
        if held.parameters != checkpoints.parameters(self._settings):
            raise RefusedToStart(
                f"the figures were made with {held.parameters}, now the settings are "
                f"{checkpoints.parameters(self._settings)}: set them back, or use a new FANPULSE_DATABASE"
            )
        if end < held.next_offset:
            raise RefusedToStart(
                f"{where} ends at offset {end}, but agent {held.agent} has stored up to {held.next_offset}: Kafka lost "
                "records that were acknowledged; use a new FANPULSE_DATABASE or restore the broker"
            )
        if earliest > held.next_offset:
            raise RefusedToStart(
                f"{where} begins at offset {earliest}, but agent {held.agent} stopped at {held.next_offset}: the "
                "records between are beyond Kafka's retention and were never stored; use a new FANPULSE_DATABASE"
            )

    @staticmethod
    def _new(set_aside: Mapping[int, str], own: Mapping[str, int]) -> dict[int, str]:
        """Of the records set aside those that the archive has not passed: below its checkpoint the tables have what
        became of them."""
        return {offset: why for offset, why in set_aside.items() if offset >= own.get(ARCHIVE, 0)}

    def _refused(self, client: Client, topic: str, position: Mapping[int, int]) -> dict[int, dict[int, str]]:
        """Offsets of records, still to be read by some agent, that are dead letters because ClickHouse refused their
        row: no agent may count them now that another would store them."""
        rows = client.query(
            "SELECT DISTINCT partition, `offset`, detail FROM dead_letters FINAL WHERE topic = {topic:String} "
            "AND reason = {reason:String} AND `offset` >= "
            "transform(partition, {partitions:Array(UInt16)}, {positions:Array(Int64)}, {never:Int64})",
            parameters={
                "topic": topic,
                "reason": BY_CLICKHOUSE,
                "partitions": list(position),
                "positions": list(position.values()),
                "never": (1 << 63) - 1,
            },
        ).result_rows
        found: dict[int, dict[int, str]] = {}
        for partition, offset, detail in rows:
            found.setdefault(int(partition), {})[int(offset)] = str(detail)
        return found

    def _indices(
        self, client: Client, topic: str, position: Mapping[int, int], newest: Mapping[int, int]
    ) -> dict[int, DedupeIndex]:
        seen = {partition: event_time for partition, event_time in newest.items() if event_time > NEVER}
        indices = {}
        for partition, event_time in seen.items():
            since = self._horizon.oldest(event_time) // BUCKET_MS * BUCKET_MS
            table = client.query_arrow(
                "SELECT bitXor(xxh3(event_id), toUInt64(toUnixTimestamp64Milli(event_time)) * {mix:UInt64}) AS print, "
                "toUnixTimestamp64Milli(event_time) AS time_ms, `offset` FROM {table:Identifier} "
                "WHERE partition = {partition:UInt16} AND `offset` < {position:Int64} AND late = 0 AND duplicate = 0 "
                "AND event_time >= fromUnixTimestamp64Milli({since:Int64}, 'UTC')",
                parameters={
                    "mix": TIME_MIX,
                    "table": f"raw_{topic}",
                    "partition": partition,
                    "position": position[partition],
                    "since": since,
                },
            )
            prints, times, offsets = (table.column(name).to_numpy() for name in ("print", "time_ms", "offset"))
            indices[partition] = restore(prints, times, offsets)
        return indices

    def _rows(
        self, client: Client, table: SnapshotTable, version: int, newest: Mapping[int, int]
    ) -> dict[int, pl.DataFrame]:
        seen = {partition: event_time for partition, event_time in newest.items() if event_time > NEVER}
        if not seen:
            return {}
        since = {
            partition: table.bucket_at(self._horizon.oldest(event_time) - table.bucket_ms)
            for partition, event_time in seen.items()
        }
        oldest = min(since.values())
        bound = "toDate(toInt32({since:Int64}))" if table.bucket == "day" else "toDateTime({since:Int64}, 'UTC')"
        arrow = client.query_arrow(
            f"SELECT partition, {', '.join((*table.keys, *table.measures))}, applied FROM {table.name} FINAL "
            "WHERE has({partitions:Array(UInt16)}, partition) AND origin = 'stream' "
            f"AND fold_version = {{version:UInt16}} AND {table.bucket} >= {bound}",
            parameters={
                "partitions": list(seen),
                "version": version,
                "since": oldest if table.bucket == "day" else oldest // 1000,
            },
        )
        rows = pl.DataFrame(pl.from_arrow(arrow)).with_columns(
            pl.col("platform").cast(pl.String), _bucket(table).alias(table.bucket)
        )
        found = {}
        for partition, start in since.items():
            bucket = pl.col(table.bucket).to_physical()
            found[partition] = rows.filter((pl.col("partition") == partition) & (bucket >= start))
        return found


def _bucket(table: SnapshotTable) -> pl.Expr:
    """The bucket column as snapshots hold it. Arrow has ClickHouse's Date as days, and DateTime as bare seconds."""
    column = pl.col(table.bucket)
    if table.bucket == "day":
        return column.cast(pl.Date)
    return (column.cast(pl.Int64) * 1000).cast(pl.Datetime("ms", "UTC"))
