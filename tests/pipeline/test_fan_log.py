"""The fan log: messages written and read, what was sent twice, and the day that all sources have reached."""

from datetime import datetime
from zoneinfo import ZoneInfo

import numpy as np
import polars as pl
import pytest

from pipeline import fan_log
from pipeline.block import Block
from pipeline.fan_log import FanLog, Input
from pipeline.fold import Fold
from pipeline.log import Batch, Broken
from pipeline.transport import Delivery
from pipeline.verdict import AHEAD_MS
from schemas.topics import SOURCES

ZONE = "Asia/Shanghai"
DAY = 86_400_000
MIDNIGHT = int(datetime(2025, 6, 2, tzinfo=ZoneInfo(ZONE)).timestamp() * 1000)


class Kept(Fold):
    """Rows as they come."""

    def __init__(self) -> None:
        self.rows: list[pl.DataFrame] = []

    def apply(self, rows: pl.DataFrame) -> None:
        self.rows.append(rows)

    def take(self) -> dict[str, pl.DataFrame]:
        return {}


def facts(*offsets: int, at: int = MIDNIGHT) -> pl.DataFrame:
    return pl.DataFrame(
        [(offset, "douyin", "c", 7, at, "like") for offset in offsets], schema=fan_log.SCHEMA, orient="row"
    )


def batch(log: FanLog, *messages: bytes, appended: int = 1 << 50) -> Batch:
    """Reads messages as one block, appended at that time."""
    begin = log.position
    offsets = np.arange(begin, begin + len(messages))
    times = np.full(len(messages), appended)
    return log.read(Delivery(Block("fan_facts", 0, begin, begin + len(messages), offsets, times, [*messages]), log))


def read(log: FanLog, *messages: bytes) -> list[tuple[int, str, int, str, int]]:
    """Reads messages as one block; rows as (applied, source, offset, kind, day)."""
    found = batch(log, *messages)
    assert dict(found.rows.schema) == fan_log.ROWS
    assert found.inputs
    return log.share("kept", found).select("applied", "source", "offset", "kind", "day").rows()


def log(own: int = 0, position: int = 0, inputs: dict[str, Input] | None = None) -> FanLog:
    return FanLog(0, "db", ZONE, {"kept": Kept()}, {"kept": own}, position, inputs or {})


def one(source: str, start: int, upto: int, reached: int | None, *offsets: int, database: str = "db") -> bytes:
    (message,) = fan_log.encode(database, source, start, upto, reached, [(upto, facts(*offsets))])
    return message


def test_messages_cover_whole_parts_and_say_the_time_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fan_log, "MESSAGE_FACTS", 2)
    parts = [(5, facts(4)), (6, facts(5)), (10, facts(9, 9, 9)), (13, facts(12))]
    found = [fan_log.decode(m) for m in fan_log.encode("db", "gifts", 3, 20, 99, parts)]
    assert [(m.start, m.next, m.reached, m.facts["offset"].to_list()) for m in found] == [
        (3, 6, None, [4, 5]),
        (6, 6, None, [9, 9]),
        (6, 10, None, [9]),
        (10, 20, 99, [12]),
    ]
    (empty,) = fan_log.encode("db", "gifts", 3, 3, 5, [])
    message = fan_log.decode(empty)
    assert (message.start, message.next, message.reached, len(message.facts)) == (3, 3, 5, 0)


def test_a_clock_that_is_far_ahead_moves_nobody_there() -> None:
    day = 86_400_000
    messages = [one(source, 0, 1, 40_000 * day) for source in SOURCES]
    inputs = batch(log(), *messages, appended=20_000 * day).inputs
    assert {each.reached for each in fan_log.read_inputs(inputs).values()} == {20_000 * day + AHEAD_MS}


def test_what_was_sent_twice_is_dropped_and_a_gap_is_noticed() -> None:
    own = log()
    assert [row[2] for row in read(own, one("gifts", 4, 9, None, 4, 8), one("gifts", 4, 7, None, 4, 6))] == [4, 8]
    assert [row[2] for row in read(own, one("gifts", 4, 12, None, 4, 8, 9, 11), one("orders", 1, 2, None, 1))] == [
        9,
        11,
        1,
    ]
    with pytest.raises(Broken, match=r"a message of gifts begins at 13, but 12 was to come"):
        read(own, one("gifts", 13, 14, None, 13))


