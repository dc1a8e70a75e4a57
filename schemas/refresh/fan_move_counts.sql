-- Rows of the table fan_move_counts of the local days {days}, as many rows of which were ever written as {writes} has.
INSERT INTO fan_move_counts
(platform, creator_id, day, writes, step, from_stage, to_stage, reason, resurrected, fans)
SELECT
    platform, creator_id, day, {writes:Array(UInt64)}[indexOf({days:Array(Date)}, day)], step, from_stage, to_stage,
    reason, resurrected, fans
FROM fan_moves_uncounted
WHERE day IN {days:Array(Date)}
