-- What fans are worth, who they are and how they stay: features of each fan of each creator by local day, kept fresh by
-- the workers (fanpulse refresh does it by hand), and views of them. Rows are absolute and only grow: of several with
-- one key the one with the most events is right. Read the tables FINAL, or through the views.

CREATE TABLE IF NOT EXISTS fan_settings
(
    time_zone LowCardinality(String) COMMENT 'Zone of local days and hours (FANPULSE_TIME_ZONE)',
    active_interval UInt16 COMMENT 'Days within which a fan who acted is active (FANPULSE_ACTIVE_INTERVAL)',
    no_activity Array(String) COMMENT 'Kinds of events that are no action of the fan (FANPULSE_NO_ACTIVITY)',
    badge_micros Array(Int64) COMMENT 'Contribution from which a badge has level 1, 2, 3 ..., millionths of a yuan, rising',
    policy String COMMENT 'All thresholds of badges, tiers and tags (FANPULSE_VALUE_POLICY), JSON; docs/fans.md explains them',
    written_at DateTime64(3, 'UTC') COMMENT 'When a worker or a refresh found these settings; the newest row is in force'
)
ENGINE = MergeTree
ORDER BY written_at
COMMENT 'Settings that views of fans read, with when they changed. Workers write it; to change a setting change the environment.';

CREATE TABLE IF NOT EXISTS fan_days
(
    platform LowCardinality(String) COMMENT 'Platform: douyin or kuaishou',
    creator_id String COMMENT 'Creator',
    fan UInt64 COMMENT 'Keyed hash of the fan id; a fan of two creators has rows for each',
    day Date COMMENT 'Local calendar day (time zone: setting FANPULSE_TIME_ZONE)',
    actions UInt32 COMMENT 'Own actions: all events but those of FANPULSE_NO_ACTIVITY; 0 on a day with only an unfollow or a refund',
    interactions UInt32 COMMENT 'Of the actions those that speak, give or take part: kinds listed under interactions in schemas/value.json',
    plays UInt32 COMMENT 'Plays of videos',
    watch_ms UInt64 COMMENT 'Time watched in these plays, milliseconds',
    likes UInt32 COMMENT 'Likes of videos',
    comments UInt32 COMMENT 'Comments under videos',
    shares UInt32 COMMENT 'Shares of videos',
    favorites UInt32 COMMENT 'Videos put among the favorites',
    follows UInt32 COMMENT 'Times the fan followed',
    unfollows UInt32 COMMENT 'Times the fan left',
    live_entries UInt32 COMMENT 'Entries into live rooms',
    stay_ms UInt64 COMMENT 'Time stayed in live rooms that were left, milliseconds',
    live_comments UInt32 COMMENT 'Comments in live rooms',
    group_messages UInt32 COMMENT 'Messages in fan groups',
    group_actions UInt32 COMMENT 'Votes, check-ins, welfare claims and link clicks in fan groups',
    product_clicks UInt32 COMMENT 'Product cards clicked',
    ad_touches UInt32 COMMENT 'Advertisements clicked or played',
    gifts UInt32 COMMENT 'Gifts, guards and memberships bought in live rooms, those of value 0 too',
    gift_micros Int64 COMMENT 'Their value, millionths of a yuan',
    orders UInt32 COMMENT 'Orders paid',
    order_micros Int64 COMMENT 'Amount of them, millionths of a yuan',
    memberships UInt32 COMMENT 'Memberships bought in the shop',
    membership_micros Int64 COMMENT 'Amount of them, millionths of a yuan',
    refunds UInt32 COMMENT 'Refunds; on the day of the refund, not of the order',
    refund_micros Int64 COMMENT 'Amount of them, millionths of a yuan; contribution takes it away',
    first_action DateTime64(3, 'UTC') COMMENT 'First action of the day; 1970-01-01: none',
    last_action DateTime64(3, 'UTC') COMMENT 'Last action of the day; 1970-01-01: none',
    last_unfollow DateTime64(3, 'UTC') COMMENT 'Last unfollow of the day; 1970-01-01: none',
    content_id String COMMENT 'Video of the first action of the day; empty: none. On the first day it says what brought the fan',
    source LowCardinality(String) COMMENT 'Traffic source of the first action of the day, ad if that is an event of an advertisement; empty: none is known',
    campaign_id String COMMENT 'Campaign of the latest advertisement that the fan clicked or played in the 24 hours up to the first action of the day; empty: none',
    audience LowCardinality(String) COMMENT 'Targeting label of that advertisement; empty: none',
    gender LowCardinality(String) COMMENT 'Latest gender that the events of the day say; empty: none',
    age_band LowCardinality(String) COMMENT 'Latest age band that the events of the day say; empty: none',
    region LowCardinality(String) COMMENT 'Latest region that the events of the day say; empty: none',
    interest LowCardinality(String) COMMENT 'Latest main interest that the events of the day say; empty: none',
    hours Array(UInt8) COMMENT 'Local hours, 0 to 23, with an action, rising',
    hour_actions Array(UInt32) COMMENT 'Actions in each of these hours',
    events UInt64 COMMENT 'Events that the row holds; ad impressions are left out where they are no action. Of rows with one key the highest is right'
)
ENGINE = ReplacingMergeTree(events)
PARTITION BY toYYYYMM(day)
ORDER BY (creator_id, day, platform, fan)
COMMENT 'What each fan did with each creator on each local day, from the events that count: a row where there was an event other than an ad impression.';

