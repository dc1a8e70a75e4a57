"""``python -m chaos.soak``: the real commands under a steady load for a long time. Does anything grow?"""

import argparse
import contextlib
import csv
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import psutil
from clickhouse_connect.driver.client import Client
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from chaos.trend import Trend, trend
from chaos.zone import even_zone
from fanpulse.interrupt import stopping
from fanpulse.worker import worker_service
from generators.rhythm import Clock, weights
from infra.clickhouse import clickhouse_service
from infra.connect import clickhouse_client
from infra.errors import FanpulseError
from infra.home import Home
from infra.kafka import kafka_service
from infra.settings import PREFIX, Settings, load
from infra.stack import Stack
from infra.topics import end_offsets
from pipeline import checkpoint as checkpoints
from pipeline.app import AGENTS
from pipeline.dedupe import BUCKET_MS

TUNING = ("FLUSH_INTERVAL", "FLUSH_ROWS", "FETCH_BYTES", "BUFFER_BLOCKS", "LATE_HORIZON", "ALLOWED_LATENESS")
"""Settings that are taken from the environment; all others are those of the soak or the defaults."""
HORIZON_S, LATENESS_S = 120, 30
"""What a worker remembers is bounded by these. They are short so that it is full within the warm-up."""
WORLD = {"--days": "1", "--fans": "20000", "--creators": "40"}
WEATHER = {"--duplicates": "0.01", "--late": "0.005", "--malformed": "0.001"}
JUDGED_S = 480.0
"""A steady part shorter than this says nothing about growth: it is shown and not judged."""
MB = 2**20

BYTES_AN_ID, BYTES_A_ROW = 40, 469
"""What a worker remembers, measured by ``python -m bench dedupe``. It follows the load, and has a bound of its own."""
GROWTH = 0.10
"""Memory of a worker, less what it remembers, may grow by this share of it an hour, and by what its uncertainty leaves
open."""
IDS = 1.25
"""Ids remembered at most, as a multiple of what is sent in the time that they are kept."""
PEAK_MB = 1024
"""Memory of a worker at most."""
KAFKA_MB = 1024
"""Memory of the broker at most: a heap of 512 MB, and what it maps of its logs."""
CLICKHOUSE_MB = 6 * 1024
"""Memory of ClickHouse at most: its own limit."""
LAG_S = 15.0
"""Lag at most, in seconds of what is sent."""
LAG_GROWTH = 0.01
"""Lag may grow by this share of what is sent, and by what its uncertainty leaves open."""
PARTS = 300
"""Active parts of a table at most; ClickHouse itself begins to slow inserts at 1,000 in one partition."""
HANDLES = 2 * len(AGENTS)
"""Files or threads that a worker may have more at the end than after the warm-up."""


@dataclass(frozen=True)
class Sample:
    """One look at everything. ``values`` by column name; ``seconds`` since the start of the soak."""

    seconds: float
    values: dict[str, float]


@dataclass(frozen=True)
class Verdict:
    """One thing that must hold: what, whether it did (None: not judged), and the measured value beside its bound."""

    what: str
    good: bool | None
    why: str


