-- Rows of the table fan_portrait_counts of the snapshot {snapshot}: who the fans are, by the local day they came on.
INSERT INTO fan_portrait_counts (snapshot, platform, creator_id, day, dimension, value, fans, active)
SELECT {snapshot:UInt64}, platform, creator_id, first_day, dimension, value, count(), sum(now_active)
FROM
(
    SELECT platform, creator_id, first_day, gender, age_band, region, interest, fan_profiles.active AS now_active
    FROM fan_profiles
)
ARRAY JOIN
    ['gender', 'age_band', 'region', 'interest'] AS dimension,
    [gender, age_band, region, interest] AS value
GROUP BY platform, creator_id, first_day, dimension, value
