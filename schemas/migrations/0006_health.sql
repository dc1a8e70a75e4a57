-- The health of the pipeline: every metric of every worker as rows, and views of them for boards and questions.
-- Metrics are declared in pipeline/metrics.py; docs/metrics.md says what each means and what to do about it.

CREATE TABLE IF NOT EXISTS pipeline_metrics
(
    at DateTime64(3, 'UTC') CODEC(DoubleDelta, ZSTD(1)) COMMENT 'When the value was read; wall clock of the worker',
    seconds Float32 CODEC(ZSTD(1)) COMMENT 'Since the rows before it, or for the first ones since the start of the process, seconds',
    worker LowCardinality(String) COMMENT 'Worker: host name and number',
    run DateTime64(3, 'UTC') CODEC(ZSTD(1)) COMMENT 'Start of the process; a worker started again has another, and counts from zero',
    name LowCardinality(String) COMMENT 'Metric, as docs/metrics.md lists them without the prefix fanpulse_; a histogram has three: _count, _sum, and _max, the highest of these seconds',
    agent LowCardinality(String) COMMENT 'Label: agent of the worker; empty: the metric has no such label',
    topic LowCardinality(String) COMMENT 'Label: source topic; empty: the metric has no such label',
    partition Int32 CODEC(ZSTD(1)) COMMENT 'Label: Kafka partition; -1: the metric has no such label',
    labels Map(LowCardinality(String), LowCardinality(String)) CODEC(ZSTD(1)) COMMENT 'The other labels by name: table, reason, stage, code',
    value Float64 CODEC(ZSTD(1)) COMMENT 'The value; of a counter what the process has counted since its start',
    increase Float64 CODEC(ZSTD(1)) COMMENT 'How much a counter grew in these seconds: sum it over any time, over restarts too; 0 for other metrics'
)
ENGINE = MergeTree
PARTITION BY toDate(at)
ORDER BY (name, worker, agent, topic, partition, at)
TTL toDateTime(at) + INTERVAL 30 DAY
SETTINGS ttl_only_drop_parts = 1, non_replicated_deduplication_window = 1000
COMMENT 'Every metric of every worker, a row every FANPULSE_TELEMETRY_INTERVAL seconds, for 30 days. The views pipeline_* say most of it.';

CREATE OR REPLACE VIEW pipeline_throughput
(
    minute DateTime('UTC') COMMENT 'Minute in which it was counted, to within FANPULSE_TELEMETRY_INTERVAL; wall clock of the worker',
    worker LowCardinality(String) COMMENT 'Worker: host name and number',
    topic LowCardinality(String) COMMENT 'Source topic',
    partition UInt16 COMMENT 'Kafka partition',
    records UInt64 COMMENT 'Records read; after a crash some are read again, and counted again',
    events UInt64 COMMENT 'Of them events, with repeats and late ones',
    late UInt64 COMMENT 'Of the events those beyond the late horizon',
    duplicates UInt64 COMMENT 'Of the events those seen before at a lower offset',
    dead_letters UInt64 COMMENT 'Of the records those refused'
)
AS SELECT
    toStartOfMinute(at) AS minute,
    worker,
    topic,
    partition,
    sumIf(increase, name = 'records_total') AS records,
    sumIf(increase, name = 'events_total') AS events,
    sumIf(increase, name = 'late_total') AS late,
    sumIf(increase, name = 'duplicates_total') AS duplicates,
    sumIf(increase, name = 'dead_letters_total') AS dead_letters
FROM pipeline_metrics
WHERE name IN ('records_total', 'events_total', 'late_total', 'duplicates_total', 'dead_letters_total')
GROUP BY minute, worker, topic, partition
COMMENT 'What workers did in each minute, by partition: work done, from their counters. A minute without a row: the worker did not report; with zeros: nothing came.';

