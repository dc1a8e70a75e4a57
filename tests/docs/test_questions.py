"""Questions of docs/sql.md against figures by hand, in a small planted world; and that a wrong query gives others.

What is planted has whole days of its own, and so its own clock: now is 02:30 in Shanghai, still yesterday in UTC.
"""

import contextlib
import re
import secrets
from collections import Counter, defaultdict
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from itertools import count
from typing import Any

import pytest
from clickhouse_connect.driver.client import Client
from pages import RARE, ROOT, anchor, under_headings

from infra.connect import clickhouse_client
from infra.settings import Settings
from infra.stack import Stack
from pipeline.fan_sums import sum_features
from pipeline.migrate import migrate

pytestmark = pytest.mark.stack

Row = dict[str, Any]
Answer = list[tuple[Any, ...]]

NOW = datetime(2026, 3, 17, 18, 30, tzinfo=UTC)
TODAY = date(2026, 3, 18)
"""The local day."""
YUAN = 1_000_000
QUESTIONS: dict[str, list[str]] = {}
"""Queries by the heading above them."""
for _heading, _block in under_headings(ROOT / "docs" / "sql.md", "sql"):
    QUESTIONS.setdefault(_heading, []).append(_block)


def at(text: str) -> datetime:
    """A moment of March 2026 in UTC, as in ``17 20:00``, or one that is written with its year."""
    whole = text if text.startswith("20") else f"2026-03-{text}"
    return datetime.fromisoformat(whole).replace(tzinfo=UTC)


def day(text: str) -> date:
    return date.fromisoformat(f"2026-{text}")


