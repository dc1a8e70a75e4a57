"""Load with a ground truth: a made-up world sent to Kafka, each record written down as the broker took it."""

import heapq
import threading
import time
from collections import deque
from collections.abc import Iterator
from typing import Any

from kafka import KafkaProducer
from pydantic import BaseModel, ConfigDict, Field

from chaos.truth import Sent, TruthLog
from generators.config import WorldConfig
from generators.weather import LABELS
from generators.world import EVENTS_A_FAN_AND_DAY, World
from infra.connect import kafka_producer
from infra.settings import Settings

HOUR_MS = 3_600_000
_WAITING = 20_000
"""Records that may be on their way at one time."""


class Mix(BaseModel):
    """What a feed is made of: shares of its records (0 to 1), what stays idle, and the hours of event time it spans."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    duplicates: float = Field(0.05, ge=0, le=1)
    late: float = Field(0.05, ge=0, le=1)
    malformed: float = Field(0.02, ge=0, le=1)
    edge: float = Field(0.01, ge=0, le=1)
    idle_topics: frozenset[str] = frozenset()
    idle_partitions: frozenset[int] = frozenset()
    hours: float = Field(6, gt=0, le=24 * 30)


class Feed:
    """Sends ``events`` records, all labels together, in a thread of its own.

    ``rate``: records a second; None: as fast as it goes.
    """

    def __init__(
        self,
        settings: Settings,
        truth: TruthLog,
        events: int,
        rate: float | None = None,
        mix: Mix = Mix(),  # noqa: B008
        seed: int = 1,
    ) -> None:
        self._settings = settings
        self._truth = truth
        self._events = events
        self._rate = rate
        self._mix = mix
        self._seed = seed
        self._sent = 0
        self._waiting: deque[tuple[Any, str, int, bytes, bytes | None, str]] = deque()
        self._running = threading.Event()
        self._running.set()
        self._stopping = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="feed", daemon=True)

    @property
    def sent(self) -> int:
        """Records acknowledged so far."""
        return self._sent

    @property
    def done(self) -> bool:
        """Whether it has ended, all sent or not."""
        return self._thread.ident is not None and not self._thread.is_alive()

    def start(self) -> None:
        """Begins to send."""
        self._thread.start()

    def pause(self) -> None:
        """Sends nothing more until ``resume``; what is on its way still arrives."""
        self._running.clear()

    def resume(self) -> None:
        """Goes on after ``pause``."""
        self._running.set()

    def stop(self) -> None:
        """Ends early; everything acknowledged is in the truth when ``join`` returns."""
        self._stopping.set()
        self._running.set()

    def join(self) -> None:
        """Waits for the end. Raises what the feed raised."""
        self._thread.join()
        if self._failure is not None:
            raise self._failure

    def _run(self) -> None:
        try:
            producer = kafka_producer(self._settings, delivery_timeout_ms=900_000, linger_ms=10)
            try:
                self._send(producer)
            finally:
                producer.close(timeout=30)
        except BaseException as error:
            self._failure = error

    def _send(self, producer: KafkaProducer) -> None:
        began = time.monotonic()
        prefix = self._settings.topic_prefix
        for number, (topic, partition, key, value, label) in enumerate(self._records()):
            if number >= self._events or self._stopping.is_set():
                break
            if not self._running.is_set():
                self._settle(0)
                self._running.wait()
                began = time.monotonic() - number / (self._rate or 1)
            if self._rate is not None and number % 50 == 0:
                self._stopping.wait(max(0.0, began + number / self._rate - time.monotonic()))
            future = producer.send(prefix + topic, value=value, key=key, partition=partition)
            self._waiting.append((future, topic, partition, key, value, label))
            if number % 1000 == 0:
                self._settle(_WAITING)
        producer.flush(timeout=900)
        self._settle(0)

    def _settle(self, leave: int) -> None:
        found = []
        while self._waiting and (len(self._waiting) > leave or self._waiting[0][0].is_done):
            future, topic, partition, key, value, label = self._waiting.popleft()
            done = future.get(timeout=900)
            found.append(Sent(topic, partition, done.offset, done.timestamp, key, value, label))
        self._truth.append(found)
        self._sent += len(found)

    def _records(self) -> Iterator[tuple[str, int, bytes, bytes | None, str]]:
        """Records in the order in which they are sent."""
        mix = self._mix
        end = int(time.time() * 1000)
        start = end - int(mix.hours * HOUR_MS)
        fans = max(50, self._events // 40)
        config = WorldConfig(
            seed=self._seed,
            fans=fans,
            partitions=self._settings.partitions,
            time_zone=self._settings.time_zone,
            start_ms=start,
            rate_factor=1.1 * self._events / (fans * EVENTS_A_FAN_AND_DAY * mix.hours / 24),
            duplicates=mix.duplicates,
            late=mix.late,
            malformed=mix.malformed,
        )
        world = World(config)
        partitions = [p for p in range(config.partitions) if p not in mix.idle_partitions]
        step = max(1000, (end - start) // 200)
        at = start
        while True:
            runs = []
            for partition in partitions:
                for topic, records in world.records(partition, at, at + step).items():
                    if topic not in mix.idle_topics:
                        rows = zip(
                            records.sent_ms.tolist(), records.keys, records.values, records.labels.tolist(), strict=True
                        )
                        runs.append([(ms, topic, partition, *row) for ms, *row in rows])
            for _, topic, partition, key, value, label in heapq.merge(*runs, key=lambda row: row[0]):
                yield topic, partition, key, value, LABELS[label]
            at += step
