"""Takes into the figures what came too late for the stream, by the same SQL that defines them."""

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

import polars as pl
from clickhouse_connect.driver.client import Client
from kafka.errors import KafkaError

from infra.connect import clickhouse_client, kafka_producer
from infra.errors import FanpulseError, InfraError
from infra.settings import Settings
from pipeline import checkpoint as checkpoints
from pipeline import fan_log
from pipeline.attribution_twin import attribution_cut
from pipeline.repair_attribution import repair_attribution
from pipeline.snapshot import SnapshotTable
from pipeline.twin import BUCKETS, FOLDS, IN_DAYS, UNTIL, columns, limits, twin
from schemas.topics import SOURCES

_ANSWER_S = 60.0


@dataclass(frozen=True)
class Repaired:
    """What a repair did: late events of each topic now in the figures, repeats that were not, rows written, facts sent
    to the fan log, and whether they have been read there."""

    events: dict[str, int]
    repeats: dict[str, int]
    rows: dict[str, int]
    facts: int
    read: bool = field(compare=False)


def repair(
    settings: Settings,
    first: date,
    last: date,
    report: Callable[[str], None] = lambda line: None,
    patience: float = 0.0,
) -> Repaired:
    """Repairs the local calendar days ``first`` to ``last``, both included.

    Whole days, because the widest bucket is a day: a row written by a repair is the exact fold of all late events of
    its key below the archive's checkpoint, so a second repair, or one after a crash, writes the same or a better row.
    Stream rows are never touched. First the late records are settled (a late event may repeat another), then every
    table of every fold gets its rows, and what agents on the fan log must know is sent there: to have it twice changes
    nothing. For ``patience`` seconds it waits until they have read it.

    Raises:
        InfraError: ClickHouse or Kafka does not answer.
        FanpulseError: nothing is stored yet, or the last day is before the first.
    """
    if last < first:
        raise FanpulseError(f"the last day, {last}, is before the first, {first}")
    zone = ZoneInfo(settings.time_zone)
    span = {
        "since": int(datetime(first.year, first.month, first.day, tzinfo=zone).timestamp() * 1000),
        "before": int(_midnight_after(last, zone).timestamp() * 1000),
    }
    client = clickhouse_client(settings, timeout=3600)
    try:
        stored = checkpoints.read(client)
        if not stored:
            raise FanpulseError("nothing is stored yet, so nothing can be repaired: start a worker (fanpulse worker)")
        checkpoints.require_same(settings, stored)
        events, repeats, rows, facts = {}, {}, {}, 0
        sent: dict[int, int] = {}
        archived: dict[str, dict[int, int]] = {}
        for topic in SOURCES:
            until = {c.partition: c.next_offset for c in stored if c.agent == "archive" and c.topic == topic}
            archived[topic] = until
            if not until:
                continue
            parameters = {
                **span,
                "time_zone": settings.time_zone,
                "first": first,
                "last": last,
                **limits(until),
            }
            report(f"settling late {topic}")
            _settle(client, topic, parameters)
            events[topic], repeats[topic] = _settled(client, topic, parameters)
            if events[topic] and any(c.topic == fan_log.TOPIC for c in stored):
                report(f"telling the fan log of late {topic}")
                facts += _tell(settings, client, topic, parameters, sent)
            for agent, (fold, source) in FOLDS.items():
                if source != topic:
                    continue
                for table in fold.tables:
                    report(f"repairing {table.name} ({agent})")
                    names = columns(table)
                    found = f"FROM (WITH events AS ({_counted(topic)}) {twin(table.name)}) WHERE {_overlaps(table)}"
                    client.command(
                        f"INSERT INTO {table.name} (origin, fold_version, {names}) "
                        f"SELECT 'repair', {fold.version}, {names} {found}",
                        parameters=parameters,
                    )
                    rows[table.name] = int(client.query(f"SELECT count() {found}", parameters).result_rows[0][0])
        if (cut := attribution_cut(stored)) is not None:
            rows |= repair_attribution(client, settings, cut, archived, span, report)
        end = time.monotonic() + patience
        while not (read := _read(client, sent)) and time.monotonic() < end:
            time.sleep(0.2)
        return Repaired(events, repeats, rows, facts, read)
    finally:
        client.close()


def _midnight_after(day: date, zone: ZoneInfo) -> datetime:
    following = day + timedelta(days=1)
    return datetime(following.year, following.month, following.day, tzinfo=zone)


_BELOW = f"`offset` < {UNTIL}"
_RANGE = f"late = 1 AND {IN_DAYS} AND {_BELOW}"


def _counted(topic: str) -> str:
    """Late events that count now, of more than the days: the first and the last bucket may reach beyond them."""
    return (
        f"SELECT *, {BUCKETS} FROM raw_{topic} FINAL "
        f"WHERE late = 1 AND repaired = 1 AND duplicate = 0 AND {_BELOW} "
        "AND event_time >= fromUnixTimestamp64Milli({since:Int64} - 3600000, 'UTC') "
        "AND event_time < fromUnixTimestamp64Milli({before:Int64} + 3600000, 'UTC')"
    )