# Advertisements by minute: campaign, ad group, creative, audience, minute, impressions, clicks, conversions, yuan.
ADS = [
    ("k1", "g1", "v1", "A", "2026-01-26 12:00", 1000, 5, 0, 13),
    ("k1", "g1", "v1", "A", "2026-01-06 12:00", 1000, 5, 0, 1000),
    ("k1", "g1", "v1", "A", "16 13:00", 1000, 10, 2, 20),
    ("k1", "g1", "v1", "A", "17 12:00", 500, 10, 1, 8),
    ("k1", "g1", "v1", "A", "17 12:01", 2000, 40, 4, 50),
    ("k1", "g1", "v1", "A", "17 18:01", 100, 0, 0, 9),
    ("k2", "g2", "v2", "B", "17 15:00", 400, 4, 0, 10),
    ("k2", "g3", "v3", "B", "17 15:00", 600, 0, 0, 3),
    ("k2", "g2", "v2", "B", "17 16:30", 100, 0, 0, 1),
]
# What rules did: decided at, rule, campaign, ad group, action, before and after in yuan, bound.
ACTIONS = [
    ("16 15:59:59", "halt", "k2", "g2", "resume", None, None, ""),
    ("16 16:00:00", "cut", "k3", "", "budget", 50, 45, "floor"),
    ("17 12:00:30", "raise", "k1", "", "budget", 100, 120, ""),
    ("17 15:59:00", "halt", "k2", "g2", "pause", None, None, ""),
    ("17 16:00:00", "raise", "k1", "", "budget", 120, 144, ""),
]
RULES = [
    # Partition, offset, version, mode, enabled, changed at.
    (0, 1, 1, "dry_run", 1, "2026-02-01 00:00"),
    (0, 9, 1, "act", 1, "16 10:00"),
    (1, 9, 1, "act", 1, "16 10:00"),
    (0, 12, 2, "act", 0, "17 10:00"),
    (1, 11, 2, "act", 0, "17 10:00"),
]
# Follows and orders: fan, kind, when, touch, audience, creative, order, yuan.
CONVERSIONS = [
    (1, "follow", "2026-02-02 12:00", "click", "A", "v1", "", 0),
    (2, "follow", "2026-02-02 12:00", "click", "A", "v1", "", 0),
    (3, "follow", "12 12:00", "click", "A", "v1", "", 0),
    (4, "follow", "12 12:00", "click", "A", "v1", "", 0),
    (5, "follow", "12 12:00", "impression", "B", "v2", "", 0),
    (6, "follow", "2026-02-03 12:00", "click", "C", "v4", "", 0),
    (7, "follow", "12 12:00", "none", "", "", "", 0),
    (1, "order", "2026-02-05 12:00", "click", "A", "v1", "o9", 150),
    (1, "refund", "2026-02-20 12:00", "none", "", "", "o9", 30),
    (7, "order", "13 12:00", "none", "", "", "o8", 99),
]
# Days with an action: platform, creator, fan, what brought them (source, content), days; and money of some days, yuan.
DAYS = [
    ("douyin", "c1", 1, "ad", "", ("02-02", "02-03", "02-09", "03-04", "03-10")),
    ("douyin", "c1", 2, "ad", "", ("02-02", "02-09")),
    ("douyin", "c1", 3, "ad", "", ("03-12", "03-13")),
    ("douyin", "c1", 4, "ad", "", ("03-12",)),
    ("douyin", "c1", 5, "ad", "", ("03-12", "03-13")),
    ("douyin", "c1", 6, "ad", "", ("02-03", "03-05")),
    ("douyin", "c1", 7, "recommend", "", ("03-12",)),
    ("douyin", "c2", 21, "recommend", "", ("02-01", "02-25")),
    ("douyin", "c2", 22, "recommend", "", ("02-01", "03-09")),
    ("douyin", "c2", 23, "recommend", "", ("02-20",)),
    ("douyin", "c2", 24, "recommend", "", ("02-01", "03-17")),
    ("kuaishou", "c2", 21, "recommend", "", ("02-01", "02-25")),
    ("douyin", "c2", 31, "search", "va", ("02-10", "02-17", "03-12")),
    ("douyin", "c2", 32, "search", "va", ("02-16", "03-18")),
    ("douyin", "c2", 33, "search", "va", ("02-01",)),
    ("douyin", "c2", 34, "search", "va", ("03-10", "03-11")),
    ("douyin", "c2", 35, "search", "vb", ("02-01", "02-08", "03-03")),
    ("douyin", "c2", 36, "search", "vc", ("02-01",)),
    ("douyin", "c2", 37, "search", "", ("02-01",)),
    ("kuaishou", "c2", 31, "search", "va", ("02-01",)),
]
MONEY = {(1, "02-03"): 6, (1, "02-09"): 150, (1, "03-04"): -30, (1, "03-10"): 1000}
# Tier and tags.
VALUES = [
    ("douyin", 21, "high", ["high_value"]),
    ("douyin", 22, "high", []),
    ("douyin", 23, "low", []),
    ("douyin", 24, "high", ["iron"]),
    ("kuaishou", 21, "high", []),
    ("douyin", 31, "middle", ["active", "iron"]),
    ("douyin", 32, "high", ["active", "iron"]),
    ("douyin", 33, "low", []),
    ("douyin", 34, "middle", ["active", "potential"]),
    ("douyin", 35, "high", ["iron"]),
    ("douyin", 36, "low", []),
    ("douyin", 37, "high", ["iron"]),
    ("kuaishou", 31, "low", []),
]
# Moves: platform, creator, fans, day, step, from, to, why.
MOVES = [
    ("douyin", "c1", range(11, 21), "03-01", 1, "none", "new", "arrived"),
    ("douyin", "c1", [11], "03-05", 2, "new", "churned", "unfollowed"),
    ("douyin", "c1", [12], "03-06", 2, "new", "churned", "unfollowed"),
    ("douyin", "c1", [13, 14, 15], "03-08", 0, "new", "silent", "absent"),
    ("douyin", "c1", [13, 14, 15], "03-10", 0, "silent", "churned", "absent"),
    ("douyin", "c1", [11], "03-12", 1, "churned", "active", "returned"),
    ("kuaishou", "c1", [11], "03-01", 1, "none", "new", "arrived"),
    ("kuaishou", "c1", [11], "03-02", 2, "new", "churned", "unfollowed"),
    ("douyin", "c2", [21, 22, 23], "03-01", 0, "new", "silent", "absent"),
    ("douyin", "c2", [24], "03-01", 0, "new", "retained", "aged"),
    ("kuaishou", "c2", [21], "02-01", 1, "none", "new", "arrived"),
    ("kuaishou", "c2", [21], "03-01", 0, "new", "churned", "absent"),
    ("douyin", "c3", [41], "03-17", 1, "none", "new", "arrived"),
    ("douyin", "c5", [41], "03-17", 1, "none", "new", "arrived"),
]
LIVE, GROUP = {"live_id": "L1"}, {"group_id": "G"}
# What fans of c3 did: fan, kind, when, and what else.
INTERACTIONS: list[tuple[int, str, str, Row]] = [
    (41, "live_enter", "17 12:00", LIVE),
    (42, "live_enter", "17 12:05", LIVE),
    (43, "live_enter", "17 12:06", LIVE),
    (41, "live_leave", "17 12:10", LIVE | {"stay_ms": 600_000}),
    (42, "live_leave", "17 12:20", LIVE | {"stay_ms": 900_000}),
    (41, "live_enter", "17 12:30", LIVE),
    (41, "live_comment", "17 12:02", LIVE | {"text": "666"}),
    (43, "live_comment", "17 12:08", LIVE | {"text": "收到货是坏的，失望"}),
    (43, "follow", "17 12:09", LIVE),
    (44, "live_enter", "17 12:00:30", {"live_id": "L2", "creator_id": "c4"}),
    (41, "group_message", "17 10:00", GROUP | {"reply_to_fan": 42}),
    (41, "group_message", "17 10:01", GROUP | {"reply_to_fan": 43}),
    (42, "group_message", "17 10:02", GROUP | {"reply_to_fan": 41}),
    (41, "group_message", "17 10:03", GROUP | {"reply_to_fan": 41}),
    (41, "group_message", "17 16:30", GROUP | {"reply_to_fan": 42}),
    (43, "group_message", "2026-02-01 10:00", GROUP | {"reply_to_fan": 42}),
    (43, "group_vote", "17 10:10", GROUP),
    (42, "group_welfare_claim", "17 10:11", GROUP),
    (41, "group_link_click", "17 10:12", GROUP),
    (41, "group_link_click", "17 10:13", GROUP),
    (43, "group_link_click", "17 10:13", GROUP),
    (45, "group_checkin", "17 10:14", GROUP),
    (45, "group_join", "17 10:13", GROUP),
    (46, "group_join", "17 10:15", GROUP),
    (46, "group_leave", "17 10:16", GROUP),
    (51, "product_exposure", "17 09:00", {"product_id": "p1"}),
    (51, "product_exposure", "17 09:01", {"product_id": "p1"}),
    (52, "product_exposure", "17 09:00", {"product_id": "p1"}),
    (51, "product_click", "17 09:02", {"product_id": "p1"}),
    (52, "product_click", "17 09:02", {"product_id": "p1"}),
    (41, "comment", "17 13:00", {"content_id": "v", "text": "请问退款多久"}),
    (41, "comment", "17 13:01", {"content_id": "v", "text": ""}),
    (41, "comment", "16 18:00", {"content_id": "v", "text": "什么时候发货"}),
    (42, "comment", "16 17:00", {"content_id": "v", "text": "垃圾"}),
    (53, "view", "16 17:00", {"watch_ms": 1000, "duration_ms": 9000, "source": "follow"}),
    (51, "view", "17 10:00", {"watch_ms": 10_000, "duration_ms": 10_000, "source": "recommend"}),
    (51, "view", "17 17:00", {"watch_ms": 5000, "duration_ms": 10_000, "source": "recommend"}),
    (52, "view", "17 17:30", {"watch_ms": 3000, "duration_ms": 0, "source": "search"}),
]
# Gifts: creator, fan, when, room, opponent, how many, yuan.
GIFTS = [
    ("c3", 41, "17 12:01:10", "L1", "", 2, 10),
    ("c3", 42, "17 12:01:50", "L1", "c4", 1, 5),
    ("c4", 44, "17 12:02", "L2", "c3", 1, 7),
    ("c3", 41, "17 12:03", "L1", "", 1, 0),
    ("c2", 21, "2026-02-01 12:00", "L0", "", 1, 500),
    ("c2", 23, "2026-02-20 12:00", "L0", "", 1, 2),
]
# Orders: order, fan, kind, when, product, yuan, and where they came from.
ORDERS: list[tuple[str, int, str, str, str, int, Row]] = [
    ("o1", 43, "placed", "17 12:10", "p1", 30, LIVE),
    ("o1", 43, "paid", "17 12:11", "p1", 30, LIVE),
    ("o1", 43, "refunded", "17 12:12", "p1", 10, LIVE),
    ("o2", 41, "placed", "17 10:59", "p1", 20, GROUP),
    ("o2", 41, "paid", "17 11:00", "p1", 20, GROUP),
    ("o3", 45, "paid", "17 11:00", "p2", 5, {"group_id": "H"}),
    ("o4", 52, "paid", "17 16:10", "p3", 100, {}),
    ("o5", 51, "paid", "16 08:00", "p3", 40, {}),
    ("o5", 51, "refunded", "17 08:00", "p3", 40, {}),
    ("o6", 51, "refunded", "17 08:00", "p4", 3, {}),
]
# Decisions: rule, campaign, ad group, closed at, mode, outcome, reason.
DECISIONS = [
    ("raise", "k1", "", "17 18:00", "act", "skipped", "guards"),
    ("raise", "k1", "", "17 17:00", "act", "skipped", "guards"),
    ("raise", "k1", "", "17 12:00", "act", "fired", ""),
    ("raise", "k2", "", "17 12:00", "act", "skipped", "conditions"),
    ("raise", "k1", "", "16 18:00", "act", "fired", ""),
    ("halt", "k2", "g2", "17 18:10", "dry_run", "dry_run", ""),
]
# Alerts: kind, found at, over at.
ALERTS = [
    ("cpm_high", "16 00:00", "16 03:00"),
    ("cpm_high", "16 10:00", "16 11:00"),
    ("cpm_high", "15 10:00", "15 12:00"),
    ("cpm_high", "2026-02-01 10:00", "2026-02-02 10:00"),
    ("churn_high", "16 16:00", None),
]
# Videos: content, day, partition, follows, plays.
VIDEOS = [("v1", "03-17", 0, 9, 9), ("v1", "03-18", 0, 2, 10), ("v1", "03-18", 1, 3, 20), ("v2", "03-18", 0, 4, 50)]


