"""The oracle on cases small enough to work out by hand."""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from chaos.oracle import ACCEPTED, COLUMNS, REASONS, SNAPSHOTS, Figures, Judge, Judged, raw_row, rolling
from chaos.truth import Sent
from generators.weather import LABELS

MINUTE = 60_000
HOUR = 60 * MINUTE
DAY = 24 * HOUR
NOON = int(datetime(2026, 3, 4, 12, tzinfo=UTC).timestamp() * 1000)
"""Noon in UTC, 20:00 in Shanghai."""
LATENESS, HORIZON = MINUTE, 2 * HOUR


def sent(
    at: int,
    event_id: str = "e",
    offset: int = 0,
    appended: int | None = None,
    topic: str = "interactions",
    **fields: Any,
) -> Sent:
    """A play, or what ``fields`` make of it."""
    event = {
        "event_id": event_id,
        "event_time": at,
        "platform": "douyin",
        "fan_id": "f1",
        "creator_id": "c1",
        "kind": "view",
        "content_id": "v1",
        "watch_ms": 500,
        "duration_ms": 400,
    } | fields
    value = orjson.dumps({name: value for name, value in event.items() if value is not ...})
    return Sent(topic, 2, offset, at if appended is None else appended, b"f1", value, "event")


def judge(records: Iterable[Sent], repaired: bool = False, refused: frozenset[int] = frozenset()) -> list[Judged]:
    one = Judge(LATENESS, HORIZON, repaired, lambda each: each.offset in refused)
    return [one.judge(record) for record in records]


def verdicts(records: Iterable[Sent], **how: Any) -> list[tuple[bool, bool, bool]]:
    return [(each.late, each.duplicate, each.counts) for each in judge(records, **how)]


def figures(records: Iterable[Sent], time_zone: str = "Asia/Shanghai", **how: Any) -> Figures:
    made = Figures(time_zone)
    for each in judge(records, **how):
        made.add(each)
    return made


COUNTED, LATE, REPEAT = (False, False, True), (True, False, False), (False, True, False)


def test_late_is_more_than_horizon_and_lateness_behind_the_newest() -> None:
    edge = NOON - HORIZON - LATENESS
    found = verdicts([sent(NOON, "a"), sent(edge, "b"), sent(edge - 1, "c"), sent(edge + 1, "d")])
    assert found == [COUNTED, COUNTED, LATE, COUNTED]


def test_an_event_raises_the_newest_time_to_five_minutes_beyond_its_append_time() -> None:
    ahead = sent(NOON + 3 * HOUR, "a", appended=NOON)
    edge = NOON + 5 * MINUTE - HORIZON - LATENESS
    assert verdicts([ahead, sent(edge, "b"), sent(edge - 1, "c")]) == [COUNTED, COUNTED, LATE]
    one = Judge(LATENESS, HORIZON)
    one.judge(ahead)
    assert one.newest == NOON + 5 * MINUTE
    one.judge(sent(NOON + 5 * MINUTE + 1, "b", appended=NOON + 1))
    assert one.newest == NOON + 5 * MINUTE + 1


def test_a_partition_begins_without_a_newest_time() -> None:
    assert Judge(LATENESS, HORIZON).newest is None
    assert verdicts([sent(NOON - 300 * DAY, "a", appended=NOON)]) == [COUNTED]


def test_a_repeat_has_the_same_id_and_time_whatever_else_it_says() -> None:
    found = verdicts(
        [
            sent(NOON, "a"),
            sent(NOON, "a", creator_id="c2", content_id="v2"),
            sent(NOON + 1, "a"),
            sent(NOON, "b"),
            sent(NOON, "a"),
        ]
    )
    assert found == [COUNTED, REPEAT, COUNTED, COUNTED, REPEAT]


def test_each_partition_remembers_for_itself() -> None:
    assert verdicts([sent(NOON, "a")]) + verdicts([sent(NOON, "a")]) == [COUNTED, COUNTED]


def test_late_events_are_no_repeats_until_a_repair_settles_them() -> None:
    old = NOON - DAY
    records = [sent(old, "a", 0), sent(NOON, "b", 1), sent(old, "a", 2), sent(old, "c", 3), sent(old, "c", 4)]
    assert verdicts(records) == [COUNTED, COUNTED, LATE, LATE, LATE]
    settled = [(each.late, each.duplicate, each.repaired) for each in judge(records, repaired=True)]
    assert settled == [
        (False, False, False),
        (False, False, False),
        (True, True, True),
        (True, False, True),
        (True, True, True),
    ]


