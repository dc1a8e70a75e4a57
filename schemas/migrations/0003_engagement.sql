-- Engagement: absolute counts per key and Kafka partition (never increments), so that a repeated write changes nothing.
-- Read them FINAL, or through the views.

CREATE TABLE IF NOT EXISTS engagement_creator_minute
(
    platform LowCardinality(String) COMMENT 'Platform: douyin or kuaishou',
    creator_id String COMMENT 'Creator',
    minute DateTime('UTC') COMMENT 'Minute of event time, UTC',
    partition UInt16 COMMENT 'Kafka partition whose events the row holds; sum over it',
    origin LowCardinality(String) COMMENT 'stream: events that came in time; repair: those taken in by fanpulse repair; sum over it',
    fold_version UInt16 COMMENT 'Version of the definition; the views read the one in force',
    plays Int64 COMMENT 'Plays of videos',
    likes Int64 COMMENT 'Likes of videos',
    comments Int64 COMMENT 'Comments under videos',
    shares Int64 COMMENT 'Shares of videos',
    favorites Int64 COMMENT 'Videos put among the favorites',
    follows Int64 COMMENT 'Fans who followed',
    unfollows Int64 COMMENT 'Fans who left',
    profile_visits Int64 COMMENT 'Visits of the creator page',
    product_exposures Int64 COMMENT 'Product cards shown',
    product_clicks Int64 COMMENT 'Product cards clicked',
    live_entries Int64 COMMENT 'Entries into live rooms',
    live_exits Int64 COMMENT 'Exits from live rooms',
    live_comments Int64 COMMENT 'Comments in live rooms',
    live_likes Int64 COMMENT 'Likes in live rooms',
    badges_lit Int64 COMMENT 'Fan badges lit',
    group_joins Int64 COMMENT 'Fans who joined a fan group',
    group_leaves Int64 COMMENT 'Fans who left a fan group',
    group_messages Int64 COMMENT 'Messages in fan groups',
    group_votes Int64 COMMENT 'Votes in fan groups',
    group_checkins Int64 COMMENT 'Check-ins in fan groups',
    welfare_claims Int64 COMMENT 'Welfares claimed in fan groups',
    group_link_clicks Int64 COMMENT 'Links clicked in fan groups',
    private_messages Int64 COMMENT 'Private messages to the creator',
    watch_ms Int64 COMMENT 'Time watched in these plays, milliseconds',
    completions Int64 COMMENT 'Plays of which at least the whole duration was watched',
    stay_ms Int64 COMMENT 'Time stayed in live rooms by those who left, milliseconds',
    applied Int64 COMMENT 'Kafka offset of the last event in this row; of rows with one key the highest is right'
)
ENGINE = ReplacingMergeTree(applied)
PARTITION BY toYYYYMM(minute)
ORDER BY (creator_id, platform, minute, partition, origin, fold_version)
COMMENT 'Engagement of each creator by minute: counts of every kind of interaction.';

CREATE TABLE IF NOT EXISTS engagement_content_minute
(
    platform LowCardinality(String) COMMENT 'Platform: douyin or kuaishou',
    creator_id String COMMENT 'Creator',
    content_id String COMMENT 'Video',
    minute DateTime('UTC') COMMENT 'Minute of event time, UTC',
    partition UInt16 COMMENT 'Kafka partition whose events the row holds; sum over it',
    origin LowCardinality(String) COMMENT 'stream: events that came in time; repair: those taken in by fanpulse repair; sum over it',
    fold_version UInt16 COMMENT 'Version of the definition; the views read the one in force',
    plays Int64 COMMENT 'Plays of videos',
    likes Int64 COMMENT 'Likes of videos',
    comments Int64 COMMENT 'Comments under videos',
    shares Int64 COMMENT 'Shares of videos',
    favorites Int64 COMMENT 'Videos put among the favorites',
    follows Int64 COMMENT 'Fans who followed',
    unfollows Int64 COMMENT 'Fans who left',
    profile_visits Int64 COMMENT 'Visits of the creator page',
    product_exposures Int64 COMMENT 'Product cards shown',
    product_clicks Int64 COMMENT 'Product cards clicked',
    watch_ms Int64 COMMENT 'Time watched in these plays, milliseconds',
    completions Int64 COMMENT 'Plays of which at least the whole duration was watched',
    applied Int64 COMMENT 'Kafka offset of the last event in this row; of rows with one key the highest is right'
)
ENGINE = ReplacingMergeTree(applied)
PARTITION BY toYYYYMMDD(minute)
ORDER BY (toStartOfHour(minute), creator_id, platform, content_id, minute, partition, origin, fold_version)
TTL minute + INTERVAL 4 DAY
COMMENT 'Engagement of each video by minute, for the newest days: events that came within three days of happening, kept for four.';

