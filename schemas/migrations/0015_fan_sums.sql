-- Sums of fans by day, so that boards of all creators answer at once: of moves, of every closed day that nothing was
-- written to since; of features, as of the last refresh. Workers keep them (fanpulse refresh does it by hand).

CREATE TABLE IF NOT EXISTS fan_move_writes
(
    day Date COMMENT 'Local calendar day of moves',
    rows SimpleAggregateFunction(sum, UInt64) COMMENT 'Rows ever written to fan_transitions of the day, those of replays too: another number now than before says that something was written, and nothing else',
    written_at SimpleAggregateFunction(max, DateTime('UTC')) COMMENT 'When one was last written'
)
ENGINE = AggregatingMergeTree
ORDER BY day
COMMENT 'Whether something was written to a local day of fan_transitions.';

CREATE MATERIALIZED VIEW IF NOT EXISTS fan_move_writes_kept TO fan_move_writes
AS SELECT day, count() AS rows, now('UTC') AS written_at
FROM fan_transitions
GROUP BY day
COMMENT 'Writes fan_move_writes whenever fan_transitions is written.';

INSERT INTO fan_move_writes
SELECT day, count() AS rows, now('UTC') AS written_at
FROM fan_transitions
GROUP BY day;

CREATE TABLE IF NOT EXISTS fan_move_counts
(
    platform LowCardinality(String) COMMENT 'Platform: douyin or kuaishou',
    creator_id String COMMENT 'Creator',
    day Date COMMENT 'Local calendar day',
    writes UInt64 COMMENT 'Rows of fan_move_writes of the day when it was counted; of a day only those counted last are right',
    step UInt8 COMMENT 'When on that day: 0 at the midnight that begins it, 1 at the first action, 2 by an unfollow that no action follows',
    from_stage Enum8('none' = 0, 'new' = 1, 'active' = 2, 'retained' = 3, 'silent' = 4, 'churned' = 5) COMMENT 'Stage before; none: no fan yet',
    to_stage Enum8('none' = 0, 'new' = 1, 'active' = 2, 'retained' = 3, 'silent' = 4, 'churned' = 5) COMMENT 'Stage after',
    reason LowCardinality(String) COMMENT 'Why: arrived, returned, unfollowed, absent, aged or faded, as in fan_transitions',
    resurrected UInt8 COMMENT '1: returned after at least the active interval without an action',
    fans UInt64 COMMENT 'Fans who moved so'
)
ENGINE = ReplacingMergeTree
PARTITION BY toYYYYMM(day)
ORDER BY (creator_id, day, platform, writes, step, from_stage, to_stage, reason, resurrected)
COMMENT 'Moves of days that are over, counted once. Read fan_moves instead, which knows which of them hold.';

CREATE TABLE IF NOT EXISTS fan_move_days
(
    day Date COMMENT 'Local calendar day',
    writes UInt64 COMMENT 'Rows of fan_move_writes of the day when it was counted',
    counted_at DateTime64(3, 'UTC') COMMENT 'When all its rows of fan_move_counts were there'
)
ENGINE = ReplacingMergeTree(writes)
ORDER BY day
COMMENT 'Which local days are whole in fan_move_counts. One holds as long as fan_move_writes has the same rows.';

CREATE OR REPLACE VIEW fan_moves_uncounted
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
COMMENT 'The definition of fan_moves: the same figures, of every day counted anew.';

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
AS WITH
    -- Asked once in a query, so that no day is in both parts or in none.
    (
        SELECT (groupArrayIf((day, written), written = counted), groupArrayIf(day, written != counted))
        FROM
        (
            SELECT day, sum(rows) AS written, sum(writes) AS counted
            FROM
            (
                SELECT day, toUInt64(rows) AS rows, toUInt64(0) AS writes
                FROM fan_move_writes
                UNION ALL
                SELECT day, toUInt64(0) AS rows, writes
                FROM fan_move_days FINAL
            )
            GROUP BY day
        )
    ) AS days