def test_refused_records_are_not_judged_remembered_or_counted() -> None:
    broken = Sent("interactions", 2, 0, NOON, b"f1", b"{", "broken_json")
    ahead = sent(NOON + DAY, "a", 1, appended=NOON + DAY)
    found = judge([broken, ahead, sent(NOON, "b", 2), sent(NOON + DAY, "a", 3)], refused=frozenset({1}))
    assert [each.event is None for each in found] == [True, True, False, False]
    assert [each.reasons for each in found] == [{"broken_json"}, {"clickhouse"}, set(), set()]
    assert [(each.late, each.duplicate) for each in found[2:]] == [(False, False), (False, False)]


def test_every_label_of_the_generators_is_known() -> None:
    assert set(LABELS) <= ACCEPTED | set(REASONS)
    with pytest.raises(KeyError):
        judge([Sent("gifts", 0, 0, NOON, b"f", b"", "unheard of")])
    assert judge([Sent("gifts", 0, 0, NOON, b"f", b"", "refused:empty")])[0].reasons == {"empty"}


def test_a_raw_row_has_every_column_and_drops_what_the_kind_does_not_have() -> None:
    made = judge([sent(NOON, "a", 7, appended=NOON + 5, order_id="o", stay_ms=3, source="", region=None, device="A")])
    row = dict(zip(COLUMNS["interactions"], raw_row(made[0]), strict=True))
    assert row.pop("appended_at") == NOON + 5
    assert {name: value for name, value in row.items() if value not in ("", None, 0)} == {
        "event_id": "a",
        "event_time": NOON,
        "platform": "douyin",
        "fan": "f1",
        "creator_id": "c1",
        "device": "A",
        "kind": "view",
        "content_id": "v1",
        "watch_ms": 500,
        "duration_ms": 400,
    }
    assert row["stay_ms"] is None
    assert row["source"] == row["region"] == row["reply_to_fan"] == ""


def test_a_refund_keeps_its_positive_amount_and_an_absent_coupon_is_none() -> None:
    refund = sent(
        NOON, topic="orders", kind="refunded", order_id="o1", product_id="p1", amount_micros=0, coupon_micros=""
    )
    row = dict(zip(COLUMNS["orders"], raw_row(judge([refund])[0]), strict=True))
    assert (row["amount_micros"], row["coupon_micros"], row["content_id"]) == (0, None, "v1")


def test_counts_of_a_creator_and_a_video() -> None:
    made = figures(
        [
            sent(NOON, "a", 3),
            sent(NOON + 1, "b", 4, watch_ms=399),
            sent(NOON + 2, "c", 5, duration_ms=0),
            sent(NOON + 2, "c", 6, duration_ms=0),
            sent(NOON + 3, "d", 7, kind="live_leave", stay_ms=60, content_id=..., live_id="l1"),
            sent(NOON + 4, "e", 8, kind="live_leave", stay_ms=None, live_id="l1"),
            sent(NOON + 5, "f", 9, kind="follow", content_id=""),
            sent(NOON + 6, "g", 10, kind="dm_sent", content_id="v1"),
        ]
    )
    minute = NOON // 1000
    (key, row), *more = made.tables["engagement_creator_minute"].items()
    assert (key, more) == (("douyin", "c1", minute, 2, "stream"), [])
    named = dict(zip(SNAPSHOTS["engagement_creator_minute"][1], row, strict=True))
    assert {name: value for name, value in named.items() if value} == {
        "plays": 3,
        "live_exits": 2,
        "follows": 1,
        "private_messages": 1,
        "watch_ms": 1399,
        "completions": 1,
        "stay_ms": 60,
        "applied": 10,
    }
    (key, row), *more = made.tables["engagement_content_hour"].items()
    assert (key, more) == (("douyin", "c1", "v1", minute, 2, "stream"), [])
    named = dict(zip(SNAPSHOTS["engagement_content_hour"][1], row, strict=True))
    assert {name: value for name, value in named.items() if value} == {
        "plays": 3,
        "watch_ms": 1399,
        "completions": 1,
        "applied": 5,
    }


def test_counts_cost_and_value_of_advertisements() -> None:
    ad: dict[str, Any] = {"topic": "ad_events", "campaign_id": "k", "ad_group_id": "g", "creative_id": "v"}
    ad |= {"audience": "all", "channel": "feed", "gender": None, "region": "广东"}
    made = figures(
        [
            sent(NOON, "a", 3, kind="impression", cost_micros=5, **ad),
            sent(NOON + 1, "b", 4, kind="conversion", cost_micros="", value_micros=7, **ad),
            sent(NOON + 1, "b", 5, kind="conversion", cost_micros=9, value_micros=7, **ad),
            sent(NOON + 2, "c", 6, kind="click", value_micros=2, **ad),
            sent(NOON, "d", 7, kind="play", **ad | {"audience": "some", "region": "北京"}),
        ]
    )
    minute = NOON // 1000
    assert {name: rows for name, rows in made.tables.items() if rows} == {
        "ads_minute": {
            ("douyin", "c1", "k", "g", "v", "all", "feed", minute, 2, "stream"): [1, 1, 0, 1, 5, 9, 6],
            ("douyin", "c1", "k", "g", "v", "some", "feed", minute, 2, "stream"): [0, 0, 1, 0, 0, 0, 7],
        },
        "ads_people_minute": {
            ("douyin", "k", "广东", "", "", minute, 2, "stream"): [1, 1, 0, 1, 5, 9, 6],
            ("douyin", "k", "北京", "", "", minute, 2, "stream"): [0, 0, 1, 0, 0, 0, 7],
        },
    }


