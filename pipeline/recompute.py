"""Stages and moves of all fans, computed anew from the stored events by the settings of now."""

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from zoneinfo import ZoneInfo

import numpy as np
import orjson
import polars as pl
from clickhouse_connect.driver.client import Client
from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.errors import KafkaError

from infra.connect import clickhouse_client, kafka_admin, kafka_options, kafka_producer
from infra.errors import FanpulseError, InfraError
from infra.settings import Settings
from infra.topics import consumer_group
from pipeline import checkpoint as checkpoints
from pipeline import fan_log
from pipeline.block import Block
from pipeline.checkpoint import Checkpoint
from pipeline.fan_log import Input
from pipeline.fan_twins import AGENT, PAIRS, WITHIN, FanCut, FanTwins, fan_cut
from pipeline.folds.lifecycle import TRANSITIONS, Lifecycle, records
from pipeline.log import Broken
from pipeline.recovery import fan_state
from pipeline.refresh import refresh
from pipeline.stages import WINDOW, StagePolicy
from pipeline.transport import Delivery
from pipeline.twin import BUCKETS
from pipeline.verify import scratch
from schemas.topics import SOURCES

_ANSWER_S = 60.0
_REFRESHED = ("fan_days", "fan_values", "fan_refreshes")


@dataclass(frozen=True)
class Recomputed:
    """Fans (pairs of fan and creator) whose state was written, moves that are new or otherwise now, and moves that are
    withdrawn."""

    fans: int
    moves: int
    withdrawn: int


def recompute(settings: Settings, now: datetime, report: Callable[[str], None] = lambda line: None) -> Recomputed:
    """Writes state and moves of all fans as the twins give them for the events that the agents have stored, tells the
    topic of moves what has changed, and refreshes what is computed by day.

    No worker may run meanwhile. If it is cut off, workers refuse to start until it is run again, which does it whole.

    Raises:
        InfraError: ClickHouse or Kafka does not answer.
        FanpulseError: a worker runs, nothing is stored yet, or other settings than those of stages have changed.
    """
    with contextlib.ExitStack() as parts:
        client = clickhouse_client(settings, timeout=3600)
        parts.callback(client.close)
        stored = checkpoints.read(client)
        own = [c for c in stored if c.agent == AGENT and c.topic == fan_log.TOPIC]
        if not own:
            raise FanpulseError("no stages are stored yet: start a worker (fanpulse worker)")
        checkpoints.require_same_but_stages(settings, stored)
        report("waiting until no worker is left")
        _require_no_worker(settings, settings.session_timeout + 2)
        producer = parts.enter_context(contextlib.closing(kafka_producer(settings)))
        name = parts.enter_context(scratch(client))
        try:
            made = [c for c in stored if c.agent in checkpoints.OF_STAGES]
            _write(client, [replace(c, parameters=checkpoints.unfinished(c.parameters)) for c in made], now)
            try:
                # Whoever read the checkpoints before they were marked is a member by now.
                _require_no_worker(settings, 0.0)
                report("reading what is left of the fan log")
                inputs = _read_on(settings, client, own, stored, name("told"))
            except FanpulseError:
                _write(client, made, now)
                raise
            # Rows get the offset of a message of their own, above that of every row there is.
            marks = {c.partition: _mark(settings, producer, c.partition) for c in own}
            since = {c.partition: c.next_offset for c in own}
            own = [
                replace(c, next_offset=marks[c.partition] + 1, inputs=fan_log.write_inputs(inputs[c.partition]))
                for c in own
            ]
            cut = fan_cut(settings, own)
            assert cut is not None
            done = _tables(settings, client, producer, cut, since, name, report)
        except KafkaError as error:
            raise InfraError(f"Kafka went away ({error}): compute the stages again") from None
        for table in _REFRESHED:
            client.command(f"TRUNCATE TABLE {table}")
        followed = [*own, *(c for c in made if c.agent != AGENT)]
        _write(client, [replace(c, parameters=checkpoints.parameters(settings, c.agent)) for c in followed], now)
        refresh(settings, client, now, report=report)
        return done


def _require_no_worker(settings: Settings, patience: float) -> None:
    """Waits so many seconds: Kafka may remember a worker that has ended."""
    group = consumer_group(settings)
    end = time.monotonic() + patience
    with contextlib.closing(kafka_admin(settings)) as admin:
        while members := admin.describe_groups([group])[group]["members"]:
            if time.monotonic() > end:
                hosts = ", ".join(sorted({str(each["client_host"]).strip("/") for each in members}))
                raise FanpulseError(f"workers are running (on {hosts}): stop them first (Ctrl-C), and let them end")
            time.sleep(0.5)


