-- Attribution: which advertisement won each follow and each order. A conversion is won by the last touch, a click or an
-- impression of an advertisement, of the same platform, fan and creator within its window. Rows are absolute: of several
-- with one key the highest applied is right. Read the tables FINAL, or through the views; docs/attribution.md explains it.

CREATE TABLE IF NOT EXISTS attributions
(
    platform LowCardinality(String) COMMENT 'Platform: douyin or kuaishou',
    creator_id String COMMENT 'Creator who was followed, or whose shop it is',
    fan UInt64 COMMENT 'Keyed hash of the fan id',
    kind LowCardinality(String) COMMENT 'follow; order: an order paid; refund: an order refunded, of which no touch is told',
    converted_at DateTime64(3, 'UTC') COMMENT 'When it happened, as the producer says',
    partition UInt16 COMMENT 'Kafka partition; all of a fan is in the partition of one number',
    `offset` Int64 COMMENT 'Kafka offset of the event: of a follow in the topic interactions, else in orders',
    order_id String COMMENT 'Order; empty for a follow',
    amount_micros Int64 COMMENT 'Amount paid or refunded, millionths of a yuan; 0 for a follow',
    beyond UInt8 COMMENT '1: it came when its topic had long been given up, so the stream looked at no touches; fanpulse repair does',
    touch LowCardinality(String) COMMENT 'What won it: click, impression or none',
    touched_at DateTime64(3, 'UTC') COMMENT 'When that happened; 1970-01-01: none',
    touch_offset Int64 COMMENT 'Kafka offset of that in the topic ad_events; -1: none',
    campaign_id String COMMENT 'Campaign of the touch; empty: none',
    ad_group_id String COMMENT 'Ad group of the touch; empty: none',
    creative_id String COMMENT 'Creative of the touch; empty: none',
    audience LowCardinality(String) COMMENT 'Targeting label of the touch; empty: none',
    channel LowCardinality(String) COMMENT 'Where it ran: feed, dou_plus, search or live; empty: none',
    origin LowCardinality(String) COMMENT 'stream: of what came in time; repair: a conversion that came late, as fanpulse repair has it; the later touch of both is right',
    fold_version UInt16 COMMENT 'Version of the definition; the views read the one in force',
    applied Int64 COMMENT 'Up to which offset the row is true: of origin stream in the topic fan_touches, of origin repair in ad_events; of rows with one key the highest is right'
)
ENGINE = ReplacingMergeTree(applied)
PARTITION BY toYYYYMM(converted_at)
ORDER BY (creator_id, kind, converted_at, platform, partition, `offset`, origin, fold_version)
COMMENT 'Every follow and every order paid, with the touch that won it of those that came in time, and every refund. For analysis: attributed_conversions.';

CREATE TABLE IF NOT EXISTS late_touches
(
    platform LowCardinality(String) COMMENT 'Platform: douyin or kuaishou',
    creator_id String COMMENT 'Creator whose advertisement it is',
    fan UInt64 COMMENT 'Keyed hash of the fan id',
    touched_at DateTime64(3, 'UTC') COMMENT 'When it happened, as the producer says',
    touch LowCardinality(String) COMMENT 'click or impression',
    partition UInt16 COMMENT 'Kafka partition; all of a fan is in the partition of one number',
    `offset` Int64 COMMENT 'Kafka offset in the topic ad_events',
    campaign_id String COMMENT 'Campaign',
    ad_group_id String COMMENT 'Ad group',
    creative_id String COMMENT 'Creative',
    audience LowCardinality(String) COMMENT 'Targeting label',
    channel LowCardinality(String) COMMENT 'Where it ran: feed, dou_plus, search or live',
    fold_version UInt16 COMMENT 'Version of the definition; the views read the one in force'
)
ENGINE = ReplacingMergeTree
PARTITION BY toYYYYMM(touched_at)
ORDER BY (creator_id, platform, fan, touched_at, partition, `offset`, fold_version)
COMMENT 'Clicks and impressions that came too late for the rows of attributions: late ones that fanpulse repair has taken in, and those of a topic that had been given up. Views look at both.';

