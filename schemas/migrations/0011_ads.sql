-- Advertisements: absolute counts and sums per key, minute and Kafka partition (never increments), so that a repeated write
-- changes nothing. Read the tables FINAL, or through the views, which add up partitions and what repair took in. Odd data
-- is counted as it is: more conversions than clicks, cost without impressions. Money is rounded only where it is divided.

CREATE TABLE IF NOT EXISTS ads_minute
(
    platform LowCardinality(String) COMMENT 'Platform: douyin or kuaishou',
    creator_id String COMMENT 'Creator whose advertisement it is',
    campaign_id String COMMENT 'Campaign',
    ad_group_id String COMMENT 'Ad group',
    creative_id String COMMENT 'Creative',
    audience LowCardinality(String) COMMENT 'Targeting label',
    channel LowCardinality(String) COMMENT 'Where it ran: feed, dou_plus, search or live',
    minute DateTime('UTC') COMMENT 'Minute of event time, UTC',
    partition UInt16 COMMENT 'Kafka partition whose events the row holds; sum over it',
    origin LowCardinality(String) COMMENT 'stream: events that came in time; repair: those taken in by fanpulse repair; sum over it',
    fold_version UInt16 COMMENT 'Version of the definition; the views read the one in force',
    impressions Int64 COMMENT 'Times that advertisements were shown',
    clicks Int64 COMMENT 'Clicks on them',
    plays Int64 COMMENT 'Plays of them',
    conversions Int64 COMMENT 'Conversions that they led to, of every type',
    cost_micros Int64 COMMENT 'Spend: cost that these events carry, of every kind, millionths of a yuan',
    conversion_value_micros Int64 COMMENT 'Value that these events carry, millionths of a yuan: as a rule that of the conversions, as whoever reports them says',
    applied Int64 COMMENT 'Kafka offset of the last event in this row; of rows with one key the highest is right'
)
ENGINE = ReplacingMergeTree(applied)
PARTITION BY toYYYYMM(minute)
ORDER BY (campaign_id, platform, minute, ad_group_id, creative_id, audience, channel, creator_id, partition, origin, fold_version)
COMMENT 'Advertisements by campaign, ad group, creative, audience, channel and minute: counts of every kind of event, cost and value.';

CREATE TABLE IF NOT EXISTS ads_people_minute
(
    platform LowCardinality(String) COMMENT 'Platform: douyin or kuaishou',
    campaign_id String COMMENT 'Campaign',
    region LowCardinality(String) COMMENT 'Province or region of the fan, as the platform gives it; empty: unknown',
    age_band LowCardinality(String) COMMENT 'Age band of the fan, as the platform gives it; empty: unknown',
    gender LowCardinality(String) COMMENT 'Gender of the fan, as the platform gives it; empty: unknown',
    minute DateTime('UTC') COMMENT 'Minute of event time, UTC',
    partition UInt16 COMMENT 'Kafka partition whose events the row holds; sum over it',
    origin LowCardinality(String) COMMENT 'stream: events that came in time; repair: those taken in by fanpulse repair; sum over it',
    fold_version UInt16 COMMENT 'Version of the definition; the views read the one in force',
    impressions Int64 COMMENT 'Times that advertisements were shown',
    clicks Int64 COMMENT 'Clicks on them',
    plays Int64 COMMENT 'Plays of them',
    conversions Int64 COMMENT 'Conversions that they led to, of every type',
    cost_micros Int64 COMMENT 'Spend: cost that these events carry, of every kind, millionths of a yuan',
    conversion_value_micros Int64 COMMENT 'Value that these events carry, millionths of a yuan: as a rule that of the conversions, as whoever reports them says',
    applied Int64 COMMENT 'Kafka offset of the last event in this row; of rows with one key the highest is right'
)
ENGINE = ReplacingMergeTree(applied)
PARTITION BY toYYYYMM(minute)
ORDER BY (campaign_id, platform, minute, region, age_band, gender, partition, origin, fold_version)
COMMENT 'Advertisements by campaign, by region, age band and gender of the fan, and minute: counts of every kind of event, cost and value.';