@dataclass
class Record:
    """What a soak has seen. ``warm`` is the end of the warm-up, ``kept`` how long an id is remembered, in seconds.

    Of a soak that ended within its warm-up everything is shown, and no growth is judged.
    """

    workers: int
    rate: float
    warm: float
    samples: list[Sample] = field(default_factory=list)
    kept: float = HORIZON_S + LATENESS_S + BUCKET_MS / 1000
    restarts: int = 0
    missed: int = 0

    def steady(self) -> list[Sample]:
        """Samples after the warm-up; all of them if there are none."""
        return [sample for sample in self.samples if sample.seconds >= self.warm] or self.samples

    def add(self, sample: Sample) -> None:
        """Notes a sample, with what follows from it."""
        values = sample.values
        for index in range(self.workers):
            worker = f"worker{index}_"
            held = values[f"{worker}dedupe_ids"] * BYTES_AN_ID + values[f"{worker}state_rows"] * BYTES_A_ROW
            values[f"{worker}base_mb"] = values[f"{worker}rss_mb"] - held / MB
        values["ids"] = sum(values[f"worker{index}_dedupe_ids"] for index in range(self.workers))
        self.samples.append(sample)

    def column(self, name: str) -> tuple[list[float], list[float]]:
        """Moments and values of a column in the steady part, where it was measured."""
        found = [(s.seconds, s.values[name]) for s in self.steady() if not math.isnan(s.values.get(name, math.nan))]
        return [moment for moment, _ in found], [value for _, value in found]

    def trend(self, name: str) -> Trend:
        """Growth of a column in the steady part."""
        return trend(*self.column(name))

    @property
    def long_enough(self) -> bool:
        """Whether the steady part says something about growth."""
        return bool(self.samples) and self.samples[-1].seconds - self.warm >= JUDGED_S


def verdicts(record: Record) -> list[Verdict]:
    """What holds of the samples alone."""
    found = []
    for index in range(record.workers):
        name = f"worker{index}_rss_mb"
        _, values = record.column(name)
        if not values:
            found.append(Verdict(f"worker {index}: memory flat", False, "it was never seen after the warm-up"))
            continue
        base = f"worker{index}_base_mb"
        grows, bound = record.trend(base), GROWTH * float(np.mean(record.column(base)[1]))
        found.append(
            Verdict(
                f"worker {index}: memory flat",
                not grows.exceeds(bound) if record.long_enough else None,
                f"{grows.per_hour:+.1f} ± {grows.error:.1f} MB/h less what it remembers, bound {bound:.0f} MB/h beyond "
                "twice the uncertainty",
            )
        )
        found.append(
            Verdict(
                f"worker {index}: memory bounded",
                max(values) <= PEAK_MB,
                f"at most {max(values):.0f} MB, bound {PEAK_MB} MB",
            )
        )
        for handle in ("files", "threads"):
            _, counts = record.column(f"worker{index}_{handle}")
            found.append(
                Verdict(
                    f"worker {index}: {handle} bounded",
                    bool(counts) and counts[-1] <= counts[0] + HANDLES,
                    f"{counts[0]:.0f} after the warm-up, {counts[-1]:.0f} at the end, bound +{HANDLES}"
                    if counts
                    else "never seen",
                )
            )
    for name, bound_mb in (("kafka", KAFKA_MB), ("clickhouse", CLICKHOUSE_MB)):
        _, values = record.column(f"{name}_rss_mb")
        peak = max(values, default=math.nan)
        found.append(
            Verdict(f"{name}: memory bounded", peak <= bound_mb, f"at most {peak:.0f} MB, bound {bound_mb} MB")
        )
    found += [_ids(record), *_lag(record)]
    _, parts = record.column("parts_max_table")
    found.append(
        Verdict(
            "parts bounded",
            bool(parts) and max(parts) <= PARTS,
            f"at most {max(parts, default=math.nan):.0f} in one table, bound {PARTS}",
        )
    )
    found.append(Verdict("no restart", record.restarts == 0, f"{record.restarts} restarts of workers"))
    return found


def _ids(record: Record) -> Verdict:
    """Ids are forgotten: never more than the records sent while one is kept, at the highest rate that there was."""
    moments, sent = record.column("sent")
    _, ids = record.column("ids")
    if not ids or moments[-1] - moments[0] < record.kept or not record.long_enough:
        return Verdict("ids forgotten", None, "too short")
    # At each look, what was sent in the time before it.
    most = max(
        now - float(np.interp(moment - record.kept, moments, sent))
        for moment, now in zip(moments, sent, strict=True)
        if moment - record.kept >= moments[0]
    )
    return Verdict(
        "ids forgotten",
        max(ids) <= IDS * most,
        f"at most {max(ids):,.0f}, bound {IDS:g} times the {most:,.0f} records of {record.kept:.0f} s",
    )