def insert(client: Client, table: str, rows: list[Row]) -> None:
    """Rows, those with the same columns at a time."""
    groups: dict[tuple[str, ...], list[list[Any]]] = defaultdict(list)
    for row in rows:
        groups[tuple(row)].append(list(row.values()))
    for columns, values in groups.items():
        client.insert(table, values, column_names=list(columns))


def versions(client: Client, table: str, rows: list[Row], older: Row) -> None:
    """Rows, and beside each what must not count: an older version of it, and one of another definition."""
    client.command(f"SYSTEM STOP MERGES {table}")
    held = [row | {"fold_version": 1, "applied": 20} for row in rows]
    insert(client, table, [row | older | {"applied": 10} for row in held])
    insert(client, table, held + [row | older | {"fold_version": 2, "applied": 30} for row in held])


def plant(client: Client) -> None:
    """The whole world."""
    pair: Row = {"platform": "douyin", "creator_id": "c1"}
    insert(client, "fan_settings", [{"time_zone": "Asia/Shanghai", "active_interval": 7, "written_at": NOW}])
    insert(client, "fan_refreshes", [{"day": TODAY, "written_at": NOW}])
    windows = '{"click_window":168,"view_window":24}'
    insert(client, "checkpoints", [{"agent": "attribution", "topic": "fan_touches", "parameters": windows}])
    insert(client, "checkpoints", [{"agent": "ads", "topic": "ad_events", "newest": NOW}])
    plant_ads(client, pair)
    plant_fans(client, pair)
    plant_events(client)
    client.command("SYSTEM STOP MERGES alerts")
    for version in (1, 2):
        insert(
            client,
            "alerts",
            [
                {
                    "id": f"{kind}:{found}",
                    "kind": kind,
                    **pair,
                    "at": at(found),
                    "state": "open" if version == 1 else "resolved",
                    "resolved_at": datetime.fromtimestamp(0, UTC) if version == 1 else at(over or found),
                    "said": f"{kind} was found",
                    "advice": ["first", "second"],
                    "version": version,
                }
                for kind, found, over in ALERTS
                if over or version == 1
            ],
        )