CREATE OR REPLACE VIEW ads_campaign_minutes
(
    platform LowCardinality(String) COMMENT 'Platform: douyin or kuaishou',
    creator_id String COMMENT 'Creator whose advertisement it is',
    campaign_id String COMMENT 'Campaign',
    minute DateTime('UTC') COMMENT 'Minute of event time, UTC',
    impressions Int64 COMMENT 'Times that advertisements were shown',
    clicks Int64 COMMENT 'Clicks on them',
    plays Int64 COMMENT 'Plays of them',
    conversions Int64 COMMENT 'Conversions that they led to, of every type',
    cost_micros Int64 COMMENT 'Spend: cost that these events carry, of every kind, millionths of a yuan',
    conversion_value_micros Int64 COMMENT 'Value that these events carry, millionths of a yuan: as a rule that of the conversions, as whoever reports them says',
    cpm_micros Nullable(Int64) COMMENT 'CPM: 1000 x cost / impressions, millionths of a yuan, rounded to the nearest, a half up; NULL without impressions',
    ctr Nullable(Float64) COMMENT 'CTR: clicks / impressions; NULL without impressions',
    cvr Nullable(Float64) COMMENT 'CVR: conversions / clicks; NULL without clicks',
    cpa_micros Nullable(Int64) COMMENT 'CPA: cost / conversions, millionths of a yuan, rounded to the nearest, a half up; NULL without conversions',
    conversion_roas Nullable(Float64) COMMENT 'ROAS by the value of the conversions: conversion_value_micros / cost_micros; NULL without cost',
    conversion_roi Nullable(Float64) COMMENT 'ROI by the value of the conversions: (conversion_value_micros - cost_micros) / cost_micros; -1: nothing came back; NULL without cost'
)
AS SELECT
    platform,
    creator_id,
    campaign_id,
    minute,
    sum(counts.impressions) AS impressions,
    sum(counts.clicks) AS clicks,
    sum(counts.plays) AS plays,
    sum(counts.conversions) AS conversions,
    sum(counts.cost_micros) AS cost_micros,
    sum(counts.conversion_value_micros) AS conversion_value_micros,
    accurateCastOrNull(intDiv(2000 * toInt128(cost_micros) + impressions, nullIf(2 * impressions, 0)), 'Int64') AS cpm_micros,
    clicks / nullIf(impressions, 0) AS ctr,
    conversions / nullIf(clicks, 0) AS cvr,
    accurateCastOrNull(intDiv(2 * toInt128(cost_micros) + conversions, nullIf(2 * conversions, 0)), 'Int64') AS cpa_micros,
    conversion_value_micros / nullIf(cost_micros, 0) AS conversion_roas,
    (conversion_value_micros - cost_micros) / nullIf(cost_micros, 0) AS conversion_roi
FROM (SELECT * FROM ads_minute FINAL WHERE fold_version = 1) AS counts
GROUP BY platform, creator_id, campaign_id, minute
COMMENT 'Every campaign by minute: counts, spend, and what follows from them. Minutes without events have no row.';

