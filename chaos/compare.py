"""Compares what Kafka and ClickHouse hold with what follows from the ground truth."""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass

from kafka import KafkaConsumer, TopicPartition

from chaos.truth import Sent, TruthLog
from infra.connect import kafka_options
from infra.settings import Settings
from schemas.topics import SOURCES

_EXAMPLES = 5


@dataclass(frozen=True)
class TableResult:
    """What was compared of one table: rows wanted, and how many were lost, doubled or wrong, with examples."""

    table: str
    rows: int
    lost: int
    doubled: int
    wrong: int
    examples: tuple[str, ...]


def compare(
    settings: Settings,
    truth: TruthLog,
    repaired: bool = False,
    refused: Callable[[Sent], bool] = lambda sent: False,
) -> list[TableResult]:
    """Compares everything, once all is stored and no worker runs.

    Args:
        settings: the Kafka, topics and database that the records went through.
        truth: what was sent.
        repaired: whether ``fanpulse repair`` has run over all days since.
        refused: says of a valid record that ClickHouse refuses its row.
    """
    return [_kafka(settings, truth, topic) for topic in SOURCES]


def _kafka(settings: Settings, truth: TruthLog, topic: str) -> TableResult:
    """The topic itself: what a plain consumer reads is what the sender says."""
    rows = lost = doubled = wrong = 0
    examples: list[str] = []
    name = settings.topic_prefix + topic
    wanted = {partition for where, partition in truth.partitions() if where == topic}
    with contextlib.closing(KafkaConsumer(**kafka_options(settings), enable_auto_commit=False)) as consumer:
        for partition in range(settings.partitions):
            here = TopicPartition(name, partition)
            consumer.assign([here])
            consumer.seek_to_beginning()
            end = consumer.end_offsets([here])[here]
            sent = truth.partition(topic, partition) if partition in wanted else iter(())
            at = 0
            while at < end:
                for record in (each for found in consumer.poll(1000).values() for each in found):
                    at = record.offset + 1
                    rows += 1
                    own = next(sent, None)
                    if own is None:
                        doubled += 1
                        examples.append(f"{topic}[{partition}] offset {record.offset}: nobody sent it")
                    elif (own.offset, own.key, own.value, own.appended) != (
                        record.offset,
                        record.key,
                        record.value,
                        record.timestamp,
                    ):
                        wrong += 1
                        examples.append(f"{topic}[{partition}] offset {record.offset}: another record")
            missing = list(sent)
            lost += len(missing)
            examples += [f"{topic}[{partition}] offset {own.offset}: not in Kafka" for own in missing[:_EXAMPLES]]
    return TableResult(f"kafka_{topic}", rows, lost, doubled, wrong, tuple(examples[:_EXAMPLES]))
