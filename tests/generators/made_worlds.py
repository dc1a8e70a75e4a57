"""Worlds that the tests share: made once, as a world's first hour costs the most."""

from functools import cache

import numpy as np
import orjson
import polars as pl

from generators.config import WorldConfig
from generators.world import World
from schemas.topics import DAY_MS, SOURCES

START_MS = 1_764_518_400_000
"""Midnight in Shanghai, a Monday."""
DAYS = 45


def config(**changes: object) -> WorldConfig:
    """A small world with some of everything."""
    return WorldConfig.model_validate(
        {"seed": 11, "fans": 2_000, "creators": 14, "partitions": 2, "start_ms": START_MS, **changes}
    )


@cache
def world(**changes: object) -> World:
    """The world of ``config(**changes)``."""
    return World(config(**changes))


@cache
def history() -> dict[str, pl.DataFrame]:
    """All events of 45 days by topic, parsed from the bytes that would be sent."""
    made = world()
    lines: dict[str, list[bytes]] = {topic: [] for topic in SOURCES}
    for partition in range(made.config.partitions):
        for day in range(DAYS):
            start = START_MS + day * DAY_MS
            for topic, records in made.records(partition, start, start + DAY_MS).items():
                lines[topic] += [value for value in records.values if value is not None]
    return {topic: pl.read_ndjson(b"\n".join(values), infer_schema_length=None) for topic, values in lines.items()}


def same(left: dict[str, object], right: dict[str, object]) -> bool:
    """Whether two answers of ``World.events`` or ``World.records`` are equal in every value."""

    def plain(answer: dict[str, object]) -> bytes:
        shown = {}
        for topic, part in answer.items():
            values = (
                dict(getattr(part, "values", None) or {})
                if isinstance(getattr(part, "values", None), dict)
                else {name: getattr(part, name) for name in ("sent_ms", "labels", "kinds", "keys", "values")}
            )
            shown[topic] = {
                name: column.tolist() if isinstance(column, np.ndarray) else [repr(item) for item in column]
                for name, column in values.items()
            }
        return orjson.dumps(shown)

    return plain(left) == plain(right)
