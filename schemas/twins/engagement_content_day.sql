-- Twin of the table engagement_content_day: what fans did with each video, per local calendar day.
-- events are those of the topic interactions that count, each once, with minute, hour and day (local) of event_time.
SELECT
    platform,
    creator_id,
    content_id,
    day,
    partition,
    countIf(kind = 'view') AS plays,
    countIf(kind = 'like') AS likes,
    countIf(kind = 'comment') AS comments,
    countIf(kind = 'share') AS shares,
    countIf(kind = 'favorite') AS favorites,
    countIf(kind = 'follow') AS follows,
    countIf(kind = 'unfollow') AS unfollows,
    countIf(kind = 'profile_visit') AS profile_visits,
    countIf(kind = 'product_exposure') AS product_exposures,
    countIf(kind = 'product_click') AS product_clicks,
    sumIf(ifNull(events.watch_ms, 0), kind = 'view') AS watch_ms,
    countIf(kind = 'view' AND events.duration_ms > 0 AND events.watch_ms >= events.duration_ms) AS completions,
    max(`offset`) AS applied
FROM events
WHERE content_id != ''
    AND kind IN ('view', 'like', 'comment', 'share', 'favorite', 'follow', 'unfollow', 'profile_visit', 'product_exposure', 'product_click')
GROUP BY platform, creator_id, content_id, day, partition
