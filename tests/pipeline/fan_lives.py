"""Fans who come, stay, pause, leave and come back: their events, and the moves that are known of them."""

from random import Random
from typing import Any
from zoneinfo import ZoneInfo

import orjson
from kafka import KafkaConsumer, TopicPartition
from rig import DAY, ask, event, now_ms

from infra.connect import kafka_options
from infra.settings import Settings
from pipeline import fan_log

COMMON = ("event_id", "event_time", "platform", "fan_id", "creator_id")
AD = ("campaign_id", "ad_group_id", "creative_id", "audience")
FANS = ("fan_state", "fan_transitions", "fan_stages", "fan_moves")
"""What verify says of fans."""


def life(rng: Random, days: int, fans: int, until_ms: int) -> dict[str, list[dict[str, Any]]]:
    """Events of fans who come, stay, pause, leave and come back, by topic, each in the order of event time."""
    found: dict[str, list[dict[str, Any]]] = {"interactions": [], "gifts": [], "orders": [], "ad_events": []}
    number = 0
    for fan in range(fans):
        day = rng.randrange(days)
        while day < days:
            for _ in range(rng.randrange(1, 4)):
                number += 1
                at = until_ms - (days - day) * DAY + rng.randrange(DAY)
                topic, fields = rng.choice(
                    (
                        ("interactions", {}),
                        ("interactions", {}),
                        ("interactions", {"kind": "unfollow"}),
                        (
                            "gifts",
                            {"kind": "gift", "live_id": "l", "gift_type": "rose", "quantity": 1, "value_micros": 5},
                        ),
                        ("orders", {"kind": "paid", "order_id": f"o{number}", "product_id": "p", "amount_micros": 7}),
                        (
                            "orders",
                            {"kind": "refunded", "order_id": f"o{number}", "product_id": "p", "amount_micros": 7},
                        ),
                        ("ad_events", {"kind": rng.choice(("impression", "click"))}),
                    )
                )
                made = event(rng, number, at, fan_id=f"fan{fan}", creator_id=f"c{fan % 2}", platform="douyin")
                if fields:
                    made = {name: made[name] for name in COMMON} | fields
                if topic == "ad_events":
                    made |= dict.fromkeys(AD, "a") | {"channel": "feed"}
                found[topic].append(made)
            day += rng.choice((1, 1, 2, 3, 6, 7, 8, 14, 29, 30, 31))
    return {topic: sorted(made, key=lambda each: each["event_time"]) for topic, made in found.items()}


def moves_in_kafka(settings: Settings) -> dict[str, dict[str, Any]]:
    """What a consumer of the topic knows: of each id the highest version; equal versions are equal."""
    consumer = KafkaConsumer(**kafka_options(settings), auto_offset_reset="earliest", enable_auto_commit=False)
    topic = settings.topic_prefix + "fan_transitions"
    places = [TopicPartition(topic, partition) for partition in range(settings.partitions)]
    consumer.assign(places)
    ends = consumer.end_offsets(places)
    found: dict[str, dict[str, Any]] = {}
    try:
        while any(consumer.position(place) < ends[place] for place in places):
            for records in consumer.poll(1000).values():
                lines = [(record.key.decode(), line) for record in records for line in record.value.splitlines()]
                for key, line in lines:
                    move = orjson.loads(line)
                    assert key == move["creator_id"]
                    known = found.get(move["id"])
                    if known is None or move["version"] > known["version"]:
                        found[move["id"]] = move
                    elif move["version"] == known["version"]:
                        assert move == known
    finally:
        consumer.close()
    return found


def moves_in_clickhouse(settings: Settings) -> set[tuple[Any, ...]]:
    return set(
        ask(
            settings,
            "SELECT platform, creator_id, toString(fan), toString(day), step, toString(from_stage), "
            "toString(to_stage), toUnixTimestamp64Milli(at), reason, resurrected FROM fan_transitions FINAL "
            "WHERE NOT withdrawn",
        )
    )


def today(settings: Settings) -> bool:
    """Whether every partition of the fan log has reached the present day."""
    zone = ZoneInfo(settings.time_zone)
    found = [inputs for (inputs,) in ask(settings, "SELECT inputs FROM checkpoints FINAL WHERE agent = 'lifecycle'")]
    days = [fan_log.as_of(fan_log.read_inputs(inputs), zone) for inputs in found]
    return days == [fan_log.local_day(now_ms() - 60_000, zone)] * settings.partitions
