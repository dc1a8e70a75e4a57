-- Rolling engagement. The *_at views take the moment to look from, so that a figure can be had again; the plain ones
-- look from now. A window of n minutes is the n whole minutes before that moment.

CREATE OR REPLACE VIEW engagement_rolling_at
AS WITH
    toStartOfMinute({at:DateTime('UTC')}) AS upto,
    counts AS
    (
        SELECT
            platform,
            creator_id,
            span,
            minute < upto - INTERVAL 1 DAY AS yesterday,
            sum(plays) AS plays,
            sum(watch_ms) AS watch_ms,
            sum(completions) AS completions,
            sum(likes) AS likes,
            sum(comments) AS comments,
            sum(shares) AS shares,
            sum(favorites) AS favorites,
            sum(follows) AS follows,
            sum(unfollows) AS unfollows
        FROM
        (
            SELECT *
            FROM engagement_creator_minute FINAL
            WHERE fold_version = 1 AND minute >= upto - INTERVAL 2 DAY AND minute < upto
        )
        ARRAY JOIN [1, 5, 60, 1440] AS span
        WHERE (minute >= upto - toIntervalMinute(span))
            OR (minute < upto - INTERVAL 1 DAY AND minute >= upto - INTERVAL 1 DAY - toIntervalMinute(span))
        GROUP BY platform, creator_id, span, yesterday
    ),
    people AS
    (
        SELECT platform, creator_id, span, uniqMerge(viewers) AS viewers
        FROM
        (
            SELECT platform, creator_id, span, viewers
            FROM viewers_minute
            ARRAY JOIN [1, 5, 60, 1440] AS span
            WHERE minute >= upto - toIntervalMinute(span) AND minute < upto
                AND (span < 1440 OR minute < toStartOfHour(upto - INTERVAL 1 DAY + INTERVAL 59 MINUTE) OR minute >= toStartOfHour(upto))
            UNION ALL
            SELECT platform, creator_id, 1440 AS span, viewers
            FROM viewers_hour
            WHERE hour >= toStartOfHour(upto - INTERVAL 1 DAY + INTERVAL 59 MINUTE) AND hour < toStartOfHour(upto)
        )
        GROUP BY platform, creator_id, span
    )
SELECT
    upto AS window_end,
    transform(span, [1, 5, 60, 1440], ['1m', '5m', '1h', '24h'], '') AS window,
    span AS window_minutes,
    platform,
    creator_id,
    sumIf(counts.plays, NOT yesterday) AS plays,
    -- Minutes of viewers are kept for days only: beyond, no figure is better than one without its edges.
    if(upto < now() - INTERVAL 2 DAY, NULL, any(people.viewers)) AS viewers,
    sumIf(counts.watch_ms, NOT yesterday) / nullIf(plays, 0) AS mean_watch_ms,
    sumIf(counts.completions, NOT yesterday) / nullIf(plays, 0) AS completion_rate,
    sumIf(counts.likes, NOT yesterday) AS likes,
    sumIf(counts.comments, NOT yesterday) AS comments,
    sumIf(counts.shares, NOT yesterday) AS shares,
    sumIf(counts.favorites, NOT yesterday) AS favorites,
    sumIf(counts.follows, NOT yesterday) AS follows,
    sumIf(counts.unfollows, NOT yesterday) AS unfollows,
    (likes + comments + shares) / nullIf(plays, 0) AS engagement_rate,
    sumIf(counts.plays, yesterday) AS plays_yesterday,
    plays / nullIf(plays_yesterday, 0) - 1 AS plays_change,
    sumIf(counts.likes + counts.comments + counts.shares, yesterday) / nullIf(plays_yesterday, 0) AS engagement_rate_yesterday
FROM counts
LEFT JOIN people USING (platform, creator_id, span)
GROUP BY platform, creator_id, span
COMMENT 'engagement_rolling as it was at a moment (viewers: NULL from more than two days ago): SELECT ... FROM engagement_rolling_at(at = \'2026-01-31 12:00:00\').';

CREATE OR REPLACE VIEW engagement_rolling
(
    window_end DateTime('UTC') COMMENT 'End of the window: the last whole minute, UTC',
    window String COMMENT 'Length of the window: 1m, 5m, 1h or 24h',
    window_minutes UInt16 COMMENT 'Length of the window, minutes',
    platform LowCardinality(String) COMMENT 'Platform: douyin or kuaishou',
    creator_id String COMMENT 'Creator',
    plays Int64 COMMENT 'Plays of videos in the window',
    viewers Nullable(UInt64) COMMENT 'Distinct fans who played a video; an estimate, off by about 0.1 %',
    mean_watch_ms Nullable(Float64) COMMENT 'Mean time watched per play, milliseconds; NULL without plays',
    completion_rate Nullable(Float64) COMMENT 'Share of plays watched to the end; NULL without plays',
    likes Int64 COMMENT 'Likes of videos',
    comments Int64 COMMENT 'Comments under videos',
    shares Int64 COMMENT 'Shares of videos',
    favorites Int64 COMMENT 'Videos put among the favorites',
    follows Int64 COMMENT 'Fans who followed',
    unfollows Int64 COMMENT 'Fans who left',
    engagement_rate Nullable(Float64) COMMENT '(likes + comments + shares) / plays; NULL without plays',
    plays_yesterday Int64 COMMENT 'Plays in the same window a day before',
    plays_change Nullable(Float64) COMMENT 'plays / plays_yesterday - 1; NULL without plays then',
    engagement_rate_yesterday Nullable(Float64) COMMENT 'Engagement rate in the same window a day before'
)
AS SELECT * FROM engagement_rolling_at(at = toDateTime(now(), 'UTC'))
COMMENT 'Engagement of each creator over the last whole 1, 5, 60 and 1440 minutes, beside the same window a day before.';

