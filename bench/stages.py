"""The stages of a worker's work one by one, in this process: no Kafka, no ClickHouse, the same events every time."""

import statistics
import time
from collections.abc import Callable, Iterator

import numpy as np
import orjson
import polars as pl

from bench.events import chunks
from bench.machine import conditions
from bench.result import Result
from pipeline.block import Block
from pipeline.decode import Decoder, FanHasher
from pipeline.folds.archive import Archive
from pipeline.folds.engagement import Engagement
from pipeline.verdict import Horizon, Verdicts
from schemas.events import CONTRACTS

EVENTS = 400_000
PARTITIONS = 4
SIZES = (1_000, 5_000, 20_000)
"""Events of a block."""
FLUSH = 200_000
"""Events between two takes."""
START_MS = 1_767_265_200_000
SAMPLE = 50_000
"""Events that are read one by one, for comparison."""

STAGES = {
    "decode": "bytes to validated columns",
    "judge": "watermark, late, repeats",
    "archive": "apply and take",
    "engagement": "apply",
    "take": "of engagement: changed snapshot rows to columns",
    "arrow": "raw rows to Arrow",
}


def bench(say: Callable[[str], None]) -> Result:
    """Microseconds of CPU per event, by stage and size of block: the median of three passes."""
    result = Result("stages", "python -m bench stages")
    result.conditions = conditions()
    say("making events")
    logs = _logs()
    whole = [value for partition in logs for value in partition]
    sums: list[tuple[int, ...]] = []
    for size in SIZES:
        passes = []
        for number in range(3):
            say(f"blocks of {size:,}, pass {number + 1}")
            used, counted = _pass(logs, size)
            passes.append(used)
            sums.append(counted)
        total = 0.0
        for stage, what in STAGES.items():
            micros = statistics.median(used[stage] for used in passes) / len(whole) * 1e6
            total += micros
            result.add(f"{stage}, blocks of {size:,}", micros, "us/event", what)
        result.add(f"all stages, blocks of {size:,}", total, "us/event", f"{1e6 / total:,.0f} events/s on one core")
    say("one by one")
    validate = CONTRACTS["interactions"].validate_json
    for name, read, what in (
        ("pydantic, one by one", validate, "the contract alone, no columns"),
        ("orjson, one by one", orjson.loads, "parsing alone, nothing validated"),
    ):
        began = time.process_time()
        for value in whole[:SAMPLE]:
            read(value)
        result.add(name, (time.process_time() - began) / SAMPLE * 1e6, "us/event", what)
    result.check(len(set(sums)) == 1, f"the same rows and counts whatever the size of blocks: {sums[0]}")
    raw, on_time, folded, _ = sums[0]
    result.check(raw == len(whole) and folded == on_time, "no event lost or counted twice")
    return result


def _pass(logs: list[list[bytes]], size: int) -> tuple[dict[str, float], tuple[int, ...]]:
    """CPU seconds by stage, and what must be the same in every pass: raw rows, rows that count, rows counted per
    minute, snapshot rows."""
    used = dict.fromkeys(STAGES, 0.0)
    decoder = Decoder("interactions", FanHasher(bytes(32)))
    horizon = Horizon(60_000, 7_200_000)
    verdicts = [Verdicts(horizon) for _ in logs]
    archives = [Archive("interactions") for _ in logs]
    folds = [Engagement("Asia/Shanghai") for _ in logs]
    raw = on_time = waiting = 0
    latest: list[pl.DataFrame] = []

    def flush() -> None:
        nonlocal raw, waiting
        waiting = 0
        for partition in range(len(logs)):
            began = time.process_time()
            stored = archives[partition].take()
            used["archive"] += time.process_time() - began
            began = time.process_time()
            for rows in stored.values():
                rows.to_arrow(compat_level=pl.CompatLevel.oldest())
                raw += len(rows)
            used["arrow"] += time.process_time() - began
            began = time.process_time()
            changed = folds[partition].take()
            used["take"] += time.process_time() - began
            latest.extend(
                rows.with_columns(pl.lit(partition).alias("partition"), pl.lit(name).alias("table")).select(
                    "partition", "table", *Engagement.creator_minute.keys, pl.sum_horizontal(_counts(rows)), "applied"
                )
                for name, rows in changed.items()
                if name == Engagement.creator_minute.name
            )

    for partition, block in _blocks(logs, size):
        began = time.process_time()
        rows = decoder.decode(block).rows
        used["decode"] += time.process_time() - began
        began = time.process_time()
        rows = verdicts[partition].judge(rows)
        used["judge"] += time.process_time() - began
        began = time.process_time()
        archives[partition].apply(rows)
        used["archive"] += time.process_time() - began
        began = time.process_time()
        folds[partition].apply(rows)
        used["engagement"] += time.process_time() - began
        on_time += int(((rows["late"] == 0) & (rows["duplicate"] == 0)).sum())
        waiting += len(rows)
        if waiting >= FLUSH:
            flush()
    flush()
    keys = ["partition", *Engagement.creator_minute.keys]
    final = pl.concat(latest).sort("applied").group_by(keys).last()
    return used, (raw, on_time, int(final["plays"].sum()), sum(len(fold) for fold in folds))


def _counts(rows: pl.DataFrame) -> list[str]:
    """Measures that count events, each of which raises exactly one by one. The sum takes the name of the first."""
    return [name for name in Engagement.creator_minute.measures if name not in ("watch_ms", "completions", "stay_ms")]


def _logs() -> list[list[bytes]]:
    """The values of each partition."""
    logs: list[list[bytes]] = [[] for _ in range(PARTITIONS)]
    for chunk in chunks(EVENTS, START_MS, PARTITIONS):
        for value, partition in zip(chunk.values, chunk.partitions, strict=True):
            logs[partition].append(value)
    return logs


def _blocks(logs: list[list[bytes]], size: int) -> Iterator[tuple[int, Block]]:
    """Blocks of the partitions in turn."""
    for first in range(0, max(map(len, logs)), size):
        for partition, values in enumerate(logs):
            some: list[bytes | None] = list(values[first : first + size])
            if some:
                offsets = np.arange(first, first + len(some))
                appended = np.full(len(some), START_MS + 35 * 60_000)
                yield partition, Block("interactions", partition, first, first + len(some), offsets, appended, some)
