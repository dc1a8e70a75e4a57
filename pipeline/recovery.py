"""What a worker knows of a partition when it gets it: read from ClickHouse, checked against Kafka."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast
from zoneinfo import ZoneInfo

import orjson
import polars as pl
from clickhouse_connect.driver.client import Client

from infra.errors import FanpulseError, InfraError
from infra.settings import Settings
from pipeline import campaign_log, fan_log, touch_log
from pipeline import checkpoint as checkpoints
from pipeline.checkpoint import Checkpoint
from pipeline.decode import Decoder, FanHasher
from pipeline.dedupe import BUCKET_MS, TIME_MIX, DedupeIndex, restore
from pipeline.fold import Fold
from pipeline.folds.ads import AMOUNTS, KIND_MEASURES
from pipeline.folds.attribution import Attribution
from pipeline.folds.campaign_facts import CampaignFacts
from pipeline.folds.facts import Facts
from pipeline.folds.lifecycle import Lifecycle
from pipeline.folds.rules import FINE_MS, HELD_MS, Rules
from pipeline.log import BY_CLICKHOUSE, Batch, Log, PartitionLog
from pipeline.minutes import QUARTER_MS
from pipeline.snapshot import SnapshotTable
from pipeline.verdict import NEVER, Horizon, Verdicts
from schemas.quantities import MINUTE_MS

ARCHIVE = "archive"
"""The agent that stores the records of every topic; the others follow it."""

Partition = tuple[str, int]
"""A topic that agents read (without prefix) and a partition number."""

_STATE = {fan_log.TOPIC: "fan_state", touch_log.TOPIC: "attributions", campaign_log.TOPIC: "rule_state"}
"""Tables that hold what comes of the logs that agents write."""


@dataclass(frozen=True)
class AgentSpec:
    """An agent: its name, the topics it reads, its fold for one partition of a topic, and the agent that it follows: it
    folds only what that has stored."""

    name: str
    topics: tuple[str, ...]
    fold: Callable[[Settings, str, int], Fold]
    after: str | None = None


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
        on_batch: Callable[[Any, Batch, float], None],
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
    ) -> dict[Partition, Log]:
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
            logs: dict[Partition, Log] = {}
            for topic in sorted({topic for topic, _ in held}):
                here = sorted(partition for name, partition in held if name == topic)
                if topic == fan_log.TOPIC:
                    logs.update(self._load_fan_log(client, here, stored, earliest, end))
                elif topic == touch_log.TOPIC:
                    logs.update(self._load_touch_log(client, here, stored, earliest, end))
                elif topic == campaign_log.TOPIC:
                    logs.update(self._load_campaign_log(client, here, stored, earliest, end))
                else:
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
                agent.fold(self._settings, topic, partition).version,
                earliest[topic, partition],
                NEVER,
                self._cluster.topic_ids[topic],
                self._cluster.cluster_id,
                checkpoints.parameters(self._settings, agent.name),
            )
            for topic, partition in sorted(held - known)
            for agent in self._agents
            if topic in agent.topics
        ]
        self._require_new(client, [c for c in first if c.next_offset > 0])
        if first:
            checkpoints.write(client, first, int(time.time() * 1000))
        return {(c.agent, c.topic, c.partition, c.fold_version): c for c in first}

    def _require_new(self, client: Client, first: list[Checkpoint]) -> None:
        """RefusedToStart if a partition that begins beyond offset 0 has rows already: their state would be lost."""
        for topic in sorted({c.topic for c in first}):
            here = sorted({c.partition for c in first if c.topic == topic})
            found = client.query(
                "SELECT partition FROM {table:Identifier} WHERE has({partitions:Array(UInt16)}, partition) LIMIT 1",
                parameters={"table": _STATE.get(topic, f"raw_{topic}"), "partitions": here},
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
    ) -> dict[Partition, Log]:
        agents = [agent for agent in self._agents if topic in agent.topics]
        folds: dict[int, dict[str, Fold]] = {}
        own: dict[int, dict[str, int]] = {}
        position: dict[int, int] = {}
        newest: dict[int, int] = {}
        restored: dict[str, dict[int, int]] = {agent.name: {} for agent in agents}
        for partition in partitions:
            where = (topic, partition)
            folds[partition] = {agent.name: agent.fold(self._settings, topic, partition) for agent in agents}
            known = self._known(where, folds[partition], stored, earliest[where], end[where])
            for held in known.values():
                # By its own watermark is late what it has still to read; without a checkpoint it begins empty.
                restored[held.agent][partition] = held.newest
            own[partition] = {name: known[name].next_offset if name in known else 0 for name in folds[partition]}
            lowest = min(own[partition].values())
            position[partition] = max(lowest, earliest[where])
            newest[partition] = max((c.newest for c in known.values() if c.next_offset == lowest), default=NEVER)
        refused = self._refused(client, topic, position)
        indices = self._indices(client, topic, position, newest)
        for agent in agents:
            if isinstance(folds[partitions[0]][agent.name], Facts):
                upto = {partition: own[partition][agent.name] for partition in restored[agent.name]}
                for partition, days in self._open_days(client, topic, upto, restored[agent.name]).items():
                    cast(Facts, folds[partition][agent.name]).remember(days)
            if isinstance(folds[partitions[0]][agent.name], CampaignFacts):
                for partition, event_time in restored[agent.name].items():
                    minutes = self._open_minutes(client, partition, own[partition][agent.name], event_time)
                    cast(CampaignFacts, folds[partition][agent.name]).remember(minutes)
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

    def _load_fan_log(
        self,
        client: Client,
        partitions: list[int],
        stored: Mapping[tuple[str, str, int, int], Checkpoint],
        earliest: Mapping[Partition, int],
        end: Mapping[Partition, int],
    ) -> dict[Partition, Log]:
        logs: dict[Partition, Log] = {}
        zone = ZoneInfo(self._settings.time_zone)
        for partition in partitions:
            where = (fan_log.TOPIC, partition)
            folds, known, own = self._begun(where, stored, earliest[where], end[where])
            lowest = min(own.values())
            inputs = next((fan_log.read_inputs(c.inputs) for c in known.values() if c.next_offset == lowest), {})
            for name, fold in folds.items():
                if name in known and isinstance(fold, Lifecycle):
                    rows = fan_state(client, partition, fold.version)
                    fold.restore_state(rows, fan_log.as_of(fan_log.read_inputs(known[name].inputs), zone))
            position = max(lowest, earliest[where])
            logs[where] = fan_log.FanLog(
                partition,
                self._settings.database,
                self._settings.time_zone,
                folds,
                own,
                position,
                inputs,
                self._on_batch,
            )
        return logs

    def _load_touch_log(
        self,
        client: Client,
        partitions: list[int],
        stored: Mapping[tuple[str, str, int, int], Checkpoint],
        earliest: Mapping[Partition, int],
        end: Mapping[Partition, int],
    ) -> dict[Partition, Log]:
        logs: dict[Partition, Log] = {}
        for partition in partitions:
            where = (touch_log.TOPIC, partition)
            folds, known, own = self._begun(where, stored, earliest[where], end[where])
            lowest = min(own.values())
            inputs = next((fan_log.read_inputs(c.inputs) for c in known.values() if c.next_offset == lowest), {})
            for name, fold in folds.items():
                if name in known and isinstance(fold, Attribution):
                    found = fan_log.read_inputs(known[name].inputs)
                    reached = {source: each.reached for source, each in found.items()}
                    fold.restore_state(*attribution_state(client, partition, fold, found), reached)
            logs[where] = touch_log.TouchLog(
                partition,
                self._settings.database,
                self._horizon.late,
                folds,
                own,
                max(lowest, earliest[where]),
                inputs,
                self._on_batch,
            )
        return logs

    def _load_campaign_log(
        self,
        client: Client,
        partitions: list[int],
        stored: Mapping[tuple[str, str, int, int], Checkpoint],
        earliest: Mapping[Partition, int],
        end: Mapping[Partition, int],
    ) -> dict[Partition, Log]:
        logs: dict[Partition, Log] = {}
        for partition in partitions:
            where = (campaign_log.TOPIC, partition)
            folds, known, own = self._begun(where, stored, earliest[where], end[where])
            for name, fold in folds.items():
                if name in known and isinstance(fold, Rules):
                    fold.restore_state(*rule_state(client, partition, fold.version))
            position = max(min(own.values()), earliest[where])
            logs[where] = campaign_log.CampaignLog(
                partition, self._settings.database, folds, own, position, self._on_batch
            )
        return logs

    def _begun(
        self,
        where: Partition,
        stored: Mapping[tuple[str, str, int, int], Checkpoint],
        earliest: int,
        end: int,
    ) -> tuple[dict[str, Fold], dict[str, Checkpoint], dict[str, int]]:
        """Of the agents of a log that agents write: their folds, still empty, their checkpoints (see ``_known``), and
        where each goes on."""
        topic, partition = where
        folds = {
            agent.name: agent.fold(self._settings, topic, partition) for agent in self._agents if topic in agent.topics
        }
        known = self._known(where, folds, stored, earliest, end)
        return folds, known, {name: known[name].next_offset if name in known else 0 for name in folds}

    def _known(
        self,
        where: Partition,
        folds: Mapping[str, Fold],
        stored: Mapping[tuple[str, str, int, int], Checkpoint],
        earliest: int,
        end: int,
    ) -> dict[str, Checkpoint]:
        """The checkpoints of a partition's agents, those that have one. RefusedToStart if one must not be gone on from,
        or is missing on a log that is no longer whole."""
        found = {name: stored.get((name, *where, fold.version)) for name, fold in folds.items()}
        known = {name: held for name, held in found.items() if held is not None}
        for held in known.values():
            self._check(held, earliest, end)
        if missing := [name for name in found if name not in known]:
            old = [key for key in stored if key[0] in missing and key[1:3] == where]
            if old or (known and earliest > 0):
                raise RefusedToStart(
                    f"agent {missing[0]} has no checkpoint in {where[0]}[{where[1]}] for its present definition, "
                    "and Kafka no longer has the whole log; use a new FANPULSE_DATABASE and load the history again"
                )
        return known

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
        present = orjson.loads(checkpoints.parameters(self._settings, held.agent))
        if why := checkpoints.contradiction(held, present):
            raise RefusedToStart(why)
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

    def _open_days(
        self, client: Client, topic: str, upto: Mapping[int, int], newest: Mapping[int, int]
    ) -> dict[int, pl.DataFrame]:
        """What ``Facts.remember`` takes, by partition: of stored interactions below ``upto`` within the horizon."""
        if topic != "interactions":
            return {}
        seen = {partition: event_time for partition, event_time in newest.items() if event_time > NEVER}
        no_activity = self._settings.no_activity.split(",")
        found = {}
        for partition, event_time in seen.items():
            arrow = client.query_arrow(
                "SELECT toString(platform) AS platform, creator_id, fan, "
                "toInt32(toDate(event_time, {time_zone:String})) AS day, "
                "nullIf(minIf(toUnixTimestamp64Milli(event_time), action), 0) AS first, "
                "nullIf(maxIf(toUnixTimestamp64Milli(event_time), action), 0) AS last, "
                "argMaxIf(toString(kind), event_time, action) AS last_kind, "
                "nullIf(maxIf(toUnixTimestamp64Milli(event_time), kind = 'unfollow'), 0) AS unfollow "
                "FROM (SELECT *, NOT has({no_activity:Array(String)}, kind) AS action FROM raw_interactions "
                "WHERE partition = {partition:UInt16} AND `offset` < {upto:Int64} AND late = 0 AND duplicate = 0 "
                "AND event_time >= fromUnixTimestamp64Milli({since:Int64}, 'UTC') "
                "AND (action OR kind = 'unfollow')) GROUP BY platform, creator_id, fan, day",
                parameters={
                    "time_zone": self._settings.time_zone,
                    "no_activity": no_activity,
                    "partition": partition,
                    "upto": upto[partition],
                    "since": self._horizon.oldest(event_time),
                },
            )
            found[partition] = pl.DataFrame(pl.from_arrow(arrow)).with_columns(pl.col("day").cast(pl.Int32))
        return found

    def _open_minutes(self, client: Client, partition: int, upto: int, newest: int) -> pl.DataFrame:
        """What ``CampaignFacts.remember`` takes: of stored advertisements below ``upto`` whose minute is still open."""
        since = self._horizon.oldest(newest) // MINUTE_MS * MINUTE_MS if newest > NEVER else 0
        counts = ", ".join(f"toInt64(countIf(kind = '{kind}')) AS {name}" for kind, name in KIND_MEASURES.items())
        amounts = ", ".join(f"toInt64(sum(ifNull({field}, 0))) AS {name}" for name, field in AMOUNTS.items())
        arrow = client.query_arrow(
            "SELECT toString(platform) AS platform, campaign_id, ad_group_id, min(creator_id) AS creator_id, "
            "intDiv(toUnixTimestamp64Milli(event_time), 60000) * 60000 AS minute, "
            f"{counts}, {amounts}, max(`offset`) AS applied "
            "FROM raw_ad_events FINAL WHERE partition = {partition:UInt16} AND `offset` < {upto:Int64} AND late = 0 "
            "AND duplicate = 0 AND event_time >= fromUnixTimestamp64Milli({since:Int64}, 'UTC') GROUP BY ALL",
            parameters={"partition": partition, "upto": upto, "since": since},
        )
        return pl.DataFrame(pl.from_arrow(arrow)).with_columns(pl.col("minute").cast(pl.Datetime("ms", "UTC")))

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


def fan_state(client: Client, partition: int, version: int) -> pl.DataFrame:
    """What is stored of the fans of a partition, for ``Lifecycle.restore_state``."""
    arrow = client.query_arrow(
        "SELECT * EXCEPT (partition, fold_version) REPLACE (toString(platform) AS platform) FROM fan_state FINAL "
        "WHERE partition = {partition:UInt16} AND fold_version = {version:UInt16}",
        parameters={"partition": partition, "version": version},
    )
    return pl.DataFrame(pl.from_arrow(arrow))


def attribution_state(
    client: Client, partition: int, fold: Attribution, inputs: Mapping[str, fan_log.Input]
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Touches and open conversions as at a checkpoint of the touch log, for ``Attribution.restore_state``."""
    policy = fold.policy
    reached = {source: inputs[source].reached if source in inputs else None for source in touch_log.KINDS}
    oldest = {source: None if at is None else at - policy.late for source, at in reached.items()}
    below = {source: inputs[source].next if source in inputs else 0 for source in touch_log.KINDS}
    to_come = [at for source, at in oldest.items() if source != "ad_events"]
    begin_ms = max(min(at or 0 for at in to_come), 0)
    parameters: dict[str, Any] = {
        "partition": partition,
        "version": fold.version,
        "begin": begin_ms,
        "clicks": max(begin_ms - policy.click_window, 0),
        "views": max(begin_ms - policy.view_window, 0),
        "open": max(oldest["ad_events"] or 0, 0),
        **below,
    }
    columns = (
        "`offset`, toString(platform) AS platform, creator_id, fan, toUnixTimestamp64Milli(event_time) AS at, "
        f"toString(kind) AS kind, {_texts(touch_log.AD_COLUMNS)}, '' AS order_id, toInt64(0) AS amount_micros"
    )
    told = (
        "FROM raw_ad_events WHERE partition = {partition:UInt16} AND `offset` < {ad_events:Int64} AND late = 0 "
        "AND duplicate = 0 AND (kind = 'click' AND event_time >= fromUnixTimestamp64Milli({clicks:Int64}, 'UTC') "
        "OR kind = 'impression' AND event_time >= fromUnixTimestamp64Milli({views:Int64}, 'UTC')) "
        "AND `offset` NOT IN (SELECT `offset` FROM late_touches WHERE partition = {partition:UInt16})"
    )
    begin = "fromUnixTimestamp64Milli({begin:Int64}, 'UTC')"
    touches = _frame(
        client,
        f"SELECT DISTINCT {columns} {told} AND event_time > {begin} UNION ALL "
        f"SELECT * FROM (SELECT {columns} {told} AND event_time <= {begin} "
        "ORDER BY event_time DESC, `offset` DESC LIMIT 1 BY platform, creator_id, fan, kind)",
        parameters,
    )
    conversions = _frame(
        client,
        "SELECT toString(platform) AS platform, creator_id, fan, toString(kind) AS kind, "
        "toUnixTimestamp64Milli(converted_at) AS converted_at, `offset`, order_id, amount_micros, beyond, "
        "toString(touch) AS touch, toUnixTimestamp64Milli(touched_at) AS touched_at, touch_offset, "
        f"{_texts(touch_log.AD_COLUMNS)} FROM attributions FINAL WHERE partition = {{partition:UInt16}} "
        "AND origin = 'stream' AND fold_version = {version:UInt16} AND kind != 'refund' "
        "AND `offset` < if(kind = 'follow', {interactions:Int64}, {orders:Int64}) "
        "AND attributions.converted_at >= fromUnixTimestamp64Milli({open:Int64}, 'UTC')",
        parameters,
    )
    return touches, conversions


