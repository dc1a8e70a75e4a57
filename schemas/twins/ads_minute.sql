-- Twin of the table ads_minute: events, cost and value of advertisements, per campaign, ad group, creative, audience, channel and minute.
-- events are those of the topic ad_events that count, each once, with minute, hour and day (local) of event_time.
SELECT
    platform,
    creator_id,
    campaign_id,
    ad_group_id,
    creative_id,
    audience,
    channel,
    minute,
    partition,
    countIf(kind = 'impression') AS impressions,
    countIf(kind = 'click') AS clicks,
    countIf(kind = 'play') AS plays,
    countIf(kind = 'conversion') AS conversions,
    sum(ifNull(events.cost_micros, 0)) AS cost_micros,
    sum(ifNull(events.value_micros, 0)) AS conversion_value_micros,
    max(`offset`) AS applied
FROM events
GROUP BY platform, creator_id, campaign_id, ad_group_id, creative_id, audience, channel, minute, partition
