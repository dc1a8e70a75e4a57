"""Pipeline health: for whoever keeps it running."""

from dashboards.board import Board, Column, Panel, Row
from dashboards.queries import DEAD_LETTERS, END
from dashboards.thresholds import thresholds

_T = thresholds()
_TIME = "$__timeInterval(minute) AS time"
_IN = "WHERE $__timeFilter(minute)"


def _stat(title: str, description: str, sql: str, threshold: str, **options: object) -> Panel:
    found = _T[threshold]
    return Panel(
        "stat",
        title,
        f"{description} {found.meaning}.",
        sql,
        unit=found.unit,
        width=4,
        height=4,
        steps=found.steps,
        colored=True,
        **options,  # type: ignore[arg-type]
    )


_HEALTH = Row(
    "Is it healthy?",
    (
        _stat(
            "Freshness",
            "Of the topic that is freshest: if this grows, nothing arrives.",
            f"SELECT {_TIME}, min(freshness_seconds) AS age\nFROM pipeline_lag\n{_IN}\nGROUP BY time\nORDER BY time",
            "freshness",
            decimals=0,
        ),
        _stat(
            "Lag",
            "The most of each minute.",
            f"""\
SELECT {_TIME}, max(waiting) AS lag
FROM (SELECT minute, sum(highest_lag) AS waiting FROM pipeline_lag {_IN} GROUP BY minute)
GROUP BY time
ORDER BY time""",
            "lag",
        ),
        _stat(
            "Delay",
            "The slowest partition.",
            f"SELECT {_TIME}, max(delay_seconds) AS delay\nFROM pipeline_lag\n{_IN}\nGROUP BY time\nORDER BY time",
            "delay",
            decimals=1,
        ),
        _stat(
            "Late",
            "They count once they are repaired.",
            f"""\
SELECT {_TIME}, sum(late) / nullIf(sum(events), 0) AS late
FROM pipeline_throughput
{_IN}
GROUP BY time
ORDER BY time""",
            "late_share",
            decimals=1,
        ),
        _stat(
            "Repeats",
            "They count once.",
            f"""\
SELECT {_TIME}, sum(duplicates) / nullIf(sum(events), 0) AS repeats
FROM pipeline_throughput
{_IN}
GROUP BY time
ORDER BY time""",
            "duplicate_share",
            decimals=1,
        ),
        _stat(
            "Dead letters",
            "Over 15 minutes up to each moment.",
            DEAD_LETTERS,
            "dead_letters",
        ),
    ),
)


def _lines(title: str, description: str, value: str, view: str, label: str, unit: str, **options: object) -> Panel:
    return Panel(
        "series",
        title,
        description,
        f"SELECT {_TIME}, {label}, {value} AS value\nFROM {view}\n{_IN}\nGROUP BY time, {label}\nORDER BY time, "
        f"{label}",
        unit=unit,
        series=label,
        least=0,
        **options,  # type: ignore[arg-type]
    )


_FLOW = Row(
    "What flows, and how far behind?",
    (
        _lines(
            "Events a second",
            "Events that workers read a second, by topic, with repeats and late ones.",
            "sum(events) / $__interval_s",
            "pipeline_throughput",
            "topic",
            "cps",
            stacked=True,
            total="mean",
        ),
        _lines(
            "Lag by topic",
            "Records in Kafka that are not yet in all tables, over all partitions: the most of each interval, of the "
            "highest in each minute.",
            "max(waiting)",
            f"(SELECT minute, topic, sum(highest_lag) AS waiting FROM pipeline_lag {_IN} GROUP BY minute, topic)",
            "topic",
            "short",
            steps=_T["lag"].steps,
            total="max",
        ),
        _lines(
            "Freshness by topic",
            "From the newest event time stored to the end of the minute. A topic that sends nothing grows older.",
            "min(freshness_seconds)",
            "pipeline_lag",
            "topic",
            "s",
            steps=_T["freshness"].steps,
        ),
        _lines(
            "Delay by topic",
            "The longest time from the broker taking a record to its being in all tables: the pipeline's own share.",
            "max(delay_seconds)",
            "pipeline_lag",
            "topic",
            "s",
            steps=_T["delay"].steps,
            total="max",
        ),
        _lines(
            "Slowest flush by agent",
            "Time to store what an agent computed, rows and checkpoint; the slowest of each interval.",
            "max(slowest_seconds)",
            "pipeline_flushes",
            "agent",
            "s",
            total="max",
        ),
        _lines(
            "Rows stored a second by agent",
            "Rows written, over all tables of an agent.",
            "sum(rows_stored) / $__interval_s",
            "pipeline_flushes",
            "agent",
            "cps",
            total="mean",
        ),
    ),
)

