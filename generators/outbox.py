"""Sending to Kafka with bounded memory and no error overlooked."""

from collections import deque
from typing import Any

from kafka import KafkaProducer
from kafka.errors import KafkaError

from infra.connect import kafka_producer
from infra.errors import FanpulseError
from infra.settings import Settings
from schemas.topics import SOURCES

_OUTSTANDING_BYTES = 32 * 1024 * 1024
_MARK_BYTES = 2 * 1024 * 1024
_TIMEOUT_S = 120.0


class Outbox:
    """Sends records in order; holds at most about 32 MiB that Kafka has not taken yet.

    Args:
        settings: which Kafka, and the prefix of topic names.
        partitions: what each source topic must have.
        overrides: options of ``kafka.KafkaProducer``.

    Raises:
        FanpulseError: no Kafka, a topic is missing, or it has another number of partitions.
    """

    def __init__(self, settings: Settings, partitions: int, **overrides: Any) -> None:
        self._producer: KafkaProducer = kafka_producer(settings, **overrides)
        self._names = {topic: settings.topic_prefix + topic for topic in SOURCES}
        self._marks: deque[tuple[int, list[Any]]] = deque()
        self._futures: list[Any] = []
        self._fresh_bytes = 0
        self._waiting_bytes = 0
        try:
            for name in self._names.values():
                self._check(name, partitions)
        except BaseException:
            self._producer.close(timeout=1)
            raise

    def _check(self, name: str, partitions: int) -> None:
        try:
            found = self._producer.partitions_for(name)
        except KafkaError as error:
            raise FanpulseError(f"topic {name} cannot be used ({_line(error)}); make it: fanpulse topics") from None
        if not found:
            raise FanpulseError(f"topic {name} does not exist; make it: fanpulse topics")
        if len(found) != partitions:
            raise FanpulseError(
                f"topic {name} has {len(found)} partitions and the world {partitions}; "
                f"set FANPULSE_PARTITIONS={len(found)} in a new home"
            )

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
        try:
            self._producer.flush(timeout=_TIMEOUT_S)
        except KafkaError as error:
            raise _refusal(error) from None
        self._mark()
        while self._marks:
            self._settle()

    def close(self) -> None:
        """Lets go of Kafka; what was not flushed may be lost."""
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
        f"Kafka did not take a record ({_line(error)}); look at it with: fanpulse status, "
        "then run the same command again, it goes on where it stopped"
    )


def _line(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text[:200]