CREATE TABLE IF NOT EXISTS fan_values
(
    platform LowCardinality(String) COMMENT 'Platform: douyin or kuaishou',
    creator_id String COMMENT 'Creator',
    fan UInt64 COMMENT 'Keyed hash of the fan id; a fan of two creators has rows for each',
    day Date COMMENT 'Local calendar day at the end of which it was so; of today: as far as it has gone',
    tier Enum8('low' = 1, 'middle' = 2, 'high' = 3) COMMENT 'Tier by recency, frequency and money',
    tags Array(LowCardinality(String)) COMMENT 'Tags in alphabetical order: active, high_value, iron (long-standing and frequently interacting), potential (frequent, little money)',
    recency_score UInt8 COMMENT 'Points for recency, 1 to 3',
    frequency_score UInt8 COMMENT 'Points for frequency, 1 to 3',
    money_score UInt8 COMMENT 'Points for money, 1 to 3',
    recency_days UInt16 COMMENT 'Days since the last day with an action, on that day',
    active_days UInt16 COMMENT 'Days with an action among the last window_days (30), the day included',
    interactions UInt64 COMMENT 'Interactions on these days, as fan_days counts them',
    money_micros Int64 COMMENT 'Contribution up to the end of the day, millionths of a yuan; below 0: more was refunded than paid',
    tenure_days UInt16 COMMENT 'Days since the first day with an action',
    staying UInt8 COMMENT '1: acted within FANPULSE_ACTIVE_INTERVAL days and has not left since: stage new, active or retained',
    unchanged UInt8 COMMENT '1: tier and tags are those of the row before after all, for an event that came later showed so; leave it out',
    events UInt64 COMMENT 'Events of the fan up to the end of the day that the row was computed from; of rows with one key the highest is right'
)
ENGINE = ReplacingMergeTree(events)
PARTITION BY toYYYYMM(day)
ORDER BY (creator_id, platform, fan, day)
COMMENT 'Tier and tags of each fan of each creator, with the features they follow from: a row for the first day and for every day on which tier or tags changed. The rule is schemas/value.json.';

