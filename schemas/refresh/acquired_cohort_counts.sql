-- Rows of the table acquired_cohort_counts of the snapshot {snapshot}: whom advertisements brought in a week, who of them
-- acted on a day so many days after, and what they brought by then. The join keeps acquired fans in memory, not all
-- features.
INSERT INTO acquired_cohort_counts
(
    snapshot, platform, creator_id, week, by, value, fans, retained_1, retained_7, retained_30, value_1_micros,
    value_7_micros, value_30_micros
)
SELECT
    {snapshot:UInt64},
    platform,
    creator_id,
    toMonday(followed_on) AS week,
    by,
    value,
    count(),
    countIf(has(days, followed_on + 1)),
    countIf(has(days, followed_on + 7)),
    countIf(has(days, followed_on + 30)),
    sum(first_day),
    sum(first_week),
    sum(first_month)
FROM
(
    SELECT
        acquired.platform AS platform,
        acquired.creator_id AS creator_id,
        acquired.fan AS fan,
        any(acquired.day) AS followed_on,
        any(acquired.campaign_id) AS campaign_id,
        any(acquired.ad_group_id) AS ad_group_id,
        any(acquired.creative_id) AS creative_id,
        any(toString(acquired.audience)) AS target,
        any(toString(acquired.channel)) AS ran,
        any(toString(acquired.hour)) AS seen_hour,
        groupArrayIf(features.day, features.actions > 0) AS days,
        sumIf(features.gift_micros + features.order_micros + features.membership_micros - features.refund_micros, features.day BETWEEN acquired.day AND acquired.day + 1) AS first_day,
        sumIf(features.gift_micros + features.order_micros + features.membership_micros - features.refund_micros, features.day BETWEEN acquired.day AND acquired.day + 7) AS first_week,
        sumIf(features.gift_micros + features.order_micros + features.membership_micros - features.refund_micros, features.day BETWEEN acquired.day AND acquired.day + 30) AS first_month
    FROM (SELECT * FROM fan_days FINAL) AS features
    RIGHT JOIN acquired_fans AS acquired
    ON acquired.platform = features.platform AND acquired.creator_id = features.creator_id AND acquired.fan = features.fan
    GROUP BY platform, creator_id, fan
)
ARRAY JOIN
    ['all', 'campaign', 'ad_group', 'creative', 'audience', 'channel', 'hour'] AS by,
    ['', campaign_id, ad_group_id, creative_id, target, ran, seen_hour] AS value
GROUP BY platform, creator_id, week, by, value