def _read_on(
    settings: Settings, client: Client, own: list[Checkpoint], stored: list[Checkpoint], told: str
) -> dict[int, dict[str, Input]]:
    """How far the fan log holds each source, by partition.

    What agents have not read of it is read as they would, by the settings of before, with the moves that follow going
    to the table ``told``: a worker that was killed, or is frozen, may have told them, or may still store them.
    """
    facts = {(c.topic, c.partition): c.next_offset for c in stored if c.agent == "facts"}
    missing = {partition for (_, partition), offset in facts.items() if offset} - {c.partition for c in own}
    if missing:
        raise FanpulseError(
            f"no stages are stored of partition {min(missing)}: start a worker with the settings of before (fanpulse "
            "worker), and let it end by itself (Ctrl-C)"
        )
    client.command(f"CREATE TABLE {told} AS fan_transitions ENGINE = MergeTree ORDER BY fan")
    zone = ZoneInfo(settings.time_zone)
    found = {}
    for c in own:
        before = fan_log.read_inputs(c.inputs)
        fold = Lifecycle(c.partition, settings.time_zone, _policy(c))
        partition_log = fan_log.FanLog(
            c.partition, settings.database, settings.time_zone, {AGENT: fold}, {AGENT: 0}, c.next_offset, before
        )
        inputs, restored = c.inputs, False
        for block in _unread(settings, c.partition, c.next_offset):
            try:
                batch = partition_log.read(Delivery(block, partition_log))
            except Broken as error:
                raise FanpulseError(str(error)) from None
            if len(batch.rows) and not restored:
                fold.restore_state(fan_state(client, c.partition, c.fold_version), fan_log.as_of(before, zone))
                restored = True
            fold.apply(batch.rows)
            inputs = batch.inputs
        moves = fold.take().get(TRANSITIONS) if restored else None
        if moves is not None:
            moves = moves.with_columns(pl.lit(c.partition, pl.UInt16).alias("partition"))
            client.insert_arrow(told, moves.to_arrow(compat_level=pl.CompatLevel.oldest()))
        found[c.partition] = {
            source: Input(_covered(facts.get((source, c.partition), 0), known, source, c.partition), known.reached)
            for source, known in fan_log.read_inputs(inputs).items()
        }
    return found


def _policy(held: Checkpoint) -> StagePolicy:
    """What the stages of a checkpoint hang on."""
    made_with = orjson.loads(held.parameters)
    return StagePolicy(
        interval=made_with["active_interval"],
        churn_after=made_with["churn_after"],
        no_activity=tuple(made_with["no_activity"].split(",")),
    )


def _covered(there: int, known: Input, source: str, partition: int) -> int:
    """The offset up to which events of a source count: all that the fan log covers is stored."""
    if known.next > there:
        raise FanpulseError(
            f"the fan log has {source}[{partition}] up to offset {known.next}, the tables up to {there}, for a worker "
            "was killed: start one with the settings of before (fanpulse worker), let it end by itself (Ctrl-C), and "
            "compute the stages then"
        )
    return there


def _unread(settings: Settings, partition: int, position: int) -> Iterator[Block]:
    """Messages from an offset on, as blocks."""
    consumer = KafkaConsumer(**kafka_options(settings), enable_auto_commit=False)
    try:
        place = TopicPartition(settings.topic_prefix + fan_log.TOPIC, partition)
        consumer.assign([place])
        end = consumer.end_offsets([place])[place]
        consumer.seek(place, position)
        while (start := consumer.position(place)) < end:
            found = consumer.poll(timeout_ms=1000).get(place, [])
            offsets, appended = ([getattr(each, name) for each in found] for name in ("offset", "timestamp"))
            yield Block(
                fan_log.TOPIC,
                partition,
                start,
                consumer.position(place),
                np.array(offsets, np.int64),
                np.array(appended, np.int64),
                [each.value for each in found],
            )
    finally:
        consumer.close()


def _mark(settings: Settings, producer: KafkaProducer, partition: int) -> int:
    """Sends a message that says nothing; its offset."""
    (message,) = fan_log.encode(settings.database, fan_log.REPAIR, 0, 0, None, [])
    sent = producer.send(settings.topic_prefix + fan_log.TOPIC, message, partition=partition)
    return int(sent.get(timeout=_ANSWER_S).offset)


