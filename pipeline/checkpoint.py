"""Checkpoints: ClickHouse's word on how far each agent's rows are stored."""

import functools
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

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
OF_STAGES = ("facts", "lifecycle")
"""Agents whose rows depend on the settings of stages, too."""
_WINDOWS = ("click_window", "view_window")
_OF_WINDOWS = ("attribution",)
"""Agents whose rows depend on the windows of attribution, too."""
_UNFINISHED = "unfinished"


@functools.cache
def parameters(settings: Settings, agent: str) -> str:
    """The settings that an agent's figures depend on, as canonical JSON: with others, the same log gives other rows. Of
    the key that fan ids are hashed with, a digest."""
    key = hashlib.blake2b(b"fanpulse", key=fan_key(settings), digest_size=4).hexdigest()
    return _canonical({"fan_key": key, **_present(settings, agent)})


def unfinished(parameters: str) -> str:
    """The same, marked: rows are being replaced, so nobody may go on from them."""
    return _canonical({**orjson.loads(parameters), _UNFINISHED: True})


def contradiction(held: Checkpoint, present: Mapping[str, Any]) -> str | None:
    """Why rows made with the settings of a checkpoint must not be gone on with, and what to do; None if they may.
    ``present`` are the settings of now that are looked at, by name as in ``parameters``."""
    made_with = orjson.loads(held.parameters)
    if _UNFINISHED in made_with:
        return (
            "stages of fans were being computed anew, and that was cut off: do it again with `fanpulse repair --stages`"
        )
    differ = [name for name in present if made_with.get(name) != present[name]]
    if not differ:
        return None
    before, after = ({name: values.get(name) for name in differ} for values in (made_with, present))
    if set(differ) <= set(_STAGES):
        return (
            f"stages of fans were made with {before}, now the settings are {after}: set them back, or stop all workers "
            "and compute the stages anew with `fanpulse repair --stages`"
        )
    return (
        f"the figures were made with {before}, now the settings are {after}: set them back, or use a new "
        "FANPULSE_DATABASE"
    )


def require_same(settings: Settings, stored: list[Checkpoint]) -> None:
    """FanpulseError if figures were made with other settings than these (fan ids are hashed before, by workers)."""
    for c in stored:
        if why := contradiction(c, _present(settings, c.agent)):
            raise FanpulseError(why, exit_code=3)


def require_same_but_stages(settings: Settings, stored: list[Checkpoint]) -> None:
    """FanpulseError if figures were made with another key of fan ids, or with other settings than these, those of
    stages left aside."""
    for c in stored:
        made_with = orjson.loads(c.parameters)
        c = replace(c, parameters=_canonical({name: each for name, each in made_with.items() if name != _UNFINISHED}))
        present = orjson.loads(parameters(settings, c.agent))
        if why := contradiction(c, {name: each for name, each in present.items() if name not in _STAGES}):
            raise FanpulseError(why, exit_code=3)


def _present(settings: Settings, agent: str) -> dict[str, Any]:
    names = (*_FIGURES, *(_STAGES if agent in OF_STAGES else ()), *(_WINDOWS if agent in _OF_WINDOWS else ()))
    return {name: getattr(settings, name) for name in sorted(names)}


def _canonical(values: Mapping[str, Any]) -> str:
    return orjson.dumps(values, option=orjson.OPT_SORT_KEYS).decode()


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


def write(client: Client, checkpoints: list[Checkpoint], written_at: int) -> None:
    """Writes checkpoints in one insert; of equal ones the last to be written stays. ``written_at`` as in ``frame``."""
    client.insert_arrow("checkpoints", frame(checkpoints, written_at).to_arrow(compat_level=pl.CompatLevel.oldest()))


def read(client: Client) -> list[Checkpoint]:
    """Every checkpoint in the database, the most advanced of each agent, partition and fold version."""
    rows = client.query(
        "SELECT agent, topic, partition, fold_version, next_offset, toUnixTimestamp64Milli(newest), topic_id, "
        "cluster_id, parameters, inputs FROM checkpoints FINAL ORDER BY agent, topic, partition, fold_version"
    ).result_rows
    return [replace(c, newest=NEVER) if c.newest <= _EPOCH_FLOOR else c for c in (Checkpoint(*row) for row in rows)]
