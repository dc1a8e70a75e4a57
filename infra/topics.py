"""Creates the topics of the registry, and checks those that are there."""

from dataclasses import dataclass

from kafka import TopicPartition
from kafka.admin import ConfigResource, ConfigResourceType, NewTopic, OffsetSpec
from kafka.errors import KafkaError

from infra.connect import kafka_admin
from infra.errors import FanpulseError
from infra.settings import Settings
from schemas.topics import SOURCES, TOPICS


@dataclass(frozen=True)
class TopicState:
    """One topic as it is in Kafka."""

    name: str
    partitions: int
    created: bool
    meaning: str


def ensure_topics(settings: Settings) -> list[TopicState]:
    """Creates what is missing; returns all of them.

    Raises:
        InfraError: Kafka does not answer.
        FanpulseError: a topic has other partitions or another time stamp type than the registry says.
    """
    admin = kafka_admin(settings)
    try:
        names = {settings.topic_prefix + topic.name: topic for topic in TOPICS.values()}
        there = {found["name"]: found for found in admin.describe_topics(list(names)) if not found["error_code"]}
        missing = [name for name in names if name not in there]
        if missing:
            admin.create_topics(
                [
                    NewTopic(
                        name,
                        names[name].partitions or settings.partitions,
                        settings.replication,
                        topic_configs=names[name].config(),
                    )
                    for name in missing
                ],
                wait_for_metadata=True,
            )
        states = []
        for name, topic in names.items():
            wanted = topic.partitions or settings.partitions
            number = len(there[name]["partitions"]) if name in there else wanted
            if number != wanted:
                raise FanpulseError(
                    f"topic {name} has {number} partitions, but {wanted} are wanted: a fan's events would move. Set "
                    f"FANPULSE_PARTITIONS={number}, or use new topics (FANPULSE_TOPIC_PREFIX) and a new database",
                    exit_code=3,
                )
            states.append(TopicState(name, number, name in missing, topic.meaning))
        if there:
            configs = admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, name) for name in there])[
                "topic"
            ]
            for name, config in configs.items():
                if (stamp := config.get("message.timestamp.type", {}).get("value", "CreateTime")) != "LogAppendTime":
                    raise FanpulseError(
                        f"topic {name} has message.timestamp.type={stamp}: lateness is judged by the broker's clock, "
                        "so set it to LogAppendTime"
                    )
        return states
    except KafkaError as error:
        raise FanpulseError(f"Kafka refused to create topics: {error}", exit_code=1) from None
    finally:
        admin.close()


def end_offsets(settings: Settings) -> dict[tuple[str, int], int]:
    """Kafka's end of every source topic and partition. InfraError or FanpulseError where it does not tell."""
    admin = kafka_admin(settings)
    try:
        asked = {
            TopicPartition(settings.topic_prefix + topic, partition): OffsetSpec.LATEST
            for topic in SOURCES
            for partition in range(settings.partitions)
        }
        return {
            (place.topic.removeprefix(settings.topic_prefix), place.partition): int(answer.offset)
            for place, answer in admin.list_partition_offsets(asked).items()
        }
    except KafkaError as error:
        raise FanpulseError(f"Kafka does not tell what its topics hold ({error}); look: fanpulse status") from None
    finally:
        admin.close()


def consumer_group(settings: Settings) -> str:
    """Name of the workers' consumer group. Each database has its own: two on the same topics must each read all."""
    return f"{settings.topic_prefix}{settings.database}"