CREATE OR REPLACE VIEW ads_hours
(
    platform LowCardinality(String) COMMENT 'Platform: douyin or kuaishou',
    creator_id String COMMENT 'Creator whose advertisement it is',
    campaign_id String COMMENT 'Campaign',
    by LowCardinality(String) COMMENT 'What value is one of: campaign, ad_group, creative, audience or channel; each adds up to the campaign',
    value String COMMENT 'Id or label of it',
    hour DateTime('UTC') COMMENT 'Hour of event time, UTC',
    impressions Int64 COMMENT 'Times that advertisements were shown',
    clicks Int64 COMMENT 'Clicks on them',
    plays Int64 COMMENT 'Plays of them',
    conversions Int64 COMMENT 'Conversions that they led to, of every type',
    cost_micros Int64 COMMENT 'Spend: cost that these events carry, of every kind, millionths of a yuan',
    conversion_value_micros Int64 COMMENT 'Value that these events carry, millionths of a yuan: as a rule that of the conversions, as whoever reports them says',
    cpm_micros Nullable(Int64) COMMENT 'CPM: 1000 x cost / impressions, millionths of a yuan, rounded to the nearest, a half up; NULL without impressions',
    ctr Nullable(Float64) COMMENT 'CTR: clicks / impressions; NULL without impressions',
    cvr Nullable(Float64) COMMENT 'CVR: conversions / clicks; NULL without clicks',
    cpa_micros Nullable(Int64) COMMENT 'CPA: cost / conversions, millionths of a yuan, rounded to the nearest, a half up; NULL without conversions',
    conversion_roas Nullable(Float64) COMMENT 'ROAS by the value of the conversions: conversion_value_micros / cost_micros; NULL without cost',
    conversion_roi Nullable(Float64) COMMENT 'ROI by the value of the conversions: (conversion_value_micros - cost_micros) / cost_micros; -1: nothing came back; NULL without cost'
)
AS SELECT
    platform,
    creator_id,
    campaign_id,
    by,
    value,
    toStartOfHour(minute) AS hour,
    sum(counts.impressions) AS impressions,
    sum(counts.clicks) AS clicks,
    sum(counts.plays) AS plays,
    sum(counts.conversions) AS conversions,
    sum(counts.cost_micros) AS cost_micros,
    sum(counts.conversion_value_micros) AS conversion_value_micros,
    accurateCastOrNull(intDiv(2000 * toInt128(cost_micros) + impressions, nullIf(2 * impressions, 0)), 'Int64') AS cpm_micros,
    clicks / nullIf(impressions, 0) AS ctr,
    conversions / nullIf(clicks, 0) AS cvr,
    accurateCastOrNull(intDiv(2 * toInt128(cost_micros) + conversions, nullIf(2 * conversions, 0)), 'Int64') AS cpa_micros,
    conversion_value_micros / nullIf(cost_micros, 0) AS conversion_roas,
    (conversion_value_micros - cost_micros) / nullIf(cost_micros, 0) AS conversion_roi
FROM (SELECT * FROM ads_minute FINAL WHERE fold_version = 1) AS counts
ARRAY JOIN
    ['campaign', 'ad_group', 'creative', 'audience', 'channel'] AS by,
    [campaign_id, ad_group_id, creative_id, toString(audience), toString(channel)] AS value
GROUP BY platform, creator_id, campaign_id, by, value, hour
COMMENT 'Every campaign by hour, as a whole and by its ad groups, creatives, audiences and channels. Choose by, or all is there five times.';