SELECT platform, creator_id, day, step, from_stage, to_stage, reason, resurrected, fans
FROM fan_move_counts FINAL
WHERE (day, writes) IN (days.1)
UNION ALL
SELECT platform, creator_id, day, step, from_stage, to_stage, reason, resurrected, fans
FROM fan_moves_uncounted
WHERE day IN (days.2)
COMMENT 'How many fans moved from which stage to which, by creator and local day.';

CREATE OR REPLACE VIEW fan_stage_days
(
    platform LowCardinality(String) COMMENT 'Platform: douyin or kuaishou',
    creator_id String COMMENT 'Creator',
    day Date COMMENT 'Local calendar day: every one from the first move of the fans of the creator to the last day on which a fan of any creator moved',
    stage Enum8('none' = 0, 'new' = 1, 'active' = 2, 'retained' = 3, 'silent' = 4, 'churned' = 5) COMMENT 'Stage: new, active, retained, silent or churned',
    fans Int64 COMMENT 'Fans in that stage at the end of the day; over the stages they add up to all fans ever seen by then'
)
AS WITH
    -- For all creators one, so that those whose fans rest are in sums over creators.
    assumeNotNull((SELECT toUInt16(max(day) + 1) FROM fan_moves)) AS latest
SELECT platform, creator_id, toDate(every) AS day, stage, fans
FROM
(
    SELECT
        platform,
        creator_id,
        stage,
        number,
        sum(change) OVER (PARTITION BY platform, creator_id, stage ORDER BY number) AS fans,
        leadInFrame(number, 1, latest) OVER (PARTITION BY platform, creator_id, stage ORDER BY number ROWS BETWEEN CURRENT ROW AND 1 FOLLOWING) AS following
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
    day Date COMMENT 'Local calendar day: every one from the first move of the fans of the creator to the last day on which a fan of any creator moved',
    fans_at_start Int64 COMMENT 'Fans who were not churned when the day before ended',
    churned Int64 COMMENT 'Moves to churned on the day, by absence at its midnight or by unfollow',
    unfollowed Int64 COMMENT 'Of them those by unfollow',
    arrived Int64 COMMENT 'New fans: those whose first action it was',
    returned Int64 COMMENT 'Fans who came back from silent or churned',
    idle_at_start Int64 COMMENT 'Fans who were silent or churned when the day before ended',
    churn_rate Nullable(Float64) COMMENT 'churned / fans_at_start; NULL without fans at the start. Who comes and unfollows on one day is in the churned alone',
    reactivation_rate Nullable(Float64) COMMENT 'returned / idle_at_start; NULL without idle fans at the start'
)
AS WITH
    assumeNotNull((SELECT toUInt16(max(day) + 1) FROM fan_moves)) AS latest
SELECT
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
        leadInFrame(number, 1, latest) OVER (PARTITION BY platform, creator_id ORDER BY number ROWS BETWEEN CURRENT ROW AND 1 FOLLOWING) AS following
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

CREATE TABLE IF NOT EXISTS fan_snapshots
(
    snapshot UInt64 COMMENT 'Number of it: when it was begun, milliseconds since 1970 UTC',
    day Date COMMENT 'Local calendar day of the refresh, which was not over',
    finished_at DateTime64(3, 'UTC') COMMENT 'When all its rows were there'
)
ENGINE = ReplacingMergeTree
ORDER BY snapshot
COMMENT 'Sums over all fans, made at the end of every refresh: the views read those of the newest.';

CREATE TABLE IF NOT EXISTS fan_day_sums
(
    snapshot UInt64 COMMENT 'Which of fan_snapshots',
    platform LowCardinality(String) COMMENT 'Platform: douyin or kuaishou',
    creator_id String COMMENT 'Creator',
    day Date COMMENT 'Local calendar day',
    fans UInt64 COMMENT 'Fans with an action',
    actions UInt64 COMMENT 'Own actions, as in fan_days',
    interactions UInt64 COMMENT 'Of the actions those that speak, give or take part',
    follows UInt64 COMMENT 'Follows',
    unfollows UInt64 COMMENT 'Unfollows',
    gift_micros Int64 COMMENT 'Value of gifts, guards and memberships bought in live rooms, millionths of a yuan',
    order_micros Int64 COMMENT 'Amount of orders paid, millionths of a yuan',
    membership_micros Int64 COMMENT 'Amount of memberships bought in the shop, millionths of a yuan',
    refund_micros Int64 COMMENT 'Amount of refunds, millionths of a yuan',
    hour_actions Array(UInt64) COMMENT 'Actions in the local hours 0 to 23, one that the clock repeats counting twice'
)
ENGINE = ReplacingMergeTree
PARTITION BY snapshot
ORDER BY (creator_id, day, platform)
COMMENT 'Features of all fans of a creator together, by local day. Read fan_activity_days.';

