"""One worker process from Kafka to rows in ClickHouse, beside a plain Faust agent that does the same work.

The clock of the worker starts when it has its partitions and begins to read (its health address says so; the start of
the process is left out), and ends with the time stamp of the last checkpoint, which is written when all rows of both
agents, archive and engagement, are in ClickHouse. So the last flush and the wait for it are in.
"""

import re
import statistics
import time
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from bench import rig
from bench.machine import CpuSampler, conditions
from bench.plain import Outcome
from bench.result import Result, Wrong
from infra.connect import clickhouse_client
from infra.home import Home
from infra.settings import Settings
from pipeline.folds.engagement import Engagement
from pipeline.twin import FOLDS, columns, twin
from pipeline.verify import verify
from schemas.topics import SOURCES

PLAIN_EVENTS = 150_000
"""Events that the plain agent is given: it is slow, and its speed does not change with time."""


@dataclass(frozen=True)
class Run:
    """One run of the worker: wall seconds, CPU seconds by part, and by process."""

    seconds: float
    stages: dict[str, float]
    cpu: dict[str, float]


def bench(events: int, runs: int, say: Callable[[str], None], plain: bool = True, strangers: bool = False) -> Result:
    """Both measurements, on one topic filled once; the worker's as the median of the runs."""
    options = f"--events {events} --runs {runs}{'' if plain else ' --no-plain'}{' --strangers' if strangers else ''}"
    result = Result("worker", f"python -m bench worker {options}")
    result.conditions = conditions()
    with rig.stack() as settings:
        size, seconds = rig.fill(settings, events, say, strangers)
        done, without = [], []
        for number in range(runs):
            with rig.database(settings, "fanpulse_bench_without_fans") as own:
                say(f"without the agents of fans: run {number + 1} of {runs}")
                without.append(_run(own, events, WITHOUT_FANS))
            with rig.database(settings, f"fanpulse_bench_{number}") as own:
                say(f"worker: run {number + 1} of {runs}")
                done.append(_run(own, events))
                say(f"verifying run {number + 1}")
                _verify(result, own, events, f"worker, run {number + 1}")
                if number == runs - 1:
                    _report(result, done, events, size)
                    _compare(result, done, without, events)
                if plain and number == runs - 1:
                    pace = _plain(result, own, min(events, PLAIN_EVENTS), say)
                    both = {"worker": done, "worker without fans": without}
                    for name, took in both.items():
                        ratio = pace / (statistics.median(run.seconds for run in took) / events)
                        note = "the same work" if took is without else "which has no fans"
                        result.add(f"{name} : plain agent", ratio, "times", note)
    result.add(
        "load: Kafka producer", events / seconds, "events/s", "kafka-python, one process, with making the events"
    )
    return result


def _compare(result: Result, runs: list[Run], without: list[Run], events: int) -> None:
    """What the agents of fans cost: CPU of the worker with them and without, in one run of the bench."""
    own, left = (statistics.median(run.cpu["worker"] for run in each) for each in (runs, without))
    note = "facts, lifecycle, touches, attribution; their share in the CPU of all that a worker does without them"
    result.add("fans: CPU beside the rest", 100 * (own - left) / left, "%", note)
    seconds = statistics.median(run.seconds for run in without)
    result.add("worker without fans", events / seconds, "events/s", "archive, engagement, ads")
    result.add("worker without fans: CPU", left / events * 1e6, "us/event")


def _report(result: Result, runs: list[Run], events: int, size: float) -> None:
    def median(of: Callable[[Run], float]) -> float:
        return statistics.median(of(run) for run in runs)

    micro = 1e6 / events
    seconds = median(lambda run: run.seconds)
    result.add("worker", events / seconds, "events/s", f"Kafka to ClickHouse, {events:,} events of {size:.0f} bytes")
    spread = ", ".join(f"{events / run.seconds:,.0f}" for run in runs)
    result.add("worker: wall", seconds, "s", f"median; events/s of each run: {spread}")
    result.add("worker: CPU", median(lambda run: run.cpu["worker"]) * micro, "us/event", "the process, all threads")
    for stage, what in STAGES.items():
        used = statistics.median(run.stages[stage] for run in runs)
        result.add(f"worker: CPU, {stage}", used * micro, "us/event", what)
    result.add(
        "ClickHouse: CPU", median(lambda run: run.cpu["clickhouse"]) * micro, "us/event", "with merges meanwhile"
    )
    result.add("Kafka: CPU", median(lambda run: run.cpu["kafka"]) * micro, "us/event")