CREATE OR REPLACE VIEW ads_days
(
    platform LowCardinality(String) COMMENT 'Platform: douyin or kuaishou',
    creator_id String COMMENT 'Creator whose advertisement it is',
    campaign_id String COMMENT 'Campaign',
    by LowCardinality(String) COMMENT 'What value is one of: campaign, ad_group, creative, audience or channel; each adds up to the campaign',
    value String COMMENT 'Id or label of it',
    day Date COMMENT 'Local calendar day of event time (time zone: setting FANPULSE_TIME_ZONE)',
    impressions Int64 COMMENT 'Times that advertisements were shown',
    clicks Int64 COMMENT 'Clicks on them',
    plays Int64 COMMENT 'Plays of them',
    conversions Int64 COMMENT 'Conversions that they led to, of every type',
    cost_micros Int64 COMMENT 'Spend: cost that these events carry, of every kind, millionths of a yuan',
    conversion_value_micros Int64 COMMENT 'Value that these events carry, millionths of a yuan: as a rule that of the conversions, as whoever reports them says',
    cpm_micros Nullable(Int64) COMMENT 'CPM: 1000 x cost / impressions, millionths of a yuan, rounded to the nearest, a half up; NULL without impressions',
    ctr Nullable(Float64) COMMENT 'CTR: clicks / impressions; NULL without impressions',
    cvr Nullable(Float64) COMMENT 'CVR: conversions / clicks; NULL without clicks',
    cpa_micros Nullable(Int64) COMMENT 'CPA: cost / conversions, millionths of a yuan, rounded to the nearest, a half up; NULL without conversions',
    conversion_roas Nullable(Float64) COMMENT 'ROAS by the value of the conversions: conversion_value_micros / cost_micros; NULL without cost',
    conversion_roi Nullable(Float64) COMMENT 'ROI by the value of the conversions: (conversion_value_micros - cost_micros) / cost_micros; -1: nothing came back; NULL without cost'
)
AS SELECT
    platform,
    creator_id,
    campaign_id,
    by,
    value,
    toDate(minute, (SELECT if(count() = 0, 'UTC', argMax(time_zone, written_at)) FROM fan_settings)) AS day,
    sum(counts.impressions) AS impressions,
    sum(counts.clicks) AS clicks,
    sum(counts.plays) AS plays,
    sum(counts.conversions) AS conversions,
    sum(counts.cost_micros) AS cost_micros,
    sum(counts.conversion_value_micros) AS conversion_value_micros,
    accurateCastOrNull(intDiv(2000 * toInt128(cost_micros) + impressions, nullIf(2 * impressions, 0)), 'Int64') AS cpm_micros,
    clicks / nullIf(impressions, 0) AS ctr,
    conversions / nullIf(clicks, 0) AS cvr,
    accurateCastOrNull(intDiv(2 * toInt128(cost_micros) + conversions, nullIf(2 * conversions, 0)), 'Int64') AS cpa_micros,
    conversion_value_micros / nullIf(cost_micros, 0) AS conversion_roas,
    (conversion_value_micros - cost_micros) / nullIf(cost_micros, 0) AS conversion_roi
FROM (SELECT * FROM ads_minute FINAL WHERE fold_version = 1) AS counts
ARRAY JOIN
    ['campaign', 'ad_group', 'creative', 'audience', 'channel'] AS by,
    [campaign_id, ad_group_id, creative_id, toString(audience), toString(channel)] AS value
GROUP BY platform, creator_id, campaign_id, by, value, day
COMMENT 'Every campaign by local day, as a whole and by its ad groups, creatives, audiences and channels. Choose by, or all is there five times.';

CREATE OR REPLACE VIEW ads_people
(
    platform LowCardinality(String) COMMENT 'Platform: douyin or kuaishou',
    campaign_id String COMMENT 'Campaign',
    by LowCardinality(String) COMMENT 'What value is one of: region, age_band or gender; each adds up to the campaign',
    value String COMMENT 'Value of it, as the platform gives it; empty: unknown',
    day Date COMMENT 'Local calendar day of event time (time zone: setting FANPULSE_TIME_ZONE)',
    impressions Int64 COMMENT 'Times that advertisements were shown',
    clicks Int64 COMMENT 'Clicks on them',
    plays Int64 COMMENT 'Plays of them',
    conversions Int64 COMMENT 'Conversions that they led to, of every type',
    cost_micros Int64 COMMENT 'Spend: cost that these events carry, of every kind, millionths of a yuan',
    conversion_value_micros Int64 COMMENT 'Value that these events carry, millionths of a yuan: as a rule that of the conversions, as whoever reports them says',
    cpm_micros Nullable(Int64) COMMENT 'CPM: 1000 x cost / impressions, millionths of a yuan, rounded to the nearest, a half up; NULL without impressions',
    ctr Nullable(Float64) COMMENT 'CTR: clicks / impressions; NULL without impressions',
    cvr Nullable(Float64) COMMENT 'CVR: conversions / clicks; NULL without clicks',
    cpa_micros Nullable(Int64) COMMENT 'CPA: cost / conversions, millionths of a yuan, rounded to the nearest, a half up; NULL without conversions',
    conversion_roas Nullable(Float64) COMMENT 'ROAS by the value of the conversions: conversion_value_micros / cost_micros; NULL without cost',
    conversion_roi Nullable(Float64) COMMENT 'ROI by the value of the conversions: (conversion_value_micros - cost_micros) / cost_micros; -1: nothing came back; NULL without cost'
)
AS SELECT
    platform,
    campaign_id,
    by,
    value,
    toDate(minute, (SELECT if(count() = 0, 'UTC', argMax(time_zone, written_at)) FROM fan_settings)) AS day,
    sum(counts.impressions) AS impressions,
    sum(counts.clicks) AS clicks,
    sum(counts.plays) AS plays,
    sum(counts.conversions) AS conversions,
    sum(counts.cost_micros) AS cost_micros,
    sum(counts.conversion_value_micros) AS conversion_value_micros,
    accurateCastOrNull(intDiv(2000 * toInt128(cost_micros) + impressions, nullIf(2 * impressions, 0)), 'Int64') AS cpm_micros,
    clicks / nullIf(impressions, 0) AS ctr,
    conversions / nullIf(clicks, 0) AS cvr,
    accurateCastOrNull(intDiv(2 * toInt128(cost_micros) + conversions, nullIf(2 * conversions, 0)), 'Int64') AS cpa_micros,
    conversion_value_micros / nullIf(cost_micros, 0) AS conversion_roas,
    (conversion_value_micros - cost_micros) / nullIf(cost_micros, 0) AS conversion_roi