def test_what_workers_of_another_database_sent_is_not_read() -> None:
    own = log()
    assert read(own, one("gifts", 50, 60, None, 50, database="other"), one("gifts", 4, 5, None, 4))[0][2] == 4


def test_repairs_are_always_taken() -> None:
    own = log()
    read(own, *(one(source, 0, 9, MIDNIGHT + 1, 0) for source in SOURCES))
    for _ in range(2):
        assert [row[1:3] for row in read(own, one("repair", 0, 0, None, 5, 2))] == [("repair", 5), ("repair", 2)]


def test_a_day_comes_when_all_sources_have_reached_it() -> None:
    own = log()
    quiet, *others = SOURCES
    reached = dict.fromkeys(others, MIDNIGHT - 1)
    assert read(own, *(one(source, 0, 1, at) for source, at in reached.items())) == []
    # It has had no event: it is heard of, and holds nobody back.
    assert [row[3:] for row in read(own, one(quiet, 0, 0, None))] == [("", MIDNIGHT // DAY)]
    assert read(own, one(others[0], 1, 2, MIDNIGHT + DAY), one(others[1], 1, 2, MIDNIGHT)) == []
    rows = read(own, one(others[1], 2, 3, MIDNIGHT, 2), one(others[2], 1, 2, MIDNIGHT), one(others[2], 2, 3, None, 2))
    assert [row[3:] for row in rows] == [
        ("like", MIDNIGHT // DAY + 1),
        ("", MIDNIGHT // DAY + 1),
        ("like", MIDNIGHT // DAY + 1),
    ]
    # Time never goes back.
    assert read(own, *(one(source, 0, 3, MIDNIGHT - DAY) for source in others)) == []


def test_a_source_that_begins_with_the_past_takes_the_day_back_for_nobody() -> None:
    own = log()
    quiet, *others = SOURCES
    read(own, one(quiet, 0, 0, None), *(one(source, 0, 1, MIDNIGHT) for source in others))
    block = Block("fan_facts", 0, 4, 5, np.array([4]), np.array([0]), [one(quiet, 0, 9, MIDNIGHT - 5 * DAY, 3)])
    inputs = fan_log.read_inputs(own.read(Delivery(block, own)).inputs)
    assert inputs[quiet] == Input(9, MIDNIGHT)
    assert fan_log.as_of(inputs, ZoneInfo(ZONE)) == MIDNIGHT // DAY + 1


def test_it_goes_on_from_its_checkpoint() -> None:
    own = log()
    read(own, *(one(source, 0, 5, MIDNIGHT, 0, 4) for source in SOURCES))
    inputs = fan_log.read_inputs(fan_log.write_inputs({source: Input(5, MIDNIGHT) for source in SOURCES}))
    again = log(4, 4, inputs)
    assert read(again, one("gifts", 0, 7, MIDNIGHT, 0, 4, 6)) == [(4, "gifts", 6, "like", MIDNIGHT // DAY + 1)]
    assert fan_log.as_of(inputs, ZoneInfo(ZONE)) == MIDNIGHT // DAY + 1
    assert fan_log.as_of({}, ZoneInfo(ZONE)) is None
    assert fan_log.read_inputs("") == {}


@pytest.mark.parametrize("value", [None, b"", b"{}", b"[]\n", b'{"source":"gifts","start":0,"next":1}\nno', b"\xff"])
def test_what_is_no_message_is_named(value: bytes | None) -> None:
    own = log(0, 7)
    block = Block("fan_facts", 0, 7, 8, np.array([7]), np.array([0]), [value])
    with pytest.raises(Broken, match=r"fan_facts\[0\]: offset 7 is no message of the fan log"):
        own.read(Delivery(block, own))


def test_another_database_may_say_what_this_version_cannot_read() -> None:
    newer = b'{"database":"another","source":"something new"}\nno'
    assert read(log(), newer, one("gifts", 0, 1, None, 0)) == [(1, "gifts", 0, "like", MIDNIGHT // DAY + 1)]
