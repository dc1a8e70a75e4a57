-- Rows of the table fan_values of the local day {day}, from the rows of fan_days and of fan_values up to it.
-- A fan gets one where tier or tags are not those of the latest row before, or where there is one already, which may
-- have to be taken back. Looked at are fans whose last event is at most {reach} days ago: before, nothing can change.
INSERT INTO fan_values
(
    platform, creator_id, fan, day, tier, tags, recency_score, frequency_score, money_score, recency_days, active_days,
    interactions, money_micros, tenure_days, staying, unchanged, events
)
SELECT
    platform, creator_id, fan, {day:Date}, tier, tags, recency_score, frequency_score, money_score, recency_days,
    active_days, interactions, money_micros, tenure_days, staying,
    rows_before > 0 AND before = concat(tier, ',', arrayStringConcat(tags, ',')) AS same,
    held
FROM
(
    SELECT *, {expressions}
    FROM
    (
        SELECT
            platform,
            creator_id,
            fan,
            {day:Date} - maxIf(of_day, actions > 0) AS recency_days,
            countIf(actions > 0 AND of_day > {day:Date} - {window:UInt16}) AS active_days,
            sumIf(acted, of_day > {day:Date} - {window:UInt16}) AS interactions,
            sum(micros) AS money_micros,
            {day:Date} - minIf(of_day, actions > 0) AS tenure_days,
            recency_days < {active_interval:UInt16} AND max(last_action) > max(last_unfollow) AS staying,
            max(of_day) AS newest,
            sum(events) AS held,
            countIf(rated > 0 AND rated < toUInt16({day:Date})) AS rows_before,
            argMaxIf(rating, rated, rated > 0 AND rated < toUInt16({day:Date})) AS before,
            countIf(rated = toUInt16({day:Date})) AS rows_there
        FROM
        (
            SELECT
                platform, creator_id, fan, day AS of_day, fan_days.actions AS actions, fan_days.interactions AS acted,
                gift_micros + order_micros + membership_micros - refund_micros AS micros, last_action, last_unfollow,
                events, toUInt16(0) AS rated, '' AS rating
            FROM fan_days FINAL
            WHERE day <= {day:Date}
            UNION ALL
            SELECT
                platform, creator_id, fan, toDate(0), 0, 0, 0, toDateTime64(0, 3, 'UTC'), toDateTime64(0, 3, 'UTC'), 0,
                toUInt16(day), concat(tier, ',', arrayStringConcat(tags, ','))
            FROM fan_values FINAL
            WHERE day <= {day:Date}
        )
        GROUP BY platform, creator_id, fan
        HAVING maxIf(of_day, actions > 0) > toDate(0)
            AND ({everyone:UInt8} OR rows_there > 0 OR newest >= {day:Date} - {reach:UInt16})
    )
)
WHERE rows_there > 0 OR NOT same
