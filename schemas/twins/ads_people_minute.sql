-- Twin of the table ads_people_minute: events, cost and value of each campaign, per region, age band and gender of the fan, and minute.
-- events are those of the topic ad_events that count, each once, with minute, hour and day (local) of event_time.
SELECT
    platform,
    campaign_id,
    region,
    age_band,
    gender,
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
GROUP BY platform, campaign_id, region, age_band, gender, minute, partition