CREATE TABLE IF NOT EXISTS fan_refreshes
(
    day Date COMMENT 'Local calendar day',
    records UInt64 COMMENT 'Stored records of the day that counted when its features were last computed; about, for some may have been stored twice',
    seen UInt64 COMMENT 'Up to which offsets of each partition they reached, as a hash; another now: the day is due again',
    rows UInt64 COMMENT 'Rows of fan_days that had',
    policy String COMMENT 'Thresholds with which its tiers and tags were computed, JSON; empty: they have not been since features changed',
    worker LowCardinality(String) COMMENT 'Who did the last step: host name and number of the worker, or refresh for the command',
    refreshed_at DateTime64(3, 'UTC') COMMENT 'When its features were last computed; 1970-01-01: not yet',
    written_at DateTime64(3, 'UTC') COMMENT 'When this row was written: the newest is right, and tells other workers that somebody is at it'
)
ENGINE = ReplacingMergeTree(written_at)
ORDER BY day
COMMENT 'Which local days of fan_days and fan_values were computed when, from how much, by whom. The newest day is that of the last refresh.';

CREATE OR REPLACE VIEW fan_contribution
(
    platform LowCardinality(String) COMMENT 'Platform: douyin or kuaishou',
    creator_id String COMMENT 'Creator',
    fan UInt64 COMMENT 'Keyed hash of the fan id',
    contribution_micros Int64 COMMENT 'gift_micros + order_micros + membership_micros - refund_micros, millionths of a yuan; below 0: more was refunded than paid',
    badge_level UInt8 COMMENT 'Level of the badge: how many thresholds of FANPULSE_VALUE_POLICY the contribution reaches; 0: none',
    gifts UInt64 COMMENT 'Gifts, guards and memberships bought in live rooms, those of value 0 too',
    gift_micros Int64 COMMENT 'Their value, millionths of a yuan',
    orders UInt64 COMMENT 'Orders paid',
    order_micros Int64 COMMENT 'Amount of them, millionths of a yuan',
    memberships UInt64 COMMENT 'Memberships bought in the shop',
    membership_micros Int64 COMMENT 'Amount of them, millionths of a yuan',
    refunds UInt64 COMMENT 'Refunds',
    refund_micros Int64 COMMENT 'Amount of them, millionths of a yuan',
    first_at Nullable(DateTime64(3, 'UTC')) COMMENT 'First gift, paid order or membership; NULL: only refunds are known',
    last_at Nullable(DateTime64(3, 'UTC')) COMMENT 'Last of them; NULL: only refunds are known'
)
AS SELECT
    platform,
    creator_id,
    fan,
    gift_micros + order_micros + membership_micros - refund_micros AS contribution_micros,
    arrayCount(threshold -> contribution_micros >= threshold, (SELECT argMax(badge_micros, written_at) FROM fan_settings)) AS badge_level,
    countIf(step = 'gift') AS gifts,
    sumIf(micros, step = 'gift') AS gift_micros,
    countIf(step = 'paid') AS orders,
    sumIf(micros, step = 'paid') AS order_micros,
    countIf(step = 'membership') AS memberships,
    sumIf(micros, step = 'membership') AS membership_micros,
    countIf(step = 'refunded') AS refunds,
    sumIf(micros, step = 'refunded') AS refund_micros,
    minOrNullIf(event_time, step != 'refunded') AS first_at,
    maxOrNullIf(event_time, step != 'refunded') AS last_at
FROM
(
    SELECT platform, creator_id, fan, event_time, 'gift' AS step, value_micros AS micros
    FROM events_gifts
    UNION ALL
    SELECT platform, creator_id, fan, event_time, toString(kind) AS step, amount_micros AS micros
    FROM events_orders
    WHERE kind IN ('paid', 'membership', 'refunded')
)
GROUP BY platform, creator_id, fan
COMMENT 'What each fan has brought each creator, at once from the events: gifts of any kind, orders paid and memberships, less refunds, and the level of the badge.';

