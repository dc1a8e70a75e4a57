"""Checkpoints: ClickHouse's word on how far each agent's rows are stored."""

import functools
import hashlib
from dataclasses import dataclass, replace

import orjson
import polars as pl
from clickhouse_connect.driver.client import Client

from infra.errors import FanpulseError
from infra.home import fan_key
from infra.settings import Settings
from pipeline.verdict import NEVER


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """All rows of ``agent`` from ``topic`` and ``partition`` below ``next_offset`` are stored; ``newest`` is the
    newest event time there (UTC ms, see ``verdict``). The rest says which log and which settings that is true of;
    ``inputs``, for a log that agents write, how far it holds each source (see ``fan_log``)."""

    agent: str
    topic: str
    partition: int
    fold_version: int
    next_offset: int
    newest: int
    topic_id: str
    cluster_id: str
    parameters: str
    inputs: str = ""


_FIGURES = ("allowed_lateness", "late_horizon", "partitions", "time_zone")
_STAGES = ("active_interval", "churn_after", "no_activity")
_OF_AGENTS = {"facts": _STAGES, "lifecycle": _STAGES}


@functools.cache
def parameters(settings: Settings, agent: str) -> str:
    """The settings that an agent's figures depend on, as canonical JSON: with others, the same log gives other rows. Of
    the key that fan ids are hashed with, a digest."""
    return orjson.dumps(
        {
            "fan_key": hashlib.blake2b(b"fanpulse", key=fan_key(settings), digest_size=4).hexdigest(),
            **{name: getattr(settings, name) for name in (*_FIGURES, *_OF_AGENTS.get(agent, ()))},
        },
        option=orjson.OPT_SORT_KEYS,
    ).decode()


def require_same(settings: Settings, stored: list[Checkpoint]) -> None:
    """FanpulseError if figures were made with other settings than these (fan ids are hashed before, by workers)."""
    for c in stored:
        made_with = {name: value for name, value in orjson.loads(c.parameters).items() if name != "fan_key"}
        here = {name: getattr(settings, name) for name in sorted((*_FIGURES, *_OF_AGENTS.get(c.agent, ())))}
        if made_with != here:
            raise FanpulseError(
                f"the figures were made with {made_with}, now the settings are {here}: set them back", exit_code=3
            )


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
            "inputs": [c.inputs for c in checkpoints],
            "written_at": pl.Series([written_at] * len(checkpoints)).cast(moment),
        }
    )


def read(client: Client) -> list[Checkpoint]:
    """Every checkpoint in the database, the most advanced of each agent, partition and fold version."""
    rows = client.query(
        "SELECT agent, topic, partition, fold_version, next_offset, toUnixTimestamp64Milli(newest), topic_id, "
        "cluster_id, parameters, inputs FROM checkpoints FINAL ORDER BY agent, topic, partition, fold_version"
    ).result_rows
    return [replace(c, newest=NEVER) if c.newest <= _EPOCH_FLOOR else c for c in (Checkpoint(*row) for row in rows)]
