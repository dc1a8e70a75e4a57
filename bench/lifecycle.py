"""The lifecycle fold alone: memory and restoring of pairs of fan and creator, a midnight, and the cost of a fact."""

import time
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from bench.machine import conditions
from bench.result import Result, Wrong
from pipeline.block import Int64s
from pipeline.dedupe import UInt64s
from pipeline.folds.lifecycle import DAY_MS, Lifecycle
from pipeline.stages import StagePolicy

SIZES = (1_000_000, 3_000_000)
FACTS = ((2_000, 60), (20_000, 12))
"""Facts in a block, and how many such blocks."""
MESSAGES = 8
"""Messages of the fan log in a block."""
CREATORS = 500
WINDOW = 64
AS_OF = 20_250
SLICE = 50_000
"""Pairs settled at once, where a midnight is spread."""
_PART = 250_000
_ZONE, _OFFSET_MS = "Asia/Shanghai", 8 * 3_600_000
_NAMES = pl.Series([f"creator{number:05d}" for number in range(CREATORS)])


def bench(say: Callable[[str], None]) -> Result:
    """CPU seconds of restoring, of a midnight and of many days at once; bytes per pair; microseconds per fact."""
    result = Result("lifecycle", "python -m bench lifecycle")
    result.conditions = conditions()
    for number in SIZES:
        say(f"restore {number:,} pairs")
        fold, world = _restored(result, number)
        if number == SIZES[0]:
            for size, blocks in FACTS:
                say(f"blocks of {size:,} facts")
                _facts(result, fold, world, size, blocks)
        else:
            say("midnight")
            _midnight(result, fold, world)
    say("memory")
    _memory(result, SIZES[-1])
    return result


@dataclass
class World:
    """Pairs of a made-up partition; how many there are, how many days they have, and how many the next midnight
    moves."""

    fans: list[UInt64s]
    creators: list[Int64s]
    days: int = 0
    moving: int = 0