CREATE OR REPLACE VIEW attributed_conversions
(
    platform LowCardinality(String) COMMENT 'Platform: douyin or kuaishou',
    creator_id String COMMENT 'Creator who was followed, or whose shop it is',
    fan UInt64 COMMENT 'Keyed hash of the fan id',
    kind LowCardinality(String) COMMENT 'follow; order: an order paid',
    converted_at DateTime64(3, 'UTC') COMMENT 'When it happened, as the producer says',
    order_id String COMMENT 'Order; empty for a follow',
    touch LowCardinality(String) COMMENT 'What won it, the last touch: click; impression; none: there was none within its window',
    touched_at Nullable(DateTime64(3, 'UTC')) COMMENT 'When that happened; NULL: none',
    seconds_between Nullable(Float64) COMMENT 'Seconds from the touch to the conversion; NULL: none',
    campaign_id String COMMENT 'Campaign of the touch; empty: none',
    ad_group_id String COMMENT 'Ad group of the touch; empty: none',
    creative_id String COMMENT 'Creative of the touch; empty: none',
    audience LowCardinality(String) COMMENT 'Targeting label of the touch; empty: none',
    channel LowCardinality(String) COMMENT 'Where it ran: feed, dou_plus, search or live; empty: none',
    revenue_micros Int64 COMMENT 'Amount of the order, millionths of a yuan; 0 for a follow',
    refunded_micros Int64 COMMENT 'What was refunded of the order by now, all on its first payment, millionths of a yuan',
    net_micros Int64 COMMENT 'revenue_micros - refunded_micros; below 0: more was refunded than this paid',
    partition UInt16 COMMENT 'Kafka partition',
    `offset` Int64 COMMENT 'Kafka offset of the event: of a follow in the topic interactions, of an order in orders'
)
AS WITH
    (SELECT max(JSONExtractInt(parameters, 'click_window')) * 3600000 FROM checkpoints WHERE agent = 'attribution') AS click_ms,
    (SELECT max(JSONExtractInt(parameters, 'view_window')) * 3600000 FROM checkpoints WHERE agent = 'attribution') AS view_ms,
    (fromUnixTimestamp64Milli(toInt64(0), 'UTC'), toUInt8(0), toInt64(-1), 'none', '', '', '', '', '') AS nothing,
    -- Of touches at one time a click is before an impression, then the higher offset.
    arraySort([
        conversions.told,
        if(toUnixTimestamp64Milli(conversions.converted_at) - toUnixTimestamp64Milli(late_clicks.touched_at) <= click_ms, late_clicks.told, nothing),
        if(toUnixTimestamp64Milli(conversions.converted_at) - toUnixTimestamp64Milli(late_impressions.touched_at) <= view_ms, late_impressions.told, nothing)
    ])[-1] AS won
SELECT
    conversions.platform AS platform,
    conversions.creator_id AS creator_id,
    conversions.fan AS fan,
    conversions.kind AS kind,
    conversions.converted_at AS converted_at,
    conversions.order_id AS order_id,
    won.4 AS touch,
    if(touch = 'none', NULL, won.1) AS touched_at,
    (toUnixTimestamp64Milli(conversions.converted_at) - toUnixTimestamp64Milli(touched_at)) / 1000 AS seconds_between,
    won.5 AS campaign_id,
    won.6 AS ad_group_id,
    won.7 AS creative_id,
    won.8 AS audience,
    won.9 AS channel,
    conversions.amount_micros AS revenue_micros,
    refunds.refunded_micros AS refunded_micros,
    revenue_micros - refunded_micros AS net_micros,
    conversions.partition AS partition,
    conversions.`offset` AS `offset`
FROM
(
    SELECT
        platform,
        creator_id,
        fan,
        kind,
        converted_at,
        partition,
        `offset`,
        any(attributions.order_id) AS order_id,
        any(attributions.amount_micros) AS amount_micros,
        max((touched_at, touch = 'click', touch_offset, toString(touch), campaign_id, ad_group_id, creative_id, toString(audience), toString(channel))) AS told
    FROM attributions FINAL
    WHERE fold_version = 1 AND kind != 'refund'
    GROUP BY platform, creator_id, fan, kind, converted_at, partition, `offset`
) AS conversions
ASOF LEFT JOIN
(
    SELECT
        platform, creator_id, fan, partition, touched_at,
        max((late_touches.touched_at, toUInt8(1), toInt64(`offset`), 'click', campaign_id, ad_group_id, creative_id, toString(audience), toString(channel))) AS told
    FROM late_touches
    WHERE fold_version = 1 AND touch = 'click'
    GROUP BY platform, creator_id, fan, partition, touched_at
) AS late_clicks
ON conversions.platform = late_clicks.platform AND conversions.creator_id = late_clicks.creator_id AND conversions.fan = late_clicks.fan
    AND conversions.partition = late_clicks.partition AND conversions.converted_at >= late_clicks.touched_at