def _lag(record: Record) -> list[Verdict]:
    moments, lag = record.column("lag")
    _, sent = record.column("sent")
    if len(lag) < 4 or len(sent) < 2 or moments[-1] <= moments[0]:
        return [Verdict("lag bounded", None, "too few looks")]
    rate = (sent[-1] - sent[0]) / (moments[-1] - moments[0])
    grows, allowed = record.trend("lag"), LAG_GROWTH * rate * 3600
    return [
        Verdict(
            "lag bounded",
            max(lag) <= LAG_S * max(rate, 1.0) if record.long_enough else None,
            f"at most {max(lag):,.0f} records, bound {LAG_S:.0f} s of {rate:,.0f} records/s",
        ),
        Verdict(
            "lag flat",
            not grows.exceeds(allowed) if record.long_enough else None,
            f"{grows.per_hour:+,.0f} ± {grows.error:,.0f} records/h, bound {allowed:,.0f} beyond twice the uncertainty",
        ),
    ]


class Soak:
    """One soak: brings the stack and the commands up, looks at them, and takes them down, however it ends."""

    def __init__(self, settings: Settings, record: Record, minutes: float, every: float, table: Path) -> None:
        self.settings = settings
        self.record = record
        self.stop = threading.Event()
        self.sent: dict[str, Any] = {}
        self._home = Home(settings.home)
        self._minutes = minutes
        self._every = every
        self._table = table
        self._stack = Stack(settings)
        self._worker = worker_service(settings, record.workers)
        self._generator: subprocess.Popen[bytes] | None = None
        self._client: Client | None = None
        self._pids: dict[int, int] = {}
        self._columns: list[str] = []
        self._began = 0.0

    def __enter__(self) -> "Soak":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._end_generator(10.0)
        if self._client is not None:
            self._client.close()
        self._worker.stop()
        self._stack.down()

    def up(self) -> None:
        """Kafka, ClickHouse, workers, generator."""
        self._stack.up()
        self._worker.start()
        self._client = clickhouse_client(self.settings)
        live = self.record.rate / _weight(self.settings.time_zone)
        argv = [sys.executable, "-m", "fanpulse.cli", "generate", "--json", "--rate", f"{live:.3f}"]
        # A bound of its own, should this process be killed outright.
        argv += ["--for", f"{self._minutes + 10:.0f}m", "--home", str(self.settings.home)]
        argv += [word for option in (WORLD | WEATHER).items() for word in option]
        with self._answer.open("wb") as answer, (self._home.logs / "generate.log").open("wb") as log:
            self._generator = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=answer, stderr=log, start_new_session=True
            )
        self._began = time.monotonic()

    @property
    def _answer(self) -> Path:
        return self._home.logs / "generate.json"

    def looks(self) -> Iterator[Sample]:
        """A sample every few seconds until the time is over or ``stop`` is set.

        Raises:
            FanpulseError: the generator or the workers have ended.
        """
        end = self._minutes * 60
        while (now := time.monotonic() - self._began) < end and not self.stop.is_set():
            sample = self._look(now)
            if sample is not None:
                self.record.add(sample)
                self._write(sample)
                yield sample
            self._must_live()
            self.stop.wait(max(0.0, min(self._every - (time.monotonic() - self._began - now), end - now)))

    def _must_live(self) -> None:
        if self._generator is not None and self._generator.poll() is not None:
            said = (self._home.logs / "generate.log").read_text("utf-8", "replace").strip().splitlines()[-1:]
            raise FanpulseError(f"the generator ended with code {self._generator.returncode}: {' '.join(said)}", 1)
        if self._worker.status().state != "running":
            raise FanpulseError(f"the workers ended: see {self._worker.log}", 1)

    def _look(self, now: float) -> Sample | None:
        """A sample; None, and counted as missed, where something did not answer in time."""
        try:
            values = self._processes() | self._figures() | self._disk()
        except Exception as error:
            self.record.missed += 1
            print(f"soak: no look at {now:.0f} s: {' '.join(str(error).split())[:200]}", file=sys.stderr, flush=True)
            return None
        return Sample(now, values)

    def _processes(self) -> dict[str, float]:
        values: dict[str, float] = {}
        for name, service in (("kafka", kafka_service(self._home)), ("clickhouse", clickhouse_service(self._home))):
            values |= _process(name, service.status().pid)
        found = self._worker_pids()
        for index in range(self.record.workers):
            pid = found.get(index)
            if pid is not None and self._pids.setdefault(index, pid) != pid:
                self.record.restarts += 1
                self._pids[index] = pid
            values |= _process(f"worker{index}", pid)
        values |= _process("generator", self._generator.pid if self._generator is not None else None)
        return values

    def _worker_pids(self) -> dict[int, int]:
        pid = self._worker.status().pid
        found = {}
        with contextlib.suppress(psutil.NoSuchProcess):
            for child in psutil.Process(pid).children() if pid is not None else []:
                with contextlib.suppress(psutil.NoSuchProcess):
                    argv = child.cmdline()
                    if "pipeline.worker" in argv:
                        found[int(argv[-1])] = child.pid
        return found

    def _figures(self) -> dict[str, float]:
        assert self._client is not None
        ends = end_offsets(self.settings)
        stored = checkpoints.read(self._client)
        own = {(c.agent, c.topic, c.partition): c for c in stored}
        lag = 0
        for (topic, partition), end in ends.items():
            agents = [agent.name for agent in AGENTS if topic in agent.topics]
            held = [own[agent, topic, partition].next_offset for agent in agents if (agent, topic, partition) in own]
            lag += end - min(held) if len(held) == len(agents) else end
        newest = [c.newest for c in stored if c.agent == "archive" and c.topic == "interactions" and c.newest > 0]
        fresh = time.time() - min(newest) / 1000 if len(newest) == self.settings.partitions else math.nan
        values = {"sent": float(sum(ends.values())), "lag": float(lag), "freshness_s": fresh}
        for index in range(self.record.workers):
            values |= self._metrics(index)
        return values | self._parts(self._client)

    def _metrics(self, index: int) -> dict[str, float]:
        """A worker's own figures, and how many series it shows."""
        port = self._home.ports()[f"worker-{index}"]
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            families = list(text_string_to_metric_families(answer.read().decode()))
        sums = {"dedupe_ids": 0.0, "state_rows": 0.0, "retries_total": 0.0}
        series = 0
        for family in families:
            for sample in family.samples:
                series += 1
                name = sample.name.removeprefix("fanpulse_")
                if name in sums:
                    sums[name] += sample.value
        return {f"worker{index}_{name}": value for name, value in (sums | {"series": float(series)}).items()}

    def _parts(self, client: Client) -> dict[str, float]:
        rows = client.query(
            "SELECT table, count(), sum(rows), sum(bytes_on_disk) FROM system.parts "
            "WHERE active AND database = currentDatabase() GROUP BY table ORDER BY table"
        ).result_rows
        ((memory,), *_) = client.query("SELECT value FROM system.metrics WHERE metric = 'MemoryTracking'").result_rows
        values = {
            "parts": float(sum(row[1] for row in rows)),
            "parts_max_table": float(max((row[1] for row in rows), default=0)),
            "rows": float(sum(row[2] for row in rows)),
            "tables_mb": sum(row[3] for row in rows) / MB,
            "clickhouse_tracked_mb": memory / MB,
        }
        return values | {f"parts_{table}": float(parts) for table, parts, _, _ in rows}

    def _disk(self) -> dict[str, float]:
        files, size = 0, {"kafka": 0, "clickhouse": 0, "logs": 0}
        for name in size:
            for folder, _, names in os.walk(self._home.path / name):
                for file in names:
                    with contextlib.suppress(OSError):
                        found = os.lstat(os.path.join(folder, file))
                        size[name] += found.st_blocks * 512
                        files += 1
        return {"files": float(files)} | {f"{name}_disk_mb": number / MB for name, number in size.items()}

    def _write(self, sample: Sample) -> None:
        """Appends to the table; when a column is new (a table of ClickHouse got its first part), writes it anew."""
        fresh = [name for name in sample.values if name not in self._columns]
        self._columns += fresh
        rows = self.record.samples if fresh else [sample]
        with self._table.open("w" if fresh else "a", newline="") as stream:
            writer = csv.writer(stream)
            if fresh:
                writer.writerow(["seconds", *self._columns])
            for row in rows:
                cells = [row.values.get(name, math.nan) for name in self._columns]
                writer.writerow([f"{row.seconds:.1f}", *("" if math.isnan(cell) else f"{cell:.10g}" for cell in cells)])

    def drain(self, patience: float = 120.0) -> Verdict:
        """Ends the generator, and waits until all that Kafka has is stored."""
        self._end_generator(300.0)
        with contextlib.suppress(OSError, ValueError):
            self.sent = json.loads(self._answer.read_bytes())
        best, since = math.inf, time.monotonic()
        while True:
            figures = self._figures()
            if figures["lag"] == 0:
                break
            if figures["lag"] < best:
                best, since = figures["lag"], time.monotonic()
            if time.monotonic() - since > patience:
                return Verdict("all stored", False, f"{figures['lag']:,.0f} records wait, and nothing moves")
            time.sleep(0.5)
        if not self.sent:
            return Verdict("all stored", False, f"the generator left no count of what it sent: see {self._answer}")
        good = figures["sent"] == self.sent["records"]
        return Verdict(
            "all stored", good, f"{self.sent['records']:,} records sent, Kafka has {figures['sent']:,.0f}, lag 0"
        )

    def verify(self) -> Verdict:
        """Runs ``fanpulse verify``."""
        run = subprocess.run(
            [sys.executable, "-m", "fanpulse.cli", "verify", "--home", str(self.settings.home)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        last = (run.stdout.strip().splitlines() or ["it said nothing"])[-1]
        return Verdict("verify exact", run.returncode == 0, last)

    def _end_generator(self, patience: float) -> None:
        if self._generator is None or self._generator.poll() is not None:
            return
        self._generator.send_signal(signal.SIGTERM)
        try:
            self._generator.wait(patience)
        except subprocess.TimeoutExpired:
            self._generator.kill()
            self._generator.wait()


def _process(name: str, pid: int | None) -> dict[str, float]:
    """Memory, open files, threads and CPU seconds of a process; NaN if it is gone."""
    columns = [f"{name}_{what}" for what in ("rss_mb", "files", "threads", "cpu_s")]
    try:
        process = psutil.Process(pid) if pid is not None else None
        if process is None:
            return dict.fromkeys(columns, math.nan)
        with process.oneshot():
            used = process.cpu_times()
            found = [
                process.memory_info().rss / MB,
                float(process.num_fds()),
                float(process.num_threads()),
                used.user + used.system,
            ]
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return dict.fromkeys(columns, math.nan)
    return dict(zip(columns, found, strict=True))


def _weight(time_zone: str) -> float:
    """How busy the world is now, against its average."""
    return float(weights(Clock(time_zone), np.array([time.time_ns() // 1_000_000])).mean())


SHOWN = (
    ("rss_mb", "memory, MB"),
    ("base_mb", "memory less what it remembers, MB"),
    ("files", "open files"),
    ("threads", "threads"),
    ("dedupe_ids", "ids remembered"),
    ("state_rows", "snapshot rows in memory"),
    ("series", "metric series"),
)
WHOLE = (
    ("kafka_rss_mb", "Kafka: memory, MB"),
    ("clickhouse_rss_mb", "ClickHouse: memory, MB"),
    ("clickhouse_tracked_mb", "ClickHouse: memory by its own account, MB"),
    ("generator_rss_mb", "generator: memory, MB"),
    ("lag", "lag, records"),
    ("freshness_s", "freshness, s"),
    ("parts", "active parts"),
    ("parts_max_table", "active parts of one table"),
    ("files", "files of the home"),
    ("kafka_disk_mb", "Kafka on disk, MB"),
    ("clickhouse_disk_mb", "ClickHouse on disk, MB"),
    ("logs_disk_mb", "logs, MB"),
)


def rows(record: Record) -> list[tuple[str, str, str, str, str]]:
    """The summary: what, after the warm-up, at the end, at most, growth an hour with its standard error."""
    wanted = [
        (f"worker{index}_{name}", f"worker {index}: {label}")
        for index in range(record.workers)
        for name, label in SHOWN
    ]
    found = []
    for name, label in (*wanted, *WHOLE):
        _, values = record.column(name)
        if values:
            grows = record.trend(name)
            slope = "-" if math.isnan(grows.per_hour) else f"{grows.per_hour:+,.1f} ± {grows.error:,.1f}"
            found.append((label, f"{values[0]:,.0f}", f"{values[-1]:,.0f}", f"{max(values):,.0f}", slope))
    return found


HEADER = ("", "after warm-up", "at the end", "at most", "growth an hour")


def show(record: Record) -> None:
    """Prints the summary: a table on a terminal, else aligned lines."""
    found = rows(record)
    steady = record.steady()
    span = steady[-1].seconds - steady[0].seconds if steady else 0.0
    title = f"{record.warm / 60:.1f} minutes of warm-up, then {span / 60:.1f} minutes; {len(steady)} looks"
    if steady and steady[0].seconds < record.warm:
        title = f"ended after {span / 60:.1f} minutes, within its warm-up; {len(steady)} looks"
    if len(steady) > 1:
        title += f", {(steady[-1].values['sent'] - steady[0].values['sent']) / span:,.0f} records/s"
    if record.missed:
        title += f"; {record.missed} looks missed"
    if sys.stdout.isatty():
        table = Table(title=title, title_justify="left")
        for number, name in enumerate(HEADER):
            table.add_column(name, justify="left" if number == 0 else "right")
        for row in found:
            table.add_row(*row)
        Console().print(table)
        return
    print(title)
    widths = [max(len(row[column]) for row in [HEADER, *found]) for column in range(len(HEADER))]
    for row in [HEADER, *found]:
        cells = [cell.ljust(widths[0]) if not n else cell.rjust(widths[n]) for n, cell in enumerate(row)]
        print("  ".join(cells).rstrip())
    sys.stdout.flush()


def judge(found: Sequence[Verdict]) -> bool:
    """Prints the verdicts; whether none has failed."""
    console = Console(highlight=False, soft_wrap=True)
    words = {True: ("ok", "green"), False: ("FAILED", "bold red"), None: ("not judged", "yellow")}
    for each in found:
        word, style = words[each.good]
        console.print(f"{word:10}  {each.what}: {each.why}", style=style, markup=False)
    return all(each.good is not False for each in found)


@contextlib.contextmanager
def _progress(minutes: float) -> Iterator[Any]:
    """A function that shows a sample: a bar on a terminal, else a line twice a minute."""
    if sys.stdout.isatty():
        bar = Progress(TextColumn("soak"), BarColumn(), TimeRemainingColumn(), TextColumn("{task.fields[line]}"))
        with bar:
            task = bar.add_task("soak", total=minutes * 60, line="")
            yield lambda sample: bar.update(task, completed=sample.seconds, line=_line(sample))
        return
    said = -math.inf

    def say(sample: Sample) -> None:
        nonlocal said
        if sample.seconds - said >= 30.0:
            said = sample.seconds
            print(f"{sample.seconds / 60:5.1f} min  {_line(sample)}", flush=True)

    yield say


def _line(sample: Sample) -> str:
    values = sample.values
    memory = "+".join(
        f"{values[name]:.0f}" for name in sorted(values) if name.startswith("worker") and name.endswith("_rss_mb")
    )
    return (
        f"sent {values['sent']:,.0f}  lag {values['lag']:,.0f}  fresh {values['freshness_s']:.1f} s  "
        f"workers {memory} MB  Kafka {values['kafka_rss_mb']:.0f} MB  ClickHouse {values['clickhouse_rss_mb']:.0f} MB  "
        f"parts {values['parts']:.0f}"
    )


def _settings(home: Path) -> Settings:
    """Settings of the soak, in the environment too: the commands that it runs read them there."""
    kept = {PREFIX + name for name in TUNING}
    for name in [name for name in os.environ if name.startswith(PREFIX) and name not in kept]:
        del os.environ[name]
    os.environ.setdefault("FANPULSE_LATE_HORIZON", str(HORIZON_S))
    os.environ.setdefault("FANPULSE_ALLOWED_LATENESS", str(LATENESS_S))
    os.environ["FANPULSE_TIME_ZONE"] = even_zone(datetime.now(UTC))
    return load(home)


def run(given: argparse.Namespace) -> int:
    """One soak as the command line asks for it; returns the exit code."""
    home = given.home or Path(tempfile.mkdtemp(prefix="fps-"))
    if (home / "generator.json").exists():
        raise FanpulseError(f"{home} has been used already: name a new directory with --home")
    stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    table = given.samples or Path(tempfile.gettempdir()) / f"soak-{stamp}.csv"
    warm = given.minutes * 60 / 3 if given.warm_up is None else given.warm_up * 60
    settings = _settings(home)
    kept = settings.late_horizon + settings.allowed_lateness + BUCKET_MS / 1000
    record = Record(given.workers, given.rate, warm, kept=kept)
    found: list[Verdict] = []
    interrupted = False
    with Soak(settings, record, given.minutes, given.every, table) as soak:
        print(f"soak: {given.minutes:g} minutes at about {given.rate:,.0f} events/s; home {home}, samples {table}")
        with stopping(soak.stop) as asked:
            try:
                soak.up()
                with _progress(given.minutes) as say:
                    for sample in soak.looks():
                        say(sample)
            except FanpulseError as error:
                found.append(Verdict("everything runs", False, error.message))
            show(record)
            found += verdicts(record)
            if record.samples:
                found += [soak.drain(), soak.verify()]
            interrupted = asked.is_set()
    good = judge(found)
    if given.home is None and good:
        shutil.rmtree(home, ignore_errors=True)
    elif not good:
        print(f"soak: everything is kept in {home}", file=sys.stderr)
    return 130 if interrupted else 0 if good else 1


def _positive(text: str) -> float:
    number = float(text)
    if not 0 < number < math.inf:
        raise ValueError
    return number


def main() -> None:
    """Exit code 0 if all held, 1 if something did not, 2 if something is missing, 130 if interrupted."""
    parser = argparse.ArgumentParser("python -m chaos.soak", description=__doc__)
    parser.add_argument("--minutes", type=_positive, default=30.0, help="how long (default 30)")
    parser.add_argument("--rate", type=_positive, default=10_000.0, help="events/s, about (default 10,000)")
    parser.add_argument(
        "--workers", type=int, default=2, choices=range(1, 17), metavar="N", help="processes (default 2)"
    )
    parser.add_argument("--home", type=Path, help="a new directory, kept; else a temporary one, removed if all held")
    parser.add_argument(
        "--samples", type=Path, help="the table of samples (default: soak-<time>.csv, temporary folder)"
    )
    parser.add_argument("--every", type=_positive, default=5.0, help="seconds between samples (default 5)")
    parser.add_argument("--warm-up", type=_positive, help="minutes left out of the judgement (default: a third)")
    given = parser.parse_args()
    try:
        sys.exit(run(given))
    except FanpulseError as error:
        print(f"soak: {error.message}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print("soak: interrupted twice; stopped without the rest", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
