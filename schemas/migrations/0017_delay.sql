-- A delay is that of what was stored in a minute; what was stored long ago delays nothing any more.

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
    delay_seconds Nullable(Float64) COMMENT 'Longest time in the minute from the broker taking the newest stored record to its being stored, seconds; NULL: nothing was stored in it'
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
