-- Raw tables: every accepted record of the source topics, once per (partition, offset), with the verdicts made when
-- it was decoded. Repeats and late events are kept, flagged. The views events_* show what counts.

CREATE TABLE IF NOT EXISTS raw_interactions
(
    partition UInt16 COMMENT 'Kafka partition; all of a fan is in the partition of one number',
    `offset` Int64 COMMENT 'Kafka offset in the partition',
    appended_at DateTime64(3, 'UTC') COMMENT 'When the broker received it',
    event_id String COMMENT 'Identifier given by the producer; with event_time it tells a repeat from a new event',
    event_time DateTime64(3, 'UTC') COMMENT 'When it happened, as the producer says',
    platform LowCardinality(String) COMMENT 'Platform: douyin or kuaishou',
    fan UInt64 COMMENT 'Keyed hash of the fan id; the key is not in the database',
    creator_id String COMMENT 'The creator whose content, room, group, shop or advertisement it is',
    region LowCardinality(String) COMMENT 'Province or region of the fan, as the platform gives it; empty: none',
    age_band LowCardinality(String) COMMENT 'Age band of the fan, as the platform gives it; empty: none',
    gender LowCardinality(String) COMMENT 'Gender of the fan, as the platform gives it; empty: none',
    interest LowCardinality(String) COMMENT 'Main interest of the fan, as the platform gives it; empty: none',
    device LowCardinality(String) COMMENT 'Device or operating system; empty: none',
    kind LowCardinality(String) COMMENT 'What happened: comment, dm_sent, fan_badge_lit, favorite, follow, group_checkin, group_join, group_leave, group_link_click, group_message, group_vote, group_welfare_claim, like, live_comment, live_enter, live_leave, live_like, product_click, product_exposure, profile_visit, share, unfollow, view',
    content_id String COMMENT 'Video, or the one it came from; empty: none',
    watch_ms Nullable(Int64) COMMENT 'Watched, milliseconds; may exceed the duration when looped; NULL: none',
    duration_ms Nullable(Int64) COMMENT 'Length of the video, milliseconds; 0: unknown, the play never counts as complete; NULL: none',
    source LowCardinality(String) COMMENT 'Traffic source that brought the fan; empty: none',
    text String COMMENT 'What was written; empty: none, as with stickers and pictures',
    live_id String COMMENT 'Live room session, or the one it came from; empty: none',
    pk_opponent String COMMENT 'Opposing creator while a PK runs; empty: none',
    stay_ms Nullable(Int64) COMMENT 'Stay in the live room, milliseconds; NULL: none',
    group_id String COMMENT 'Fan group; empty: none',
    reply_to_fan UInt64 COMMENT 'Keyed hash of the fan whose message it answers; 0: none',
    product_id String COMMENT 'Product; empty: none',
    late UInt8 COMMENT '1: it came further behind the watermark than the late horizon; the stream left it to repair',
    duplicate UInt8 COMMENT '1: the same event_id and event_time stand at a lower offset of this partition',
    repaired UInt8 COMMENT '1: a late event that repair has taken into the figures'
)
ENGINE = ReplacingMergeTree(repaired)
PARTITION BY toYYYYMM(event_time)
ORDER BY (creator_id, kind, event_time, partition, `offset`)
COMMENT 'What fans did with videos, live rooms, groups and product cards: one row per Kafka record.';

