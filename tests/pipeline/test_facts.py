"""What becomes a fact: few, yet enough to know each day's first action, last unfollow, and if an action came after."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, datetime
from zoneinfo import ZoneInfo

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import fan_log
from pipeline.folds.facts import Facts

ZONE = ZoneInfo("Asia/Shanghai")
START = int(datetime(2025, 6, 1, 22, 30, tzinfo=ZONE).timestamp() * 1000)
HOUR = 3_600_000
EPOCH = date(1970, 1, 1).toordinal()
NO_ACTIVITY = ("impression", "refunded", "unfollow", "product_exposure")


@dataclass(frozen=True)
class Event:
    """An event that counts."""

    offset: int
    fan: int
    creator: str
    at: int
    kind: str


def rows(events: Iterable[Event]) -> pl.DataFrame:
    listed = list(events)
    return pl.DataFrame(
        {
            "offset": [e.offset for e in listed],
            "platform": ["douyin" for _ in listed],
            "creator_id": [e.creator for e in listed],
            "fan": [e.fan for e in listed],
            "event_time": [e.at for e in listed],
            "kind": [e.kind for e in listed],
            "late": [0 for _ in listed],
            "duplicate": [0 for _ in listed],
        },
        schema={
            "offset": pl.Int64,
            "platform": pl.String,
            "creator_id": pl.String,
            "fan": pl.UInt64,
            "event_time": pl.Int64,
            "kind": pl.String,
            "late": pl.UInt8,
            "duplicate": pl.UInt8,
        },
    )


Days = dict[tuple[int, str, int], tuple[int | None, int | None, bool]]


def days(events: Iterable[tuple[int, str, int, str]]) -> Days:
    """Of every fan, creator and day: first action, last unfollow, and whether an action came after that."""
    actions: dict[tuple[int, str, int], list[int]] = {}
    unfollows: dict[tuple[int, str, int], list[int]] = {}
    for fan, creator, at, kind in events:
        day = datetime.fromtimestamp(at / 1000, ZONE).toordinal()
        if kind == "unfollow":
            unfollows.setdefault((fan, creator, day), []).append(at)
        elif kind not in NO_ACTIVITY:
            actions.setdefault((fan, creator, day), []).append(at)
    found = {}
    for key in actions.keys() | unfollows.keys():
        left = max(unfollows.get(key, [0])) or None
        own = actions.get(key, [])
        found[key] = (min(own, default=None), left, left is not None and max(own, default=0) > left)
    return found


def known(fold_events: list[Event]) -> pl.DataFrame:
    """What recovery reads of stored events, for ``Facts.remember``."""
    found: dict[tuple[int, str, int], list[Event]] = {}
    for e in fold_events:
        if e.kind == "unfollow" or e.kind not in NO_ACTIVITY:
            day = datetime.fromtimestamp(e.at / 1000, ZONE).date().toordinal() - EPOCH
            found.setdefault((e.fan, e.creator, day), []).append(e)
    listed = []
    for (fan, creator, day), own in found.items():
        actions = [e for e in own if e.kind != "unfollow"]
        last = max(actions, key=lambda e: e.at, default=None)
        left = [e.at for e in own if e.kind == "unfollow"]
        first = min((e.at for e in actions), default=None)
        listed.append(
            ("douyin", creator, fan, day, first, last and last.at, last and last.kind, max(left, default=None))
        )
    return pl.DataFrame(
        listed,
        schema={
            "platform": pl.String,
            "creator_id": pl.String,
            "fan": pl.UInt64,
            "day": pl.Int32,
            "first": pl.Int64,
            "last": pl.Int64,
            "last_kind": pl.String,
            "unfollow": pl.Int64,
        },
        orient="row",
    )


KINDS = ["view", "like", "unfollow", "unfollow", "product_exposure", "follow"]


@st.composite
def histories(draw: st.DrawFn) -> list[Event]:
    times = draw(st.lists(st.integers(0, 8), min_size=1, max_size=40))
    return [
        Event(
            offset,
            draw(st.integers(1, 2)),
            draw(st.sampled_from(["a", "b"])),
            # Forward by and by, and up to two hours back.
            START + offset * HOUR // 4 - back * HOUR // 4,
            draw(st.sampled_from(KINDS)),
        )
        for offset, back in enumerate(times)
    ]


@settings(max_examples=300, deadline=None)
@given(histories(), st.data())
def test_facts_are_enough(events: list[Event], data: st.DataObject) -> None:
    """Over any blocks, flushes and restarts, also such as send again what was sent."""
    facts: list[tuple[int, str, int, str]] = []
    at, told, sent = 0, 0, 0
    fold = Facts("db", "interactions", 3, ZONE.key, NO_ACTIVITY)
    while at < len(events):
        upto = data.draw(st.integers(at + 1, len(events)))
        fold.apply(rows(events[at:upto]))
        at = upto
        newest = max(e.at for e in events[:at])
        what = data.draw(st.sampled_from(["go on", "flush", "crash"]))
        if what == "go on" and at < len(events):
            continue
        for output in fold.outputs(told, at, newest):
            message = fan_log.decode(output.value)
            assert (output.topic, output.partition, message.source) == ("fan_facts", 3, "interactions")
            assert message.start <= sent <= message.next or message.next <= sent
            new = message.facts.filter(pl.col("offset") >= sent)
            facts += new.select("fan", "creator_id", "at", "kind").rows()
            sent = max(sent, message.next)
        oldest = newest - 2 * HOUR
        if what == "crash":
            # The fan log has the message, the checkpoint does not tell of it.
            at = told
            fold = Facts("db", "interactions", 3, ZONE.key, NO_ACTIVITY)
            stored = [e for e in events[:told] if e.at >= max((x.at for x in events[:told]), default=0) - 2 * HOUR]
            fold.remember(known(stored))
            upto = sent
            fold.apply(rows(events[at:upto]))
            fold.outputs(told, upto, newest)
            at = upto
        else:
            fold.evict(oldest)
        told = at
    assert sent == len(events)
    assert days(facts) == days((e.fan, e.creator, e.at, e.kind) for e in events)
    truth = {(e.fan, e.creator, e.at, e.kind) for e in events}
    assert set(facts) <= truth


def test_a_busy_fan_is_a_few_facts() -> None:
    fold = Facts("db", "interactions", 0, ZONE.key, NO_ACTIVITY)
    events = [Event(n, n % 10, "a", START + n, "like") for n in range(10_000)]
    for first in range(0, len(events), 1000):
        fold.apply(rows(events[first : first + 1000]))
    (output,) = fold.outputs(0, 10_000, START)
    assert len(fan_log.decode(output.value).facts) == 10
    assert len(fold) == 10
    fold.evict(START + HOUR)
    assert len(fold) == 0


@pytest.mark.parametrize(
    ("topic", "kinds", "told"),
    [
        ("gifts", ["gift", "guard"], ["gift", "guard"]),
        ("orders", ["paid", "refunded", "paid"], ["paid", "refunded", "paid"]),
        ("ad_events", ["impression", "click", "impression", "play"], ["click", "play"]),
    ],
)
def test_other_topics_are_told_whole_but_impressions(topic: str, kinds: list[str], told: list[str]) -> None:
    fold = Facts("db", topic, 0, ZONE.key, NO_ACTIVITY)
    events = [Event(n, 1, "a", START + n, kind) for n, kind in enumerate(kinds)]
    late = rows([Event(90, 1, "a", START, kinds[0])]).with_columns(pl.lit(1, pl.UInt8).alias("late"))
    repeat = rows([Event(91, 1, "a", START, kinds[0])]).with_columns(pl.lit(1, pl.UInt8).alias("duplicate"))
    fold.apply(pl.concat([rows(events), late, repeat]))
    (output,) = fold.outputs(0, 92, START)
    message = fan_log.decode(output.value)
    assert (message.start, message.next, message.reached) == (0, 92, START)
    assert message.facts["kind"].to_list() == told


def test_days_are_told_once() -> None:
    fold = Facts("db", "gifts", 0, ZONE.key, NO_ACTIVITY)
    assert fold.due(None)
    assert len(fold.outputs(5, 5, None)) == 1
    assert not fold.due(None)
    assert fold.due(START)
    assert fan_log.decode(fold.outputs(5, 5, START)[0].value).reached == START
    assert not fold.due(START + HOUR)
    assert fold.due(START + 2 * HOUR)
    assert fold.outputs(5, 4, START) == [], "read again from before the checkpoint"
