-- Fan lifecycle: what is known of each fan of each creator, and every move from stage to stage. Rows are absolute: of
-- several with one key the highest applied is right. Read the tables FINAL, or through the views.

ALTER TABLE checkpoints ADD COLUMN IF NOT EXISTS inputs String COMMENT 'Of agents on a topic that gathers others: for each of those how far it is counted in, the first offset that is not and the event time reached (UTC ms), as JSON; empty for agents on source topics' AFTER parameters;

CREATE TABLE IF NOT EXISTS fan_state
(
    partition UInt16 COMMENT 'Kafka partition; all of a fan is in the partition of one number',
    platform LowCardinality(String) COMMENT 'Platform: douyin or kuaishou',
    creator_id String COMMENT 'Creator',
    fan UInt64 COMMENT 'Keyed hash of the fan id; a fan of two creators has a row for each',
    first_at DateTime64(3, 'UTC') COMMENT 'First action of the fan ever; 1970-01-01: none yet, only an unfollow is known',
    days Array(Date) COMMENT 'Local calendar days with an action or an unfollow, in order; when the row was written, all that the stages of the last 64 days depend on',
    firsts Array(DateTime64(3, 'UTC')) COMMENT 'First action of each of these days; 1970-01-01: none, only an unfollow',
    lasts Array(DateTime64(3, 'UTC')) COMMENT 'Latest action of each day that matters here: later than any unfollow of the day if there was such a one, else anywhere on the day; for the last action itself ask the events',
    unfollows Array(DateTime64(3, 'UTC')) COMMENT 'Latest unfollow of each day; 1970-01-01: none',
    too_old UInt32 COMMENT 'Events that came when their day was more than 63 days back: not counted in',
    fold_version UInt16 COMMENT 'Version of the definition; the views read the one in force',
    applied Int64 COMMENT 'Offset in the topic fan_facts up to which the row is true; of rows with one key the highest is right'
)
ENGINE = ReplacingMergeTree(applied)
PARTITION BY partition
ORDER BY (creator_id, platform, fan, partition, fold_version)
COMMENT 'What the stages are computed from: the active days of each fan of each creator over the last 64 days. For the stage itself: fan_stage_now.';

CREATE TABLE IF NOT EXISTS fan_transitions
(
    partition UInt16 COMMENT 'Kafka partition; all of a fan is in the partition of one number',
    platform LowCardinality(String) COMMENT 'Platform: douyin or kuaishou',
    creator_id String COMMENT 'Creator',
    fan UInt64 COMMENT 'Keyed hash of the fan id; a fan of two creators has moves for each',
    day Date COMMENT 'Local calendar day of the move',
    step UInt8 COMMENT 'When on that day, each at most one move: 0 at the midnight that begins it, by the passing of time; 1 at the first action; 2 by an unfollow that no action follows',
    from_stage Enum8('none' = 0, 'new' = 1, 'active' = 2, 'retained' = 3, 'silent' = 4, 'churned' = 5) COMMENT 'Stage before the move; none: no fan yet',
    to_stage Enum8('none' = 0, 'new' = 1, 'active' = 2, 'retained' = 3, 'silent' = 4, 'churned' = 5) COMMENT 'Stage after it: new, active, retained, silent or churned; by the times of events, never by when it was computed',
    at DateTime64(3, 'UTC') COMMENT 'When it came true: the local midnight, the first action of the day, or the unfollow',
    reason LowCardinality(String) COMMENT 'Why: arrived and returned, by an action; unfollowed; absent, too long without an action; aged, no longer new; faded, between active and retained as earlier days fall out of the intervals or into them',
    resurrected UInt8 COMMENT '1: returned after at least the active interval (FANPULSE_ACTIVE_INTERVAL) without an action',
    withdrawn UInt8 COMMENT '1: it is no longer true, for an event that came later showed otherwise; leave it out',
    fold_version UInt16 COMMENT 'Version of the definition; the views read the one in force',
    applied Int64 COMMENT 'Offset in the topic fan_facts up to which the row is true; of rows with one key the highest is right'
)
ENGINE = ReplacingMergeTree(applied)
PARTITION BY toYYYYMM(day)
ORDER BY (creator_id, day, platform, fan, step, partition, fold_version)
SETTINGS index_granularity = 1024
COMMENT 'Every move of a fan of a creator from one stage to another. Read it FINAL, with withdrawn = 0 and fold_version = 1.';

