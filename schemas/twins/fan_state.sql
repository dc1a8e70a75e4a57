-- Twin of the table fan_state: the days on which each fan of each creator acted or unfollowed, of the last days.
-- events are those of the four source topics that count, each once, with day (local) of event_time and as_of, the local
-- day that the partition has reached. no_activity: kinds that are no action of the fan. earlier: how many days before that
-- one the row goes back.
SELECT
    partition,
    platform,
    creator_id,
    fan,
    min(nullIf(first, 0)) AS first_ms,
    fromUnixTimestamp64Milli(ifNull(first_ms, 0), 'UTC') AS first_at,
    arraySort(groupArrayIf((day, first, last, unfollow), toInt32(day) >= as_of - {earlier:Int32})) AS recent,
    arrayMap(each -> each.1, recent) AS days,
    arrayMap(each -> fromUnixTimestamp64Milli(each.2, 'UTC'), recent) AS firsts,
    arrayMap(each -> fromUnixTimestamp64Milli(each.3, 'UTC'), recent) AS lasts,
    arrayMap(each -> fromUnixTimestamp64Milli(each.4, 'UTC'), recent) AS unfollows
FROM
(
    -- 0: none on that day.
    SELECT
        partition,
        platform,
        creator_id,
        fan,
        day,
        any(as_of) AS as_of,
        minIf(toUnixTimestamp64Milli(event_time), kind != 'unfollow') AS first,
        maxIf(toUnixTimestamp64Milli(event_time), kind != 'unfollow') AS last,
        maxIf(toUnixTimestamp64Milli(event_time), kind = 'unfollow') AS unfollow
    FROM events
    WHERE kind = 'unfollow' OR NOT has({no_activity:Array(String)}, kind)
    GROUP BY partition, platform, creator_id, fan, day
)
GROUP BY partition, platform, creator_id, fan
