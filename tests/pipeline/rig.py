"""The real stack under test: topics and tables, events, worker processes, and waiting for what they store."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import orjson
from clickhouse_connect.driver.client import Client
from kafka import TopicPartition
from kafka.admin import OffsetSpec

from infra.connect import clickhouse_client, kafka_admin, kafka_producer
from infra.settings import Settings
from infra.topics import ensure_topics
from pipeline import checkpoint as checkpoints
from pipeline.app import AGENTS, READ
from pipeline.migrate import migrate
from pipeline.recovery import Partition
from pipeline.verify import verify
from schemas.topics import LOGS, SOURCES, partition_for

MINUTE = 60_000
DAY = 86_400_000
DEADLINE = 60.0
"""Seconds that anything may take before a test gives up; a busy machine needs a fraction of it."""


def prepare(settings: Settings) -> None:
    """Topics and tables."""
    ensure_topics(settings)
    migrate(settings)


def now_ms() -> int:
    return int(time.time() * 1000)


def evening(at_ms: int) -> str:
    """A zone where it is past nine in the evening at a time (UTC ms): at night a small world has hardly any figures."""
    ahead = (21 - at_ms // 3_600_000 % 24 + 12) % 24 - 12
    return f"Etc/GMT{-ahead:+d}"


def event(rng: Random, number: int, event_time: int, **fields: Any) -> dict[str, Any]:
    """An interaction, its id made of its number."""
    kind = rng.choice(("view", "view", "view", "like", "comment", "follow", "share", "live_enter", "live_leave"))
    made: dict[str, Any] = {
        "event_id": f"e{number}",
        "event_time": event_time,
        "platform": rng.choice(("douyin", "kuaishou")),
        "fan_id": f"fan{rng.randrange(500)}",
        "creator_id": f"c{rng.randrange(5)}",
        "kind": kind,
    }
    if kind in ("live_enter", "live_leave"):
        made["live_id"] = f"l{rng.randrange(3)}"
    else:
        made["content_id"] = f"v{rng.randrange(12)}"
    if kind == "view":
        made |= {"watch_ms": rng.randrange(40_000), "duration_ms": 20_000}
    if kind == "live_leave":
        made["stay_ms"] = rng.randrange(600_000)
    if kind == "comment":
        made["text"] = rng.choice(("好", ""))
    return made | fields


def events(rng: Random, count: int, start: int, until: int, first: int = 0) -> list[dict[str, Any]]:
    """Interactions in the order of their times, evenly from ``start`` to ``until`` (UTC ms)."""
    step = (until - start) / max(count, 1)
    return [event(rng, first + index, int(start + index * step)) for index in range(count)]


def send(settings: Settings, topic: str, made: Iterable[dict[str, Any]]) -> None:
    """Sends events, each to its fan's partition."""
    send_raw(settings, topic, ((each["fan_id"].encode(), orjson.dumps(each)) for each in made))


def send_raw(settings: Settings, topic: str, records: Iterable[tuple[bytes, bytes | None]]) -> None:
    """Sends (key, value) records."""
    producer = kafka_producer(settings)
    try:
        for key, value in records:
            where = partition_for(key, settings.partitions)
            producer.send(settings.topic_prefix + topic, value=value, key=key, partition=where)
        producer.flush(timeout=DEADLINE)
    finally:
        producer.close()


@contextlib.contextmanager
def database(settings: Settings) -> Iterator[Client]:
    with contextlib.closing(clickhouse_client(settings)) as client:
        yield client


def ask(settings: Settings, query: str) -> list[tuple[Any, ...]]:
    """Rows of a query."""
    with database(settings) as client:
        return [tuple(row) for row in client.query(query).result_rows]


def until(found: Callable[[], Any], what: str, deadline: float = DEADLINE) -> Any:
    """Waits for ``found`` to be true and returns what it returned."""
    end = time.monotonic() + deadline
    while not (result := found()):
        assert time.monotonic() < end, f"still waiting for {what}"
        time.sleep(0.05)
    return result


def ends(settings: Settings) -> dict[Partition, int]:
    """End offsets in Kafka of the topics that agents read."""
    names = {settings.topic_prefix + topic: topic for topic in READ}
    wanted = {
        TopicPartition(name, partition): OffsetSpec.LATEST for name in names for partition in range(settings.partitions)
    }
    with contextlib.closing(kafka_admin(settings)) as admin:
        found = admin.list_partition_offsets(wanted)
    return {(names[tp.topic], tp.partition): info.offset for tp, info in found.items()}


def stored(settings: Settings) -> dict[Partition, int]:
    """The lowest checkpoint of each partition's agents; partitions that an agent of its topic has none of are out."""
    with database(settings) as client:
        found = checkpoints.read(client)
    lowest: dict[Partition, int] = {}
    for topic in READ:
        agents = {agent.name for agent in AGENTS if topic in agent.topics}
        for partition in range(settings.partitions):
            own = {c.agent: c.next_offset for c in found if (c.topic, c.partition) == (topic, partition)}
            if agents <= set(own):
                lowest[topic, partition] = min(own.values())
    return lowest


def await_stored(settings: Settings, workers: Iterable["WorkerProcess"] = (), deadline: float = DEADLINE) -> None:
    """Waits until every agent has stored all that Kafka has, and sees that the workers live."""
    for topics in (SOURCES, LOGS):
        # What agents write for agents has its end when they have read theirs.
        wanted = {where: offset for where, offset in ends(settings).items() if where[0] in topics}

        def done(wanted: dict[Partition, int] = wanted) -> bool:
            for worker in workers:
                assert worker.process.poll() is None, worker.output()
            held = stored(settings)
            return all(held.get(where, -1) >= offset for where, offset in wanted.items())

        until(done, f"all of {wanted} to be stored", deadline)


def verified(settings: Settings) -> dict[str, int]:
    """Rows compared by table, having seen that none differs."""
    results = verify(settings)
    assert {each.name: each.examples for each in results if each.differ} == {}
    return {each.name: each.rows for each in results}


class WorkerProcess:
    """A real worker process, ended at the end of its ``with`` block however it fares."""

    def __init__(self, settings: Settings, log: Path, index: int = 0, **environment: object) -> None:
        own = settings.model_dump(exclude_unset=True, mode="json")
        made = {"flush_interval": 0.2, **own, **environment}
        self._log = log.open("ab")
        self._path = log
        self._start = log.stat().st_size
        self.process = subprocess.Popen(
            [sys.executable, "-m", "pipeline.worker", str(index)],
            env={**os.environ, **{f"FANPULSE_{name.upper()}": str(value) for name, value in made.items()}},
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
        )

    def __enter__(self) -> "WorkerProcess":
        return self

    def __exit__(self, *exc: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._log.close()

    def output(self) -> str:
        return self._path.read_text(errors="replace")[-6000:]

    def kill(self) -> None:
        """kill -9."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self) -> int:
        """SIGTERM, once it has begun to work; its exit code."""
        begun = b"restored "
        until(lambda: begun in self._path.read_bytes()[self._start :] or self.process.poll() is not None, "its start")
        self.process.terminate()
        return self.process.wait(DEADLINE)

    def ends(self) -> int:
        """The exit code with which it ends by itself."""
        return self.process.wait(DEADLINE)