CREATE TABLE IF NOT EXISTS fan_portrait_counts
(
    snapshot UInt64 COMMENT 'Which of fan_snapshots',
    platform LowCardinality(String) COMMENT 'Platform: douyin or kuaishou',
    creator_id String COMMENT 'Creator',
    day Date COMMENT 'Local day of the first action',
    dimension LowCardinality(String) COMMENT 'gender, age_band, region or interest; each adds up to all fans',
    value LowCardinality(String) COMMENT 'Value of it, the latest known of a fan; empty: unknown',
    fans UInt64 COMMENT 'Fans who arrived on the day',
    active UInt64 COMMENT 'Of them those now active: stage new, active or retained'
)
ENGINE = ReplacingMergeTree
PARTITION BY snapshot
ORDER BY (creator_id, dimension, value, day, platform)
COMMENT 'Who the fans are, by the local day on which they came. Read fan_portrait and fan_growth_portrait.';

CREATE TABLE IF NOT EXISTS fan_cohort_counts
(
    snapshot UInt64 COMMENT 'Which of fan_snapshots',
    platform LowCardinality(String) COMMENT 'Platform: douyin or kuaishou',
    creator_id String COMMENT 'Creator',
    week Date COMMENT 'Monday of the local week of the first action',
    by LowCardinality(String) COMMENT 'What the fans of a week are told apart by, as in fan_cohorts',
    value String COMMENT 'Which of it brought them',
    fans UInt64 COMMENT 'Fans who arrived',
    retained_1 UInt64 COMMENT 'Of them those with an action on the local day after, so far',
    retained_7 UInt64 COMMENT 'The same 7 days after',
    retained_14 UInt64 COMMENT 'The same 14 days after',
    retained_30 UInt64 COMMENT 'The same 30 days after',
    returned_1 UInt64 COMMENT 'Those with an action 1 day after arriving or on any later day, so far',
    returned_7 UInt64 COMMENT 'The same from 7 days after',
    returned_14 UInt64 COMMENT 'The same from 14 days after',
    returned_30 UInt64 COMMENT 'The same from 30 days after'
)
ENGINE = ReplacingMergeTree
PARTITION BY snapshot
ORDER BY (by, creator_id, week, value, platform)
COMMENT 'Cohorts of fans. Read fan_cohorts, which knows what is over.';

CREATE TABLE IF NOT EXISTS fan_value_counts
(
    snapshot UInt64 COMMENT 'Which of fan_snapshots',
    platform LowCardinality(String) COMMENT 'Platform: douyin or kuaishou',
    creator_id String COMMENT 'Creator',
    label LowCardinality(String) COMMENT 'tier or tag',
    value LowCardinality(String) COMMENT 'low, middle or high; or active, high_value, iron, potential',
    fans UInt64 COMMENT 'Fans who have it'
)
ENGINE = ReplacingMergeTree
PARTITION BY snapshot
ORDER BY (creator_id, label, value, platform)
COMMENT 'How many fans have which tier and which tag. Read fan_value_shares.';

