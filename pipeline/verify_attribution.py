"""Attributions against their definition in SQL."""

from collections.abc import Callable, Iterator
from typing import Any

from clickhouse_connect.driver.client import Client

from infra.settings import Settings
from pipeline.attribution_twin import (
    CONVERSIONS,
    KEY,
    KEYS,
    SETTLED,
    TOUCHES,
    VALUES,
    AttributionCut,
    told,
    wanted,
    windows,
)
from pipeline.comparison import SHOWN, Comparison, compare_rows
from pipeline.fan_twins import SLICE_EVENTS, WITHIN, slices
from pipeline.touch_log import KINDS
from pipeline.twin import UNTIL, limits


class AttributionTables:
    """Copies of the tables of attribution, and the events that they should have been made of: in tables named by
    ``name``.

    Rows of the stream are compared at the checkpoint of their agent; a conversion whose row is ahead of it is left out,
    and so is one that the stream left to repair. Rows of repair are compared as things are now: where a touch that came
    in time came after the repair of a late conversion, they differ, and the days are to be repaired again.
    """

    def __init__(self, client: Client, settings: Settings, cut: AttributionCut, name: Callable[[str], str]) -> None:
        self._client = client
        self._cut = cut
        self._parameters: dict[str, Any] = {
            **limits(cut.next_offset),
            **windows(settings),
            "version": cut.version,
        }
        self._rows, self._late = name("attributions"), name("late_touches")
        self._conversions, self._touches = name("conversions"), name("touches")

    def copy(self) -> None:
        """Takes the tables as they are."""
        for table, copied in (("attributions", self._rows), ("late_touches", self._late)):
            self._run(
                f"CREATE TABLE {copied} ENGINE = MergeTree ORDER BY fan AS SELECT * FROM {table} FINAL "
                "WHERE fold_version = {version:UInt16}"
            )
        for table, columns in ((self._conversions, CONVERSIONS), (self._touches, TOUCHES)):
            own = columns | {"told": "UInt8", "late": "UInt8"}
            self._run(
                f"CREATE TABLE {table} ({', '.join(f'{name} {kind}' for name, kind in own.items())}) "
                "ENGINE = MergeTree ORDER BY fan"
            )

    def add(self, topic: str, judged: str) -> None:
        """Takes what counts from a topic's judged records (see ``twin.judge``)."""
        if topic not in KINDS:
            return
        into = self._touches if topic == "ad_events" else self._conversions
        columns = ", ".join(TOUCHES if topic == "ad_events" else CONVERSIONS)
        for late, which in enumerate(("is_late = 0 AND is_duplicate = 0", SETTLED)):
            self._run(
                f"INSERT INTO {into} SELECT {columns}, `offset` < {UNTIL}, {late} "
                f"FROM ({told(topic, f'{judged} WHERE {which}')})",
                limits(self._cut.upto(topic)),
            )

    def compare(self, report: Callable[[str], None]) -> Iterator[Comparison]:
        """The tables against what they should be."""
        report("comparing attributions")
        (count,), *_ = self._client.query(f"SELECT count() FROM {self._touches}").result_rows
        parts = [self._compare(within) for within in slices(count // SLICE_EVENTS + 1)]
        shown = [example for part in parts for example in part.examples]
        yield Comparison("attributions", sum(p.rows for p in parts), sum(p.differ for p in parts), shown[:SHOWN])
        report("comparing late_touches")
        yield self._compare_late()

    def _compare(self, within: dict[str, int]) -> Comparison:
        beyond = f"SELECT {KEYS} FROM {self._rows} WHERE beyond = 1"
        ahead = f"SELECT {KEYS} FROM {self._rows} WHERE origin = 'stream' AND applied >= {UNTIL}"
        comparable = f"({KEYS}) NOT IN ({beyond} UNION ALL {ahead})"
        repaired = f"({KEYS}) IN (SELECT {KEYS} FROM {self._rows} WHERE origin = 'repair') AND ({KEYS}) IN ({beyond})"
        columns = ", ".join((*KEY, *VALUES))
        stored = f"""
            SELECT origin, {columns} FROM {self._rows}
            WHERE {WITHIN} AND (origin = 'repair' OR {comparable})
        """
        in_time = wanted(
            f"SELECT * FROM {self._conversions} WHERE {WITHIN} AND late = 0 AND told = 1 AND {comparable}",
            f"SELECT * FROM {self._touches} WHERE {WITHIN} AND late = 0 AND told = 1 "
            f"AND (partition, `offset`) NOT IN (SELECT partition, `offset` FROM {self._late})",
        )
        late = wanted(
            f"SELECT * FROM {self._conversions} WHERE {WITHIN} AND (late = 1 OR {repaired})",
            f"SELECT * FROM {self._touches} WHERE {WITHIN} AND late = 0",
        )
        computed = f"SELECT 'stream' AS origin, * FROM ({in_time}) UNION ALL SELECT 'repair' AS origin, * FROM ({late})"
        parameters = self._parameters | within
        return compare_rows(self._client, "attributions", stored, computed, ("origin", *KEY), VALUES, parameters)

    def _compare_late(self) -> Comparison:
        """Late touches that a repair took in; those that came in time, to a topic given up, are only there."""
        columns = tuple(TOUCHES)
        stored = f"""
            SELECT {", ".join(columns)} FROM {self._late}
            WHERE (partition, `offset`) NOT IN (SELECT partition, `offset` FROM {self._touches} WHERE late = 0)
        """
        computed = f"SELECT {', '.join(columns)} FROM {self._touches} WHERE late = 1"
        return compare_rows(self._client, "late_touches", stored, computed, columns[:2], columns[2:], self._parameters)

    def _run(self, statement: str, parameters: dict[str, Any] | None = None) -> None:
        self._client.command(statement, parameters=self._parameters | (parameters or {}))