CREATE OR REPLACE VIEW fan_profiles
(
    platform LowCardinality(String) COMMENT 'Platform: douyin or kuaishou',
    creator_id String COMMENT 'Creator',
    fan UInt64 COMMENT 'Keyed hash of the fan id',
    first_day Date COMMENT 'Local day of the first action: the arrival',
    last_day Date COMMENT 'Local day of the last action',
    active_days UInt64 COMMENT 'Local days with an action, ever',
    actions UInt64 COMMENT 'Actions, ever',
    content_id String COMMENT 'What brought the fan: video of the first action; empty: none',
    source LowCardinality(String) COMMENT 'Traffic source of the first action, ad if that is an event of an advertisement; empty: none is known',
    campaign_id String COMMENT 'Campaign of the latest advertisement clicked or played in the 24 hours up to the first action; empty: none',
    audience LowCardinality(String) COMMENT 'Targeting label of that advertisement; empty: none',
    gender LowCardinality(String) COMMENT 'Latest known gender; empty: unknown',
    age_band LowCardinality(String) COMMENT 'Latest known age band; empty: unknown',
    region LowCardinality(String) COMMENT 'Latest known region; empty: unknown',
    interest LowCardinality(String) COMMENT 'Latest known main interest; empty: unknown',
    active UInt8 COMMENT '1: acted within FANPULSE_ACTIVE_INTERVAL days of the last refresh and has not left since: stage new, active or retained'
)
AS SELECT
    platform,
    creator_id,
    fan,
    minIf(day, fan_days.actions > 0) AS first_day,
    maxIf(day, fan_days.actions > 0) AS last_day,
    countIf(fan_days.actions > 0) AS active_days,
    sum(fan_days.actions) AS actions,
    argMinIf(fan_days.content_id, day, fan_days.actions > 0) AS content_id,
    argMinIf(fan_days.source, day, fan_days.actions > 0) AS source,
    argMinIf(fan_days.campaign_id, day, fan_days.actions > 0) AS campaign_id,
    argMinIf(fan_days.audience, day, fan_days.actions > 0) AS audience,
    argMaxIf(fan_days.gender, day, fan_days.gender != '') AS gender,
    argMaxIf(fan_days.age_band, day, fan_days.age_band != '') AS age_band,
    argMaxIf(fan_days.region, day, fan_days.region != '') AS region,
    argMaxIf(fan_days.interest, day, fan_days.interest != '') AS interest,
    last_day + (SELECT argMax(active_interval, written_at) FROM fan_settings) > (SELECT max(day) FROM fan_refreshes)
        AND max(last_action) > max(last_unfollow) AS active
FROM fan_days FINAL
GROUP BY platform, creator_id, fan
HAVING active_days > 0
COMMENT 'Every fan of every creator: when they came, what brought them, and what is known of them. As of the last refresh.';

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
    -- The day of the last refresh is not over. Who arrives on the Sunday has day n on week + 6 + n.
    (SELECT max(day) FROM fan_refreshes) AS today
SELECT
    platform,
    creator_id,
    toMonday(first_day) AS week,
    by,
    value,
    count() AS fans,
    if(week + 7 < today, countIf(has(days, first_day + 1)), NULL) AS retained_1,
    if(week + 13 < today, countIf(has(days, first_day + 7)), NULL) AS retained_7,
    if(week + 20 < today, countIf(has(days, first_day + 14)), NULL) AS retained_14,
    if(week + 36 < today, countIf(has(days, first_day + 30)), NULL) AS retained_30,
    retained_1 / fans AS retention_1,
    retained_7 / fans AS retention_7,
    retained_14 / fans AS retention_14,
    retained_30 / fans AS retention_30,
    if(week + 7 < today, countIf(last_day >= first_day + 1) / fans, NULL) AS returning_1,
    if(week + 13 < today, countIf(last_day >= first_day + 7) / fans, NULL) AS returning_7,
    if(week + 20 < today, countIf(last_day >= first_day + 14) / fans, NULL) AS returning_14,
    if(week + 36 < today, countIf(last_day >= first_day + 30) / fans, NULL) AS returning_30