STAGES = {
    "decode": "bytes to judged rows, in the thread of the event loop",
    "archive": "its part of that thread",
    "engagement": "the fold, and taking the rows that changed, in that thread",
    "facts": "what becomes a fact, in that thread",
    "lifecycle": "stages and moves, rows and records of them, in that thread",
    "touches": "what is told of how fans came, in that thread",
    "attribution": "who won which follow, in that thread",
    "polars": "its own thread, that all wait for: most of decode, a part of the folds",
    "flush": "the flush threads: to Arrow, compressed, sent",
    "loop": "rest of the event loop: Faust",
    "fetch": "all other threads, mostly the Kafka client",
}
"""Parts of the worker's CPU."""
ON_LOOP = ("decode", "archive", "engagement", "facts", "lifecycle", "touches", "attribution")
"""Those in the thread of the event loop."""
WORKER, WITHOUT_FANS = "pipeline.worker", "bench.without_fans"


def _run(settings: Settings, events: int, module: str = WORKER) -> Run:
    with rig.process(settings, module, "0") as worker:
        rig.await_begun(worker, settings, module)
        started = time.time()
        process = psutil.Process(worker.pid)
        before = _threads(process)
        with CpuSampler({"worker": worker.pid, **rig.pids(settings)}) as cpu:
            ended = _await_end(settings, events, module == WORKER, lambda: rig.still_runs(worker, settings, module))
            main, polars = (now - then for now, then in zip(_threads(process), before, strict=True))
            stages = _stages(settings)
            time.sleep(0.1)
        used = cpu.used(started, ended)
        on_loop = sum(stages.get(stage, 0.0) for stage in ON_LOOP)
        stages["loop"] = max(0.0, main - on_loop)
        stages["polars"] = polars
        stages["fetch"] = max(0.0, used["worker"] - main - polars - stages.get("flush", 0.0))
        return Run(ended - started, {stage: stages.get(stage, 0.0) for stage in STAGES}, used)


def _await_end(settings: Settings, events: int, fans: bool, look: Callable[[], None]) -> float:
    """Waits until every agent, with those of fans or without, has stored everything; returns when (seconds since the
    epoch) that was."""
    # archive and engagement, and then facts and touches.
    agents, readers = (4, 2) if fans else (2, 0)
    deadline = time.monotonic() + 60 + events / 2_000
    with closing(clickhouse_client(settings)) as client:
        while True:
            (rows, ended), *_ = client.query(
                "SELECT sum(next_offset), max(written) FROM (SELECT max(next_offset) AS next_offset, "
                "toUnixTimestamp64Milli(argMax(written_at, checkpoints.next_offset)) AS written FROM checkpoints "
                "WHERE topic = 'interactions' GROUP BY agent, partition)"
            ).result_rows
            (told, read), *_ = client.query(
                "SELECT sum(JSONExtractInt(inputs, 'interactions', 'next')), max(toUnixTimestamp64Milli(written_at)) "
                "FROM checkpoints FINAL WHERE agent IN ('lifecycle', 'attribution')"
            ).result_rows
            if rows == agents * events and told == readers * events:
                return max(float(ended), float(read)) / 1000
            look()
            if time.monotonic() > deadline:
                raise Wrong(f"{rows // agents:,} of {events:,} events were stored in time")
            time.sleep(0.25)


def _verify(result: Result, settings: Settings, events: int, who: str) -> None:
    """Every table of this database against its SQL twin, and the number of raw rows."""
    compared = verify(settings)
    differ = {found.name: found.differ for found in compared if found.differ}
    # The load is interactions alone.
    other = tuple(topic for topic in SOURCES if topic != "interactions")
    idle = {table.name for fold, topic in FOLDS.values() if topic in other for table in fold.tables}
    idle |= {"rule_state", "late_touches"}
    empty = [
        each.name for each in compared if not each.rows and not each.name.endswith(other) and each.name not in idle
    ]
    rows = sum(found.rows for found in compared)
    what = f"{who}: {rows:,} rows compared with their SQL twins"
    result.check(not differ and not empty, what + (f", different: {differ}, empty: {empty}" if differ or empty else ""))
    with closing(clickhouse_client(settings)) as client:
        (stored,) = client.query("SELECT count() FROM raw_interactions FINAL").result_rows[0]
    result.check(stored == events, f"{who}: {stored:,} raw rows of {events:,} events")