@pytest.mark.parametrize(
    ("at", "day"),
    [
        ("2026-03-04T15:59:59.999", "2026-03-04"),
        ("2026-03-04T16:00:00.000", "2026-03-05"),
        ("2026-03-05T15:59:59.999", "2026-03-05"),
    ],
)
def test_the_local_day_begins_at_midnight_in_shanghai(at: str, day: str) -> None:
    moment = int(datetime.fromisoformat(at + "+00:00").timestamp() * 1000)
    ((_, _, _, bucket, _, _),) = figures([sent(moment)]).tables["engagement_content_day"]
    assert datetime.fromtimestamp(bucket * 86_400, UTC).date().isoformat() == day


def test_minutes_of_videos_hold_what_came_sooner_than_three_days_after() -> None:
    for behind, recent in ((3 * DAY - 1, True), (3 * DAY, False)):
        made = figures([sent(NOON, appended=NOON + behind)])
        assert len(made.tables["engagement_content_minute"]) == len(made.viewers) == int(recent)
        assert len(made.tables["engagement_content_hour"]) == len(made.tables["engagement_content_day"]) == 1
        assert [count for _, count in made.viewers_by_hour()] == [1]


def test_a_repair_counts_late_events_in_rows_of_their_own() -> None:
    old = NOON - 5 * HOUR
    records = [sent(NOON, "a", 0), sent(old, "b", 1), sent(old, "b", 2), sent(old, "c", 3, fan_id="f2")]
    assert len(figures(records).tables["engagement_creator_minute"]) == 1
    made = figures(records, repaired=True)
    row = made.tables["engagement_creator_minute"]["douyin", "c1", old // 1000, 2, "repair"]
    assert (row[0], row[-1]) == (2, 3)
    assert sorted(count for _, count in made.viewers_by_hour()) == [1, 2]


def test_a_rolling_window_ends_before_its_moment_and_is_set_beside_the_day_before() -> None:
    at = NOON // 1000
    rows = [(("c",), at - 60, [1]), (("c",), at, [10]), (("c",), at - 61, [100]), (("c",), at - 86_400 - 60, [1000])]
    viewers = [(("c",), at - 60, {1, 2}), (("c",), at - 300, {2, 3}), (("c",), at, {4})]
    found = rolling(rows, viewers, at)
    assert {window: (row.now, row.before, len(row.viewers)) for (_, window), row in found.items()} == {
        "1m": ([1], [1000], 2),
        "5m": ([101], [1000], 3),
        "1h": ([101], [1000], 3),
        "24h": ([101], [1000], 3),
    }


@given(
    st.lists(st.tuples(st.integers(0, 12), st.sampled_from("abc"), st.integers(-200, 200), st.booleans()), max_size=60)
)
@examples(max_examples=200, deadline=None)
def test_verdicts_follow_their_definition_over_the_whole_log(log: list[tuple[int, str, int, bool]]) -> None:
    """The definition at its most literal: of every record, look at all before it."""
    records = [
        sent(NOON + slot * 20 * MINUTE, name, offset, appended=NOON + slot * 20 * MINUTE - shift * MINUTE)
        for offset, (slot, name, shift, _) in enumerate(log)
    ]
    refused = frozenset(offset for offset, (_, _, _, gone) in enumerate(log) if gone)
    times = [NOON + slot * 20 * MINUTE for slot, _, _, _ in log]
    ids = [name for _, name, _, _ in log]
    kept = [offset for offset in range(len(log)) if offset not in refused]
    late = {
        offset: times[offset]
        < max(min(times[n], records[n].appended + 5 * MINUTE) for n in kept if n <= offset) - LATENESS - HORIZON
        for offset in kept
    }
    for repaired in (False, True):
        for each in judge(records, repaired, refused):
            offset = each.sent.offset
            if offset in refused:
                assert each.event is None
                continue
            same = [n for n in kept if n < offset and (ids[n], times[n]) == (ids[offset], times[offset])]
            assert each.late == late[offset]
            settled = repaired and bool(same)
            assert each.duplicate == (settled if late[offset] else any(not late[n] for n in same))
            assert each.repaired == (repaired and late[offset])