FROM
(
    SELECT
        platform,
        creator_id,
        fan,
        groupArray(day) AS days,
        min(day) AS first_day,
        max(day) AS last_day,
        argMin(source, day) AS first_source,
        argMin(content_id, day) AS first_content,
        argMin(campaign_id, day) AS first_campaign,
        argMin(audience, day) AS first_audience
    FROM fan_days FINAL
    WHERE actions > 0
    GROUP BY platform, creator_id, fan
)
ARRAY JOIN
    ['all', 'source', 'content', 'campaign', 'audience'] AS by,
    ['', toString(first_source), first_content, first_campaign, toString(first_audience)] AS value
GROUP BY platform, creator_id, week, by, value
COMMENT 'Retention of the fans who arrived in a local week, all of them and by what brought them. Each line is a cohort.';

CREATE OR REPLACE VIEW fan_value_now
(
    platform LowCardinality(String) COMMENT 'Platform: douyin or kuaishou',
    creator_id String COMMENT 'Creator',
    fan UInt64 COMMENT 'Keyed hash of the fan id',
    tier Enum8('low' = 1, 'middle' = 2, 'high' = 3) COMMENT 'Tier by recency, frequency and money',
    tags Array(LowCardinality(String)) COMMENT 'Tags in alphabetical order: active, high_value, iron, potential',
    since Date COMMENT 'Local day on which tier or tags became so'
)
AS SELECT
    platform,
    creator_id,
    fan,
    argMax(fan_values.tier, day) AS tier,
    argMax(fan_values.tags, day) AS tags,
    max(day) AS since
FROM fan_values FINAL
WHERE unchanged = 0
GROUP BY platform, creator_id, fan
COMMENT 'Tier and tags of every fan of every creator as of the last refresh.';

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
    count() AS fans,
    fans / sum(count()) OVER (PARTITION BY platform, creator_id, dimension) AS share,
    sum(now_active) AS active,
    active / nullIf(sum(sum(now_active)) OVER (PARTITION BY platform, creator_id, dimension), 0) AS active_share
FROM (SELECT platform, creator_id, gender, age_band, region, interest, fan_profiles.active AS now_active FROM fan_profiles)
ARRAY JOIN
    ['gender', 'age_band', 'region', 'interest'] AS dimension,
    [gender, age_band, region, interest] AS value
GROUP BY platform, creator_id, dimension, value
COMMENT 'Who the fans of each creator are: by gender, age band, region and interest, all of them and those now active.';

CREATE OR REPLACE VIEW fan_growth_days
(
    platform LowCardinality(String) COMMENT 'Platform: douyin or kuaishou',
    creator_id String COMMENT 'Creator',
    day Date COMMENT 'Local calendar day: every one from the first move of the fans of the creator to the last',
    fans Int64 COMMENT 'Fans at the end of the day: all ever seen but the churned',
    ever Int64 COMMENT 'Fans ever seen by then',
    arrived Int64 COMMENT 'New fans',
    recovered Int64 COMMENT 'Churned fans who came back',
    churned Int64 COMMENT 'Fans who churned: by absence or by unfollow',
    net Int64 COMMENT 'arrived + recovered - churned: how much fans has grown',
    follows UInt64 COMMENT 'Follows',
    unfollows UInt64 COMMENT 'Unfollows'
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
        fan_days.follows AS times_followed,
        fan_days.unfollows AS times_left
    FROM fan_days FINAL
)
GROUP BY platform, creator_id, day
-- Features may be a few minutes ahead of the moves, and have a fan who only unfollowed.
HAVING ever > 0
COMMENT 'How the number of fans of each creator developed by local day.';

