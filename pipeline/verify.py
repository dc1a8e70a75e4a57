"""Every figure against its definition in SQL, exactly, while the stream goes on."""

import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from clickhouse_connect.driver.client import Client

from infra.connect import clickhouse_client
from infra.errors import FanpulseError
from infra.settings import Settings
from pipeline import checkpoint as checkpoints
from pipeline.attribution_twin import attribution_cut
from pipeline.comparison import Comparison, compare_rows, examples
from pipeline.fan_twins import fan_cut
from pipeline.snapshot import SnapshotTable
from pipeline.twin import FOLDS, UNTIL, columns, judge, limits, twin
from pipeline.verify_attribution import AttributionTables
from pipeline.verify_campaigns import compare_campaigns, copy_campaigns
from pipeline.verify_fans import FanTables
from schemas.topics import SOURCES

KEPT_DAYS = 3
"""Minutes that ClickHouse may have forgotten (TTL) are not compared: those older than this many days."""


def verify(
    settings: Settings, report: Callable[[str], None] = lambda line: None, patience: float = 60.0
) -> list[Comparison]:
    """Compares every table of every agent at the agents' checkpoints.

    A row may be ahead of the checkpoint (the flush after it has landed): it is compared at the offset it holds, for
    which the raw rows must have got as far: ``patience`` is how many seconds to wait for that.

    Raises:
        InfraError: ClickHouse does not answer.
        FanpulseError: there is nothing to compare, or the archive does not catch up.
    """
    client = clickhouse_client(settings, timeout=600)
    try:
        stored = checkpoints.read(client)
        if not stored:
            raise FanpulseError("nothing is stored yet: start a worker (fanpulse worker) or the demo (fanpulse demo)")
        checkpoints.require_same(settings, stored)
        kept = int(time.time()) // 60 * 60 - KEPT_DAYS * 86_400
        results = []
        with scratch(client) as fan_name:
            fans = None
            if (cut := fan_cut(settings, stored)) is not None:
                report("reading fan_state and fan_transitions")
                fans = FanTables(client, settings, cut, fan_name)
                fans.copy()
            attributions = None
            if (own_cut := attribution_cut(stored)) is not None:
                report("reading attributions")
                attributions = AttributionTables(client, settings, own_cut, fan_name)
                attributions.copy()
            for topic in SOURCES:
                until = {c.partition: c.next_offset for c in stored if c.agent == "archive" and c.topic == topic}
                agents = [name for name, (_, source) in FOLDS.items() if source == topic]
                with scratch(client) as name:
                    snapshots = {}
                    for agent in agents:
                        own = {c.partition: c.next_offset for c in stored if c.agent == agent and c.topic == topic}
                        for table in FOLDS[agent][0].tables:
                            report(f"reading {table.name}")
                            version = FOLDS[agent][0].version
                            snapshots[table.name] = (table, own)
                            _snapshot(client, table, version, kept, name(table.name))
                            _extend(until, _reach(client, name(table.name)))
                        _extend(until, own)
                    if cut is not None:
                        _extend(until, cut.upto(topic))
                    if topic == "ad_events":
                        report("reading rule_state")
                        _extend(until, copy_campaigns(client, name("rule_state")))
                    if own_cut is not None:
                        _extend(until, own_cut.upto(topic))
                    _await_archive(client, topic, until, patience)
                    if topic == "interactions":
                        for grain in ("minute", "hour"):
                            _copy_viewers(client, grain, name(f"viewers_{grain}"))
                    report(f"judging {topic}")
                    judge(client, settings, topic, until, name("judged"))
                    results.append(_offsets(client, topic, name("judged"), until))
                    results.append(_flags(client, topic, name("judged")))
                    for table, own in snapshots.values():
                        report(f"comparing {table.name}")
                        results.append(_compare(client, table, name(table.name), name("judged"), own, kept))
                    if topic == "interactions":
                        for grain in ("minute", "hour"):
                            report(f"comparing viewers_{grain}")
                            copy, judged = name(f"viewers_{grain}"), name("judged")
                            results.append(_compare_viewers(client, grain, copy, judged, until, kept))
                    if topic == "ad_events":
                        report("comparing rule_state")
                        results.append(compare_campaigns(client, settings, name("rule_state"), name("judged")))
                    if fans is not None:
                        fans.add(topic, name("judged"))
                    if attributions is not None:
                        attributions.add(topic, name("judged"))
            if fans is not None:
                results += fans.compare(report)
            if attributions is not None:
                results += attributions.compare(report)
        return results
    finally:
        client.close()