ASOF LEFT JOIN
(
    SELECT
        platform, creator_id, fan, partition, touched_at,
        max((late_touches.touched_at, toUInt8(0), toInt64(`offset`), 'impression', campaign_id, ad_group_id, creative_id, toString(audience), toString(channel))) AS told
    FROM late_touches
    WHERE fold_version = 1 AND touch = 'impression'
    GROUP BY platform, creator_id, fan, partition, touched_at
) AS late_impressions
ON conversions.platform = late_impressions.platform AND conversions.creator_id = late_impressions.creator_id AND conversions.fan = late_impressions.fan
    AND conversions.partition = late_impressions.partition AND conversions.converted_at >= late_impressions.touched_at
LEFT JOIN
(
    SELECT 'order' AS kind, payments.partition AS partition, first_offset AS `offset`, refunded_micros
    FROM
    (
        SELECT partition, platform, creator_id, fan, order_id, sum(amount_micros) AS refunded_micros
        FROM
        (
            -- One that repair has, too, is one.
            SELECT partition, platform, creator_id, fan, order_id, `offset`, any(attributions.amount_micros) AS amount_micros
            FROM attributions FINAL
            WHERE fold_version = 1 AND kind = 'refund'
            GROUP BY partition, platform, creator_id, fan, order_id, `offset`
        )
        GROUP BY partition, platform, creator_id, fan, order_id
    ) AS refunded
    INNER JOIN
    (
        SELECT partition, platform, creator_id, fan, order_id, argMin(`offset`, (converted_at, `offset`)) AS first_offset
        FROM attributions
        WHERE fold_version = 1 AND kind = 'order'
            AND (platform, creator_id, fan, order_id) IN (SELECT platform, creator_id, fan, order_id FROM attributions WHERE kind = 'refund' AND fold_version = 1)
        GROUP BY partition, platform, creator_id, fan, order_id
    ) AS payments
    USING (partition, platform, creator_id, fan, order_id)
) AS refunds
ON conversions.kind = refunds.kind AND conversions.partition = refunds.partition AND conversions.`offset` = refunds.`offset`
COMMENT 'Every follow and every order paid, each with the advertisement that won it, if any did, and with what was refunded.';

CREATE OR REPLACE VIEW attribution_hours
(
    platform LowCardinality(String) COMMENT 'Platform: douyin or kuaishou',
    creator_id String COMMENT 'Creator whose advertisement it is',
    campaign_id String COMMENT 'Campaign',
    by LowCardinality(String) COMMENT 'What value is one of: campaign, ad_group, creative, audience or channel; each adds up to the campaign',
    value String COMMENT 'Id or label of it',
    hour DateTime('UTC') COMMENT 'Hour of event time, UTC: of what was spent, and of the touches; what they won may have happened days later, so the hours of the last days still grow',
    impressions Int64 COMMENT 'Times that advertisements were shown',
    clicks Int64 COMMENT 'Clicks on them',
    cost_micros Int64 COMMENT 'Spend: cost that their events carry, of every kind, millionths of a yuan',
    follows Int64 COMMENT 'Follows that they won',
    orders Int64 COMMENT 'Orders that they won',
    revenue_micros Int64 COMMENT 'Amount of these orders, millionths of a yuan',
    refunded_micros Int64 COMMENT 'Of it what was refunded by now, millionths of a yuan',
    net_micros Int64 COMMENT 'Attributed revenue: revenue_micros - refunded_micros',
    follow_cost_micros Nullable(Int64) COMMENT 'Cost of a fan: cost / follows, millionths of a yuan, rounded to the nearest, a half up; NULL without follows',
    order_cost_micros Nullable(Int64) COMMENT 'Cost of an order: cost / orders, rounded likewise; NULL without orders',
    roas Nullable(Float64) COMMENT 'ROAS: net_micros / cost_micros; NULL without cost',
    roi Nullable(Float64) COMMENT 'ROI: (net_micros - cost_micros) / cost_micros; -1: nothing came back; NULL without cost'
)
AS SELECT
    platform,
    creator_id,
    campaign_id,
    by,
    value,
    at AS hour,
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
        toStartOfHour(minute) AS at, impressions, clicks, cost_micros, 0 AS follows, 0 AS orders, 0 AS revenue_micros,
        0 AS refunded_micros
    FROM ads_minute FINAL
    WHERE fold_version = 1
    UNION ALL
    SELECT
        platform, creator_id, campaign_id, ad_group_id, creative_id, toString(audience), toString(channel),
        toDateTime(toStartOfHour(assumeNotNull(touched_at)), 'UTC'), 0, 0, 0, toInt64(kind = 'follow'), toInt64(kind = 'order'), revenue_micros,
        refunded_micros
    FROM attributed_conversions
    WHERE touch != 'none'
) AS figures
ARRAY JOIN
    ['campaign', 'ad_group', 'creative', 'audience', 'channel'] AS by,
    [campaign_id, ad_group_id, creative_id, target, ran] AS value