CREATE OR REPLACE VIEW pipeline_lag
(
    minute DateTime('UTC') COMMENT 'Minute; wall clock of the worker',
    worker LowCardinality(String) COMMENT 'Worker that holds the partition: host name and number',
    topic LowCardinality(String) COMMENT 'Source topic',
    partition UInt16 COMMENT 'Kafka partition',
    lag UInt64 COMMENT 'Records in Kafka that were not yet in all tables, at the end of the minute',
    highest_lag UInt64 COMMENT 'The highest of it in the minute',
    newest_event Nullable(DateTime64(3, 'UTC')) COMMENT 'Newest event time stored; NULL: none yet',
    freshness_seconds Nullable(Float64) COMMENT 'From that to the end of the minute, seconds; NULL: no event yet',
    watermark Nullable(DateTime64(3, 'UTC')) COMMENT 'Event time up to which the partition was taken to be complete; NULL: no event yet',
    delay_seconds Nullable(Float64) COMMENT 'Longest time from the broker taking the newest stored record to its being stored, seconds; NULL: nothing stored since the worker has the partition'
)
AS SELECT
    toStartOfMinute(at) AS minute,
    worker,
    topic,
    partition,
    argMaxIf(value, at, name = 'lag') AS lag,
    maxIf(value, name = 'lag') AS highest_lag,
    fromUnixTimestamp64Milli(toInt64(round(1000 * maxOrNullIf(value, name = 'newest_event_seconds'))), 'UTC') AS newest_event,
    (toUnixTimestamp64Milli(max(at)) - toUnixTimestamp64Milli(newest_event)) / 1000 AS freshness_seconds,
    fromUnixTimestamp64Milli(toInt64(round(1000 * maxOrNullIf(value, name = 'watermark_seconds'))), 'UTC') AS watermark,
    maxOrNullIf(value, name = 'delay_seconds') AS delay_seconds
FROM pipeline_metrics
WHERE name IN ('lag', 'newest_event_seconds', 'watermark_seconds', 'delay_seconds')
GROUP BY minute, worker, topic, partition
HAVING countIf(name = 'lag') > 0
COMMENT 'How far behind each partition was in each minute: in records, in event time and in time to store.';

CREATE OR REPLACE VIEW pipeline_flushes
(
    minute DateTime('UTC') COMMENT 'Minute in which they ended, to within FANPULSE_TELEMETRY_INTERVAL; wall clock of the worker',
    worker LowCardinality(String) COMMENT 'Worker: host name and number',
    agent LowCardinality(String) COMMENT 'Agent of the worker',
    flushes UInt64 COMMENT 'Flushes stored whole: rows and checkpoint',
    mean_seconds Nullable(Float64) COMMENT 'Mean time of a flush, seconds; NULL without flushes',
    slowest_seconds Nullable(Float64) COMMENT 'Time of the slowest, seconds; NULL without flushes',
    rows_stored UInt64 COMMENT 'Rows written, over all tables'
)
AS SELECT
    toStartOfMinute(at) AS minute,
    worker,
    agent,
    sumIf(increase, name = 'flush_seconds_count') AS flushes,
    sumIf(increase, name = 'flush_seconds_sum') / nullIf(flushes, 0) AS mean_seconds,
    maxOrNullIf(value, name = 'flush_seconds_max') AS slowest_seconds,
    sumIf(increase, name = 'rows_total') AS rows_stored
FROM pipeline_metrics
WHERE name IN ('flush_seconds_count', 'flush_seconds_sum', 'flush_seconds_max', 'rows_total')
GROUP BY minute, worker, agent
COMMENT 'How long workers took to store what they computed, by minute and agent, and how many rows that was.';

CREATE OR REPLACE VIEW pipeline_retries
(
    minute DateTime('UTC') COMMENT 'Minute in which they were counted; those of an outage are in the minute that ends it',
    worker LowCardinality(String) COMMENT 'Worker: host name and number',
    table LowCardinality(String) COMMENT 'Table that did not take its rows',
    reason LowCardinality(String) COMMENT 'Why: an error code of ClickHouse, or what happened on the way there',
    tries UInt64 COMMENT 'Tries that failed; nothing is lost by them'
)
AS SELECT
    toStartOfMinute(at) AS minute,
    worker,
    labels['table'] AS table,
    labels['reason'] AS reason,
    sum(increase) AS tries
FROM pipeline_metrics
WHERE name = 'retries_total' AND increase > 0
GROUP BY minute, worker, table, reason
COMMENT 'Inserts that ClickHouse did not take and that were tried again, by minute, table and reason.';

