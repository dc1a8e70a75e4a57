-- Rows of the table fan_value_counts of the snapshot {snapshot}: how many fans have which tier and which tags.
INSERT INTO fan_value_counts (snapshot, platform, creator_id, label, value, fans)
SELECT {snapshot:UInt64}, platform, creator_id, given.1, given.2, count()
FROM fan_value_now
ARRAY JOIN arrayConcat([('tier', toString(tier))], arrayMap(tag -> ('tag', toString(tag)), tags)) AS given
GROUP BY platform, creator_id, given
