-- Rows of the table fan_days of the local days {days}, from the events that count.
-- The events of a day make its features. Clicks and plays of advertisements are with the two days after as well, for
-- what brought the fan: 24 hours before are the day before, or the one before that where a clock was put forward. Of several first actions in one millisecond the least by source and content is taken, of several
-- advertisements the greatest by campaign and audience, of attributes the greatest.
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
        'interactions' AS topic, platform, creator_id, fan, event_time, toString(kind) AS step, content_id AS content,
        toString(source) AS traffic, '' AS campaign, '' AS target, ifNull(watch_ms, 0) AS watched,
        ifNull(stay_ms, 0) AS stayed, 0 AS micros, gender, age_band, region, interest
    FROM events_interactions
    WHERE event_time >= {since:DateTime64(3, 'UTC')} AND event_time < {before:DateTime64(3, 'UTC')}
        AND toDate(event_time, {zone:String}) IN {days:Array(Date)}
    UNION ALL
    SELECT
        'gifts', platform, creator_id, fan, event_time, toString(kind), '', '', '', '', 0, 0, value_micros, gender,
        age_band, region, interest
    FROM events_gifts
    WHERE event_time >= {since:DateTime64(3, 'UTC')} AND event_time < {before:DateTime64(3, 'UTC')}
        AND toDate(event_time, {zone:String}) IN {days:Array(Date)}
    UNION ALL
    SELECT
        'orders', platform, creator_id, fan, event_time, toString(kind), content_id, '', '', '', 0, 0, amount_micros,
        gender, age_band, region, interest
    FROM events_orders
    WHERE event_time >= {since:DateTime64(3, 'UTC')} AND event_time < {before:DateTime64(3, 'UTC')}
        AND toDate(event_time, {zone:String}) IN {days:Array(Date)}
    UNION ALL
    SELECT
        'ad_events', platform, creator_id, fan, event_time, toString(kind), '', 'ad', campaign_id, toString(audience),
        0, 0, 0, gender, age_band, region, interest
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
    countIf(own AND step IN {interactions:Array(String)}),
    countIf(step = 'view'),
    sumIf(watched, step = 'view'),
    countIf(step = 'like'),
    countIf(step = 'comment'),
    countIf(step = 'share'),
    countIf(step = 'favorite'),
    countIf(step = 'follow'),
    countIf(step = 'unfollow'),
    countIf(step = 'live_enter'),
    sumIf(stayed, step = 'live_leave'),
    countIf(step = 'live_comment'),
    countIf(step = 'group_message'),
    countIf(step IN ('group_vote', 'group_checkin', 'group_welfare_claim', 'group_link_click')),
    countIf(step = 'product_click'),
    countIf(step IN ('click', 'play') AND today),
    countIf(topic = 'gifts'),
    sumIf(micros, topic = 'gifts'),
    countIf(topic = 'orders' AND step = 'paid'),
    sumIf(micros, topic = 'orders' AND step = 'paid'),
    countIf(topic = 'orders' AND step = 'membership'),
    sumIf(micros, topic = 'orders' AND step = 'membership'),
    countIf(topic = 'orders' AND step = 'refunded'),
    sumIf(micros, topic = 'orders' AND step = 'refunded'),
    (minIf((event_time, traffic, content), own) AS begun).1,
    maxIf(event_time, own),
    maxIf(event_time, step = 'unfollow'),
    begun.3,
    begun.2,
    (arraySort(arrayFilter(
        touch -> touch.1 <= begun.1 AND touch.1 >= begun.1 - INTERVAL 1 DAY,
        groupArrayIf((event_time, campaign, target), step IN ('click', 'play'))
    ))[-1] AS touched).2,
    touched.3,
    argMaxIf(gender, (event_time, gender), today AND gender != ''),
    argMaxIf(age_band, (event_time, age_band), today AND age_band != ''),
    argMaxIf(region, (event_time, region), today AND region != ''),
    argMaxIf(interest, (event_time, interest), today AND interest != ''),
    (sumMapIf([toHour(event_time, {zone:String})], [toUInt32(1)], own) AS by_hour).1,
    by_hour.2,
    countIf(today) AS held
FROM
(
    SELECT
        *,
        arrayJoin(if(step IN ('click', 'play'), [0, 1, 2], [0])) AS later,
        toDate(event_time, {zone:String}) + later AS day,
        later = 0 AS today,
        today AND step NOT IN {no_activity:Array(String)} AS own
    FROM events
)
WHERE day IN {days:Array(Date)}
GROUP BY platform, creator_id, fan, day
HAVING held > 0