FROM (SELECT * FROM ads_people_minute FINAL WHERE fold_version = 1) AS counts
ARRAY JOIN
    ['region', 'age_band', 'gender'] AS by,
    [toString(region), toString(age_band), toString(gender)] AS value
GROUP BY platform, campaign_id, by, value, day
COMMENT 'Whom every campaign reached, by local day: by region, age band and gender of the fans. Choose by, or all is there three times.';

-- Ratios do not add up: this view has those of any time, and of all campaigns together.
CREATE OR REPLACE VIEW ads_by
AS SELECT
    platform,
    if({by:String} IN ('campaign', 'ad_group', 'creative'), counts.campaign_id, '') AS campaign_id,
    multiIf(
        {by:String} = 'creator', creator_id,
        {by:String} = 'campaign', counts.campaign_id,
        {by:String} = 'ad_group', ad_group_id,
        {by:String} = 'creative', creative_id,
        {by:String} = 'audience', toString(audience),
        {by:String} = 'channel', toString(channel),
        toString(toHour(minute, (SELECT if(count() = 0, 'UTC', argMax(time_zone, written_at)) FROM fan_settings)))
    ) AS value,
    sum(counts.impressions) AS impressions,
    sum(counts.clicks) AS clicks,
    sum(counts.plays) AS plays,
    sum(counts.conversions) AS conversions,
    sum(counts.cost_micros) AS cost_micros,
    sum(counts.conversion_value_micros) AS conversion_value_micros,
    accurateCastOrNull(intDiv(2000 * toInt128(cost_micros) + impressions, nullIf(2 * impressions, 0)), 'Int64') AS cpm_micros,
    clicks / nullIf(impressions, 0) AS ctr,
    conversions / nullIf(clicks, 0) AS cvr,
    accurateCastOrNull(intDiv(2 * toInt128(cost_micros) + conversions, nullIf(2 * conversions, 0)), 'Int64') AS cpa_micros,
    conversion_value_micros / nullIf(cost_micros, 0) AS conversion_roas,
    (conversion_value_micros - cost_micros) / nullIf(cost_micros, 0) AS conversion_roi
FROM
(
    SELECT *
    FROM ads_minute FINAL
    WHERE fold_version = 1 AND minute >= {since:DateTime('UTC')} AND minute < {until:DateTime('UTC')}
        AND throwIf({by:String} NOT IN ('creator', 'campaign', 'ad_group', 'creative', 'audience', 'channel', 'hour'),
            'ads_by: by is one of creator, campaign, ad_group, creative, audience, channel, hour') = 0
) AS counts
GROUP BY platform, campaign_id, value
COMMENT 'All of a time by one thing: SELECT ... FROM ads_by(by = \'audience\', since = \'2026-01-01 00:00:00\', until = now()). by is creator, campaign, ad_group, creative, audience, channel or hour (local, 0 to 23); value is one of it; campaign_id is empty where figures span campaigns. The other columns are those of ads_campaign_minutes.';
