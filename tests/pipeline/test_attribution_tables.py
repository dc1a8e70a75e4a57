"""Attribution on a real stack: workers killed, late events repaired, views and twin against a plain computation."""

from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from random import Random
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from rig import WorkerProcess, ask, await_stored, now_ms, prepare, send, stored, until, verified

from infra.settings import Settings
from pipeline.repair import repair

HOUR = 3_600_000
CLICK, VIEW = 20, 6
Event = dict[str, Any]


def made(rng: Random, start: int, end: int, topic: str, count: int, tag: str) -> list[Event]:
    """Events of a topic between two times (UTC ms), in their order."""
    kinds = {
        "ad_events": ("impression", "impression", "click", "play", "conversion"),
        "interactions": ("follow", "view", "unfollow"),
        "orders": ("paid", "paid", "refunded", "placed"),
    }
    found = []
    for number in range(count):
        event: Event = {
            "event_id": f"{tag}{topic}{number}",
            # Whole minutes: touches at one time, and at that of a conversion.
            "event_time": rng.randrange(start, end) // 60_000 * 60_000,
            "platform": "douyin",
            "fan_id": f"fan{rng.randrange(25)}",
            "creator_id": f"c{rng.randrange(2)}",
            "kind": rng.choice(kinds[topic]),
        }
        if topic == "ad_events":
            event |= {"campaign_id": f"k{rng.randrange(3)}", "ad_group_id": "g", "creative_id": f"v{rng.randrange(5)}"}
            event |= {"audience": rng.choice(("通投", "18-23 学生")), "channel": "feed", "cost_micros": 20_001}
        elif event["kind"] == "view":
            event |= {"content_id": "v", "watch_ms": 1, "duration_ms": 2}
        elif topic == "orders":
            fan, creator = event["fan_id"], event["creator_id"]
            event |= {"order_id": f"o{fan}{creator}{rng.randrange(4)}", "product_id": "p"}
            event |= {"amount_micros": rng.randrange(1, 10**8)}
        found.append(event)
    return sorted(found, key=lambda event: event["event_time"])


Key = tuple[str, str, str, int, str, int]


def expected(ads: Iterable[Event], others: Iterable[Event]) -> dict[Key, tuple[Any, ...]]:
    """Every conversion by kind, fan's creator, time, order and amount: who won it, and what was refunded."""
    windows = {"click": CLICK * HOUR, "impression": VIEW * HOUR}
    touches: dict[tuple[str, str], list[tuple[Any, ...]]] = {}
    for at, ad in enumerate(ads):
        if ad["kind"] in windows:
            rank = (ad["event_time"], ad["kind"] == "click", at)
            shown = (ad["kind"], ad["event_time"], ad["campaign_id"], ad["creative_id"], ad["audience"])
            touches.setdefault((ad["fan_id"], ad["creator_id"]), []).append((rank, shown))
    others = list(others)
    refunds: dict[str, int] = {}
    first: dict[str, tuple[int, int]] = {}
    for at, event in enumerate(others):
        if event["kind"] == "refunded":
            refunds[event["order_id"]] = refunds.get(event["order_id"], 0) + event["amount_micros"]
        if event["kind"] == "paid":
            before = first.get(event["order_id"], (event["event_time"], at))
            first[event["order_id"]] = min(before, (event["event_time"], at))
    found = {}
    for at, event in enumerate(others):
        if event["kind"] in ("follow", "paid"):
            may = [
                (rank, shown)
                for rank, shown in touches.get((event["fan_id"], event["creator_id"]), [])
                if 0 <= event["event_time"] - rank[0] <= windows[shown[0]]
            ]
            won = max(may)[1] if may else ("none", None, "", "", "")
            order = event.get("order_id", "")
            amount = event.get("amount_micros", 0)
            back = refunds.get(order, 0) if first.get(order) == (event["event_time"], at) else 0
            kind = "follow" if event["kind"] == "follow" else "order"
            key = (kind, event["creator_id"], event["event_id"], event["event_time"], order, amount)
            found[key] = (*won, back)
    return found


