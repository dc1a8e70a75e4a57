"""How long the query of every panel takes, as boards open, on a database with many rows."""

import contextlib
import statistics
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

from clickhouse_connect.driver.client import Client

from bench import rig
from bench.machine import conditions
from bench.result import Result, Wrong
from dashboards.alerts import RULES
from dashboards.boards import boards
from dashboards.check import options, queries, run
from generators.config import WorldConfig, history_start
from generators.produce import backfill
from infra.connect import clickhouse_client
from infra.settings import Settings, load
from infra.topics import end_offsets
from pipeline import checkpoint as checkpoints
from pipeline.refresh import refresh
from schemas.topics import SOURCES

ROWS = 1_000_000
"""Raw rows, if no other number is asked for."""
DAYS = 45
CREATORS = 100
ROWS_A_FAN = 166
"""Events in so many days, a fan that appears within them; measured of the generators' world."""
RUNS = 3
"""Of each query; the median counts."""
TARGET_MS = 300
STALLED_S = 120
WORKER = "pipeline.worker"


def bench(rows: int, home: Path | None, say: Callable[[str], None]) -> Result:
    """Milliseconds of every query.

    Args:
        rows: raw rows of a made-up world, about so many.
        home: measure what is in this home instead, such as what ``fanpulse load`` has stored there.
        say: is told what goes on.
    """
    result = Result(
        "boards", f"python -m bench boards --rows {rows}" if home is None else "python -m bench boards --home"
    )
    result.conditions = conditions()
    with _filled(rows, say) if home is None else contextlib.nullcontext(load(home)) as settings:
        _measure(settings, result, say)
    return result


def _measure(settings: Settings, result: Result, say: Callable[[str], None]) -> None:
    with contextlib.closing(clickhouse_client(settings, "analyst")) as client:
        stored = _raw_rows(client)
        result.add("raw rows", stored, "rows")
        values = options(client)
        times: dict[str, float] = {}
        failed = []
        for query in queries(boards(), RULES, settings.time_zone):
            say(query.where)
            now_ms = int(time.time() * 1000)
            ran = [run(client, query, now_ms, settings.time_zone, values, thorough=False)[0] for _ in range(RUNS)]
            if ran[0].wrong is not None and "shows nothing" not in ran[0].wrong:
                failed.append(f"{query.where}: {ran[0].wrong}")
            times[query.where] = statistics.median(one.took_ms for one in ran)
            result.add(query.where, times[query.where], "ms", f"{ran[0].read:,} rows read")
    ordered = sorted(times.values())
    result.add("median", statistics.median(ordered), "ms")
    result.add("slowest", ordered[-1], "ms", max(times, key=lambda name: times[name]))
    result.check(not failed, "; ".join(failed) or f"{len(times)} queries ran")
    slow = [name for name, took in times.items() if took > TARGET_MS]
    result.add(f"slower than {TARGET_MS} ms", len(slow), "queries", ", ".join(slow))


@contextlib.contextmanager
def _filled(rows: int, say: Callable[[str], None]) -> Iterator[Settings]:
    """A database with the history of a world of about so many events up to now, and its fans rated."""
    with rig.stack() as settings, rig.database(settings, "fanpulse_bench_boards") as own:
        now_ms = int(time.time() * 1000)
        world = WorldConfig(
            fans=max(rows // ROWS_A_FAN, 100),
            creators=CREATORS,
            partitions=own.partitions,
            start_ms=history_start(now_ms, DAYS),
        )
        with rig.process(own, WORKER, "0") as worker:
            rig.await_begun(worker, own, WORKER)
            backfill(own, world, world.start_ms, now_ms, 1, lambda sent: say(f"sent {sent.records:,}"))
            _await_stored(own, say)
            rig.still_runs(worker, own, WORKER)
            with contextlib.closing(clickhouse_client(own)) as client:
                say("rating fans")
                refresh(own, client, datetime.now(UTC))
            yield own


def _await_stored(settings: Settings, say: Callable[[str], None]) -> None:
    ends = end_offsets(settings)
    wanted = {where: end for where, end in ends.items() if where[0] in SOURCES and end}
    best, since = -1, time.monotonic()
    with contextlib.closing(clickhouse_client(settings)) as client:
        while True:
            lowest: dict[tuple[str, int], int] = {}
            for each in checkpoints.read(client):
                where = (each.topic, each.partition)
                lowest[where] = min(lowest.get(where, each.next_offset), each.next_offset)
            done = sum(min(lowest.get(where, 0), end) for where, end in wanted.items())
            if done == sum(wanted.values()):
                return
            if done > best:
                best, since = done, time.monotonic()
            if time.monotonic() - since > STALLED_S:
                raise Wrong(f"{done:,} of {sum(wanted.values()):,} events are stored, and nothing moves")
            say(f"stored {done:,} of {sum(wanted.values()):,}")
            time.sleep(0.5)


def _raw_rows(client: Client) -> int:
    return sum(int(client.query(f"SELECT count() FROM raw_{topic}").result_rows[0][0]) for topic in SOURCES)
