"""State and moves of fans against their definition in SQL."""

import re
from collections.abc import Callable, Iterator

from clickhouse_connect.driver.client import Client

from infra.settings import Settings
from pipeline.comparison import SHOWN, Comparison, compare_rows
from pipeline.fan_twins import AS_OF, PAIR, PAIRS, WITHIN, FanCut, FanTwins
from pipeline.twin import UNTIL

LOOKS = 3
"""How often figures are compared that may change meanwhile."""


class FanTables:
    """Copies of the tables of fans, and the events that they should have been made of: in tables named by ``name``.

    A pair of fan and creator is left out if a row of it is ahead of the checkpoint, since of the facts between the two
    only Kafka knows; and if it was told of an event too old to be counted in (``fan_state.too_old``), since what is not
    counted in cannot be told from the events. All other pairs are compared whole, every move that they ever made
    included, and of their days the last 64.
    """

    def __init__(self, client: Client, settings: Settings, cut: FanCut, name: Callable[[str], str]) -> None:
        self._client = client
        self._twins = FanTwins(client, settings, cut, name)
        self._parameters = self._twins.parameters
        self._state, self._moves = name("fan_state"), name("fan_transitions")
        self._ahead, self._name = name("fan_ahead"), name

    def copy(self) -> None:
        """Takes the tables as they are."""
        for table, copied in (("fan_state", self._state), ("fan_transitions", self._moves)):
            self._twins.run(
                f"CREATE TABLE {copied} ENGINE = MergeTree ORDER BY fan AS SELECT * FROM {table} FINAL "
                "WHERE fold_version = {version:UInt16}"
            )
        self._twins.run(
            f"CREATE TABLE {self._ahead} ENGINE = MergeTree ORDER BY fan AS "
            f"SELECT {PAIRS} FROM {self._state} WHERE applied >= {UNTIL} OR too_old > 0 "
            f"UNION DISTINCT SELECT {PAIRS} FROM {self._moves} WHERE applied >= {UNTIL}"
        )

    def add(self, topic: str, judged: str) -> None:
        """Takes the events that count from a topic's judged records (see ``twin.judge``)."""
        self._twins.add(topic, judged)

    def compare(self, report: Callable[[str], None]) -> Iterator[Comparison]:
        """The tables against their twins, and the stages of a creator's fans against the fans that there are."""
        for compared in (self._compare_state, self._compare_moves):
            name = "fan_state" if compared == self._compare_state else "fan_transitions"
            report(f"comparing {name}")
            parts = [compared(within) for within in self._twins.slices()]
            shown = [example for part in parts for example in part.examples]
            yield Comparison(name, sum(p.rows for p in parts), sum(p.differ for p in parts), shown[:SHOWN])
        report("comparing fan_stages")
        yield self._compare_stages()
        report("comparing fan_moves")
        yield self._compare_counted()

    def _wanted(self, name: str) -> str:
        return self._twins.wanted(name, self._comparable)

    @property
    def _comparable(self) -> str:
        return f"({PAIRS}) NOT IN (SELECT {PAIRS} FROM {self._ahead} WHERE {WITHIN})"

    def _compare_state(self, within: dict[str, int]) -> Comparison:
        # Of the last action the log tells only whether it came after the last unfollow of its day.
        followed = "arrayMap((last, unfollow) -> last > unfollow, lasts, unfollows) AS followed"
        recent = ", ".join(
            f"arrayFilter((each, day) -> toInt32(day) >= {AS_OF} - {{earlier:Int32}}, {column}, stored.days) "
            f"AS {column}"
            for column in ("days", "firsts", "lasts", "unfollows")
        )
        columns = f"{PAIRS}, first_at, days, firsts, unfollows, {followed}"
        told = "first_at > toDateTime64(0, 3) OR notEmpty(days)"
        stored = f"""
            SELECT {columns} FROM
            (
                SELECT {PAIRS}, first_at, {recent} FROM {self._state} AS stored WHERE {WITHIN} AND {self._comparable}
            )
            WHERE {told}
        """
        wanted = f"SELECT {columns} FROM ({self._wanted('fan_state')}) WHERE {told}"
        values = ("first_at", "days", "firsts", "unfollows", "followed")
        return self._compared("fan_state", stored, wanted, PAIR, values, within)

    def _compare_moves(self, within: dict[str, int]) -> Comparison:
        keys, values = (*PAIR, "day", "step"), ("from_stage", "to_stage", "at", "reason", "resurrected")
        stages = "toString(from_stage) AS from_stage, toString(to_stage) AS to_stage, at, reason, resurrected"
        stored = f"""
            SELECT {", ".join(keys)}, {stages} FROM {self._moves}
            WHERE withdrawn = 0 AND {WITHIN} AND {self._comparable}
        """
        wanted = f"SELECT {', '.join((*keys, *values))} FROM ({self._wanted('fan_transitions')})"
        return self._compared("fan_transitions", stored, wanted, keys, values, within)

    def _compare_stages(self) -> Comparison:
        """Of each creator, on the last day of ``fan_stage_days``: all stages together, against those of the events who
        ever acted; no stage has ever had less than no fan. The views are looked at over the copied moves."""
        every, moves = {"low": 0, "high": 2**64 - 1}, self._name("fan_comparable")
        self._twins.run(f"CREATE TABLE {moves} AS fan_transitions")
        self._twins.run(f"INSERT INTO {moves} SELECT * FROM {self._moves} WHERE {WITHIN} AND {self._comparable}", every)
        counted = self._view("fan_moves_uncounted", {"fan_transitions": moves})
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
            FROM {self._twins.events}
            WHERE NOT has({{no_activity:Array(String)}}, kind) AND {WITHIN} AND {self._comparable}
            GROUP BY platform, creator_id
        """
        return self._compared("fan_stages", stored, wanted, ("platform", "creator_id"), ("fans", "negative"), every)

    def _compare_counted(self) -> Comparison:
        """What is counted of days of moves against the moves. What is written in between may show once, but not
        always."""
        keys = ("platform", "creator_id", "day", "step", "from_stage", "to_stage", "reason", "resurrected")
        texts = "platform, creator_id, day, step, toString(from_stage) AS from_stage, toString(to_stage) AS to_stage"
        stored, wanted = (
            f"SELECT {texts}, reason, resurrected, fans FROM {view}" for view in ("fan_moves", "fan_moves_uncounted")
        )
        for _ in range(LOOKS):
            found = self._compared("fan_moves", stored, wanted, keys, ("fans",), {})
            if not found.differ:
                break
        return found

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