GROUP BY platform, creator_id, campaign_id, by, value, hour
COMMENT 'What every campaign spent and what that brought, by the hour in which it was seen or clicked. Choose by, or all is there five times.';

-- Ratios do not add up: this view has those of any time, and of all campaigns together.
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
    WHERE touch != 'none' AND touched_at >= {since:DateTime('UTC')} AND touched_at < {until:DateTime('UTC')}
) AS figures
GROUP BY platform, campaign_id, value
COMMENT 'What was spent in a time and what that brought, by one thing: SELECT ... FROM attribution_by(by = \'audience\', since = \'2026-01-01 00:00:00\', until = now()). by is creator, campaign, ad_group, creative, audience, channel or hour (local, 0 to 23); value is one of it; campaign_id is empty where figures span campaigns. The other columns are those of attribution_hours.';

-- Why nothing won: the last touch of any age, from the events themselves.
CREATE OR REPLACE VIEW attribution_misses
AS SELECT
    misses.platform AS platform,
    misses.creator_id AS creator_id,
    misses.fan AS fan,
    misses.kind AS kind,
    misses.converted_at AS converted_at,
    misses.order_id AS order_id,
    misses.revenue_micros AS revenue_micros,
    if(touches.there, touches.what, 'none') AS last_touch,
    if(touches.there, touches.event_time, NULL) AS last_touched_at,
    (toUnixTimestamp64Milli(misses.converted_at) - toUnixTimestamp64Milli(last_touched_at)) / 1000 AS seconds_between,
    touches.campaign_id AS campaign_id,
    multiIf(last_touch = 'none', 'never touched', last_touch = 'click', 'click before the window', 'impression before the window') AS reason
FROM
(
    SELECT * FROM attributed_conversions
    WHERE touch = 'none' AND converted_at >= {since:DateTime('UTC')} AND converted_at < {until:DateTime('UTC')}
) AS misses
ASOF LEFT JOIN
(
    SELECT 1 AS there, platform, creator_id, fan, partition, event_time, max(events_ad_events.kind = 'click') AS clicked,
        if(clicked, 'click', 'impression') AS what, argMax(events_ad_events.campaign_id, (events_ad_events.kind = 'click', `offset`)) AS campaign_id
    FROM events_ad_events
    WHERE events_ad_events.kind IN ('click', 'impression')
        AND (platform, creator_id, fan) IN
        (
            SELECT platform, creator_id, fan FROM attributed_conversions
            WHERE touch = 'none' AND converted_at >= {since:DateTime('UTC')} AND converted_at < {until:DateTime('UTC')}
        )
    GROUP BY platform, creator_id, fan, partition, event_time
) AS touches
ON misses.platform = touches.platform AND misses.creator_id = touches.creator_id AND misses.fan = touches.fan
    AND misses.partition = touches.partition AND misses.converted_at >= touches.event_time
COMMENT 'Why no advertisement won a follow or an order of a time: SELECT ... FROM attribution_misses(since = \'2026-01-01 00:00:00\', until = now()). last_touch, last_touched_at, seconds_between and campaign_id are of the last click or impression before, however long ago; reason says it in words.';