CREATE OR REPLACE VIEW fan_activity_days
(
    platform LowCardinality(String) COMMENT 'Platform: douyin or kuaishou',
    creator_id String COMMENT 'Creator',
    day Date COMMENT 'Local calendar day',
    fans UInt64 COMMENT 'Fans with an action',
    actions UInt64 COMMENT 'Own actions, as in fan_days',
    interactions UInt64 COMMENT 'Of the actions those that speak, give or take part',
    follows UInt64 COMMENT 'Follows',
    unfollows UInt64 COMMENT 'Unfollows',
    contribution_micros Int64 COMMENT 'gift_micros + order_micros + membership_micros - refund_micros',
    gift_micros Int64 COMMENT 'Value of gifts, guards and memberships bought in live rooms, millionths of a yuan',
    order_micros Int64 COMMENT 'Amount of orders paid, millionths of a yuan',
    membership_micros Int64 COMMENT 'Amount of memberships bought in the shop, millionths of a yuan',
    refund_micros Int64 COMMENT 'Amount of refunds, millionths of a yuan',
    hour_actions Array(UInt64) COMMENT 'Actions in the local hours 0 to 23, one that the clock repeats counting twice'
)
AS SELECT
    platform,
    creator_id,
    day,
    fans,
    actions,
    interactions,
    follows,
    unfollows,
    gift_micros + order_micros + membership_micros - refund_micros AS contribution_micros,
    gift_micros,
    order_micros,
    membership_micros,
    refund_micros,
    hour_actions
FROM fan_day_sums FINAL
WHERE snapshot = (SELECT max(snapshot) FROM fan_snapshots)
COMMENT 'What the fans of a creator did, together, by local day. As of the last refresh; of single fans: fan_days.';

CREATE OR REPLACE VIEW fan_value_shares
(
    platform LowCardinality(String) COMMENT 'Platform: douyin or kuaishou',
    creator_id String COMMENT 'Creator',
    label LowCardinality(String) COMMENT 'tier: every fan has one; tag: a fan has any number',
    value LowCardinality(String) COMMENT 'low, middle or high; or active, high_value, iron, potential',
    fans UInt64 COMMENT 'Fans who have it',
    share Float64 COMMENT 'Of all fans of the creator'
)
AS SELECT
    platform,
    creator_id,
    label,
    value,
    fans,
    fans / sumIf(fans, label = 'tier') OVER (PARTITION BY platform, creator_id) AS share
FROM fan_value_counts FINAL
WHERE snapshot = (SELECT max(snapshot) FROM fan_snapshots)
COMMENT 'How many fans of each creator have which tier and which tag. As of the last refresh; of single fans: fan_value_now.';

CREATE OR REPLACE VIEW fan_cohorts
(
    platform LowCardinality(String) COMMENT 'Platform: douyin or kuaishou',
    creator_id String COMMENT 'Creator',
    week Date COMMENT 'Monday of the local week of the first action',
    by LowCardinality(String) COMMENT 'What the fans of a week are told apart by: all, source, content, campaign or audience; each adds up to all',
    value String COMMENT 'Which traffic source, video, campaign or audience brought them, as fan_profiles says; empty: none, and for all',
    fans UInt64 COMMENT 'Fans who arrived',
    retained_1 Nullable(UInt64) COMMENT 'Of them those with an action on the local day after the one they arrived on; NULL until that day is over for all of the week',
    retained_7 Nullable(UInt64) COMMENT 'The same 7 days after',
    retained_14 Nullable(UInt64) COMMENT 'The same 14 days after',
    retained_30 Nullable(UInt64) COMMENT 'The same 30 days after',
    retention_1 Nullable(Float64) COMMENT 'retained_1 / fans: retention on day 1',
    retention_7 Nullable(Float64) COMMENT 'retained_7 / fans',
    retention_14 Nullable(Float64) COMMENT 'retained_14 / fans',
    retention_30 Nullable(Float64) COMMENT 'retained_30 / fans',
    returning_1 Nullable(Float64) COMMENT 'Share with an action 1 day after arriving or on any later day; it grows for as long as fans come back, so compare only cohorts of one age',
    returning_7 Nullable(Float64) COMMENT 'The same from 7 days after',
    returning_14 Nullable(Float64) COMMENT 'The same from 14 days after',
    returning_30 Nullable(Float64) COMMENT 'The same from 30 days after'
)
AS WITH
    (SELECT (max(snapshot), argMax(day, snapshot)) FROM fan_snapshots) AS newest,
    -- The day of the refresh was not over. Who arrives on the Sunday has day n on week + 6 + n.
    newest.2 AS today
