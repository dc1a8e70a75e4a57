-- Rows of the table fan_day_sums of the snapshot {snapshot}: features of a creator's fans together, by local day.
INSERT INTO fan_day_sums
(
    snapshot, platform, creator_id, day, fans, actions, interactions, follows, unfollows, gift_micros, order_micros,
    membership_micros, refund_micros, hour_actions
)
WITH sumMap(features.hours, arrayMap(n -> toUInt64(n), features.hour_actions)) AS by_hour
SELECT
    {snapshot:UInt64},
    platform,
    creator_id,
    day,
    countIf(features.actions > 0),
    sum(features.actions),
    sum(features.interactions),
    sum(features.follows),
    sum(features.unfollows),
    sum(features.gift_micros),
    sum(features.order_micros),
    sum(features.membership_micros),
    sum(features.refund_micros),
    arrayMap(hour -> arraySum(arrayMap((at, n) -> n * (at = hour), by_hour.1, by_hour.2)), range(24))
FROM fan_days AS features FINAL
GROUP BY platform, creator_id, day
