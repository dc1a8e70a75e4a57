"""What people read of attribution, against figures by hand."""

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import DatabaseError
from rig import database

from infra.settings import Settings
from pipeline.fan_sums import sum_features
from pipeline.migrate import migrate

pytestmark = [pytest.mark.stack, pytest.mark.slow]

NOON = datetime(2026, 3, 4, 12, tzinfo=UTC)
"""A Wednesday; 20:00 in Shanghai."""
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
NEVER = datetime(1970, 1, 1, tzinfo=UTC)
FIGURES = (
    *("impressions", "clicks", "cost_micros", "follows", "orders", "revenue_micros", "refunded_micros", "net_micros"),
    *("follow_cost_micros", "order_cost_micros", "roas", "roi"),
)
AD = {"campaign_id": "k", "ad_group_id": "g", "creative_id": "v", "audience": "通投", "channel": "feed"}
PAIR = {"platform": "douyin", "creator_id": "c"}


def insert(client: Client, table: str, *rows: dict[str, Any]) -> None:
    for row in rows:
        client.insert(table, [list(row.values())], column_names=list(row))


def attribution(fan: int, kind: str, at: datetime, offset: int, **fields: Any) -> dict[str, Any]:
    """A row of the table that nothing won, or that the touch of ``fields`` did."""
    row = {**PAIR, "fan": fan, "kind": kind, "converted_at": at, "partition": 1, "offset": offset, "origin": "stream"}
    none = {"touch": "none", "touched_at": NEVER, "touch_offset": -1, "order_id": "", "amount_micros": 0}
    touched = AD if fields.get("touch", "none") != "none" else {}
    return row | none | touched | fields | {"fold_version": 1, "applied": fields.get("applied", 10)}


def late(fan: int, touch: str, at: datetime, offset: int, campaign: str) -> dict[str, Any]:
    place = {"partition": 1, "offset": offset, "fold_version": 1}
    return {**PAIR, "fan": fan, "touched_at": at, "touch": touch, **AD, "campaign_id": campaign, **place}


@pytest.fixture
def client(settings: Settings) -> Iterator[Client]:
    """A client of a database whose workers live in Shanghai, and attribute 168 hours after clicks, 24 after views."""
    migrate(settings)
    with database(settings) as client:
        insert(client, "fan_settings", {"time_zone": "Asia/Shanghai", "written_at": NOON})
        windows = '{"click_window":168,"view_window":24}'
        insert(client, "checkpoints", {"agent": "attribution", "topic": "fan_touches", "parameters": windows})
        yield client


