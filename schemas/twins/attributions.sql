-- Twin of the table attributions: every follow, every order paid and every refund, with the touch that won it.
-- conversions are those events of the topics interactions and orders that count (kind: follow, order, refund), touches the
-- clicks and impressions of ad_events that do. click_ms and view_ms: how long after them they may win.
SELECT
    conversions.partition AS partition,
    conversions.kind AS kind,
    conversions.`offset` AS `offset`,
    conversions.platform AS platform,
    conversions.creator_id AS creator_id,
    conversions.fan AS fan,
    conversions.converted_at AS converted_at,
    conversions.order_id AS order_id,
    conversions.amount_micros AS amount_micros,
    toUnixTimestamp64Milli(conversions.converted_at) AS at,
    clicks.there AND conversions.kind != 'refund' AND at - toUnixTimestamp64Milli(clicks.touched_at) <= {click_ms:Int64} AS by_click,
    impressions.there AND conversions.kind != 'refund' AND at - toUnixTimestamp64Milli(impressions.touched_at) <= {view_ms:Int64} AS by_impression,
    -- The last touch wins; of both at one time the click does.
    multiIf(
        by_click AND (NOT by_impression OR clicks.touched_at >= impressions.touched_at), 'click',
        by_impression, 'impression',
        'none'
    ) AS touch,
    multiIf(
        touch = 'click', clicks.best,
        touch = 'impression', impressions.best,
        (toInt64(-1), '', '', '', '', '')
    ) AS best,
    multiIf(
        touch = 'click', clicks.touched_at,
        touch = 'impression', impressions.touched_at,
        fromUnixTimestamp64Milli(toInt64(0), 'UTC')
    ) AS touched_at,
    best.1 AS touch_offset,
    best.2 AS campaign_id,
    best.3 AS ad_group_id,
    best.4 AS creative_id,
    best.5 AS audience,
    best.6 AS channel
FROM conversions
-- The last click that is not after it; of several at one time that with the higher offset.
ASOF LEFT JOIN
(
    SELECT 1 AS there, partition, platform, creator_id, fan, touched_at, max((`offset`, campaign_id, ad_group_id, creative_id, audience, channel)) AS best
    FROM touches
    WHERE touch = 'click'
    GROUP BY partition, platform, creator_id, fan, touched_at
) AS clicks
ON conversions.partition = clicks.partition AND conversions.platform = clicks.platform AND conversions.creator_id = clicks.creator_id
    AND conversions.fan = clicks.fan AND conversions.converted_at >= clicks.touched_at
ASOF LEFT JOIN
(
    SELECT 1 AS there, partition, platform, creator_id, fan, touched_at, max((`offset`, campaign_id, ad_group_id, creative_id, audience, channel)) AS best
    FROM touches
    WHERE touch = 'impression'
    GROUP BY partition, platform, creator_id, fan, touched_at
) AS impressions
ON conversions.partition = impressions.partition AND conversions.platform = impressions.platform AND conversions.creator_id = impressions.creator_id
    AND conversions.fan = impressions.fan AND conversions.converted_at >= impressions.touched_at