def plant_ads(client: Client, pair: Row) -> None:
    places = ("campaign_id", "ad_group_id", "creative_id", "audience")
    rows = [
        {
            **pair,
            **dict(zip(places, row, strict=False)),
            "channel": "feed",
            "minute": at(row[4]),
            "origin": "stream",
            **dict(zip(("impressions", "clicks", "conversions"), row[5:8], strict=True)),
            "cost_micros": row[8] * YUAN,
        }
        for row in ADS
    ]
    versions(client, "ads_minute", rows, {"impressions": 7000, "clicks": 7, "cost_micros": YUAN})
    rows = [
        {
            "key": f"{rule}:{moment}",
            "rule_id": rule,
            "platform": "douyin",
            "campaign_id": campaign,
            "ad_group_id": group,
            "closed_at": at(moment).replace(second=0),
            "decided_at": at(moment),
            "action": action,
            "clamped_by": bound,
            "before_micros": before and before * YUAN,
            "after_micros": after and after * YUAN,
        }
        for moment, rule, campaign, group, action, before, after, bound in ACTIONS
    ]
    versions(client, "budget_actions", rows, {"after_micros": 1})
    rows = [
        {
            "rule_id": rule,
            "platform": "douyin",
            "campaign_id": campaign,
            "ad_group_id": group,
            "closed_at": at(closed),
            "mode": mode,
            "outcome": outcome,
            "reason": reason,
            "metrics": ["cpm", "ctr", "impressions", "cpa"],
            "metric_values": [11_800_000, 25_000, 800, None],
            "guards": ["impressions", "spend", "age"],
            "guard_wants": [1000, 50_000_000, 172_800_000],
            "guard_found": [800, 9_440_000, 273_600_000],
            "guard_holds": [0, 0, 1] if reason == "guards" else [1, 1, 1],
        }
        for rule, campaign, group, closed, mode, outcome, reason in DECISIONS
    ]
    versions(client, "rule_decisions", rows, {"outcome": "skipped", "reason": "stale"})
    insert(
        client,
        "rule_changes",
        [
            {
                "rule_id": "raise",
                "partition": partition,
                "applied": applied,
                "version": version,
                "mode": mode,
                "enabled": enabled,
                "name": "Raise it.",
                "changed_by": "lin",
                "changed_at": at(moment),
            }
            for partition, applied, version, mode, enabled, moment in RULES
        ],
    )
    state = {
        "kind": "entity",
        "platform": "douyin",
        "campaign_id": "k1",
        "text": '{"creator_id":"c1","state":"active"}',
    }
    numbers = [120 * YUAN, None, None, None, None, 1]
    insert(client, "rule_state", [state | {"numbers": numbers, "fold_version": 1, "applied": 1}])
    never = datetime.fromtimestamp(0, UTC)
    rows = [
        {
            **pair,
            "fan": fan,
            "kind": kind,
            "converted_at": at(moment),
            "partition": 0,
            "offset": number,
            "order_id": order,
            "amount_micros": yuan * YUAN,
            "touch": touch,
            "touched_at": never if touch == "none" else at(moment) - timedelta(hours=2),
            "touch_offset": -1 if touch == "none" else 1,
            "campaign_id": {"A": "k1", "B": "k2", "C": "k4", "": ""}[audience],
            "creative_id": creative,
            "audience": audience,
            "origin": "stream",
            "fold_version": 1,
            "applied": 1,
        }
        for number, (fan, kind, moment, touch, audience, creative, order, yuan) in enumerate(CONVERSIONS)
    ]
    insert(client, "attributions", rows)


def plant_fans(client: Client, pair: Row) -> None:
    rows = [
        {
            "platform": platform,
            "creator_id": creator,
            "fan": fan,
            "day": day(each),
            "actions": 1,
            "source": source,
            "content_id": content,
            "audience": "",
            "gift_micros": max(MONEY.get((fan, each), 0), 0) * YUAN,
            "refund_micros": max(-MONEY.get((fan, each), 0), 0) * YUAN,
            "events": 2,
        }
        for platform, creator, fan, source, content, days in DAYS
        for each in days
    ]
    client.command("SYSTEM STOP MERGES fan_days")
    insert(client, "fan_days", [row | {"source": "live", "content_id": "older", "events": 1} for row in rows])
    insert(client, "fan_days", rows)
    rows = [
        {"platform": platform, "creator_id": "c2", "fan": fan, "day": day("03-17"), "tier": tier, "tags": tags}
        for platform, fan, tier, tags in VALUES
    ]
    insert(client, "fan_values", [row | {"day": day("02-20"), "tier": "low", "tags": ["iron"]} for row in rows])
    insert(client, "fan_values", rows)
    sum_features(client, TODAY, datetime.now(UTC))
    rows = [
        {
            "platform": platform,
            "creator_id": creator,
            "fan": fan,
            "day": day(moved),
            "step": step,
            "at": datetime.combine(day(moved), datetime.min.time(), UTC),
            "from_stage": before,
            "to_stage": after,
            "reason": reason,
        }
        for platform, creator, fans, moved, step, before, after, reason in MOVES
        for fan in fans
    ]
    versions(client, "fan_transitions", rows, {"reason": "faded", "to_stage": "active"})
    client.command("SYSTEM STOP MERGES engagement_content_day")
    rows = [
        {**pair, "content_id": content, "day": day(of), "partition": partition, "follows": follows, "plays": plays}
        for content, of, partition, follows, plays in VIDEOS
    ]
    versions(client, "engagement_content_day", rows, {"follows": 100})


