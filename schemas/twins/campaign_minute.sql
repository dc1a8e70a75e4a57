-- Twin of the rows of kind minute in the table rule_state: events, cost and value of each ad group, per minute and partition
-- of ad_events. events are those of the topic ad_events that count, each once, with minute of event_time.
SELECT
    platform,
    campaign_id,
    ad_group_id,
    minute,
    partition AS source,
    [
        toNullable(toInt64(countIf(kind = 'impression'))),
        toInt64(countIf(kind = 'click')),
        toInt64(countIf(kind = 'play')),
        toInt64(countIf(kind = 'conversion')),
        sum(ifNull(events.cost_micros, 0)),
        sum(ifNull(events.value_micros, 0))
    ] AS numbers
FROM events
GROUP BY platform, campaign_id, ad_group_id, minute, partition
