-- Rows of the table fan_days of the local days {days}, from the events that count.
-- The events of a day make its features. Clicks and plays of advertisements are with the two days after as well, for
-- what brought the fan: 24 hours before are the day before, or the one before that where a clock was put forward.
-- Of several first actions in one millisecond, or latest attributes, one is taken, by a checksum always the same:
-- tuples as keys would say so more plainly and take three times as long.
INSERT INTO fan_days
(
    platform, creator_id, fan, day, actions, interactions, plays, watch_ms, likes, comments, shares, favorites, follows,
    unfollows, live_entries, stay_ms, live_comments, group_messages, group_actions, product_clicks, ad_touches, gifts,
    gift_micros, orders, order_micros, memberships, membership_micros, refunds, refund_micros, first_action,
    last_action, last_unfollow, content_id, source, campaign_id, audience, gender, age_band, region, interest, hours,
    hour_actions, events
)
WITH events AS
(
    SELECT
        0 AS topic, platform, creator_id, fan, event_time, kind, content_id AS content, source AS traffic,
        '' AS campaign, '' AS target, ifNull(watch_ms, 0) AS watched, ifNull(stay_ms, 0) AS stayed, 0 AS micros, gender,
        age_band, region, interest
    FROM events_interactions
    WHERE event_time >= {since:DateTime64(3, 'UTC')} AND event_time < {before:DateTime64(3, 'UTC')}
        AND toDate(event_time, {zone:String}) IN {days:Array(Date)}
    UNION ALL
    SELECT
        1, platform, creator_id, fan, event_time, kind, '', toLowCardinality(''), '', '', 0, 0, value_micros, gender,
        age_band, region, interest
    FROM events_gifts
    WHERE event_time >= {since:DateTime64(3, 'UTC')} AND event_time < {before:DateTime64(3, 'UTC')}
        AND toDate(event_time, {zone:String}) IN {days:Array(Date)}
    UNION ALL
    SELECT
        2, platform, creator_id, fan, event_time, kind, content_id, toLowCardinality(''), '', '', 0, 0, amount_micros,
        gender, age_band, region, interest
    FROM events_orders
    WHERE event_time >= {since:DateTime64(3, 'UTC')} AND event_time < {before:DateTime64(3, 'UTC')}
        AND toDate(event_time, {zone:String}) IN {days:Array(Date)}
    UNION ALL
    SELECT
        3, platform, creator_id, fan, event_time, kind, '', toLowCardinality('ad'), campaign_id, toString(audience), 0,
        0, 0, gender, age_band, region, interest
    FROM events_ad_events
    WHERE event_time >= {since:DateTime64(3, 'UTC')} AND event_time < {before:DateTime64(3, 'UTC')}
        AND (kind != 'impression' OR 'impression' NOT IN {no_activity:Array(String)})
)
SELECT
    platform,
    creator_id,
    fan,
    day,
    countIf(own),
    countIf(own AND kind IN {interactions:Array(String)}),
    countIf(kind = 'view'),
    sumIf(watched, kind = 'view'),
    countIf(kind = 'like'),
    countIf(kind = 'comment'),
    countIf(kind = 'share'),
    countIf(kind = 'favorite'),
    countIf(kind = 'follow'),
    countIf(kind = 'unfollow'),
    countIf(kind = 'live_enter'),
    sumIf(stayed, kind = 'live_leave'),
    countIf(kind = 'live_comment'),
    countIf(kind = 'group_message'),
    countIf(kind IN ('group_vote', 'group_checkin', 'group_welfare_claim', 'group_link_click')),
    countIf(kind = 'product_click'),
    countIf(kind IN ('click', 'play') AND today),
    countIf(topic = 1),
    sumIf(micros, topic = 1),
    countIf(topic = 2 AND kind = 'paid'),
    sumIf(micros, topic = 2 AND kind = 'paid'),
    countIf(topic = 2 AND kind = 'membership'),
    sumIf(micros, topic = 2 AND kind = 'membership'),
    countIf(topic = 2 AND kind = 'refunded'),
    sumIf(micros, topic = 2 AND kind = 'refunded'),
    minIf(event_time, own) AS begun,
    maxIf(event_time, own),
    maxIf(event_time, kind = 'unfollow'),
    argMinIf(content, moment + CRC32(concat(traffic, content)) % 1048576, own),
    argMinIf(traffic, moment + CRC32(concat(traffic, content)) % 1048576, own),
    (arraySort(arrayFilter(
        touch -> touch.1 <= begun AND touch.1 >= begun - INTERVAL 1 DAY,
        groupArrayIf((event_time, campaign, target), kind IN ('click', 'play'))
    ))[-1] AS touched).2,
    touched.3,
    argMaxIf(gender, moment + CRC32(gender) % 1048576, today AND gender != ''),
    argMaxIf(age_band, moment + CRC32(age_band) % 1048576, today AND age_band != ''),
    argMaxIf(region, moment + CRC32(region) % 1048576, today AND region != ''),
    argMaxIf(interest, moment + CRC32(interest) % 1048576, today AND interest != ''),
    arraySort(arrayDistinct(groupArrayIf(hour, own) AS each_hour)) AS own_hours,
    arrayMap(at -> countEqual(each_hour, at), own_hours),
    countIf(today) AS held
FROM
(
    SELECT
        *,
        arrayJoin(if(kind IN ('click', 'play'), [0, 1, 2], [0])) AS later,
        toDate(event_time, {zone:String}) + later AS day,
        toHour(event_time, {zone:String}) AS hour,
        toUnixTimestamp64Milli(event_time) * 1048576 AS moment,
        later = 0 AS today,
        today AND kind NOT IN {no_activity:Array(String)} AS own
    FROM events
)
WHERE day IN {days:Array(Date)}
GROUP BY platform, creator_id, fan, day
HAVING held > 0
