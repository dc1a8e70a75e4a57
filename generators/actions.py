"""What budget rules do, read from Kafka for the market."""

import contextlib
from collections.abc import Iterator
from typing import Any

from kafka import KafkaConsumer, TopicPartition
from kafka.errors import KafkaError
from pydantic import BaseModel, ConfigDict, ValidationError

from generators.market import Change
from infra.connect import kafka_options
from infra.errors import FanpulseError
from infra.settings import Settings
from schemas.rules import Kind

TOPIC = "budget_actions"


class _Record(BaseModel):
    """A record of the topic, as far as a market needs it."""

    model_config = ConfigDict(extra="ignore")

    id: str
    campaign_id: str
    ad_group_id: str = ""
    kind: Kind
    after: int | None = None


class Actions:
    """All records of the topic ``budget_actions`` from its begin. Where there is no such topic, nothing is done.

    Raises:
        FanpulseError: no answer from Kafka, now or at any call.
    """

    def __init__(self, settings: Settings) -> None:
        self._topic = settings.topic_prefix + TOPIC
        options: dict[str, Any] = {
            "client_id": "fanpulse",
            "enable_auto_commit": False,
            "auto_offset_reset": "earliest",
            "metrics_enabled": False,
        }
        with _refused():
            self._consumer = KafkaConsumer(**kafka_options(settings), **options)
            self._places = [
                TopicPartition(self._topic, partition)
                for partition in sorted(self._consumer.partitions_for_topic(self._topic) or ())
            ]
            if self._places:
                self._consumer.assign(self._places)
                self._consumer.seek_to_beginning(*self._places)

    def new(self) -> list[Change]:
        """What has arrived since the last call, without waiting."""
        if not self._places:
            return []
        found = []
        with _refused():
            for records in self._consumer.poll(timeout_ms=0, max_records=10_000).values():
                for record in records:
                    change = _change(record.value, record.timestamp)
                    if change is not None:
                        found.append(change)
        return found

    def close(self) -> None:
        """Ends the connection."""
        with contextlib.suppress(KafkaError):
            self._consumer.close()


def _change(value: bytes | None, at_ms: int) -> Change | None:
    """A record as a change that holds from a time on; None: it is none. Others write there, too."""
    try:
        record = _Record.model_validate_json(value or b"")
    except ValidationError:
        return None
    return Change(at_ms=at_ms, **record.model_dump())


@contextlib.contextmanager
def _refused() -> Iterator[None]:
    try:
        yield
    except (KafkaError, OSError) as error:
        raise FanpulseError(
            f"Kafka does not tell what budget rules do ({type(error).__name__}: {error}); look: fanpulse status"
        ) from None
