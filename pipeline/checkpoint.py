"""Checkpoints: ClickHouse's word on how far each agent's rows are stored."""

from dataclasses import dataclass

import orjson
import polars as pl
from clickhouse_connect.driver.client import Client

from infra.settings import Settings


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """All rows of ``agent`` from ``topic`` and ``partition`` below ``next_offset`` are stored; ``newest`` is the
    newest event time there (UTC ms, see ``verdict``). The rest says which log and which settings that is true of."""

    agent: str
    topic: str
    partition: int
    fold_version: int
    next_offset: int
    newest: int
    topic_id: str
    cluster_id: str
    parameters: str


def parameters(settings: Settings) -> str:
    """The settings that figures depend on, as canonical JSON: with others, the same log gives other rows."""
    return orjson.dumps(
        {
            "allowed_lateness": settings.allowed_lateness,
            "late_horizon": settings.late_horizon,
            "partitions": settings.partitions,
            "time_zone": settings.time_zone,
        },
        option=orjson.OPT_SORT_KEYS,
    ).decode()


_EPOCH_FLOOR = -2_208_988_800_000
"""1900-01-01 in UTC ms, the earliest that DateTime64 holds: stands for "no event yet"."""


def frame(checkpoints: list[Checkpoint], written_at: int) -> pl.DataFrame:
    """Rows for the table ``checkpoints``; ``written_at`` is the wall clock in UTC ms."""
    moment = pl.Datetime("ms", "UTC")
    return pl.DataFrame(
        {
            "agent": [c.agent for c in checkpoints],
            "topic": [c.topic for c in checkpoints],
            "partition": pl.Series([c.partition for c in checkpoints], dtype=pl.UInt16),
            "fold_version": pl.Series([c.fold_version for c in checkpoints], dtype=pl.UInt16),
            "next_offset": [c.next_offset for c in checkpoints],
            "newest": pl.Series([max(c.newest, _EPOCH_FLOOR) for c in checkpoints]).cast(moment),
            "topic_id": [c.topic_id for c in checkpoints],
            "cluster_id": [c.cluster_id for c in checkpoints],
            "parameters": [c.parameters for c in checkpoints],
            "written_at": pl.Series([written_at] * len(checkpoints)).cast(moment),
        }
    )


def read(client: Client) -> list[Checkpoint]:
    """Every checkpoint in the database, the most advanced of each agent, partition and fold version."""
    rows = client.query(
        "SELECT agent, topic, partition, fold_version, next_offset, toUnixTimestamp64Milli(newest), topic_id, "
        "cluster_id, parameters FROM checkpoints FINAL ORDER BY agent, topic, partition, fold_version"
    ).result_rows
    return [Checkpoint(*row) for row in rows]
