"""What a comparison says: of each table, view or topic how many rows are lost, doubled and wrong, with examples."""

import math
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import polars as pl
from clickhouse_connect.driver.client import Client
from kafka import KafkaConsumer, TopicPartition

from infra.errors import FanpulseError

_EXAMPLES = 5


@dataclass(frozen=True)
class TableResult:
    """What was compared of one table, view or topic (``kafka_...``): ``rows`` wanted, and how many were

    ``lost``: wanted and not there; ``doubled``: there more often than wanted, or wanted by nobody; ``wrong``: there
    with other values. ``examples``: some of them, each a line.
    """

    table: str
    rows: int
    lost: int
    doubled: int
    wrong: int
    examples: tuple[str, ...]


@dataclass
class Tally:
    """A result as it grows."""

    table: str
    rows: int = 0
    lost: int = 0
    doubled: int = 0
    wrong: int = 0
    examples: list[str] = field(default_factory=list)

    def lose(self, where: object, what: str = "lost") -> None:
        self.lost += 1
        self._show(f"{where}: {what}")

    def double(self, where: object, what: str = "nobody wants it") -> None:
        self.doubled += 1
        self._show(f"{where}: {what}")

    def differ(self, where: object, differences: str) -> None:
        self.wrong += 1
        self._show(f"{where}: {differences}")

    def compare(self, where: object, names: Iterable[str], stored: Iterable[Any], wanted: Iterable[Any]) -> None:
        """Counts the row as wrong if a value differs."""
        different = [
            f"{name} stored {short(have)} wanted {short(want)}"
            for name, have, want in zip(names, stored, wanted, strict=True)
            if not _same(have, want)
        ]
        if different:
            self.differ(where, ", ".join(different))

    def result(self) -> TableResult:
        return TableResult(self.table, self.rows, self.lost, self.doubled, self.wrong, tuple(self.examples))

    def _show(self, line: str) -> None:
        if len(self.examples) < _EXAMPLES:
            self.examples.append(f"{self.table} {line}"[:600])


def _same(stored: Any, wanted: Any) -> bool:
    if isinstance(stored, float) and isinstance(wanted, float):
        return math.isclose(stored, wanted, rel_tol=1e-12, abs_tol=1e-12)
    return bool(stored == wanted)


def short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def stream(client: Client, query: str, parameters: dict[str, Any] | None = None) -> Iterator[tuple[Any, ...]]:
    """Rows of a query, as they come."""
    with client.query_arrow_stream(query, parameters=parameters, use_strings=True) as batches:
        for batch in batches:
            yield from pl.DataFrame(pl.from_arrow(batch)).iter_rows()


def log(consumer: KafkaConsumer, topic: str, partition: int) -> Iterator[Any]:
    """Every record of a partition, as a plain consumer reads them."""
    here = TopicPartition(topic, partition)
    consumer.assign([here])
    end = consumer.end_offsets([here])[here]
    consumer.seek(here, 0)
    at, quiet = 0, time.monotonic()
    while at < end:
        for record in consumer.poll(1000).get(here, ()):
            at, quiet = record.offset + 1, time.monotonic()
            yield record
        if time.monotonic() - quiet > 60:
            raise FanpulseError(f"Kafka does not give {topic}[{partition}] beyond offset {at} of {end}", 1)
