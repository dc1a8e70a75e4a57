"""The fan log as the comparison reads it, on messages made by hand."""

import io
from typing import Any

import orjson
import polars as pl
import pytest

from chaos.compare_fans import Fact, FanLog
from chaos.fans import calendar
from schemas.topics import SOURCES

DAY = 86_400_000
SCHEMA = {
    "offset": pl.Int64,
    "platform": pl.String,
    "creator_id": pl.String,
    "fan": pl.UInt64,
    "at": pl.Int64,
    "kind": pl.String,
}


def fact(offset: int, source: str = "gifts", at: int = DAY) -> Fact:
    return Fact(source, offset, "douyin", "c1", 7, at, "gift")


def message(*facts: Fact, source: str = "gifts", start: int = 0, upto: int = 10, reached: int | None = None) -> bytes:
    head: dict[str, Any] = {"source": source, "start": start, "next": upto, "reached": reached}
    body = io.BytesIO()
    if facts:
        pl.DataFrame([each[1:] for each in facts], schema=SCHEMA, orient="row").write_ipc_stream(body)
    return orjson.dumps(head) + b"\n" + body.getvalue()


def log() -> FanLog:
    return FanLog(calendar("Asia/Shanghai"))


def test_what_was_had_is_dropped_by_the_offset_of_its_source() -> None:
    found = log()
    assert found.read(message(fact(3), fact(9))) == [fact(3), fact(9)]
    assert found.read(message(fact(3), fact(12), start=2, upto=13)) == [fact(3), fact(12)]
    found.read(message(fact(3), upto=5))
    found.read(message(fact(3, "orders"), source="orders", upto=4))
    assert found.facts == [fact(3), fact(9), fact(12), fact(3, "orders")]
    assert found.inputs == {"gifts": (13, None), "orders": (4, None)}


def test_repaired_facts_are_always_taken_and_are_no_source() -> None:
    found = log()
    for _ in range(2):
        found.read(message(fact(3, "repair"), source="repair", upto=0))
    assert found.facts == [fact(3, "repair")] * 2
    assert found.inputs == {}


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        ([message(start=1)], "a gap: gifts goes on at 1, 0 was to come"),
        ([message(upto=5), message(start=6)], "a gap: gifts goes on at 6, 5 was to come"),
        ([message(fact(10))], "a fact that is not from 0 to before 10"),
        ([message(fact(4), start=5)], "a gap"),
        ([message(upto=5), message(fact(4), start=5)], "a fact that is not from 5"),
        ([message(start=0, upto=-1)], "not from 0"),
    ],
)
def test_a_message_that_does_not_follow_is_told(messages: list[bytes], said: str) -> None:
    found = log()
    for each in messages[:-1]:
        found.read(each)
    with pytest.raises(ValueError, match=said):
        found.read(messages[-1])


def test_the_day_is_that_of_the_slowest_source_and_one_that_begins_late_is_where_the_others_are() -> None:
    found = log()
    late = 16 * 3_600_000  # midnight in Shanghai
    for source in SOURCES[:3]:
        found.read(message(source=source, upto=1, reached=5 * DAY + late))
    assert found.day is None
    found.read(message(source=SOURCES[3], upto=0))
    assert found.day == 6
    found.read(message(source=SOURCES[3], upto=2, reached=3 * DAY))
    assert (found.day, found.lowest()) == (6, 6)
    found.read(message(source=SOURCES[3], start=2, upto=2, reached=9 * DAY))
    found.read(message(source=SOURCES[3], start=2, upto=2, reached=DAY))
    assert (found.day, found.lowest()) == (6, 6)
    for source in SOURCES[:3]:
        found.read(message(source=source, start=1, upto=1, reached=7 * DAY + late - 1))
    assert found.day == 7