def plant_events(client: Client) -> None:
    numbers = count()

    def event(kind: str, moment: str, fan: int, more: Row) -> Row:
        number = next(numbers)
        when = {"event_time": at(moment), "appended_at": at(moment), "event_id": str(number), "offset": number}
        return {"platform": "douyin", "creator_id": "c3", "fan": fan, "kind": kind, **when, **more}

    rows = [event(kind, moment, fan, more) for fan, kind, moment, more in INTERACTIONS]
    insert(client, "raw_interactions", rows + [row | {"offset": 9999, "duplicate": 1} for row in rows[:1]])
    insert(
        client,
        "raw_gifts",
        [
            event(
                "gift",
                moment,
                fan,
                {
                    "creator_id": creator,
                    "live_id": room,
                    "pk_opponent": opponent,
                    "quantity": many,
                    "value_micros": yuan * YUAN,
                },
            )
            for creator, fan, moment, room, opponent, many, yuan in GIFTS
        ],
    )
    insert(
        client,
        "raw_orders",
        [
            event(kind, moment, fan, {"order_id": order, "product_id": product, "amount_micros": yuan * YUAN, **more})
            for order, fan, kind, moment, product, yuan, more in ORDERS
        ],
    )


@pytest.fixture(scope="module")
def client(stack: Stack) -> Iterator[Client]:
    """The analyst's client in the planted world."""
    settings = Settings(home=stack.home.path, database=f"fanpulse_{secrets.token_hex(4)}")
    migrate(settings)
    with contextlib.closing(clickhouse_client(settings)) as app:
        try:
            plant(app)
            with contextlib.closing(clickhouse_client(settings, "analyst")) as client:
                yield client
        finally:
            app.command(f"DROP DATABASE IF EXISTS {settings.database} SYNC")


def ask(client: Client, query: str) -> Answer:
    """Rows of a query, asked at ``NOW``; moments in UTC."""
    query = query.replace("now()", f"toDateTime('{NOW:%F %T}', 'UTC')").replace("today()", f"toDate('{NOW:%F}')")
    rows = client.query(query).result_rows
    return [tuple(_utc(value) for value in row) for row in rows]


def _utc(value: Any) -> Any:
    if not isinstance(value, datetime):
        return value
    return value.astimezone(UTC) if value.tzinfo else value.replace(tzinfo=UTC)


def stages() -> Answer:
    """Fans of each creator by stage: where each fan's last move led."""
    last = {(move[0], move[1], fan): move[6] for move in MOVES for fan in move[2]}
    found: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for (platform, creator, _), stage in last.items():
        found[platform, creator][stage] += 1
    order = ("new", "active", "retained", "silent", "churned")
    rows = [(*who, sum(fans.values()), *(fans[stage] for stage in order)) for who, fans in found.items()]
    return sorted(rows, key=lambda row: (-row[2], *row[:2]))


def cohorts(after: tuple[int, ...], by_source: bool) -> dict[Any, list[Any]]:
    """Fans by week of their first day, and source; beside them who acted on each later day, None if it is not over."""
    found: dict[Any, list[Any]] = {}
    for _, _, _, source, _, days in DAYS:
        acted = [day(each) for each in days]
        week = acted[0] - timedelta(days=acted[0].weekday())
        key = (week, source) if by_source else week
        line = found.setdefault(key, [0] + [0 if week + timedelta(6 + n) < TODAY else None for n in after])
        line[0] += 1
        for place, n in enumerate(after, start=1):
            if line[place] is not None:
                line[place] += acted[0] + timedelta(n) in acted
    return found


def retention() -> Answer:
    found = cohorts((1, 7, 14, 30), by_source=True)
    rows = [
        (*key, fans, *(None if kept is None else round(kept / fans, 3) for kept in line))
        for key, (fans, *line) in found.items()
    ]
    return sorted(rows, key=lambda row: (-row[0].toordinal(), -row[2], row[1]))


def retention_of_a_mistake() -> Answer:
    found = cohorts((7,), by_source=False).values()
    kept = sum(line[1] or 0 for line in found)
    of_age = sum(line[0] for line in found if line[1] is not None)
    return [(round(kept / sum(line[0] for line in found), 3), round(kept / of_age, 3))]


