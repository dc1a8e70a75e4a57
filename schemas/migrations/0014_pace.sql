-- Budgets and pace: what is spent of a budget, against what should be by now. Views over what is counted and what was told
-- or done; nothing new is stored. A budget holds from when the log of campaigns took it, so of days before that it is NULL.

CREATE OR REPLACE VIEW ads_budget_changes
(
    platform LowCardinality(String) COMMENT 'Platform: douyin or kuaishou',
    campaign_id String COMMENT 'Campaign',
    ad_group_id String COMMENT 'Ad group; empty: the campaign as a whole',
    at DateTime64(3, 'UTC') COMMENT 'When the log took the change, UTC: it holds from then on',
    changed_by String COMMENT 'Who told it, or the rule that did it',
    told UInt8 COMMENT '1: told by fanpulse campaigns apply; 0: done by a rule, which changes the daily budget alone',
    daily_budget_micros Nullable(Int64) COMMENT 'Daily budget from then on, millionths of a yuan; NULL: none is known',
    total_budget_micros Nullable(Int64) COMMENT 'Total budget as it was told, millionths of a yuan; NULL: none is known, or a rule did it',
    applied Int64 COMMENT 'Offset of the record of campaign_facts: of one campaign the order of its changes'
)
AS SELECT
    platform,
    campaign_id,
    JSONExtractString(entity, 'ad_group_id') AS ad_group_id,
    changed_at AS at,
    changed_by,
    1 AS told,
    toInt64OrNull(splitByChar(' ', JSONExtractString(entity, 'daily_budget'))[1]) AS daily_budget_micros,
    toInt64OrNull(splitByChar(' ', JSONExtractString(entity, 'total_budget'))[1]) AS total_budget_micros,
    applied
FROM campaign_changes FINAL
ARRAY JOIN arrayConcat([text], JSONExtractArrayRaw(text, 'ad_groups')) AS entity
UNION ALL
SELECT
    platform,
    campaign_id,
    ad_group_id,
    decided_at AS at,
    rule_id AS changed_by,
    0 AS told,
    after_micros AS daily_budget_micros,
    CAST(NULL, 'Nullable(Int64)') AS total_budget_micros,
    applied
FROM budget_actions FINAL
WHERE fold_version = 1 AND action = 'budget'
COMMENT 'Every change of a daily or total budget: who told it, or which rule did it, and when.';

CREATE OR REPLACE VIEW ads_budget_days
(
    platform LowCardinality(String) COMMENT 'Platform: douyin or kuaishou',
    creator_id String COMMENT 'Creator whose advertisement it is; of several the first by name',
    campaign_id String COMMENT 'Campaign',
    ad_group_id String COMMENT 'Ad group; empty: the campaign as a whole',
    day Date COMMENT 'Local calendar day',
    cost_micros Int64 COMMENT 'Spend of the day, millionths of a yuan',
    daily_budget_micros Nullable(Int64) COMMENT 'Daily budget that held when the day ended, of the running day that of now, millionths of a yuan; NULL: none was known then, or it is an ad group that has none of its own',
    cost_share Nullable(Float64) COMMENT 'cost_micros / daily_budget_micros; NULL without a budget'
)
AS WITH assumeNotNull((SELECT if(count() = 0, 'UTC', argMax(time_zone, written_at)) FROM fan_settings)) AS zone
SELECT
    platform,
    creator_id,
    campaign_id,
    ad_group_id,
    day,
    cost_micros,
    budgets.daily_budget_micros AS daily_budget_micros,
    cost_micros / nullIf(daily_budget_micros, 0) AS cost_share
FROM
(
    SELECT
        platform,
        min(creator_id) AS creator_id,
        campaign_id,
        entity AS ad_group_id,
        toDate(minute, zone) AS day,
        toDateTime64(toDateTime(day + 1, zone), 3, 'UTC') AS ended,
        sum(counts.cost_micros) AS cost_micros
    FROM (SELECT platform, creator_id, campaign_id, ad_group_id, minute, cost_micros FROM ads_minute FINAL WHERE fold_version = 1) AS counts
    ARRAY JOIN ['', ad_group_id] AS entity
    GROUP BY platform, campaign_id, entity, day
) AS days
ASOF LEFT JOIN
(
    SELECT platform, campaign_id, ad_group_id, at, daily_budget_micros
    FROM ads_budget_changes
    ORDER BY applied DESC
    LIMIT 1 BY platform, campaign_id, ad_group_id, at
) AS budgets
ON days.platform = budgets.platform AND days.campaign_id = budgets.campaign_id AND days.ad_group_id = budgets.ad_group_id AND days.ended >= budgets.at
COMMENT 'What campaigns and ad groups spent of their daily budget, by local day. Choose ad_group_id = \'\', or all is there twice.';