@contextmanager
def scratch(client: Client) -> Iterator[Callable[[str], str]]:
    """Names of tables that live as long as this block."""
    prefix, made = f"scratch_{secrets.token_hex(4)}_", []

    def name(table: str) -> str:
        full = prefix + table
        if full not in made:
            made.append(full)
        return full

    try:
        yield name
    finally:
        for table in made:
            client.command(f"DROP TABLE IF EXISTS {table} SYNC")


def _snapshot(client: Client, table: SnapshotTable, version: int, kept: int, into: str) -> None:
    client.command(
        f"CREATE TABLE {into} ENGINE = MergeTree ORDER BY tuple() AS SELECT origin, {columns(table)} "
        f"FROM {table.name} FINAL WHERE fold_version = {{version:UInt16}}{_kept(table)}",
        parameters={"version": version, "kept": kept},
    )


def _kept(table: SnapshotTable) -> str:
    """Of tables that forget: what is newer than a moment fixed at the start, for every query alike."""
    return " AND minute >= toDateTime({kept:Int64}, 'UTC')" if table.name.endswith("content_minute") else ""


def _reach(client: Client, snapshot: str) -> dict[int, int]:
    rows = client.query(
        f"SELECT partition, max(applied) + 1 FROM {snapshot} WHERE origin = 'stream' GROUP BY partition"
    ).result_rows
    return {int(partition): int(offset) for partition, offset in rows}


def _extend(until: dict[int, int], offsets: dict[int, int]) -> None:
    """Raises what is looked at to these offsets."""
    until.update({partition: max(until.get(partition, 0), offset) for partition, offset in offsets.items()})


def _await_archive(client: Client, topic: str, until: dict[int, int], patience: float) -> None:
    deadline = time.monotonic() + patience
    while True:
        held = {
            c.partition: c.next_offset for c in checkpoints.read(client) if c.agent == "archive" and c.topic == topic
        }
        behind = {p: offset - held.get(p, 0) for p, offset in until.items() if held.get(p, 0) < offset}
        if not behind:
            return
        if time.monotonic() > deadline:
            partition, records = next(iter(behind.items()))
            raise FanpulseError(
                f"the archive of {topic}[{partition}] is {records} records behind other figures and does not catch up: "
                "is a worker running? (fanpulse worker)",
                exit_code=1,
            )
        time.sleep(0.2)


def _offsets(client: Client, topic: str, judged: str, until: dict[int, int]) -> Comparison:
    """Every offset from the first stored on is a raw row or a dead letter: nothing was lost on the way.

    Rows are offsets; differing are those that are neither. (Transactions and compaction leave offsets without a
    record; the contract has neither.)
    """
    held = f"""
        SELECT partition, `offset` FROM {judged}
        UNION DISTINCT
        SELECT partition, `offset` FROM dead_letters
        WHERE topic = {{topic:String}}
            AND `offset` < {UNTIL}
    """
    parameters = {"topic": topic, **limits(until)}
    (rows, found), *_ = client.query(
        f"SELECT sum(expected), sum(found) FROM (SELECT {UNTIL} - min(`offset`) AS expected, count() AS found "
        f"FROM ({held}) GROUP BY partition)",
        parameters=parameters,
    ).result_rows
    following = (
        f"leadInFrame(`offset`, 1, {UNTIL}) OVER "
        "(PARTITION BY partition ORDER BY `offset` ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING)"
    )
    gaps = f"SELECT partition, `offset`, {following} AS following FROM ({held})"
    missing = f"SELECT partition, `offset` + 1 AS first, following - 1 AS last FROM ({gaps}) WHERE last >= first"
    shown = examples(client, missing, parameters) if found < rows else []
    return Comparison(f"offsets_{topic}", int(rows), int(rows) - int(found), shown)


