"""The load: interactions as the fan platforms would send them, the same for the same seed."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import orjson

from schemas.topics import partition_for

FANS, CREATORS, CONTENTS = 20_000, 100, 2_000
OWN_CREATORS, OWN_SHARE = 3, 0.95
"""A fan has creators of its own, as weighty as they are, and is with one of them in this share of its events. So one
event in ten is a fan's first with a creator on that day, as in the world of the generators."""
STRANGERS = 100_000
"""Fans of the load in which nobody is anybody's fan: three of four events are a fan's first with a creator."""
SPAN_MS = 30 * 60_000
"""Event time that the load covers."""
DISORDER_MS = 1_500
"""Mean delay of an event on its way, exponential."""
REPEATS = 0.001
"""Share of events that are sent twice."""
KNOWN = 5
"""Of one fan in so many the platform tells region, age, interest and device."""
CHUNK = 50_000

SHARES = {
    "view": 0.58,
    "like": 0.12,
    "product_exposure": 0.05,
    "live_like": 0.04,
    "live_enter": 0.04,
    "live_leave": 0.035,
    "comment": 0.03,
    "live_comment": 0.025,
    "profile_visit": 0.02,
    "share": 0.02,
    "favorite": 0.015,
    "follow": 0.01,
    "product_click": 0.006,
    "group_message": 0.004,
    "unfollow": 0.002,
    "group_checkin": 0.002,
    "dm_sent": 0.001,
}
"""Share of each kind."""

_REGIONS = ("广东", "江苏", "山东", "浙江", "河南", "四川", "湖北", "福建", "湖南", "上海")
_AGES = ("18-23", "24-30", "31-40", "41-50", "50+")
_INTERESTS = ("美食", "美妆", "游戏", "音乐", "旅行", "健身")
_DEVICES = ("android", "ios")
_SOURCES = ("recommend", "recommend", "recommend", "follow", "search", "profile")
_TEXTS = ("太好看了", "主播晚上好", "求链接", "哈哈哈哈", "已下单，等发货", "第一次来，支持一下")


@dataclass(frozen=True)
class Chunk:
    """A part of the load, in the order in which it is sent: values, their keys, and the partition of each."""

    keys: list[bytes]
    values: list[bytes]
    partitions: list[int]


def chunks(events: int, start_ms: int, partitions: int, seed: int = 1, strangers: bool = False) -> Iterator[Chunk]:
    """The load in parts. A few creators and videos have most of the audience (weights 1/rank); every video belongs
    to one creator and every fan to one partition; event times rise over ``SPAN_MS`` from ``start_ms``, with
    disorder of seconds. ``strangers``: fans have no creators of their own."""
    random = np.random.default_rng(seed)
    creator_of = random.choice(CREATORS, CONTENTS, p=_weights(CREATORS))
    content_weights = _weights(CONTENTS)
    number = STRANGERS if strangers else FANS
    # A creator's videos, by weight: every creator that a fan may have has some.
    videos = [np.flatnonzero(creator_of == creator) for creator in range(CREATORS)]
    having = np.flatnonzero([len(own) > 0 for own in videos])
    sizes = np.array([len(own) for own in videos])
    firsts, by_creator = np.cumsum(sizes) - sizes, np.concatenate(videos)
    weights = _weights(CREATORS)[having]
    own_creators = random.choice(having, (number, OWN_CREATORS), p=weights / weights.sum())
    kinds = list(SHARES)
    kind_weights = np.array(list(SHARES.values())) / sum(SHARES.values())
    fans = [f"u{number:08d}" for number in random.integers(0, 10**8, number).tolist()]
    homes = [partition_for(fan.encode(), partitions) for fan in fans]
    traits = random.integers(0, 2**31, number).tolist()
    durations = random.integers(8_000, 90_000, CONTENTS).tolist()
    for first in range(0, events, CHUNK):
        count = min(CHUNK, events - first)
        sent = start_ms + (np.arange(first, first + count) * SPAN_MS) // events
        times = (sent - random.exponential(DISORDER_MS, count).astype(np.int64)).tolist()
        who_array = random.integers(0, number, count)
        who = who_array.tolist()
        what = random.choice(len(kinds), count, p=kind_weights).tolist()
        anybodys = random.choice(CONTENTS, count, p=content_weights)
        own = own_creators[who_array, random.integers(0, OWN_CREATORS, count)]
        # Of the first of a creator's videos most: the square of an even draw.
        place = (random.random(count) ** 2 * sizes[own]).astype(np.int64)
        with_own = (random.random(count) < OWN_SHARE) & (not strangers)
        contents = np.where(with_own, by_creator[firsts[own] + place], anybodys).tolist()
        ids = random.integers(0, 2**63, count).tolist()
        watched = random.gamma(1.5, 0.5, count).tolist()
        repeated = (random.random(count) < REPEATS).tolist()
        keys: list[bytes] = []
        values: list[bytes] = []
        places: list[int] = []
        for index in range(count):
            if repeated[index] and values:
                # The record before it once more, as after a producer's restart.
                keys.append(keys[-1])
                values.append(values[-1])
                places.append(places[-1])
                continue
            fan, content, trait = who[index], contents[index], traits[who[index]]
            keys.append(fans[fan].encode())
            places.append(homes[fan])
            values.append(
                orjson.dumps(
                    {
                        "event_id": f"{ids[index]:016x}",
                        "event_time": times[index],
                        "platform": "kuaishou" if content % 3 == 0 else "douyin",
                        "fan_id": fans[fan],
                        "creator_id": f"c{creator_of[content]:05d}",
                        **(_traits(trait) if trait % KNOWN == 0 else {}),
                        "kind": kinds[what[index]],
                        **_detail(kinds[what[index]], content, durations[content], watched[index], trait),
                    }
                )
            )
        yield Chunk(keys, values, places)


def _traits(trait: int) -> dict[str, str]:
    """What the platform tells of a fan."""
    return {
        "region": _REGIONS[trait // KNOWN % 10],
        "age_band": _AGES[trait // KNOWN % 5],
        "interest": _INTERESTS[trait // KNOWN % 6],
        "device": _DEVICES[trait // KNOWN % 2],
    }


def _detail(kind: str, content: int, duration: int, watched: float, trait: int) -> dict[str, str | int]:
    """Fields of one kind of event."""
    video, room, source = f"v{content:07d}", f"l{content % 40:05d}", _SOURCES[trait % 6]
    if kind == "view":
        return {"content_id": video, "watch_ms": int(watched * duration), "duration_ms": duration, "source": source}
    if kind in ("like", "share", "favorite", "follow", "unfollow", "profile_visit"):
        return {"content_id": video, "source": source}
    if kind == "comment":
        return {"content_id": video, "text": _TEXTS[trait % 6]}
    if kind == "live_leave":
        return {"live_id": room, "stay_ms": int(watched * 60_000)}
    if kind == "live_comment":
        return {"live_id": room, "text": _TEXTS[trait % 6]}
    if kind in ("live_enter", "live_like"):
        return {"live_id": room}
    if kind in ("product_exposure", "product_click"):
        return {"product_id": f"p{content % 300:05d}", "content_id": video}
    if kind == "group_message":
        return {"group_id": f"g{content % 100:04d}", "text": _TEXTS[trait % 6]}
    if kind == "group_checkin":
        return {"group_id": f"g{content % 100:04d}"}
    return {"text": _TEXTS[trait % 6]}


def _weights(number: int) -> npt.NDArray[np.float64]:
    weights: npt.NDArray[np.float64] = 1.0 / np.arange(1, number + 1)
    return weights / np.sum(weights)