CREATE OR REPLACE VIEW ads_pace
(
    platform LowCardinality(String) COMMENT 'Platform: douyin or kuaishou',
    creator_id String COMMENT 'Creator whose advertisement it is; of several the first by name',
    campaign_id String COMMENT 'Campaign',
    ad_group_id String COMMENT 'Ad group; empty: the campaign as a whole',
    state LowCardinality(String) COMMENT 'active, paused or ended; empty: not known yet',
    day Date COMMENT 'Local calendar day that runs',
    at DateTime64(3, 'UTC') COMMENT 'How far it has got: newest event time stored, UTC',
    cost_micros Int64 COMMENT 'Spend of the day so far, millionths of a yuan',
    hour_cost_micros Int64 COMMENT 'Of it in the last 60 minutes, millionths of a yuan',
    daily_budget_micros Nullable(Int64) COMMENT 'Daily budget, millionths of a yuan; NULL: not known, or of an ad group that has none of its own',
    left_micros Nullable(Int64) COMMENT 'daily_budget_micros - cost_micros; below 0: more was spent; NULL without a budget',
    cost_share Nullable(Float64) COMMENT 'cost_micros / daily_budget_micros; NULL without a budget',
    expected_share Float64 COMMENT 'Part of the local day that is over: the share of an even pace',
    pace Nullable(Float64) COMMENT 'cost_share / expected_share: 1 is even, 2 twice as fast; NULL without a budget, and when the day begins',
    projected_micros Nullable(Int64) COMMENT 'Spend of the whole day if the rest of it goes on like the last 60 minutes, or, where the day is younger, as it began, millionths of a yuan, rounded down; NULL when the day begins',
    used_up_at Nullable(DateTime64(3, 'UTC')) COMMENT 'When the daily budget is used up at that rate, UTC; at: it is already; NULL: not on this day, or there is no budget'
)
AS WITH
    assumeNotNull((SELECT if(count() = 0, 'UTC', argMax(time_zone, written_at)) FROM fan_settings)) AS zone,
    assumeNotNull((SELECT max(newest) FROM checkpoints WHERE agent = 'ads')) AS reached,
    toDate(reached, zone) AS today,
    toDateTime(today, zone) AS begin,
    toDateTime(today + 1, zone) AS end,
    greatest(begin, toDateTime(toStartOfMinute(reached)) - 3540) AS since,
    toUnixTimestamp64Milli(reached) AS now_ms,
    now_ms - 1000 * toInt64(toUnixTimestamp(since)) AS gone_ms,
    1000 * toInt64(toUnixTimestamp(end)) - now_ms AS rest_ms
SELECT
    platform,
    creator_id,
    campaign_id,
    ad_group_id,
    state,
    today AS day,
    reached AS at,
    cost_micros,
    hour_cost_micros,
    daily_budget_micros,
    daily_budget_micros - cost_micros AS left_micros,
    cost_micros / nullIf(daily_budget_micros, 0) AS cost_share,
    1 - rest_ms / (1000 * (toUnixTimestamp(end) - toUnixTimestamp(begin))) AS expected_share,
    cost_share / nullIf(expected_share, 0) AS pace,
    accurateCastOrNull(cost_micros + intDiv(toInt128(hour_cost_micros) * rest_ms, nullIf(gone_ms, 0)), 'Int64') AS projected_micros,
    fromUnixTimestamp64Milli(
        multiIf(left_micros <= 0, now_ms, lasts_ms < rest_ms, now_ms + accurateCastOrNull(lasts_ms, 'Int64'), NULL), 'UTC'
    ) AS used_up_at
