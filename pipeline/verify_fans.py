"""State and moves of fans against their definition in SQL."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any
from zoneinfo import ZoneInfo

from clickhouse_connect.driver.client import Client

from infra.settings import Settings
from pipeline.checkpoint import Checkpoint
from pipeline.comparison import SHOWN, Comparison, compare_rows
from pipeline.fan_log import TOPIC, as_of, read_inputs
from pipeline.twin import UNTIL, limits, twin

AGENT = "lifecycle"
SLICE_EVENTS = 2_000_000
"""Events that are looked at in one query, about: bounds memory."""
_PAIR = ("partition", "platform", "creator_id", "fan")
_PAIRS = ", ".join(_PAIR)


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


class FanTables:
    """Copies of the tables of fans, and the events that they should have been made of: in tables named by ``name``.

    A pair of fan and creator is left out if a row of it is ahead of the checkpoint, since of the facts between the two
    only Kafka knows; and if it was told of an event too old to be counted in (``fan_state.too_old``), since what is not
    counted in cannot be told from the events. All other pairs are compared whole, every move that they ever made
    included, and of their days the last 64.
    """

    def __init__(self, client: Client, settings: Settings, cut: FanCut, name: Callable[[str], str]) -> None:
        self._client = client
        self._cut = cut
        self._parameters: dict[str, Any] = {
            **limits(cut.next_offset),
            "as_of": [cut.as_of[partition] for partition in cut.next_offset],
            "version": cut.version,
            "no_activity": settings.no_activity.split(","),
            "interval": settings.active_interval,
            "churn_after": settings.churn_after,
            "time_zone": settings.time_zone,
        }
        self._state, self._moves = name("fan_state"), name("fan_transitions")
        self._ahead, self._events, self._name = name("fan_ahead"), name("fan_events"), name

    def copy(self) -> None:
        """Takes the tables as they are."""
        for table, copied in (("fan_state", self._state), ("fan_transitions", self._moves)):
            self._run(
                f"CREATE TABLE {copied} ENGINE = MergeTree ORDER BY fan AS SELECT * FROM {table} FINAL "
                "WHERE fold_version = {version:UInt16}"
            )
        self._run(
            f"CREATE TABLE {self._ahead} ENGINE = MergeTree ORDER BY fan AS "
            f"SELECT {_PAIRS} FROM {self._state} WHERE applied >= {UNTIL} OR too_old > 0 "
            f"UNION DISTINCT SELECT {_PAIRS} FROM {self._moves} WHERE applied >= {UNTIL}"
        )
        self._run(
            f"CREATE TABLE {self._events} ({', '.join(f'{name} {kind}' for name, kind in _EVENTS.items())}) "
            "ENGINE = MergeTree ORDER BY fan"
        )

    def add(self, topic: str, judged: str) -> None:
        """Takes from a topic's judged records (see ``twin.judge``) those that count: on time and no repeats below the
        checkpoint, and late ones that repair has taken in."""
        self._run(
            f"INSERT INTO {self._events} SELECT {', '.join(_EVENTS)} FROM {judged} "
            "WHERE has({partitions:Array(UInt16)}, partition) AND "
            f"(is_late = 0 AND is_duplicate = 0 AND `offset` < {UNTIL} OR late = 1 AND repaired = 1 AND duplicate = 0)",
            limits(self._cut.upto(topic)),
        )

    def compare(self, report: Callable[[str], None]) -> Iterator[Comparison]:
        """The tables against their twins, and the stages of a creator's fans against the fans that there are."""
        for compared in (self._compare_state, self._compare_moves):
            name = "fan_state" if compared == self._compare_state else "fan_transitions"
            report(f"comparing {name}")
            parts = [compared(within) for within in self._slices()]
            shown = [example for part in parts for example in part.examples]
            yield Comparison(name, sum(p.rows for p in parts), sum(p.differ for p in parts), shown[:SHOWN])
        report("comparing fan_stages")
        yield self._compare_stages()

    def _slices(self) -> Iterator[dict[str, int]]:
        """Parameters of ``_WITHIN``. Fans are hashes, so ranges of them are about equal."""
        (count,), *_ = self._client.query(f"SELECT count() FROM {self._events}").result_rows
        parts = count // SLICE_EVENTS + 1
        bounds = [2**64 * part // parts for part in range(parts + 1)]
        for low, high in pairwise(bounds):
            yield {"low": low, "high": high - 1}

    def _wanted(self, name: str) -> str:
        return f"""
            WITH events AS
            (
                SELECT *, {_AS_OF} AS as_of FROM {self._events} WHERE {_WITHIN} AND {self._comparable}
            )
            SELECT * FROM ({twin(name)})
        """

    @property
    def _comparable(self) -> str:
        return f"({_PAIRS}) NOT IN (SELECT {_PAIRS} FROM {self._ahead} WHERE {_WITHIN})"

    def _compare_state(self, within: dict[str, int]) -> Comparison:
        # Of the last action the log tells only whether it came after the last unfollow of its day.
        followed = "arrayMap((last, unfollow) -> last > unfollow, lasts, unfollows) AS followed"
        recent = ", ".join(
            f"arrayFilter((each, day) -> toInt32(day) >= {_AS_OF} - 63, {column}, stored.days) AS {column}"
            for column in ("days", "firsts", "lasts", "unfollows")
        )
        columns = f"{_PAIRS}, first_at, days, firsts, unfollows, {followed}"
        told = "first_at > toDateTime64(0, 3) OR notEmpty(days)"
        stored = f"""
            SELECT {columns} FROM
            (
                SELECT {_PAIRS}, first_at, {recent} FROM {self._state} AS stored WHERE {_WITHIN} AND {self._comparable}
            )
            WHERE {told}
        """
        wanted = f"SELECT {columns} FROM ({self._wanted('fan_state')}) WHERE {told}"
        values = ("first_at", "days", "firsts", "unfollows", "followed")
        return self._compared("fan_state", stored, wanted, _PAIR, values, within)

    def _compare_moves(self, within: dict[str, int]) -> Comparison:
        keys, values = (*_PAIR, "day", "step"), ("from_stage", "to_stage", "at", "reason", "resurrected")
        stages = "toString(from_stage) AS from_stage, toString(to_stage) AS to_stage, at, reason, resurrected"
        stored = f"""
            SELECT {", ".join(keys)}, {stages} FROM {self._moves}
            WHERE withdrawn = 0 AND {_WITHIN} AND {self._comparable}
        """
        wanted = f"SELECT {', '.join((*keys, *values))} FROM ({self._wanted('fan_transitions')})"
        return self._compared("fan_transitions", stored, wanted, keys, values, within)

    def _compare_stages(self) -> Comparison:
        """Of each creator, on the last day of ``fan_stage_days``: all stages together, against those of the events who
        ever acted; no stage has ever had less than no fan. The views are looked at over the copied moves."""
        every, moves = {"low": 0, "high": 2**64 - 1}, self._name("fan_comparable")
        self._run(f"CREATE TABLE {moves} AS fan_transitions")
        self._run(f"INSERT INTO {moves} SELECT * FROM {self._moves} WHERE {_WITHIN} AND {self._comparable}", every)
        counted = self._view("fan_moves", {"fan_transitions": moves})
        days = self._view("fan_stage_days", {"fan_moves": counted})
        stored = f"""
            SELECT platform, creator_id, argMax(everyone, day) AS fans, min(fewest) < 0 AS negative
            FROM
            (
                SELECT platform, creator_id, day, sum(fans) AS everyone, min(fans) AS fewest
                FROM {days}
                GROUP BY platform, creator_id, day
            )
            GROUP BY platform, creator_id
        """
        wanted = f"""
            SELECT platform, creator_id, toInt64(uniqExact(partition, fan)) AS fans, 0 AS negative
            FROM {self._events}
            WHERE NOT has({{no_activity:Array(String)}}, kind) AND {_WITHIN} AND {self._comparable}
            GROUP BY platform, creator_id
        """
        return self._compared("fan_stages", stored, wanted, ("platform", "creator_id"), ("fans", "negative"), every)

    def _view(self, name: str, over: dict[str, str]) -> str:
        """A view like the one of that name, over other tables."""
        (text, database), *_ = self._client.query(
            "SELECT as_select, database FROM system.tables WHERE database = currentDatabase() AND name = {name:String}",
            parameters={"name": name},
        ).result_rows
        for table, copied in over.items():
            text = re.sub(rf"\b{database}\.{table}\b", f"{database}.{copied}", text)
        made = self._name(name)
        self._client.command(f"CREATE VIEW {made} AS {text}")
        return made

    def _compared(
        self,
        name: str,
        stored: str,
        wanted: str,
        keys: tuple[str, ...],
        values: tuple[str, ...],
        within: dict[str, int],
    ) -> Comparison:
        return compare_rows(self._client, name, stored, wanted, keys, values, self._parameters | within)

    def _run(self, statement: str, parameters: dict[str, Any] | None = None) -> None:
        self._client.command(statement, parameters=self._parameters | (parameters or {}))


_EVENTS = {
    "partition": "UInt16",
    "platform": "LowCardinality(String)",
    "creator_id": "String",
    "fan": "UInt64",
    "event_time": "DateTime64(3, 'UTC')",
    "day": "Date",
    "kind": "LowCardinality(String)",
}
_WITHIN = "fan BETWEEN {low:UInt64} AND {high:UInt64}"
_AS_OF = "transform(partition, {partitions:Array(UInt16)}, {as_of:Array(Int32)}, 0)"
