"""State and moves of fans by their definition in SQL: the twins ``fan_state`` and ``fan_transitions``."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any
from zoneinfo import ZoneInfo

from clickhouse_connect.driver.client import Client

from infra.settings import Settings
from pipeline.checkpoint import Checkpoint
from pipeline.fan_log import TOPIC, as_of, read_inputs
from pipeline.stages import WINDOW
from pipeline.twin import UNTIL, limits, twin

AGENT = "lifecycle"
SLICE_EVENTS = 2_000_000
"""Events that are looked at in one query, about: bounds memory."""
PAIR = ("partition", "platform", "creator_id", "fan")
PAIRS = ", ".join(PAIR)
"""What names a pair of fan and creator."""
WITHIN = "fan BETWEEN {low:UInt64} AND {high:UInt64}"
"""A slice of the fans; ``slices`` gives its parameters."""
AS_OF = "transform(partition, {partitions:Array(UInt16)}, {as_of:Array(Int32)}, 0)"
"""The local day that a partition has reached."""


@dataclass(frozen=True)
class FanCut:
    """What the checkpoints of agent ``lifecycle`` say, by partition: the next offset in the fan log, of each source
    topic the next offset there, and the local day that all have reached (days since epoch; 0: none)."""

    version: int
    next_offset: dict[int, int]
    inputs: dict[int, dict[str, int]]
    as_of: dict[int, int]

    def upto(self, topic: str) -> dict[int, int]:
        """The first offset of a source topic that is not counted in, by partition."""
        return {partition: inputs.get(topic, 0) for partition, inputs in self.inputs.items()}


def fan_cut(settings: Settings, stored: list[Checkpoint]) -> FanCut | None:
    """Where the tables of fans are compared: at the checkpoints of their agent. None if it has none."""
    own = [c for c in stored if c.agent == AGENT and c.topic == TOPIC]
    if not own:
        return None
    version = max(c.fold_version for c in own)
    own = [c for c in own if c.fold_version == version]
    inputs = {c.partition: read_inputs(c.inputs) for c in own}
    zone = ZoneInfo(settings.time_zone)
    return FanCut(
        version,
        {c.partition: c.next_offset for c in own},
        {partition: {topic: found.next for topic, found in each.items()} for partition, each in inputs.items()},
        {partition: as_of(each, zone) or 0 for partition, each in inputs.items()},
    )


class FanTwins:
    """The events that count for fans, in tables named by ``name``, and queries of what the twins make of them.

    ``earlier``: how many days before the one reached the rows of ``fan_state`` go back. ``parameters`` are those of
    every query here.
    """

    def __init__(
        self, client: Client, settings: Settings, cut: FanCut, name: Callable[[str], str], earlier: int = WINDOW - 1
    ) -> None:
        self._client = client
        self._cut = cut
        self.parameters: dict[str, Any] = {
            **limits(cut.next_offset),
            "as_of": [cut.as_of[partition] for partition in cut.next_offset],
            "version": cut.version,
            "no_activity": settings.no_activity.split(","),
            "interval": settings.active_interval,
            "churn_after": settings.churn_after,
            "time_zone": settings.time_zone,
            "earlier": earlier,
        }
        self.events = name("fan_events")
        self.run(
            f"CREATE TABLE {self.events} ({', '.join(f'{name} {kind}' for name, kind in _EVENTS.items())}) "
            "ENGINE = MergeTree ORDER BY fan"
        )

    def add(self, topic: str, judged: str) -> None:
        """Takes from a topic's judged records (see ``twin.judge``) those that count: on time and no repeats below the
        checkpoint, and late ones that repair has taken in."""
        self.run(
            f"INSERT INTO {self.events} SELECT {', '.join(_EVENTS)} FROM {judged} "
            "WHERE has({partitions:Array(UInt16)}, partition) AND "
            f"(is_late = 0 AND is_duplicate = 0 AND `offset` < {UNTIL} OR late = 1 AND repaired = 1 AND duplicate = 0)",
            limits(self._cut.upto(topic)),
        )

    def slices(self) -> Iterator[dict[str, int]]:
        """Parameters of ``WITHIN``."""
        (count,), *_ = self._client.query(f"SELECT count() FROM {self.events}").result_rows
        return slices(count // SLICE_EVENTS + 1)

    def wanted(self, name: str, which: str = "1") -> str:
        """The rows of a table as they should be, of pairs of the slice for which ``which`` holds."""
        return f"""
            WITH events AS
            (
                SELECT *, {AS_OF} AS as_of FROM {self.events} WHERE {WITHIN} AND {which}
            )
            SELECT * FROM ({twin(name)})
        """

    def run(self, statement: str, parameters: dict[str, Any] | None = None) -> None:
        """Runs a statement."""
        self._client.command(statement, parameters=self.parameters | (parameters or {}))


def slices(parts: int) -> Iterator[dict[str, int]]:
    """Parameters of ``WITHIN``, so many. Fans are hashes, so ranges of them are about equal."""
    bounds = [2**64 * part // parts for part in range(parts + 1)]
    for low, high in pairwise(bounds):
        yield {"low": low, "high": high - 1}


_EVENTS = {
    "partition": "UInt16",
    "platform": "LowCardinality(String)",
    "creator_id": "String",
    "fan": "UInt64",
    "event_time": "DateTime64(3, 'UTC')",
    "day": "Date",
    "kind": "LowCardinality(String)",
}
