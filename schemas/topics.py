"""The topic registry: every Kafka topic, what keys it, how long it is kept, and what its records are."""

from dataclasses import dataclass
from typing import Literal

from kafka.partitioner.default import murmur2

DAY_MS = 86_400_000


@dataclass(frozen=True)
class Topic:
    """One topic.

    ``source``: partitioned by fan; holds events of ``schemas.events.MODELS[name]``. ``log``: written by one agent of
    the workers and read by others, from the partition of a number to the same. ``output``: for other systems.
    ``retention_ms`` counts from the broker's append time, as all source topics use ``LogAppendTime``: the append
    time bounds how far one event may move the watermark, so it must not be the producer's to choose.
    """

    name: str
    key: str
    role: Literal["source", "log", "output"]
    partitions: int | None
    retention_ms: int
    max_bytes: int
    meaning: str

    def config(self) -> dict[str, str]:
        """Kafka topic configuration."""
        return {
            "cleanup.policy": "delete",
            "message.timestamp.type": "LogAppendTime",
            "retention.ms": str(self.retention_ms),
            "max.message.bytes": str(self.max_bytes),
        }


def _source(name: str, meaning: str) -> Topic:
    return Topic(name, "fan_id", "source", None, 7 * DAY_MS, 2 * 1024 * 1024, meaning)


TOPICS: dict[str, Topic] = {
    topic.name: topic
    for topic in (
        _source("interactions", "What fans do with videos, live rooms, groups and product cards"),
        _source("gifts", "Gifts, guards and memberships bought in live rooms"),
        _source("orders", "Orders placed, paid, shipped and refunded; memberships bought in the shop"),
        _source("ad_events", "Impressions, clicks, plays and conversions of advertisements, with their cost"),
        Topic(
            "fan_facts",
            "none; partition of the source",
            "log",
            None,
            7 * DAY_MS,
            8 * 1024 * 1024,
            "The fan log: what the source topics say about fans, in blocks (schemas/README.md)",
        ),
        Topic(
            "fan_touches",
            "none; partition of the source",
            "log",
            None,
            7 * DAY_MS,
            8 * 1024 * 1024,
            "The touch log: advertisements seen and clicked, follows, orders paid and refunded, in blocks "
            "(schemas/README.md)",
        ),
        Topic(
            "campaign_facts",
            "none; partition by platform and campaign",
            "log",
            None,
            7 * DAY_MS,
            8 * 1024 * 1024,
            "The campaign log: figures of campaigns by minute, how far time is, changes of rules and campaigns "
            "(schemas/README.md)",
        ),
        Topic(
            "budget_actions",
            "platform:campaign_id",
            "output",
            None,
            30 * DAY_MS,
            1024 * 1024,
            "What budget rules do: budgets and bids set, pauses and their end; a repeat has the same id",
        ),
        Topic(
            "fan_transitions",
            "creator_id",
            "output",
            None,
            30 * DAY_MS,
            2 * 1024 * 1024,
            "Moves of fans from stage to stage, and moves taken back",
        ),
        Topic(
            "alerts",
            "creator_id",
            "output",
            1,
            30 * DAY_MS,
            1024 * 1024,
            "Alerts, opened and resolved; a repeat has the same id and state",
        ),
        Topic(
            "dead_letters",
            "topic, partition and offset of the record",
            "output",
            1,
            30 * DAY_MS,
            4 * 1024 * 1024,
            "Records refused at decode: where they stood, why, and their raw bytes",
        ),
    )
}
"""Topics by name. ``partitions=None`` means the setting ``FANPULSE_PARTITIONS``."""

SOURCES: tuple[str, ...] = tuple(topic.name for topic in TOPICS.values() if topic.role == "source")
"""Names of the source topics. One fan is in the partition of the same number in each of them."""


LOGS: tuple[str, ...] = tuple(topic.name for topic in TOPICS.values() if topic.role == "log")
"""Names of the topics that agents write for agents."""


def partition_for(key: bytes, partitions: int) -> int:
    """Kafka partition of a key: murmur2, as kafka-python, aiokafka and the Java client choose it.

    librdkafka's default differs: set ``partitioner=murmur2_random`` there.
    """
    return int(murmur2(key) & 0x7FFFFFFF) % partitions
