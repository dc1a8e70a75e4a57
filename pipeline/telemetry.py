"""The metrics of a worker as rows of the table ``pipeline_metrics``."""

import logging
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import psutil
from clickhouse_connect.driver.client import Client

from infra.connect import clickhouse_client
from infra.settings import Settings
from pipeline.metrics import Metrics
from pipeline.sink import FAILURES, transient

log = logging.getLogger(__name__)

COLUMNS = {
    "at": "DateTime64(3, 'UTC')",
    "seconds": "Float32",
    "worker": "LowCardinality(String)",
    "run": "DateTime64(3, 'UTC')",
    "name": "LowCardinality(String)",
    "agent": "LowCardinality(String)",
    "topic": "LowCardinality(String)",
    "partition": "Int32",
    "labels": "Map(LowCardinality(String), LowCardinality(String))",
    "value": "Float64",
    "increase": "Float64",
}
"""Columns of ``pipeline_metrics``, with their types. Labels of a metric that have no column are in ``labels``."""
OF_EVENTS = ("delay_seconds",)
"""Metrics of something that happened: without a row while it does not, or the last one would seem to go on."""
TIMEOUT = 5.0
"""Seconds to wait for an answer of ClickHouse."""
FAREWELL = 1.0
"""Seconds that the last rows may hold up the end of the process."""

Series = tuple[str, tuple[tuple[str, str], ...]]


@dataclass(frozen=True)
class _Rows:
    """One look at all metrics: the rows, by column, and where counters and metrics of events stand."""

    at: float
    columns: list[list[Any]]
    known: dict[Series, float]


class Telemetry:
    """Writes every metric to ClickHouse every ``telemetry_interval`` seconds, from a thread of its own.

    It never holds the worker up and never ends it. While ClickHouse is away nothing is looked at, but for one block of
    rows that is sent again until it is taken, so memory does not grow; the increase of the counters in the gap is in
    the first block after it. ClickHouse drops a block that it had taken without our hearing of it.

    ``connect`` and ``clock`` (seconds since the epoch) can be others for tests.
    """

    def __init__(
        self,
        settings: Settings,
        index: int,
        metrics: Metrics,
        connect: Callable[[], Client] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.worker = f"{os.uname().nodename}-{index}"
        self._interval = settings.telemetry_interval
        self._metrics = metrics
        self._connect = connect or (lambda: clickhouse_client(settings, timeout=TIMEOUT))
        self._clock = clock
        self._run = clock()
        self._process = psutil.Process()
        self._cpu_seconds = self._cpu()
        self._client: Client | None = None
        self._taken_at = self._run
        self._known: dict[Series, float] = {}
        self._rows: _Rows | None = None
        self._well = True
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._work, name="telemetry", daemon=True)

    def start(self) -> None:
        """Writes first rows at once, and goes on until the process ends."""
        self._metrics.set("started_seconds", self._run)
        self._thread.start()

    def stop(self, code: int) -> None:
        """Writes last rows, which say with which exit code the process ends; waits for them, for a second at most."""
        if not self._ending.is_set():
            self._metrics.count("exits_total", 1, code)
            self._ending.set()
        self._thread.join(FAREWELL)

    def leaving(self, leave: Callable[[int, str], None]) -> Callable[[int, str], None]:
        """``leave(exit code, reason)``, after the last rows."""

        def stop_and_leave(code: int, reason: str) -> None:
            self.stop(code)
            leave(code, reason)

        return stop_and_leave

    def _work(self) -> None:
        ending = False
        while not ending:
            ending = self._ending.is_set()
            try:
                self._write()
            except Exception:
                log.exception("telemetry failed")
                self._rows = None
            self._ending.wait(self._interval)

    def _write(self) -> None:
        if self._rows is None or self._send(self._rows):
            self._rows = self._look()
            self._send(self._rows)

    def _look(self) -> _Rows:
        """Every metric now, with its increase since the rows that were taken last."""
        now = self._clock()
        cpu = self._cpu()
        self._metrics.count("cpu_seconds_total", max(cpu - self._cpu_seconds, 0.0))
        self._cpu_seconds = max(cpu, self._cpu_seconds)
        self._metrics.set("memory_bytes", self._process.memory_info().rss)
        at, run, seconds = _moment(now), _moment(self._run), max(now - self._taken_at, 0.0)
        columns: list[list[Any]] = [[] for _ in COLUMNS]
        known: dict[Series, float] = {}
        for sample in self._metrics.samples():
            increase, series = 0.0, (sample.name, tuple(sample.labels.items()))
            if sample.counter:
                known[series] = sample.value
                increase = sample.value - self._known.get(series, 0.0)
            elif sample.name in OF_EVENTS:
                known[series] = sample.value
                if self._known.get(series) == sample.value:
                    continue
            labels = dict(sample.labels)
            row = (
                at,
                seconds,
                self.worker,
                run,
                sample.name,
                labels.pop("agent", ""),
                labels.pop("topic", ""),
                int(labels.pop("partition", -1)),
                labels,
                sample.value,
                increase,
            )
            for column, value in zip(columns, row, strict=True):
                column.append(value)
        return _Rows(now, columns, known)

    def _send(self, rows: _Rows) -> bool:
        """Whether ClickHouse has the rows now; if it will not ever take them they are given up."""
        try:
            if self._client is None:
                self._client = self._connect()
            self._client.insert(
                "pipeline_metrics",
                rows.columns,
                column_names=list(COLUMNS),
                column_type_names=list(COLUMNS.values()),
                column_oriented=True,
                settings={"async_insert": 0, "insert_deduplication_token": f"{self.worker} {self._run} {rows.at}"},
            )
        except FAILURES as error:
            if self._well:
                log.warning("health is not stored for now: %s", " ".join(str(error).split())[:300])
            self._well = False
            self._drop_client()
            if not transient(error):
                self._rows = None
            return False
        self._well = True
        self._rows = None
        self._taken_at, self._known = rows.at, rows.known
        return True

    def _cpu(self) -> float:
        times = self._process.cpu_times()
        return times.user + times.system

    def _drop_client(self) -> None:
        if self._client is not None:
            self._client.close()
        self._client = None


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