def _overlaps(table: SnapshotTable) -> str:
    """Rows whose bucket has a part in the days: in a zone that is half an hour off UTC, hours lie across midnight."""
    if table.bucket == "day":
        return "day BETWEEN {first:Date} AND {last:Date}"
    begin = f"toUnixTimestamp({table.bucket}) * 1000"
    return f"{begin} + {table.bucket_ms} > {{since:Int64}} AND {begin} < {{before:Int64}}"


def _settle(client: Client, topic: str, parameters: dict[str, object]) -> None:
    """Marks late events as repaired, and as repeats those whose event stands at a lower offset already."""
    # The inner names differ from the raw table's, for ``USING`` would change the order of the columns; and a bare
    # ``repaired`` in the condition would be the 1 that replaces it.
    client.command(
        f"""
        INSERT INTO raw_{topic}
        SELECT raw.* REPLACE (1 AS repaired, raw.`offset` > first AS duplicate)
        FROM raw_{topic} AS raw FINAL
        INNER JOIN
        (
            SELECT partition AS on_partition, event_id AS id, event_time AS at, min(`offset`) AS first
            FROM raw_{topic}
            WHERE {IN_DAYS}
                AND (partition, event_id) IN (SELECT partition, event_id FROM raw_{topic} WHERE {_RANGE})
            GROUP BY partition, event_id, event_time
        ) AS seen ON raw.partition = on_partition AND raw.event_id = id AND raw.event_time = at
        WHERE {_RANGE} AND raw.repaired = 0
        """,
        parameters=parameters,
    )


def _settled(client: Client, topic: str, parameters: dict[str, object]) -> tuple[int, int]:
    (events, repeats), *_ = client.query(
        f"SELECT countIf(duplicate = 0), countIf(duplicate = 1) FROM raw_{topic} FINAL WHERE {_RANGE} AND repaired = 1",
        parameters=parameters,
    ).result_rows
    return int(events), int(repeats)


def _tell(settings: Settings, client: Client, topic: str, parameters: dict[str, object], upto: dict[int, int]) -> int:
    """Sends the late events that count now to the fan log, and what they make matter; returns how many facts.
    ``upto`` gets, by partition, the offset of the last message."""
    late = f"{_RANGE} AND repaired = 1 AND duplicate = 0"
    wanted = f"{late} AND kind != 'impression'"
    if topic == "interactions":
        # The log has not the last action of every day; but that it came after an unfollow must be known.
        day = "partition, platform, creator_id, fan, toDate(event_time, {time_zone:String})"
        left = f"SELECT {day} FROM raw_{topic} FINAL WHERE {late} AND kind = 'unfollow'"
        wanted = f"""({wanted}) OR (partition, `offset`) IN (
            SELECT partition, argMax(`offset`, event_time) FROM raw_{topic} FINAL
            WHERE duplicate = 0 AND (late = 0 OR repaired = 1) AND NOT has({{no_activity:Array(String)}}, kind)
                AND {IN_DAYS} AND {_BELOW} AND ({day}) IN ({left})
            GROUP BY {day})"""
    arrow = client.query_arrow(
        "SELECT partition, `offset`, toString(platform) AS platform, creator_id, fan, "
        "toUnixTimestamp64Milli(event_time) AS at, toString(kind) AS kind "
        f"FROM raw_{topic} FINAL WHERE {IN_DAYS} AND ({wanted}) ORDER BY partition, `offset`",
        parameters=parameters | {"no_activity": settings.no_activity.split(",")},
    )
    facts = pl.DataFrame(pl.from_arrow(arrow))
    with contextlib.closing(kafka_producer(settings)) as producer:
        sent = [
            producer.send(settings.topic_prefix + fan_log.TOPIC, message, partition=int(partition))
            for (partition,), own in facts.partition_by("partition", as_dict=True).items()
            for message in fan_log.encode(settings.database, fan_log.REPAIR, 0, 0, None, [(0, own.drop("partition"))])
        ]
        try:
            for each in sent:
                place = each.get(timeout=_ANSWER_S)
                upto[place.partition] = max(place.offset, upto.get(place.partition, -1))
        except KafkaError as error:
            raise InfraError(f"Kafka did not take the late {topic} ({error}); repair these days again") from None
    return len(facts)


def _read(client: Client, sent: dict[int, int]) -> bool:
    """Whether everything sent has been read from the fan log, and is in the tables."""
    following = {c.partition: c.next_offset for c in checkpoints.read(client) if c.topic == fan_log.TOPIC}
    return all(following.get(partition, 0) > offset for partition, offset in sent.items())