_WHO = Row(
    "Which worker, which partition?",
    (
        Panel(
            "timeline",
            "Workers",
            "Whether each worker reported in each interval, and read something.",
            f"""\
SELECT time, worker, max(here) AS state
FROM
(
    SELECT {_TIME}, worker, 1 + (sum(records) > 0) AS here
    FROM pipeline_throughput
    {_IN}
    GROUP BY time, worker
    UNION ALL
    SELECT arrayJoin(arrayMap(at -> toDateTime(at, 'UTC'), range(first, end, $__interval_s))) AS time, worker, 0 AS here
    FROM
    (
        SELECT worker, toUInt32(min(time)) AS first, toUInt32(toUnixTimestamp({END})) - 60 AS end
        FROM (SELECT {_TIME}, worker FROM pipeline_throughput {_IN} GROUP BY time, worker)
        GROUP BY worker
    )
)
GROUP BY time, worker
ORDER BY time, worker""",
            width=8,
            height=7,
            series="worker",
            texts={"0": ("gone", "red"), "1": ("idle", "yellow"), "2": ("at work", "green")},
        ),
        Panel(
            "table",
            "Workers now",
            "Workers of the last 24 hours as they are now. A crash is a start after a process that was not told to "
            "stop.",
            """\
SELECT
    worker,
    if(alive = 1, 'alive', 'gone') AS "is",
    since,
    partitions,
    records_per_second AS "records/s",
    cpu_share AS "CPU of a core",
    memory_bytes AS memory,
    restarts_24h AS restarts,
    crashes_24h AS crashes
FROM pipeline_workers
ORDER BY worker""",
            width=16,
            height=7,
            of_now=True,
            columns={
                "is": Column(texts={"alive": ("alive", "green"), "gone": ("gone", "red")}),
                "since": Column("dateTimeAsIso", width=160),
                "records/s": Column("cps", 1),
                "CPU of a core": Column("percentunit", 0, ((None, "green"), (0.8, "yellow"), (0.95, "red"))),
                "memory": Column("bytes"),
                "crashes": Column(steps=((None, "text"), (1, "red"))),
            },
        ),
        Panel(
            "table",
            "Partitions now",
            "Partitions as they are now, the furthest behind first. docs/operations.md says what to do where lag "
            "grows.",
            """\
SELECT
    topic,
    partition,
    worker,
    lag,
    records_per_second AS "records/s",
    freshness_seconds AS freshness,
    delay_seconds AS delay,
    late_share AS late,
    duplicate_share AS repeats,
    dead_letters_1h AS "dead letters, 1 h",
    last_seen AS "last seen"
FROM pipeline_partitions
ORDER BY lag DESC, topic, partition
LIMIT 300""",
            width=24,
            height=10,
            of_now=True,
            columns={
                "lag": Column(steps=_T["lag"].steps),
                "records/s": Column("cps", 1),
                "freshness": Column("s", 0),
                "delay": Column("s", 1, _T["delay"].steps),
                "late": Column("percentunit", 1, _T["late_share"].steps),
                "repeats": Column("percentunit", 1, _T["duplicate_share"].steps),
                "last seen": Column("dateTimeAsIso", width=160),
            },
        ),
    ),
)

_DETAILS = Row(
    "Details: what is refused, tried again, started again",
    (
        Panel(
            "table",
            "Dead letters by reason",
            "Records refused in the time range. fanpulse dead-letters shows them, and sends mended ones again.",
            """\
SELECT topic, reason, sum(records) AS refused, min(minute) AS "first", max(minute) AS "last"
FROM pipeline_dead_letters
WHERE $__timeFilter(minute)
GROUP BY topic, reason
ORDER BY refused DESC
LIMIT 50""",
            width=8,
            height=9,
            columns={
                "refused": Column(bar=True),
                "first": Column("dateTimeAsIso", width=160),
                "last": Column("dateTimeAsIso", width=160),
            },
            may_be_empty=True,
        ),
        Panel(
            "table",
            "Inserts tried again",
            "Inserts that ClickHouse did not take at once, by table and reason. Nothing is lost by them.",
            """\
SELECT table, reason, sum(tries) AS tries, max(minute) AS "last"
FROM pipeline_retries
WHERE $__timeFilter(minute)
GROUP BY table, reason
ORDER BY tries DESC
LIMIT 50""",
            width=8,
            height=9,
            columns={"tries": Column(bar=True), "last": Column("dateTimeAsIso", width=160)},
            may_be_empty=True,
        ),
        Panel(
            "table",
            "Restarts",
            "Starts of workers in the time range, and how the process before each ended.",
            """\
SELECT
    started,
    worker,
    multiIf(exit_code IS NULL, 'died', exit_code = 0, 'told to stop', concat('exit ', toString(exit_code))) AS "before",
    gap_seconds AS "away"
FROM pipeline_restarts
WHERE $__timeFilter(started)
ORDER BY started DESC
LIMIT 50""",
            width=8,
            height=9,
            columns={"started": Column("dateTimeAsIso", width=160), "away": Column("s", 0)},
            may_be_empty=True,
        ),
        Panel(
            "text",
            "What to do",
            "Where the pages for alerts are.",
            width=24,
            height=4,
            text="Each alert has a page in `docs/runbooks`; `docs/operations.md` explains lag, late data, restarts and "
            "dead letters. `fanpulse doctor` checks a machine, `fanpulse verify` every figure.",
        ),
    ),
    folded=True,
)

BOARD = Board(
    "fanpulse-pipeline",
    "Pipeline health",
    "Does everything arrive, in time, once?",
    place=7,
    rows=(_HEALTH, _FLOW, _WHO, _DETAILS),
    refresh_s=10,
    rows_read=20_000_000,
    variables=(),
)
"""For whoever keeps it running."""
