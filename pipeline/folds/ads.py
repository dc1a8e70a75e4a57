"""Advertisements: what was shown, clicked, played and converted, and what it cost, by minute."""

from typing import ClassVar

import numpy as np
import polars as pl

from pipeline.snapshot import Snapshots, SnapshotTable
from pipeline.snapshot_fold import SnapshotFold

KIND_MEASURES = {"impression": "impressions", "click": "clicks", "play": "plays", "conversion": "conversions"}
"""The measure that counts each kind of ad event."""

AMOUNTS = {"cost_micros": "cost_micros", "conversion_value_micros": "value_micros"}
"""Measures that are sums, and the field that they sum."""
_MEASURES = (*KIND_MEASURES.values(), *AMOUNTS)


def sums() -> list[pl.Expr]:
    """Of grouped events: every measure, and ``applied``, the last offset."""
    return [
        *((pl.col("kind") == kind).sum().cast(pl.Int64).alias(name) for kind, name in KIND_MEASURES.items()),
        *(pl.col(field).sum().alias(name) for name, field in AMOUNTS.items()),
        pl.col("offset").max().alias("applied"),
    ]


class Ads(SnapshotFold):
    """Counts of each kind, with cost and value: of each campaign, ad group, creative, audience and channel; and of each
    campaign by region, age band and gender of the fan.

    Cost and value are sums of what events of every kind carry, millionths of a yuan; an event that carries none adds 0.
    What does not fit together (a conversion without a click, a cost without an impression) is counted as it is. Late
    events and repeats are left out.
    """

    version: ClassVar[int] = 1
    minute: ClassVar = SnapshotTable(
        "ads_minute",
        ("platform", "creator_id", "campaign_id", "ad_group_id", "creative_id", "audience", "channel", "minute"),
        _MEASURES,
    )
    people_minute: ClassVar = SnapshotTable(
        "ads_people_minute", ("platform", "campaign_id", "region", "age_band", "gender", "minute"), _MEASURES
    )
    tables: ClassVar[tuple[SnapshotTable, ...]] = (minute, people_minute)

    def count(self, rows: pl.DataFrame, replayed: bool) -> None:
        minute = (pl.col("event_time") // 60_000 * 60_000).cast(pl.Datetime("ms", "UTC"))
        rows = rows.with_columns(minute=minute)
        for snapshots in self._snapshots.values():
            self._add(snapshots, rows, replayed)

    @staticmethod
    def _add(snapshots: Snapshots, rows: pl.DataFrame, replayed: bool) -> None:
        if replayed:
            held = snapshots.applied(snapshots.key_columns(rows))
            rows = rows.filter(pl.Series(rows["offset"].to_numpy() > held, dtype=pl.Boolean))
        groups = rows.group_by(snapshots.table.keys).agg(sums())
        if groups.is_empty():
            return
        columns = np.tile(np.arange(len(_MEASURES)), (len(groups), 1))
        amounts = groups.select(_MEASURES).to_numpy()
        snapshots.add(snapshots.key_columns(groups), columns, amounts, groups["applied"].to_numpy())