CREATE OR REPLACE VIEW acquired_fans
(
    platform LowCardinality(String) COMMENT 'Platform: douyin or kuaishou',
    creator_id String COMMENT 'Creator who was followed',
    fan UInt64 COMMENT 'Keyed hash of the fan id',
    followed_at DateTime64(3, 'UTC') COMMENT 'First follow that an advertisement won',
    day Date COMMENT 'Local calendar day of that (time zone: setting FANPULSE_TIME_ZONE)',
    touch LowCardinality(String) COMMENT 'What won it: click or impression',
    touched_at DateTime64(3, 'UTC') COMMENT 'When that happened',
    hour UInt8 COMMENT 'Local hour of the touch, 0 to 23',
    campaign_id String COMMENT 'Campaign of the touch',
    ad_group_id String COMMENT 'Ad group of the touch',
    creative_id String COMMENT 'Creative of the touch',
    audience LowCardinality(String) COMMENT 'Targeting label of the touch',
    channel LowCardinality(String) COMMENT 'Where it ran: feed, dou_plus, search or live',
    seconds_between Float64 COMMENT 'Seconds from the touch to the follow'
)
AS WITH
    (SELECT if(count() = 0, 'UTC', argMax(time_zone, written_at)) FROM fan_settings) AS zone
SELECT
    platform,
    creator_id,
    fan,
    first.1 AS followed_at,
    toDate(followed_at, zone) AS day,
    first.2 AS touch,
    first.3 AS touched_at,
    toHour(touched_at, zone) AS hour,
    first.4 AS campaign_id,
    first.5 AS ad_group_id,
    first.6 AS creative_id,
    first.7 AS audience,
    first.8 AS channel,
    first.9 AS seconds_between
FROM
(
    SELECT
        platform,
        creator_id,
        fan,
        argMin((converted_at, touch, assumeNotNull(won.touched_at), campaign_id, ad_group_id, creative_id, audience, channel, assumeNotNull(won.seconds_between)), (converted_at, won.`offset`)) AS first
    FROM attributed_conversions AS won
    WHERE kind = 'follow' AND touch != 'none'
    GROUP BY platform, creator_id, fan
)
COMMENT 'Every fan whom an advertisement brought to a creator: the first follow that one won, and which it was.';

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
    -- The day of the last refresh is not over. Who follows on the Sunday has day n on week + 6 + n.
    (SELECT max(day) FROM fan_refreshes) AS today
SELECT
    platform,
    creator_id,
    toMonday(followed_on) AS week,
    by,
    value,
    count() AS fans,
    if(week + 7 < today, countIf(has(days, followed_on + 1)), NULL) AS retained_1,
    if(week + 13 < today, countIf(has(days, followed_on + 7)), NULL) AS retained_7,
    if(week + 36 < today, countIf(has(days, followed_on + 30)), NULL) AS retained_30,
    retained_1 / fans AS retention_1,
    retained_7 / fans AS retention_7,
    retained_30 / fans AS retention_30,
    if(week + 7 < today, sum(first_day), NULL) AS value_1_micros,
    if(week + 13 < today, sum(first_week), NULL) AS value_7_micros,
    if(week + 36 < today, sum(first_month), NULL) AS value_30_micros
FROM
(
    SELECT
        acquired.platform AS platform,
        acquired.creator_id AS creator_id,
        acquired.fan AS fan,
        any(acquired.day) AS followed_on,
        any(acquired.campaign_id) AS campaign_id,
        any(acquired.ad_group_id) AS ad_group_id,
        any(acquired.creative_id) AS creative_id,
        any(toString(acquired.audience)) AS target,
        any(toString(acquired.channel)) AS ran,
        any(toString(acquired.hour)) AS seen_hour,
        groupArrayIf(features.day, features.actions > 0) AS days,
        sumIf(features.gift_micros + features.order_micros + features.membership_micros - features.refund_micros, features.day BETWEEN acquired.day AND acquired.day + 1) AS first_day,
        sumIf(features.gift_micros + features.order_micros + features.membership_micros - features.refund_micros, features.day BETWEEN acquired.day AND acquired.day + 7) AS first_week,
        sumIf(features.gift_micros + features.order_micros + features.membership_micros - features.refund_micros, features.day BETWEEN acquired.day AND acquired.day + 30) AS first_month
    FROM acquired_fans AS acquired
    LEFT JOIN (SELECT * FROM fan_days FINAL) AS features
    ON acquired.platform = features.platform AND acquired.creator_id = features.creator_id AND acquired.fan = features.fan
    GROUP BY platform, creator_id, fan
)
ARRAY JOIN
    ['all', 'campaign', 'ad_group', 'creative', 'audience', 'channel', 'hour'] AS by,
    ['', campaign_id, ad_group_id, creative_id, target, ran, seen_hour] AS value
GROUP BY platform, creator_id, week, by, value
COMMENT 'How long the fans whom advertisements brought stay and what they bring, by local week of their follow, all of them and by what brought them. Each line is a cohort.';