def test_winners_sums_reasons_and_cohorts_are_those_by_hand(client: Client) -> None:
    click = {"touch": "click", "touched_at": NOON - HOUR, "touch_offset": 5}
    seen = {"touch": "impression", "touched_at": NOON - HOUR, "touch_offset": 6, "channel": "live"}
    order = {"order_id": "o1", "amount_micros": 30_000_001}
    insert(
        client,
        "attributions",
        # The row of before, and that of another definition, are not looked at.
        attribution(1, "follow", NOON, 1, applied=9),
        attribution(1, "follow", NOON, 1, **click),
        attribution(1, "follow", NOON, 1, applied=99, touch="click", touched_at=NOON, campaign_id="x")
        | {"fold_version": 2},
        # Paid in two parts, refunded in two, and once more than there was.
        attribution(1, "order", NOON + HOUR, 1, **order, **click),
        attribution(1, "order", NOON + 2 * HOUR, 2, order_id="o1", amount_micros=5, **click),
        attribution(1, "refund", NOON + 3 * HOUR, 3, order_id="o1", amount_micros=10_000_000),
        attribution(1, "refund", NOON - 3 * DAY, 4, order_id="o1", amount_micros=1, origin="repair"),
        attribution(9, "refund", NOON, 5, order_id="nobody paid", amount_micros=7),
        # Of what the stream left to repair the later touch is right.
        attribution(2, "follow", NOON, 2, beyond=1),
        attribution(2, "follow", NOON, 2, origin="repair", applied=1, **seen),
        # A late touch is better; is not; is too old; comes after.
        attribution(3, "follow", NOON, 3, **seen),
        attribution(4, "follow", NOON, 4, **click),
        attribution(5, "follow", NOON, 5),
        attribution(6, "follow", NOON, 6),
    )
    insert(
        client,
        "late_touches",
        late(3, "click", NOON - HOUR, 3, "late"),
        late(4, "impression", NOON - HOUR, 9, "late"),
        late(5, "impression", NOON - 25 * HOUR, 10, "late"),
        late(5, "click", NOON - 169 * HOUR, 11, "late"),
        late(6, "click", NOON + HOUR, 12, "late"),
    )
    rows = client.query(
        "SELECT fan, kind, `offset`, touch, campaign_id, channel, seconds_between, touched_at, revenue_micros, "
        "refunded_micros, net_micros FROM attributed_conversions ORDER BY fan, kind, `offset`"
    ).result_rows
    ago = NOON - HOUR
    assert [row[:6] for row in rows] == [
        (1, "follow", 1, "click", "k", "feed"),
        (1, "order", 1, "click", "k", "feed"),
        (1, "order", 2, "click", "k", "feed"),
        (2, "follow", 2, "impression", "k", "live"),
        (3, "follow", 3, "click", "late", "feed"),
        (4, "follow", 4, "click", "k", "feed"),
        (5, "follow", 5, "none", "", ""),
        (6, "follow", 6, "none", "", ""),
    ]
    assert [(row[6], row[7] and row[7].replace(tzinfo=UTC)) for row in rows[1:]] == [
        *((seconds, ago) for seconds in (7200, 10800, 3600, 3600, 3600)),
        (None, None),
        (None, None),
    ]
    assert [row[8:] for row in rows[1:4]] == [(30_000_001, 10_000_001, 20_000_000), (5, 0, 5), (0, 0, 0)]

    counted = {"impressions": 9, "clicks": 3, "cost_micros": 10, "minute": NOON - HOUR, "partition": 1}
    minute = {**PAIR, **AD, "origin": "stream", "fold_version": 1, "applied": 1} | counted
    insert(client, "ads_minute", minute, minute | {"campaign_id": "other", "minute": NOON})
    query = f"SELECT value, {', '.join(FIGURES)} FROM"
    hours = {row[0]: row[1:] for row in client.query(f"{query} attribution_hours WHERE by = 'campaign'").result_rows}
    won = (3, 2, 30_000_006, 10_000_001, 20_000_005)
    assert hours == {
        "k": (9, 3, 10, *won, 3, 5, 2_000_000.5, 1_999_999.5),
        "late": (0, 0, 0, 1, 0, 0, 0, 0, 0, None, None, None),
        "other": (9, 3, 10, 0, 0, 0, 0, 0, None, None, 0.0, -1.0),
    }
    span = "since = '2026-03-01 00:00:00', until = '2026-03-05 00:00:00'"

    def by(what: str) -> dict[str, tuple[Any, ...]]:
        rows = client.query(f"{query} attribution_by(by = '{what}', {span})").result_rows
        return {row[0]: tuple(row[1:]) for row in rows}

    assert by("campaign") == hours
    # 11:00 UTC is 19:00 there.
    assert {hour: row[:5] for hour, row in by("hour").items()} == {"19": (9, 3, 10, 4, 2), "20": (9, 3, 10, 0, 0)}
    assert {channel: row[3] for channel, row in by("channel").items()} == {"feed": 3, "live": 1}
    with pytest.raises(DatabaseError, match="by is one of creator, campaign"):
        by("gender")

    told = {**PAIR, **AD, "partition": 1, "appended_at": NOON, "fan": 5, "kind": "click"}
    insert(
        client,
        "raw_ad_events",
        told | {"event_id": "a", "offset": 1, "event_time": NOON - 169 * HOUR},
        told | {"event_id": "b", "offset": 2, "event_time": NOON - 25 * HOUR, "kind": "impression"},
        told | {"event_id": "c", "offset": 3, "event_time": NOON + HOUR},
    )
    misses = client.query(
        f"SELECT fan, last_touch, seconds_between, campaign_id, reason FROM attribution_misses({span}) ORDER BY fan"
    ).result_rows
    assert misses == [
        (5, "impression", 25 * 3600.0, "k", "impression before the window"),
        (6, "none", None, "", "never touched"),
    ]

    day, monday = date(2026, 3, 4), date(2026, 3, 2)
    feature = {**PAIR, "actions": 1, "events": 1}
    insert(
        client,
        "fan_days",
        *(feature | {"fan": 1, "day": day + days * DAY, "order_micros": 100} for days in (-1, 0, 1, 7)),
        feature | {"fan": 1, "day": day + 8 * DAY, "actions": 0, "refund_micros": 30},
        *(feature | {"fan": 4, "day": day + days * DAY, "gift_micros": 1} for days in (0, 7, 30)),
        feature | {"fan": 6, "day": day + 1 * DAY},
    )
    sum_features(client, monday + 36 * DAY, NOON)
    shown = "fans, retained_1, retained_7, retained_30, value_1_micros, value_7_micros, value_30_micros"
    cohorts = {
        row[:3]: row[3:] for row in client.query(f"SELECT week, by, value, {shown} FROM acquired_cohorts").result_rows
    }
    assert cohorts[monday, "all", ""] == (4, 1, 2, None, 201, 302, None)
    assert cohorts[monday, "campaign", "late"] == (1, 0, 0, None, 0, 0, None)
    assert cohorts[monday, "hour", "19"] == cohorts[monday, "all", ""]
    assert cohorts[monday, "channel", "live"][0] == 1
    # A day later the thirtieth day of who followed on the Sunday is over.
    sum_features(client, monday + 37 * DAY, NOON)
    (row,) = client.query(f"SELECT {shown}, retention_30 FROM acquired_cohorts WHERE by = 'all'").result_rows
    assert row == (4, 1, 2, 1, 201, 302, 273, 0.25)
