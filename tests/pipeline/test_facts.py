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
    """An event, the first of its kind; a late one counts when it is repaired."""

    offset: int
    fan: int
    creator: str
    at: int
    kind: str
    late: bool = False


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
            "late": [int(e.late) for e in listed],
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


HORIZON = 2 * HOUR


@st.composite
def histories(draw: st.DrawFn) -> list[Event]:
    events: list[Event] = []
    newest = START
    for offset, back in enumerate(draw(st.lists(st.integers(0, 24), min_size=1, max_size=40))):
        # Forward by and by, and back, within the horizon and beyond it.
        at = START + offset * HOUR // 4 - back * HOUR // 4
        newest = max(newest, at)
        events.append(
            Event(
                offset,
                draw(st.integers(1, 2)),
                draw(st.sampled_from(["a", "b"])),
                at,
                draw(st.sampled_from(KINDS)),
                at < newest - HORIZON,
            )
        )
    return events


def repaired(events: list[Event]) -> list[Event]:
    """What a repair tells: late events, and the last action of each day that has a late unfollow."""

    def day(e: Event) -> tuple[int, str, int]:
        return e.fan, e.creator, datetime.fromtimestamp(e.at / 1000, ZONE).toordinal()

    left = {day(e) for e in events if e.late and e.kind == "unfollow"}
    last: dict[tuple[int, str, int], Event] = {}
    for e in sorted(events, key=lambda e: e.at):
        if day(e) in left and e.kind not in NO_ACTIVITY:
            last[day(e)] = e
    return [e for e in events if e.late] + list(last.values())


@settings(max_examples=400, deadline=None)
@given(histories(), st.integers(1, 8), st.data())
def test_facts_are_enough(events: list[Event], most: int, data: st.DataObject) -> None:
    """Over any blocks, messages, flushes and crashes, after which all is told again, cut otherwise; with a repair."""
    facts: list[tuple[int, str, int, str]] = []
    at, told, sent, crashes = 0, 0, 0, 0
    repair_at = data.draw(st.integers(0, len(events)))
    fold = Facts("db", "interactions", 3, ZONE.key, NO_ACTIVITY)
    while at < len(events):
        upto = data.draw(st.integers(at + 1, len(events)))
        fold.apply(rows(events[at:upto]))
        at = upto
        newest = max(e.at for e in events[:at])
        what = data.draw(st.sampled_from(["go on", "flush", "crash" if crashes < 4 else "flush"]))
        if what == "go on" and at < len(events):
            continue
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(fan_log, "MESSAGE_FACTS", most)
            messages = fold.outputs(told, at, newest)
        # The worker may end before it has sent all.
        for output in messages[: data.draw(st.integers(0, len(messages)))] if what == "crash" else messages:
            message = fan_log.decode(output.value)
            assert (output.topic, output.partition, message.source) == ("fan_facts", 3, "interactions")
            assert message.start <= sent <= message.next or message.next <= sent
            assert len(message.facts) <= most
            new = message.facts.filter(pl.col("offset") >= sent)
            facts += new.select("fan", "creator_id", "at", "kind").rows()
            sent = max(sent, message.next)
        if what == "crash":
            crashes += 1
            at = told
            fold = Facts("db", "interactions", 3, ZONE.key, NO_ACTIVITY)
            least = max((x.at for x in events[:told]), default=0) - HORIZON
            fold.remember(known([e for e in events[:told] if e.at >= least and not e.late]))
        else:
            fold.evict(newest - HORIZON)
            told = at
    assert sent == len(events)
    on_time = [(e.fan, e.creator, e.at, e.kind) for e in events if not e.late]
    assert days(facts) == days(on_time)
    assert set(facts) <= set(on_time)
    # The late unfollows that it took in are among the events below ``repair_at``; what came later is told by the fold.
    late = [e for e in events[:repair_at] if e.late]
    facts += [(e.fan, e.creator, e.at, e.kind) for e in repaired(events[:repair_at])]
    assert days(facts) == days([*on_time, *((e.fan, e.creator, e.at, e.kind) for e in late)])


@pytest.mark.parametrize("followed", [True, False])
def test_an_action_after_a_late_unfollow_is_told(followed: bool) -> None:
    """Whether it is known when the unfollow comes, or comes later, while the day's first action is not forgotten."""
    fold = Facts("db", "interactions", 0, ZONE.key, NO_ACTIVITY)
    begin, minute = START + 2 * HOUR, HOUR // 60
    told = []
    for offset, event in enumerate(
        [
            Event(0, 9, "a", begin + 4 * HOUR, "view"),
            Event(1, 1, "a", begin + 2 * HOUR + 5 * minute, "like"),
            Event(2, 1, "a", begin + 2 * HOUR + (30 if followed else 6) * minute, "view"),
            Event(3, 9, "a", begin + 4 * HOUR + 20 * minute, "view"),
            Event(4, 1, "a", begin + 2 * HOUR + 10 * minute, "unfollow", late=True),
            Event(5, 1, "a", begin + 4 * HOUR + 25 * minute, "like"),
        ]
    ):
        fold.apply(rows([event]))
        newest = max(begin + 4 * HOUR, event.at)
        (output,) = fold.outputs(offset, offset + 1, newest)
        told.append(fan_log.decode(output.value).facts.filter(pl.col("fan") == 1)["at"].to_list())
        fold.evict(newest - HORIZON)
    first, known, later = (begin + 2 * HOUR + minutes * minute for minutes in (5, 30, 145))
    assert told == [[], [first], [], [], [known] if followed else [], [] if followed else [later]]


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