SHOWN = """
    SELECT
        kind, creator_id, event_id, toUnixTimestamp64Milli(converted_at), order_id, revenue_micros,
        touch, toUnixTimestamp64Milli(touched_at), campaign_id, creative_id, audience, refunded_micros, net_micros
    FROM attributed_conversions
    INNER JOIN
    (
        SELECT 'follow' AS kind, partition, `offset`, event_id FROM events_interactions
        UNION ALL
        SELECT 'order' AS kind, partition, `offset`, event_id FROM events_orders
    ) AS events USING (kind, partition, `offset`)
"""


def shown(settings: Settings) -> dict[Key, tuple[Any, ...]]:
    """What the view says."""
    found = {}
    for row in ask(settings, SHOWN):
        assert row[12] == row[5] - row[11]
        assert row[:6] not in found
        found[row[:6]] = row[6:12]
    return found


@pytest.mark.stack
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_conversions_are_won_as_defined_over_kills_and_repairs(settings: Settings, tmp_path: Path) -> None:
    settings = settings.model_copy(update={"click_window": CLICK, "view_window": VIEW, "partitions": 2})
    prepare(settings)
    rng = Random(6)
    now = now_ms()
    start = now - 60 * HOUR
    sent: dict[str, list[Event]] = {"ad_events": [], "interactions": [], "orders": []}
    counts = {"ad_events": 900, "interactions": 500, "orders": 300}

    def tell(since: int, before: int, part: float, tag: str, late: bool = False) -> dict[str, list[Event]]:
        told = {}
        for topic, count in counts.items():
            told[topic] = made(rng, since, before, topic, int(count * part), tag)
            send(settings, topic, [*told[topic], *([] if late else told[topic][-20:])])
        return told

    def add(told: dict[str, list[Event]]) -> None:
        for topic, events in told.items():
            sent[topic] += events

    def right() -> None:
        assert shown(settings) == expected(sent["ad_events"], [*sent["interactions"], *sent["orders"]])

    with WorkerProcess(settings, tmp_path / "worker", flush_interval=0.05) as worker:
        add(tell(start, now - 30 * HOUR, 0.5, "a"))
        until(lambda: any(stored(settings).get(("fan_touches", p), 0) for p in range(2)), "some touches")
        worker.kill()
    with WorkerProcess(settings, tmp_path / "worker", flush_interval=0.05) as worker:
        # Touches come long after the conversions that they win.
        told = {
            topic: made(rng, now - 30 * HOUR, now - 3 * HOUR, topic, count // 2, "b") for topic, count in counts.items()
        }
        for topic in ("orders", "interactions"):
            send(settings, topic, told[topic])
        await_stored(settings, [worker])
        worker.kill()
    with WorkerProcess(settings, tmp_path / "worker") as worker:
        send(settings, "ad_events", told["ad_events"])
        add(told)
        await_stored(settings, [worker])
        right()
        assert verified(settings)["attributions"] > 300
        # All of these are late.
        late = tell(now - 50 * HOUR, now - 20 * HOUR, 0.2, "c", late=True)
        await_stored(settings, [worker])
        right()
        verified(settings)
        zone = ZoneInfo(settings.time_zone)
        first, last = (datetime.fromtimestamp(at / 1000, zone).date() for at in (start, now))
        rows = repair(settings, first, last).rows
        assert rows["late_touches"] > 50
        assert rows["attributions"] > 50
        add(late)
        right()
        found = verified(settings)
        assert found["late_touches"] == rows["late_touches"]
        assert repair(settings, first, last).rows == rows
        right()
        # What late touches win afterwards, and what is refunded late.
        add(tell(now - 3 * HOUR, now, 0.2, "d"))
        await_stored(settings, [worker])
        right()
        verified(settings)
        winners = {row[0] for row in shown(settings).values()}
        assert winners == {"click", "impression", "none"}
        assert worker.stop() == 0
