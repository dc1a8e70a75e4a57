-- Rows of the table fan_cohort_counts of the snapshot {snapshot}: who arrived in a week, by what brought them, and who
-- of them acted on, and from, a day so many days after.
INSERT INTO fan_cohort_counts
(
    snapshot, platform, creator_id, week, by, value, fans, retained_1, retained_7, retained_14, retained_30,
    returned_1, returned_7, returned_14, returned_30
)
SELECT
    {snapshot:UInt64},
    platform,
    creator_id,
    toMonday(first_day) AS week,
    by,
    value,
    count(),
    countIf(has(days, first_day + 1)),
    countIf(has(days, first_day + 7)),
    countIf(has(days, first_day + 14)),
    countIf(has(days, first_day + 30)),
    countIf(last_day >= first_day + 1),
    countIf(last_day >= first_day + 7),
    countIf(last_day >= first_day + 14),
    countIf(last_day >= first_day + 30)
FROM
(
    SELECT
        platform,
        creator_id,
        fan,
        groupArray(day) AS days,
        min(day) AS first_day,
        max(day) AS last_day,
        argMin(source, day) AS first_source,
        argMin(content_id, day) AS first_content,
        argMin(campaign_id, day) AS first_campaign,
        argMin(audience, day) AS first_audience
    FROM fan_days FINAL
    WHERE actions > 0
    GROUP BY platform, creator_id, fan
)
ARRAY JOIN
    ['all', 'source', 'content', 'campaign', 'audience'] AS by,
    ['', toString(first_source), first_content, first_campaign, toString(first_audience)] AS value
GROUP BY platform, creator_id, week, by, value
