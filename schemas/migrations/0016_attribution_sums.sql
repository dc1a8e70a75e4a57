-- Cohorts of acquired fans as of the last refresh, and conversions of the time that is asked for alone.

CREATE TABLE IF NOT EXISTS acquired_cohort_counts
(
    snapshot UInt64 COMMENT 'Which of fan_snapshots',
    platform LowCardinality(String) COMMENT 'Platform: douyin or kuaishou',
    creator_id String COMMENT 'Creator',
    week Date COMMENT 'Monday of the local week of the follow',
    by LowCardinality(String) COMMENT 'What the fans of a week are told apart by, as in acquired_cohorts',
    value String COMMENT 'Id, label or hour of it; empty for all',
    fans UInt64 COMMENT 'Fans acquired: acquired_fans',
    retained_1 UInt64 COMMENT 'Of them those with an action on the local day after the follow, so far',
    retained_7 UInt64 COMMENT 'The same 7 days after',
    retained_30 UInt64 COMMENT 'The same 30 days after',
    value_1_micros Int64 COMMENT 'What they brought from the day of the follow to the day after, so far, gifts, orders and memberships less refunds, millionths of a yuan',
    value_7_micros Int64 COMMENT 'The same to 7 days after',
    value_30_micros Int64 COMMENT 'The same to 30 days after'
)
ENGINE = ReplacingMergeTree
PARTITION BY snapshot
ORDER BY (by, creator_id, week, value, platform)
COMMENT 'Cohorts of fans whom advertisements brought. Read acquired_cohorts, which knows what is over.';

CREATE OR REPLACE VIEW acquired_cohorts
(
    platform LowCardinality(String) COMMENT 'Platform: douyin or kuaishou',
    creator_id String COMMENT 'Creator',
    week Date COMMENT 'Monday of the local week of the follow',
    by LowCardinality(String) COMMENT 'What the fans of a week are told apart by: all, campaign, ad_group, creative, audience, channel or hour (local, of the touch); each adds up to all',
    value String COMMENT 'Id, label or hour of it; empty for all',
    fans UInt64 COMMENT 'Fans acquired: acquired_fans',
    retained_1 Nullable(UInt64) COMMENT 'Of them those with an action on the local day after the follow; NULL until that day is over for all of the week',
    retained_7 Nullable(UInt64) COMMENT 'The same 7 days after',
    retained_30 Nullable(UInt64) COMMENT 'The same 30 days after',
    retention_1 Nullable(Float64) COMMENT 'retained_1 / fans: retention on day 1',
    retention_7 Nullable(Float64) COMMENT 'retained_7 / fans',
    retention_30 Nullable(Float64) COMMENT 'retained_30 / fans',
    value_1_micros Nullable(Int64) COMMENT 'What they brought from the day of the follow to the day after, gifts, orders and memberships less refunds, millionths of a yuan; NULL until that day is over for all of the week',
    value_7_micros Nullable(Int64) COMMENT 'The same to 7 days after',
    value_30_micros Nullable(Int64) COMMENT 'The same to 30 days after'
)
AS WITH
    (SELECT (max(snapshot), argMax(day, snapshot)) FROM fan_snapshots) AS newest,
    -- The day of the refresh was not over. Who follows on the Sunday has day n on week + 6 + n.
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
    if(week + 36 < today, counts.retained_30, NULL) AS retained_30,
    retained_1 / fans AS retention_1,
    retained_7 / fans AS retention_7,
    retained_30 / fans AS retention_30,
    if(week + 7 < today, counts.value_1_micros, NULL) AS value_1_micros,
    if(week + 13 < today, counts.value_7_micros, NULL) AS value_7_micros,
    if(week + 36 < today, counts.value_30_micros, NULL) AS value_30_micros
FROM acquired_cohort_counts AS counts FINAL
WHERE snapshot = newest.1
COMMENT 'How long the fans whom advertisements brought stay and what they bring, by local week of their follow, all of them and by what brought them. Each line is a cohort. As of the last refresh.';

CREATE OR REPLACE VIEW attribution_by
AS SELECT
    platform,
    if({by:String} IN ('campaign', 'ad_group', 'creative'), figures.campaign_id, '') AS campaign_id,
    multiIf(
        {by:String} = 'creator', creator_id,
        {by:String} = 'campaign', figures.campaign_id,
        {by:String} = 'ad_group', ad_group_id,
        {by:String} = 'creative', creative_id,
        {by:String} = 'audience', target,
        {by:String} = 'channel', ran,
        toString(toHour(at, (SELECT if(count() = 0, 'UTC', argMax(time_zone, written_at)) FROM fan_settings)))
    ) AS value,
    sum(figures.impressions) AS impressions,
    sum(figures.clicks) AS clicks,
    sum(figures.cost_micros) AS cost_micros,
    sum(figures.follows) AS follows,
    sum(figures.orders) AS orders,
    sum(figures.revenue_micros) AS revenue_micros,
    sum(figures.refunded_micros) AS refunded_micros,
    revenue_micros - refunded_micros AS net_micros,
    accurateCastOrNull(intDiv(2 * toInt128(cost_micros) + follows, nullIf(2 * follows, 0)), 'Int64') AS follow_cost_micros,
    accurateCastOrNull(intDiv(2 * toInt128(cost_micros) + orders, nullIf(2 * orders, 0)), 'Int64') AS order_cost_micros,
    net_micros / nullIf(cost_micros, 0) AS roas,
    (net_micros - cost_micros) / nullIf(cost_micros, 0) AS roi
FROM
(
    SELECT
        platform, creator_id, campaign_id, ad_group_id, creative_id, toString(audience) AS target, toString(channel) AS ran,
        minute AS at, impressions, clicks, cost_micros, 0 AS follows, 0 AS orders, 0 AS revenue_micros,
        0 AS refunded_micros
    FROM ads_minute FINAL
    WHERE fold_version = 1 AND minute >= {since:DateTime('UTC')} AND minute < {until:DateTime('UTC')}
        AND throwIf({by:String} NOT IN ('creator', 'campaign', 'ad_group', 'creative', 'audience', 'channel', 'hour'),
            'attribution_by: by is one of creator, campaign, ad_group, creative, audience, channel, hour') = 0
    UNION ALL
    SELECT
        platform, creator_id, campaign_id, ad_group_id, creative_id, toString(audience), toString(channel),
        toDateTime(assumeNotNull(touched_at), 'UTC'), 0, 0, 0, toInt64(kind = 'follow'), toInt64(kind = 'order'), revenue_micros,
        refunded_micros
    FROM attributed_conversions
    -- Nothing is won before it was touched: so only these conversions are read.
    WHERE converted_at >= {since:DateTime('UTC')} AND touch != 'none' AND touched_at >= {since:DateTime('UTC')} AND touched_at < {until:DateTime('UTC')}
) AS figures
GROUP BY platform, campaign_id, value
COMMENT 'What was spent in a time and what that brought, by one thing: SELECT ... FROM attribution_by(by = \'audience\', since = \'2026-01-01 00:00:00\', until = now()). by is creator, campaign, ad_group, creative, audience, channel or hour (local, 0 to 23); value is one of it; campaign_id is empty where figures span campaigns. The other columns are those of attribution_hours.';
