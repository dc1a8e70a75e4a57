"""Real workers and what is known of them: started, killed, frozen, stopped; how far they are, and since when again."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Self, TypeVar
from zoneinfo import ZoneInfo

import psutil
from clickhouse_connect.driver.client import Client
from kafka import KafkaAdminClient, TopicPartition
from kafka.admin import OffsetSpec
from kafka.errors import KafkaError

from infra.connect import clickhouse_client, kafka_admin
from infra.errors import FanpulseError
from infra.home import Home
from infra.settings import PREFIX, Settings
from infra.stack import Stack
from pipeline import checkpoint as checkpoints
from pipeline.app import AGENTS, READ
from pipeline.recovery import Partition
from pipeline.sink import FAILURES
from schemas.topics import LOGS, SOURCES

DEADLINE = 120.0
"""Seconds that anything may take before a scenario gives up; a quiet machine needs a fraction of it."""
SESSION_TIMEOUT = 6.0
"""Seconds, the shortest that a broker takes as it comes (group.min.session.timeout.ms)."""
AWAY = (*FAILURES, KafkaError, FanpulseError)
"""What asking a service that is away may raise."""
_SAMPLE = 0.2
_T = TypeVar("_T")


class Wrong(Exception):
    """Something that no fault of ours explains: a worker ended by itself, or nothing goes on."""


def until(
    found: Callable[[], _T],
    what: str,
    *checks: Callable[[], None],
    deadline: float = DEADLINE,
    pause: float = 0.05,
) -> _T:
    """Waits for ``found`` to be true and returns what it returned, calling ``checks`` meanwhile. Wrong after
    ``deadline`` seconds."""
    end = time.monotonic() + deadline
    while not (result := found()):
        for check in checks:
            check()
        if time.monotonic() > end:
            raise Wrong(f"after {deadline:.0f} s still waiting for {what}")
        time.sleep(pause)
    return result


@contextlib.contextmanager
def database(settings: Settings) -> Iterator[Client]:
    """A client of the database."""
    with contextlib.closing(clickhouse_client(settings)) as client:
        yield client


def ask(settings: Settings, query: str, **parameters: Any) -> list[tuple[Any, ...]]:
    """Rows of a query."""
    with database(settings) as client:
        return [tuple(row) for row in client.query(query, parameters=parameters).result_rows]


def stored(settings: Settings) -> dict[Partition, int]:
    """The lowest checkpoint of each partition's agents; a partition that one of them has none of is at -1."""
    with database(settings) as client:
        return _lowest(client, settings.partitions)


def _lowest(client: Client, partitions: int) -> dict[Partition, int]:
    found = {(c.agent, c.topic, c.partition): c.next_offset for c in checkpoints.read(client)}
    return {
        (topic, partition): min(
            found.get((agent.name, topic, partition), -1) for agent in AGENTS if topic in agent.topics
        )
        for topic in READ
        for partition in range(partitions)
    }


def ends(settings: Settings, topics: Iterable[str] = READ) -> dict[Partition, int]:
    """Kafka's end of every partition of topics that agents read."""
    with contextlib.closing(kafka_admin(settings)) as admin:
        return _ends(admin, settings, [(topic, number) for topic in topics for number in range(settings.partitions)])


def _ends(admin: KafkaAdminClient, settings: Settings, places: Iterable[Partition]) -> dict[Partition, int]:
    """Kafka's end of topics and partitions."""
    wanted = {TopicPartition(settings.topic_prefix + topic, partition): topic for topic, partition in places}
    found = admin.list_partition_offsets(dict.fromkeys(wanted, OffsetSpec.LATEST)) if wanted else {}
    return {(wanted[place], place.partition): int(answer.offset) for place, answer in found.items()}


def _reached_today(settings: Settings) -> bool:
    """Whether every source has been heard of in the fan log, and has reached today or has had no event."""
    zone = ZoneInfo(settings.time_zone)
    today = datetime.now(zone) - timedelta(seconds=settings.allowed_lateness)
    with database(settings) as client:
        said = [json.loads(c.inputs or "{}") for c in checkpoints.read(client) if c.agent == "lifecycle"]
    times = [each["reached"] for inputs in said for each in inputs.values()]
    days = {datetime.fromtimestamp(at / 1000, zone).date() for at in times if at is not None}
    return len(times) == settings.partitions * len(SOURCES) and all(day >= today.date() for day in days)


QUIET = 2.0
"""Seconds of quiet after which the wall clock moves the days of fans on, where a fleet is not told otherwise."""
EVENTS_ONLY = 86_400.0
"""As ``QUIET``: it never does, within a run."""
IDLE = 25.0
"""Seconds after which a worker is taken to be left without partitions, if the others have them all."""