CREATE OR REPLACE VIEW events_interactions
(
    partition UInt16 COMMENT 'Kafka partition; all of a fan is in the partition of one number',
    `offset` Int64 COMMENT 'Kafka offset in the partition',
    appended_at DateTime64(3, 'UTC') COMMENT 'When the broker received it',
    event_id String COMMENT 'Identifier given by the producer; with event_time it tells a repeat from a new event',
    event_time DateTime64(3, 'UTC') COMMENT 'When it happened, as the producer says',
    platform LowCardinality(String) COMMENT 'Platform: douyin or kuaishou',
    fan UInt64 COMMENT 'Keyed hash of the fan id; the key is not in the database',
    creator_id String COMMENT 'The creator whose content, room, group, shop or advertisement it is',
    region LowCardinality(String) COMMENT 'Province or region of the fan, as the platform gives it; empty: none',
    age_band LowCardinality(String) COMMENT 'Age band of the fan, as the platform gives it; empty: none',
    gender LowCardinality(String) COMMENT 'Gender of the fan, as the platform gives it; empty: none',
    interest LowCardinality(String) COMMENT 'Main interest of the fan, as the platform gives it; empty: none',
    device LowCardinality(String) COMMENT 'Device or operating system; empty: none',
    kind LowCardinality(String) COMMENT 'What happened: comment, dm_sent, fan_badge_lit, favorite, follow, group_checkin, group_join, group_leave, group_link_click, group_message, group_vote, group_welfare_claim, like, live_comment, live_enter, live_leave, live_like, product_click, product_exposure, profile_visit, share, unfollow, view',
    content_id String COMMENT 'Video, or the one it came from; empty: none',
    watch_ms Nullable(Int64) COMMENT 'Watched, milliseconds; may exceed the duration when looped; NULL: none',
    duration_ms Nullable(Int64) COMMENT 'Length of the video, milliseconds; 0: unknown, the play never counts as complete; NULL: none',
    source LowCardinality(String) COMMENT 'Traffic source that brought the fan; empty: none',
    text String COMMENT 'What was written; empty: none, as with stickers and pictures',
    live_id String COMMENT 'Live room session, or the one it came from; empty: none',
    pk_opponent String COMMENT 'Opposing creator while a PK runs; empty: none',
    stay_ms Nullable(Int64) COMMENT 'Stay in the live room, milliseconds; NULL: none',
    group_id String COMMENT 'Fan group; empty: none',
    reply_to_fan UInt64 COMMENT 'Keyed hash of the fan whose message it answers; 0: none',
    product_id String COMMENT 'Product; empty: none'
)
AS SELECT
    partition,
    `offset`,
    appended_at,
    event_id,
    event_time,
    platform,
    fan,
    creator_id,
    region,
    age_band,
    gender,
    interest,
    device,
    kind,
    content_id,
    watch_ms,
    duration_ms,
    source,
    text,
    live_id,
    pk_opponent,
    stay_ms,
    group_id,
    reply_to_fan,
    product_id
FROM raw_interactions FINAL
WHERE duplicate = 0 AND (late = 0 OR repaired = 1)
COMMENT 'Events that count in the figures: interactions without repeats, and late ones once repair has taken them in.';

CREATE TABLE IF NOT EXISTS raw_gifts
(
    partition UInt16 COMMENT 'Kafka partition; all of a fan is in the partition of one number',
    `offset` Int64 COMMENT 'Kafka offset in the partition',
    appended_at DateTime64(3, 'UTC') COMMENT 'When the broker received it',
    event_id String COMMENT 'Identifier given by the producer; with event_time it tells a repeat from a new event',
    event_time DateTime64(3, 'UTC') COMMENT 'When it happened, as the producer says',
    platform LowCardinality(String) COMMENT 'Platform: douyin or kuaishou',
    fan UInt64 COMMENT 'Keyed hash of the fan id; the key is not in the database',
    creator_id String COMMENT 'The creator whose content, room, group, shop or advertisement it is',
    region LowCardinality(String) COMMENT 'Province or region of the fan, as the platform gives it; empty: none',
    age_band LowCardinality(String) COMMENT 'Age band of the fan, as the platform gives it; empty: none',
    gender LowCardinality(String) COMMENT 'Gender of the fan, as the platform gives it; empty: none',
    interest LowCardinality(String) COMMENT 'Main interest of the fan, as the platform gives it; empty: none',
    device LowCardinality(String) COMMENT 'Device or operating system; empty: none',
    kind LowCardinality(String) COMMENT 'What happened: gift, guard, membership',
    live_id String COMMENT 'Live room session',
    gift_type LowCardinality(String) COMMENT 'Name of the gift, or level of the guard or membership',
    quantity Int64 COMMENT 'How many',
    value_micros Int64 COMMENT 'Value of all of them together, millionths of a yuan; may be 0',
    pk_opponent String COMMENT 'Opposing creator while a PK runs; empty: none',
    late UInt8 COMMENT '1: it came further behind the watermark than the late horizon; the stream left it to repair',
    duplicate UInt8 COMMENT '1: the same event_id and event_time stand at a lower offset of this partition',
    repaired UInt8 COMMENT '1: a late event that repair has taken into the figures'
)
ENGINE = ReplacingMergeTree(repaired)
PARTITION BY toYYYYMM(event_time)
ORDER BY (creator_id, kind, event_time, partition, `offset`)
COMMENT 'Gifts, guards and memberships bought in live rooms: one row per Kafka record.';