SELECT
    platform,
    creator_id,
    week,
    by,
    value,
    counts.fans AS fans,
    if(week + 7 < today, counts.retained_1, NULL) AS retained_1,
    if(week + 13 < today, counts.retained_7, NULL) AS retained_7,
    if(week + 20 < today, counts.retained_14, NULL) AS retained_14,
    if(week + 36 < today, counts.retained_30, NULL) AS retained_30,
    retained_1 / fans AS retention_1,
    retained_7 / fans AS retention_7,
    retained_14 / fans AS retention_14,
    retained_30 / fans AS retention_30,
    if(week + 7 < today, returned_1 / fans, NULL) AS returning_1,
    if(week + 13 < today, returned_7 / fans, NULL) AS returning_7,
    if(week + 20 < today, returned_14 / fans, NULL) AS returning_14,
    if(week + 36 < today, returned_30 / fans, NULL) AS returning_30
FROM fan_cohort_counts AS counts FINAL
WHERE snapshot = newest.1
COMMENT 'Retention of the fans who arrived in a local week, all of them and by what brought them. Each line is a cohort. As of the last refresh.';

CREATE OR REPLACE VIEW fan_portrait
(
    platform LowCardinality(String) COMMENT 'Platform: douyin or kuaishou',
    creator_id String COMMENT 'Creator',
    dimension LowCardinality(String) COMMENT 'gender, age_band, region or interest; each adds up to all fans',
    value LowCardinality(String) COMMENT 'Value of it, the latest known of a fan; empty: unknown',
    fans UInt64 COMMENT 'Fans ever seen',
    share Float64 COMMENT 'Of all fans of the creator',
    active UInt64 COMMENT 'Of the fans those now active: stage new, active or retained',
    active_share Nullable(Float64) COMMENT 'Of the active fans of the creator; NULL without any'
)
AS SELECT
    platform,
    creator_id,
    dimension,
    value,
    sum(counts.fans) AS fans,
    fans / sum(sum(counts.fans)) OVER (PARTITION BY platform, creator_id, dimension) AS share,
    sum(counts.active) AS active,
    active / nullIf(sum(sum(counts.active)) OVER (PARTITION BY platform, creator_id, dimension), 0) AS active_share
FROM fan_portrait_counts AS counts FINAL
WHERE snapshot = (SELECT max(snapshot) FROM fan_snapshots)
GROUP BY platform, creator_id, dimension, value
COMMENT 'Who the fans of each creator are: by gender, age band, region and interest, all of them and those now active. As of the last refresh.';

CREATE OR REPLACE VIEW fan_growth_portrait
(
    platform LowCardinality(String) COMMENT 'Platform: douyin or kuaishou',
    creator_id String COMMENT 'Creator',
    day Date COMMENT 'Local day of the first action; for weeks group by toMonday(day)',
    dimension LowCardinality(String) COMMENT 'gender, age_band, region or interest; each adds up to all who arrived',
    value LowCardinality(String) COMMENT 'Value of it, the latest known of a fan; empty: unknown',
    arrived UInt64 COMMENT 'New fans'
)
AS SELECT platform, creator_id, day, dimension, value, fans AS arrived
FROM fan_portrait_counts FINAL
WHERE snapshot = (SELECT max(snapshot) FROM fan_snapshots)
COMMENT 'Who the new fans of each local day are: by gender, age band, region and interest. As of the last refresh.';

CREATE OR REPLACE VIEW fan_heat_map
(
    platform LowCardinality(String) COMMENT 'Platform: douyin or kuaishou',
    creator_id String COMMENT 'Creator',
    weekday UInt8 COMMENT 'Local day of the week: 1 Monday to 7 Sunday',
    hour UInt8 COMMENT 'Local hour, 0 to 23; one that the clock repeats counts twice, one that it leaves out is empty',
    actions UInt64 COMMENT 'Actions of fans in the 28 days before the day of the last refresh: four of each weekday',
    share Float64 COMMENT 'Of all these actions'
)
AS WITH
    (SELECT (max(snapshot), argMax(day, snapshot)) FROM fan_snapshots) AS newest