def _texts(columns: tuple[str, ...]) -> str:
    return ", ".join(f"toString({name}) AS {name}" for name in columns)


def rule_state(client: Client, partition: int, version: int) -> tuple[pl.DataFrame, pl.DataFrame]:
    """What is stored of the rules and campaigns of a partition, for ``Rules.restore_state``.

    It is asked for in several questions, and must be whole: where another worker has stored more between them, all are
    asked again.

    Raises:
        InfraError: another worker did so every time.
    """
    for _ in range(_TRIES):
        rows, minutes = _rule_state(client, partition, version)
        [[applied]] = client.query(
            "SELECT max(applied) FROM rule_state WHERE partition = {partition:UInt16} "
            "AND fold_version = {version:UInt16} AND kind != 'minute'",
            parameters={"partition": partition, "version": version},
        ).result_rows
        # Whatever changes the state changes a row beside the minutes.
        if applied == (rows.filter(pl.col("kind") != "minute")["applied"].max() or 0):
            return rows, minutes
    raise InfraError(f"another worker goes on writing the state of {campaign_log.TOPIC}[{partition}] while it is read")


_TRIES = 20


def _rule_state(client: Client, partition: int, version: int) -> tuple[pl.DataFrame, pl.DataFrame]:
    here = "FROM rule_state FINAL WHERE partition = {partition:UInt16} AND fold_version = {version:UInt16}"
    parameters: dict[str, Any] = {"partition": partition, "version": version}
    columns = (
        "kind, toInt64(toUnixTimestamp(minute)) * 1000 AS minute, toString(platform) AS platform, campaign_id, "
        "ad_group_id, toString(rule_id) AS rule_id, source, numbers, text, applied"
    )
    rows = _frame(client, f"SELECT {columns} {here} AND kind != 'minute'", parameters)
    closed = next((numbers[0] for numbers in rows.filter(pl.col("kind") == "closed")["numbers"].to_list()), None)
    inputs = rows.filter(pl.col("kind") == "input")
    oldest = {source: numbers[2] for source, numbers in inputs.select("source", "numbers").iter_rows()}
    # A partition that has reached no time has no minutes: for its sake all of the others' would be read.
    reached = [source for source, numbers in inputs.select("source", "numbers").iter_rows() if numbers[1] is not None]
    since = min((oldest[source] or 0 for source in reached), default=0)
    open_minutes = _frame(
        client,
        f"SELECT {columns} {here} AND kind = 'minute' AND rule_state.minute > toDateTime({{since:Int64}}, 'UTC')",
        parameters | {"since": max(since // 1000 - 60, 0)},
    )
    still = pl.col("minute") + MINUTE_MS > pl.col("source").replace_strict(
        list(oldest), [each or 0 for each in oldest.values()], default=0, return_dtype=pl.Int64
    )
    minutes = _frame(
        client,
        "SELECT toString(platform) AS platform, campaign_id, ad_group_id, toInt64(toUnixTimestamp("
        "if(minute < toDateTime({fine:Int64}, 'UTC'), toStartOfFifteenMinutes(minute), minute))) * 1000 AS begin, "
        + ", ".join(f"sum(assumeNotNull(numbers[{n}])) AS {name}" for n, name in enumerate(campaign_log.MEASURES, 1))
        + f" {here} AND kind = 'minute' AND minute >= toDateTime({{held:Int64}}, 'UTC') GROUP BY ALL",
        parameters | {"fine": _seconds(closed, FINE_MS), "held": _seconds(closed, HELD_MS)},
    )
    return pl.concat([rows, open_minutes.filter(still)]), minutes


def _seconds(closed: int | None, before: int) -> int:
    """A whole quarter of an hour, seconds: so long before what is closed; 0 if nothing is."""
    return 0 if closed is None else max((closed - before) // QUARTER_MS * QUARTER_MS // 1000, 0)


def _frame(client: Client, query: str, parameters: dict[str, Any]) -> pl.DataFrame:
    return pl.DataFrame(pl.from_arrow(client.query_arrow(query, parameters=parameters, use_strings=True)))


def _bucket(table: SnapshotTable) -> pl.Expr:
    """The bucket column as snapshots hold it. Arrow has ClickHouse's Date as days, and DateTime as bare seconds."""
    column = pl.col(table.bucket)
    if table.bucket == "day":
        return column.cast(pl.Date)
    return (column.cast(pl.Int64) * 1000).cast(pl.Datetime("ms", "UTC"))