CREATE OR REPLACE VIEW events_gifts
(
    partition UInt16 COMMENT 'Kafka partition; all of a fan is in the partition of one number',
    `offset` Int64 COMMENT 'Kafka offset in the partition',
    appended_at DateTime64(3, 'UTC') COMMENT 'When the broker received it',
    event_id String COMMENT 'Identifier given by the producer; with event_time it tells a repeat from a new event',
    event_time DateTime64(3, 'UTC') COMMENT 'When it happened, as the producer says',
    platform LowCardinality(String) COMMENT 'Platform: douyin or kuaishou',
    fan UInt64 COMMENT 'Keyed hash of the fan id; the key is not in the database',
    creator_id String COMMENT 'The creator whose content, room, group, shop or advertisement it is',
    region LowCardinality(String) COMMENT 'Province or region of the fan, as the platform gives it; empty: none',
    age_band LowCardinality(String) COMMENT 'Age band of the fan, as the platform gives it; empty: none',
    gender LowCardinality(String) COMMENT 'Gender of the fan, as the platform gives it; empty: none',
    interest LowCardinality(String) COMMENT 'Main interest of the fan, as the platform gives it; empty: none',
    device LowCardinality(String) COMMENT 'Device or operating system; empty: none',
    kind LowCardinality(String) COMMENT 'What happened: gift, guard, membership',
    live_id String COMMENT 'Live room session',
    gift_type LowCardinality(String) COMMENT 'Name of the gift, or level of the guard or membership',
    quantity Int64 COMMENT 'How many',
    value_micros Int64 COMMENT 'Value of all of them together, millionths of a yuan; may be 0',
    pk_opponent String COMMENT 'Opposing creator while a PK runs; empty: none'
)
AS SELECT
    partition,
    `offset`,
    appended_at,
    event_id,
    event_time,
    platform,
    fan,
    creator_id,
    region,
    age_band,
    gender,
    interest,
    device,
    kind,
    live_id,
    gift_type,
    quantity,
    value_micros,
    pk_opponent
FROM raw_gifts FINAL
WHERE duplicate = 0 AND (late = 0 OR repaired = 1)
COMMENT 'Events that count in the figures: gifts without repeats, and late ones once repair has taken them in.';

CREATE TABLE IF NOT EXISTS raw_orders
(
    partition UInt16 COMMENT 'Kafka partition; all of a fan is in the partition of one number',
    `offset` Int64 COMMENT 'Kafka offset in the partition',
    appended_at DateTime64(3, 'UTC') COMMENT 'When the broker received it',
    event_id String COMMENT 'Identifier given by the producer; with event_time it tells a repeat from a new event',
    event_time DateTime64(3, 'UTC') COMMENT 'When it happened, as the producer says',
    platform LowCardinality(String) COMMENT 'Platform: douyin or kuaishou',
    fan UInt64 COMMENT 'Keyed hash of the fan id; the key is not in the database',
    creator_id String COMMENT 'The creator whose content, room, group, shop or advertisement it is',
    region LowCardinality(String) COMMENT 'Province or region of the fan, as the platform gives it; empty: none',
    age_band LowCardinality(String) COMMENT 'Age band of the fan, as the platform gives it; empty: none',
    gender LowCardinality(String) COMMENT 'Gender of the fan, as the platform gives it; empty: none',
    interest LowCardinality(String) COMMENT 'Main interest of the fan, as the platform gives it; empty: none',
    device LowCardinality(String) COMMENT 'Device or operating system; empty: none',
    kind LowCardinality(String) COMMENT 'What happened: membership, paid, placed, refunded, shipped',
    order_id String COMMENT 'Order; its steps share it',
    product_id String COMMENT 'Product, or membership plan',
    amount_micros Int64 COMMENT 'Amount of this step, millionths of a yuan; that of a refund is positive too',
    coupon_micros Nullable(Int64) COMMENT 'Part paid by a coupon, millionths of a yuan; NULL: none',
    content_id String COMMENT 'Video it came from; empty: none',
    live_id String COMMENT 'Live room session, or the one it came from; empty: none',
    group_id String COMMENT 'Fan group it came from; empty: none',
    late UInt8 COMMENT '1: it came further behind the watermark than the late horizon; the stream left it to repair',
    duplicate UInt8 COMMENT '1: the same event_id and event_time stand at a lower offset of this partition',
    repaired UInt8 COMMENT '1: a late event that repair has taken into the figures'
)
ENGINE = ReplacingMergeTree(repaired)
PARTITION BY toYYYYMM(event_time)
ORDER BY (creator_id, kind, event_time, partition, `offset`)
COMMENT 'Steps in the life of orders, and memberships bought in the shop: one row per Kafka record.';

