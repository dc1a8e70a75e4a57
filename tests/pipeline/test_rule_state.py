"""What agent rules is restored from, while another worker goes on writing it."""

from typing import Any, cast

import polars as pl
import pytest
from clickhouse_connect.driver.client import Client

from infra.errors import InfraError
from pipeline.campaign_log import MEASURES
from pipeline.recovery import rule_state
from pipeline.sink import transient

MINUTE = 60_000
NOW = 1_768_881_600_000
COLUMNS: dict[str, Any] = {
    "kind": pl.String, "minute": pl.Int64, "platform": pl.String, "campaign_id": pl.String, "ad_group_id": pl.String,
    "rule_id": pl.String, "source": pl.UInt16, "numbers": pl.List(pl.Int64), "text": pl.String, "applied": pl.Int64,
}  # fmt: skip


class Answer:
    def __init__(self, value: int) -> None:
        self.result_rows = [(value,)]


class Table:
    """The table, and a worker that was thought dead: ``late`` of its flushes land, each after the next first question
    of a restoration. A flush is one message: a minute, and how far source 0 is."""

    def __init__(self, late: int, empty: bool = False) -> None:
        self.offset = 40
        self.late = late
        self.empty = empty
        self.since: list[int] = []

    def query_arrow(self, query: str, parameters: dict[str, Any], use_strings: bool) -> Any:
        if "kind != 'minute'" in query:
            closed = NOW + self.offset * MINUTE
            rows: list[tuple[Any, ...]] = [
                ("input", 0, "", "", "", "", 0, [self.offset, closed, NOW], "", self.offset),
                ("closed", 0, "", "", "", "", 0, [closed], "", self.offset),
            ]
            if self.empty:
                rows.append(("input", 0, "", "", "", "", 1, [0, None, None], "", 3))
            found = pl.DataFrame(rows, schema=COLUMNS, orient="row")
            if self.late:
                self.late, self.offset = self.late - 1, self.offset + 1
        elif "SELECT kind" in query:
            self.since.append(parameters["since"])
            row = ("minute", NOW + self.offset * MINUTE, "douyin", "k", "g", "", 0, [1] * 6, "", self.offset)
            found = pl.DataFrame([row], schema=COLUMNS, orient="row")
        else:
            names = dict.fromkeys(("platform", "campaign_id", "ad_group_id"), pl.String)
            sums = ("douyin", "k", "g", NOW, self.offset, *[0] * 5)
            found = pl.DataFrame(
                [sums], schema=names | {"begin": pl.Int64} | dict.fromkeys(MEASURES, pl.Int64), orient="row"
            )
        return found.to_arrow()

    def query(self, query: str, parameters: dict[str, Any]) -> Answer:
        return Answer(self.offset)


@pytest.mark.parametrize("late", [0, 1, 3])
def test_a_flush_that_lands_between_two_questions_has_all_asked_again(late: int) -> None:
    """Else minutes of message 41 would stand beside the time of message 40, and that message would be passed: what it
    closed would never be decided on."""
    rows, minutes = rule_state(cast(Client, Table(late)), 0, 1)
    assert set(rows["applied"]) == {40 + late}
    assert minutes["impressions"].to_list() == [40 + late]


def test_two_fleets_that_write_all_the_time_are_waited_for() -> None:
    with pytest.raises(InfraError, match="another worker") as raised:
        rule_state(cast(Client, Table(10**9)), 0, 1)
    assert transient(raised.value)


def test_a_partition_without_events_has_no_old_minutes_read() -> None:
    table = Table(0, empty=True)
    rule_state(cast(Client, table), 0, 1)
    assert table.since == [NOW // 1000 - 60]