class WorkerProcess:
    """A worker process (``chaos.worker``), started. ``arguments`` are that module's; ``environment`` names settings."""

    def __init__(self, settings: Settings, index: int, log: Path, *arguments: str, **environment: object) -> None:
        self.index = index
        self.expected: set[int] = set()
        """Exit codes that we brought about."""
        self._log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            self._start = output.tell()
            self.process = subprocess.Popen(
                [sys.executable, "-m", "chaos.worker", str(index), *arguments],
                env=_environment(settings, environment),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                # Ctrl-C is for the harness, which ends them in its own way.
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def output(self) -> str:
        """What it has said since it was started."""
        with self._log.open("rb") as file:
            file.seek(self._start)
            return file.read().decode("utf-8", "replace")

    def restored(self) -> int:
        """How often it was given partitions and restored them."""
        return self.output().count(": restored ")

    def held(self) -> int:
        """How many partitions it restored last; it may have lost some since."""
        found = re.findall(r": restored (\d+) partitions", self.output())
        return int(found[-1]) if found else 0

    def memory(self) -> int:
        """Resident memory, bytes; 0 if it has ended."""
        try:
            return int(psutil.Process(self.pid).memory_info().rss)
        except psutil.NoSuchProcess:
            return 0

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal; SIGKILL is waited for."""
        if number == signal.SIGKILL:
            self.expected.add(-signal.SIGKILL)
        self.process.send_signal(number)
        if number == signal.SIGKILL:
            self.process.wait(DEADLINE)

    def stop(self) -> None:
        """SIGTERM, once it works; Wrong if its exit code is not 0."""
        until(lambda: self.restored() or not self.alive, f"worker {self.index} to begin")
        self.expected.add(0)
        self.process.terminate()
        try:
            self.process.wait(DEADLINE)
        except subprocess.TimeoutExpired:
            raise Wrong(f"worker {self.index} does not stop: {self.last_words()}") from None
        self.check()

    def check(self) -> None:
        """Wrong if it has ended with a code that is not of our making."""
        code = self.process.poll()
        if code is not None and code not in self.expected:
            raise Wrong(f"worker {self.index} ended by itself with exit code {code}: {self.last_words()}")

    def last_words(self) -> str:
        """The end of its log, in one line."""
        return " | ".join(line.strip() for line in self.output().splitlines()[-12:] if line.strip())[-2000:]


def _environment(settings: Settings, more: Mapping[str, object]) -> dict[str, str]:
    own: dict[str, Any] = {**settings.model_dump(exclude_unset=True), "session_timeout": SESSION_TIMEOUT, **more}
    if own.get("clickhouse") is not None:
        # Behind a proxy: the local server's login, which a worker takes from the home only where it is not named.
        own.setdefault("clickhouse_user", "app")
        own.setdefault("clickhouse_password", Home(settings.home).secrets().app_password.get_secret_value())
    outside = {name: value for name, value in os.environ.items() if not name.upper().startswith(PREFIX)}
    return {**outside, **{PREFIX + name.upper(): str(value) for name, value in own.items()}}


class Fleet:
    """The workers of one consumer group, by index; all killed at the end of the ``with`` block.

    A worker that ends in a way that nobody brought about is Wrong at the next ``check``. ``group``: another consumer
    group than the settings'. ``environment``: settings of the workers.
    """

    def __init__(self, settings: Settings, logs: Path, group: str | None = None, **environment: object) -> None:
        self._settings = settings
        self._logs = logs
        self._group = group
        self._environment: dict[str, object] = {"flush_interval": 0.3, "idle_after": QUIET, **environment}
        self._workers: dict[int, WorkerProcess] = {}
        self._all: list[WorkerProcess] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        for worker in self._all:
            if worker.alive:
                worker.signal(signal.SIGKILL)

    def __getitem__(self, index: int) -> WorkerProcess:
        return self._workers[index]

    @property
    def indices(self) -> list[int]:
        """Workers that were started and not ended by us."""
        return sorted(self._workers)

    @property
    def workers(self) -> list[WorkerProcess]:
        """The same as processes."""
        return [self._workers[index] for index in self.indices]

    @property
    def events_only(self) -> bool:
        """Whether no wall clock moves time on."""
        return self._environment["idle_after"] == EVENTS_ONLY

    def start(self, index: int, *arguments: str, **environment: object) -> WorkerProcess:
        """Starts a worker; does not wait for it."""
        arguments = (*arguments, "--group", self._group) if self._group else arguments
        log = self._logs / f"worker-{index}.log"
        worker = WorkerProcess(self._settings, index, log, *arguments, **{**self._environment, **environment})
        self._workers[index] = worker
        self._all.append(worker)
        return worker

    def begun(self, *indices: int) -> None:
        """Waits until these workers (none named: all) have restored their partitions, or the others have them all:
        shares are rounded up, so one may be left without."""
        everything = len(READ) * self._settings.partitions
        for index in indices or self.indices:
            worker, idle_at = self._workers[index], time.monotonic() + IDLE

            def begun(worker: WorkerProcess = worker, idle_at: float = idle_at) -> bool:
                if worker.restored():
                    return True
                return time.monotonic() > idle_at and sum(each.held() for each in self.workers) >= everything

            until(begun, f"worker {index} to begin", worker.check)

    def kill(self, index: int) -> None:
        """kill -9."""
        self._workers.pop(index).signal(signal.SIGKILL)

    def lose(self, index: int) -> WorkerProcess:
        """Takes a worker that is ending, or frozen, out of what is looked after."""
        return self._workers.pop(index)

    def stop(self, *indices: int) -> None:
        """SIGTERM to these (none named: all); Wrong if one does not end with code 0."""
        for index in indices or self.indices:
            self._workers.pop(index).stop()

    def check(self) -> None:
        """Wrong if a worker has ended by itself."""
        for worker in self.workers:
            worker.check()

    def stored(self, deadline: float = DEADLINE) -> None:
        """Waits until every agent has stored all that Kafka holds now, while the workers live: of the sources, and of
        the logs that agents have written meanwhile. Where the wall clock moves days on (``QUIET``) it waits until it
        has: until tomorrow nothing changes then."""
        self._stored(SOURCES, deadline)
        if float(str(self._environment["idle_after"])) == QUIET:
            until(
                lambda: _reached_today(self._settings), "today to be reached", self.check, deadline=deadline, pause=0.2
            )
        self._stored(LOGS, deadline)

    def _stored(self, topics: tuple[str, ...], deadline: float) -> None:
        wanted = ends(self._settings, topics)

        def done() -> bool:
            held = stored(self._settings)
            return all(held[where] >= offset for where, offset in wanted.items())

        until(done, "everything to be stored", self.check, deadline=deadline, pause=0.2)


@dataclass
class _Open:
    """A fault that is not got over yet: partitions that have not moved, and where they were."""

    began: float
    waiting: dict[Partition, int]
    found: list[float]


class Recoveries:
    """Takes the time from a fault until every partition has moved on, or is at the end of its log.

    A thread looks at the checkpoints five times a second; ClickHouse or Kafka being away is waited for.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._open: list[_Open] = []
        self._last: dict[Partition, int] = {}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="recoveries", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stopping.set()
        self._thread.join()

    def begin(self, into: list[float], began: float | None = None) -> None:
        """A fault has just happened, or (``began``, monotonic seconds) has just ended; its seconds are appended to
        ``into``."""
        began = time.monotonic() if began is None else began
        try:
            at = stored(self._settings)
        except AWAY:
            with self._lock:
                at = dict(self._last)
        with self._lock:
            self._open.append(_Open(began, at, into))

    def wait(self, *checks: Callable[[], None]) -> None:
        """Waits until all faults so far are got over; ``checks`` are called meanwhile."""

        def over() -> bool:
            with self._lock:
                return not self._open

        until(over, "the partitions to move on", *checks)

    def _run(self) -> None:
        with contextlib.ExitStack() as clients:
            client: Client | None = None
            admin: KafkaAdminClient | None = None
            while not self._stopping.wait(_SAMPLE):
                try:
                    client = client or clients.enter_context(contextlib.closing(clickhouse_client(self._settings)))
                    admin = admin or clients.enter_context(contextlib.closing(kafka_admin(self._settings)))
                    self._look(client, admin)
                except AWAY:
                    # A service that was started again may have another port.
                    client = admin = None
                    clients.close()

    def _look(self, client: Client, admin: KafkaAdminClient) -> None:
        now = _lowest(client, self._settings.partitions)
        with self._lock:
            self._last = now
            still = {where for each in self._open for where, at in each.waiting.items() if now[where] <= at}
        end = _ends(admin, self._settings, still)
        moment = time.monotonic()
        with self._lock:
            for each in list(self._open):
                each.waiting = {where: at for where, at in each.waiting.items() if now[where] <= at}
                # What is at its end now may have something to do a moment later: then it waits on.
                if all(now[where] >= end.get(where, at + 1) for where, at in each.waiting.items()):
                    each.found.append(moment - each.began)
                    self._open.remove(each)


def service_pid(stack: Stack, service: str) -> int:
    """Process id of a local service."""
    return next(row.pid for row in stack.status() if row.service == service and row.pid is not None)


def kill_service(stack: Stack, service: str) -> None:
    """kill -9 of ``kafka`` or ``clickhouse``, waited for."""
    process = psutil.Process(service_pid(stack, service))
    process.kill()
    with contextlib.suppress(psutil.NoSuchProcess):
        process.wait(DEADLINE)