CREATE OR REPLACE VIEW events_orders
(
    partition UInt16 COMMENT 'Kafka partition; all of a fan is in the partition of one number',
    `offset` Int64 COMMENT 'Kafka offset in the partition',
    appended_at DateTime64(3, 'UTC') COMMENT 'When the broker received it',
    event_id String COMMENT 'Identifier given by the producer; with event_time it tells a repeat from a new event',
    event_time DateTime64(3, 'UTC') COMMENT 'When it happened, as the producer says',
    platform LowCardinality(String) COMMENT 'Platform: douyin or kuaishou',
    fan UInt64 COMMENT 'Keyed hash of the fan id; the key is not in the database',
    creator_id String COMMENT 'The creator whose content, room, group, shop or advertisement it is',
    region LowCardinality(String) COMMENT 'Province or region of the fan, as the platform gives it; empty: none',
    age_band LowCardinality(String) COMMENT 'Age band of the fan, as the platform gives it; empty: none',
    gender LowCardinality(String) COMMENT 'Gender of the fan, as the platform gives it; empty: none',
    interest LowCardinality(String) COMMENT 'Main interest of the fan, as the platform gives it; empty: none',
    device LowCardinality(String) COMMENT 'Device or operating system; empty: none',
    kind LowCardinality(String) COMMENT 'What happened: membership, paid, placed, refunded, shipped',
    order_id String COMMENT 'Order; its steps share it',
    product_id String COMMENT 'Product, or membership plan',
    amount_micros Int64 COMMENT 'Amount of this step, millionths of a yuan; that of a refund is positive too',
    coupon_micros Nullable(Int64) COMMENT 'Part paid by a coupon, millionths of a yuan; NULL: none',
    content_id String COMMENT 'Video it came from; empty: none',
    live_id String COMMENT 'Live room session, or the one it came from; empty: none',
    group_id String COMMENT 'Fan group it came from; empty: none'
)
AS SELECT
    partition,
    `offset`,
    appended_at,
    event_id,
    event_time,
    platform,
    fan,
    creator_id,
    region,
    age_band,
    gender,
    interest,
    device,
    kind,
    order_id,
    product_id,
    amount_micros,
    coupon_micros,
    content_id,
    live_id,
    group_id
FROM raw_orders FINAL
WHERE duplicate = 0 AND (late = 0 OR repaired = 1)
COMMENT 'Events that count in the figures: orders without repeats, and late ones once repair has taken them in.';