def _tables(
    settings: Settings,
    client: Client,
    producer: KafkaProducer,
    cut: FanCut,
    since: dict[int, int],
    name: Callable[[str], str],
    report: Callable[[str], None],
) -> Recomputed:
    reach = StagePolicy(interval=settings.active_interval, churn_after=settings.churn_after).reach
    twins = FanTwins(client, settings, cut, name, WINDOW - 1 + reach)
    for topic in SOURCES:
        report(f"reading {topic}")
        judged = f"SELECT *, late AS is_late, duplicate AS is_duplicate, {BUCKETS} FROM raw_{topic} FINAL"
        twins.add(topic, f"({judged})")
    marks = [offset - 1 for offset in cut.next_offset.values()]
    known = {"marks": marks, "since": [since[partition] for partition in cut.next_offset]}
    fans = moves = withdrawn = 0
    for within in twins.slices():
        report(f"stages of fans, {fans:,} done")
        parameters = twins.parameters | within | known
        query = _changed(twins, name("told"))
        changed = pl.DataFrame(pl.from_arrow(client.query_arrow(query, parameters=parameters)))
        changed = changed.with_columns(
            pl.col("day").cast(pl.Int32).cast(pl.Date),
            pl.col("at").cast(pl.Datetime("ms", "UTC")),
            pl.col("resurrected", "withdrawn").cast(pl.UInt8),
        )
        if len(changed):
            client.insert_arrow("fan_transitions", changed.to_arrow(compat_level=pl.CompatLevel.oldest()))
        sent = [producer.send(settings.topic_prefix + TRANSITIONS, line, key=key) for key, line in records(changed)]
        for each in sent:
            each.get(timeout=_ANSWER_S)
        client.command(_state(twins), parameters=parameters)
        withdrawn += int(changed["withdrawn"].sum())
        moves += int((changed["withdrawn"] == 0).sum())
        counted = f"SELECT uniqExact({PAIRS}) FROM {twins.events} WHERE {WITHIN} AND {_TELLING}"
        fans += int(client.query(counted, parameters=parameters).result_rows[0][0])
    return Recomputed(fans, moves, withdrawn)


_TELLING = "(kind = 'unfollow' OR NOT has({no_activity:Array(String)}, kind))"
"""Events that stages are made of."""
_APPLIED = "transform(partition, {partitions:Array(UInt16)}, {marks:Array(Int64)}, toInt64(-1)) AS applied"


def _changed(twins: FanTwins, told: str) -> str:
    """Rows for ``fan_transitions``: moves that are not there so, those that are there and should not be, and those of
    which it is not certain who knows them: that a worker may have told, or that are beyond the checkpoint, as those are
    that were written by a run that was cut off."""
    keys = f"{PAIRS}, day, step"
    values = ("from_stage", "to_stage", "at", "reason", "resurrected")
    shown = "toString(from_stage) AS from_stage, toString(to_stage) AS to_stage, at, toString(reason) AS reason"
    # Of one that is withdrawn nothing has moved, so its stages are one.
    kept = {name: f"if(wanted.there = 1, wanted.{name}, stored.{name})" for name in values}
    kept |= {"to_stage": "if(wanted.there = 1, wanted.to_stage, stored.from_stage)"}
    kept |= {"reason": "wanted.reason", "resurrected": "wanted.resurrected"}
    differs = " OR ".join(f"stored.{name} != wanted.{name}" for name in values)
    beyond = "applied >= transform(partition, {partitions:Array(UInt16)}, {since:Array(Int64)}, toInt64(0))"
    within = f"fold_version = {{version:UInt16}} AND has({{partitions:Array(UInt16)}}, partition) AND {WITHIN}"
    return f"""
        SELECT
            partition, toString(platform) AS platform, creator_id, fan, toInt32(day) AS day, step,
            {", ".join(f"{expression} AS {name}" for name, expression in kept.items())},
            toUInt8(wanted.there = 0) AS withdrawn, {{version:UInt16}} AS fold_version, {_APPLIED}
        FROM
        (
            SELECT 1 AS there, {keys}, {shown}, resurrected, uncertain FROM
            (
                SELECT *, {beyond} AS uncertain FROM fan_transitions FINAL WHERE {within}
                UNION ALL
                SELECT *, 1 AS uncertain FROM {told} WHERE {within}
            )
            WHERE withdrawn = 0 OR uncertain
            ORDER BY uncertain DESC
            LIMIT 1 BY {keys}
        ) AS stored
        FULL OUTER JOIN
        (
            SELECT 1 AS there, {keys}, {shown}, resurrected FROM ({twins.wanted("fan_transitions")})
        ) AS wanted USING ({keys})
        WHERE stored.uncertain OR stored.there != wanted.there OR {differs}
        ORDER BY creator_id, fan, day, step
    """


def _state(twins: FanTwins) -> str:
    """Inserts a row for each fan with events that count, and an empty one for each other that has a row."""
    columns = f"{PAIRS}, first_at, days, firsts, lasts, unfollows"
    nothing = "toDateTime64(0, 3, 'UTC'), [], [], [], []"
    return f"""
        INSERT INTO fan_state ({columns}, too_old, fold_version, applied)
        SELECT {columns}, 0, {{version:UInt16}}, {_APPLIED} FROM ({twins.wanted("fan_state")})
        UNION ALL
        SELECT {PAIRS}, {nothing}, 0, {{version:UInt16}}, {_APPLIED}
        FROM (SELECT DISTINCT {PAIRS} FROM fan_state WHERE fold_version = {{version:UInt16}} AND {WITHIN})
        WHERE has({{partitions:Array(UInt16)}}, partition)
            AND ({PAIRS}) NOT IN (SELECT {PAIRS} FROM {twins.events} WHERE {WITHIN} AND {_TELLING})
    """


def _write(client: Client, rows: list[Checkpoint], now: datetime) -> None:
    checkpoints.write(client, rows, int(now.timestamp() * 1000))
