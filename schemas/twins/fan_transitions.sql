-- Twin of the table fan_transitions: every move of a fan of a creator from one stage to another.
-- events are those of the four source topics that count, each once, with day (local) of event_time and as_of, the local
-- day that the partition has reached. no_activity: kinds that are no action of the fan. interval (I) and churn_after (C)
-- are days.
--
-- Stage on a day: churned after an unfollow that no later action follows; else by the days since the last day with an
-- action: churned from C on, silent from I on; else new for I days from the first day with an action; else retained with
-- an action in the I days before the last I; else active.
WITH
    -- Every day with an action or an unfollow (0: none on that day), and the last such day.
    own_days AS
    (
        SELECT
            partition,
            platform,
            creator_id,
            fan,
            any(as_of) AS as_of,
            toInt32(day) AS own_day,
            minIf(toUnixTimestamp64Milli(event_time), kind != 'unfollow') AS first,
            maxIf(toUnixTimestamp64Milli(event_time), kind != 'unfollow') AS last,
            maxIf(toUnixTimestamp64Milli(event_time), kind = 'unfollow') AS unfollow,
            max(own_day) OVER (PARTITION BY fan, creator_id, platform, partition) AS last_day
        FROM events
        WHERE kind = 'unfollow' OR NOT has({no_activity:Array(String)}, kind)
        GROUP BY partition, platform, creator_id, fan, own_day
    ),
    -- Every day on which a stage can change: these, and those that are I, 2 I and C days after one with an action.
    turns AS
    (
        SELECT
            partition,
            platform,
            creator_id,
            fan,
            own_day + later AS turn,
            maxIf(first, later = 0) AS first_action,
            maxIf(last, later = 0) AS last_action,
            maxIf(unfollow, later = 0) AS last_unfollow,
            max(later = {interval:Int32}) AS interval_later,
            first_action > 0 AS acted
        FROM own_days
        ARRAY JOIN if(first > 0, [0, {interval:Int32}, 2 * {interval:Int32}, {churn_after:Int32}], [0]) AS later
        WHERE turn <= greatest(as_of, last_day)
        GROUP BY partition, platform, creator_id, fan, turn
    ),
    -- What is known at the midnight that begins the day; day 0: none. interval_day: last day with an action that is at
    -- least I days back.
    known AS
    (
        SELECT
            *,
            minIf(turn, acted) OVER upto AS first_day,
            maxIf(turn, acted) OVER before AS seen_day,
            max(last_action) OVER before AS seen_action,
            max(last_unfollow) OVER before AS seen_unfollow,
            maxIf(turn, interval_later) OVER upto - {interval:Int32} AS interval_day,
            interval_day > turn - 2 * {interval:Int32} AS was_active,
            seen_unfollow > 0 AND seen_unfollow >= seen_action AS had_left,
            greatest(seen_unfollow, last_unfollow) AS unfollowed_at,
            unfollowed_at > 0 AND unfollowed_at >= greatest(seen_action, last_action) AS has_left
        FROM turns
        WINDOW
            before AS (PARTITION BY fan, creator_id, platform, partition ORDER BY turn ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING),
            upto AS (PARTITION BY fan, creator_id, platform, partition ORDER BY turn ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW)
    ),
    -- Stages of the day: at its midnight, after its actions, at its end.
    stages AS
    (
        SELECT
            *,
            arrayMap(
                (last_seen, left) -> multiIf(
                    last_seen = 0, 'none',
                    left, 'churned',
                    turn - last_seen >= {churn_after:Int32}, 'churned',
                    turn - last_seen >= {interval:Int32}, 'silent',
                    turn - first_day < {interval:Int32}, 'new',
                    was_active, 'retained',
                    'active'
                ),
                [seen_day, if(acted, turn, seen_day)],
                [had_left, had_left AND NOT acted]
            ) AS of_day,
            if(has_left AND of_day[2] != 'none', 'churned', of_day[2]) AS at_end
        FROM known
    )
SELECT
    partition,
    platform,
    creator_id,
    fan,
    toDate(turn) AS day,
    toUInt8(step) AS step,
    from_stage,
    to_stage,
    multiIf(
        step = 0, toDateTime64(toDateTime(day, {time_zone:String}), 3, 'UTC'),
        fromUnixTimestamp64Milli(if(step = 1, first_action, last_unfollow), 'UTC')
    ) AS at,
    multiIf(
        step = 1, if(from_stage = 'none', 'arrived', 'returned'),
        step = 2, 'unfollowed',
        to_stage IN ('silent', 'churned'), 'absent',
        from_stage = 'new', 'aged',
        'faded'
    ) AS reason,
    toUInt8(reason = 'returned' AND turn - seen_day >= {interval:Int32}) AS resurrected
FROM
(
    SELECT
        *,
        [lagInFrame(at_end, 1, 'none') OVER days, of_day[1], of_day[2]] AS froms,
        [of_day[1], of_day[2], at_end] AS tos
    FROM stages
    WINDOW days AS (PARTITION BY fan, creator_id, platform, partition ORDER BY turn ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW)
)
ARRAY JOIN [0, 1, 2] AS step, froms AS from_stage, tos AS to_stage
WHERE from_stage != to_stage
