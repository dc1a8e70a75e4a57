"""What a worker remembers: how much memory it takes, and how fast it is rebuilt after a start."""

import time
import tracemalloc
from collections.abc import Callable

import numpy as np
import polars as pl

from bench.machine import conditions
from bench.result import Result
from pipeline.decode import FAN_CACHE, FanHasher
from pipeline.dedupe import restore
from pipeline.folds.engagement import Engagement
from pipeline.snapshot import Snapshots

IDS = (1_000_000, 10_000_000)
HOURS = 2
"""Event time over which the ids are spread: the late horizon."""
BLOCK = 20_000
ROWS = 1_000_000
START_MS = 1_767_265_200_000


def bench(say: Callable[[str], None]) -> Result:
    """Bytes per id, seconds to rebuild, cost of a lookup; snapshot rows restored; and bytes per row and per fan."""
    result = Result("dedupe", "python -m bench dedupe")
    result.conditions = conditions()
    for number in IDS:
        say(f"{number:,} ids")
        _ids(result, number)
    say(f"{ROWS:,} snapshot rows")
    _snapshots(result)
    say(f"{FAN_CACHE:,} fans")
    _fans(result)
    return result


def _ids(result: Result, number: int) -> None:
    random = np.random.default_rng(number)
    prints = random.integers(1, 2**64, number, np.uint64)
    times = np.sort(random.integers(START_MS, START_MS + HOURS * 3_600_000, number))
    offsets = np.arange(number)
    began = time.perf_counter()
    index = restore(prints, times, offsets)
    seconds = time.perf_counter() - began
    result.add(f"rebuild {number:,} ids", seconds, "s", f"{seconds / number * 1e6:.3g} us an id, in memory")
    result.add(f"memory of {number:,} ids", index.nbytes / number, "bytes/id", f"{index.nbytes / 2**20:,.0f} MiB")
    result.check(len(index) == number, f"{number:,} ids remembered")
    # On with the stream: blocks of new ids, a hundredth of them repeats.
    blocks = 50
    fresh = random.integers(1, 2**64, blocks * BLOCK, np.uint64)
    again = random.random(blocks * BLOCK) < 0.01
    picked = random.integers(number * 9 // 10, number, int(again.sum()))
    fresh[again] = prints[picked]
    now = np.sort(random.integers(START_MS + (HOURS - 1) * 3_600_000, START_MS + HOURS * 3_600_000, len(fresh)))
    now[again] = times[picked]
    upto = np.arange(number, number + len(fresh))
    found = 0
    began = time.perf_counter()
    for first in range(0, len(fresh), BLOCK):
        some = slice(first, first + BLOCK)
        found += int(index.repeats(fresh[some], now[some], upto[some]).sum())
    seconds = time.perf_counter() - began
    note = f"blocks of {BLOCK:,}, with growing"
    result.add(f"lookup beside {number:,} ids", seconds / len(fresh) * 1e6, "us/id", note)
    result.check(found == int(again.sum()), f"{found:,} repeats found")


def _snapshots(result: Result) -> None:
    table = Engagement.content_minute
    random = np.random.default_rng(1)
    contents = 10_000
    minutes = ROWS // contents
    which = np.repeat(np.arange(contents), minutes)
    rows = pl.DataFrame(
        {
            "platform": pl.Series(np.where(which % 3 == 0, "kuaishou", "douyin"), dtype=pl.String),
            "creator_id": pl.Series([f"c{number % 500:05d}" for number in which.tolist()]),
            "content_id": pl.Series([f"v{number:07d}" for number in which.tolist()]),
            "minute": pl.Series(START_MS + np.tile(np.arange(minutes), contents) * 60_000).cast(table.bucket_type),
            **{name: random.integers(0, 1000, ROWS) for name in table.measures},
            "applied": np.arange(ROWS),
        }
    )
    snapshots = Snapshots(table)
    began = time.perf_counter()
    snapshots.restore(rows)
    seconds = time.perf_counter() - began
    result.add(
        f"restore {ROWS:,} snapshot rows", seconds, "s", f"{table.name}, in memory, {seconds / ROWS * 1e6:.3g} us a row"
    )
    held = snapshots.applied(snapshots.key_columns(rows))
    again = Snapshots(table)
    size = _memory(lambda: again.restore(rows))
    result.add(f"memory of {ROWS:,} snapshot rows", size / ROWS, "bytes/row", f"{size / 2**20:,.0f} MiB")
    result.check(bool((held == rows["applied"].to_numpy()).all()), f"{len(snapshots):,} snapshot rows restored")


def _fans(result: Result) -> None:
    """The remembered hashes of as many fans as a worker remembers at most."""
    fans = FanHasher(bytes(32))

    def remember() -> None:
        for number in range(FAN_CACHE - 1):
            fans.hash(f"fan{number:012d}")

    size = _memory(remember)
    note = f"{size / 2**20:,.0f} MiB; more are never remembered"
    result.add(f"memory of {FAN_CACHE:,} fans", size / FAN_CACHE, "bytes/fan", note)


def _memory(made: Callable[[], None]) -> int:
    """Bytes that are held after a call and were not before, those of NumPy too."""
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        made()
        return tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
