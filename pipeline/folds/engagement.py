"""Engagement: what fans did, per creator and minute, and per content and minute, hour and local day."""

from typing import ClassVar

import numpy as np
import polars as pl

from pipeline.snapshot import SnapshotTable
from pipeline.snapshot_fold import SnapshotFold

KIND_MEASURES = {
    "view": "plays",
    "like": "likes",
    "comment": "comments",
    "share": "shares",
    "favorite": "favorites",
    "follow": "follows",
    "unfollow": "unfollows",
    "profile_visit": "profile_visits",
    "product_exposure": "product_exposures",
    "product_click": "product_clicks",
    "live_enter": "live_entries",
    "live_leave": "live_exits",
    "live_comment": "live_comments",
    "live_like": "live_likes",
    "fan_badge_lit": "badges_lit",
    "group_join": "group_joins",
    "group_leave": "group_leaves",
    "group_message": "group_messages",
    "group_vote": "group_votes",
    "group_checkin": "group_checkins",
    "group_welfare_claim": "welfare_claims",
    "group_link_click": "group_link_clicks",
    "dm_sent": "private_messages",
}
"""The measure that counts each kind of interaction."""

CONTENT_KINDS = tuple(list(KIND_MEASURES)[:10])
"""Kinds that may name a content."""
RECENT_MS = 3 * 86_400_000
"""Content minutes hold only events that reached the broker within this time of happening: three days, milliseconds."""

_SUMS = ("watch_ms", "completions", "stay_ms")
_CREATOR = (*KIND_MEASURES.values(), *_SUMS)
_CONTENT = (*(KIND_MEASURES[kind] for kind in CONTENT_KINDS), "watch_ms", "completions")


class Engagement(SnapshotFold):
    """Counts of each kind; ``watch_ms`` and ``completions`` of plays; ``stay_ms`` of those who left a live room.

    A play is complete when at least its whole duration was watched. Late events and repeats are left out.
    """

    version: ClassVar[int] = 1
    creator_minute: ClassVar = SnapshotTable(
        "engagement_creator_minute", ("platform", "creator_id", "minute"), _CREATOR
    )
    content_minute: ClassVar = SnapshotTable(
        "engagement_content_minute", ("platform", "creator_id", "content_id", "minute"), _CONTENT
    )
    content_hour: ClassVar = SnapshotTable(
        "engagement_content_hour", ("platform", "creator_id", "content_id", "hour"), _CONTENT
    )
    content_day: ClassVar = SnapshotTable(
        "engagement_content_day", ("platform", "creator_id", "content_id", "day"), _CONTENT
    )
    tables: ClassVar[tuple[SnapshotTable, ...]] = (creator_minute, content_minute, content_hour, content_day)

    def __init__(self, time_zone: str) -> None:
        super().__init__()
        self._time_zone = time_zone

    def count(self, rows: pl.DataFrame, replayed: bool) -> None:
        # Of what is replayed each event is looked at alone.
        groups = self._groups(rows, ["offset"] if replayed else [])
        content = groups.filter(pl.col("content_id") != "")
        self._add(self.creator_minute, groups, replayed)
        self._add(self.content_minute, content.filter("recent"), replayed)
        self._add(self.content_hour, content, replayed)
        self._add(self.content_day, content, replayed)

    def _groups(self, rows: pl.DataFrame, extra: list[str]) -> pl.DataFrame:
        """Events by everything that some row is keyed by: counts and sums, small enough for Python."""
        view, leave = pl.col("kind") == "view", pl.col("kind") == "live_leave"
        complete = view & (pl.col("duration_ms") > 0) & (pl.col("watch_ms") >= pl.col("duration_ms"))
        groups = (
            rows.lazy()
            .with_columns(
                (pl.col("event_time") // 60_000 * 60_000).alias("minute"),
                (pl.col("appended") - pl.col("event_time") < RECENT_MS).alias("recent"),
            )
            .group_by("platform", "creator_id", "content_id", "minute", "recent", "kind", *extra)
            .agg(
                pl.len().cast(pl.Int64).alias("events"),
                pl.col("watch_ms").filter(view).sum(),
                complete.fill_null(False).sum().cast(pl.Int64).alias("completions"),
                pl.col("stay_ms").filter(leave).sum(),
                pl.col("offset").max().alias("applied"),
            )
            .with_columns(pl.col("minute").cast(pl.Datetime("ms", "UTC")))
            .with_columns(
                pl.col("minute").dt.truncate("1h").alias("hour"),
                pl.col("minute").dt.convert_time_zone(self._time_zone).dt.date().alias("day"),
            )
        )
        return groups.collect()

    def _add(self, table: SnapshotTable, groups: pl.DataFrame, replayed: bool) -> None:
        snapshots = self._snapshots[table.name]
        sums = [name for name in _SUMS if name in table.measures]
        if replayed:
            groups = groups.sort("applied")
            held = snapshots.applied(snapshots.key_columns(groups))
            groups = groups.filter(pl.Series(groups["applied"].to_numpy() > held, dtype=pl.Boolean))
        if groups.is_empty():
            return
        number = {kind: table.measures.index(m) for kind, m in KIND_MEASURES.items() if m in table.measures}
        counted = groups["kind"].replace_strict(number, return_dtype=pl.Int64).to_numpy()
        columns = np.empty((len(groups), 1 + len(sums)), np.int64)
        columns[:, 0] = counted
        columns[:, 1:] = [table.measures.index(name) for name in sums]
        amounts = groups.select("events", *sums).to_numpy()
        keys, which = snapshots.distinct_keys(groups)
        snapshots.add(keys, columns, amounts, groups["applied"].to_numpy(), which)