CREATE OR REPLACE VIEW pipeline_restarts
(
    worker LowCardinality(String) COMMENT 'Worker: host name and number',
    started DateTime64(3, 'UTC') COMMENT 'When the process was started again',
    before_started DateTime64(3, 'UTC') COMMENT 'Start of the process before it',
    before_last_seen DateTime64(3, 'UTC') COMMENT 'Last sign of life of that: it ended up to FANPULSE_TELEMETRY_INTERVAL later',
    gap_seconds Float64 COMMENT 'From that to the new start, seconds',
    exit_code Nullable(UInt8) COMMENT 'What that left with: 0 told to stop, 1 failed (the watchdog too), 2 and 3 see docs/operations.md; NULL: it died without a word, killed or out of memory, or could not reach ClickHouse'
)
AS SELECT worker, started, before_started, before_last_seen, gap_seconds, exit_code
FROM
(
    SELECT
        worker,
        run AS started,
        lagInFrame(run) OVER runs AS before_started,
        lagInFrame(last_seen) OVER runs AS before_last_seen,
        (toUnixTimestamp64Milli(started) - toUnixTimestamp64Milli(before_last_seen)) / 1000 AS gap_seconds,
        lagInFrame(code) OVER runs AS exit_code,
        row_number() OVER runs AS number
    FROM
    (
        SELECT
            worker,
            run,
            maxIf(at, name = 'started_seconds') AS last_seen,
            anyOrNullIf(toUInt8OrZero(labels['code']), name = 'exits_total') AS code
        FROM pipeline_metrics
        WHERE name IN ('started_seconds', 'exits_total')
        GROUP BY worker, run
    )
    WINDOW runs AS (PARTITION BY worker ORDER BY run ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW)
)
WHERE number > 1
COMMENT 'Every start of a worker but its first in 30 days, with how the process before it ended. A process that died before it reached ClickHouse is not there.';

CREATE OR REPLACE VIEW pipeline_workers
(
    worker LowCardinality(String) COMMENT 'Worker: host name and number; those seen in the last 24 h',
    since DateTime64(3, 'UTC') COMMENT 'Start of its process',
    last_seen DateTime64(3, 'UTC') COMMENT 'Its last rows',
    alive UInt8 COMMENT '1: seen in the last 60 s, and it has not said that it leaves',
    partitions UInt32 COMMENT 'Partitions that it holds, over all topics',
    records_per_second Nullable(Float64) COMMENT 'Records read a second, over the last minute; NULL: not seen in it',
    cpu_share Nullable(Float64) COMMENT 'CPU time over the last minute, as a share of one core; NULL: not seen in it',
    memory_bytes UInt64 COMMENT 'Resident memory, bytes',
    exit_code Nullable(UInt8) COMMENT 'Code with which it has left; NULL: it has not, or it died without a word',
    restarts_24h UInt64 COMMENT 'Starts in the last 24 h, but for its first',
    crashes_24h UInt64 COMMENT 'Of them those after a process that was not told to stop'
)
AS SELECT
    worker,
    run AS since,
    seen AS last_seen,
    exit_code IS NULL AND last_seen >= now64(3) - INTERVAL 60 SECOND AS alive,
    held AS partitions,
    records / nullIf(covered, 0) AS records_per_second,
    cpu / nullIf(covered, 0) AS cpu_share,
    memory AS memory_bytes,
    code AS exit_code,
    again AS restarts_24h,
    crashed AS crashes_24h
FROM
(
    SELECT
        worker,
        run,
        max(at) AS seen,
        argMaxIf(value, at, name = 'partitions') AS held,
        argMaxIf(value, at, name = 'memory_bytes') AS memory,
        anyOrNullIf(toUInt8OrZero(labels['code']), name = 'exits_total') AS code,
        sumIf(seconds, name = 'partitions' AND at > now64(3) - INTERVAL 60 SECOND) AS covered,
        sumIf(increase, name = 'records_total' AND at > now64(3) - INTERVAL 60 SECOND) AS records,
        sumIf(increase, name = 'cpu_seconds_total' AND at > now64(3) - INTERVAL 60 SECOND) AS cpu
    FROM pipeline_metrics
    WHERE at > now64(3) - INTERVAL 1 DAY
        AND (name IN ('partitions', 'memory_bytes', 'exits_total', 'cpu_seconds_total')
            OR (name = 'records_total' AND at > now64(3) - INTERVAL 60 SECOND))
    GROUP BY worker, run
    ORDER BY worker, run DESC
    LIMIT 1 BY worker
) AS latest
LEFT JOIN
(
    SELECT worker, count() AS again, countIf(ifNull(exit_code, 1) != 0) AS crashed
    FROM pipeline_restarts
    WHERE started > now64(3) - INTERVAL 1 DAY
    GROUP BY worker
) AS restarts USING (worker)
COMMENT 'Every worker of the last 24 h as it is now: alive or not, what it holds, does and costs, how often it was started again.';