CREATE TABLE IF NOT EXISTS raw_ad_events
(
    partition UInt16 COMMENT 'Kafka partition; all of a fan is in the partition of one number',
    `offset` Int64 COMMENT 'Kafka offset in the partition',
    appended_at DateTime64(3, 'UTC') COMMENT 'When the broker received it',
    event_id String COMMENT 'Identifier given by the producer; with event_time it tells a repeat from a new event',
    event_time DateTime64(3, 'UTC') COMMENT 'When it happened, as the producer says',
    platform LowCardinality(String) COMMENT 'Platform: douyin or kuaishou',
    fan UInt64 COMMENT 'Keyed hash of the fan id; the key is not in the database',
    creator_id String COMMENT 'The creator whose content, room, group, shop or advertisement it is',
    region LowCardinality(String) COMMENT 'Province or region of the fan, as the platform gives it; empty: none',
    age_band LowCardinality(String) COMMENT 'Age band of the fan, as the platform gives it; empty: none',
    gender LowCardinality(String) COMMENT 'Gender of the fan, as the platform gives it; empty: none',
    interest LowCardinality(String) COMMENT 'Main interest of the fan, as the platform gives it; empty: none',
    device LowCardinality(String) COMMENT 'Device or operating system; empty: none',
    kind LowCardinality(String) COMMENT 'What happened: click, conversion, impression, play',
    campaign_id String COMMENT 'Campaign',
    ad_group_id String COMMENT 'Ad group',
    creative_id String COMMENT 'Creative',
    audience LowCardinality(String) COMMENT 'Targeting label',
    channel LowCardinality(String) COMMENT 'Where it ran',
    bid_micros Nullable(Int64) COMMENT 'Bid, millionths of a yuan; NULL: none',
    cost_micros Nullable(Int64) COMMENT 'Cost of this event, millionths of a yuan; NULL: none',
    conversion_type LowCardinality(String) COMMENT 'What the conversion is: follow, order, lead, ...; empty: none',
    value_micros Nullable(Int64) COMMENT 'Value of the conversion, millionths of a yuan; NULL: none',
    late UInt8 COMMENT '1: it came further behind the watermark than the late horizon; the stream left it to repair',
    duplicate UInt8 COMMENT '1: the same event_id and event_time stand at a lower offset of this partition',
    repaired UInt8 COMMENT '1: a late event that repair has taken into the figures'
)
ENGINE = ReplacingMergeTree(repaired)
PARTITION BY toYYYYMM(event_time)
ORDER BY (campaign_id, kind, event_time, partition, `offset`)
COMMENT 'Impressions, clicks, plays and conversions of advertisements, with their cost: one row per Kafka record.';

CREATE OR REPLACE VIEW events_ad_events
(
    partition UInt16 COMMENT 'Kafka partition; all of a fan is in the partition of one number',
    `offset` Int64 COMMENT 'Kafka offset in the partition',
    appended_at DateTime64(3, 'UTC') COMMENT 'When the broker received it',
    event_id String COMMENT 'Identifier given by the producer; with event_time it tells a repeat from a new event',
    event_time DateTime64(3, 'UTC') COMMENT 'When it happened, as the producer says',
    platform LowCardinality(String) COMMENT 'Platform: douyin or kuaishou',
    fan UInt64 COMMENT 'Keyed hash of the fan id; the key is not in the database',
    creator_id String COMMENT 'The creator whose content, room, group, shop or advertisement it is',
    region LowCardinality(String) COMMENT 'Province or region of the fan, as the platform gives it; empty: none',
    age_band LowCardinality(String) COMMENT 'Age band of the fan, as the platform gives it; empty: none',
    gender LowCardinality(String) COMMENT 'Gender of the fan, as the platform gives it; empty: none',
    interest LowCardinality(String) COMMENT 'Main interest of the fan, as the platform gives it; empty: none',
    device LowCardinality(String) COMMENT 'Device or operating system; empty: none',
    kind LowCardinality(String) COMMENT 'What happened: click, conversion, impression, play',
    campaign_id String COMMENT 'Campaign',
    ad_group_id String COMMENT 'Ad group',
    creative_id String COMMENT 'Creative',
    audience LowCardinality(String) COMMENT 'Targeting label',
    channel LowCardinality(String) COMMENT 'Where it ran',
    bid_micros Nullable(Int64) COMMENT 'Bid, millionths of a yuan; NULL: none',
    cost_micros Nullable(Int64) COMMENT 'Cost of this event, millionths of a yuan; NULL: none',
    conversion_type LowCardinality(String) COMMENT 'What the conversion is: follow, order, lead, ...; empty: none',
    value_micros Nullable(Int64) COMMENT 'Value of the conversion, millionths of a yuan; NULL: none'
)
AS SELECT
    partition,
    `offset`,
    appended_at,
    event_id,
    event_time,
    platform,
    fan,
    creator_id,
    region,
    age_band,
    gender,
    interest,
    device,
    kind,
    campaign_id,
    ad_group_id,
    creative_id,
    audience,
    channel,
    bid_micros,
    cost_micros,
    conversion_type,
    value_micros
FROM raw_ad_events FINAL
WHERE duplicate = 0 AND (late = 0 OR repaired = 1)
COMMENT 'Events that count in the figures: ad_events without repeats, and late ones once repair has taken them in.';