MISTAKES = "How to get it wrong"
ANSWERS: dict[tuple[str, int], Answer] = {
    (MISTAKES, 0): [("douyin", "c3", 3, 2)],
    (MISTAKES, 1): [("douyin", "k1", 0.01, 0.0167), ("douyin", "k2", 0.002, 0.0036)],
    # Of each of nine rows there are three versions; those of January are older than a week.
    (MISTAKES, 2): [(4700 + 7 * 2 * 7000, 5 * 4700, 4700)],
    (MISTAKES, 3): [(20.0, 10.0)],
    (MISTAKES, 4): [(3, 2)],
    (MISTAKES, 5): retention_of_a_mistake(),
    ("Who needs attention?", 0): [
        (at("16 16:00"), 26, "churn_high", "douyin", "c1", "", "churn_high was found", "first")
    ],
    ("Which alerts ring most, and how long are they open?", 0): [
        ("cpm_high", 3, 0, 1, 2.0, 3.0),
        ("churn_high", 1, 1, 1, None, 26.5),
    ],
    ("Which videos brought the most new fans today?", 0): [
        ("douyin", "c1", "v1", 5, 30),
        ("douyin", "c1", "v2", 4, 50),
    ],
    ("Who watches to the end, by what brought them?", 0): [("recommend", 2, 0.5, 7.5), ("search", 1, 0.0, 3.0)],
    ("In which stage are the fans of each creator?", 0): stages(),
    ("Why do fans leave: by unfollow or by absence?", 0): [
        # Each day begins with 10 x 4, 9, 8 x 4, 5, 5, 6 x 5 fans, and with 1, 2, 2, 5 x 4, 4 x 5 idle ones.
        ("douyin", "c1", 5, 2, 3, 0.4, day("03-10"), round(5 / 121, 4), 10, 1, round(1 / 45, 4)),
        ("kuaishou", "c1", 1, 1, 0, 1.0, day("03-02"), 1.0, 1, 0, 0.0),
        # From 02-17 to 03-01 each begins with a fan, and then with an idle one.
        ("kuaishou", "c2", 1, 0, 1, 0.0, day("03-01"), round(1 / 13, 4), 0, 0, 0.0),
        ("douyin", "c3", 0, 0, 0, None, None, None, 1, 0, None),
        ("douyin", "c5", 0, 0, 0, None, None, None, 1, 0, None),
        ("douyin", "c2", 0, 0, 0, None, None, None, 0, 0, 0.0),
    ],
    ("From which stage to which, and why?", 0): [
        ("silent", "churned", "absent", 3, 0),
        ("none", "new", "arrived", 2, 0),
        ("churned", "active", "returned", 1, 0),
    ],
    ("Which fans are about to be lost?", 0): [
        ("douyin", "c2", "high", 2, 1, 0, 500.0),
        ("douyin", "c2", "low", 1, 1, 1, 2.0),
    ],
    ("Where do the fans who give money stand?", 0): [("new", 1, 10.0), ("silent", 2, 502.0)],
    ("Which comments ask for help?", 0): [(at("17 13:00"), "douyin", "c3", "video", "请问退款多久")],
    ("Where do complaints rise?", 0): [("douyin", "c3", 3, 1, 0.333, 0.5)],
    ("Who is in the live rooms, and how long do they stay?", 0): [
        ("douyin", "c4", "L2", at("17 12:00:30"), 1, 1, None),
        ("douyin", "c3", "L1", at("17 12:00"), 4, 2, 12.5),
    ],
    ("What did each live room bring?", 0): [
        ("douyin", "c4", "L2", at("17 12:00:30"), 1, 0, 0, 1, 7.0, 0, 0.0, 7.0),
        ("douyin", "c3", "L1", at("17 12:00"), 3, 2, 1, 2, 15.0, 1, 30.0, 15.0),
    ],
    ("What do gifts bring, minute by minute?", 0): [
        (at("17 12:03"), "c3", "L1", 0.0, 1, 1, 0),
        (at("17 12:01"), "c3", "L1", 15.0, 3, 2, 1),
    ],
    ("Who gives most?", 0): [
        ("douyin", "c3", 41, 3, 10.0, at("17 12:03")),
        ("douyin", "c4", 44, 1, 7.0, at("17 12:02")),
        ("douyin", "c3", 42, 1, 5.0, at("17 12:01:50")),
    ],
    ("Who won the PKs?", 0): [(day("03-17"), "douyin", "c3", "c4", 5.0, 7.0, "c4")],
    ("What goes on in the fan groups?", 0): [
        (day("03-18"), "douyin", "c3", 1, 1, 1, 0.0, 0.0, 0.0, 0),
        (day("03-17"), "douyin", "c3", 5, 2, 4, 0.2, 0.2, 0.4, 1),
    ],
    ("Who speaks for us in the groups?", 0): [("douyin", "c3", 41, 2, 4, 3, 2), ("douyin", "c3", 42, 1, 1, 1, 1)],
    ("Do fan groups sell?", 0): [
        ("douyin", "c3", "G", 2, 1, 0.5, 1, 20.0),
        ("douyin", "c3", "H", 0, 1, None, 1, 5.0),
    ],
    ("From product card to money", 0): [
        ("douyin", "c3", "p3", 0, 0, 0, 2, None, None, None, 140.0, 40.0),
        ("douyin", "c3", "p1", 3, 2, 2, 2, 0.667, 1.0, 1.0, 50.0, 10.0),
        ("douyin", "c3", "p2", 0, 0, 0, 1, None, None, None, 5.0, 0.0),
        ("douyin", "c3", "p4", 0, 0, 0, 0, None, None, None, 0.0, 3.0),
    ],
    ("How much is sold, and how much of it comes back?", 0): [
        (day("03-18"), 1, 100.0, 100.0, 0.0, 0.0),
        (day("03-17"), 3, 55.0, 18.33, 10.0, 0.182),
        (day("03-16"), 1, 40.0, 40.0, 40.0, 1.0),
    ],
    # A: 13 + 20 + 8 + 50 + 9 yuan for 4,600 impressions; 150 less 30 yuan came back. C won a follow and cost nothing.
    ("Which audience pays, and do its fans stay?", 0): [
        ("A", 100.0, 21.74, 4, 25.0, 1, 120.0, 1.2, 0.2, 1.0, 0.5),
        ("B", 14.0, 12.73, 1, 14.0, 0, 0.0, 0.0, -1.0, None, None),
        ("C", 0.0, None, 1, 0.0, 0, 0.0, None, None, 0.0, 1.0),
    ],
    ("Which creative converts?", 0): [
        ("douyin", "k1", "v1", 3600, 60, 7, 0.0167, 0.1167, 12.43, 2, 0),
        ("douyin", "k2", "v3", 600, 0, 0, 0.0, None, None, 0, 0),
        ("douyin", "k2", "v2", 500, 4, 0, 0.008, 0.0, None, 1, 0),
    ],
    ("How do spend and CPM run against yesterday?", 0): [
        (0, 1.0, 0.0, 10.0, None),
        (2, 9.0, 0.0, 90.0, None),
        (20, 0.0, 58.0, None, 23.2),
        (21, 0.0, 0.0, None, None),
        (23, 0.0, 13.0, None, 13.0),
    ],
    # 9 of 120 yuan when 150 of 1,440 minutes are over; 9 yuan in the last 59 minutes, and 1,290 minutes to go.
    ("How much budget is left?", 0): [
        ("douyin", "k1", 9.0, 120.0, 111.0, 0.72, 205.78, at("18 06:37:40")),
        ("douyin", "k2", 1.0, None, None, None, 1.0, None),
    ],
    ("What did the rules change yesterday?", 0): [
        (at("16 16:00"), "cut", "douyin", "k3", "", "budget", 50.0, 45.0, -10.0, "floor"),
        (at("17 12:00:30"), "raise", "douyin", "k1", "", "budget", 100.0, 120.0, 20.0, ""),
        (at("17 15:59"), "halt", "douyin", "k2", "g2", "pause", None, None, None, ""),
    ],
    # The six hours after the pause are not over.
    ("What became of CPM and CPA after it?", 0): [
        (at("16 16:00"), "cut", "douyin", "k3", "", "budget", None, None, None, None, None, None),
        (at("17 12:00:30"), "raise", "douyin", "k1", "", "budget", 20.0, 16.0, 25.0, 10.0, 8.0, 12.5),
        (at("17 15:59"), "halt", "douyin", "k2", "g2", "pause", None, 25.0, None, None, None, None),
    ],
    ("Why did a rule not fire?", 0): [
        (
            *(at(f"17 {hour}:00"), "raise", "k1", "", outcome, reason),
            ["cpm 11.8 yuan", "ctr 2.5 %", "impressions 800", "cpa none"],
            ["impressions 800 of 1000", "spend 9.44 of 50"] if reason == "guards" else [],
            "",
        )
        for hour, outcome, reason in ((18, "skipped", "guards"), (17, "skipped", "guards"), (12, "fired", ""))
    ]
    + [
        (
            *(at("16 18:00"), "raise", "k1", "", "fired", ""),
            ["cpm 11.8 yuan", "ctr 2.5 %", "impressions 800", "cpa none"],
            [],
            "",
        )
    ],
    ("Which rules fire, and what stops the others?", 0): [
        ("halt", "dry_run", "dry_run", "", 1, 1, at("17 18:10")),
        ("raise", "act", "skipped", "guards", 2, 1, at("17 18:00")),
        ("raise", "act", "fired", "", 1, 1, at("17 12:00")),
        ("raise", "act", "skipped", "conditions", 1, 1, at("17 12:00")),
    ],
    ("Who changed the rules themselves?", 0): [
        (at("17 10:00"), "raise", 2, "act", 0, "lin", "Raise it."),
        (at("16 10:00"), "raise", 1, "act", 1, "lin", "Raise it."),
    ],
    ("Which audience's acquired fans stay longest?", 0): [
        ("C", 1, 1, 0.0, 0.0, 1.0, 0.0),
        ("A", 4, 2, 0.5, 1.0, 0.5, 63.0),
        ("B", 1, 0, 1.0, None, None, None),
    ],
    ("Which content brought iron fans?", 0): [
        ("douyin", "c2", "va", 4, 3, 2, 0.667),
        ("douyin", "c2", "vb", 1, 1, 1, 1.0),
    ],
    ("Who stays, by what brought them?", 0): retention(),
    ("How much do advertisements bring, and how much comes by itself?", 0): [
        ("follow", "click", 2, 0.5, 0.0, 2.0),
        ("follow", "impression", 1, 0.25, 0.0, 2.0),
        ("follow", "none", 1, 0.25, 0.0, None),
        ("order", "none", 1, 1.0, 99.0, None),
    ],
}
"""What each question has for an answer, worked out by hand, by heading and number below it."""