CREATE OR REPLACE VIEW engagement_by_content_at
AS WITH
    toStartOfMinute({at:DateTime('UTC')}) AS upto,
    toStartOfHour(upto) AS last_hour,
    buckets AS
    (
        SELECT platform, creator_id, content_id, minute AS bucket, 1 AS fine, plays, watch_ms, completions, likes, comments, shares, favorites, follows
        FROM engagement_content_minute FINAL
        WHERE fold_version = 1 AND minute < upto
            AND (minute >= upto - INTERVAL 1 HOUR
                OR minute >= last_hour
                OR (minute >= upto - INTERVAL 1 DAY - INTERVAL 1 HOUR AND minute < toStartOfHour(upto - INTERVAL 1 DAY + INTERVAL 59 MINUTE))
                OR (minute >= upto - INTERVAL 2 DAY AND minute < toStartOfHour(upto - INTERVAL 2 DAY + INTERVAL 59 MINUTE)))
        UNION ALL
        SELECT platform, creator_id, content_id, hour AS bucket, 0 AS fine, plays, watch_ms, completions, likes, comments, shares, favorites, follows
        FROM engagement_content_hour FINAL
        WHERE fold_version = 1 AND hour >= upto - INTERVAL 2 DAY AND hour < last_hour
    ),
    -- The 24 hours of a window are whole hours and, at both ends, minutes.
    placed AS
    (
        SELECT
            *,
            arrayJoin([0, 1]) AS days_before,
            upto - toIntervalDay(days_before) AS window_upto,
            arrayJoin([1, 5, 60, 1440]) AS span,
            window_upto - toIntervalMinute(span) AS window_from,
            toStartOfHour(window_from + INTERVAL 59 MINUTE) AS first_whole,
            toStartOfHour(window_upto) AS last_whole
        FROM buckets
    )
SELECT
    upto AS window_end,
    transform(span, [1, 5, 60, 1440], ['1m', '5m', '1h', '24h'], '') AS window,
    toUInt16(span) AS window_minutes,
    platform,
    creator_id,
    content_id,
    sumIf(placed.plays, days_before = 0) AS plays,
    sumIf(placed.watch_ms, days_before = 0) / nullIf(plays, 0) AS mean_watch_ms,
    sumIf(placed.completions, days_before = 0) / nullIf(plays, 0) AS completion_rate,
    sumIf(placed.likes, days_before = 0) AS likes,
    sumIf(placed.comments, days_before = 0) AS comments,
    sumIf(placed.shares, days_before = 0) AS shares,
    sumIf(placed.favorites, days_before = 0) AS favorites,
    sumIf(placed.follows, days_before = 0) AS follows,
    (likes + comments + shares) / nullIf(plays, 0) AS engagement_rate,
    sumIf(placed.plays, days_before = 1) AS plays_yesterday,
    plays / nullIf(plays_yesterday, 0) - 1 AS plays_change
FROM placed
-- Minutes of videos are kept for days only: from further back no figure is better than one without its edges.
WHERE upto >= now() - INTERVAL 25 HOUR
    AND bucket >= window_from AND bucket < window_upto
    AND if(span < 1440, fine = 1, if(fine = 1, bucket < first_whole OR bucket >= last_whole, bucket >= first_whole AND bucket < last_whole))
GROUP BY platform, creator_id, content_id, span
COMMENT 'engagement_by_content as it was at a moment, no more than a day ago: SELECT ... FROM engagement_by_content_at(at = \'2026-01-31 12:00:00\').';

CREATE OR REPLACE VIEW engagement_by_content
(
    window_end DateTime('UTC') COMMENT 'End of the window: the last whole minute, UTC',
    window String COMMENT 'Length of the window: 1m, 5m, 1h or 24h',
    window_minutes UInt16 COMMENT 'Length of the window, minutes',
    platform LowCardinality(String) COMMENT 'Platform: douyin or kuaishou',
    creator_id String COMMENT 'Creator',
    content_id String COMMENT 'Video',
    plays Int64 COMMENT 'Plays in the window',
    mean_watch_ms Nullable(Float64) COMMENT 'Mean time watched per play, milliseconds; NULL without plays',
    completion_rate Nullable(Float64) COMMENT 'Share of plays watched to the end; NULL without plays',
    likes Int64 COMMENT 'Likes',
    comments Int64 COMMENT 'Comments',
    shares Int64 COMMENT 'Shares',
    favorites Int64 COMMENT 'Put among the favorites',
    follows Int64 COMMENT 'New fans whom this video brought',
    engagement_rate Nullable(Float64) COMMENT '(likes + comments + shares) / plays; NULL without plays',
    plays_yesterday Int64 COMMENT 'Plays in the same window a day before',
    plays_change Nullable(Float64) COMMENT 'plays / plays_yesterday - 1; NULL without plays then'
)
AS SELECT * FROM engagement_by_content_at(at = toDateTime(now(), 'UTC'))
COMMENT 'Engagement of each video over the last whole 1, 5, 60 and 1440 minutes, the new fans it brought, beside the same window a day before.';
