-- What was late and what was a repeat, computed anew from the raw records of a topic, without trusting their flags.
-- Per partition, in offset order: the newest event time so far, where one event counts at most to its append time
-- plus five minutes; late is more than allowed lateness and late horizon behind that; a repeat has the event_id and
-- event_time of an earlier event that was not late; is_repeat says it of any earlier one, as repair settles late events.
SELECT
    * EXCEPT (newest_ms),
    is_late = 0
        AND `offset` > minIf(`offset`, is_late = 0) OVER (PARTITION BY partition, event_id, event_time) AS is_duplicate,
    `offset` > min(`offset`) OVER (PARTITION BY partition, event_id, event_time) AS is_repeat
FROM
(
    SELECT
        *,
        max(least(toUnixTimestamp64Milli(event_time), toUnixTimestamp64Milli(appended_at) + 300000))
            OVER (PARTITION BY partition ORDER BY `offset` ROWS UNBOUNDED PRECEDING) AS newest_ms,
        toUnixTimestamp64Milli(event_time) < newest_ms - {lateness_ms:Int64} - {horizon_ms:Int64} AS is_late
    FROM {table:Identifier} FINAL
    WHERE `offset` < transform(partition, {partitions:Array(UInt16)}, {until:Array(Int64)}, 0)
)