CREATE OR REPLACE VIEW fan_moves
(
    platform LowCardinality(String) COMMENT 'Platform: douyin or kuaishou',
    creator_id String COMMENT 'Creator',
    day Date COMMENT 'Local calendar day',
    step UInt8 COMMENT 'When on that day: 0 at the midnight that begins it, 1 at the first action, 2 by an unfollow that no action follows',
    from_stage Enum8('none' = 0, 'new' = 1, 'active' = 2, 'retained' = 3, 'silent' = 4, 'churned' = 5) COMMENT 'Stage before; none: no fan yet',
    to_stage Enum8('none' = 0, 'new' = 1, 'active' = 2, 'retained' = 3, 'silent' = 4, 'churned' = 5) COMMENT 'Stage after',
    reason LowCardinality(String) COMMENT 'Why: arrived, returned, unfollowed, absent, aged or faded, as in fan_transitions',
    resurrected UInt8 COMMENT '1: returned after at least the active interval without an action',
    fans UInt64 COMMENT 'Fans who moved so'
)
AS SELECT platform, creator_id, day, step, from_stage, to_stage, reason, resurrected, count() AS fans
FROM fan_transitions FINAL
WHERE withdrawn = 0 AND fold_version = 1
GROUP BY platform, creator_id, day, step, from_stage, to_stage, reason, resurrected
COMMENT 'How many fans moved from which stage to which, by creator and local day.';

CREATE OR REPLACE VIEW fan_stage_now
(
    platform LowCardinality(String) COMMENT 'Platform: douyin or kuaishou',
    creator_id String COMMENT 'Creator',
    fan UInt64 COMMENT 'Keyed hash of the fan id',
    stage Enum8('none' = 0, 'new' = 1, 'active' = 2, 'retained' = 3, 'silent' = 4, 'churned' = 5) COMMENT 'Stage of the fan: new, active, retained, silent or churned',
    since DateTime64(3, 'UTC') COMMENT 'When the fan moved there',
    reason LowCardinality(String) COMMENT 'By what: arrived, returned, unfollowed, absent, aged or faded, as in fan_transitions',
    resurrected UInt8 COMMENT '1: by an action after at least the active interval without one'
)
AS SELECT
    platform,
    creator_id,
    fan,
    argMax(to_stage, moment) AS stage,
    argMax(at, moment) AS since,
    argMax(reason, moment) AS reason,
    argMax(resurrected, moment) AS resurrected
FROM
(
    SELECT *, toUInt32(day) * 4 + step AS moment
    FROM fan_transitions FINAL
    WHERE withdrawn = 0 AND fold_version = 1
)
GROUP BY platform, creator_id, fan
COMMENT 'The present stage of every fan of every creator, as of the local day that the stream has reached.';

CREATE OR REPLACE VIEW fan_stage_days
(
    platform LowCardinality(String) COMMENT 'Platform: douyin or kuaishou',
    creator_id String COMMENT 'Creator',
    day Date COMMENT 'Local calendar day: every one from the first move of the fans of the creator to the last',
    stage Enum8('none' = 0, 'new' = 1, 'active' = 2, 'retained' = 3, 'silent' = 4, 'churned' = 5) COMMENT 'Stage: new, active, retained, silent or churned',
    fans Int64 COMMENT 'Fans in that stage at the end of the day; over the stages they add up to all fans ever seen by then'
)
AS SELECT platform, creator_id, toDate(every) AS day, stage, fans
FROM
(
    SELECT
        platform,
        creator_id,
        stage,
        number,
        sum(change) OVER (PARTITION BY platform, creator_id, stage ORDER BY number) AS fans,
        leadInFrame(number, 1, toUInt16(number + 1)) OVER (PARTITION BY platform, creator_id, stage ORDER BY number ROWS BETWEEN CURRENT ROW AND 1 FOLLOWING) AS following
    FROM
    (
        SELECT
            platform,
            creator_id,
            stage,
            toUInt16(day) AS number,
            sum(toInt64(fans) * ((to_stage = stage) - (from_stage = stage))) AS change
        FROM fan_moves
        ARRAY JOIN CAST(['new', 'active', 'retained', 'silent', 'churned'], 'Array(Enum8(\'none\' = 0, \'new\' = 1, \'active\' = 2, \'retained\' = 3, \'silent\' = 4, \'churned\' = 5))') AS stage
        GROUP BY platform, creator_id, stage, number
    )
)
-- Days without a move are like the last day that had one.
ARRAY JOIN range(number, following) AS every
COMMENT 'How many fans of each creator were in which stage at the end of each local day.';