def _plain(result: Result, ours: Settings, events: int, say: Callable[[str], None]) -> float:
    """The plain agent on the first events of the same topic; seconds an event."""
    with rig.database(ours, "fanpulse_plain") as own:
        say(f"plain agent: {events:,} events")
        with rig.process(own, "bench.plain", str(events)) as agent, CpuSampler(rig.pids(own)) as cpu:
            deadline = time.monotonic() + 60 + events / 500
            file = Home(own.home).run / "plain.json"
            while not file.exists():
                rig.still_runs(agent, own, "bench.plain")
                if time.monotonic() > deadline:
                    raise Wrong("the plain agent did not finish in time")
                time.sleep(0.2)
            outcome = Outcome.read(file)
            time.sleep(0.1)
        used = cpu.used(outcome.started, outcome.ended)
        seconds = outcome.ended - outcome.started
        micro = 1e6 / outcome.events
        result.add(
            "plain agent", outcome.events / seconds, "events/s", f"the first {outcome.events:,} events of the topic"
        )
        result.add("plain agent: CPU", outcome.cpu * micro, "us/event", "the process, all threads")
        result.add("plain agent: ClickHouse: CPU", used["clickhouse"] * micro, "us/event")
        say("verifying the plain agent")
        _verify(result, own, outcome.events, "plain agent")
        rows, differ = _same(ours, own, outcome.until)
        result.check(rows > 0 and not differ, f"{rows:,} creator-minutes of both, {differ} differ")
        return seconds / outcome.events


def _same(ours: Settings, plain: Settings, until: dict[int, int]) -> tuple[int, int]:
    """The plain agent's creator-minutes beside those of our raw rows up to its offsets: rows, and how many differ."""
    table = Engagement.creator_minute
    keys = ", ".join((*table.keys, "partition"))
    events = (
        f"SELECT *, toStartOfMinute(event_time) AS minute FROM {ours.database}.raw_interactions FINAL "
        "WHERE late = 0 AND duplicate = 0 "
        "AND `offset` < transform(partition, {partitions:Array(UInt16)}, {until:Array(Int64)}, 0)"
    )
    differs = " OR ".join(f"ours.{name} != theirs.{name}" for name in (*table.measures, "applied"))
    with closing(clickhouse_client(ours, timeout=120)) as client:
        (rows, differ), *_ = client.query(
            f"SELECT count(), countIf(ours.there != theirs.there OR {differs}) "
            f"FROM (SELECT 1 AS there, * FROM (WITH events AS ({events}) {twin(table.name)})) AS ours "
            f"FULL OUTER JOIN (SELECT 1 AS there, {columns(table)} FROM {plain.database}.{table.name} FINAL) AS theirs "
            f"USING ({keys})",
            parameters={"partitions": list(until), "until": list(until.values())},
        ).result_rows
    return int(rows), int(differ)


def _stages(settings: Settings) -> dict[str, float]:
    """CPU seconds by stage, of the worker's metrics."""
    found = re.findall(
        r'^fanpulse_stage_seconds_total\{stage="(\w+)"\} (\S+)$', rig.ask_worker(settings, "/metrics"), re.MULTILINE
    )
    return {stage: float(seconds) for stage, seconds in found}


def _threads(process: psutil.Process) -> tuple[float, float]:
    """CPU seconds of the thread that runs the event loop, and of polars' threads (told by name, on Linux)."""
    main = polars = 0.0
    for thread in process.threads():
        used = thread.user_time + thread.system_time
        if thread.id == process.pid:
            main = used
            continue
        with suppress(OSError):
            if Path(f"/proc/{process.pid}/task/{thread.id}/comm").read_text().startswith("polars"):
                polars += used
    return main, polars