CREATE TABLE IF NOT EXISTS engagement_content_hour
(
    platform LowCardinality(String) COMMENT 'Platform: douyin or kuaishou',
    creator_id String COMMENT 'Creator',
    content_id String COMMENT 'Video',
    hour DateTime('UTC') COMMENT 'Hour of event time, UTC',
    partition UInt16 COMMENT 'Kafka partition whose events the row holds; sum over it',
    origin LowCardinality(String) COMMENT 'stream: events that came in time; repair: those taken in by fanpulse repair; sum over it',
    fold_version UInt16 COMMENT 'Version of the definition; the views read the one in force',
    plays Int64 COMMENT 'Plays of videos',
    likes Int64 COMMENT 'Likes of videos',
    comments Int64 COMMENT 'Comments under videos',
    shares Int64 COMMENT 'Shares of videos',
    favorites Int64 COMMENT 'Videos put among the favorites',
    follows Int64 COMMENT 'Fans who followed',
    unfollows Int64 COMMENT 'Fans who left',
    profile_visits Int64 COMMENT 'Visits of the creator page',
    product_exposures Int64 COMMENT 'Product cards shown',
    product_clicks Int64 COMMENT 'Product cards clicked',
    watch_ms Int64 COMMENT 'Time watched in these plays, milliseconds',
    completions Int64 COMMENT 'Plays of which at least the whole duration was watched',
    applied Int64 COMMENT 'Kafka offset of the last event in this row; of rows with one key the highest is right'
)
ENGINE = ReplacingMergeTree(applied)
PARTITION BY toYYYYMM(hour)
ORDER BY (creator_id, platform, content_id, hour, partition, origin, fold_version)
COMMENT 'Engagement of each video by hour.';

CREATE TABLE IF NOT EXISTS engagement_content_day
(
    platform LowCardinality(String) COMMENT 'Platform: douyin or kuaishou',
    creator_id String COMMENT 'Creator',
    content_id String COMMENT 'Video',
    day Date COMMENT 'Local calendar day of event time (time zone: setting FANPULSE_TIME_ZONE)',
    partition UInt16 COMMENT 'Kafka partition whose events the row holds; sum over it',
    origin LowCardinality(String) COMMENT 'stream: events that came in time; repair: those taken in by fanpulse repair; sum over it',
    fold_version UInt16 COMMENT 'Version of the definition; the views read the one in force',
    plays Int64 COMMENT 'Plays of videos',
    likes Int64 COMMENT 'Likes of videos',
    comments Int64 COMMENT 'Comments under videos',
    shares Int64 COMMENT 'Shares of videos',
    favorites Int64 COMMENT 'Videos put among the favorites',
    follows Int64 COMMENT 'Fans who followed',
    unfollows Int64 COMMENT 'Fans who left',
    profile_visits Int64 COMMENT 'Visits of the creator page',
    product_exposures Int64 COMMENT 'Product cards shown',
    product_clicks Int64 COMMENT 'Product cards clicked',
    watch_ms Int64 COMMENT 'Time watched in these plays, milliseconds',
    completions Int64 COMMENT 'Plays of which at least the whole duration was watched',
    applied Int64 COMMENT 'Kafka offset of the last event in this row; of rows with one key the highest is right'
)
ENGINE = ReplacingMergeTree(applied)
PARTITION BY toYYYYMM(day)
ORDER BY (creator_id, platform, content_id, day, partition, origin, fold_version)
COMMENT 'Engagement of each video by local calendar day.';

CREATE TABLE IF NOT EXISTS viewers_minute
(
    platform LowCardinality(String) COMMENT 'Platform: douyin or kuaishou',
    creator_id String COMMENT 'Creator',
    content_id String COMMENT 'Video',
    minute DateTime('UTC') COMMENT 'Minute of event time, UTC',
    viewers AggregateFunction(uniq, UInt64) COMMENT 'Distinct fans who played it: read with uniqMerge(viewers)'
)
ENGINE = AggregatingMergeTree
PARTITION BY toYYYYMMDD(minute)
ORDER BY (toStartOfHour(minute), creator_id, platform, content_id, minute)
TTL minute + INTERVAL 4 DAY
COMMENT 'Distinct viewers of each video by minute, for the newest days. Estimate of ClickHouse uniq, off by about 0.1 %.';

CREATE TABLE IF NOT EXISTS viewers_hour
(
    platform LowCardinality(String) COMMENT 'Platform: douyin or kuaishou',
    creator_id String COMMENT 'Creator',
    content_id String COMMENT 'Video',
    hour DateTime('UTC') COMMENT 'Hour of event time, UTC',
    viewers AggregateFunction(uniq, UInt64) COMMENT 'Distinct fans who played it: read with uniqMerge(viewers)'
)
ENGINE = AggregatingMergeTree
PARTITION BY toYYYYMM(hour)
ORDER BY (creator_id, platform, content_id, hour)
COMMENT 'Distinct viewers of each video by hour. Estimate of ClickHouse uniq, off by about 0.1 %.';

CREATE MATERIALIZED VIEW IF NOT EXISTS viewers_minute_mv TO viewers_minute
AS SELECT
    platform,
    creator_id,
    content_id,
    toStartOfMinute(event_time) AS minute,
    uniqState(fan) AS viewers
FROM raw_interactions
WHERE kind = 'view' AND (late = 0 OR repaired = 1) AND appended_at < event_time + INTERVAL 3 DAY
GROUP BY platform, creator_id, content_id, minute
COMMENT 'Fills viewers_minute from raw_interactions. A row written twice leaves the set of fans unchanged.';

CREATE MATERIALIZED VIEW IF NOT EXISTS viewers_hour_mv TO viewers_hour
AS SELECT
    platform,
    creator_id,
    content_id,
    toStartOfHour(event_time) AS hour,
    uniqState(fan) AS viewers
FROM raw_interactions
WHERE kind = 'view' AND (late = 0 OR repaired = 1)
GROUP BY platform, creator_id, content_id, hour
COMMENT 'Fills viewers_hour from raw_interactions. A row written twice leaves the set of fans unchanged.';