FROM
(
    SELECT
        platform,
        if(max(known) = 1, maxIf(counts.creator_id, known = 1), min(counts.creator_id)) AS creator_id,
        campaign_id,
        ad_group_id,
        max(counts.state) AS state,
        sum(counts.cost_micros) AS cost_micros,
        sumIf(counts.cost_micros, minute >= since) AS hour_cost_micros,
        max(counts.daily_budget_micros) AS daily_budget_micros,
        intDiv(toInt128(daily_budget_micros - cost_micros) * gone_ms, nullIf(hour_cost_micros, 0)) AS lasts_ms
    FROM
    (
        SELECT platform, creator_id, campaign_id, entity AS ad_group_id, minute, cost_micros, '' AS state, NULL AS daily_budget_micros, 0 AS known
        FROM ads_minute FINAL
        ARRAY JOIN ['', ad_group_id] AS entity
        WHERE fold_version = 1 AND minute >= begin
        UNION ALL
        SELECT platform, creator_id, campaign_id, ad_group_id, begin AS minute, 0 AS cost_micros, state, daily_budget_micros, 1 AS known
        FROM campaigns
    ) AS counts
    GROUP BY platform, campaign_id, ad_group_id
    HAVING min(known) = 0 OR state = 'active'
)
COMMENT 'How campaigns and ad groups spend their daily budget today: those that are active, and those with events. Choose ad_group_id = \'\', or all is there twice.';

CREATE OR REPLACE VIEW ads_total_budgets
(
    platform LowCardinality(String) COMMENT 'Platform: douyin or kuaishou',
    creator_id String COMMENT 'Creator whose advertisement it is',
    campaign_id String COMMENT 'Campaign',
    state LowCardinality(String) COMMENT 'active, paused or ended',
    total_budget_micros Int64 COMMENT 'Most to spend in all, millionths of a yuan',
    cost_micros Int64 COMMENT 'Spend so far, of all that is stored, millionths of a yuan',
    left_micros Int64 COMMENT 'total_budget_micros - cost_micros; below 0: more was spent',
    cost_share Nullable(Float64) COMMENT 'cost_micros / total_budget_micros; NULL where that is 0',
    week_cost_micros Int64 COMMENT 'Of the spend what the last 7 times 24 hours had, millionths of a yuan',
    days_left Nullable(Float64) COMMENT 'Days that the rest lasts at the mean of these 7 days; 0: it is used up; NULL: nothing was spent in them'
)
AS WITH assumeNotNull((SELECT max(newest) FROM checkpoints WHERE agent = 'ads')) AS reached
SELECT
    platform,
    max(counts.creator_id) AS creator_id,
    campaign_id,
    max(counts.state) AS state,
    assumeNotNull(max(counts.total_budget_micros)) AS total_budget_micros,
    sum(counts.cost_micros) AS cost_micros,
    total_budget_micros - cost_micros AS left_micros,
    cost_micros / nullIf(total_budget_micros, 0) AS cost_share,
    sumIf(counts.cost_micros, minute > reached - INTERVAL 7 DAY) AS week_cost_micros,
    greatest(left_micros, 0) / nullIf(week_cost_micros, 0) * 7 AS days_left
FROM
(
    SELECT platform, '' AS creator_id, campaign_id, minute, cost_micros, '' AS state, NULL AS total_budget_micros
    FROM ads_minute FINAL
    WHERE fold_version = 1
        AND campaign_id IN (SELECT campaign_id FROM campaigns WHERE ad_group_id = '' AND total_budget_micros IS NOT NULL)
    UNION ALL
    SELECT platform, creator_id, campaign_id, toDateTime(0, 'UTC') AS minute, 0 AS cost_micros, state, total_budget_micros
    FROM campaigns
    WHERE ad_group_id = ''
) AS counts
GROUP BY platform, campaign_id
HAVING isNotNull(max(counts.total_budget_micros))
COMMENT 'Campaigns that have a total budget: what is spent of it, and how long the rest lasts.';

-- Alerts may also be about an hour.
ALTER TABLE alerts
    COMMENT COLUMN id 'Identifier: kind, platform, creator, subject if there is one, and day, or begin of the hour in UTC; an alert is opened once and resolved once',
    COMMENT COLUMN at 'Event time that the figures are true of: the end of the day or hour, or how far the running one had got',
    COMMENT COLUMN figures 'Figures by name: counts, millionths of a yuan, rates from 0 to 1, standard deviations; docs/alerts.md has the formulas',
    COMMENT COLUMN resolved_at 'When that day, or hour of it, ended; 1970-01-01: it is open',
    COMMENT COLUMN resolved_figures 'Figures of that day or hour';
