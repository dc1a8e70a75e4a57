"""Sending to Kafka with bounded memory and no error overlooked."""

import contextlib
from collections import deque
from typing import Any

from kafka import KafkaProducer
from kafka.errors import KafkaError

from infra.connect import kafka_admin, kafka_producer
from infra.errors import FanpulseError
from infra.settings import Settings
from schemas.topics import SOURCES

_OUTSTANDING_BYTES = 32 * 1024 * 1024
_MARK_BYTES = 2 * 1024 * 1024
_TIMEOUT_S = 120.0


def check_topics(settings: Settings, partitions: int) -> None:
    """Returns if the four source topics are there with so many partitions.

    Raises:
        FanpulseError: no Kafka, a topic is missing, or it has another number of partitions.
    """
    names = [settings.topic_prefix + topic for topic in SOURCES]
    with contextlib.closing(kafka_admin(settings)) as admin:
        try:
            there = {topic["name"]: topic for topic in admin.describe_topics(names) if not topic["error_code"]}
        except KafkaError as error:
            raise FanpulseError(f"Kafka does not tell its topics ({_line(error)}); look: fanpulse status") from None
    for name in names:
        if name not in there:
            raise FanpulseError(f"topic {name} does not exist; make it: fanpulse topics")
        found = len(there[name]["partitions"])
        if found != partitions:
            raise FanpulseError(
                f"topic {name} has {found} partitions and the world {partitions}; "
                f"set FANPULSE_PARTITIONS={found} in a new home"
            )


class Outbox:
    """Sends records in order; holds at most about 32 MiB that Kafka has not taken yet.

    Args:
        settings: which Kafka, and the prefix of topic names.
        overrides: options of ``kafka.KafkaProducer``.

    Raises:
        FanpulseError: no Kafka.
    """

    def __init__(self, settings: Settings, **overrides: Any) -> None:
        self._producer: KafkaProducer = kafka_producer(settings, **overrides)
        self._names = {topic: settings.topic_prefix + topic for topic in SOURCES}
        self._marks: deque[tuple[int, list[Any]]] = deque()
        self._futures: list[Any] = []
        self._fresh_bytes = 0
        self._waiting_bytes = 0

    def send(self, partition: int, topics: list[str], keys: list[bytes], values: list[bytes | None]) -> None:
        """Sends records to one partition of their topics, in order; waits while too much is on its way.

        Raises:
            FanpulseError: Kafka refused a record, now or earlier.
        """
        names, send, futures = self._names, self._producer.send, self._futures
        try:
            for topic, key, value in zip(topics, keys, values, strict=True):
                futures.append(send(names[topic], value, key, None, partition))
                self._fresh_bytes += 100 + (len(value) if value is not None else 0)
                if self._fresh_bytes >= _MARK_BYTES:
                    self._mark()
                    futures = self._futures
        except KafkaError as error:
            raise _refusal(error) from None

    def flush(self) -> None:
        """Returns when Kafka has everything.

        Raises:
            FanpulseError: Kafka refused a record, or does not answer.
        """
        # The producer's own flush only hurries: it fails for a batch that was merely split, so the records are asked.
        with contextlib.suppress(KafkaError):
            self._producer.flush(timeout=_TIMEOUT_S)
        self._mark()
        while self._marks:
            self._settle()

    def close(self) -> None:
        """Lets go of Kafka; what was not flushed may be lost."""
        with contextlib.suppress(KafkaError):
            self._producer.close(timeout=5)

    def _mark(self) -> None:
        self._marks.append((self._fresh_bytes, self._futures))
        self._waiting_bytes += self._fresh_bytes
        self._futures, self._fresh_bytes = [], 0
        while self._waiting_bytes > _OUTSTANDING_BYTES:
            self._settle()

    def _settle(self) -> None:
        """Waits for the oldest records, and looks whether each was taken."""
        size, futures = self._marks.popleft()
        self._waiting_bytes -= size
        for future in reversed(futures):
            if not future.is_done:
                try:
                    future.get(timeout=_TIMEOUT_S)
                except KafkaError as error:
                    raise _refusal(error) from None
            if future.exception is not None:
                raise _refusal(future.exception)


def _refusal(error: BaseException) -> FanpulseError:
    return FanpulseError(
        f"Kafka did not take a record ({_line(error)}); look at it with: fanpulse status, then run the same command "
        "again: what is sent twice counts once"
    )


def _line(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text[:200]