WRONG: dict[str, list[tuple[str, str]]] = {
    "Which alerts ring most, and how long are they open?": [
        (" FINAL", ""),
        ("if(state = 'open', now(), resolved_at)", "resolved_at"),
        ("WHERE at >= now() - INTERVAL 28 DAY", ""),
        ("OrNullIf", "If"),
    ],
    "Which videos brought the most new fans today?": [
        (" FINAL", ""),
        ("fold_version = 1 AND ", ""),
        ("day = (SELECT max(day) FROM engagement_content_day)", "1"),
    ],
    "Who watches to the end, by what brought them?": [("duration_ms > 0 AND ", "")],
    "Why do fans leave: by unfollow or by absence?": [
        ("lost - by_unfollow", "lost"),
        ("sum(fans_at_start)", "max(fans_at_start)"),
        ("by_unfollow / nullIf(lost, 0)", "by_unfollow / lost"),
    ],
    "Which fans are about to be lost?": [
        ("WHERE stage = 'silent'", ""),
        ("LEFT JOIN fan_contribution", "INNER JOIN fan_contribution"),
        ("30 - 7", "30"),
    ],
    "Which comments ask for help?": [("INTERVAL 1 DAY", "INTERVAL 2 DAY")],
    "Where do complaints rise?": [("AND text != ''", "")],
    "What did each live room bring?": [
        (
            "LEFT JOIN sold USING (platform, creator_id, live_id)",
            "INNER JOIN sold USING (platform, creator_id, live_id)",
        ),
        ("uniqExactIf(fan, kind = 'live_enter')", "countIf(kind = 'live_enter')"),
        ("sumIf(amount_micros, kind = 'paid')", "sum(amount_micros)"),
    ],
    "Who won the PKs?": [("creator_id = one", "pk_opponent = one")],
    "What goes on in the fan groups?": [
        ("toDate(event_time, 'Asia/Shanghai')", "toDate(event_time)"),
        ("uniqExactIf(fan, kind = 'group_link_click')", "countIf(kind = 'group_link_click')"),
    ],
    "Who speaks for us in the groups?": [("NOT IN (0, fan)", "!= 0"), ("INTERVAL 28 DAY", "INTERVAL 90 DAY")],
    "Do fan groups sell?": [("FULL OUTER JOIN", "LEFT JOIN"), ("uniqExact(fan) AS clicked", "count() AS clicked")],
    "From product card to money": [
        ("FULL OUTER JOIN", "INNER JOIN"),
        ("nullIf(exposures, 0)", "exposures"),
        ("uniqExactIf(order_id, kind = 'paid')", "uniqExact(order_id)"),
    ],
    "How much is sold, and how much of it comes back?": [
        ("    HAVING countIf(kind = 'paid') > 0\n", ""),
        ("toDate(paid_at, 'Asia/Shanghai')", "toDate(paid_at)"),
        ("minIf(event_time, kind = 'paid')", "max(event_time)"),
    ],
    "Which audience pays, and do its fans stay?": [
        ("INTERVAL 60 DAY", "INTERVAL 90 DAY"),
        ("sum(net_micros) AS net", "sum(revenue_micros) AS net"),
        ("sumIf(fans, retained_30 IS NOT NULL)", "sum(fans)"),
        ("sumIf(fans, retained_7 IS NOT NULL)", "sum(fans)"),
        ("by = 'audience' AND", "by = 'campaign' AND"),
        ("(net - spent)", "net"),
    ],
    "Which creative converts?": [("USING (platform, campaign_id, value)", "USING (platform, campaign_id)")],
    "How do spend and CPM run against yesterday?": [
        ("WHERE by = 'campaign' AND", "WHERE"),
        ("toDate(hour, 'Asia/Shanghai') =", "toDate(hour) ="),
        ("toHour(hour, 'Asia/Shanghai')", "toHour(hour)"),
    ],
    "How much budget is left?": [("WHERE ad_group_id = ''", "")],
    "What did the rules change yesterday?": [
        (" FINAL", ""),
        ("fold_version = 1\n    AND ", ""),
        ("toDate(decided_at, 'Asia/Shanghai') = ", "toDate(decided_at) = "),
        ("toDate(now(), 'Asia/Shanghai') - 1", "today() - 1"),
    ],
    "What became of CPM and CPA after it?": [
        ("ads_minute FINAL", "ads_minute"),
        ("['', ads_minute.ad_group_id]", "[ads_minute.ad_group_id]"),
        ("USING (platform, campaign_id, ad_group_id)", "USING (platform, campaign_id)"),
        ("LEFT JOIN minutes", "INNER JOIN minutes"),
        (" AND is_over", ""),
        ("minute < decided_at + INTERVAL 6 HOUR", "minute < decided_at + INTERVAL 7 HOUR"),
        ("minute >= decided_at - INTERVAL 24 HOUR", "minute >= decided_at - INTERVAL 23 HOUR"),
    ],
    "Why did a rule not fire?": [
        ("rule_decisions FINAL\nWHERE fold_version = 1\n", "rule_decisions FINAL\nWHERE 1\n"),
        ("WHERE fold_version = 1 AND outcome = 'skipped'", ""),
        ("[1e6, 36e5, 36e5]", "[1e3, 36e5, 36e5]"),
    ],
    "Which rules fire, and what stops the others?": [(" FINAL", ""), ("fold_version = 1 AND ", "")],
    "Who changed the rules themselves?": [("partition = 0 AND ", "")],
    "Which audience's acquired fans stay longest?": [
        ("sumIf(fans, retained_30 IS NOT NULL)", "sum(fans)"),
        ("sumIf(fans, retained_7 IS NOT NULL)", "sum(fans)"),
        ("WHERE by = 'audience' AND", "WHERE"),
        ("value_30_micros", "value_7_micros"),
        ("ORDER BY retention_30 DESC", "ORDER BY acquired DESC"),
    ],
    "Which content brought iron fans?": [
        ("USING (platform, creator_id, fan)", "USING (creator_id, fan)"),
        ("WHERE content_id != ''", ""),
        ("HAVING iron_fans > 0", ""),
        ("as_of - 30", "as_of - 31"),
        ("nullIf(of_age, 0)", "nullIf(fans_brought, 0)"),
    ],
    "Who stays, by what brought them?": [
        ("WHERE by = 'source' AND", "WHERE"),
        ("by = 'source'", "by = 'content'"),
        ("sum(retained_30) / sum(fans)", "ifNull(sum(retained_30), 0) / sum(fans)"),
    ],
    "How much do advertisements bring, and how much comes by itself?": [
        ("WHERE converted_at >= now() - INTERVAL 7 DAY", ""),
        ("PARTITION BY kind", ""),
    ],
}
"""Of each question, what may be written wrong, and how."""