def _flags(client: Client, topic: str, judged: str) -> Comparison:
    """The verdicts in the raw table, those of the stream and, of late events, those of repair."""
    wrong = "late != is_late OR duplicate != if(late, repaired AND is_repeat, is_duplicate)"
    (rows, differ), *_ = client.query(f"SELECT count(), countIf({wrong}) FROM {judged}").result_rows
    shown = examples(
        client,
        "SELECT partition, `offset`, event_id, late, is_late, duplicate, is_duplicate, repaired, is_repeat "
        f"FROM {judged} WHERE {wrong}",
    )
    return Comparison(f"raw_{topic}", rows, differ, shown)


def _compare(
    client: Client, table: SnapshotTable, snapshot: str, judged: str, own: dict[int, int], kept: int
) -> Comparison:
    """Stream rows at the checkpoint, or where they are ahead of it at their own offset; repair rows as repaired."""
    keys = ", ".join((*table.keys, "partition"))
    parameters = {**limits(own), "kept": kept}
    events = f"""
        SELECT judged.* FROM {judged} AS judged
        LEFT JOIN
        (
            SELECT {keys}, applied + 1 AS beyond FROM {snapshot} WHERE origin = 'stream' AND applied >= {UNTIL}
        ) AS further USING ({keys})
        WHERE is_late = 0 AND is_duplicate = 0 AND `offset` < greatest({UNTIL}, beyond)
    """
    repaired = f"SELECT * FROM {judged} WHERE late = 1 AND repaired = 1 AND duplicate = 0"
    recent = f"WHERE 1{_kept(table)}"
    wanted = f"""
        SELECT 'stream' AS origin, * FROM (WITH events AS ({events}) {twin(table.name)}) {recent}
        UNION ALL
        SELECT 'repair' AS origin, * FROM (WITH events AS ({repaired}) {twin(table.name)}) {recent}
    """
    row, measured = ("origin", *table.keys, "partition"), (*table.measures, "applied")
    return compare_rows(client, table.name, f"SELECT * FROM {snapshot}", wanted, row, measured, parameters)


def _copy_viewers(client: Client, grain: str, into: str) -> None:
    client.command(
        f"CREATE TABLE {into} ENGINE = MergeTree ORDER BY tuple() AS SELECT platform, creator_id, content_id, {grain}, "
        f"uniqMerge(viewers) AS viewers FROM viewers_{grain} GROUP BY platform, creator_id, content_id, {grain}"
    )


def _compare_viewers(
    client: Client, grain: str, copy: str, judged: str, until: dict[int, int], kept: int
) -> Comparison:
    """Distinct viewers of every bucket that no record beyond ``until`` has touched since they were read."""
    columns = ("platform", "creator_id", "content_id", grain)
    keys = ", ".join(columns)
    recent = " AND appended_at < event_time + INTERVAL 3 DAY" if grain == "minute" else ""
    newer = " AND minute >= toDateTime({kept:Int64}, 'UTC')" if grain == "minute" else ""
    untouched = f"""
        ({keys}) NOT IN
        (
            SELECT platform, creator_id, content_id, toStartOf{grain.title()}(event_time) FROM raw_interactions
            WHERE kind = 'view'
                AND `offset` >= {UNTIL}
        ){newer}
    """
    stored = f"SELECT * FROM {copy} WHERE {untouched}"
    wanted = f"""
        SELECT * FROM
        (
            SELECT {keys}, uniq(fan) AS viewers FROM {judged}
            WHERE kind = 'view'
                AND (is_late = 0 AND is_duplicate = 0 OR late = 1 AND repaired = 1 AND duplicate = 0){recent}
            GROUP BY {keys}
        )
        WHERE {untouched}
    """
    parameters = {**limits(until), "kept": kept}
    return compare_rows(client, f"viewers_{grain}", stored, wanted, columns, ("viewers",), parameters)
