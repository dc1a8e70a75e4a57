"""Sums of fans that views of all creators read: kept so that boards answer at once.

Moves are counted a local day at a time, once nothing is written to it any more; the view ``fan_moves`` takes a counted
day as long as nothing was written since, and counts every other one anew. Features are summed up at the end of every
refresh, and the views read the sums of the newest whole one.
"""

from datetime import date, datetime

from clickhouse_connect.driver.client import Client

from pipeline.statements import SETTINGS, statement

QUIET_S = 300
"""Nothing was written to a day for so long before it is counted, seconds: longer than it takes an insert, once it is
noted in ``fan_move_writes``, to be seen in ``fan_transitions``."""
SUMS = ("fan_day_sums", "fan_portrait_counts", "fan_cohort_counts", "fan_value_counts", "acquired_cohort_counts")
"""Sums of features, each with a statement of its name in ``schemas/refresh``."""
KEPT = 2
"""Snapshots that are kept: queries under way may still read the one before the newest."""
TOGETHER = 31
"""Days that one statement counts."""


def count_moves(client: Client, quiet_s: float = QUIET_S) -> list[date]:
    """Counts the moves of every day that was written to since it was last counted, but not in the last ``quiet_s``
    seconds; returns these days."""
    due = client.query(_DUE, {"quiet": quiet_s}).result_rows
    for first in range(0, len(due), TOGETHER):
        some = due[first : first + TOGETHER]
        parameters = {"days": [day for day, _ in some], "writes": [writes for _, writes in some]}
        client.command(statement("fan_move_counts"), parameters, settings=SETTINGS)
        client.command(_COUNTED, parameters, settings=SETTINGS)
    if due and client.query(f"SELECT count() FROM fan_move_counts WHERE {_SUPERSEDED}").result_rows[0][0]:
        client.command(f"DELETE FROM fan_move_counts WHERE {_SUPERSEDED}")
    return [day for day, _ in due]


def sum_features(client: Client, day: date, now: datetime) -> None:
    """Sums up features, tiers and tags of all fans as they are, as a new snapshot.

    Args:
        day: local day of the refresh, which is not over.
        now: names the snapshot; a later one than any that there is.
    """
    (newest,) = client.query("SELECT max(snapshot) FROM fan_snapshots").result_rows[0]
    snapshot = max(int(now.timestamp() * 1000), newest + 1)
    for table in SUMS:
        client.command(statement(table), {"snapshot": snapshot}, settings=SETTINGS)
    client.insert(
        "fan_snapshots",
        [(snapshot, day, now)],
        column_names=["snapshot", "day", "finished_at"],
        settings={"async_insert": 0},
    )
    newest_ones = client.query(f"SELECT snapshot FROM fan_snapshots ORDER BY snapshot DESC LIMIT {KEPT}").result_rows
    oldest = min(row[0] for row in newest_ones)
    for table in SUMS:
        for (partition,) in client.query(_OLD, {"table": table, "oldest": oldest}).result_rows:
            client.command(f"ALTER TABLE {table} DROP PARTITION {int(partition)}")


_DUE = """
SELECT day, written
FROM
(
    SELECT day, sum(rows) AS written, max(written_at) AS last_written
    FROM fan_move_writes
    GROUP BY day
) AS writes
LEFT JOIN (SELECT day, writes FROM fan_move_days FINAL) AS counted USING (day)
WHERE written != counted.writes AND last_written <= now('UTC') - {quiet:Float64}
ORDER BY day
"""
_COUNTED = """
INSERT INTO fan_move_days (day, writes, counted_at)
SELECT each.1, each.2, now64(3)
FROM (SELECT arrayJoin(arrayZip({days:Array(Date)}, {writes:Array(UInt64)})) AS each)
"""
_SUPERSEDED = """(day, writes) IN
(
    SELECT counts.day, counts.writes
    FROM (SELECT DISTINCT day, writes FROM fan_move_counts) AS counts
    INNER JOIN (SELECT day, writes FROM fan_move_days FINAL) AS counted USING (day)
    WHERE counts.writes < counted.writes
)"""
_OLD = """
SELECT DISTINCT partition
FROM system.parts
WHERE database = currentDatabase() AND table = {table:String} AND active AND toUInt64(partition) < {oldest:UInt64}
"""