@pytest.mark.parametrize(("heading", "number"), ANSWERS, ids=lambda part: str(part))
def test_the_answer_is_that_by_hand(client: Client, heading: str, number: int) -> None:
    assert ask(client, QUESTIONS[heading][number]) == ANSWERS[heading, number]


@pytest.mark.parametrize("heading", WRONG)
def test_a_query_made_wrong_has_another_answer(client: Client, heading: str) -> None:
    (right,) = QUESTIONS[heading]
    for part, instead in WRONG[heading]:
        assert part in right
        assert ask(client, right.replace(part, instead)) != ANSWERS[heading, 0], instead


def test_what_is_rare_is_answered_here() -> None:
    assert {name for name, _ in ANSWERS} <= set(QUESTIONS)
    assert set(WRONG) <= {name for name, _ in ANSWERS}
    assert {name for name, _ in ANSWERS} >= RARE


def test_the_list_on_top_has_every_question() -> None:
    top, _, rest = (ROOT / "docs" / "sql.md").read_text(encoding="utf-8").partition("## What to know first")
    listed = re.findall(r"\]\(#([\w-]+)\)", top)
    asked = re.findall(r"^#{2,3} (.+)$", rest, re.MULTILINE)
    assert sorted(listed) == sorted(anchor(title) for title in asked)


def test_events_are_asked_for_a_time() -> None:
    for heading, queries in QUESTIONS.items():
        for query in queries:
            assert len(re.findall(r"FROM (?:events|raw)_", query)) <= query.count("event_time >= now() - "), heading
