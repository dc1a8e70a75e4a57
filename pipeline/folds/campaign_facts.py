"""Campaign facts: what one partition of ``ad_events`` says about campaigns, minute by minute, for the campaign log."""

from typing import ClassVar

import numpy as np
import polars as pl

from pipeline import campaign_log
from pipeline.campaign_log import FIGURES, MEASURES, Figures
from pipeline.fold import Fold, Output
from pipeline.folds.ads import sums
from pipeline.snapshot import Snapshots, SnapshotTable
from pipeline.verdict import NEVER
from schemas.quantities import MINUTE_MS

_KEYS = ("platform", "campaign_id", "ad_group_id", "minute")


class CampaignFacts(Fold):
    """Counts as ``ads.Ads`` does, of each ad group and minute. Late events and repeats are left out.

    It stores nothing: what an on-time event may still change is read from the stored events when it begins anew. Each
    partition of the campaign log is told of the minutes of its campaigns that were changed, and of time when another
    minute is reached.
    """

    version: ClassVar[int] = 1

    def __init__(self, database: str, partition: int, partitions: int) -> None:
        self._database = database
        self._partition = partition
        self._partitions = partitions
        self._minutes = Snapshots(SnapshotTable("", _KEYS, MEASURES))
        self._owners: dict[tuple[str, str], int] = {}
        self._creators: dict[tuple[str, str, str], str] = {}
        self._told: int | None = None
        self._oldest = NEVER

    def __len__(self) -> int:
        return len(self._minutes)

    def due(self, reached: int | None) -> bool:
        """Whether readers must be told that this event time is reached (UTC ms; None: there was no event): it is
        another minute, or they have not heard from here yet."""
        if self._told is None:
            return True
        return reached is not None and reached // MINUTE_MS > self._told

    def apply(self, rows: pl.DataFrame) -> None:
        rows = rows.filter((pl.col("late") == 0) & (pl.col("duplicate") == 0))
        if rows.is_empty():
            return
        groups = (
            rows.with_columns(minute=(pl.col("event_time") // MINUTE_MS * MINUTE_MS).cast(pl.Datetime("ms", "UTC")))
            .group_by(_KEYS)
            .agg(*sums(), pl.col("creator_id").min())
        )
        self._know_creators(groups)
        columns = np.tile(np.arange(len(MEASURES)), (len(groups), 1))
        amounts = groups.select(MEASURES).to_numpy()
        self._minutes.add(self._minutes.key_columns(groups), columns, amounts, groups["applied"].to_numpy())

    def remember(self, rows: pl.DataFrame) -> None:
        """Takes what is stored of the minutes that are still open: columns ``FIGURES``, the minute as a time, and
        ``applied``, the last offset."""
        self._know_creators(rows)
        self._minutes.restore(rows)

    def outputs(self, start: int, next_offset: int, reached: int | None) -> list[Output]:
        changed = self._minutes.take()
        if next_offset < start:
            return []
        told = self.due(reached)
        if told:
            self._told = NEVER if reached is None else reached // MINUTE_MS
        parts = self._by_partition(changed.with_columns(pl.col("minute").dt.epoch("ms")))
        oldest = self._oldest if self._oldest > NEVER else None
        outputs = []
        for partition in range(self._partitions) if told else sorted(parts):
            figures = parts.get(partition, pl.DataFrame(schema=FIGURES))
            message = Figures(self._database, self._partition, start, next_offset, reached, oldest, figures)
            outputs.append(Output(campaign_log.TOPIC, None, campaign_log.encode(message), partition))
        return outputs

    def take(self) -> dict[str, pl.DataFrame]:
        return {}

    def evict(self, oldest: int) -> None:
        self._oldest = max(self._oldest, oldest)
        self._minutes.evict(oldest)

    def _know_creators(self, rows: pl.DataFrame) -> None:
        for *group, creator in rows.select(*_KEYS[:3], "creator_id").iter_rows():
            self._creators.setdefault((group[0], group[1], group[2]), creator)

    def _by_partition(self, changed: pl.DataFrame) -> dict[int, pl.DataFrame]:
        """Figures by partition of the campaign log."""
        if changed.is_empty():
            return {}
        groups = list(changed.select(*_KEYS[:3]).iter_rows())
        owners = [self._owners.get(group[:2]) or self._own(*group[:2]) for group in groups]
        creators = [self._creators[group] for group in groups]
        parts = changed.with_columns(
            pl.Series("owner", owners, pl.Int64), pl.Series("creator_id", creators, pl.String)
        ).partition_by("owner", as_dict=True)
        return {int(owner): part.select(*FIGURES) for (owner,), part in parts.items()}

    def _own(self, platform: str, campaign_id: str) -> int:
        owner = campaign_log.partition_of(platform, campaign_id, self._partitions)
        self._owners[platform, campaign_id] = owner
        return owner