SELECT
    platform,
    creator_id,
    toUInt8(intDiv(cell, 24) + 1) AS weekday,
    toUInt8(cell % 24) AS hour,
    week[cell + 1] AS actions,
    actions / arraySum(week) AS share
FROM
(
    SELECT
        platform,
        creator_id,
        arrayFlatten(arrayMap(weekday -> arrayResize(sums[weekday], 24), range(1, 8))) AS week,
        [
            sumForEachIf(hour_actions, toDayOfWeek(day) = 1),
            sumForEachIf(hour_actions, toDayOfWeek(day) = 2),
            sumForEachIf(hour_actions, toDayOfWeek(day) = 3),
            sumForEachIf(hour_actions, toDayOfWeek(day) = 4),
            sumForEachIf(hour_actions, toDayOfWeek(day) = 5),
            sumForEachIf(hour_actions, toDayOfWeek(day) = 6),
            sumForEachIf(hour_actions, toDayOfWeek(day) = 7)
        ] AS sums
    FROM fan_day_sums FINAL
    WHERE snapshot = newest.1 AND actions > 0 AND day < newest.2 AND day >= newest.2 - 28
    GROUP BY platform, creator_id
)
ARRAY JOIN range(168) AS cell
COMMENT 'When the fans of each creator are there: hour by weekday, all 168 cells, over four weeks. As of the last refresh.';

CREATE OR REPLACE VIEW fan_growth_days
(
    platform LowCardinality(String) COMMENT 'Platform: douyin or kuaishou',
    creator_id String COMMENT 'Creator',
    day Date COMMENT 'Local calendar day: every one from the first move of the fans of the creator to the last day on which a fan of any creator moved',
    fans Int64 COMMENT 'Fans at the end of the day: all ever seen but the churned',
    ever Int64 COMMENT 'Fans ever seen by then',
    arrived Int64 COMMENT 'New fans',
    recovered Int64 COMMENT 'Churned fans who came back',
    churned Int64 COMMENT 'Fans who churned: by absence or by unfollow',
    net Int64 COMMENT 'arrived + recovered - churned: how much fans has grown',
    follows UInt64 COMMENT 'Follows, as of the last refresh',
    unfollows UInt64 COMMENT 'Unfollows, as of the last refresh'
)
AS SELECT
    platform,
    creator_id,
    day,
    sum(fans_here) AS fans,
    sum(fans_ever) AS ever,
    sum(fans_arrived) AS arrived,
    sum(fans_recovered) AS recovered,
    sum(fans_churned) AS churned,
    arrived + recovered - churned AS net,
    sum(times_followed) AS follows,
    sum(times_left) AS unfollows
FROM
(
    SELECT
        platform,
        creator_id,
        day,
        fans * (stage != 'churned') AS fans_here,
        fans AS fans_ever,
        0 AS fans_arrived,
        0 AS fans_recovered,
        0 AS fans_churned,
        0 AS times_followed,
        0 AS times_left
    FROM fan_stage_days
    UNION ALL
    SELECT
        platform,
        creator_id,
        day,
        0 AS fans_here,
        0 AS fans_ever,
        toInt64(fans) * (from_stage = 'none') AS fans_arrived,
        toInt64(fans) * (from_stage = 'churned' AND to_stage != 'churned') AS fans_recovered,
        toInt64(fans) * (to_stage = 'churned' AND from_stage NOT IN ('churned', 'none')) AS fans_churned,
        0 AS times_followed,
        0 AS times_left
    FROM fan_moves
    UNION ALL
    SELECT
        platform,
        creator_id,
        day,
        0 AS fans_here,
        0 AS fans_ever,
        0 AS fans_arrived,
        0 AS fans_recovered,
        0 AS fans_churned,
        fan_activity_days.follows AS times_followed,
        fan_activity_days.unfollows AS times_left
    FROM fan_activity_days
)
GROUP BY platform, creator_id, day
-- Features may be a few minutes ahead of the moves, and have a fan who only unfollowed.
HAVING ever > 0
COMMENT 'How the number of fans of each creator developed by local day.';