CREATE OR REPLACE VIEW fan_churn_days
(
    platform LowCardinality(String) COMMENT 'Platform: douyin or kuaishou',
    creator_id String COMMENT 'Creator',
    day Date COMMENT 'Local calendar day: every one from the first move of the fans of the creator to the last',
    fans_at_start Int64 COMMENT 'Fans who were not churned when the day before ended',
    churned Int64 COMMENT 'Moves to churned on the day, by absence at its midnight or by unfollow',
    unfollowed Int64 COMMENT 'Of them those by unfollow',
    arrived Int64 COMMENT 'New fans: those whose first action it was',
    returned Int64 COMMENT 'Fans who came back from silent or churned',
    idle_at_start Int64 COMMENT 'Fans who were silent or churned when the day before ended',
    churn_rate Nullable(Float64) COMMENT 'churned / fans_at_start; NULL without fans at the start. Who comes and unfollows on one day is in the churned alone',
    reactivation_rate Nullable(Float64) COMMENT 'returned / idle_at_start; NULL without idle fans at the start'
)
AS SELECT
    platform,
    creator_id,
    toDate(every) AS day,
    present - if(every = number, present_change, 0) AS fans_at_start,
    if(every = number, fans_churned, 0) AS churned,
    if(every = number, fans_unfollowed, 0) AS unfollowed,
    if(every = number, fans_arrived, 0) AS arrived,
    if(every = number, fans_returned, 0) AS returned,
    idle - if(every = number, idle_change, 0) AS idle_at_start,
    churned / nullIf(fans_at_start, 0) AS churn_rate,
    returned / nullIf(idle_at_start, 0) AS reactivation_rate
FROM
(
    SELECT
        *,
        sum(present_change) OVER (PARTITION BY platform, creator_id ORDER BY number) AS present,
        sum(idle_change) OVER (PARTITION BY platform, creator_id ORDER BY number) AS idle,
        leadInFrame(number, 1, toUInt16(number + 1)) OVER (PARTITION BY platform, creator_id ORDER BY number ROWS BETWEEN CURRENT ROW AND 1 FOLLOWING) AS following
    FROM
    (
        SELECT
            platform,
            creator_id,
            toUInt16(day) AS number,
            sum(toInt64(fans) * ((to_stage != 'churned') - (from_stage NOT IN ('none', 'churned')))) AS present_change,
            sum(toInt64(fans) * ((to_stage IN ('silent', 'churned')) - (from_stage IN ('silent', 'churned')))) AS idle_change,
            toInt64(sumIf(fans, to_stage = 'churned')) AS fans_churned,
            toInt64(sumIf(fans, reason = 'unfollowed')) AS fans_unfollowed,
            toInt64(sumIf(fans, reason = 'arrived')) AS fans_arrived,
            toInt64(sumIf(fans, reason = 'returned')) AS fans_returned
        FROM fan_moves
        GROUP BY platform, creator_id, number
    )
)
-- Days without a move begin as the last day that had one ended.
ARRAY JOIN range(number, following) AS every
COMMENT 'Churn and return of the fans of each creator by local day, with the rates that alerts look at.';