CREATE OR REPLACE VIEW pipeline_partitions
(
    topic LowCardinality(String) COMMENT 'Source topic',
    partition UInt16 COMMENT 'Kafka partition',
    worker LowCardinality(String) COMMENT 'Worker that holds it, or held it last',
    last_seen DateTime64(3, 'UTC') COMMENT 'When that said so; minutes ago: no worker holds it, and lag is as of then',
    lag UInt64 COMMENT 'Records in Kafka that are not yet in all tables',
    records_per_second Nullable(Float64) COMMENT 'Records read a second, over the last minute; NULL: nobody held it',
    stored_offset Nullable(Int64) COMMENT 'Next offset that is not yet in all tables',
    newest_event Nullable(DateTime64(3, 'UTC')) COMMENT 'Newest event time stored; NULL: none yet',
    freshness_seconds Nullable(Float64) COMMENT 'From that to now, seconds: large without lag where nothing is sent; NULL: no event yet',
    watermark Nullable(DateTime64(3, 'UTC')) COMMENT 'Event time up to which it is taken to be complete; NULL: no event yet',
    delay_seconds Nullable(Float64) COMMENT 'From the broker taking the newest stored record to its being stored, seconds; NULL: none since the worker has it',
    events_1h UInt64 COMMENT 'Events in the last hour, with repeats and late ones; counted by workers, as in pipeline_throughput',
    late_1h UInt64 COMMENT 'Of them those beyond the late horizon',
    late_share Nullable(Float64) COMMENT 'late_1h / events_1h; NULL without events',
    duplicates_1h UInt64 COMMENT 'Of them those seen before at a lower offset',
    duplicate_share Nullable(Float64) COMMENT 'duplicates_1h / events_1h; NULL without events',
    dead_letters_1h UInt64 COMMENT 'Records refused in the last hour'
)
AS SELECT
    topic,
    partition,
    argMaxIf(holder, seen, name = 'lag') AS worker,
    maxIf(seen, name = 'lag') AS last_seen,
    argMaxIf(latest, seen, name = 'lag') AS lag,
    sumIf(last_minute, name = 'records_total') / nullIf(sumIf(covered, name = 'lag'), 0) AS records_per_second,
    -- An agent that is no more has stopped saying where it is.
    minOrNullIf(latest, name = 'stored_offset' AND seen = of_all) AS stored_offset,
    fromUnixTimestamp64Milli(toInt64(round(1000 * maxOrNullIf(latest, name = 'newest_event_seconds'))), 'UTC') AS newest_event,
    (toUnixTimestamp64Milli(now64(3)) - toUnixTimestamp64Milli(newest_event)) / 1000 AS freshness_seconds,
    fromUnixTimestamp64Milli(toInt64(round(1000 * maxOrNullIf(latest, name = 'watermark_seconds'))), 'UTC') AS watermark,
    argMaxOrNullIf(latest, seen, name = 'delay_seconds') AS delay_seconds,
    sumIf(last_hour, name = 'events_total') AS events_1h,
    sumIf(last_hour, name = 'late_total') AS late_1h,
    late_1h / nullIf(events_1h, 0) AS late_share,
    sumIf(last_hour, name = 'duplicates_total') AS duplicates_1h,
    duplicates_1h / nullIf(events_1h, 0) AS duplicate_share,
    sumIf(last_hour, name = 'dead_letters_total') AS dead_letters_1h
FROM
(
    SELECT
        topic,
        partition,
        worker AS holder,
        agent,
        name,
        max(at) AS seen,
        max(seen) OVER (PARTITION BY topic, partition, name) AS of_all,
        argMax(value, at) AS latest,
        sumIf(seconds, at > now64(3) - INTERVAL 60 SECOND) AS covered,
        sumIf(increase, at > now64(3) - INTERVAL 60 SECOND) AS last_minute,
        sumIf(increase, at > now64(3) - INTERVAL 1 HOUR) AS last_hour
    FROM pipeline_metrics
    WHERE at > now64(3) - INTERVAL 1 DAY AND topic != ''
        AND (name IN ('lag', 'stored_offset', 'newest_event_seconds', 'watermark_seconds', 'delay_seconds')
            OR (name IN ('records_total', 'events_total', 'late_total', 'duplicates_total', 'dead_letters_total')
                AND at > now64(3) - INTERVAL 1 HOUR))
    GROUP BY topic, partition, holder, agent, name
)
GROUP BY topic, partition
HAVING countIf(name = 'lag') > 0
COMMENT 'Every partition of the last 24 h as it is now: who holds it, lag, speed, freshness, watermark, and what of the last hour was late, repeated or refused.';

CREATE OR REPLACE VIEW pipeline_dead_letters
(
    minute DateTime('UTC') COMMENT 'Minute in which the broker received them',
    topic LowCardinality(String) COMMENT 'Source topic',
    reason LowCardinality(String) COMMENT 'Why they were refused, as a code',
    records UInt64 COMMENT 'Records refused; each counts once'
)
AS SELECT toStartOfMinute(appended_at) AS minute, topic, reason, count() AS records
FROM dead_letters FINAL
GROUP BY minute, topic, reason
COMMENT 'Dead letters by minute, topic and reason: exact, from the table dead_letters.';
