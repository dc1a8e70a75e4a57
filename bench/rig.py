"""A Kafka and a ClickHouse of our own for one measurement, and what runs against them."""

import contextlib
import http.client
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

from bench.events import chunks
from bench.result import Wrong
from infra.clickhouse import clickhouse_service
from infra.connect import clickhouse_client, kafka_producer
from infra.home import Home
from infra.kafka import kafka_service
from infra.settings import PREFIX, Settings
from infra.stack import temporary
from infra.topics import ensure_topics
from pipeline.migrate import migrate

TUNING = ("FLUSH_INTERVAL", "FLUSH_ROWS", "FETCH_BYTES", "BUFFER_BLOCKS")
"""Settings that are taken from the environment; all others are the defaults."""
PARTITIONS = 4
LAG_MS = 35 * 60_000
"""How long before now the event time of the load begins."""


@contextlib.contextmanager
def stack() -> Iterator[Settings]:
    """Kafka and ClickHouse in a new home in the temporary folder; stopped and removed at the end, however it ends."""
    kept = {PREFIX + name for name in TUNING}
    for name in [name for name in os.environ if name.startswith(PREFIX) and name not in kept]:
        del os.environ[name]
    with temporary("fpb-") as local:
        ensure_topics(local.settings)
        yield local.settings


def pids(settings: Settings) -> dict[str, int]:
    """Processes of the services of a home."""
    home = Home(settings.home)
    found = {}
    for service in (kafka_service(home), clickhouse_service(home)):
        pid = service.status().pid
        if pid is None:
            raise Wrong(f"{service.name} has stopped")
        found[service.name] = pid
    return found


def fill(settings: Settings, events: int, say: Callable[[str], None], strangers: bool = False) -> tuple[float, float]:
    """Sends the load into the topic ``interactions``; returns bytes per event, and seconds."""
    failed: list[BaseException] = []
    sent = size = 0
    begun = time.perf_counter()
    producer = kafka_producer(settings, batch_size=1024 * 1024, linger_ms=100)
    try:
        for chunk in chunks(events, int(time.time() * 1000) - LAG_MS, PARTITIONS, strangers=strangers):
            for key, value, partition in zip(chunk.keys, chunk.values, chunk.partitions, strict=True):
                producer.send("interactions", value, key, partition=partition).add_errback(failed.append)
            sent += len(chunk.values)
            size += sum(map(len, chunk.values))
            say(f"loading Kafka: {sent:,} of {events:,} events")
            if failed:
                raise Wrong(f"Kafka refused an event: {failed[0]}")
        producer.flush()
    finally:
        producer.close()
    if failed:
        raise Wrong(f"Kafka refused an event: {failed[0]}")
    return size / sent, time.perf_counter() - begun


@contextlib.contextmanager
def database(settings: Settings, name: str) -> Iterator[Settings]:
    """A database of its own, with all tables; dropped at the end."""
    own = Settings(**{**settings.model_dump(exclude_unset=True), "database": name})
    migrate(own)
    try:
        yield own
    finally:
        client = clickhouse_client(own, database="system")
        try:
            client.command(f"DROP DATABASE IF EXISTS {name} SYNC")
        finally:
            client.close()


@contextlib.contextmanager
def process(settings: Settings, *module: str) -> Iterator[subprocess.Popen[bytes]]:
    """``python -m MODULE ARGUMENTS`` with these settings, its output in the home's logs; ended at the end."""
    log = Home(settings.home).logs / f"{module[0]}.log"
    environment = {**os.environ, "FANPULSE_HOME": str(settings.home), "FANPULSE_DATABASE": settings.database}
    with log.open("ab") as output:
        running = subprocess.Popen(
            [sys.executable, "-m", *module], env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
    try:
        yield running
    finally:
        running.terminate()
        try:
            running.wait(20)
        except subprocess.TimeoutExpired:
            running.kill()
            running.wait()


def still_runs(running: subprocess.Popen[bytes], settings: Settings, module: str) -> None:
    """Wrong, with the end of its log, if the process has ended."""
    if running.poll() is not None:
        lines = (Home(settings.home).logs / f"{module}.log").read_text("utf-8", "replace").splitlines()[-15:]
        raise Wrong(f"{module} ended with code {running.returncode}: " + " | ".join(lines))


def await_begun(running: subprocess.Popen[bytes], settings: Settings, module: str) -> None:
    """Waits until worker 0 has been given its partitions and knows where to read; Wrong if it does not come to that."""
    deadline = time.monotonic() + 60
    while not _holds_partitions(settings):
        still_runs(running, settings, module)
        if time.monotonic() > deadline:
            raise Wrong("the worker did not get its partitions within 60 s")
        time.sleep(0.01)


def ask_worker(settings: Settings, path: str) -> str:
    """What the health address of worker 0 answers."""
    connection = http.client.HTTPConnection("127.0.0.1", Home(settings.home).ports()["worker-0"], timeout=5)
    with contextlib.closing(connection):
        connection.request("GET", path)
        return connection.getresponse().read().decode()


def _holds_partitions(settings: Settings) -> bool:
    try:
        return bool(json.loads(ask_worker(settings, "/health"))["partitions"])
    except (OSError, http.client.HTTPException, KeyError):
        return False