CREATE OR REPLACE VIEW fan_growth_weeks
(
    platform LowCardinality(String) COMMENT 'Platform: douyin or kuaishou',
    creator_id String COMMENT 'Creator',
    week Date COMMENT 'Monday of the local week',
    days UInt64 COMMENT 'Days of it that are in: fewer than 7 in the first and the last week',
    fans Int64 COMMENT 'Fans at the end of the last of these days: all ever seen but the churned',
    ever Int64 COMMENT 'Fans ever seen by then',
    arrived Int64 COMMENT 'New fans',
    recovered Int64 COMMENT 'Churned fans who came back',
    churned Int64 COMMENT 'Fans who churned: by absence or by unfollow',
    net Int64 COMMENT 'arrived + recovered - churned: how much fans has grown',
    follows UInt64 COMMENT 'Follows',
    unfollows UInt64 COMMENT 'Unfollows'
)
AS SELECT
    platform,
    creator_id,
    toMonday(day) AS week,
    count() AS days,
    argMax(fan_growth_days.fans, day) AS fans,
    argMax(fan_growth_days.ever, day) AS ever,
    sum(fan_growth_days.arrived) AS arrived,
    sum(fan_growth_days.recovered) AS recovered,
    sum(fan_growth_days.churned) AS churned,
    sum(fan_growth_days.net) AS net,
    sum(fan_growth_days.follows) AS follows,
    sum(fan_growth_days.unfollows) AS unfollows
FROM fan_growth_days
GROUP BY platform, creator_id, week
COMMENT 'How the number of fans of each creator developed by local week, from Monday.';

CREATE OR REPLACE VIEW fan_growth_portrait
(
    platform LowCardinality(String) COMMENT 'Platform: douyin or kuaishou',
    creator_id String COMMENT 'Creator',
    day Date COMMENT 'Local day of the first action; for weeks group by toMonday(day)',
    dimension LowCardinality(String) COMMENT 'gender, age_band, region or interest; each adds up to all who arrived',
    value LowCardinality(String) COMMENT 'Value of it, the latest known of a fan; empty: unknown',
    arrived UInt64 COMMENT 'New fans'
)
AS SELECT platform, creator_id, first_day AS day, dimension, value, count() AS arrived
FROM fan_profiles
ARRAY JOIN
    ['gender', 'age_band', 'region', 'interest'] AS dimension,
    [gender, age_band, region, interest] AS value
GROUP BY platform, creator_id, day, dimension, value
COMMENT 'Who the new fans of each local day are: by gender, age band, region and interest.';

CREATE OR REPLACE VIEW fan_heat_map
(
    platform LowCardinality(String) COMMENT 'Platform: douyin or kuaishou',
    creator_id String COMMENT 'Creator',
    weekday UInt8 COMMENT 'Local day of the week: 1 Monday to 7 Sunday',
    hour UInt8 COMMENT 'Local hour, 0 to 23; one that the clock repeats counts twice, one that it leaves out is empty',
    actions UInt64 COMMENT 'Actions of fans in the 28 days before the day of the last refresh: four of each weekday',
    share Float64 COMMENT 'Of all these actions'
)
AS SELECT
    platform,
    creator_id,
    toUInt8(intDiv(cell, 24) + 1) AS weekday,
    toUInt8(cell % 24) AS hour,
    arraySum(arrayMap((at, n) -> n * (at = cell), cells.1, cells.2)) AS actions,
    actions / arraySum(cells.2) AS share
FROM
(
    SELECT
        platform,
        creator_id,
        sumMap(arrayMap(hour -> toUInt8((toDayOfWeek(day) - 1) * 24 + hour), hours), arrayMap(n -> toUInt64(n), hour_actions)) AS cells
    FROM fan_days FINAL
    WHERE actions > 0
        AND day < (SELECT max(day) FROM fan_refreshes)
        AND day >= (SELECT max(day) FROM fan_refreshes) - 28
    GROUP BY platform, creator_id
)
ARRAY JOIN range(168) AS cell
COMMENT 'When the fans of each creator are there: hour by weekday, all 168 cells, over four weeks.';
