"""Getting the state of fans back: rows of ``fan_state`` of a real ClickHouse to a fold that goes on."""

import time
from collections.abc import Callable
from contextlib import closing

import orjson
import polars as pl

from bench import rig
from bench.lifecycle import AS_OF, SIZES, World, parts
from bench.machine import conditions
from bench.result import Result
from infra.connect import clickhouse_client
from infra.home import fan_key
from infra.settings import Settings
from pipeline import checkpoint as checkpoints
from pipeline import fan_log
from pipeline.app import AGENTS
from pipeline.checkpoint import Checkpoint
from pipeline.folds.lifecycle import DAY_MS, Lifecycle
from pipeline.recovery import Cluster, Recovery
from schemas.topics import SOURCES

_NEXT = 10**6


def bench(say: Callable[[str], None]) -> Result:
    """Wall seconds from the checkpoints to the restored folds of all partitions, as at the start of a worker."""
    result = Result("recovery", "python -m bench recovery")
    result.conditions = conditions()
    with rig.stack() as settings:
        for number in SIZES:
            with rig.database(settings, f"fanpulse_bench_{number}") as own:
                say(f"storing {number:,} pairs")
                _store(own, number)
                say(f"restoring {number:,} pairs")
                seconds, restored = _restore(own)
                result.add(
                    f"recovery of {number:,} pairs", seconds, "s", f"{rig.PARTITIONS} partitions, ClickHouse read"
                )
                result.check(restored == number, f"{restored:,} pairs restored")
    return result


def _store(settings: Settings, number: int) -> None:
    reached = {"next": 1, "reached": AS_OF * DAY_MS}
    inputs = orjson.dumps(dict.fromkeys(SOURCES, reached)).decode()
    held = [
        Checkpoint(
            "lifecycle",
            fan_log.TOPIC,
            partition,
            Lifecycle.version,
            _NEXT,
            AS_OF * DAY_MS,
            "topic",
            "cluster",
            checkpoints.parameters(settings, "lifecycle"),
            inputs,
        )
        for partition in range(rig.PARTITIONS)
    ]
    with closing(clickhouse_client(settings, timeout=600)) as client:
        for index, rows in enumerate(parts(number, World([], []))):
            rows = rows.with_columns(
                pl.lit(index % rig.PARTITIONS, pl.UInt16).alias("partition"),
                pl.lit(Lifecycle.version, pl.UInt16).alias("fold_version"),
            )
            client.insert_arrow("fan_state", rows.to_arrow(compat_level=pl.CompatLevel.oldest()))
        checkpoints.write(client, held, 0)


def _restore(settings: Settings) -> tuple[float, int]:
    places = {(fan_log.TOPIC, partition) for partition in range(rig.PARTITIONS)}
    topics = (*SOURCES, fan_log.TOPIC)
    recovery = Recovery(
        settings,
        AGENTS,
        Cluster("cluster", dict.fromkeys(topics, "topic"), dict.fromkeys(topics, rig.PARTITIONS)),
        fan_key(settings),
        lambda: clickhouse_client(settings, timeout=600),
        lambda log, batch, seconds: None,
    )
    begun = time.perf_counter()
    logs = recovery.load(places, dict.fromkeys(places, 0), lambda: dict.fromkeys(places, _NEXT))
    seconds = time.perf_counter() - begun
    return seconds, sum(len(fold) for log in logs.values() for fold in log.folds.values())
