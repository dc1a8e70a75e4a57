"""Fans of creators with lives full of edges, and what the definition of lifecycle says of them: slow and plain."""

from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from random import Random
from typing import Any
from zoneinfo import ZoneInfo

from rig import DAY

EPOCH = date(1970, 1, 1)
INTERACTIONS = ("view", "like", "comment", "live_enter", "follow")
OTHERS = {"gifts": ("gift",), "orders": ("placed", "refunded"), "ad_events": ("impression", "click")}


@dataclass(frozen=True)
class Rules:
    """What stages hang on."""

    zone: str = "Asia/Shanghai"
    interval: int = 7
    churn_after: int = 30
    no_activity: tuple[str, ...] = ("impression", "refunded", "unfollow")


@dataclass
class Pair:
    """A fan of a creator: events as (UTC ms, kind), and the local day that its partition has reached (None: none)."""

    partition: int
    platform: str
    creator_id: str
    fan: int
    as_of: date | None
    events: list[tuple[int, str]] = field(default_factory=list)

    @property
    def key(self) -> tuple[int, str, str, int]:
        return self.partition, self.platform, self.creator_id, self.fan


def local_date(at: int, zone: str) -> date:
    return datetime.fromtimestamp(at / 1000, ZoneInfo(zone)).date()


def beginning(day: date, zone: str) -> int:
    """The first moment of a local date, UTC ms: found by halving, since clocks may be put forward at midnight."""
    low = ((day - EPOCH).days - 2) * DAY
    high = low + 4 * DAY
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if local_date(middle, zone) < day else (low, middle)
    return high


def expected_state(pair: Pair, rules: Rules) -> tuple[Any, ...] | None:
    """first_at, days, firsts, lasts, unfollows (UTC ms, 0: none), of the last 64 days; None without any."""
    actions = [at for at, kind in pair.events if kind not in rules.no_activity]
    unfollows = [at for at, kind in pair.events if kind == "unfollow"]
    if not actions and not unfollows:
        return None
    rows = []
    for day in sorted({local_date(at, rules.zone) for at in actions + unfollows}):
        own = [at for at in actions if local_date(at, rules.zone) == day]
        left = [at for at in unfollows if local_date(at, rules.zone) == day]
        if pair.as_of is None or day >= pair.as_of - timedelta(days=63):
            rows.append((day, min(own, default=0), max(own, default=0), max(left, default=0)))
    return min(actions, default=0), *([row[place] for row in rows] for place in range(4))


def stage(day: date, active: set[date], left: bool, rules: Rules) -> str:
    """The stage as of a day, by these active days."""
    if not active:
        return "none"
    gap = (day - max(active)).days
    if left or gap >= rules.churn_after:
        return "churned"
    if gap >= rules.interval:
        return "silent"
    if (day - min(active)).days < rules.interval:
        return "new"
    before = [day - timedelta(days=back) for back in range(rules.interval, 2 * rules.interval)]
    return "retained" if any(each in active for each in before) else "active"


def expected_moves(pair: Pair, rules: Rules) -> list[tuple[Any, ...]]:
    """(day, step, from, to, at in UTC ms, reason, resurrected) of all moves: day after day, each from all events."""
    actions = [at for at, kind in pair.events if kind not in rules.no_activity]
    unfollows = [at for at, kind in pair.events if kind == "unfollow"]
    if not actions:
        return []
    dates = {at: local_date(at, rules.zone) for at in actions + unfollows}

    def left(day: date) -> bool:
        gone = [at for at in unfollows if dates[at] <= day]
        return bool(gone) and not any(at > max(gone) for at in actions if dates[at] <= day)

    moves, now = [], "none"
    day = min(dates[at] for at in actions)
    last = max([*dates.values(), *([pair.as_of] if pair.as_of else [])])
    while day <= last:
        yesterday = day - timedelta(days=1)
        before = {dates[at] for at in actions if dates[at] < day}
        then = stage(day, before, left(yesterday), rules)
        if then != now:
            reason = "absent" if then in ("silent", "churned") else "aged" if now == "new" else "faded"
            moves.append((day, 0, now, then, beginning(day, rules.zone), reason, 0))
            now = then
        own = [at for at in actions if dates[at] == day]
        then = stage(day, before | {day}, False, rules) if own else now
        if then != now:
            reason = "arrived" if now == "none" else "returned"
            back = reason == "returned" and (day - max(before)).days >= rules.interval
            moves.append((day, 1, now, then, min(own), reason, int(back)))
            now = then
        gone = [at for at in unfollows if dates[at] == day]
        if gone and left(day) and now != "churned":
            moves.append((day, 2, now, "churned", max(gone), "unfollowed", 0))
            now = "churned"
        day += timedelta(days=1)
    return moves


def made_pairs(rng: Random, rules: Rules, last: date, count: int) -> list[Pair]:
    """Pairs that act on days whose distances lie at and beside the edges, unfollow before, at and after actions, and
    leave and return; their partitions have reached days before and after their last events."""
    interval, churn = rules.interval, rules.churn_after
    gaps = [1, 1, 1, 2, interval, 2 * interval, churn, 64]
    gaps += [max(gap + off, 1) for gap in (interval, 2 * interval, churn) for off in (-1, 1)]
    active = [*INTERACTIONS, *(kind for kinds in OTHERS.values() for kind in kinds)]
    reached = {partition: last - timedelta(days=rng.choice((0, 1, 5, 90))) for partition in range(1, 4)}
    pairs = []
    for number in range(count):
        partition = number % 4
        pair = Pair(partition, rng.choice(("douyin", "kuaishou")), f"c{number % 5}", 2**64 - 1 - number // 2, None)
        if partition:
            pair.as_of = reached[partition]
        day = last - timedelta(days=rng.choice((0, 1, rng.randrange(150))))
        for _ in range(rng.choice((1, 1, 2, 5, 12))):
            start = beginning(day, rules.zone)
            end = beginning(day + timedelta(days=1), rules.zone)
            times = [
                rng.choice((start, end - 1, rng.randrange(start, end))) for _ in range(rng.choice((0, 1, 1, 2, 3)))
            ]
            pair.events += [(at, rng.choice(active)) for at in times]
            if rng.random() < 0.25:
                at = rng.choice([*times, start, end - 1]) + rng.choice((-1, 0, 0, 1))
                pair.events.append((at, "unfollow"))
            day -= timedelta(days=rng.choice(gaps))
        rng.shuffle(pair.events)
        if pair.events:
            pairs.append(pair)
    return pairs