def parts(number: int, world: World) -> Iterator[pl.DataFrame]:
    """Rows of ``fan_state``: about five active days of the last 64 on average, most pairs with one or two, some with
    forty; one day in a hundred has an unfollow that an action follows."""
    random = np.random.default_rng(number)
    for begin in range(0, number, _PART):
        size = min(_PART, number - begin)
        active = random.random((size, WINDOW)) < random.beta(0.45, 7.0, size)[:, None]
        active[np.arange(size), random.integers(0, WINDOW, size)] = True
        column = np.nonzero(active)[1]
        day = AS_OF - WINDOW + 1 + column
        first = day * DAY_MS - _OFFSET_MS + random.integers(0, DAY_MS // 2, len(day))
        last = first + random.integers(2, DAY_MS // 2, len(day))
        unfollow = np.where(random.random(len(day)) < 0.01, first + 1, 0)
        ends = np.cumsum(active.sum(axis=1))
        offsets = pa.array(np.append(0, ends), pa.int64())
        time_type = pa.timestamp("ms", "UTC")
        lists = {
            "days": pa.array(day.astype(np.int32)).view(pa.date32()),
            "firsts": pa.array(first).view(time_type),
            "lasts": pa.array(last).view(time_type),
            "unfollows": pa.array(unfollow).view(time_type),
        }
        world.fans.append(random.integers(0, 2**64, size, np.uint64))
        world.creators.append(random.integers(0, CREATORS, size))
        world.days += len(day)
        world.moving += int((_stages(active, 0) != _stages(active, 1)).sum())
        yield pl.DataFrame(
            [
                pl.Series("platform", ["douyin"] * size),
                _NAMES.gather(pl.Series(world.creators[-1])).rename("creator_id"),
                pl.Series("fan", world.fans[-1]),
                pl.Series("first_at", first[np.append(0, ends[:-1])]).cast(pl.Datetime("ms", "UTC")),
                *(pl.Series(name, pa.LargeListArray.from_arrays(offsets, each)) for name, each in lists.items()),
                pl.Series("too_old", np.zeros(size, np.uint32)),
                pl.Series("applied", (begin + np.arange(size)) // 1000),
            ]
        )


def _stages(active: npt.NDArray[np.bool_], later: int) -> Int64s:
    """Stages so many days after the as-of day, from a matrix of active days, by the definition; 7 and 30 days."""
    gap = np.argmax(active[:, ::-1], axis=1) + later
    age = WINDOW - 1 - np.argmax(active, axis=1) + later
    before = active[:, WINDOW - 14 + later : WINDOW - 7 + later].any(axis=1)
    return np.select([gap >= 30, gap >= 7, age < 7, before], [5, 4, 1, 3], 2)


def _restored(result: Result, number: int) -> tuple[Lifecycle, World]:
    fold, world, seconds = Lifecycle(0, _ZONE, StagePolicy()), World([], []), 0.0
    for rows in parts(number, world):
        began = time.process_time()
        fold.restore_state(rows, AS_OF)
        seconds += time.process_time() - began
    note = f"{world.days / number:.2g} active days each, {seconds / number * 1e6:.2g} us a pair"
    result.add(f"restore {number:,} pairs", seconds, "s", note)
    result.check(len(fold) == number and fold.as_of == AS_OF, f"{number:,} pairs restored")
    return fold, world


def _facts(result: Result, fold: Lifecycle, world: World, size: int, blocks: int) -> None:
    """On with the stream: a tenth of the facts about new pairs, a quarter about a pair that the block has already."""
    random = np.random.default_rng(size)
    fans, creators = np.concatenate(world.fans), np.concatenate(world.creators)
    applied = 10**7 + 10**6 * size
    made = []
    for _ in range(blocks):
        which = random.integers(0, len(fans), size)
        which[: size // 4] = which[size // 4 : size // 4 * 2]
        fan, creator = fans[which], creators[which]
        fan[-(size // 10) :] = random.integers(0, 2**64, size // 10, np.uint64)
        order = random.permutation(size)
        day = np.where(random.random(size) < 0.02, AS_OF - 1, AS_OF)
        kinds = random.choice(["view", "gift", "paid", "unfollow"], size, p=[0.6, 0.2, 0.18, 0.02])
        made.append(
            pl.DataFrame(
                [
                    pl.Series("applied", applied + np.arange(size) * MESSAGES // size),
                    pl.Series("source", ["interactions"] * size),
                    pl.Series("offset", np.arange(size)),
                    pl.Series("platform", ["douyin"] * size),
                    _NAMES.gather(pl.Series(creator[order])).rename("creator_id"),
                    pl.Series("fan", fan[order]),
                    pl.Series("at", day * DAY_MS - _OFFSET_MS + random.integers(0, DAY_MS, size)),
                    pl.Series("day", day.astype(np.int32)),
                    pl.Series("kind", kinds.tolist()),
                ]
            )
        )
        applied += MESSAGES
    applying = taking = 0.0
    moves = rows = 0
    highest = 0
    for block in made:
        began = time.process_time()
        fold.apply(block)
        middle = time.process_time()
        moves += sum(output.value.count(b"\n") + 1 for output in fold.outputs(0, 0, None))
        tables = fold.take()
        taking += time.process_time() - middle
        applying += middle - began
        rows += len(tables["fan_state"])
        highest = max(highest, int(tables["fan_state"]["applied"].max()))  # type: ignore[arg-type]
    facts = size * blocks
    note = f"of it {taking / facts * 1e6:.2g} us for rows and records; {moves / facts:.2g} moves a fact"
    result.add(f"a fact, blocks of {size:,}", (applying + taking) / facts * 1e6, "us", note)
    result.check(highest == applied - 1 and rows <= facts, f"{rows:,} rows of {facts:,} facts")


def _midnight(result: Result, fold: Lifecycle, world: World) -> None:
    longest, seconds, moves = _pass(fold, AS_OF + 1)
    note = f"{moves:,} moves; longest piece of {SLICE:,} pairs {longest:.2g} s"
    result.add(f"midnight of {len(fold):,} pairs", seconds, "s", note)
    result.check(moves == world.moving, f"{moves:,} moves at midnight")
    longest, seconds, moves = _pass(fold, AS_OF + 41)
    note = f"{moves:,} moves; longest piece {longest:.2g} s"
    result.add("40 days at once", seconds, "s", note)


def _pass(fold: Lifecycle, day: int) -> tuple[float, float, int]:
    """CPU seconds of the longest piece, and of all with the rows taken; and the moves."""
    tick = {"applied": 10**12 + day, "source": "", "offset": -1, "platform": "", "creator_id": "", "fan": 0, "at": 0}
    rows = pl.DataFrame([tick | {"day": day, "kind": ""}], schema_overrides={"fan": pl.UInt64, "day": pl.Int32})
    began = last = time.process_time()
    longest, done = 0.0, False
    fold.apply(rows)
    while not done:
        done = fold.settle(SLICE)
        now = time.process_time()
        longest, last = max(longest, now - last), now
    moves = sum(output.value.count(b"\n") + 1 for output in fold.outputs(0, 0, None))
    taken = fold.take()
    now = time.process_time()
    if len(taken["fan_transitions"]) != moves:
        raise Wrong("rows and records of moves differ in number")
    return max(longest, now - last), now - began, moves


def _memory(result: Result, number: int) -> None:
    """Memory of Python and NumPy; the rows themselves are Arrow's and gone."""
    world = World([], [])
    tracemalloc.start()
    try:
        fold = Lifecycle(0, _ZONE, StagePolicy())
        before = tracemalloc.get_traced_memory()[0]
        for rows in parts(number, world):
            fold.restore_state(rows, AS_OF)
        del rows
        world.fans.clear()
        world.creators.clear()
        size = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    note = f"{size / 2**20:,.0f} MiB, {world.days / number:.2g} active days each"
    result.add(f"memory of {number:,} pairs", size / number, "bytes/pair", note)
    result.check(len(fold) == number, f"{number:,} pairs in memory")
